//! Lists in pages: by number, in an order that the caller chooses, or onwards from a row.
//!
//! ```text
//! Search ("which rows, what of them") + Page --> one statement --> Listing
//! ```
//!
//! Ids are looked for first, in an index as far as there is one for the search, and only the rows
//! of the page are read whole: so page 1,000 costs little more than page 1. Count and page are in
//! one statement, so they are of one moment without a transaction.
//!
//! A page that goes on [`Start::After`] a row counts nothing and skips nothing: it costs the same
//! anywhere in the list.

use diesel::backend::Backend as Dialect;
use diesel::deserialize::{self, FromSql, QueryableByName};
use diesel::row::NamedRow;
use diesel::sql_types::{BigInt, Nullable, Text};

use crate::sql::{self, AnyRow, Sql};
use crate::{Backend, ClusterId, Conn, DbError};

/// Which part of a list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Page {
    pub start: Start,
    pub page_size: u32,
}

/// Where a page begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Start {
    /// The page of this number in this order; the first is 1.
    Number(u32, Sort),
    /// Ids below this one, newest first.
    After(i64),
}

impl Page {
    /// The page of this number, newest id first.
    #[must_use]
    pub fn number(page: u32, page_size: u32) -> Self {
        Self { start: Start::Number(page, Sort::NEWEST_FIRST), page_size }
    }

    /// What comes after the row with this id, newest first.
    #[must_use]
    pub fn after(id: i64, page_size: u32) -> Self {
        Self { start: Start::After(id), page_size }
    }

    fn sort(self) -> Sort {
        match self.start {
            Start::Number(_, sort) => sort,
            Start::After(_) => Sort::NEWEST_FIRST,
        }
    }

    pub(crate) fn is_by_id(self) -> bool {
        self.sort().key.is_id()
    }

    fn before(self) -> i64 {
        match self.start {
            Start::Number(page, _) => i64::from(page.saturating_sub(1)) * i64::from(self.page_size),
            Start::After(_) => 0,
        }
    }

    /// The part of a whole list that is this page, and how long the list is; for lists so short
    /// that a database need not cut them.
    pub fn cut<R>(self, mut newest_first: Vec<R>, id: impl Fn(&R) -> i64) -> (Option<i64>, Vec<R>) {
        let size = usize::try_from(self.page_size).unwrap_or(usize::MAX);
        if let Start::After(last) = self.start {
            newest_first.retain(|row| id(row) < last);
            newest_first.truncate(size);
            return (None, newest_first);
        }
        let total = i64::try_from(newest_first.len()).unwrap_or(i64::MAX);
        if !self.sort().descending {
            newest_first.reverse();
        }
        let before = usize::try_from(self.before()).unwrap_or(usize::MAX);
        (Some(total), newest_first.into_iter().skip(before).take(size).collect())
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::number(1, 10)
    }
}

/// The order of a list, made unique by id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sort {
    pub key: SortKey,
    pub descending: bool,
}

impl Sort {
    pub const NEWEST_FIRST: Self = Self { key: SortKey::ID, descending: true };
}

/// What a list can be sorted by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SortKey {
    /// As people write it.
    pub word: &'static str,
    /// Empty for the id.
    column: &'static str,
    nullable: bool,
}

impl SortKey {
    pub const ID: Self = Self { word: "id", column: "", nullable: false };

    pub(crate) const fn new(word: &'static str, column: &'static str) -> Self {
        Self { word, column, nullable: false }
    }

    /// Rows without a value come before all others.
    pub(crate) const fn nullable(word: &'static str, column: &'static str) -> Self {
        Self { word, column, nullable: true }
    }

    fn is_id(self) -> bool {
        self.column.is_empty()
    }
}

/// One page, and how many there are in all.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing<R> {
    /// `None` where a page goes on after a row: the first page has said it, and to count anew
    /// would cost more than the page.
    pub total: Option<i64>,
    pub list: Vec<R>,
}

/// A row with the name of its cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed<R> {
    pub row: R,
    pub cluster_name: String,
}

impl<DB, R> QueryableByName<DB> for Listed<R>
where
    DB: Dialect,
    R: QueryableByName<DB>,
    String: FromSql<Text, DB>,
{
    fn build<'a>(row: &impl NamedRow<'a, DB>) -> deserialize::Result<Self> {
        let cluster_name = NamedRow::get::<Text, String>(row, "cluster_name")?;
        Ok(Self { row: R::build(row)?, cluster_name })
    }
}

/// Which rows a list has, and what is told of each.
#[derive(Clone, Debug)]
pub(crate) struct Search<'a> {
    /// The columns that are told.
    pub(crate) what: &'static str,
    /// The table of the rows, and how it is called in the statement.
    pub(crate) rows: (&'static str, &'static str),
    /// Joined to the rows of the page, for `what`.
    pub(crate) beside: &'static str,
    /// Where the ids are looked for: as little as `conditions` need, and the column there.
    pub(crate) among: (&'static str, &'static str),
    /// Each begins with ` AND `.
    pub(crate) conditions: Sql<'a>,
}

/// Which clusters rows may be of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OfCluster<'a> {
    pub(crate) id: Option<ClusterId>,
    pub(crate) name: Option<&'a String>,
}

impl<'a> OfCluster<'a> {
    /// The condition that `column` be such a cluster; one that is gone and not yet swept is none.
    ///
    /// Asked for as one value where there can be but one, so that an index that begins with the
    /// cluster gives its rows in the order of what comes next in it.
    pub(crate) fn condition(self, column: &str) -> Sql<'a> {
        let is = if self.id.is_some() || self.name.is_some() { "=" } else { "IN" };
        Sql::new(&format!(" AND {column} {is} (SELECT id FROM pve_cluster WHERE 1 = 1"))
            .and("id", self.id)
            .and("cluster_name", self.name)
            .push(")")
    }
}

