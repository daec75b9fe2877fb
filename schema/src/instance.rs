//! `template_instance`: a version of a template on one node, and how far it has come.
//!
//! What is wanted is the API's: which node and storage, `desired`, and `generation`, which a retry
//! raises. Everything else ([`Progress`]) is the operator's, and holds all that it must know after
//! a crash: the VMID it reserved, the file it staged, what it asked PVE for.
//!
//! On shared storage there is one guest. The primary instance makes it; the others follow.

use diesel::prelude::*;

use crate::revision::{self, Changes, Followed, Table};
use crate::sql::{self, Sql};
use crate::tables::template_instance;
use crate::words::words;
use crate::{
    ClusterId, Conn, DbError, Flag, InstanceId, NodeId, Revision, StorageId, SyncTaskId,
    TemplateId, Timestamp, UploadId,
};

words! {
    /// What people want of an instance.
    pub enum Desired {
        Available = "available",
        /// Stop what is going on and clean up; the row stays.
        Cancelled = "cancelled",
        /// The guest and its files are to go, then the row.
        Absent = "absent",
    }
}

words! {
    /// `pending → syncing → available | failed → deleting → deleted`.
    pub enum InstanceStatus {
        Pending = "pending",
        Syncing = "syncing",
        Available = "available",
        Failed = "failed",
        Deleting = "deleting",
        Deleted = "deleted",
    }
}

impl InstanceStatus {
    /// Whether the picture has an arrow from here to `to`. A retry leads back to `pending`.
    pub fn may_become(self, to: Self) -> bool {
        use InstanceStatus::{Available, Deleted, Deleting, Failed, Pending, Syncing};
        match self {
            Pending => matches!(to, Syncing | Available | Failed | Deleting | Deleted),
            Syncing => matches!(to, Pending | Available | Failed | Deleting),
            Available => matches!(to, Failed | Deleting | Pending),
            Failed => matches!(to, Pending | Syncing | Available | Deleting | Deleted),
            Deleting => matches!(to, Deleted),
            Deleted => false,
        }
    }
}

/// One row.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
#[diesel(table_name = template_instance)]
pub struct InstanceRow {
    pub id: InstanceId,
    pub template_id: TemplateId,
    pub upload_id: UploadId,
    pub cluster_id: ClusterId,
    pub node_id: NodeId,
    pub node_name: String,
    pub storage_id: Option<StorageId>,
    pub storage_name: String,
    pub is_shared: Flag,
    pub is_primary: Flag,
    /// None for the node that imports first.
    pub sync_task_id: Option<SyncTaskId>,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub desired: Desired,
    /// Raised by whoever wants it tried again.
    pub generation: i64,
    #[diesel(embed)]
    pub told: Progress,
    pub revision: Revision,
    /// 0 while it is live.
    pub deleted_id: i64,
    pub gmt_create: Timestamp,
    pub gmt_modified: Timestamp,
    pub creator: Option<String>,
    pub modifier: Option<String>,
}

/// What the operator writes.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
#[diesel(table_name = template_instance)]
pub struct Progress {
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub status: InstanceStatus,
    /// 0 until one is reserved.
    pub vmid: i64,
    /// The disk of the template, for example `local:9000/base-9000-disk-0.qcow2`.
    pub volume_id: Option<String>,
    pub error_message: Option<String>,
    /// What holds it until somebody does something.
    pub blocked_reason: Option<String>,
    /// The generation that all this is about.
    pub observed_generation: i64,
    /// How often it was started; a retry starts it again.
    pub attempt: i32,
    /// How many tries of this attempt failed in a row.
    pub failures: i32,
    /// What is being done, for people; what comes next is decided by looking.
    pub step: Option<String>,
    /// 0 to 100, never falling within an attempt.
    pub progress: i32,
    pub bytes_done: i64,
    pub bytes_total: Option<i64>,
    /// Where the image is staged on the node.
    pub staging_storage: Option<String>,
    /// Its name there.
    pub staged_file: Option<String>,
    /// The task of PVE that we wait for.
    pub upid: Option<String>,
    /// The act that was asked for and whose task is not known: PVE may have begun it.
    pub asked: Option<String>,
    pub asked_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
}

