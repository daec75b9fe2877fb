//! Brings the changes of one cluster into the tables, in batches, for as long as it takes.
//!
//! Level-triggered: it remembers keys, and writes what the cache holds when their turn comes.
//! A batch that fails is tried again with back-off; a batch that was taken although the answer
//! was lost finds equal rows the next time and writes nothing.

use std::{collections::HashMap, sync::Arc, time::Duration};

use informer::{Backoff, Event, Object, Subscription};
use schema::{
    ClusterId, Db, DbError, Written, guest, guest_tag, node,
    storage::{self, StorageUsage},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    dirty::{Dirty, Taken},
    objects::{Guest, Node, Storage, StorageKey},
    poll::Poll,
    rows, spread,
};
use crate::metrics::{ClusterMetrics, Kind};

/// Rows per transaction.
const BATCH: usize = 500;

/// How long the first change waits for company.
const LINGER: Duration = Duration::from_millis(50);

/// How long a shutdown waits for the database to take what is left.
pub(crate) const FLUSH: Duration = Duration::from_secs(5);

/// The longest pause between two attempts while the database is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What the writer listens to.
#[expect(missing_debug_implementations, reason = "three queues")]
pub struct Changes {
    pub nodes: Subscription<Node>,
    pub guests: Subscription<Guest>,
    pub storages: Subscription<Storage>,
}

/// One cluster's writer.
#[expect(missing_debug_implementations, reason = "its metrics show what it has to do")]
pub struct Writer {
    db: Db,
    cluster: ClusterId,
    env: Option<String>,
    metrics: Arc<ClusterMetrics>,
    polls: watch::Receiver<Option<Arc<Poll>>>,
    changes: Changes,
    pending: Pending,
    failures: u32,
}

#[derive(Default)]
struct Pending {
    nodes: Dirty<Arc<str>>,
    guests: Dirty<u32>,
    storages: Dirty<StorageKey>,
}

impl Pending {
    fn len(&self) -> usize {
        self.nodes.len() + self.guests.len() + self.storages.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn oldest(&self) -> Option<Instant> {
        let kinds = [self.nodes.oldest(), self.guests.oldest(), self.storages.oldest()];
        kinds.into_iter().flatten().min()
    }
}

/// One transaction's worth of keys.
struct Batch {
    nodes: Taken<Arc<str>>,
    guests: Taken<u32>,
    storages: Taken<StorageKey>,
}

/// One transaction's worth of rows.
struct Rows {
    cluster: ClusterId,
    nodes: Vec<node::SyncedNode>,
    left: Vec<String>,
    guests: Vec<guest::SyncedGuest>,
    gone_guests: Vec<i64>,
    storages: Vec<storage::SyncedStorage>,
    gone_storages: Vec<storage::StorageKey>,
}

impl Writer {
    pub fn new(
        db: Db,
        cluster: ClusterId,
        env: Option<String>,
        metrics: Arc<ClusterMetrics>,
        polls: watch::Receiver<Option<Arc<Poll>>>,
        changes: Changes,
    ) -> Self {
        let pending = Pending::default();
        Self { db, cluster, env, metrics, polls, changes, pending, failures: 0 }
    }

    /// Writes until told to stop, and then what is left, for a few seconds at most.
    ///
    /// Every `full_sync` all rows are compared with the cache and repaired, first as soon as the
    /// cache is whole.
    pub async fn run(mut self, full_sync: Duration, stop: CancellationToken) {
        let backoff = Backoff::new(Duration::from_millis(200), LONGEST_PAUSE);
        let mut compare_at = Instant::now();
        let mut until_next = spread::first(full_sync);
        let mut write_at: Option<Instant> = None;
        loop {
            let wake = write_at.unwrap_or(compare_at).min(self.compare_time(compare_at));
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep_until(wake) => {}
                seen = self.next_change() => if !seen { break },
            }
            self.drain();
            if Instant::now() >= self.compare_time(compare_at) {
                match self.compare().await {
                    Ok(()) => {
                        compare_at = Instant::now() + until_next;
                        until_next = full_sync;
                    }
                    Err(error) => {
                        compare_at = Instant::now() + full_sync.min(LONGEST_PAUSE);
                        log("Tables cannot be compared with PVE, trying again", &error);
                    }
                }
            }
            write_at = self.write_if_due(write_at, &backoff).await;
            self.report_state();
        }
        self.drain();
        if timeout(FLUSH, self.flush()).await.is_err() {
            tracing::warn!(
                rows = self.pending.len(),
                "Stopped before the database took every change; the next start finds them"
            );
        }
    }

