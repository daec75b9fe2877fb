//! Keeps a store equal to a source: lists, watches if the source can, lists again.
//!
//! ```text
//!            complete, cursor                 ends
//!   List ----------------------> Watch ----------------> Watch (from the last progress)
//!    ^  \ complete, no cursor     |   \ expired
//!    |   v                        |    v
//!   Wait until the next poll      |   List
//!    ^                            v
//!    +------- any failure -----> Wait for the back-off, then where it failed
//! ```
//!
//! Now and then a watch is broken off to [check] the store, and taken up again where it was.

mod check;
mod guard;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::backoff::{Backoff, StartGate, jittered};
use crate::delta_fifo::Certainty;
use crate::list_watcher::{Cursor, ListDone, ListWatcher, SourceError, Verdict};
use crate::listing::{Listing, Sweep};
use crate::object::Object;
use crate::status::Phase;
use crate::store::{StoreWriter, answered};
use crate::subscription::{Hub, Publisher};
use crate::sync::Notify;
use check::Check;
use guard::guarded;
pub(crate) use guard::panic_text;

/// What happens after a failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// Go on after the usual back-off.
    Retry,
    /// Go on after this pause.
    RetryAfter(Duration),
    /// Stop the informer; handlers see the end.
    Stop,
}

/// What a hook that only logs decides.
impl From<()> for Decision {
    fn from((): ()) -> Self {
        Self::Retry
    }
}

/// Asked after every failure, with the number of failures in a row.
pub(crate) type OnError = Arc<dyn Fn(&SourceError, u32) -> Decision + Send + Sync>;

/// When a source that cannot watch is listed again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Pace {
    Every(Duration),
    /// As often as this after a change, and ever more rarely while there is none.
    Adaptive {
        least: Duration,
        most: Duration,
    },
    /// [`ListWatcher::list`] itself waits until there is something to list.
    SelfPaced,
}

#[derive(Clone)]
pub(crate) struct ReflectorOptions {
    pub(crate) pace: Pace,
    pub(crate) relist_every: Option<Duration>,
    pub(crate) verify_every: Option<Duration>,
    pub(crate) backoff: Backoff,
    pub(crate) gate: Option<StartGate>,
    pub(crate) list_timeout: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) on_error: Option<OnError>,
}

/// The part of an informer that talks to the source. Usually run by
/// [`SharedIndexInformer::run`](crate::SharedIndexInformer::run); by itself it lets a test take
/// one [`step`](Self::step) at a time.
///
/// ```
/// # #[derive(Clone)] struct Guest(u32);
/// # impl informer::Object for Guest {
/// #     type Key = u32;
/// #     fn key(&self) -> u32 { self.0 }
/// #     fn version(&self) -> u64 { 0 }
/// # }
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// use informer::testing::{Fault, ScriptedSource};
/// use informer::{SharedIndexInformer, SourceError, Step};
///
/// let source = ScriptedSource::list_only();
/// source.set(Guest(100));
/// source.faults([Fault::Partial(1, SourceError::transient("connection reset"))]);
/// let informer = SharedIndexInformer::builder(source).build();
/// let handle = informer.handle();
/// let mut reflector = informer.into_reflector();
///
/// assert_eq!(reflector.step().await, Step::Failed);
/// assert!(handle.store().contains(&100) && !handle.has_synced());
/// assert_eq!(reflector.step().await, Step::Waited); // the back-off
/// assert_eq!(reflector.step().await, Step::Listed);
/// assert!(handle.has_synced());
/// # }
/// ```
pub struct Reflector<L: ListWatcher> {
    source: L,
    writer: StoreWriter<L::Object>,
    publisher: Publisher<L::Object>,
    hub: Arc<Hub<L::Object>>,
    poke: Arc<Notify>,
    options: ReflectorOptions,
    state: State,
    list: u32,
    /// The last pause of an adaptive pace.
    pause: Duration,
    relist_at: Option<Instant>,
    check_at: Option<Instant>,
    /// A check whose list is in, and whose watch is not there yet.
    check: Option<Check<<L::Object as Object>::Key>>,
    failures: u32,
    /// Watches in a row that ended without a single item.
    barren: u32,
}

