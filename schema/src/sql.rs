//! Reads in SQL that all three databases understand, and rows decoded by column name.
//!
//! diesel's typed queries are used where they are small. For rows of twenty columns and more
//! the compiler needs seconds per query and database to prove them right; these are proven by
//! the tests, which run each on every database.

use std::borrow::Cow;

use diesel::QueryResult;
use diesel::deserialize::{self, FromSql, QueryableByName};
use diesel::mysql::Mysql;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::row::NamedRow;
use diesel::serialize::ToSql;
use diesel::sql_types::{BigInt, HasSqlType, Nullable, Text, Timestamp as Time, Untyped};
use diesel::sqlite::Sqlite;
use diesel_async::RunQueryDsl;

use crate::db::on;
use crate::{
    Backend, CloneId, ClusterId, Conn, DbError, Flag, GuestId, InstanceId, NodeId, Revision,
    StorageId, SyncTaskId, TemplateId, Timestamp, UploadId,
};

/// A statement under construction, with `?` for each parameter.
#[derive(Clone, Debug)]
pub(crate) struct Sql<'a> {
    text: String,
    params: Vec<Param<'a>>,
    prepared_once: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Param<'a> {
    Int(i64),
    Text(Cow<'a, str>),
    MaybeInt(Option<i64>),
    MaybeText(Option<Cow<'a, str>>),
    Time(Option<Timestamp>),
}

impl<'a> Sql<'a> {
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), params: Vec::new(), prepared_once: false }
    }

    pub(crate) fn push(mut self, text: &str) -> Self {
        self.text.push_str(text);
        self
    }

    pub(crate) fn bind(mut self, param: impl Into<Param<'a>>) -> Self {
        self.text.push('?');
        self.params.push(param.into());
        self
    }

    /// `INSERT INTO table (…) VALUES (…)`.
    pub(crate) fn insert<const N: usize>(table: &str, row: [(&str, Param<'a>); N]) -> Self {
        let columns = row.each_ref().map(|(column, _)| *column).join(", ");
        Self::new(&format!("INSERT INTO {table} ({columns}) VALUES "))
            .list(row.map(|(_, value)| value))
    }

    /// `UPDATE table SET …`, to be continued with ` WHERE …`.
    pub(crate) fn update<const N: usize>(table: &str, row: [(&str, Param<'a>); N]) -> Self {
        let mut sql = Self::new(&format!("UPDATE {table} SET "));
        for (index, (column, value)) in row.into_iter().enumerate() {
            let sep = if index == 0 { "" } else { ", " };
            sql = sql.push(&format!("{sep}{column} = ")).bind(value);
        }
        sql
    }

    /// `(?, ?, …)`; must not be empty.
    pub(crate) fn list<P: Into<Param<'a>>>(mut self, params: impl IntoIterator<Item = P>) -> Self {
        self.text.push('(');
        for (index, param) in params.into_iter().enumerate() {
            self = if index == 0 { self } else { self.push(", ") }.bind(param);
        }
        self.push(")")
    }

    /// ` AND column = ?` if there is a value.
    pub(crate) fn and(self, column: &str, value: Option<impl Into<Param<'a>>>) -> Self {
        match value {
            Some(value) => self.push(" AND ").push(column).push(" = ").bind(value),
            None => self,
        }
    }

    pub(crate) fn append(mut self, other: &Self) -> Self {
        self.text.push_str(&other.text);
        self.params.extend_from_slice(&other.params);
        self
    }

    /// ` LIMIT ?`.
    ///
    /// SQLite looks at the value of a bare parameter here when it plans, and so plans a statement
    /// that is prepared anew at each execution (`sqlite3ExprIsInteger` in its `expr.c`), which takes
    /// longer than most lists. It does not look into a sum.
    pub(crate) fn limit(self, rows: u32, backend: Backend) -> Self {
        let sum = if backend == Backend::Sqlite { " + 0" } else { "" };
        self.push(" LIMIT ").bind(i64::from(rows)).push(sum)
    }

    /// How many parameters there are.
    pub(crate) fn params(&self) -> usize {
        self.params.len()
    }

    /// Says that this statement comes again and again with other parameters, so that the database
    /// need parse it only once for each connection. Not for a statement of which there are hundreds.
    pub(crate) fn prepared_once(mut self) -> Self {
        self.prepared_once = true;
        self
    }
}

impl QueryId for Sql<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for Sql<'_> {
    type SqlType = Untyped;
}

/// Each `?` becomes what this database calls its parameters.
impl<DB> QueryFragment<DB> for Sql<'_>
where
    DB: diesel::backend::Backend + HasSqlType<BigInt> + HasSqlType<Text> + HasSqlType<Time>,
    i64: ToSql<BigInt, DB>,
    str: ToSql<Text, DB>,
    Timestamp: ToSql<Time, DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        if !self.prepared_once {
            out.unsafe_to_cache_prepared();
        }
        let mut params = self.params.iter();
        for (index, part) in self.text.split('?').enumerate() {
            if index > 0 {
                match params.next().expect("bind writes one ? for each parameter") {
                    Param::Int(value) => out.push_bind_param::<BigInt, _>(value)?,
                    Param::Text(value) | Param::MaybeText(Some(value)) => {
                        out.push_bind_param::<Text, str>(value)?;
                    }
                    Param::MaybeInt(value) => out.push_bind_param::<Nullable<BigInt>, _>(value)?,
                    Param::MaybeText(None) => {
                        out.push_bind_param::<Nullable<Text>, Option<&str>>(&None)?;
                    }
                    Param::Time(value) => out.push_bind_param::<Nullable<Time>, _>(value)?,
                }
            }
            out.push_sql(part);
        }
        Ok(())
    }
}