/// One instance, deleted ones too.
pub async fn get(conn: &mut Conn, id: InstanceId) -> Result<Option<InstanceRow>, DbError> {
    sql::first(conn, &Sql::new("SELECT * FROM template_instance WHERE id = ").bind(id)).await
}

/// All live instances.
pub async fn load(conn: &mut Conn) -> Result<Vec<InstanceRow>, DbError> {
    let rows = Sql::new("SELECT * FROM template_instance WHERE deleted_id = 0 ORDER BY id");
    sql::fetch(conn, &rows).await
}

/// The live instances of a template, the primary of each version first.
pub async fn of_template(conn: &mut Conn, id: TemplateId) -> Result<Vec<InstanceRow>, DbError> {
    let rows = Sql::new("SELECT * FROM template_instance WHERE deleted_id = 0 AND template_id = ")
        .bind(id)
        .push(" ORDER BY upload_id DESC, is_primary DESC, id");
    sql::fetch(conn, &rows).await
}

/// The live instances of one upload, the primary first.
pub async fn of_upload(conn: &mut Conn, id: UploadId) -> Result<Vec<InstanceRow>, DbError> {
    let rows = Sql::new("SELECT * FROM template_instance WHERE deleted_id = 0 AND upload_id = ")
        .bind(id)
        .push(" ORDER BY is_primary DESC, id");
    sql::fetch(conn, &rows).await
}

/// Writes how far it has come; a deleted one becomes invisible to lists.
///
/// Call it within [`crate::Db::write`].
pub async fn record(conn: &mut Conn, id: InstanceId, told: &Progress) -> Result<(), DbError> {
    let revision = revision::raise(conn, Table::Instance).await?;
    let deleted_id = if told.status == InstanceStatus::Deleted { id.0 } else { 0 };
    let row = Sql::update(
        "template_instance",
        [
            ("status", told.status.into()),
            ("vmid", told.vmid.into()),
            ("volume_id", (&told.volume_id).into()),
            ("error_message", (&told.error_message).into()),
            ("blocked_reason", (&told.blocked_reason).into()),
            ("observed_generation", told.observed_generation.into()),
            ("attempt", told.attempt.into()),
            ("failures", told.failures.into()),
            ("step", (&told.step).into()),
            ("progress", told.progress.into()),
            ("bytes_done", told.bytes_done.into()),
            ("bytes_total", told.bytes_total.into()),
            ("staging_storage", (&told.staging_storage).into()),
            ("staged_file", (&told.staged_file).into()),
            ("upid", (&told.upid).into()),
            ("asked", (&told.asked).into()),
            ("asked_at", told.asked_at.into()),
            ("started_at", told.started_at.into()),
            ("ended_at", told.ended_at.into()),
            ("deleted_id", deleted_id.into()),
            ("revision", revision.into()),
            ("gmt_modified", crate::now().into()),
        ],
    );
    sql::execute(conn, &row.push(" WHERE deleted_id = 0 AND id = ").bind(id)).await.map(drop)
}

/// What changed after `since`, deleted rows too: see [`revision`].
///
/// # Errors
///
/// [`DbError::Expired`] if deletes after `since` were forgotten: list again.
pub async fn changes_since(
    conn: &mut Conn,
    since: Revision,
    limit: u32,
) -> Result<Changes<InstanceRow>, DbError> {
    revision::changes(conn, Table::Instance, since, limit).await
}

impl Followed for InstanceRow {
    fn id(&self) -> i64 {
        self.id.0
    }

    fn revision(&self) -> Revision {
        self.revision
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delete_is_never_taken_back() {
        for &to in InstanceStatus::ALL {
            assert!(!InstanceStatus::Deleted.may_become(to), "{to}");
            assert_eq!(
                InstanceStatus::Deleting.may_become(to),
                to == InstanceStatus::Deleted,
                "{to}"
            );
        }
    }
}
