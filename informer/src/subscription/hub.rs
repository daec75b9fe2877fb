//! All subscriptions of one informer, and how a change reaches them.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Subscription;
use super::options::{Replay, SubscribeOptions};
use super::parking::Parking;
use super::queue::{Lag, Queue, QueueState};
use crate::delta_fifo::{Change, DeltaFifo};
use crate::metrics::Metrics;
use crate::object::Object;
use crate::quarantine::{Quarantine, Refused};
use crate::resync::Resync;
use crate::status::Status;
use crate::store::{Stamped, Store};
use crate::sync::{Mutex, Notify, RwLock};

/// All subscriptions of one informer.
pub(crate) struct Hub<T: Object> {
    pub(crate) name: String,
    pub(crate) store: Store<T>,
    /// Generation of the store once the seeds are in it.
    seeded: u64,
    pub(super) queues: RwLock<Vec<Arc<Queue<T>>>>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) metrics: Arc<dyn Metrics>,
    pub(crate) quarantine: Quarantine<T::Key>,
}

impl<T: Object> Hub<T> {
    pub(crate) fn new(
        name: String,
        store: Store<T>,
        metrics: Arc<dyn Metrics>,
        quarantine: Quarantine<T::Key>,
    ) -> Self {
        let seeded = store.generation();
        let queues = RwLock::new(Vec::new());
        let status = watch::Sender::new(Status::default());
        Self { name, store, seeded, queues, status, metrics, quarantine }
    }

    /// Puts aside what cannot be taken.
    pub(crate) fn reject(&self, refused: Refused<T::Key>, list: u32) {
        self.metrics.rejected(&self.name);
        self.quarantine.add(refused, list);
    }

    pub(crate) fn subscribe(self: &Arc<Self>, options: SubscribeOptions<T>) -> Subscription<T> {
        let shards = self.store.shards();
        let resync = options.resync.map(Resync::new);
        let fifo = if options.keep_old { DeltaFifo::with_old_objects() } else { DeltaFifo::new() };
        // Whatever is published after this lock is released reaches the new queue.
        let mut queues = self.queues.write();
        let generation = self.store.generation();
        let replay = match options.replay {
            Replay::All => true,
            Replay::Nothing => false,
            Replay::UnlessSeeded => generation != self.seeded,
        };
        let (next_shard, known) =
            if replay { (0, vec![0; shards]) } else { (shards, vec![generation; shards]) };
        let closed = self.status.borrow().stopped();
        let state =
            Mutex::new(QueueState { fifo, next_shard, known, resync, closed, disconnected: false });
        let parking = Parking::new();
        let (ready, synced) = (Notify::new(), Notify::new());
        let queue = Arc::new(Queue { options, state, parking, ready, synced });
        queues.push(queue.clone());
        drop(queues);
        Subscription { queue, hub: self.clone() }
    }

    fn publish(&self, batch: &[Stamped<T>]) {
        let initial = !self.status.borrow().synced;
        let now = Instant::now();
        for queue in self.queues.read().iter() {
            if queue.push(batch, initial, now) {
                self.metrics.disconnected(&self.name, &queue.options.name);
            }
        }
        self.store.notify_waiters();
    }

    /// Name and lag of each subscription.
    pub(crate) fn lags(&self) -> Vec<(String, Lag)> {
        let queues: Vec<_> = self.queues.read().iter().cloned().collect();
        queues.iter().map(|queue| (queue.options.name.clone(), queue.lag(&self.store))).collect()
    }

    pub(crate) fn close(&self) {
        self.status.send_modify(Status::stop);
        for queue in self.queues.read().iter() {
            queue.state.lock().closed = true;
            queue.ready.notify_one();
        }
    }
}

/// Collects changes and hands them to all subscriptions.
pub(crate) struct Publisher<T: Object> {
    hub: Arc<Hub<T>>,
    batch: Vec<Stamped<T>>,
}

impl<T: Object> Publisher<T> {
    pub(crate) fn new(hub: Arc<Hub<T>>) -> Self {
        Self { hub, batch: Vec::new() }
    }

    pub(crate) fn hub(&self) -> &Hub<T> {
        &self.hub
    }

    /// Adds a change; answers how many wait for a flush.
    pub(crate) fn add(&mut self, change: Stamped<T>) -> usize {
        if self.hub.quarantine.len() > 0 {
            self.hub.quarantine.release(&change.change.object().key());
        }
        self.batch.push(change);
        self.batch.len()
    }

    pub(crate) fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        self.hub.publish(&self.batch);
        let (mut added, mut modified, mut deleted) = (0, 0, 0);
        for stamped in self.batch.drain(..) {
            match stamped.change {
                Change::Added(_) => added += 1,
                Change::Modified { .. } | Change::Replaced { .. } => modified += 1,
                Change::Deleted { .. } => deleted += 1,
            }
        }
        for (kind, count) in [("added", added), ("modified", modified), ("deleted", deleted)] {
            if count > 0 {
                self.hub.metrics.changed(&self.hub.name, kind, count);
            }
        }
    }
}

impl<T: Object> Drop for Publisher<T> {
    fn drop(&mut self) {
        self.flush();
        self.hub.close();
    }
}