/// A row that can be read by column name from any of the three.
pub(crate) trait AnyRow:
    QueryableByName<Sqlite> + QueryableByName<Mysql> + QueryableByName<Pg> + Send + 'static
{
}
impl<R> AnyRow for R where
    R: QueryableByName<Sqlite> + QueryableByName<Mysql> + QueryableByName<Pg> + Send + 'static
{
}

/// Every row of the answer.
pub(crate) async fn fetch<R: AnyRow>(conn: &mut Conn, sql: &Sql<'_>) -> Result<Vec<R>, DbError> {
    // Without the values, which may be secret.
    tracing::trace!(sql = sql.text, "Asking the database");
    Ok(on!(conn, c => sql.clone().load::<R>(c).await?))
}

/// The first row, if there is one.
pub(crate) async fn first<R: AnyRow>(conn: &mut Conn, sql: &Sql<'_>) -> Result<Option<R>, DbError> {
    Ok(fetch(conn, sql).await?.into_iter().next())
}

/// Runs a statement, and says how many rows it changed.
pub(crate) async fn execute(conn: &mut Conn, sql: &Sql<'_>) -> Result<u64, DbError> {
    Ok(on!(conn, c => sql.clone().execute(c).await?) as u64)
}

/// Runs an INSERT of one row, and says the id that it got.
pub(crate) async fn insert(conn: &mut Conn, sql: Sql<'_>) -> Result<i64, DbError> {
    // MySQL has no RETURNING; its last id is the connection's own.
    if conn.backend() == Backend::Mysql {
        execute(conn, &sql).await?;
        return number(conn, &Sql::new("SELECT CAST(LAST_INSERT_ID() AS SIGNED) AS n")).await;
    }
    number(conn, &sql.push(" RETURNING id AS n")).await
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    n: i64,
}

/// The number in column `n` of the first row.
pub(crate) async fn number(conn: &mut Conn, sql: &Sql<'_>) -> Result<i64, DbError> {
    let first = first::<Number>(conn, sql).await?;
    first.map(|row| row.n).ok_or(DbError::Query(diesel::result::Error::NotFound))
}

