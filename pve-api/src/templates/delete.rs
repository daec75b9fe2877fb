//! `DELETE /templates/{id}`: forgets a template, or takes it away with all its guests.

use axum::extract::State;
use schema::instance::{self, InstanceRow, InstanceStatus};
use schema::template::{Desired, TemplateRow, TemplateStatus};
use schema::{Conn, TemplateId, template_view, template_wish};
use schemars::JsonSchema;
use serde::Serialize;

use super::no_such_template;
use crate::Api;
use crate::auth::Caller;
use crate::envelope::Answer;
use crate::error::{ApiError, Refusal};
use crate::path::Id;
use crate::query::{FromQuery, Params, Query};
use crate::read::write;
use crate::trail::Trail;

impl FromQuery for Mode {
    fn from_query(query: &mut Query) -> Result<Self, ApiError> {
        let cascade = query.flag("cascade")?.unwrap_or_default();
        Ok(if cascade { Self::Cascade } else { Self::Soft })
    }
}

/// `DELETE /templates/{id}`: rows only; with `cascade=true` the guests on all nodes too, and then
/// the template reads as `deleting` until PVE has confirmed each.
pub(super) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id,
    Params(mode): Params<Mode>,
) -> Result<Answer<DeletedView>, ApiError> {
    let id = TemplateId(id);
    let action = match mode {
        Mode::Cascade => "template.delete_cascade",
        Mode::Soft => "template.delete",
    };
    let trail = Trail::new(caller, action, "template", Some(id.to_string()));
    let outcome = write(&api.db, async |conn: &mut Conn| {
        let Some(view) = template_view::template(conn, id).await? else { return Ok(None) };
        let instances = instance::of_template(conn, id).await?;
        let trail = trail.named(&view.template.template_name, Some(&view.cluster_name));
        let status = match plan(mode, &view.template, &instances) {
            Err(refusal) => return Ok(Some(Err(refusal))),
            Ok(Act::Nothing) => TemplateStatus::Deleting,
            Ok(Act::Retire) => {
                template_wish::retire(conn, id, trail.actor()).await?;
                trail.done(conn).await?;
                TemplateStatus::Deleting
            }
            Ok(Act::Forget) => {
                template_wish::forget(conn, id, trail.actor()).await?;
                trail.done(conn).await?;
                TemplateStatus::Deleted
            }
        };
        Ok(Some(Ok(DeletedView { template_id: id.0, status: status.as_str() })))
    });
    let outcome = match outcome.await {
        Ok(Some(Ok(deleted))) => Ok(deleted),
        Ok(Some(Err(refusal))) => Err(refusal.into()),
        Ok(None) => Err(no_such_template(id)),
        Err(error) => Err(error),
    };
    trail.told(&api, outcome).await.map(Answer)
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Mode {
    Soft,
    Cascade,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Act {
    /// The operator takes everything away.
    Retire,
    /// Rows only.
    Forget,
    /// It goes already.
    Nothing,
}

/// Pure: what a delete comes down to.
fn plan(mode: Mode, template: &TemplateRow, instances: &[InstanceRow]) -> Result<Act, Refusal> {
    let goes = template.desired == Desired::Absent || template.status == TemplateStatus::Deleting;
    match mode {
        Mode::Cascade if goes => Ok(Act::Nothing),
        Mode::Cascade => Ok(Act::Retire),
        Mode::Soft if goes => {
            let message = "the template is being deleted with its guests; its row goes with them";
            Err(Refusal::conflict("deleting", message))
        }
        Mode::Soft => {
            let busy: Vec<_> = instances
                .iter()
                .filter(|it| {
                    matches!(it.told.status, InstanceStatus::Syncing | InstanceStatus::Deleting)
                })
                .map(|it| format!("{} is {}", it.node_name, it.told.status))
                .collect();
            if busy.is_empty() {
                return Ok(Act::Forget);
            }
            let id = template.id;
            let message = format!(
                "work is going on ({}), and would be left half-done: wait, or cancel it (POST \
                 /api/v1/templates/{id}/cancel, /api/v1/templates/sync-tasks/{{task_id}}/cancel), \
                 or delete the guests too with ?cascade=true",
                busy.join(", ")
            );
            Err(Refusal::conflict("busy", message))
        }
    }
}

/// What a template reads as from now on.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DeletedView {
    template_id: i64,
    status: &'static str,
}