impl Search<'_> {
    /// The statement for one page of it.
    pub(crate) fn statement(&self, page: Page, backend: Backend) -> Sql<'_> {
        let Self { what, rows: (rows, row), beside, among: (among, id), conditions } = self;
        let matching = |what: &str, hint: &str| {
            Sql::new(&format!("SELECT {what} FROM {among}{hint} WHERE 1 = 1")).append(conditions)
        };
        // Where nothing narrows the list, SQLite, which has no statistics of its own, would sort
        // all ids rather than read the rows of the page in their order.
        let all = conditions.params() == 0 && page.is_by_id();
        let hint = if all && backend == Backend::Sqlite { " NOT INDEXED" } else { "" };
        let mut ids = matching(&format!("{id} AS id"), hint);
        if let Start::After(last) = page.start {
            ids = ids.push(&format!(" AND {id} < ")).bind(last);
        }
        ids = ids.push(&order(page.sort(), row, id, backend)).limit(page.page_size, backend);
        if let Start::Number(..) = page.start {
            ids = ids.push(" OFFSET ").bind(page.before());
        }
        let joined = format!(") page JOIN {rows} ON {row}.id = page.id {beside}");
        let statement = match page.start {
            Start::After(_) => Sql::new(&format!("SELECT NULL AS rows_in_all, {what} FROM ("))
                .append(&ids)
                .push(&joined)
                .push(&order(page.sort(), row, &format!("{row}.id"), backend)),
            // The count stands alone, so it is there for a page beyond the last one too.
            Start::Number(..) => {
                Sql::new("SELECT counted.rows_in_all AS rows_in_all, shown.* FROM (")
                    .append(&matching("count(*) AS rows_in_all", ""))
                    .push(&format!(") counted LEFT JOIN (SELECT {what} FROM ("))
                    .append(&ids)
                    .push(&joined)
                    .push(") shown ON 1 = 1")
                    .push(&order(page.sort(), "shown", "shown.id", backend))
            }
        };
        if conditions.params() <= FEW { statement.prepared_once() } else { statement }
    }

    /// One page, and how many rows there are in all. One statement.
    pub(crate) async fn page<R: AnyRow>(
        &self,
        conn: &mut Conn,
        page: Page,
    ) -> Result<Listing<R>, DbError> {
        let statement = self.statement(page, conn.backend());
        let found: Vec<Counted<R>> = sql::fetch(conn, &statement).await?;
        let total = found.first().and_then(|row| row.total);
        Ok(Listing { total, list: found.into_iter().filter_map(|row| row.row).collect() })
    }

    /// The row with this id, whatever the conditions.
    pub(crate) async fn one<R: AnyRow>(
        &self,
        conn: &mut Conn,
        id: i64,
    ) -> Result<Option<R>, DbError> {
        let Self { what, rows: (rows, row), beside, .. } = self;
        let one = Sql::new(&format!("SELECT {what} FROM {rows} {beside} WHERE {row}.id = "));
        sql::first(conn, &one.bind(id)).await
    }
}

/// With more conditions there are too many statements to keep each of them prepared.
const FEW: usize = 3;

fn order(sort: Sort, row: &str, id: &str, backend: Backend) -> String {
    let direction = if sort.descending { "DESC" } else { "ASC" };
    if sort.key.is_id() {
        return format!(" ORDER BY {id} {direction}");
    }
    // The other two have nothing before everything by themselves.
    let nulls = match (backend, sort.key.nullable, sort.descending) {
        (Backend::Postgres, true, false) => " NULLS FIRST",
        (Backend::Postgres, true, true) => " NULLS LAST",
        _ => "",
    };
    format!(" ORDER BY {row}.{} {direction}{nulls}, {id} {direction}", sort.key.column)
}

/// A row of the answer: no row of the list where there is only a count.
struct Counted<R> {
    total: Option<i64>,
    row: Option<R>,
}

impl<DB, R> QueryableByName<DB> for Counted<R>
where
    DB: Dialect,
    R: QueryableByName<DB>,
    i64: FromSql<BigInt, DB>,
{
    fn build<'a>(row: &impl NamedRow<'a, DB>) -> deserialize::Result<Self> {
        let total = NamedRow::get::<Nullable<BigInt>, Option<i64>>(row, "rows_in_all")?;
        let id = NamedRow::get::<Nullable<BigInt>, Option<i64>>(row, "id")?;
        Ok(Self { total, row: id.map(|_| R::build(row)).transpose()? })
    }
}

/// The rows of a table that are told whole and alone.
macro_rules! alone {
    ($table:literal) => {
        $crate::page::Search {
            what: concat!($table, ".*"),
            rows: ($table, $table),
            beside: "",
            among: ($table, concat!($table, ".id")),
            conditions: $crate::sql::Sql::new(""),
        }
    };
}
pub(crate) use alone;

/// The rows of a table that has a cluster in each.
macro_rules! of_clusters {
    ($table:literal) => {
        $crate::page::Search {
            what: concat!($table, ".*, pve_cluster.cluster_name AS cluster_name"),
            rows: ($table, $table),
            beside: concat!("JOIN pve_cluster ON pve_cluster.id = ", $table, ".cluster_id"),
            among: ($table, concat!($table, ".id")),
            conditions: $crate::sql::Sql::new(""),
        }
    };
}
pub(crate) use of_clusters;
