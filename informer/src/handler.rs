//! Push-style handlers: a function that is called with every event of a subscription, and again
//! after a back-off if it fails.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use futures::FutureExt;
use hashbrown::HashMap;
use tokio::time::{Instant, sleep_until};

use crate::backoff::Backoff;
use crate::delta_fifo::{DeltaFifo, Event};
use crate::list_watcher::Cause;
use crate::object::Object;
use crate::reflector::panic_text;
use crate::subscription::Subscription;

/// What is done about an event that a handler failed on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Retry {
    backoff: Backoff,
    attempts: u32,
    panics: PanicPolicy,
}

/// What is done about a handler that panics.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum PanicPolicy {
    /// It has failed on that event like one that returned an error; others go on.
    #[default]
    Isolate,
    /// It is counted, and then the panic goes on into whoever awaits
    /// [`Subscription::for_each`]: for handlers whose state cannot be trusted after a panic.
    /// What happens to the process is up to that task.
    Abort,
}

impl Retry {
    /// Tries an event at most `attempts` times, with these pauses in between.
    pub const fn new(backoff: Backoff, attempts: u32) -> Self {
        Self { backoff, attempts, panics: PanicPolicy::Isolate }
    }

    /// Tries for ever.
    pub const fn forever(backoff: Backoff) -> Self {
        Self::new(backoff, u32::MAX)
    }

    /// What to do about a handler that panics. Default: [`PanicPolicy::Isolate`].
    #[must_use]
    pub const fn on_panic(mut self, policy: PanicPolicy) -> Self {
        self.panics = policy;
        self
    }
}

impl Default for Retry {
    /// Up to ten times, with pauses of up to 200 ms to 30 s.
    fn default() -> Self {
        Self::new(Backoff::new(Duration::from_millis(200), Duration::from_secs(30)), 10)
    }
}

/// What a handler did in its life.
#[derive(Debug)]
#[non_exhaustive]
pub struct Handled<T> {
    /// Events that were dealt with.
    pub handled: u64,
    /// Calls that returned an error or panicked.
    pub failures: u64,
    /// Events that were given up, and [parked](crate::Parked), after so many attempts.
    pub given_up: u64,
    /// Events that had failed and were parked, or waited for another attempt, when the informer
    /// stopped.
    pub unhandled: Vec<Event<T>>,
    /// Whether the subscription was
    /// [disconnected](crate::SubscribeOptions::disconnect_above) instead.
    pub disconnected: bool,
}

impl<T: Object> Subscription<T> {
    /// Calls `handler` with every event, one after the other, until the informer has stopped.
    ///
    /// An event on which it returns an error or panics is counted, and comes again after a
    /// back-off while events of other keys go on; what happens to the same key meanwhile is
    /// merged into it. After too many attempts it is [parked](crate::Parked). A handler that is
    /// slow or stuck delays itself alone.
    ///
    /// This is a future to be spawned where you spawn things; dropping it unsubscribes.
    ///
    /// ```
    /// # use informer::{Event, Object, Retry, Subscription};
    /// # struct Guest(u32);
    /// # impl Object for Guest {
    /// #     type Key = u32;
    /// #     fn key(&self) -> u32 { self.0 }
    /// #     fn version(&self) -> u64 { 0 }
    /// # }
    /// async fn print(guests: Subscription<Guest>) {
    ///     let done = guests.for_each(Retry::default(), |event| async move {
    ///         println!("{} {}", event.kind(), event.key());
    ///         Ok::<_, std::io::Error>(())
    ///     });
    ///     println!("{} events", done.await.handled);
    /// }
    /// ```
    pub async fn for_each<F, W, E>(mut self, retry: Retry, handler: F) -> Handled<T>
    where
        F: FnMut(Event<T>) -> W + Send,
        W: Future<Output = Result<(), E>> + Send,
        E: Into<Cause> + Send,
    {
        let mut worker = Worker {
            handler,
            retry,
            failed: DeltaFifo::new(),
            failures: HashMap::new(),
            due: BTreeSet::new(),
            result: Handled {
                handled: 0,
                failures: 0,
                given_up: 0,
                unhandled: Vec::new(),
                disconnected: false,
            },
        };
        worker.run(&mut self).await;
        worker.result.disconnected = self.is_disconnected();
        worker.result.unhandled = self.unpark_all();
        while let Some(event) = worker.failed.pop() {
            worker.result.unhandled.push(event);
        }
        worker.result
    }
}

