//! Keys that need work: each once, never twice at the same time, again after a failure.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::backoff::Backoff;
use crate::metrics::Metrics;
use crate::object::{Key, table_hash};
use crate::queue_core::{Core, Outcome, Wake};
use crate::ready::Priority;
use crate::sleepers::Sleepers;
use crate::sync::{Mutex, Notify};

mod builder;
mod taken;
mod turn;

pub use builder::WorkQueueBuilder;
pub use taken::Taken;
use turn::{Look, Turn, wait_until};

/// A queue of keys between those who see that something needs work and those who work.
///
/// - A key that waits already is not queued twice; one that is added while it is worked on is
///   worked on again afterwards, and never twice at once.
/// - A key that failed comes back after a back-off of its own, which success resets. Adding it
///   meanwhile does not cut the back-off short, unless it is [urgent](Priority::Urgent).
/// - More important keys come first, and less important ones rise with time.
/// - Groups take turns, and a group has at most so many keys worked on at once.
///
/// Clones are the same queue. It runs no task: those who [`take`](Self::take) keep the time.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use informer::{Shutdown, WorkQueue};
///
/// let queue = WorkQueue::builder("details").build();
/// queue.add("vm-100");
/// queue.add("vm-100");
/// queue.add("vm-101");
///
/// let item = queue.take().await.unwrap();
/// assert_eq!(*item.key(), "vm-100");
/// item.done();
///
/// assert_eq!(queue.shutdown(Shutdown::Now).await, ["vm-101"]);
/// assert!(queue.take().await.is_none());
/// # }
/// ```
pub struct WorkQueue<K: Key> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    name: String,
    metrics: Option<Arc<dyn Metrics>>,
    state: Mutex<State<K>>,
    /// Something ended, after the queue was told to end.
    ended: Notify,
}

struct State<K> {
    core: Core<K>,
    mode: Mode,
    sleepers: Sleepers,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    Open,
    /// Takes no more, gives out what is ready.
    Draining,
    /// Takes and gives out no more.
    Closed,
}

/// How to end a queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shutdown {
    /// Gives out no more and does not wait for those who work.
    Now,
    /// Gives out no more and waits for those who work.
    FinishRunning,
    /// Gives out what is ready and waits until all of it is done, at most this long. Keys that
    /// wait for a delay or a back-off are not waited for.
    Drain(Duration),
}

