//! `template_clone`: guests that are to be made from a template.
//!
//! What is wanted is the API's; how it goes ([`CloneProgress`]) is the operator's.

use diesel::prelude::*;

use crate::revision::{self, Changes, Followed, Table};
use crate::sql::{self, Sql};
use crate::tables::template_clone;
use crate::words::words;
use crate::{
    CloneId, ClusterId, Conn, DbError, Flag, NodeId, Revision, TemplateId, Timestamp, UploadId,
};

words! {
    /// `pending → cloning → completed | failed`.
    pub enum CloneStatus {
        Pending = "pending",
        Cloning = "cloning",
        Completed = "completed",
        Failed = "failed",
    }
}

impl CloneStatus {
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

/// One row.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
#[diesel(table_name = template_clone)]
pub struct CloneRow {
    pub id: CloneId,
    pub template_id: TemplateId,
    pub upload_id: UploadId,
    pub cluster_id: ClusterId,
    /// Where the guest shall be.
    pub node_id: NodeId,
    pub node_name: String,
    pub guest_name: String,
    /// A copy that does not depend on the template.
    pub is_full: Flag,
    pub storage_name: Option<String>,
    pub cores: Option<i32>,
    pub memory_mb: Option<i32>,
    pub is_started: Flag,
    #[diesel(embed)]
    pub told: CloneProgress,
    pub revision: Revision,
    pub gmt_create: Timestamp,
    pub gmt_modified: Timestamp,
    pub creator: Option<String>,
}

/// What the operator writes.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
#[diesel(table_name = template_clone)]
pub struct CloneProgress {
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub status: CloneStatus,
    /// 0 until one is reserved.
    pub vmid: i64,
    /// The template's guest that it is made from.
    pub source_vmid: i64,
    pub step: Option<String>,
    /// The task of PVE that we wait for.
    pub upid: Option<String>,
    /// When PVE was asked to clone; it may have begun although the answer was lost.
    pub asked_at: Option<Timestamp>,
    pub error_message: Option<String>,
}

/// A guest that is wanted.
#[derive(Clone, Debug)]
pub struct NewClone<'a> {
    pub template_id: TemplateId,
    pub upload_id: UploadId,
    pub cluster_id: ClusterId,
    pub node_id: NodeId,
    pub node_name: &'a str,
    pub guest_name: &'a str,
    pub is_full: bool,
    pub storage_name: Option<&'a str>,
    pub cores: Option<i32>,
    pub memory_mb: Option<i32>,
    pub is_started: bool,
    pub creator: Option<&'a str>,
}

/// Asks for a guest.
///
/// Call it within [`crate::Db::write`].
pub async fn insert(conn: &mut Conn, new: &NewClone<'_>) -> Result<CloneId, DbError> {
    let revision = revision::raise(conn, Table::Clone).await?;
    let row = Sql::insert(
        "template_clone",
        [
            ("template_id", new.template_id.into()),
            ("upload_id", new.upload_id.into()),
            ("cluster_id", new.cluster_id.into()),
            ("node_id", new.node_id.into()),
            ("node_name", new.node_name.into()),
            ("guest_name", new.guest_name.into()),
            ("is_full", Flag(new.is_full).into()),
            ("storage_name", new.storage_name.into()),
            ("cores", new.cores.into()),
            ("memory_mb", new.memory_mb.into()),
            ("is_started", Flag(new.is_started).into()),
            ("status", CloneStatus::Pending.into()),
            ("revision", revision.into()),
            ("creator", new.creator.into()),
        ],
    );
    Ok(CloneId(sql::insert(conn, row).await?))
}

/// One clone.
pub async fn get(conn: &mut Conn, id: CloneId) -> Result<Option<CloneRow>, DbError> {
    sql::first(conn, &Sql::new("SELECT * FROM template_clone WHERE id = ").bind(id)).await
}

/// Those that are not over.
pub async fn load_unfinished(conn: &mut Conn) -> Result<Vec<CloneRow>, DbError> {
    let rows = Sql::new("SELECT * FROM template_clone WHERE status IN ")
        .list([CloneStatus::Pending, CloneStatus::Cloning])
        .push(" ORDER BY id");
    sql::fetch(conn, &rows).await
}

/// Writes how it goes.
///
/// Call it within [`crate::Db::write`].
pub async fn record(conn: &mut Conn, id: CloneId, told: &CloneProgress) -> Result<(), DbError> {
    let revision = revision::raise(conn, Table::Clone).await?;
    let row = Sql::update(
        "template_clone",
        [
            ("status", told.status.into()),
            ("vmid", told.vmid.into()),
            ("source_vmid", told.source_vmid.into()),
            ("step", (&told.step).into()),
            ("upid", (&told.upid).into()),
            ("asked_at", told.asked_at.into()),
            ("error_message", (&told.error_message).into()),
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
) -> Result<Changes<CloneRow>, DbError> {
    revision::changes(conn, Table::Clone, since, limit).await
}

impl Followed for CloneRow {
    fn id(&self) -> i64 {
        self.id.0
    }

    fn revision(&self) -> Revision {
        self.revision
    }
}