    fn report_state(&self) {
        let waiting = self.pending.oldest().map(|since| since.elapsed());
        self.metrics.set_writer(self.pending.len(), waiting);
        self.metrics.set_objects(Kind::Node, self.changes.nodes.store().len());
        self.metrics.set_objects(Kind::Guest, self.changes.guests.store().len());
        self.metrics.set_objects(Kind::Storage, self.changes.storages.store().len());
    }

    /// Far in the future until every kind has been listed.
    fn compare_time(&self, at: Instant) -> Instant {
        let synced = self.changes.nodes.has_synced()
            && self.changes.guests.has_synced()
            && self.changes.storages.has_synced();
        if synced {
            at
        } else {
            Instant::now() + Duration::from_millis(500).max(at - Instant::now())
        }
    }

    /// Waits for a change and notes it; false once the informers have stopped.
    async fn next_change(&mut self) -> bool {
        let Self { changes, pending, metrics, .. } = self;
        tokio::select! {
            event = changes.nodes.next() => note(&mut pending.nodes, Kind::Node, metrics, event),
            event = changes.guests.next() => note(&mut pending.guests, Kind::Guest, metrics, event),
            event = changes.storages.next() => note(&mut pending.storages, Kind::Storage, metrics, event),
        }
    }

    /// Notes whatever waits.
    fn drain(&mut self) {
        let Self { changes, pending, metrics, .. } = self;
        while let Some(event) = changes.nodes.try_next() {
            note(&mut pending.nodes, Kind::Node, metrics, Some(event));
        }
        while let Some(event) = changes.guests.try_next() {
            note(&mut pending.guests, Kind::Guest, metrics, Some(event));
        }
        while let Some(event) = changes.storages.try_next() {
            note(&mut pending.storages, Kind::Storage, metrics, Some(event));
        }
    }

    /// Writes a batch if it is time to; answers when the next one is due.
    async fn write_if_due(&mut self, due: Option<Instant>, backoff: &Backoff) -> Option<Instant> {
        if self.pending.is_empty() {
            return None;
        }
        let now = Instant::now();
        let due = due.unwrap_or(now + LINGER);
        let full = self.failures == 0 && self.pending.len() >= BATCH;
        if now < due && !full {
            return Some(due);
        }
        match self.write_batch().await {
            Ok(()) => {
                self.failures = 0;
                Some(Instant::now())
            }
            Err(error) => {
                self.metrics.write_failed();
                if self.failures == 0 {
                    log("The database did not take a batch, trying again until it does", &error);
                }
                let pause = backoff.pause(self.failures, None);
                self.failures = self.failures.saturating_add(1);
                Some(Instant::now() + pause)
            }
        }
    }

    async fn write_batch(&mut self) -> Result<(), DbError> {
        let batch = Batch {
            nodes: self.pending.nodes.take(BATCH),
            guests: self.pending.guests.take(BATCH),
            storages: self.pending.storages.take(BATCH),
        };
        let rows = self.rows(&batch);
        match self.db.write(async |conn| rows.write(conn).await).await {
            Ok(changed) => {
                report(&self.metrics, &changed);
                Ok(())
            }
            Err(error) => {
                self.pending.nodes.put_back(batch.nodes);
                self.pending.guests.put_back(batch.guests);
                self.pending.storages.put_back(batch.storages);
                Err(error)
            }
        }
    }

    /// What the cache holds for these keys now. A key that it lacks by now is, or will be, noted as gone.
    fn rows(&self, batch: &Batch) -> Rows {
        let (nodes, guests) = (self.changes.nodes.store(), self.changes.guests.store());
        let storages = self.changes.storages.store();
        let usage = self.usage();
        let env = self.env.as_deref();
        Rows {
            cluster: self.cluster,
            nodes: current(&batch.nodes, |key| {
                nodes.get(&**key).map(|node| rows::of_node(&node, env))
            }),
            left: gone(&batch.nodes, ToString::to_string),
            guests: current(&batch.guests, |key| {
                guests.get(key).map(|guest| rows::of_guest(&guest))
            }),
            gone_guests: gone(&batch.guests, |vmid| i64::from(*vmid)),
            storages: current(&batch.storages, |key| {
                let usage = usage.get(key).copied().unwrap_or_default();
                storages.get(key).map(|storage| rows::of_storage(&storage, usage))
            }),
            gone_storages: gone(&batch.storages, rows::of_key),
        }
    }

