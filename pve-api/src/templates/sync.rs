//! `POST /templates/{id}/sync`: a template on further nodes.

use axum::extract::State;
use schema::instance::{Desired, InstanceRow, InstanceStatus};
use schema::template_view::{self, TemplateView};
use schema::upload::UploadRow;
use schema::{Conn, DbError, NodeId, TemplateId, template_wish};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::no_such_template;
use super::placement::{self, Kind};
use super::views::TargetView;
use super::world;
use crate::Api;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::envelope::Answer;
use crate::error::{ApiError, Refusal};
use crate::path::Id;
use crate::query::Params;
use crate::read::write;
use crate::trail::Trail;

/// Which nodes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Targets {
    target_node_ids: Vec<i64>,
}

/// The tasks, in the order in which the nodes were named.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SyncView {
    sync_tasks: Vec<TargetView>,
}

const MOST_NODES: usize = 1000;

/// `POST /templates/{id}/sync`: one task per node, however often it is asked for. What failed or was
/// cancelled there is tried again.
pub(super) async fn sync(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id,
    Params(()): Params<()>,
    JsonBody(targets): JsonBody<Targets>,
) -> Result<Answer<SyncView>, ApiError> {
    let ids = ids(&targets.target_node_ids)?;
    let id = TemplateId(id);
    let trail = Trail::new(caller, "template.sync", "template", Some(id.to_string()));
    let outcome = write(&api.db, async |conn: &mut Conn| bring(conn, &trail, id, &ids).await).await;
    let outcome = match outcome {
        Ok(Some(Ok(sync_tasks))) => Ok(SyncView { sync_tasks }),
        Ok(Some(Err(refusal))) => Err(refusal.into()),
        Ok(None) => Err(no_such_template(id)),
        Err(error) => Err(error),
    };
    trail.told(&api, outcome).await.map(Answer)
}

fn ids(numbers: &[i64]) -> Result<Vec<NodeId>, ApiError> {
    const FIELD: &str = "target_node_ids";
    if numbers.is_empty() || numbers.len() > MOST_NODES {
        let message = format!("{FIELD} names {} nodes; name 1 to {MOST_NODES}", numbers.len());
        return Err(ApiError::invalid(FIELD, message));
    }
    if let Some(wrong) = numbers.iter().find(|id| **id < 1) {
        let message = format!("{FIELD} holds {wrong}; ids of nodes are whole numbers from 1");
        return Err(ApiError::invalid(FIELD, message));
    }
    let mut ids = Vec::with_capacity(numbers.len());
    for id in numbers.iter().copied().map(NodeId) {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// Looks, decides, writes, and reads what it has become; `None` if there is no such template.
async fn bring(
    conn: &mut Conn,
    trail: &Trail,
    id: TemplateId,
    ids: &[NodeId],
) -> Result<Option<Result<Vec<TargetView>, Refusal>>, DbError> {
    let Some(view) = template_view::template(conn, id).await? else { return Ok(None) };
    let Some(upload) = view.upload.clone() else { return Ok(None) };
    let trail = trail.named(&view.template.template_name, Some(&view.cluster_name));
    let instances = schema::instance::of_upload(conn, upload.id).await?;
    let steps = match plan(&view, &upload, &instances, ids) {
        Ok(steps) => steps,
        Err(refusal) => return Ok(Some(Err(refusal))),
    };
    let new: Vec<_> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Add(node) => Some(*node),
            Step::Keep(_) | Step::Again(_) => None,
        })
        .collect();
    let Some(world) = world::look(conn, view.template.cluster_id).await? else { return Ok(None) };
    let kind = if upload.file_format.as_deref() == Some("ova") { Kind::Ova } else { Kind::Disk };
    let places = placement::importable(&world, kind)
        .and_then(|()| placement::copy_places(&world, &upload.storage_name, &new));
    let places = match places {
        Ok(places) => places,
        Err(refusal) => {
            let field = refusal.field.unwrap_or("target_node_ids");
            return Ok(Some(Err(refusal.of_field(field))));
        }
    };

    let again: Vec<_> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Again(instance) => Some(*instance),
            Step::Keep(_) | Step::Add(_) => None,
        })
        .collect();
    template_wish::want_again(conn, &again, trail.actor()).await?;
    if !places.is_empty() {
        template_wish::add_copies(conn, &upload, &places, trail.actor()).await?;
    }
    if !again.is_empty() || !places.is_empty() {
        trail.done(conn).await?;
    }
    targets(conn, id, &upload, ids).await.map(|targets| Some(Ok(targets)))
}

/// What is to be done for one node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step<'a> {
    /// It has the template, or is getting it.
    Keep(&'a InstanceRow),
    /// It failed, or was cancelled.
    Again(&'a InstanceRow),
    Add(NodeId),
}

/// Pure: a step for each node.
fn plan<'a>(
    view: &TemplateView,
    upload: &UploadRow,
    instances: &'a [InstanceRow],
    ids: &[NodeId],
) -> Result<Vec<Step<'a>>, Refusal> {
    if view.template.status != schema::template::TemplateStatus::Active {
        return Err(Refusal::conflict("deleting", "the template is being deleted"));
    }
    if upload.is_shared.0 {
        let message = format!(
            "the template is on the shared storage `{}`, so every node that has it sees the \
             template; there is nothing to sync",
            upload.storage_name
        );
        return Err(Refusal::conflict("shared_storage", message));
    }
    ids.iter()
        .map(|id| {
            let Some(there) = instances.iter().find(|it| it.node_id == *id) else {
                return Ok(Step::Add(*id));
            };
            match there.desired {
                Desired::Absent => {
                    let message = format!(
                        "the template is being deleted on {}; try again when it is gone",
                        there.node_name
                    );
                    Err(Refusal::conflict("deleting", message).of_field("target_node_ids"))
                }
                Desired::Cancelled => Ok(Step::Again(there)),
                Desired::Available => {
                    let told = &there.told;
                    let failed = told.status == InstanceStatus::Failed
                        && told.observed_generation >= there.generation;
                    Ok(if failed { Step::Again(there) } else { Step::Keep(there) })
                }
            }
        })
        .collect()
}

/// How each node reads now.
async fn targets(
    conn: &mut Conn,
    id: TemplateId,
    upload: &UploadRow,
    ids: &[NodeId],
) -> Result<Vec<TargetView>, DbError> {
    let instances = template_view::instances(conn, id).await?;
    let mut targets = Vec::with_capacity(ids.len());
    for node in ids {
        let there =
            instances.iter().find(|it| it.row.upload_id == upload.id && it.row.node_id == *node);
        let Some(there) = there else { continue };
        targets.push(match there.row.sync_task_id {
            None => TargetView::of_primary(there),
            Some(task) => match template_view::task(conn, task).await? {
                Some(task) => TargetView::of_task(task),
                None => continue,
            },
        });
    }
    Ok(targets)
}
