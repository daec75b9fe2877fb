//! Many rows in one statement: the one place where the three dialects differ.
//!
//! diesel has no batch insert for asynchronous SQLite and no batch update for any of them. A
//! table says by [`record!`] which columns it binds; [`insert`] and [`update`] do the rest.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::AddAssign;

use diesel::QueryResult;
use diesel::backend::Backend;
use diesel::mysql::Mysql;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sqlite::Sqlite;
use diesel_async::RunQueryDsl;

use crate::db::on;
use crate::sql::There;
use crate::{ClusterId, Conn, DbError, Revision, Timestamp};

/// Rows per statement. SQLite takes 32,766 parameters, and no table of ours has 60 columns.
pub(crate) const CHUNK: usize = 500;

/// What a write really did to rows; an unchanged row is not written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Written {
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
    /// Rows that were as wanted already.
    pub unchanged: u64,
    /// Rows of other tables that followed: guests whose node got an id or another address, and
    /// addresses of deleted guests.
    pub followed: u64,
}

impl Written {
    /// Rows that were inserted, updated or deleted, in all tables.
    pub fn rows(&self) -> u64 {
        self.inserted + self.updated + self.deleted + self.followed
    }
}

impl AddAssign for Written {
    fn add_assign(&mut self, other: Self) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.deleted += other.deleted;
        self.unchanged += other.unchanged;
        self.followed += other.followed;
    }
}

/// The columns of a table that a batch binds.
pub(crate) trait Columns {
    const TABLE: &'static str;
    /// Identify a row when it is updated.
    const KEY: &'static [&'static str];
    /// Written when a row is inserted, never after.
    const FIXED: &'static [&'static str];
    /// Written always.
    const SYNCED: &'static [&'static str];
}

pub(crate) trait Bind<DB: Backend>: Columns {
    fn bind_key<'b>(&'b self, out: AstPass<'_, 'b, DB>) -> QueryResult<()>;
    fn bind_fixed<'b>(&'b self, out: AstPass<'_, 'b, DB>) -> QueryResult<()>;
    fn bind_synced<'b>(&'b self, out: AstPass<'_, 'b, DB>) -> QueryResult<()>;
}

/// A row that goes to any of the three.
pub(crate) trait Record: Bind<Sqlite> + Bind<Mysql> + Bind<Pg> + Send + Sync {}
impl<R: Bind<Sqlite> + Bind<Mysql> + Bind<Pg> + Send + Sync> Record for R {}

/// What the mirror writes into one row: `content` beside what every row has.
#[derive(Debug)]
pub(crate) struct Row<'a, C> {
    pub(crate) id: i64,
    pub(crate) cluster_id: ClusterId,
    pub(crate) content: &'a C,
    pub(crate) revision: Revision,
    pub(crate) now: Timestamp,
}

/// `record!(Type, table, key [id = id], fixed [column = path.to.field, …], synced […])`; the
/// types of the columns come from diesel's `table!`.
macro_rules! record {
    (
        $type:ty, $table:ident, key [$($k:ident = $($kp:ident).+),* $(,)?],
        fixed [$($f:ident = $($fp:ident).+),* $(,)?],
        synced [$($s:ident = $($sp:ident).+),* $(,)?] $(,)?
    ) => {
        impl $crate::batch::Columns for $type {
            const TABLE: &'static str = stringify!($table);
            const KEY: &'static [&'static str] =
                &[$(<$crate::tables::$table::$k as diesel::Column>::NAME),*];
            const FIXED: &'static [&'static str] =
                &[$(<$crate::tables::$table::$f as diesel::Column>::NAME),*];
            const SYNCED: &'static [&'static str] =
                &[$(<$crate::tables::$table::$s as diesel::Column>::NAME),*];
        }
        $crate::batch::record!(@bind diesel::sqlite::Sqlite, $type, $table,
            [$($k = $($kp).+),*] [$($f = $($fp).+),*] [$($s = $($sp).+),*]);
        $crate::batch::record!(@bind diesel::mysql::Mysql, $type, $table,
            [$($k = $($kp).+),*] [$($f = $($fp).+),*] [$($s = $($sp).+),*]);
        $crate::batch::record!(@bind diesel::pg::Pg, $type, $table,
            [$($k = $($kp).+),*] [$($f = $($fp).+),*] [$($s = $($sp).+),*]);
    };
    (
        @bind $db:ty, $type:ty, $table:ident,
        [$($k:ident = $($kp:ident).+),*] [$($f:ident = $($fp:ident).+),*]
        [$($s:ident = $($sp:ident).+),*]
    ) => {
        impl $crate::batch::Bind<$db> for $type {
            $crate::batch::record!(@fn bind_key, $db, $table, $($k = $($kp).+),*);
            $crate::batch::record!(@fn bind_fixed, $db, $table, $($f = $($fp).+),*);
            $crate::batch::record!(@fn bind_synced, $db, $table, $($s = $($sp).+),*);
        }
    };
    (@fn $name:ident, $db:ty, $table:ident, $($c:ident = $($p:ident).+),*) => {
        #[allow(unused_mut, unused_variables, unused_assignments)]
        fn $name<'b>(
            &'b self,
            mut out: diesel::query_builder::AstPass<'_, 'b, $db>,
        ) -> diesel::QueryResult<()> {
            let mut comma = "";
            $(
                out.push_sql(comma);
                out.push_bind_param::<
                    <$crate::tables::$table::$c as diesel::Expression>::SqlType, _
                >(&self.$($p).+)?;
                comma = ", ";
            )*
            Ok(())
        }
    };
}
pub(crate) use record;