    /// How full each storage was at the last poll.
    fn usage(&self) -> HashMap<StorageKey, StorageUsage> {
        let Some(poll) = self.polls.borrow().clone() else { return HashMap::new() };
        let row = |row: &crate::pve::StorageRow<'_>| {
            let key = StorageKey { node: (*row.node).into(), storage: (*row.storage).into() };
            Some((key, rows::usage(row)?))
        };
        poll.resources.storages().iter().filter_map(row).collect()
    }

    /// Notes every key, so that each row is compared and, where it differs, repaired; and the rows that
    /// the cache has no object for.
    async fn compare(&mut self) -> Result<(), DbError> {
        let cluster = self.cluster;
        let repair = async |conn: &mut schema::Conn| guest_tag::repair(conn, cluster).await;
        let retagged = self.db.write(repair).await?;
        if retagged > 0 {
            tracing::info!(guests = retagged, "Noted the tags of guests anew");
        }
        let mut conn = self.db.conn().await?;
        let nodes = node::load(&mut conn, self.cluster).await?;
        let guests = guest::load(&mut conn, self.cluster).await?;
        let storages = storage::load(&mut conn, self.cluster).await?;
        drop(conn);
        let words = super::interner::Interner::default();
        compare_kind(
            &mut self.pending.nodes,
            self.changes.nodes.store(),
            nodes.iter().filter_map(|row| rows::to_node(row, &words)),
        );
        compare_kind(
            &mut self.pending.guests,
            self.changes.guests.store(),
            guests.iter().filter_map(|row| rows::to_guest(row, &words)),
        );
        compare_kind(
            &mut self.pending.storages,
            self.changes.storages.store(),
            storages.iter().map(|row| rows::to_storage(row, &words)),
        );
        Ok(())
    }

    /// Writes what is left; gives up at the first error.
    async fn flush(&mut self) {
        while !self.pending.is_empty() {
            if let Err(error) = self.write_batch().await {
                log(
                    "The database did not take the last changes; the next start finds them",
                    &error,
                );
                return;
            }
        }
    }
}

fn compare_kind<T: Object>(
    pending: &mut Dirty<T::Key>,
    store: &informer::Store<T>,
    rows: impl Iterator<Item = T>,
) {
    for row in rows {
        if !store.contains(&row.key()) {
            pending.gone(row.key());
        }
    }
    store.for_each(|object| pending.changed(object.key()));
}

impl Rows {
    /// Nodes first: guests refer to them.
    async fn write(&self, conn: &mut schema::Conn) -> Result<Changed, DbError> {
        let mut nodes = node::write(conn, self.cluster, &self.nodes).await?;
        nodes += node::remove(conn, self.cluster, &self.left).await?;
        Ok(Changed {
            nodes,
            guests: guest::write(conn, self.cluster, &self.guests, &self.gone_guests).await?,
            storages: storage::write(conn, self.cluster, &self.storages, &self.gone_storages)
                .await?,
        })
    }
}

/// What one transaction did, by table.
struct Changed {
    nodes: Written,
    guests: Written,
    storages: Written,
}

fn report(metrics: &ClusterMetrics, changed: &Changed) {
    let tables = [
        ("pve_node", &changed.nodes),
        ("pve_vm", &changed.guests),
        ("pve_storage", &changed.storages),
    ];
    for (table, written) in tables {
        metrics.rows_written(table, "insert", written.inserted);
        metrics.rows_written(table, "update", written.updated);
        metrics.rows_written(table, "delete", written.deleted);
    }
    // Guests follow their node's address; addresses go with their guest.
    metrics.rows_written("pve_vm", "update", changed.nodes.followed);
    metrics.rows_written("vm_ipaddress", "delete", changed.guests.followed);
}

/// Remembers an event's key; false if the informer has stopped.
fn note<T: Object>(
    dirty: &mut Dirty<T::Key>,
    kind: Kind,
    metrics: &ClusterMetrics,
    event: Option<Event<T>>,
) -> bool {
    let Some(event) = event else { return false };
    metrics.event(kind, event.kind());
    match event {
        Event::Deleted { last, .. } => dirty.gone(last.key()),
        Event::Added { object, .. } | Event::Modified { object, .. } | Event::Resync(object) => {
            dirty.changed(object.key());
        }
    }
    true
}

/// In the order of their keys, so that the first rows of a new cluster get their ids in an order that people expect.
fn current<K: Ord, R>(taken: &Taken<K>, row: impl Fn(&K) -> Option<R>) -> Vec<R> {
    let mut keys: Vec<&K> = taken.changed.iter().map(|(key, _)| key).collect();
    keys.sort_unstable();
    keys.into_iter().filter_map(row).collect()
}

fn gone<K, R>(taken: &Taken<K>, row: impl Fn(&K) -> R) -> Vec<R> {
    taken.gone.iter().map(|(key, _)| row(key)).collect()
}

fn log(what: &'static str, error: &DbError) {
    if error.is_transient() {
        tracing::warn!(error = error as &dyn std::error::Error, "{what}");
    } else {
        tracing::error!(error = error as &dyn std::error::Error, "{what}");
    }
}
