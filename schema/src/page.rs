//! Lists in pages, newest id first.

use diesel::backend::Backend;
use diesel::deserialize::{self, FromSql, QueryableByName};
use diesel::row::NamedRow;
use diesel::sql_types::Text;

use crate::revision::Table;
use crate::sql::{self, AnyRow, Sql};
use crate::{Conn, DbError};

/// Which part of a list; the first page is 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Page {
    pub page: u32,
    pub page_size: u32,
}

impl Page {
    pub(crate) fn limit(self) -> i64 {
        i64::from(self.page_size)
    }

    pub(crate) fn offset(self) -> i64 {
        i64::from(self.page.saturating_sub(1)) * i64::from(self.page_size)
    }
}

impl Default for Page {
    fn default() -> Self {
        Self { page: 1, page_size: 10 }
    }
}

/// One page, and how many there are in all.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing<R> {
    pub total: i64,
    pub list: Vec<Listed<R>>,
}

/// A row with the name of its cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed<R> {
    pub row: R,
    pub cluster_name: String,
}

impl<DB, R> QueryableByName<DB> for Listed<R>
where
    DB: Backend,
    R: QueryableByName<DB>,
    String: FromSql<Text, DB>,
{
    fn build<'a>(row: &impl NamedRow<'a, DB>) -> deserialize::Result<Self> {
        let cluster_name = NamedRow::get::<Text, String>(row, "cluster_name")?;
        Ok(Self { row: R::build(row)?, cluster_name })
    }
}

/// Joins a table with the names of its clusters, so rows of a cluster that is gone and not yet
/// swept are left out.
fn joined(what: &str, table: Table) -> Sql<'static> {
    let table = table.name();
    Sql::new(&format!(
        "SELECT {what} FROM {table} JOIN pve_cluster ON pve_cluster.id = {table}.cluster_id \
         WHERE 1 = 1"
    ))
}

fn rows(table: Table) -> Sql<'static> {
    joined(&format!("{}.*, pve_cluster.cluster_name AS cluster_name", table.name()), table)
}

/// One page of the rows that meet `conditions`, which start with ` AND ` or are empty.
pub(crate) async fn list<R: AnyRow>(
    conn: &mut Conn,
    table: Table,
    conditions: &Sql<'_>,
    page: Page,
) -> Result<Listing<R>, DbError> {
    let total = sql::number(conn, &joined("count(*) AS n", table).append(conditions)).await?;
    let newest_first = rows(table)
        .append(conditions)
        .push(&format!(" ORDER BY {}.id DESC LIMIT ", table.name()))
        .bind(page.limit())
        .push(" OFFSET ")
        .bind(page.offset());
    Ok(Listing { total, list: sql::fetch(conn, &newest_first).await? })
}

/// The row with this id.
pub(crate) async fn get<R: AnyRow>(
    conn: &mut Conn,
    table: Table,
    id: i64,
) -> Result<Option<Listed<R>>, DbError> {
    let column = format!("{}.id", table.name());
    sql::first(conn, &rows(table).and(&column, Some(id))).await
}

/// One page of a table whose rows belong to no cluster, and how many there are in all.
#[derive(Clone, Debug, PartialEq)]
pub struct Plain<R> {
    pub total: i64,
    pub list: Vec<R>,
}

/// [`list`] for such a table.
pub(crate) async fn plain<R: AnyRow>(
    conn: &mut Conn,
    table: &str,
    conditions: &Sql<'_>,
    page: Page,
) -> Result<Plain<R>, DbError> {
    let total = Sql::new(&format!("SELECT count(*) AS n FROM {table} WHERE 1 = 1"));
    let total = sql::number(conn, &total.append(conditions)).await?;
    let newest_first = Sql::new(&format!("SELECT * FROM {table} WHERE 1 = 1"))
        .append(conditions)
        .push(" ORDER BY id DESC LIMIT ")
        .bind(page.limit())
        .push(" OFFSET ")
        .bind(page.offset());
    Ok(Plain { total, list: sql::fetch(conn, &newest_first).await? })
}
