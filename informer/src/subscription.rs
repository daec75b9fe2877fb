//! One handler's view of an informer: a queue of its own that it empties when it likes.

mod hub;
mod options;
mod parking;
mod queue;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use crate::delta_fifo::Event;
use crate::list_watcher::Cause;
use crate::object::Object;
use crate::status::{NotSynced, wait_for_sync};
use crate::store::Store;
pub(crate) use hub::{Hub, Publisher};
pub use options::{Replay, SubscribeOptions};
pub use parking::Parked;
pub use queue::Lag;
use queue::{Queue, QueueState};

/// One handler's events, to be taken whenever it suits the handler.
///
/// Nobody ever waits for it: what is not taken is merged per key, so a subscription that is
/// never looked at holds at most one entry per key. Dropping it unsubscribes and frees all.
///
/// ```
/// use std::time::Duration;
/// use informer::{Event, Object, Subscription};
///
/// /// Writes what changed in batches, each key once; what cannot be written comes again.
/// async fn write<T: Object>(mut changes: Subscription<T>) {
///     while let Some(batch) = changes.next_batch(500, Duration::from_millis(100)).await {
///         if insert(&batch).await.is_err() {
///             changes.give_back(batch);
///             tokio::time::sleep(Duration::from_secs(1)).await;
///         }
///     }
/// }
/// # async fn insert<T>(_: &[Event<T>]) -> Result<(), ()> { Ok(()) }
/// ```
#[must_use = "a subscription that is dropped is over"]
pub struct Subscription<T: Object> {
    queue: Arc<Queue<T>>,
    hub: Arc<Hub<T>>,
}

impl<T: Object> Subscription<T> {
    /// The next event; `None` once the informer has stopped and everything was taken, or the
    /// subscription was [disconnected](Self::is_disconnected).
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
        self.queue.pop(&self.hub.store)
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

    /// Whether it was ended because it would have held
    /// [too many keys](SubscribeOptions::disconnect_above). Subscribe anew to go on.
    pub fn is_disconnected(&self) -> bool {
        self.queue.state.lock().disconnected
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

    /// Parks events of one key, the oldest first, that the handler was given up on.
    pub(crate) fn park(&self, events: Vec<Event<T>>, failures: u32, cause: Cause) {
        self.queue.parking.park(events, failures, cause);
    }

    /// Takes back what is parked under a key.
    pub(crate) fn unpark(&self, key: &T::Key) -> Vec<Event<T>> {
        self.queue.parking.unpark(key)
    }

    /// Takes back all that is parked.
    pub(crate) fn unpark_all(&self) -> Vec<Event<T>> {
        self.queue.parking.clear()
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
        let given_away = self.queue.state.lock().close();
        drop(given_away);
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

    /// See [`Subscription::is_disconnected`].
    pub fn is_disconnected(&self) -> bool {
        self.queue.state.lock().disconnected
    }

    /// What its push-style handler was given up on, by key.
    pub fn parked(&self) -> Vec<Parked<T::Key>> {
        self.queue.parking.all()
    }

    /// Hands everything that is parked to the handler again, as if it had not failed yet.
    pub fn retry_parked(&self) {
        self.queue.parking.want();
    }

    pub(crate) async fn retry_wanted(&self) {
        self.queue.parking.wanted().await;
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
            let mut synced = std::pin::pin!(self.queue.synced.notified());
            synced.as_mut().enable();
            if self.has_synced() {
                return Ok(());
            }
            if timeout(until.saturating_duration_since(Instant::now()), synced).await.is_err() {
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