/// The numbers in column `n`.
pub(crate) async fn numbers(conn: &mut Conn, sql: &Sql<'_>) -> Result<Vec<i64>, DbError> {
    Ok(fetch::<Number>(conn, sql).await?.into_iter().map(|row| row.n).collect())
}

/// A row's id beside some of its columns.
#[derive(Clone, Debug)]
pub(crate) struct There<C> {
    pub(crate) id: i64,
    pub(crate) content: C,
}

impl<DB, C> QueryableByName<DB> for There<C>
where
    DB: diesel::backend::Backend,
    C: QueryableByName<DB>,
    i64: FromSql<BigInt, DB>,
{
    fn build<'a>(row: &impl NamedRow<'a, DB>) -> deserialize::Result<Self> {
        Ok(Self { id: NamedRow::get::<BigInt, i64>(row, "id")?, content: C::build(row)? })
    }
}

impl From<i64> for Param<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<i32> for Param<'_> {
    fn from(value: i32) -> Self {
        Self::Int(value.into())
    }
}

impl From<Option<i64>> for Param<'_> {
    fn from(value: Option<i64>) -> Self {
        Self::MaybeInt(value)
    }
}

impl From<Option<i32>> for Param<'_> {
    fn from(value: Option<i32>) -> Self {
        Self::MaybeInt(value.map(i64::from))
    }
}

impl From<Timestamp> for Param<'_> {
    fn from(value: Timestamp) -> Self {
        Self::Time(Some(value))
    }
}

impl From<Option<Timestamp>> for Param<'_> {
    fn from(value: Option<Timestamp>) -> Self {
        Self::Time(value)
    }
}

impl<'a> From<&'a Option<String>> for Param<'a> {
    fn from(value: &'a Option<String>) -> Self {
        Self::MaybeText(value.as_deref().map(Cow::Borrowed))
    }
}

impl From<Option<String>> for Param<'_> {
    fn from(value: Option<String>) -> Self {
        Self::MaybeText(value.map(Cow::Owned))
    }
}

impl<'a> From<Option<&'a str>> for Param<'a> {
    fn from(value: Option<&'a str>) -> Self {
        Self::MaybeText(value.map(Cow::Borrowed))
    }
}

impl From<Flag> for Param<'_> {
    fn from(value: Flag) -> Self {
        Self::Int(value.0.into())
    }
}

impl<'a> From<&'a str> for Param<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(Cow::Borrowed(value))
    }
}

impl<'a> From<&'a String> for Param<'a> {
    fn from(value: &'a String) -> Self {
        Self::Text(Cow::Borrowed(value))
    }
}

impl From<String> for Param<'_> {
    fn from(value: String) -> Self {
        Self::Text(Cow::Owned(value))
    }
}

macro_rules! ids {
    ($($id:ident),*) => {$(
        impl From<$id> for Param<'_> {
            fn from(id: $id) -> Self {
                Self::Int(id.0)
            }
        }

        impl From<Option<$id>> for Param<'_> {
            fn from(id: Option<$id>) -> Self {
                Self::MaybeInt(id.map(|id| id.0))
            }
        }
    )*};
}
ids!(
    CloneId, ClusterId, GuestId, InstanceId, NodeId, Revision, StorageId, SyncTaskId, TemplateId,
    UploadId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_postgres_numbers_its_parameters() {
        let sql = Sql::new("SELECT 1 FROM t WHERE a IN ").list([1, 2]).and("b", Some("x"));

        let sqlite = diesel::debug_query::<Sqlite, _>(&sql).to_string();
        let postgres = diesel::debug_query::<Pg, _>(&sql).to_string();

        let binds = r#" -- binds: [1, 2, "x"]"#;
        assert_eq!(sqlite, format!("SELECT 1 FROM t WHERE a IN (?, ?) AND b = ?{binds}"));
        assert_eq!(postgres, format!("SELECT 1 FROM t WHERE a IN ($1, $2) AND b = $3{binds}"));
    }
}
