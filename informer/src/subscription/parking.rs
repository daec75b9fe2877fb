//! Events that a handler was given up on: they wait until something happens to their key.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::delta_fifo::{DeltaFifo, Event};
use crate::list_watcher::Cause;
use crate::object::Object;

/// A key whose event a [push-style handler](crate::Subscription::for_each) failed on so often
/// that it is not tried again by itself.
///
/// It is tried again, merged with what happened meanwhile, when the next event of its key comes,
/// a [resync](crate::SubscribeOptions::resync_every) included, and when somebody
/// [asks](crate::SubscriptionMonitor::retry_parked) for it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Parked<K> {
    /// What the event was about.
    pub key: K,
    /// What the handler said the last time.
    pub error: Arc<dyn Error + Send + Sync>,
    /// How often in a row it failed.
    pub failures: u32,
    /// When it was parked.
    pub since: Instant,
}

/// The parked events of one subscription; empty for most.
pub(super) struct Parking<T: Object> {
    /// So that nobody who parks nothing ever takes the lock.
    len: AtomicUsize,
    lot: Mutex<Option<Lot<T>>>,
    /// Somebody asked for another attempt.
    wanted: Notify,
}

struct Lot<T: Object> {
    events: DeltaFifo<T>,
    cases: HashMap<T::Key, Parked<T::Key>>,
}

impl<T: Object> Parking<T> {
    pub(super) fn new() -> Self {
        Self { len: AtomicUsize::new(0), lot: Mutex::new(None), wanted: Notify::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Parks events of one key, the oldest first.
    pub(super) fn park(&self, events: Vec<Event<T>>, failures: u32, cause: Cause) {
        let Some(key) = events.first().map(Event::key) else { return };
        let parked = Parked { key, error: cause.into(), failures, since: Instant::now() };
        let mut lot = self.lot.lock();
        let lot =
            lot.get_or_insert_with(|| Lot { events: DeltaFifo::new(), cases: HashMap::new() });
        for event in events.into_iter().rev() {
            lot.events.give_back(event);
        }
        lot.cases.insert(parked.key.clone(), parked);
        self.len.store(lot.cases.len(), Ordering::Release);
    }

    /// Takes out what is parked under a key, the oldest event first.
    pub(super) fn unpark(&self, key: &T::Key) -> Vec<Event<T>> {
        if self.len() == 0 {
            return Vec::new();
        }
        let mut lot = self.lot.lock();
        let Some(there) = lot.as_mut() else { return Vec::new() };
        there.cases.remove(key);
        let events = std::iter::from_fn(|| there.events.take(key)).collect();
        self.len.store(there.cases.len(), Ordering::Release);
        events
    }

    /// Takes out everything, the oldest first.
    pub(super) fn clear(&self) -> Vec<Event<T>> {
        let lot = self.lot.lock().take();
        self.len.store(0, Ordering::Release);
        lot.into_iter().flat_map(|mut lot| std::iter::from_fn(move || lot.events.pop())).collect()
    }

    /// Asks the handler to try again. It does so itself, so that what it has in hand for a key
    /// cannot be overtaken by what is parked there.
    pub(super) fn want(&self) {
        self.wanted.notify_one();
    }

    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    pub(super) fn all(&self) -> Vec<Parked<T::Key>> {
        let lot = self.lot.lock();
        let mut all: Vec<_> = lot.iter().flat_map(|lot| lot.cases.values()).cloned().collect();
        all.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        all
    }
}

impl<T: Object> fmt::Debug for Parking<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parking").field("len", &self.len).finish_non_exhaustive()
    }
}
