//! One handler's view of an informer: a queue of its own that it empties when it likes.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::delta_fifo::{Change, DeltaFifo, Event};
use crate::list_watcher::Cause;
use crate::metrics::Metrics;
use crate::object::Object;
use crate::resync::Resync;
use crate::status::{NotSynced, Status, wait_for_sync};
use crate::store::{Stamped, Store};

type Only<T> = Arc<dyn Fn(&T) -> bool + Send + Sync>;
type ChangedBy<T> = Arc<dyn Fn(&T, &T) -> bool + Send + Sync>;

type OnFailure<T> = Arc<dyn Fn(&Event<T>, u32, &Cause) + Send + Sync>;

/// What a handler wants to hear of, and how.
///
/// ```
/// use std::time::Duration;
/// use informer::SubscribeOptions;
///
/// # struct Guest { node: &'static str, name: String }
/// # impl informer::Object for Guest {
/// #     type Key = String;
/// #     fn key(&self) -> String { self.name.clone() }
/// #     fn version(&self) -> u64 { 0 }
/// # }
/// let options = SubscribeOptions::<Guest>::named("renames on a")
///     .only(|guest| guest.node == "a")
///     .changed_by(|old, new| old.name != new.name)
///     .old_objects();
/// ```
#[must_use]
pub struct SubscribeOptions<T> {
    name: String,
    keep_old: bool,
    replay: Replay,
    only: Option<Only<T>>,
    changed_by: Option<ChangedBy<T>>,
    resync: Option<Duration>,
    on_failure: Option<OnFailure<T>>,
}

/// What a new handler is told of objects that are there already.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Replay {
    /// Who subscribes before the first list is taken to know the seeded objects and hears only
    /// of what differs from them; who comes later hears of everything.
    #[default]
    UnlessSeeded,
    /// Everything that is there, seeded or not, as [`Event::Added`].
    All,
    /// Nothing; only changes from now on.
    Nothing,
}

impl<T: Object> SubscribeOptions<T> {
    /// Everything, without old objects, replaying the store to those who come late.
    ///
    /// The name shows up in metrics.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            keep_old: false,
            replay: Replay::default(),
            only: None,
            changed_by: None,
            resync: None,
            on_failure: None,
        }
    }

    /// Keeps for each waiting [`Event::Modified`] how the object looked when the handler was
    /// last told of it. A handler that lags behind then holds up to one old object per key.
    pub fn old_objects(mut self) -> Self {
        self.keep_old = true;
        self
    }

    /// What to be told of objects that are there already.
    pub fn replay(mut self, replay: Replay) -> Self {
        self.replay = replay;
        self
    }

    /// Only objects for which this holds. One that comes to fulfil it is added, one that ceases
    /// to is deleted, whatever the store says.
    ///
    /// Must depend on the object alone; runs under a lock. A panic counts as `true`.
    pub fn only(mut self, holds: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        self.only = Some(Arc::new(holds));
        self
    }

    /// Of modifications only those for which `differs(old, new)`. Adds and deletes always come.
    ///
    /// Runs under a lock. A panic counts as `true`.
    pub fn changed_by(mut self, differs: impl Fn(&T, &T) -> bool + Send + Sync + 'static) -> Self {
        self.changed_by = Some(Arc::new(differs));
        self
    }

    /// Reminds of every object once per period, evenly spread over it, as [`Event::Resync`].
    pub fn resync_every(mut self, period: Duration) -> Self {
        self.resync = Some(period);
        self
    }

    /// Called when a [push-style handler](Subscription::for_each) fails on an event, with the
    /// number of failures in a row: the place to log.
    pub fn on_failure(
        mut self,
        hook: impl Fn(&Event<T>, u32, &Cause) + Send + Sync + 'static,
    ) -> Self {
        self.on_failure = Some(Arc::new(hook));
        self
    }

    /// What the handler is to make of a change; `None` if it is not worth an event.
    fn view(&self, change: &Change<T>) -> View<T> {
        let passes = |object: &T| match &self.only {
            None => true,
            Some(holds) => catch_unwind(AssertUnwindSafe(|| holds(object))).unwrap_or(true),
        };
        match change {
            Change::Added(new) if passes(new) => View::Event(change.clone()),
            Change::Deleted { last, .. } if passes(last) => View::Event(change.clone()),
            Change::Added(_) | Change::Deleted { .. } => View::Nothing,
            Change::Replaced { old, new } | Change::Modified { old, new } => {
                match (passes(old), passes(new)) {
                    (true, true) if self.same(change) => View::Refresh(change.clone()),
                    (true, true) => View::Event(change.clone()),
                    (false, true) => View::Event(Change::Added(new.clone())),
                    (true, false) => View::Event(Change::Deleted {
                        last: old.clone(),
                        certainty: crate::Certainty::Observed,
                    }),
                    (false, false) => View::Nothing,
                }
            }
        }
    }

    fn same(&self, change: &Change<T>) -> bool {
        match (change, &self.changed_by) {
            (Change::Modified { old, new }, Some(differs)) => {
                !catch_unwind(AssertUnwindSafe(|| differs(old, new))).unwrap_or(true)
            }
            _ => false,
        }
    }
}

