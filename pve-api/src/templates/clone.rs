//! `POST /templates/{id}/clone` and `GET /templates/clones/{id}`: guests made from a template.

use axum::extract::State;
use schema::template_clone::{self, CloneRow, NewClone};
use schema::{CloneId, Conn, DbError, NodeId, TemplateId, template_view};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::clone_plan::{self, MOST, Wanted};
use super::views::CloneView;
use super::{form, no_such_template, world};
use crate::Api;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::envelope::Answer;
use crate::error::{ApiError, Refusal};
use crate::path::Id;
use crate::query::Params;
use crate::read::{read, write};
use crate::trail::Trail;

/// What guests to make.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CloneBody {
    /// A DNS name; with `count`, its beginning.
    name: String,
    node_id: i64,
    /// Left out: linked where the storage can.
    full: Option<bool>,
    /// For full clones; left out: where the template is.
    storage: Option<String>,
    cores: Option<i64>,
    memory_mb: Option<i64>,
    #[serde(default)]
    start: bool,
    count: Option<usize>,
}

/// The guests that will be made.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ClonesView {
    clones: Vec<CloneView>,
}

/// `POST /templates/{id}/clone`
pub(super) async fn clone(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id,
    Params(()): Params<()>,
    JsonBody(body): JsonBody<CloneBody>,
) -> Result<Answer<ClonesView>, ApiError> {
    let id = TemplateId(id);
    let asked = Asked::parse(&body)?;
    let trail = Trail::new(caller, "template.clone", "template", Some(id.to_string()));
    let make = async |conn: &mut Conn| make(conn, &trail, id, &asked).await;
    let outcome = match write(&api.db, make).await {
        Ok(Some(Ok(rows))) => {
            Ok(ClonesView { clones: rows.into_iter().map(CloneView::new).collect() })
        }
        Ok(Some(Err(refusal))) => Err(refusal.into()),
        Ok(None) => Err(no_such_template(id)),
        Err(error) => Err(error),
    };
    trail.told(&api, outcome).await.map(Answer)
}

/// `GET /templates/clones/{id}`
pub(super) async fn show(
    State(api): State<Api>,
    Id(id): Id,
    Params(()): Params<()>,
) -> Result<Answer<CloneView>, ApiError> {
    let found = async |conn: &mut Conn| template_clone::get(conn, CloneId(id)).await;
    let found = read(&api.db, found).await?;
    let row = found.ok_or_else(|| ApiError::not_found(format!("clone with id {id}")))?;
    Ok(Answer(CloneView::new(row)))
}

/// A body with values that can be.
#[derive(Debug)]
struct Asked {
    wanted: Wanted,
    cores: Option<i32>,
    memory_mb: Option<i32>,
    start: bool,
}

impl Asked {
    fn parse(body: &CloneBody) -> Result<Self, ApiError> {
        let count = body.count.unwrap_or(1);
        if !(1..=MOST).contains(&count) {
            let message = format!("count is {count}; write a whole number from 1 to {MOST}");
            return Err(ApiError::invalid("count", message));
        }
        if body.node_id < 1 {
            let message = format!("node_id is {}; ids are whole numbers from 1", body.node_id);
            return Err(ApiError::invalid("node_id", message));
        }
        Ok(Self {
            wanted: Wanted {
                name: body.name.clone(),
                node_id: NodeId(body.node_id),
                full: body.full,
                storage: body.storage.clone(),
                count,
            },
            cores: body.cores.map(|number| form::cores(&number.to_string())).transpose()?,
            memory_mb: body
                .memory_mb
                .map(|number| form::memory_mb(&number.to_string()))
                .transpose()?,
            start: body.start,
        })
    }
}

/// Looks, decides and writes; `None` if there is no such template.
async fn make(
    conn: &mut Conn,
    trail: &Trail,
    id: TemplateId,
    asked: &Asked,
) -> Result<Option<Result<Vec<CloneRow>, Refusal>>, DbError> {
    let Some(view) = template_view::template(conn, id).await? else { return Ok(None) };
    let cluster_id = view.template.cluster_id;
    let trail = trail.named(&view.template.template_name, Some(&view.cluster_name));
    let Some(world) = world::look(conn, cluster_id).await? else { return Ok(None) };
    let instances = template_view::instances(conn, id).await?;
    let wanted = &asked.wanted;
    let there = template_view::guests_on(conn, wanted.node_id).await?;
    let plan = match clone_plan::plan(&world, &view, &instances, there, wanted) {
        Ok(plan) => plan,
        Err(refusal) => return Ok(Some(Err(refusal))),
    };
    let mut rows = Vec::with_capacity(plan.guest_names.len());
    for guest_name in &plan.guest_names {
        let new = NewClone {
            template_id: id,
            upload_id: plan.upload_id,
            cluster_id,
            node_id: wanted.node_id,
            node_name: &plan.node_name,
            guest_name,
            is_full: plan.is_full,
            storage_name: wanted.storage.as_deref(),
            cores: asked.cores,
            memory_mb: asked.memory_mb,
            is_started: asked.start,
            creator: Some(trail.actor()),
        };
        let made = template_clone::insert(conn, &new).await?;
        rows.extend(template_clone::get(conn, made).await?);
    }
    trail.done(conn).await?;
    Ok(Some(Ok(rows)))
}
