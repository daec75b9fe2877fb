//! Keys that need work: each once, never twice at the same time, again after a failure.

use std::fmt;
use std::future::poll_fn;
use std::hash::Hash;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use crate::backoff::Backoff;
use crate::metrics::Metrics;
use crate::object::{Key, fingerprint, table_hash};
use crate::queue_core::{Core, GroupOf, Outcome, Wake};
use crate::ready::{Priority, Ready};
use crate::sleepers::{Sleepers, Ticket};
use crate::sync::{Mutex, Notify};

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
        let mut turn = Turn { queue: self, ticket: None };
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
        match (Turn { queue: self, ticket: None }).look(None) {
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

/// Somebody's wait for a key. If it is given up, whoever comes next is woken in its place.
struct Turn<'a, K: Key> {
    queue: &'a WorkQueue<K>,
    /// There is one once it went to sleep.
    ticket: Option<Ticket>,
}

impl<K: Key> Turn<'_, K> {
    /// Takes a key, or goes to sleep if there is a waker to be woken by.
    fn look(&mut self, waker: Option<&Waker>) -> Look<K> {
        let shared = &self.queue.shared;
        let mut state = shared.state.lock();
        if state.mode == Mode::Closed {
            return Look::Over;
        }
        let now = Instant::now();
        let promoted = if state.mode == Mode::Open { state.core.promote(now) } else { 0 };
        let Some((at, key, failures, since)) = state.core.take(now) else {
            let over = state.mode == Mode::Draining
                && state.core.running() == 0
                && state.core.ready() == 0;
            let Some(waker) = waker.filter(|_| !over) else {
                return if over { Look::Over } else { Look::Empty(None) };
            };
            let ticket = state.sleepers.sleep(self.ticket, waker);
            self.ticket = Some(ticket);
            let due = state.core.next_due().filter(|_| state.mode == Mode::Open);
            let due = due.filter(|_| state.sleepers.keep_time(ticket));
            return Look::Empty(due);
        };
        let depth = state.core.ready();
        let mut woken = Vec::new();
        let mut others = promoted;
        let left = self.ticket.take().map(|ticket| state.sleepers.leave(ticket));
        if left.is_none_or(|left| !left.woken) {
            // Nobody counts on this taker, so one of what there is now is its own.
            others = others.saturating_sub(1);
        }
        if left.is_some_and(|left| left.kept_time) && state.core.next_due().is_some() {
            others += 1; // to keep the time
        }
        woken.extend((0..others).map_while(|_| state.sleepers.wake()));
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        if let Some(metrics) = &shared.metrics {
            let name = &shared.name;
            (0..promoted).for_each(|_| metrics.queue_added(name));
            metrics.queue_depth(name, depth);
            metrics.queue_taken(name, now.saturating_duration_since(since));
        }
        let shared = Some(shared.clone());
        Look::Found(Taken { shared, at, key, failures, since: now })
    }
}

impl<K: Key> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut state = self.queue.shared.state.lock();
        let left = state.sleepers.leave(ticket);
        let passed_on = left.woken && state.core.ready() > 0;
        let unkept = left.kept_time && state.core.next_due().is_some();
        let woken = if passed_on || unkept { state.sleepers.wake() } else { None };
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }
}

/// What there is to take.
enum Look<K: Key> {
    Found(Taken<K>),
    /// Nothing, until then if this taker is the one that keeps the time.
    Empty(Option<Instant>),
    Over,
}

/// Sets a timer to when it is to ring, if it is to ring at all.
fn wait_until(mut timer: Pin<&mut Option<Sleep>>, due: Option<Instant>) -> Option<Pin<&mut Sleep>> {
    if timer.as_ref().as_pin_ref().map(|sleep| sleep.deadline()) != due {
        timer.set(due.map(sleep_until));
    }
    timer.as_pin_mut()
}

/// A key that is worked on. Nobody else gets it until this is gone.
///
/// Say how it went; dropping it without a word (a panic, a cancelled task) counts as a failure.
#[must_use = "dropping it counts as a failure"]
pub struct Taken<K: Key> {
    shared: Option<Arc<Shared<K>>>,
    at: u32,
    key: K,
    failures: u32,
    since: Instant,
}

impl<K: Key> Taken<K> {
    /// The key to work on.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// How often it has failed since it last went well.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// It went well. The key is forgotten, or comes again if it was added meanwhile.
    pub fn done(mut self) {
        self.finish(Outcome::Done);
    }

    /// It went well and wants to come again after a delay, or earlier if it is added.
    pub fn done_after(mut self, delay: Duration) {
        self.finish(Outcome::DoneAfter(delay));
    }

    /// It failed and comes again after its back-off.
    pub fn retry(mut self) {
        self.finish(Outcome::Failed { pause: None });
    }

    /// It failed and comes again after this pause.
    pub fn retry_after(mut self, pause: Duration) {
        self.finish(Outcome::Failed { pause: Some(pause) });
    }

    fn finish(&mut self, outcome: Outcome) {
        if let Some(shared) = self.shared.take() {
            shared.finish(self.at, outcome, self.since);
        }
    }
}

impl<K: Key> Drop for Taken<K> {
    fn drop(&mut self) {
        self.finish(Outcome::Failed { pause: None });
    }
}

/// Sets up a queue; see [`WorkQueue::builder`].
#[must_use = "a builder does nothing until it builds"]
pub struct WorkQueueBuilder<K: Key> {
    name: String,
    backoff: Backoff,
    ageing: Duration,
    cap: usize,
    group_of: Option<GroupOf<K>>,
    metrics: Option<Arc<dyn Metrics>>,
}

impl<K: Key> WorkQueueBuilder<K> {
    /// How long a key that failed waits. Default: 100 ms to 1000 s.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// A key that has waited this much longer than another one makes up for one level of
    /// priority. Default: 10 s.
    pub fn ageing(mut self, per_level: Duration) -> Self {
        self.ageing = per_level;
        self
    }

    /// Puts keys into groups (of one node, of one tenant) that take turns, and of each of which
    /// at most `cap` keys are worked on at once. Default: one group without a limit.
    ///
    /// Runs under a lock; must depend on the key alone.
    pub fn groups<G: Hash>(
        mut self,
        group: impl Fn(&K) -> G + Send + Sync + 'static,
        cap: usize,
    ) -> Self {
        self.group_of = Some(Box::new(move |key| fingerprint(&group(key))));
        self.cap = cap;
        self
    }

    /// Where to count.
    pub fn metrics(mut self, metrics: Arc<dyn Metrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// The queue.
    pub fn build(self) -> WorkQueue<K> {
        let core = Core::new(self.backoff, Ready::new(self.cap, self.ageing), self.group_of);
        WorkQueue {
            shared: Arc::new(Shared {
                name: self.name,
                metrics: self.metrics,
                state: Mutex::new(State { core, mode: Mode::Open, sleepers: Sleepers::default() }),
                ended: Notify::new(),
            }),
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

impl<K: Key> fmt::Debug for WorkQueueBuilder<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkQueueBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<K: Key> fmt::Debug for Taken<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taken")
            .field("key", &self.key)
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}