/// Inserts all, and says how many.
pub(crate) async fn insert<R: Record>(conn: &mut Conn, rows: &[R]) -> Result<u64, DbError> {
    let mut inserted = 0;
    for part in rows.chunks(CHUNK) {
        inserted += on!(conn, c => Insert(part).execute(c).await?) as u64;
    }
    Ok(inserted)
}

/// Updates the rows that exist, and says how many.
pub(crate) async fn update<R: Record>(conn: &mut Conn, rows: &[R]) -> Result<u64, DbError> {
    let mut updated = 0;
    for part in rows.chunks(CHUNK) {
        updated += on!(conn, c => Update(part).execute(c).await?) as u64;
    }
    Ok(updated)
}

struct Insert<'a, R>(&'a [R]);
struct Update<'a, R>(&'a [R]);

impl<R> QueryId for Insert<'_, R> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<R> QueryId for Update<'_, R> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

/// Only statements of these two sizes come again and again.
fn cache<DB: Backend>(out: &mut AstPass<'_, '_, DB>, rows: usize) {
    if rows != 1 && rows != CHUNK {
        out.unsafe_to_cache_prepared();
    }
}

impl<DB: Backend, R: Bind<DB>> QueryFragment<DB> for Insert<'_, R> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        cache(&mut out, self.0.len());
        out.push_sql("INSERT INTO ");
        out.push_identifier(R::TABLE)?;
        out.push_sql(" (");
        names(&mut out, R::FIXED.iter().chain(R::SYNCED))?;
        out.push_sql(") VALUES ");
        for (index, row) in self.0.iter().enumerate() {
            out.push_sql(if index == 0 { "(" } else { ", (" });
            row.bind_fixed(out.reborrow())?;
            if !R::FIXED.is_empty() && !R::SYNCED.is_empty() {
                out.push_sql(", ");
            }
            row.bind_synced(out.reborrow())?;
            out.push_sql(")");
        }
        Ok(())
    }
}

/// A database's way to join an UPDATE with the new values.
pub(crate) trait Dialect: Backend {
    /// `UPDATE … JOIN (SELECT … UNION ALL SELECT …)`; otherwise `WITH … UPDATE … FROM`.
    const UPDATE_JOIN: bool;
}
impl Dialect for Sqlite {
    const UPDATE_JOIN: bool = false;
}
impl Dialect for Pg {
    const UPDATE_JOIN: bool = false;
}
impl Dialect for Mysql {
    const UPDATE_JOIN: bool = true;
}

impl<DB: Dialect, R: Bind<DB>> QueryFragment<DB> for Update<'_, R> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        cache(&mut out, self.0.len());
        if DB::UPDATE_JOIN {
            out.push_sql("UPDATE ");
            out.push_identifier(R::TABLE)?;
            // A derived table takes no list of column names in MariaDB, and parameters have
            // none of their own: so a first row, which matches nothing, carries the names.
            out.push_sql(" JOIN (SELECT ");
            for (index, column) in R::KEY.iter().chain(R::SYNCED).enumerate() {
                out.push_sql(if index == 0 { "NULL AS " } else { ", NULL AS " });
                out.push_identifier(column)?;
            }
            for row in self.0 {
                out.push_sql(" UNION ALL SELECT ");
                row.bind_key(out.reborrow())?;
                out.push_sql(", ");
                row.bind_synced(out.reborrow())?;
            }
            out.push_sql(") AS v");
            out.push_sql(" ON ");
            matches::<DB, R>(&mut out)?;
            out.push_sql(" SET ");
            assignments::<DB, R>(&mut out, true)?;
        } else {
            out.push_sql("WITH v (");
            names(&mut out, R::KEY.iter().chain(R::SYNCED))?;
            out.push_sql(") AS (VALUES ");
            for (index, row) in self.0.iter().enumerate() {
                out.push_sql(if index == 0 { "(" } else { ", (" });
                row.bind_key(out.reborrow())?;
                out.push_sql(", ");
                row.bind_synced(out.reborrow())?;
                out.push_sql(")");
            }
            out.push_sql(") UPDATE ");
            out.push_identifier(R::TABLE)?;
            out.push_sql(" SET ");
            assignments::<DB, R>(&mut out, false)?;
            out.push_sql(" FROM v WHERE ");
            matches::<DB, R>(&mut out)?;
        }
        Ok(())
    }
}

