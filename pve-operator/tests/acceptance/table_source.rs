//! A table followed by the informer, as whoever acts on rows follows it: listed once, then told of
//! each change by its revision.

use std::{collections::BTreeMap, time::Duration};

use futures::{Stream, StreamExt, stream};
use informer::{
    Cursor, ListDone, ListWatcher, Listing, Object, SharedIndexInformer, SourceError, WatchEvent,
    testing::conformance,
};
use pve_sim::{Config, Guest, Status};
use schema::{
    ClusterId, Db, DbError, Revision,
    guest::{self, GuestRow},
    revision::{self, Changes, Table},
    tombstone,
};
use tokio::task::JoinSet;

use crate::support::{Mirror, SOON, eventually, on_every_database};

/// Between two looks for changes.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Row(GuestRow);

impl Object for Row {
    type Key = i64;

    fn key(&self) -> i64 {
        self.0.id.0
    }

    fn version(&self) -> u64 {
        version(&self.0)
    }
}

fn version(row: &GuestRow) -> u64 {
    u64::try_from(row.revision.0).expect("revisions are counted up from 0")
}

/// The guests of one cluster.
#[derive(Clone)]
struct Guests {
    db: Db,
    cluster: ClusterId,
}

type Event = Result<WatchEvent<Row>, SourceError>;

impl Guests {
    fn events(&self, changes: Changes<GuestRow>) -> Vec<Event> {
        let gone = changes.gone.into_iter().filter(|it| it.cluster_id == self.cluster);
        let rows = changes.rows.into_iter().filter(|it| it.cluster_id == self.cluster);
        gone.map(|stone| Ok(WatchEvent::Delete(stone.row_id)))
            .chain(rows.map(|row| Ok(WatchEvent::Upsert(Row(row)))))
            .chain([Ok(WatchEvent::Progress(cursor(changes.revision)))])
            .collect()
    }

    /// The next changes after `since`, as soon as there are any.
    async fn changes(&self, since: Revision) -> Result<Changes<GuestRow>, SourceError> {
        loop {
            let read = self.db.read(async |conn| guest::changes_since(conn, since, 100).await);
            let changes = read.await.map_err(classed)?;
            if changes.revision != since {
                return Ok(changes);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn cursor(revision: Revision) -> Cursor {
    Cursor::from(u64::try_from(revision.0).expect("revisions are counted up from 0"))
}

fn classed(error: DbError) -> SourceError {
    match error {
        DbError::Expired { .. } => SourceError::expired(error),
        other => SourceError::transient(other),
    }
}

impl ListWatcher for Guests {
    type Object = Row;

    async fn list(&self, into: &mut Listing<'_, Row>) -> Result<ListDone, SourceError> {
        let cluster = self.cluster;
        let read = self.db.read(async |conn| {
            let at = revision::current(conn, Table::Guest).await?;
            Ok((at, guest::load(conn, cluster).await?))
        });
        let (at, rows) = read.await.map_err(classed)?;
        for row in rows {
            let (id, version) = (row.id.0, version(&row));
            into.offer(&id, version, || Row(row));
        }
        Ok(ListDone::at(cursor(at)))
    }

    fn watch(&self, since: &Cursor) -> impl Stream<Item = Event> + Send {
        let since = since.as_u64().and_then(|at| i64::try_from(at).ok()).unwrap_or(0);
        let start = Some((self.clone(), Revision(since)));
        stream::unfold(start, |state| async {
            let (table, since) = state?;
            Some(match table.changes(since).await {
                Ok(changes) => {
                    let at = changes.revision;
                    (stream::iter(table.events(changes)), Some((table, at)))
                }
                Err(error) => (stream::iter(vec![Err(error)]), None),
            })
        })
        .flatten()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_the_mirror_can_be_followed_by_its_revisions() {
    on_every_database("table_source", async |database| {
        let (mirror, it) = Mirror::of(database, Config::quick().guests(12)).await;
        mirror.until_reason(&it, "Synced").await;
        let table = Guests { db: mirror.db().clone(), cluster: it.id };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let informer = SharedIndexInformer::builder(table.clone()).build();
        let (handle, store) = (informer.handle(), informer.store().clone());
        let mut running = JoinSet::new();
        running.spawn(informer.run(async { drop(stopped.await) }));
        handle.synced(SOON).await.expect("the table is listed");

        it.sim.rename(101, "renamed");
        it.sim.set_status(104, Status::Stopped);
        it.sim.remove_guest(102);
        it.sim.add_guest(Guest::qemu(900, "pve1").running());
        mirror.until_equal(&it).await;

        eventually("the informer has what the table has", SOON, || async {
            let rows = mirror.guests(it.id).await;
            let wanted: BTreeMap<_, _> = rows.iter().map(|row| (row.id.0, version(row))).collect();
            let snapshot = store.snapshot();
            let seen: BTreeMap<_, _> =
                snapshot.iter().map(|row| (row.key(), row.version())).collect();
            if seen == wanted { Ok(()) } else { Err((seen, wanted)) }
        })
        .await;
        assert_eq!(handle.status().attempts, 2, "by one list and one watch");

        eventually("the last details are read", SOON, || async {
            let rows = mirror.guests(it.id).await;
            let unread = rows.iter().filter(|row| row.details_at.is_none()).count();
            if unread == 0 { Ok(()) } else { Err(unread) }
        })
        .await;
        // Numbers that move all the time raise no revision, so now the table is at rest.
        conformance(&table).await.expect("it keeps the promises of a source");

        let forget = mirror
            .db()
            .write(async |conn| tombstone::prune(conn, Table::Guest, Duration::ZERO).await);
        assert!(forget.await.unwrap() > 0);
        let first = std::pin::pin!(table.watch(&Cursor::from(0))).next().await;
        assert!(matches!(first, Some(Err(SourceError::Expired { .. }))), "{first:?}");

        drop(stop);
        running.join_all().await;
    })
    .await;
}