impl<T: Object> Default for SubscribeOptions<T> {
    fn default() -> Self {
        Self::named("default")
    }
}

impl<T> fmt::Debug for SubscribeOptions<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscribeOptions")
            .field("name", &self.name)
            .field("replay", &self.replay)
            .field("resync", &self.resync)
            .finish_non_exhaustive()
    }
}

enum View<T> {
    Event(Change<T>),
    /// Not worth an event, but what waits should not be older than need be.
    Refresh(Change<T>),
    Nothing,
}

/// How far behind a subscription is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Lag {
    /// Keys of which it was not told yet.
    pub keys: usize,
    /// How long the first of them has waited.
    pub oldest: Duration,
    /// Changes that were merged into others so far.
    pub coalesced: u64,
}

/// All subscriptions of one informer.
pub(crate) struct Hub<T: Object> {
    pub(crate) name: String,
    pub(crate) store: Store<T>,
    /// Generation of the store once the seeds are in it.
    seeded: u64,
    queues: RwLock<Vec<Arc<Queue<T>>>>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) metrics: Arc<dyn Metrics>,
}

struct Queue<T: Object> {
    options: SubscribeOptions<T>,
    state: Mutex<QueueState<T>>,
    /// There is something to take, or no more to come.
    ready: Notify,
    /// Something was taken.
    taken: Notify,
}

struct QueueState<T: Object> {
    fifo: DeltaFifo<T>,
    /// The next shard to replay; all of them when it is the number of shards.
    next_shard: usize,
    /// Per shard, the generation whose changes the handler knows of; empty means 0 for all.
    known: Vec<u64>,
    resync: Option<Resync<T>>,
    closed: bool,
}

impl<T: Object> Hub<T> {
    pub(crate) fn new(name: String, store: Store<T>, metrics: Arc<dyn Metrics>) -> Self {
        let seeded = store.generation();
        let queues = RwLock::new(Vec::new());
        let status = watch::Sender::new(Status::default());
        Self { name, store, seeded, queues, status, metrics }
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
        let state = Mutex::new(QueueState { fifo, next_shard, known, resync, closed });
        let queue = Arc::new(Queue { options, state, ready: Notify::new(), taken: Notify::new() });
        queues.push(queue.clone());
        drop(queues);
        Subscription { queue, hub: self.clone() }
    }

