//! `template_sync_task`: bringing one version of a template to one node, as the API shows it.
//!
//! A task belongs to one [`crate::instance`]. Which it is, and `generation`, is the API's; how it
//! goes ([`TaskProgress`]) is the operator's, in the transaction that writes the instance.

use diesel::prelude::*;

use crate::revision::{self, Changes, Followed, Table};
use crate::sql::{self, Sql};
use crate::tables::template_sync_task;
use crate::words::words;
use crate::{
    ClusterId, Conn, DbError, NodeId, Revision, SyncTaskId, TemplateId, Timestamp, UploadId,
};

words! {
    /// `pending → syncing → importing → completed | failed | cancelled`; a retry leads to `pending`.
    pub enum TaskStatus {
        Pending = "pending",
        /// The image is on its way to the node.
        Syncing = "syncing",
        /// The node makes the template of it.
        Importing = "importing",
        Completed = "completed",
        Failed = "failed",
        Cancelled = "cancelled",
    }
}

impl TaskStatus {
    /// Whether it is over, until somebody wants it again.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// Whether the picture has an arrow from here to `to`.
    pub fn may_become(self, to: Self) -> bool {
        use TaskStatus::{Cancelled, Completed, Failed, Importing, Pending, Syncing};
        match self {
            Pending => to != Pending,
            Syncing => matches!(to, Pending | Importing | Completed | Failed | Cancelled),
            Importing => matches!(to, Pending | Syncing | Completed | Failed | Cancelled),
            Completed => matches!(to, Failed | Cancelled | Pending),
            Failed | Cancelled => {
                matches!(to, Pending | Syncing | Importing | Completed | Cancelled)
            }
        }
    }
}

/// One row.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
#[diesel(table_name = template_sync_task)]
pub struct SyncTaskRow {
    pub id: SyncTaskId,
    pub template_id: TemplateId,
    pub upload_id: UploadId,
    pub cluster_id: ClusterId,
    pub source_node_id: Option<NodeId>,
    pub source_node_name: Option<String>,
    pub target_node_id: NodeId,
    pub target_node_name: String,
    pub storage_name: String,
    pub file_path: Option<String>,
    pub file_size: i64,
    /// Raised by whoever wants it tried again.
    pub generation: i64,
    #[diesel(embed)]
    pub told: TaskProgress,
    pub revision: Revision,
    pub gmt_create: Timestamp,
    pub gmt_modified: Timestamp,
    pub creator: Option<String>,
}

/// What the operator writes.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
#[diesel(table_name = template_sync_task)]
pub struct TaskProgress {
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub status: TaskStatus,
    /// 0 to 100, never falling within an attempt.
    pub progress: i32,
    pub step: Option<String>,
    pub bytes_done: i64,
    pub bytes_total: Option<i64>,
    pub sync_start_time: Option<Timestamp>,
    pub sync_end_time: Option<Timestamp>,
    pub error_message: Option<String>,
    pub attempt: i32,
    /// The generation that all this is about.
    pub observed_generation: i64,
}

/// One task.
pub async fn get(conn: &mut Conn, id: SyncTaskId) -> Result<Option<SyncTaskRow>, DbError> {
    sql::first(conn, &Sql::new("SELECT * FROM template_sync_task WHERE id = ").bind(id)).await
}

/// Writes how it goes.
///
/// Call it within [`crate::Db::write`].
pub async fn record(conn: &mut Conn, id: SyncTaskId, told: &TaskProgress) -> Result<(), DbError> {
    let revision = revision::raise(conn, Table::SyncTask).await?;
    let row = Sql::update(
        "template_sync_task",
        [
            ("status", told.status.into()),
            ("progress", told.progress.into()),
            ("step", (&told.step).into()),
            ("bytes_done", told.bytes_done.into()),
            ("bytes_total", told.bytes_total.into()),
            ("sync_start_time", told.sync_start_time.into()),
            ("sync_end_time", told.sync_end_time.into()),
            ("error_message", (&told.error_message).into()),
            ("attempt", told.attempt.into()),
            ("observed_generation", told.observed_generation.into()),
            ("revision", revision.into()),
            ("gmt_modified", crate::now().into()),
        ],
    );
    sql::execute(conn, &row.push(" WHERE id = ").bind(id)).await.map(drop)
}

/// What changed after `since`: see [`revision`].
pub async fn changes_since(
    conn: &mut Conn,
    since: Revision,
    limit: u32,
) -> Result<Changes<SyncTaskRow>, DbError> {
    revision::changes(conn, Table::SyncTask, since, limit).await
}

impl Followed for SyncTaskRow {
    fn id(&self) -> i64 {
        self.id.0
    }

    fn revision(&self) -> Revision {
        self.revision
    }
}
