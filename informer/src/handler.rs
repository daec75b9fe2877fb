//! Push-style handlers: a function that is called with every event of a subscription, and again
//! after a back-off if it fails.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
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
}

impl Retry {
    /// Tries an event at most `attempts` times, with these pauses in between.
    pub const fn new(backoff: Backoff, attempts: u32) -> Self {
        Self { backoff, attempts }
    }

    /// Tries for ever.
    pub const fn forever(backoff: Backoff) -> Self {
        Self::new(backoff, u32::MAX)
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
    /// Events that were given up after so many attempts.
    pub given_up: u64,
    /// Events that had failed and waited for another attempt when the informer stopped.
    pub unhandled: Vec<Event<T>>,
}

impl<T: Object> Subscription<T> {
    /// Calls `handler` with every event, one after the other, until the informer has stopped.
    ///
    /// An event on which it returns an error or panics is counted, and comes again after a
    /// back-off while events of other keys go on; what happens to the same key meanwhile is
    /// merged into it. A handler that is slow or stuck delays itself alone.
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
    pub async fn for_each<F, W, E>(self, retry: Retry, handler: F) -> Handled<T>
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
            result: Handled { handled: 0, failures: 0, given_up: 0, unhandled: Vec::new() },
        };
        worker.run(self).await;
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
    async fn run(&mut self, mut subscription: Subscription<T>) {
        loop {
            let due = self.due.first().map(|(at, _)| *at);
            tokio::select! {
                biased;
                () = until(due) => self.again(&subscription).await,
                event = subscription.next() => match event {
                    Some(event) => self.first(event, &subscription).await,
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
            let older = self.failed.take(&key);
            self.failed.give_back(event);
            if let Some(older) = older {
                self.failed.give_back(older);
            }
            return;
        }
        self.call(event, 0, subscription).await;
    }

    async fn again(&mut self, subscription: &Subscription<T>) {
        let Some((_, key)) = self.due.pop_first() else { return };
        let Some((failures, _)) = self.failures.remove(&key) else { return };
        // A thing that was replaced by another one is a delete and an add.
        while let Some(event) = self.failed.take(&key) {
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
        let (panicked, cause): (bool, Cause) = match ended {
            Ok(Err(error)) => (false, error.into()),
            Err(panic) => (true, format!("panicked: {}", panic_text(panic.as_ref())).into()),
            Ok(Ok(())) => return true,
        };
        subscription.failed(&event, failures + 1, panicked, &cause);
        self.result.failures += 1;
        if failures + 1 >= self.retry.attempts {
            self.result.given_up += 1;
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