    fn publish(&self, batch: &[Stamped<T>]) {
        let initial = !self.status.borrow().synced;
        let now = Instant::now();
        for queue in self.queues.read().iter() {
            queue.push(batch, initial, now);
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

impl<T: Object> Queue<T> {
    fn push(&self, batch: &[Stamped<T>], initial: bool, now: Instant) {
        let mut state = self.state.lock();
        for stamped in batch {
            if stamped.shard >= state.next_shard || stamped.generation <= state.known[stamped.shard]
            {
                continue; // the replay has it, or will come to it
            }
            match self.options.view(&stamped.change) {
                View::Event(change) => state.fifo.push_at(change, stamped.hash, initial, now),
                View::Refresh(change) => state.fifo.refresh_at(change, stamped.hash, now),
                View::Nothing => {}
            }
        }
        let wake = !state.fifo.is_empty();
        drop(state);
        if wake {
            self.ready.notify_one();
        }
    }

    fn pop(&self, store: &Store<T>, now: Instant) -> Option<Event<T>> {
        let mut state = self.state.lock();
        state.replay(&self.options, store, now);
        let state = &mut *state;
        if state.fifo.is_empty()
            && !state.closed
            && let Some(resync) = &mut state.resync
        {
            let passes = |object: &Arc<T>| {
                matches!(self.options.view(&Change::Added(object.clone())), View::Event(_))
            };
            resync.advance(store, now, |object| {
                if passes(&object) {
                    state.fifo.push_resync(object);
                }
            });
        }
        let event = state.fifo.pop();
        self.taken.notify_waiters();
        event
    }
}

impl<T: Object> QueueState<T> {
    /// Brings the next shards in, once the earlier ones were taken.
    fn replay(&mut self, options: &SubscribeOptions<T>, store: &Store<T>, now: Instant) {
        while self.next_shard < self.known.len() && self.fifo.initial() == 0 {
            let shard = self.next_shard;
            let fifo = &mut self.fifo;
            self.known[shard] = store.replay(shard, |hash, object| {
                if let View::Event(change) = options.view(&Change::Added(object.clone())) {
                    fifo.push_at(change, hash, true, now);
                }
            });
            self.next_shard += 1;
        }
    }

    fn replayed(&self) -> bool {
        self.next_shard >= self.known.len() && self.fifo.initial() == 0
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

    /// Adds a change; answers how many wait for a flush.
    pub(crate) fn add(&mut self, change: Stamped<T>) -> usize {
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

/// One handler's events, to be taken whenever it suits the handler.
///
/// Nobody ever waits for it: what is not taken is merged per key, so a subscription that is
/// never looked at holds at most one entry per key. Dropping it unsubscribes and frees all.
#[must_use = "a subscription that is dropped is over"]
pub struct Subscription<T: Object> {
    queue: Arc<Queue<T>>,
    hub: Arc<Hub<T>>,
}

impl<T: Object> Subscription<T> {
    /// The next event; `None` once the informer has stopped and everything was taken.
    ///
    /// # Cancellation
    ///
    /// Safe: an event is taken only when it is returned.
    pub async fn next(&mut self) -> Option<Event<T>> {
        loop {
            if let Some(event) = self.try_next() {
                return Some(event);
            }
            let (closed, resync) = {
                let state = self.queue.state.lock();
                (state.closed && state.fifo.is_empty(), self.resync_at(&state))
            };
            if closed {
                return None;
            }
            match resync {
                Some(at) => tokio::select! {
                    () = self.queue.ready.notified() => {}
                    () = sleep_until(at) => {}
                },
                None => self.queue.ready.notified().await,
            }
        }
    }

    /// The next event, if there is one now.
    pub fn try_next(&mut self) -> Option<Event<T>> {
        self.queue.pop(&self.hub.store, Instant::now())
    }

    /// Waits for an event, then for up to `linger` for more, and returns at most `max` of them,
    /// each key once (a thing that was replaced by another under its key: a delete, then an
    /// add). `None` once the informer has stopped and everything was taken.
    ///
    /// # Cancellation
    ///
    /// Safe: dropping it gives back what it had taken.
    pub async fn next_batch(&mut self, max: usize, linger: Duration) -> Option<Vec<Event<T>>> {
        let first = self.next().await?;
        let mut batch = Taken { events: vec![first], queue: self.queue.clone() };
        let until = Instant::now() + linger;
        while batch.events.len() < max.max(1) {
            if let Some(event) = self.try_next() {
                batch.events.push(event);
                continue;
            }
            // A timeout of nothing still lets the other side run once.
            match timeout(until.saturating_duration_since(Instant::now()), self.next()).await {
                Ok(Some(event)) => batch.events.push(event),
                Ok(None) | Err(_) => break,
            }
        }
        Some(std::mem::take(&mut batch.events))
    }

    /// Puts events back that could not be dealt with. They come again, after what waits already;
    /// where something newer waits for a key, the two become one event.
    pub fn give_back(&mut self, events: impl IntoIterator<Item = Event<T>>) {
        self.queue.give_back(events);
    }

    /// Reads and waits for this subscription from elsewhere.
    pub fn monitor(&self) -> SubscriptionMonitor<T> {
        SubscriptionMonitor { queue: self.queue.clone(), hub: self.hub.clone() }
    }

    /// The store that the events are about.
    pub fn store(&self) -> &Store<T> {
        &self.hub.store
    }

    /// See [`SubscriptionMonitor::lag`].
    pub fn lag(&self) -> Lag {
        self.queue.lag(&self.hub.store)
    }

    /// See [`SubscriptionMonitor::has_synced`].
    pub fn has_synced(&self) -> bool {
        self.queue.has_synced(&self.hub)
    }

    /// The name that was given to it.
    pub fn name(&self) -> &str {
        &self.queue.options.name
    }

    pub(crate) fn count_failure(&self, panicked: bool) {
        self.hub.metrics.handler_failed(&self.hub.name, self.name(), panicked);
    }

    /// Notes that a handler failed on an event, for the `failures`-th time in a row.
    pub(crate) fn failed(&self, event: &Event<T>, failures: u32, panicked: bool, cause: &Cause) {
        self.count_failure(panicked);
        if let Some(hook) = &self.queue.options.on_failure {
            let told = catch_unwind(AssertUnwindSafe(|| hook(event, failures, cause)));
            if told.is_err() {
                self.count_failure(true);
            }
        }
    }

    fn resync_at(&self, state: &QueueState<T>) -> Option<Instant> {
        state.resync.as_ref().map(|resync| resync.next_at(&self.hub.store, Instant::now()))
    }
}

/// Events on their way to the handler; given back if they do not arrive.
struct Taken<T: Object> {
    events: Vec<Event<T>>,
    queue: Arc<Queue<T>>,
}

impl<T: Object> Drop for Taken<T> {
    fn drop(&mut self) {
        self.queue.give_back(std::mem::take(&mut self.events));
    }
}

impl<T: Object> Drop for Subscription<T> {
    fn drop(&mut self) {
        self.hub.queues.write().retain(|queue| !Arc::ptr_eq(queue, &self.queue));
        let mut state = self.queue.state.lock();
        state.closed = true;
        state.fifo = DeltaFifo::new();
        state.resync = None;
    }
}

impl<T: Object> fmt::Debug for Subscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("name", &self.name())
            .field("lag", &self.lag())
            .finish_non_exhaustive()
    }
}

impl<T: Object> Queue<T> {
    fn give_back(&self, events: impl IntoIterator<Item = Event<T>>) {
        let mut state = self.state.lock();
        for event in events {
            state.fifo.give_back(event);
        }
        drop(state);
        self.ready.notify_one();
    }

    fn lag(&self, store: &Store<T>) -> Lag {
        let state = self.state.lock();
        let to_replay: usize =
            (state.next_shard..state.known.len()).map(|shard| store.shard_len(shard)).sum();
        Lag {
            keys: state.fifo.len() + to_replay,
            oldest: state.fifo.oldest().unwrap_or_default(),
            coalesced: state.fifo.coalesced(),
        }
    }

    fn has_synced(&self, hub: &Hub<T>) -> bool {
        hub.status.borrow().synced && self.state.lock().replayed()
    }
}

/// Watches one subscription from outside; clones watch the same one.
pub struct SubscriptionMonitor<T: Object> {
    queue: Arc<Queue<T>>,
    hub: Arc<Hub<T>>,
}

impl<T: Object> SubscriptionMonitor<T> {
    /// How far behind the handler is.
    pub fn lag(&self) -> Lag {
        self.queue.lag(&self.hub.store)
    }

    /// Whether the informer has synced and the handler took everything that was there then.
    pub fn has_synced(&self) -> bool {
        self.queue.has_synced(&self.hub)
    }

    /// Waits until [`has_synced`](Self::has_synced).
    ///
    /// # Errors
    ///
    /// [`NotSynced`] after `deadline`, with the last error of the source.
    pub async fn synced(&self, deadline: Duration) -> Result<(), NotSynced> {
        let until = Instant::now() + deadline;
        wait_for_sync(&self.hub.status, deadline).await?;
        loop {
            // Armed before the question, so that what is taken in between is not missed.
            let mut taken = std::pin::pin!(self.queue.taken.notified());
            taken.as_mut().enable();
            if self.has_synced() {
                return Ok(());
            }
            if timeout(until.saturating_duration_since(Instant::now()), taken).await.is_err() {
                return Err(NotSynced::new(deadline, &self.hub.status.borrow()));
            }
        }
    }
}

impl<T: Object> Clone for SubscriptionMonitor<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), hub: self.hub.clone() }
    }
}

impl<T: Object> fmt::Debug for SubscriptionMonitor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriptionMonitor").field("lag", &self.lag()).finish_non_exhaustive()
    }
}