struct Worker<T: Object, F> {
    handler: F,
    retry: Retry,
    /// Events that wait for another attempt.
    failed: DeltaFifo<T>,
    /// How often each of them failed, and when it is due.
    failures: HashMap<T::Key, (u32, Instant)>,
    due: BTreeSet<(Instant, T::Key)>,
    result: Handled<T>,
}

impl<T, F, W, E> Worker<T, F>
where
    T: Object,
    F: FnMut(Event<T>) -> W + Send,
    W: Future<Output = Result<(), E>> + Send,
    E: Into<Cause> + Send,
{
    async fn run(&mut self, subscription: &mut Subscription<T>) {
        let monitor = subscription.monitor();
        loop {
            let due = self.due.first().map(|(at, _)| *at);
            tokio::select! {
                biased;
                () = until(due) => self.again(subscription).await,
                () = monitor.retry_wanted() => {
                    for parked in monitor.parked() {
                        self.all_of(&parked.key, None, subscription).await;
                    }
                }
                event = subscription.next() => match event {
                    Some(event) => self.first(event, subscription).await,
                    None => return,
                },
            }
            tokio::task::consume_budget().await;
        }
    }

    async fn first(&mut self, event: Event<T>, subscription: &Subscription<T>) {
        let key = event.key();
        if self.failures.contains_key(&key) {
            // Its turn comes when the back-off is over.
            let older: Vec<_> = std::iter::from_fn(|| self.failed.take(&key)).collect();
            self.merge(Some(event), older);
            return;
        }
        self.all_of(&key, Some(event), subscription).await;
    }

    /// Calls the handler with what is parked under a key, and what has come since.
    async fn all_of(
        &mut self,
        key: &T::Key,
        newest: Option<Event<T>>,
        subscription: &Subscription<T>,
    ) {
        let parked = subscription.unpark(key);
        match newest {
            Some(event) if parked.is_empty() => {
                self.call(event, 0, subscription).await;
            }
            newest => {
                self.merge(newest, parked);
                self.call_all(key, 0, subscription).await;
            }
        }
    }

    /// Makes one of all that there is for a key; `older` is in order, with the oldest first.
    fn merge(&mut self, newest: Option<Event<T>>, older: Vec<Event<T>>) {
        // What is given back counts as older than what is there.
        for event in older.into_iter().chain(newest).rev() {
            self.failed.give_back(event);
        }
    }

    async fn again(&mut self, subscription: &Subscription<T>) {
        let Some((_, key)) = self.due.pop_first() else { return };
        let Some((failures, _)) = self.failures.remove(&key) else { return };
        self.call_all(&key, failures, subscription).await;
    }

    /// Calls the handler with all that waits under a key: a thing that was replaced by another
    /// one is a delete and an add.
    async fn call_all(&mut self, key: &T::Key, failures: u32, subscription: &Subscription<T>) {
        while let Some(event) = self.failed.take(key) {
            if !self.call(event, failures, subscription).await {
                break;
            }
        }
    }

    /// Answers whether it went well.
    async fn call(
        &mut self,
        event: Event<T>,
        failures: u32,
        subscription: &Subscription<T>,
    ) -> bool {
        let handler = &mut self.handler;
        let call = AssertUnwindSafe(async { handler(event.clone()).await });
        let ended = call.catch_unwind().await;
        if let Ok(Ok(())) = ended {
            self.result.handled += 1;
            return true;
        }
        let (panic, cause): (Option<_>, Cause) = match ended {
            Ok(Err(error)) => (None, error.into()),
            Err(panic) => {
                let cause = format!("panicked: {}", panic_text(panic.as_ref())).into();
                (Some(panic), cause)
            }
            Ok(Ok(())) => return true,
        };
        subscription.failed(&event, failures + 1, panic.is_some(), &cause);
        self.result.failures += 1;
        if let Some(panic) = panic
            && self.retry.panics == PanicPolicy::Abort
        {
            resume_unwind(panic);
        }
        if failures + 1 >= self.retry.attempts {
            self.result.given_up += 1;
            let key = event.key();
            let newer = std::iter::from_fn(|| self.failed.take(&key));
            let events = [event].into_iter().chain(newer).collect();
            subscription.park(events, failures + 1, cause);
            return false;
        }
        let key = event.key();
        let at = Instant::now() + self.retry.backoff.pause(failures, None);
        self.failed.give_back(event);
        self.failures.insert(key.clone(), (failures + 1, at));
        self.due.insert((at, key));
        false
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
