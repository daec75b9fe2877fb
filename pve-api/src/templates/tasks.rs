//! `/templates/sync-tasks`: copies on their way to nodes.

use axum::extract::State;
use schema::instance::{Desired, InstanceRow};
use schema::page::Page;
use schema::sync_task::TaskStatus;
use schema::template_view::{self, TaskFilter};
use schema::{ClusterId, Conn, SyncTaskId, TemplateId, template_wish};
use schemars::JsonSchema;
use serde::Serialize;

use super::views::TaskView;
use super::words;
use crate::Api;
use crate::auth::Caller;
use crate::envelope::{Answer, List};
use crate::error::{ApiError, Refusal};
use crate::path::Id;
use crate::query::{FromQuery, Params, Query};
use crate::read::{ask, read, write};
use crate::trail::Trail;

/// `GET /templates/sync-tasks`: one page of the tasks that pass every filter, newest id first.
pub(super) async fn list(
    State(api): State<Api>,
    Params((page, filter)): Params<(Page, TaskFilter)>,
) -> Result<Answer<List<TaskView>>, ApiError> {
    let list = async |conn: &mut Conn| template_view::list_tasks(conn, &filter, page).await;
    Ok(Answer(List::of(ask(&api.db, list).await?, TaskView::new)))
}

impl FromQuery for TaskFilter {
    fn from_query(query: &mut Query) -> Result<Self, ApiError> {
        Ok(Self {
            template_id: query.number("template_id")?.map(TemplateId),
            cluster_id: query.number("cluster_id")?.map(ClusterId),
            status: query.one_of("status", &words(TaskStatus::ALL, TaskStatus::as_str))?,
        })
    }
}

/// `GET /templates/sync-tasks/{task_id}`
pub(super) async fn show(
    State(api): State<Api>,
    Id(id): Id,
    Params(()): Params<()>,
) -> Result<Answer<TaskView>, ApiError> {
    let id = SyncTaskId(id);
    let task = read(&api.db, async |conn: &mut Conn| template_view::task(conn, id).await).await?;
    Ok(Answer(TaskView::new(task.ok_or_else(|| no_such_task(id))?)))
}

/// `POST /templates/sync-tasks/{task_id}/retry`
pub(super) async fn retry(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id,
    Params(()): Params<()>,
) -> Result<Answer<ChangedTask>, ApiError> {
    change(&api, caller, id, Change::Retry).await
}

/// `POST /templates/sync-tasks/{task_id}/cancel`
pub(super) async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id,
    Params(()): Params<()>,
) -> Result<Answer<ChangedTask>, ApiError> {
    change(&api, caller, id, Change::Cancel).await
}

/// `DELETE /templates/sync-tasks/{task_id}`
pub(super) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id,
    Params(()): Params<()>,
) -> Result<Answer<ChangedTask>, ApiError> {
    change(&api, caller, id, Change::Delete).await
}

/// What is to become of a task.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Change {
    /// From the beginning.
    Retry,
    /// Stopped, whether it runs or not.
    Cancel,
    /// Taken back before it runs.
    Delete,
}

impl Change {
    fn action(self) -> &'static str {
        match self {
            Self::Retry => "sync_task.retry",
            Self::Cancel => "sync_task.cancel",
            Self::Delete => "sync_task.delete",
        }
    }
}

/// What a change comes down to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Act {
    WantAgain,
    WantNoLonger,
    /// It is as it should be.
    Nothing,
}

/// Pure: whether a task that reads as `shown` can be changed.
fn plan(change: Change, shown: TaskStatus, wanted: Desired) -> Result<Act, Refusal> {
    use TaskStatus::{Cancelled, Completed, Failed, Importing, Pending, Syncing};
    if wanted == Desired::Absent {
        let message = "the template is being deleted, and this copy of it with it";
        return Err(Refusal::conflict("deleting", message));
    }
    let refused = |advice: &str| {
        Err(Refusal::conflict("wrong_state", format!("the task is {shown}: {advice}")))
    };
    match (change, shown) {
        (Change::Retry, Failed | Cancelled) => Ok(Act::WantAgain),
        (Change::Retry, Completed) => refused("there is nothing to try again"),
        (Change::Retry, Pending | Syncing | Importing) => {
            refused("only one that failed or was cancelled can be tried again; cancel it first")
        }
        (Change::Cancel, Pending | Syncing | Importing) if wanted == Desired::Cancelled => {
            Ok(Act::Nothing)
        }
        (Change::Cancel, Pending | Syncing | Importing) | (Change::Delete, Pending) => {
            Ok(Act::WantNoLonger)
        }
        (Change::Cancel | Change::Delete, Completed | Failed | Cancelled) => {
            refused("it is over, and only what is pending or runs can be stopped")
        }
        (Change::Delete, Syncing | Importing) => {
            refused("only a pending one can be deleted; POST …/cancel stops one that runs")
        }
    }
}

