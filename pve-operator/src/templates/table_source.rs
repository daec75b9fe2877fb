//! A table of ours as a collection to follow: a list is a query, a watch is `revision > n`.

use std::{fmt, future::Future, marker::PhantomData, time::Duration};

use futures::{Stream, StreamExt, stream};
use informer::{Cursor, ListDone, ListWatcher, Listing, Object, SourceError, WatchEvent};
use schema::{
    Conn, Db, DbError, Revision,
    revision::{self, Changes, Table},
};

/// At most so many changed rows are read at once.
const BATCH: u32 = 200;

/// A row that can be followed.
pub(super) trait Row: Object<Key = i64> {
    type Columns: Send + 'static;
    const TABLE: Table;

    /// None for a row that has ended: whoever follows sees it go.
    fn of(columns: Self::Columns) -> Result<Self, i64>;

    /// All live rows.
    fn load(conn: &mut Conn) -> impl Future<Output = Result<Vec<Self::Columns>, DbError>> + Send;

    /// What changed after `since`.
    fn changes(
        conn: &mut Conn,
        since: Revision,
        limit: u32,
    ) -> impl Future<Output = Result<Changes<Self::Columns>, DbError>> + Send;
}

/// Follows one table, of all clusters.
pub(super) struct TableSource<R> {
    db: Db,
    /// Between two looks at the table's counter.
    look: Duration,
    row: PhantomData<fn() -> R>,
}

impl<R: Row> TableSource<R> {
    pub(super) fn new(db: Db, look: Duration) -> Self {
        Self { db, look, row: PhantomData }
    }

    /// The next changes after `since`, as soon as there are any.
    async fn changes(&self, since: Revision) -> Result<Changes<R::Columns>, SourceError> {
        loop {
            let mut conn = self.db.conn().await.map_err(classed)?;
            if revision::current(&mut conn, R::TABLE).await.map_err(classed)? != since {
                drop(conn);
                let read = self.db.read(async |conn| R::changes(conn, since, BATCH).await);
                return read.await.map_err(classed);
            }
            drop(conn);
            tokio::time::sleep(self.look).await;
        }
    }
}

impl<R> Clone for TableSource<R> {
    fn clone(&self) -> Self {
        Self { db: self.db.clone(), look: self.look, row: PhantomData }
    }
}

impl<R> fmt::Debug for TableSource<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableSource").field("look", &self.look).finish_non_exhaustive()
    }
}

type Event<R> = Result<WatchEvent<R>, SourceError>;

fn events<R: Row>(changes: Changes<R::Columns>) -> Vec<Event<R>> {
    let gone = changes.gone.into_iter().map(|stone| Ok(WatchEvent::Delete(stone.row_id)));
    let rows = changes.rows.into_iter().map(|columns| {
        Ok(match R::of(columns) {
            Ok(row) => WatchEvent::Upsert(row),
            Err(ended) => WatchEvent::Delete(ended),
        })
    });
    gone.chain(rows).chain([Ok(WatchEvent::Progress(cursor(changes.revision)))]).collect()
}

fn cursor(revision: Revision) -> Cursor {
    // Revisions are counted up from 0.
    Cursor::from(u64::try_from(revision.0).unwrap_or(0))
}

fn classed(error: DbError) -> SourceError {
    match error {
        DbError::Expired { .. } => SourceError::expired(error),
        other => SourceError::transient(other),
    }
}

impl<R: Row> ListWatcher for TableSource<R> {
    type Object = R;

    async fn list(&self, into: &mut Listing<'_, R>) -> Result<ListDone, SourceError> {
        let read = self.db.read(async |conn| {
            let at = revision::current(conn, R::TABLE).await?;
            Ok((at, R::load(conn).await?))
        });
        let (at, rows) = read.await.map_err(classed)?;
        for row in rows.into_iter().filter_map(|columns| R::of(columns).ok()) {
            let (key, version) = (row.key(), row.version());
            into.offer(&key, version, || row);
        }
        Ok(ListDone::at(cursor(at)))
    }

    fn watch(&self, since: &Cursor) -> impl Stream<Item = Event<R>> + Send {
        let since = since.as_u64().and_then(|at| i64::try_from(at).ok()).unwrap_or(0);
        let start = Some((self.clone(), Revision(since)));
        stream::unfold(start, |state| async {
            let (table, since) = state?;
            Some(match table.changes(since).await {
                Ok(changes) => {
                    let at = changes.revision;
                    (stream::iter(events(changes)), Some((table, at)))
                }
                Err(error) => (stream::iter(vec![Err(error)]), None),
            })
        })
        .flatten()
    }
}
