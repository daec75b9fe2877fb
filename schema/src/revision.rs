//! One counter per table: what changed after a moment, in commit order.
//!
//! The counter's row is locked by the transaction that raises it until it commits, so a lower
//! revision is never seen after a higher one. That lock is also why a transaction raises late
//! and is short, and why tables are raised in the order of [`Table`]: no deadlocks.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::db::on;
use crate::sql::{self, AnyRow, Sql};
use crate::tables::table_revision::dsl;
use crate::tombstone::{self, Tombstone};
use crate::{Conn, DbError, Revision};

/// The tables that can be followed, in the order in which a transaction raises them.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum Table {
    Node,
    Guest,
    Storage,
    Template,
    Upload,
    Instance,
    SyncTask,
    Clone,
}

impl Table {
    pub const ALL: [Self; 8] = [
        Self::Node,
        Self::Guest,
        Self::Storage,
        Self::Template,
        Self::Upload,
        Self::Instance,
        Self::SyncTask,
        Self::Clone,
    ];

    /// The name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "pve_node",
            Self::Guest => "pve_vm",
            Self::Storage => "pve_storage",
            Self::Template => "vm_template",
            Self::Upload => "template_upload",
            Self::Instance => "template_instance",
            Self::SyncTask => "template_sync_task",
            Self::Clone => "template_clone",
        }
    }
}

/// The revision of the last committed change of `table`.
///
/// Ask first and list then: whatever the list has beyond it comes again, nothing is missed.
pub async fn current(conn: &mut Conn, table: Table) -> Result<Revision, DbError> {
    Ok(on!(conn, c => dsl::table_revision.find(table.name()).select(dsl::revision).first(c).await?))
}

/// Takes the next revision of `table`, for the rows that this transaction writes.
pub(crate) async fn raise(conn: &mut Conn, table: Table) -> Result<Revision, DbError> {
    let row = dsl::table_revision.find(table.name());
    on!(conn, c => diesel::update(row).set(dsl::revision.eq(dsl::revision + 1)).execute(c).await?);
    current(conn, table).await
}

/// What changed in a table after a revision.
#[derive(Clone, Debug)]
pub struct Changes<R> {
    /// Rows as they are now, oldest change first.
    pub rows: Vec<R>,
    /// Rows that are gone. A row that was deleted and whose key came back is in both.
    pub gone: Vec<Tombstone>,
    /// Where to go on: everything up to here was told.
    pub revision: Revision,
}

/// How far back `table` is told: what was deleted up to this revision is forgotten.
pub async fn pruned(conn: &mut Conn, table: Table) -> Result<Revision, DbError> {
    Ok(on!(conn, c => dsl::table_revision.find(table.name()).select(dsl::pruned).first(c).await?))
}

/// A row of a table that can be followed.
pub(crate) trait Followed: AnyRow {
    fn id(&self) -> i64;
    fn revision(&self) -> Revision;
}

/// What changed after `since`, in whole transactions: about `limit` rows, more if one
/// transaction wrote more, so that going on after the last revision misses nothing.
pub(crate) async fn changes<R: Followed>(
    conn: &mut Conn,
    table: Table,
    since: Revision,
    limit: u32,
) -> Result<Changes<R>, DbError> {
    let name = table.name();
    let rows = Sql::new(&format!("SELECT {name}.* FROM {name} WHERE 1 = 1"));
    changes_among(conn, table, (name, &rows), since, limit).await
}

/// [`changes`], of rows that are read together with others: a SELECT that goes on with ` AND`, and
/// what it calls the table.
pub(crate) async fn changes_among<R: Followed>(
    conn: &mut Conn,
    table: Table,
    (name, rows): (&str, &Sql<'_>),
    since: Revision,
    limit: u32,
) -> Result<Changes<R>, DbError> {
    let pruned = pruned(conn, table).await?;
    if since < pruned {
        return Err(DbError::Expired { table: table.name(), oldest: pruned.0, asked: since.0 });
    }
    let mut until = current(conn, table).await?;
    let newer = rows
        .clone()
        .push(&format!(" AND {name}.revision > "))
        .bind(since)
        .push(&format!(" ORDER BY {name}.revision, {name}.id"))
        .limit(limit, conn.backend());
    let mut found: Vec<R> = sql::fetch(conn, &newer).await?;
    if let Some(last) = found.last()
        && found.len() >= limit as usize
    {
        until = last.revision();
        let rest = rows
            .clone()
            .push(&format!(" AND {name}.revision = "))
            .bind(until)
            .push(&format!(" AND {name}.id > "))
            .bind(last.id())
            .push(&format!(" ORDER BY {name}.id"));
        found.extend(sql::fetch(conn, &rest).await?);
    }
    let gone = tombstone::between(conn, table, since, until).await?;
    Ok(Changes { rows: found, gone, revision: until })
}
