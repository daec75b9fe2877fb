//! `template_leftover`: what an attempt left on a node and could not remove yet.

use diesel::prelude::*;

use crate::sql::{self, Sql};
use crate::tables::template_leftover;
use crate::words::words;
use crate::{ClusterId, Conn, DbError, InstanceId, Timestamp};

words! {
    pub enum LeftoverKind {
        /// A guest under a VMID that we gave up.
        Guest = "guest",
        /// A staged image.
        File = "file",
    }
}

/// One row.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
#[diesel(table_name = template_leftover)]
pub struct LeftoverRow {
    pub id: i64,
    pub cluster_id: ClusterId,
    /// Whose attempt it was; the row may be gone.
    pub instance_id: InstanceId,
    pub node_name: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub kind: LeftoverKind,
    /// 0 for a file.
    pub vmid: i64,
    /// Empty for a guest.
    pub volume_id: String,
    /// Why it is still there, and what a person can do.
    pub reason: Option<String>,
    pub gmt_create: Timestamp,
    pub gmt_modified: Timestamp,
}

/// Something that is left.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Leftover<'a> {
    pub cluster_id: ClusterId,
    pub instance_id: InstanceId,
    pub node_name: &'a str,
    pub what: Left<'a>,
    pub reason: Option<&'a str>,
}

/// What is left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Left<'a> {
    Guest(i64),
    File(&'a str),
}

/// Remembers it; once is enough.
///
/// Call it within [`crate::Db::write`].
pub async fn remember(conn: &mut Conn, left: &Leftover<'_>) -> Result<(), DbError> {
    let (kind, vmid, volume) = match left.what {
        Left::Guest(vmid) => (LeftoverKind::Guest, vmid, ""),
        Left::File(volume) => (LeftoverKind::File, 0, volume),
    };
    let known = Sql::new("SELECT count(*) AS n FROM template_leftover WHERE cluster_id = ")
        .bind(left.cluster_id)
        .and("instance_id", Some(left.instance_id))
        .and("node_name", Some(left.node_name))
        .and("kind", Some(kind))
        .and("vmid", Some(vmid))
        .and("volume_id", Some(volume));
    if sql::number(conn, &known).await? > 0 {
        return Ok(());
    }
    let row = Sql::insert(
        "template_leftover",
        [
            ("cluster_id", left.cluster_id.into()),
            ("instance_id", left.instance_id.into()),
            ("node_name", left.node_name.into()),
            ("kind", kind.into()),
            ("vmid", vmid.into()),
            ("volume_id", volume.into()),
            ("reason", left.reason.into()),
        ],
    );
    sql::execute(conn, &row).await.map(drop)
}

/// What is left in a cluster, oldest first.
pub async fn of_cluster(conn: &mut Conn, id: ClusterId) -> Result<Vec<LeftoverRow>, DbError> {
    let rows = Sql::new("SELECT * FROM template_leftover WHERE cluster_id = ").bind(id);
    sql::fetch(conn, &rows.push(" ORDER BY id")).await
}

/// Says why it is still there.
pub async fn explain(conn: &mut Conn, id: i64, reason: &str) -> Result<(), DbError> {
    let row = Sql::update(
        "template_leftover",
        [("reason", reason.into()), ("gmt_modified", crate::now().into())],
    );
    sql::execute(conn, &row.push(" WHERE id = ").bind(id)).await.map(drop)
}

/// It is gone.
pub async fn forget(conn: &mut Conn, id: i64) -> Result<(), DbError> {
    let row = Sql::new("DELETE FROM template_leftover WHERE id = ").bind(id);
    sql::execute(conn, &row).await.map(drop)
}