#[derive(Clone, Debug)]
enum State {
    List,
    Watch(Cursor),
    /// Compare with a list, then watch from here on.
    Check(Cursor),
    Wait {
        until: Instant,
        then: Box<State>,
    },
    Stopped,
}

/// What one step came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Step {
    /// A list ended well.
    Listed,
    /// A watch ended without an error, or it is time to list again.
    Watched,
    /// A check of the store ended, well or not; the next step goes on watching, or repairs.
    Checked,
    /// A list or a watch failed; the next step waits.
    Failed,
    /// A pause is over.
    Waited,
    /// An error hook asked to stop; there is no next step.
    Stopped,
}

impl<L: ListWatcher> Reflector<L> {
    pub(crate) fn new(
        source: L,
        writer: StoreWriter<L::Object>,
        hub: Arc<Hub<L::Object>>,
        poke: Arc<Notify>,
        options: ReflectorOptions,
    ) -> Self {
        Self {
            source,
            writer,
            publisher: Publisher::new(hub.clone()),
            hub,
            poke,
            options,
            state: State::List,
            list: 0,
            pause: Duration::ZERO,
            relist_at: None,
            check_at: None,
            check: None,
            failures: 0,
            barren: 0,
        }
    }

    /// Does one thing: a list, a watch until it ends, or a pause.
    ///
    /// # Cancellation
    ///
    /// Safe: what was received is in the store and handlers hear of it; the next step begins
    /// where this one did.
    pub async fn step(&mut self) -> Step {
        match self.state.clone() {
            State::List => self.list().await,
            State::Watch(cursor) => self.watch(cursor).await,
            State::Check(cursor) => self.check(cursor).await,
            State::Wait { until, then } => {
                self.phase(Phase::Waiting);
                tokio::select! {
                    () = sleep_until(until) => self.state = *then,
                    () = self.poke.notified() => self.state = State::List,
                }
                Step::Waited
            }
            State::Stopped => Step::Stopped,
        }
    }

    /// The source, for tests that change what it will answer.
    pub fn source(&self) -> &L {
        &self.source
    }

    async fn list(&mut self) -> Step {
        self.phase(Phase::Listing);
        self.check = None;
        let _place = match &self.options.gate {
            Some(gate) => gate.enter().await,
            None => None,
        };
        let started = Instant::now();
        self.hub.status.send_modify(|status| status.attempts += 1);
        self.writer.begin_list();
        match self.list_and_sweep().await {
            Ok((done, sweep)) => {
                self.listed(started, done, sweep);
                // A self-paced source that answers at once must not starve everybody else.
                tokio::task::yield_now().await;
                Step::Listed
            }
            Err(error) => self.failed(error, State::List),
        }
    }

    async fn list_and_sweep(&mut self) -> Result<(ListDone, Sweep), SourceError> {
        self.list = self.list.checked_add(1).unwrap_or(1);
        let mut listing = Listing::new(&mut self.writer, &mut self.publisher, self.list);
        let answer = guarded(self.options.list_timeout, self.source.list(&mut listing)).await;
        let mut sweep = listing.finish();
        let done = answer.and_then(|answer| answer)?;
        if done != ListDone::Unchanged && sweep.suspicious.is_none() {
            self.sweep(&mut sweep).await;
            self.end_quarantine(&sweep);
        }
        Ok((done, sweep))
    }

    async fn sweep(&mut self, sweep: &mut Sweep) {
        if sweep.nameless {
            return;
        }
        let missing = self.writer.missing(self.list, sweep.scopes.as_ref());
        if missing.is_empty() {
            return;
        }
        let asked = self.source.confirm_absent(&missing);
        let verdict = guarded(self.options.list_timeout, asked).await.unwrap_or(Verdict::KeepAll);
        let (gone, kept) = verdict.split(missing);
        sweep.counts.kept = kept as u64;
        sweep.counts.deleted = gone.len() as u64;
        for object in gone {
            self.publish_delete(&object.key(), Certainty::Inferred);
        }
        self.publisher.flush();
    }