async fn change(
    api: &Api,
    caller: Caller,
    id: i64,
    change: Change,
) -> Result<Answer<ChangedTask>, ApiError> {
    let id = SyncTaskId(id);
    let trail = Trail::new(caller, change.action(), "sync_task", Some(id.to_string()));
    let outcome = write(&api.db, async |conn: &mut Conn| {
        let Some(task) = template_view::task(conn, id).await? else { return Ok(None) };
        let instance: Option<InstanceRow> = template_view::instance_of_task(conn, id).await?;
        let Some(instance) = instance else {
            let message = "the template of this task was deleted";
            return Ok(Some(Err(Refusal::conflict("deleted", message))));
        };
        let template = task.template_name.as_deref().unwrap_or_default();
        let trail = trail.named(format!("{template} on {}", task.task.target_node_name), None);
        match plan(change, task.task.told.status, instance.desired) {
            Err(refusal) => return Ok(Some(Err(refusal))),
            Ok(Act::Nothing) => return Ok(Some(Ok(task.task.told.status))),
            Ok(Act::WantAgain) => {
                template_wish::want_again(conn, &[&instance], trail.actor()).await?;
            }
            Ok(Act::WantNoLonger) => template_wish::cancel(conn, &instance, trail.actor()).await?,
        }
        trail.done(conn).await?;
        let now = template_view::task(conn, id).await?;
        Ok(now.map(|now| Ok(now.task.told.status)))
    });
    let outcome = match outcome.await {
        Ok(Some(Ok(status))) => Ok(ChangedTask { task_id: id.0, status: status.as_str() }),
        Ok(Some(Err(refusal))) => Err(refusal.into()),
        Ok(None) => Err(no_such_task(id)),
        Err(error) => Err(error),
    };
    trail.told(api, outcome).await.map(Answer)
}

/// A task, and how it reads now.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ChangedTask {
    task_id: i64,
    #[schemars(extend("enum" = crate::view::words(TaskStatus::ALL, TaskStatus::as_str)))]
    status: &'static str,
}

fn no_such_task(id: SyncTaskId) -> ApiError {
    ApiError::not_found(format!("sync task with id {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_failed_or_was_cancelled_is_tried_again() {
        for &shown in TaskStatus::ALL {
            let planned = plan(Change::Retry, shown, Desired::Available);
            let over = matches!(shown, TaskStatus::Failed | TaskStatus::Cancelled);
            assert_eq!(planned.is_ok(), over, "{shown}");
        }
    }

    #[test]
    fn what_runs_can_be_cancelled_and_only_what_is_pending_be_deleted() {
        for &shown in TaskStatus::ALL {
            let cancelled = plan(Change::Cancel, shown, Desired::Available);
            assert_eq!(cancelled.is_ok(), !shown.is_final(), "{shown}");
            let deleted = plan(Change::Delete, shown, Desired::Available);
            assert_eq!(deleted.is_ok(), shown == TaskStatus::Pending, "{shown}");
        }
    }

    #[test]
    fn what_is_being_cancelled_is_not_cancelled_twice() {
        let again = plan(Change::Cancel, TaskStatus::Syncing, Desired::Cancelled);
        assert_eq!(again, Ok(Act::Nothing));
    }

    #[test]
    fn nothing_changes_in_a_template_that_goes() {
        for change in [Change::Retry, Change::Cancel, Change::Delete] {
            for &shown in TaskStatus::ALL {
                let refusal = plan(change, shown, Desired::Absent).unwrap_err();
                assert_eq!(refusal.reason, "deleting");
            }
        }
    }
}
