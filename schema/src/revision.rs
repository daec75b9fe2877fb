//! One counter per table: what changed after a moment, in commit order.
//!
//! The counter's row is locked by the transaction that raises it until it commits, so a lower
//! revision is never seen after a higher one. That lock is also why a transaction raises late
//! and is short, and why tables are raised in the order of [`Table`]: no deadlocks.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::db::on;
use crate::tables::table_revision::dsl;
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
}

impl Table {
    pub const ALL: [Self; 7] = [
        Self::Node,
        Self::Guest,
        Self::Storage,
        Self::Template,
        Self::Upload,
        Self::Instance,
        Self::SyncTask,
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
