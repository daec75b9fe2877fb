//! What the informers of the template flow follow: rows, as people want them.

use informer::Object;
use schema::{
    Conn, DbError, Revision,
    instance::{self, InstanceRow},
    revision::{Changes, Table},
    template_clone::{self, CloneRow},
};

use super::table_source::Row;

/// A live instance.
#[derive(Clone, Debug)]
pub(super) struct Instance(pub InstanceRow);

/// A clone that is not over.
#[derive(Clone, Debug)]
pub(super) struct Clone(pub CloneRow);

impl Object for Instance {
    type Key = i64;

    fn key(&self) -> i64 {
        self.0.id.0
    }

    fn version(&self) -> u64 {
        self.0.revision.0.unsigned_abs()
    }
}

impl Row for Instance {
    type Columns = InstanceRow;
    const TABLE: Table = Table::Instance;

    fn of(row: InstanceRow) -> Result<Self, i64> {
        if row.deleted_id == 0 { Ok(Self(row)) } else { Err(row.id.0) }
    }

    async fn load(conn: &mut Conn) -> Result<Vec<InstanceRow>, DbError> {
        instance::load(conn).await
    }

    async fn changes(
        conn: &mut Conn,
        since: Revision,
        limit: u32,
    ) -> Result<Changes<InstanceRow>, DbError> {
        instance::changes_since(conn, since, limit).await
    }
}

impl Object for Clone {
    type Key = i64;

    fn key(&self) -> i64 {
        self.0.id.0
    }

    fn version(&self) -> u64 {
        self.0.revision.0.unsigned_abs()
    }
}

impl Row for Clone {
    type Columns = CloneRow;
    const TABLE: Table = Table::Clone;

    fn of(row: CloneRow) -> Result<Self, i64> {
        if row.told.status.is_final() { Err(row.id.0) } else { Ok(Self(row)) }
    }

    async fn load(conn: &mut Conn) -> Result<Vec<CloneRow>, DbError> {
        template_clone::load_unfinished(conn).await
    }

    async fn changes(
        conn: &mut Conn,
        since: Revision,
        limit: u32,
    ) -> Result<Changes<CloneRow>, DbError> {
        template_clone::changes_since(conn, since, limit).await
    }
}
