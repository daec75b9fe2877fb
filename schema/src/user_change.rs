//! Changes of the columns that people own in rows of the mirror: an `UPDATE` that names these alone.

use crate::revision::{self, Table};
use crate::sql::{self, Param, Sql};
use crate::{Conn, DbError, Flag, GuestId, NodeId, guest, node};

/// What becomes of a column.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Change<T> {
    #[default]
    Keep,
    Clear,
    Set(T),
}

impl<T: Clone + PartialEq> Change<T> {
    /// What is left to do, beside what the column says.
    fn beside(&self, now: Option<&T>) -> Self {
        match self {
            Self::Clear if now.is_some() => Self::Clear,
            Self::Set(value) if now != Some(value) => Self::Set(value.clone()),
            _ => Self::Keep,
        }
    }
}

/// Columns that are to be written.
#[derive(Default)]
struct Columns(Vec<(&'static str, Param<'static>)>);

impl Columns {
    fn add<T>(&mut self, column: &'static str, change: Change<T>)
    where
        Param<'static>: From<T> + From<Option<T>>,
    {
        match change {
            Change::Keep => {}
            Change::Clear => self.0.push((column, None::<T>.into())),
            Change::Set(value) => self.0.push((column, value.into())),
        }
    }
}

/// What people change of a node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodeChange {
    pub is_schedulable: Option<bool>,
    pub annotations: Change<String>,
    pub vm_limit: Change<i32>,
}

/// What people change of a guest.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GuestChange {
    pub appid: Change<String>,
    pub template_id: Change<i64>,
    pub descriptions: Change<String>,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Changed {
    Written,
    /// The row says so already; nothing was written.
    AsItWas,
    NoSuchRow,
}

/// Changes a node. Call it within [`crate::Db::write`].
pub async fn of_node(
    conn: &mut Conn,
    id: NodeId,
    change: &NodeChange,
    modifier: &str,
) -> Result<Changed, DbError> {
    let Some(listed) = node::get(conn, id).await? else { return Ok(Changed::NoSuchRow) };
    let row = listed.row;
    let mut columns = Columns::default();
    if let Some(wanted) = change.is_schedulable.filter(|wanted| *wanted != row.is_schedulable.0) {
        columns.0.push(("is_schedulable", Flag(wanted).into()));
    }
    columns.add("annotations", change.annotations.beside(row.annotations.as_ref()));
    columns.add("vm_limit", change.vm_limit.beside(row.vm_limit.as_ref()));
    write(conn, Table::Node, id.0, columns, modifier).await
}

/// Changes a guest. Call it within [`crate::Db::write`].
pub async fn of_guest(
    conn: &mut Conn,
    id: GuestId,
    change: &GuestChange,
    modifier: &str,
) -> Result<Changed, DbError> {
    let Some(listed) = guest::get(conn, id).await? else { return Ok(Changed::NoSuchRow) };
    let row = listed.row;
    let mut columns = Columns::default();
    columns.add("appid", change.appid.beside(row.appid.as_ref()));
    columns.add("template_id", change.template_id.beside(row.template_id.as_ref()));
    columns.add("descriptions", change.descriptions.beside(row.descriptions.as_ref()));
    write(conn, Table::Guest, id.0, columns, modifier).await
}

async fn write(
    conn: &mut Conn,
    table: Table,
    id: i64,
    Columns(columns): Columns,
    modifier: &str,
) -> Result<Changed, DbError> {
    if columns.is_empty() {
        return Ok(Changed::AsItWas);
    }
    let revision = revision::raise(conn, table).await?;
    let mut row = Sql::update(
        table.name(),
        [
            ("revision", revision.into()),
            ("gmt_modified", crate::now().into()),
            ("modifier", modifier.into()),
        ],
    );
    for (column, value) in columns {
        row = row.push(&format!(", {column} = ")).bind(value);
    }
    let rows = sql::execute(conn, &row.push(" WHERE id = ").bind(id)).await?;
    Ok(if rows == 0 { Changed::NoSuchRow } else { Changed::Written })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_so_already_is_written() {
        let (rack, other) = ("rack 4".to_owned(), "rack 5".to_owned());

        let set = |text: &String| Change::Set(text.clone());
        assert_eq!(Change::Keep.beside(Some(&rack)), Change::Keep);
        assert_eq!(Change::Clear.beside(Some(&rack)), Change::Clear);
        assert_eq!(Change::<String>::Clear.beside(None), Change::Keep);
        assert_eq!(set(&rack).beside(Some(&rack)), Change::Keep);
        assert_eq!(set(&other).beside(Some(&rack)), set(&other));
        assert_eq!(set(&rack).beside(None), set(&rack));
    }
}