    /// Lets go of what the list did not bring as unreadable again.
    fn end_quarantine(&self, sweep: &Sweep) {
        let store = self.writer.reader();
        self.hub.quarantine.end_list(self.list, |key| match &sweep.scopes {
            Some(scopes) => store.get(key).is_some_and(|object| !answered(scopes, &*object)),
            None => false,
        });
    }

    /// What follows a good list.
    fn listed(&mut self, started: Instant, done: ListDone, sweep: Sweep) {
        self.failures = 0;
        let cursor = match done {
            ListDone::Complete { cursor } => cursor,
            ListDone::Unchanged => self.writer.reader().cursor(),
        };
        let now = Instant::now();
        let metrics = &self.hub.metrics;
        metrics.listed(&self.hub.name, now - started, sweep.counts);
        let quiet = sweep.counts.is_quiet();
        let suspicious = sweep.suspicious;
        if suspicious.is_some() {
            metrics.suspicious(&self.hub.name);
        } else {
            self.writer.confirm(started, cursor.clone(), sweep.scopes.is_none());
        }
        let trusted = suspicious.is_none();
        self.hub.status.send_modify(|status| {
            status.synced |= trusted;
            status.failures = 0;
            status.last_success = Some(now);
            status.last_list = sweep.counts;
            status.suspicious = suspicious;
            status.quarantined = self.hub.quarantine.len();
        });
        self.relist_at = self.options.relist_every.map(|period| now + jittered(period, 0.1));
        self.schedule_check();
        self.state = match (cursor, self.options.pace) {
            (Some(cursor), _) if trusted => State::Watch(cursor),
            (_, Pace::SelfPaced) => State::List,
            (_, Pace::Every(period)) => State::wait(started + jittered(period, 0.1), State::List),
            (_, Pace::Adaptive { least, most }) => {
                self.pause = if quiet { (self.pause * 2).clamp(least, most) } else { least };
                State::wait(started + jittered(self.pause, 0.1), State::List)
            }
        };
    }

    /// What follows a failure.
    fn failed(&mut self, error: SourceError, then: State) -> Step {
        self.failures += 1;
        let decision = match &self.options.on_error {
            Some(hook) => hook(&error, self.failures),
            None => Decision::Retry,
        };
        let pause = match decision {
            Decision::Retry => {
                pause_after(&error, &self.options.backoff, self.failures, self.barren)
            }
            Decision::RetryAfter(pause) => pause,
            Decision::Stop => Duration::ZERO,
        };
        let failures = self.failures;
        self.hub.status.send_modify(|status| status.failures = failures);
        self.note_failure(error);
        if decision == Decision::Stop {
            self.state = State::Stopped;
            return Step::Stopped;
        }
        self.state = State::wait(Instant::now() + pause, then);
        Step::Failed
    }

    fn note_failure(&self, error: SourceError) {
        self.hub.metrics.source_failed(&self.hub.name, error.class());
        self.hub.status.send_modify(|status| {
            status.last_error = Some(Arc::new(error));
            status.last_error_at = Some(Instant::now());
        });
    }

    fn publish_delete(&mut self, key: &<L::Object as Object>::Key, certainty: Certainty) {
        if let Some(change) = self.writer.delete(key, certainty) {
            self.publisher.add(change);
        }
    }

    fn phase(&self, phase: Phase) {
        self.hub.status.send_modify(|status| status.phase = phase);
    }
}

impl State {
    fn wait(until: Instant, then: Self) -> Self {
        Self::Wait { until, then: Box::new(then) }
    }
}

/// How long to wait after the `failures`-th failure in a row. `barren` watches count too: a
/// source that lists well and expires every watch must not be listed in a tight loop.
fn pause_after(error: &SourceError, backoff: &Backoff, failures: u32, barren: u32) -> Duration {
    match error {
        SourceError::Expired { .. } if failures.max(barren) <= 1 => Duration::ZERO,
        SourceError::Fatal { .. } => jittered(backoff.max(), 0.1),
        _ => backoff.pause(failures.max(barren).saturating_sub(1), error.retry_after()),
    }
}

impl<L: ListWatcher> fmt::Debug for Reflector<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reflector")
            .field("name", &self.hub.name)
            .field("state", &self.state)
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}