impl<K: Key> WorkQueue<K> {
    /// Starts building a queue; the name is for metrics.
    pub fn builder(name: impl Into<String>) -> WorkQueueBuilder<K> {
        WorkQueueBuilder {
            name: name.into(),
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(1000)),
            ageing: Duration::from_secs(10),
            cap: usize::MAX,
            group_of: None,
            metrics: None,
        }
    }

    /// Wants this key worked on. Answers whether the queue still takes keys.
    pub fn add(&self, key: K) -> bool {
        self.add_with(key, Priority::Normal)
    }

    /// Wants this key worked on; of several priorities the highest counts.
    pub fn add_with(&self, key: K, priority: Priority) -> bool {
        let hash = table_hash(&key);
        self.change(|core| core.add(key, hash, priority, Instant::now))
    }

    /// Wants this key worked on after a delay, unless it is to be before that anyway.
    pub fn add_after(&self, key: K, delay: Duration) -> bool {
        let now = Instant::now();
        self.change(|core| core.add_at(key, now + delay, false, now))
    }

    /// Wants this key worked on after its back-off, as if it had failed once more.
    pub fn add_rate_limited(&self, key: K) -> bool {
        let now = Instant::now();
        self.change(|core| core.add_failed(key, now))
    }

    /// The next key to work on, as soon as there is one; `None` once the queue is shut down.
    ///
    /// # Cancellation
    ///
    /// Safe: a key is taken only when it is returned.
    pub async fn take(&self) -> Option<Taken<K>> {
        let mut turn = Turn::new(self);
        let mut timer = pin!(None);
        poll_fn(|context| {
            loop {
                match turn.look(Some(context.waker())) {
                    Look::Found(taken) => return Poll::Ready(Some(taken)),
                    Look::Over => return Poll::Ready(None),
                    Look::Empty(due) => {
                        let timer = wait_until(timer.as_mut(), due);
                        if timer.is_none_or(|timer| timer.poll(context).is_pending()) {
                            return Poll::Pending;
                        }
                    }
                }
            }
        })
        .await
    }

    /// The next key to work on, if there is one now.
    pub fn try_take(&self) -> Option<Taken<K>> {
        match Turn::new(self).look(None) {
            Look::Found(taken) => Some(taken),
            Look::Empty(_) | Look::Over => None,
        }
    }

    /// Ends the queue and answers the keys that were wanted and not begun, in no particular
    /// order; a key that is to be worked on again is among them. Adding has no effect from now.
    ///
    /// # Cancellation
    ///
    /// The queue takes no more keys from the first poll on, whether or not this is awaited to
    /// its end.
    pub async fn shutdown(&self, how: Shutdown) -> Vec<K> {
        let mode = if let Shutdown::Drain(_) = how { Mode::Draining } else { Mode::Closed };
        self.shared.state.lock().mode = mode;
        self.shared.wake_all();
        match how {
            Shutdown::Now => {}
            Shutdown::FinishRunning => self.until(|core| core.running() == 0).await,
            Shutdown::Drain(limit) => {
                let drained = self.until(|core| core.running() == 0 && core.ready() == 0);
                // Too late or not, the answer is what is left.
                drop(timeout_at(Instant::now() + limit, drained).await);
            }
        }
        let mut state = self.shared.state.lock();
        state.mode = Mode::Closed;
        let left = state.core.drain();
        drop(state);
        self.shared.wake_all();
        left
    }

    /// Keys that are ready to be taken.
    pub fn ready(&self) -> usize {
        self.shared.state.lock().core.ready()
    }

    /// Keys that are worked on.
    pub fn running(&self) -> usize {
        self.shared.state.lock().core.running()
    }

    /// Keys that are ready, delayed, backing off or worked on.
    pub fn len(&self) -> usize {
        self.shared.state.lock().core.len()
    }

    /// Whether there are no keys at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For how long the keys that are worked on have been, all together, and the longest one.
    pub fn unfinished(&self) -> (Duration, Duration) {
        let now = Instant::now();
        let state = self.shared.state.lock();
        let ages = state.core.ages(now);
        ages.fold((Duration::ZERO, Duration::ZERO), |(sum, max), age| (sum + age, max.max(age)))
    }

    /// The name that was given to it.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// A look at the queue that does not keep it alive.
    #[cfg(feature = "prometheus")]
    pub(crate) fn probe(&self) -> impl Fn() -> Option<(usize, Duration, Duration)> + use<K> {
        let shared = Arc::downgrade(&self.shared);
        move || {
            let queue = Self { shared: shared.upgrade()? };
            let (sum, longest) = queue.unfinished();
            Some((queue.ready(), sum, longest))
        }
    }

    fn change(&self, change: impl FnOnce(&mut Core<K>) -> Wake) -> bool {
        let mut state = self.shared.state.lock();
        if state.mode != Mode::Open {
            return false;
        }
        let before = state.core.ready();
        let wake = change(&mut state.core);
        let depth = state.core.ready();
        let woken = state.wake(wake);
        drop(state);
        if let Some(metrics) = &self.shared.metrics
            && depth > before
        {
            metrics.queue_added(&self.shared.name);
            metrics.queue_depth(&self.shared.name, depth);
        }
        woken.wake();
        true
    }

    async fn until(&self, condition: impl Fn(&Core<K>) -> bool) {
        loop {
            let mut ended = std::pin::pin!(self.shared.ended.notified());
            ended.as_mut().enable();
            if condition(&self.shared.state.lock().core) {
                return;
            }
            ended.await;
        }
    }
}

impl<K: Key> Shared<K> {
    fn finish(&self, at: u32, outcome: Outcome, since: Instant) {
        let mut state = self.state.lock();
        let before = state.core.ready();
        let wake = state.core.finish(at, outcome, Instant::now);
        let depth = state.core.ready();
        let ending = state.mode != Mode::Open;
        let woken = state.wake(wake);
        drop(state);
        if let Some(metrics) = &self.metrics {
            let now = Instant::now();
            metrics.queue_done(&self.name, now.saturating_duration_since(since));
            if let Outcome::Failed { .. } = outcome {
                metrics.queue_retried(&self.name);
            }
            if depth > before {
                metrics.queue_added(&self.name);
                metrics.queue_depth(&self.name, depth);
            }
        }
        woken.wake();
        if ending {
            self.wake_all();
        }
    }

    fn wake_all(&self) {
        let woken = self.state.lock().sleepers.wake_all();
        woken.into_iter().for_each(Waker::wake);
        self.ended.notify_waiters();
    }
}

impl<K: Key> State<K> {
    /// Whether a delay runs and nobody waits for its end.
    fn is_unkept(&self) -> bool {
        !self.sleepers.is_kept() && self.core.next_due().is_some()
    }

    /// Those who can go on after something became ready or due. To be woken without the lock.
    fn wake(&mut self, wake: Wake) -> Woken {
        let first = if wake.ready > 0 { self.sleepers.wake() } else { None };
        // An end that lets another key of its group in may bring its own key back as well.
        let second = if wake.ready > 1 {
            self.sleepers.wake()
        } else if wake.timer {
            self.sleepers.wake_keeper()
        } else {
            None
        };
        Woken(first, second)
    }
}

/// Up to two takers that are no longer among those who sleep.
#[must_use = "they sleep until they are woken"]
struct Woken(Option<Waker>, Option<Waker>);

impl Woken {
    fn wake(self) {
        if let Some(waker) = self.0 {
            waker.wake();
        }
        if let Some(waker) = self.1 {
            waker.wake();
        }
    }
}

impl<K: Key> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<K: Key> fmt::Debug for WorkQueue<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkQueue")
            .field("name", &self.name())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
