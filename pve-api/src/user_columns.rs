//! `PATCH` of nodes and guests: the columns that people own, and no other.

use axum::extract::State;
use schema::user_change::{self, Change, Changed, GuestChange, NodeChange};
use schema::{ClusterId, Conn, DbError, GuestId, NodeId, TemplateId, guest, node, template};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::Api;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::change::Field;
use crate::envelope::Answer;
use crate::error::{ApiError, Refusal};
use crate::nodes::{NodeView, no_such_node};
use crate::path::Id;
use crate::query::Params;
use crate::read::write;
use crate::text::{line, text};
use crate::trail::Trail;
use crate::view::Moment;
use crate::vms::{GuestView, no_such_guest};

/// What people may change of a node. A field that is left out stays, null clears it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodePatch {
    /// Whether guests may be placed here.
    #[serde(default)]
    #[schemars(with = "bool")]
    is_schedulable: Field<bool>,
    #[serde(default)]
    annotations: Field<String>,
    /// How many guests there may be at most.
    #[serde(default)]
    vm_limit: Field<i32>,
}

impl NodePatch {
    fn change(self) -> Result<NodeChange, ApiError> {
        Ok(NodeChange {
            is_schedulable: self.is_schedulable.never_null("is_schedulable")?,
            annotations: self.annotations.checked(|it| text("annotations", &it))?,
            vm_limit: self.vm_limit.checked(|limit| {
                let message = "vm_limit is a whole number from 0, or null for no limit";
                if limit < 0 { Err(ApiError::invalid("vm_limit", message)) } else { Ok(limit) }
            })?,
        })
    }
}

/// `PATCH /nodes/{id}`
pub(crate) async fn patch_node(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id,
    Params(()): Params<()>,
    JsonBody(patch): JsonBody<NodePatch>,
) -> Result<Answer<NodeView>, ApiError> {
    let change = patch.change()?;
    let trail = Trail::new(caller, "node.change", "node", Some(id.to_string()));
    let id = NodeId(id);
    let changed = write(&api.db, async |conn: &mut Conn| {
        let changed = user_change::of_node(conn, id, &change, trail.actor()).await?;
        let Some(node) = node::get(conn, id).await? else { return Ok(None) };
        if changed == Changed::Written {
            let name = &node.row.synced.node_name;
            trail.named(name, Some(&node.cluster_name)).done(conn).await?;
        }
        Ok(Some(node))
    });
    let outcome = changed.await.and_then(|node| node.ok_or_else(|| no_such_node(id.0)));
    let node = trail.told(&api, outcome).await?;
    Ok(Answer(NodeView::new(node, Moment::now(&api.settings))))
}

/// What people may change of a guest. A field that is left out stays, null clears it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GuestPatch {
    #[serde(default)]
    appid: Field<String>,
    /// The template of this cluster that it was made of.
    #[serde(default)]
    template_id: Field<i64>,
    #[serde(default)]
    descriptions: Field<String>,
}

impl GuestPatch {
    fn change(self) -> Result<GuestChange, ApiError> {
        Ok(GuestChange {
            appid: self.appid.checked(|it| line("appid", &it, 255))?,
            template_id: self.template_id.checked(|id| {
                let message = "template_id is a whole number from 1, or null for none";
                if id < 1 { Err(ApiError::invalid("template_id", message)) } else { Ok(id) }
            })?,
            descriptions: self.descriptions.checked(|it| text("descriptions", &it))?,
        })
    }
}

/// `PATCH /vms/{id}`
pub(crate) async fn patch_guest(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id,
    Params(()): Params<()>,
    JsonBody(patch): JsonBody<GuestPatch>,
) -> Result<Answer<GuestView>, ApiError> {
    let change = patch.change()?;
    let trail = Trail::new(caller, "vm.change", "vm", Some(id.to_string()));
    let id = GuestId(id);
    let changed = write(&api.db, async |conn: &mut Conn| {
        let Some(before) = guest::get(conn, id).await? else { return Ok(None) };
        if let Change::Set(template) = &change.template_id
            && !is_template(conn, TemplateId(*template), before.row.cluster_id).await?
        {
            return Ok(Some(Err(no_such_template(*template, &before.cluster_name))));
        }
        let changed = user_change::of_guest(conn, id, &change, trail.actor()).await?;
        if changed == Changed::Written {
            let (vmid, cluster) = (before.row.synced.vmid, &before.cluster_name);
            trail.named(vmid.to_string(), Some(cluster)).done(conn).await?;
        }
        Ok(guest::get(conn, id).await?.map(Ok))
    });
    let outcome = match changed.await {
        Ok(Some(Ok(guest))) => Ok(guest),
        Ok(Some(Err(refusal))) => Err(refusal.into()),
        Ok(None) => Err(no_such_guest(id.0)),
        Err(error) => Err(error),
    };
    let guest = trail.told(&api, outcome).await?;
    Ok(Answer(GuestView::new(guest, Moment::now(&api.settings))))
}

async fn is_template(conn: &mut Conn, id: TemplateId, of: ClusterId) -> Result<bool, DbError> {
    Ok(template::get(conn, id)
        .await?
        .is_some_and(|template| template.cluster_id == of && template.deleted_id == 0))
}

fn no_such_template(id: i64, cluster: &str) -> Refusal {
    let message = format!("template_id is {id}, and the cluster `{cluster}` has no such template");
    Refusal::impossible("no_such_template", message).of_field("template_id")
}