fn names<'n, DB: Backend>(
    out: &mut AstPass<'_, '_, DB>,
    columns: impl Iterator<Item = &'n &'static str>,
) -> QueryResult<()> {
    for (index, column) in columns.enumerate() {
        if index > 0 {
            out.push_sql(", ");
        }
        out.push_identifier(column)?;
    }
    Ok(())
}

fn matches<DB: Backend, R: Columns>(out: &mut AstPass<'_, '_, DB>) -> QueryResult<()> {
    for (index, column) in R::KEY.iter().enumerate() {
        if index > 0 {
            out.push_sql(" AND ");
        }
        out.push_identifier(R::TABLE)?;
        out.push_sql(".");
        out.push_identifier(column)?;
        out.push_sql(" = v.");
        out.push_identifier(column)?;
    }
    Ok(())
}

fn assignments<DB: Backend, R: Columns>(
    out: &mut AstPass<'_, '_, DB>,
    qualified: bool,
) -> QueryResult<()> {
    for (index, column) in R::SYNCED.iter().enumerate() {
        if index > 0 {
            out.push_sql(", ");
        }
        if qualified {
            out.push_identifier(R::TABLE)?;
            out.push_sql(".");
        }
        out.push_identifier(column)?;
        out.push_sql(" = v.");
        out.push_identifier(column)?;
    }
    Ok(())
}

/// What a row says, as far as the mirror decides by it whether to write.
pub(crate) trait Content: Clone {
    type Key: Eq + Hash;
    fn key(&self) -> Self::Key;
    /// Whether a row that says `self` need not be written to say `other`.
    fn same(&self, other: &Self) -> bool;
}

/// What has to be done so that the tables say what is wanted.
#[derive(Debug)]
pub(crate) struct Plan<'a, C> {
    pub(crate) insert: Vec<&'a C>,
    pub(crate) update: Vec<(i64, &'a C)>,
    pub(crate) unchanged: u64,
}

/// Pure: compares what is there with what is wanted. A key that is wanted twice counts as the
/// last one says, so that one PVE answer with a doubled element cannot hold up the rest.
pub(crate) fn plan<'a, C: Content>(there: &[There<C>], wanted: &'a [C]) -> Plan<'a, C> {
    let there: HashMap<C::Key, (i64, &C)> =
        there.iter().map(|row| (row.content.key(), (row.id, &row.content))).collect();
    let last: HashMap<C::Key, usize> =
        wanted.iter().enumerate().map(|(index, content)| (content.key(), index)).collect();
    let mut plan = Plan { insert: Vec::new(), update: Vec::new(), unchanged: 0 };
    for (index, content) in wanted.iter().enumerate() {
        let key = content.key();
        if last.get(&key) != Some(&index) {
            continue;
        }
        match there.get(&key) {
            None => plan.insert.push(content),
            Some((_, row)) if row.same(content) => plan.unchanged += 1,
            Some((id, _)) => plan.update.push((*id, content)),
        }
    }
    plan
}

impl<C> Plan<'_, C> {
    pub(crate) fn is_empty(&self) -> bool {
        self.insert.is_empty() && self.update.is_empty()
    }

    /// Does what was planned; the caller has raised the table's revision.
    pub(crate) async fn act(
        &self,
        conn: &mut Conn,
        cluster_id: ClusterId,
        revision: Revision,
    ) -> Result<Written, DbError>
    where
        for<'r> Row<'r, C>: Record,
    {
        let now = crate::now();
        let row = |id: i64, content| Row { id, cluster_id, content, revision, now };
        let new: Vec<_> = self.insert.iter().map(|content| row(0, *content)).collect();
        let changed: Vec<_> = self.update.iter().map(|(id, content)| row(*id, *content)).collect();
        Ok(Written {
            updated: update(conn, &changed).await?,
            inserted: insert(conn, &new).await?,
            unchanged: self.unchanged,
            ..Written::default()
        })
    }
}
