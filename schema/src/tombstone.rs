//! `tombstone`: rows that are gone, for those who follow a table by revision.

use std::time::Duration;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::batch::{self, record};
use crate::db::on;
use crate::revision::Table;
use crate::sql::{self, Sql};
use crate::tables::{table_revision, tombstone};
use crate::{ClusterId, Conn, DbError, Revision, Timestamp};

/// A row that was deleted.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
#[diesel(table_name = tombstone)]
pub struct Tombstone {
    pub cluster_id: ClusterId,
    /// The id that it had; it never comes back.
    pub row_id: i64,
    /// Its natural key: a VMID, or `node/storage`.
    pub row_key: String,
    pub revision: Revision,
}

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

/// What was deleted after `since` and until `until`, oldest first.
pub(crate) async fn between(
    conn: &mut Conn,
    table: Table,
    since: Revision,
    until: Revision,
) -> Result<Vec<Tombstone>, DbError> {
    let stones = Sql::new("SELECT * FROM tombstone WHERE table_name = ")
        .bind(table.name())
        .push(" AND revision > ")
        .bind(since)
        .push(" AND revision <= ")
        .bind(until);
    sql::fetch(conn, &stones.push(" ORDER BY id")).await
}

/// Forgets deletes that are older than `age`, and says how many. Whoever has not read them yet
/// gets [`DbError::Expired`] and lists again.
///
/// Call it within [`crate::Db::write`].
pub async fn prune(conn: &mut Conn, table: Table, age: Duration) -> Result<u64, DbError> {
    let age = chrono::Duration::from_std(age).unwrap_or(chrono::Duration::MAX);
    let Some(before) = crate::now().checked_sub_signed(age) else {
        return Ok(0);
    };
    let newest = tombstone::table
        .filter(tombstone::table_name.eq(table.name()))
        .filter(tombstone::gmt_create.lt(before))
        .select(diesel::dsl::max(tombstone::revision));
    let newest: Option<Revision> = on!(conn, c => newest.first(c).await?);
    let Some(newest) = newest else {
        return Ok(0);
    };
    let row = table_revision::table
        .filter(table_revision::table_name.eq(table.name()))
        .filter(table_revision::pruned.lt(newest));
    on!(conn, c => diesel::update(row)
        .set(table_revision::pruned.eq(newest))
        .execute(c)
        .await?);
    let old = tombstone::table
        .filter(tombstone::table_name.eq(table.name()))
        .filter(tombstone::revision.le(newest));
    Ok(on!(conn, c => diesel::delete(old).execute(c).await?) as u64)
}
