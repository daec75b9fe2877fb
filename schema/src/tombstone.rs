//! `tombstone`: rows that are gone, for those who follow a table by revision.

use crate::batch::{self, record};
use crate::revision::Table;
use crate::{ClusterId, Conn, DbError, Revision, Timestamp};

/// A row about to be deleted.
#[derive(Clone, Debug)]
pub(crate) struct Grave {
    pub(crate) row_id: i64,
    /// The natural key as text.
    pub(crate) key: String,
}

struct Stone<'a> {
    table_name: &'static str,
    cluster_id: ClusterId,
    grave: &'a Grave,
    revision: Revision,
    now: Timestamp,
}

record!(
    Stone<'_>, tombstone,
    key [id = grave.row_id],
    fixed [
        table_name = table_name, cluster_id = cluster_id, row_id = grave.row_id,
        row_key = grave.key, revision = revision, gmt_create = now,
    ],
    synced [],
);

/// Leaves a tombstone for each of these rows, in the transaction that deletes them.
pub(crate) async fn raise(
    conn: &mut Conn,
    table: Table,
    cluster_id: ClusterId,
    graves: &[Grave],
    revision: Revision,
) -> Result<(), DbError> {
    let now = crate::now();
    let stones: Vec<_> = graves
        .iter()
        .map(|grave| Stone { table_name: table.name(), cluster_id, grave, revision, now })
        .collect();
    batch::insert(conn, &stones).await.map(drop)
}
