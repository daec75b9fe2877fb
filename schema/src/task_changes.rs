//! Sync tasks as they are shown, followed by revision.
//!
//! A task reads as what its row, its instance and its template say together; so whoever changes
//! one of those raises the revision of the task too.

use crate::revision::{self, Changes, Followed, Table};
use crate::template_view::{TaskView, shown_task, task_rows};
use crate::{Conn, DbError, Revision, sql, tombstone};

/// Every task, oldest change first, and the deletes that are remembered: those after the revision
/// that comes with it.
///
/// Call it within [`crate::Db::read`], so that all is of one moment.
pub async fn load(conn: &mut Conn) -> Result<(Revision, Changes<TaskView>), DbError> {
    let pruned = revision::pruned(conn, Table::SyncTask).await?;
    let revision = revision::current(conn, Table::SyncTask).await?;
    let rows = task_rows().push(" ORDER BY task.revision, task.id");
    let rows: Vec<TaskView> = sql::fetch(conn, &rows).await?;
    let gone = tombstone::between(conn, Table::SyncTask, pruned, revision).await?;
    Ok((pruned, shown(Changes { rows, gone, revision })))
}

/// What changed after `since`: see [`revision`].
///
/// Call it within [`crate::Db::read`].
///
/// # Errors
///
/// [`DbError::Expired`] if deletes after `since` were forgotten: [`load`] again.
pub async fn since(
    conn: &mut Conn,
    since: Revision,
    limit: u32,
) -> Result<Changes<TaskView>, DbError> {
    let tasks = ("task", &task_rows());
    revision::changes_among(conn, Table::SyncTask, tasks, since, limit).await.map(shown)
}

fn shown(changes: Changes<TaskView>) -> Changes<TaskView> {
    Changes { rows: changes.rows.into_iter().map(shown_task).collect(), ..changes }
}

impl Followed for TaskView {
    fn id(&self) -> i64 {
        self.task.id.0
    }

    fn revision(&self) -> Revision {
        self.task.revision
    }
}
