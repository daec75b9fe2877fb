//! Leaves alone what failed lately.
//!
//! ```text
//! Closed --failures--> Open --pause over, one caller--> Trial --success--> Closed
//!                       ^-------- twice the pause --------+ failure
//! ```

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::PveError;

/// How long a target is left alone: the first pause, and what doubling leads to when it stays away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BreakerPauses {
    pub first: Duration,
    pub longest: Duration,
}

impl Default for BreakerPauses {
    fn default() -> Self {
        Self { first: Duration::from_secs(10), longest: Duration::from_mins(3) }
    }
}

/// A target that failed for less than [`LASTING`] is asked at least this often, so that what was
/// restarted or cut off for a moment is followed again within half a minute.
const WHILE_FRESH: Duration = Duration::from_secs(20);

/// From here on an outage is taken to last.
const LASTING: Duration = Duration::from_mins(10);

/// Failures in a row that open a breaker, where one alone could be bad luck.
const PATIENCE: u32 = 2;

/// One per target; cheap when nothing is wrong.
#[derive(Debug)]
pub(crate) struct Breaker {
    target: String,
    pauses: BreakerPauses,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, pause: Duration, since: Instant, last: PveError },
    Trial { pause: Duration, since: Instant, last: PveError },
}

/// How bad a failure is for the target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Severity {
    /// It is not there: open at once.
    Gone,
    /// It may have been bad luck: open on the second in a row.
    Shaky,
}

impl Breaker {
    pub(crate) fn new(target: String, pauses: BreakerPauses) -> Arc<Self> {
        Arc::new(Self { target, pauses, state: Mutex::new(State::Closed { failures: 0 }) })
    }

    /// Leave to ask the target, to be given back with a verdict.
    ///
    /// # Errors
    ///
    /// [`PveError::BreakerOpen`] during a pause, and while the one request after it is under way.
    pub(crate) fn pass(self: &Arc<Self>) -> Result<Pass, PveError> {
        let mut state = self.state.lock();
        let now = Instant::now();
        let (retry_after, last) = match &mut *state {
            State::Closed { .. } => {
                return Ok(Pass { breaker: self.clone(), trial: false, judged: false });
            }
            State::Open { until, pause, since, last } if *until <= now => {
                *state = State::Trial { pause: *pause, since: *since, last: last.clone() };
                return Ok(Pass { breaker: self.clone(), trial: true, judged: false });
            }
            State::Open { until, last, .. } => (*until - now, last.clone()),
            State::Trial { last, .. } => (Duration::from_secs(1), last.clone()),
        };
        Err(PveError::BreakerOpen {
            target: self.target.clone(),
            retry_after,
            source: Box::new(last),
        })
    }

    /// Ends a pause whose reason, the last error, is known to be over.
    pub(crate) fn forgive(&self, is_over: impl FnOnce(&PveError) -> bool) {
        let mut state = self.state.lock();
        if let State::Open { last, .. } = &*state
            && is_over(last)
        {
            *state = State::Closed { failures: 0 };
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(&*self.state.lock(), State::Open { until, .. } if *until > Instant::now())
    }
}

/// One request's leave. Dropped without a verdict it says nothing about the target.
#[must_use]
pub(crate) struct Pass {
    breaker: Arc<Breaker>,
    trial: bool,
    judged: bool,
}

impl Pass {
    pub(crate) fn succeeded(mut self) {
        self.judged = true;
        *self.breaker.state.lock() = State::Closed { failures: 0 };
    }

    pub(crate) fn failed(mut self, severity: Severity, error: &PveError) {
        self.judged = true;
        let pauses = self.breaker.pauses;
        let mut state = self.breaker.state.lock();
        let now = Instant::now();
        let (pause, since) = match &mut *state {
            State::Closed { failures } => {
                *failures += 1;
                if severity == Severity::Shaky && *failures < PATIENCE {
                    return;
                }
                (pauses.first, now)
            }
            State::Trial { pause, since, .. } if self.trial => {
                let longest = if now - *since < LASTING {
                    pauses.longest.min(pauses.first.max(WHILE_FRESH))
                } else {
                    pauses.longest
                };
                ((*pause * 2).min(longest), *since)
            }
            // A request from before the pause, which says nothing new.
            State::Trial { .. } | State::Open { .. } => return,
        };
        *state = State::Open { until: now + pause, pause, since, last: error.clone() };
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.judged || !self.trial {
            return;
        }
        let mut state = self.breaker.state.lock();
        if let State::Trial { pause, since, last } = &*state {
            let (pause, since, last) = (*pause, *since, last.clone());
            *state = State::Open { until: Instant::now(), pause, since, last };
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn breaker() -> Arc<Breaker> {
        Breaker::new("pve1".into(), BreakerPauses::default())
    }

    fn failure() -> PveError {
        PveError::Input { what: "no route".into() }
    }

    fn fail(breaker: &Arc<Breaker>) {
        breaker.pass().unwrap().failed(Severity::Gone, &failure());
    }

    /// A02: what comes back within minutes is asked again within 20 s.
    #[tokio::test(start_paused = true)]
    async fn pauses_stay_short_for_ten_minutes_then_double_to_180_s_and_end_with_a_success() {
        let breaker = breaker();
        fail(&breaker);

        let fresh = [10].into_iter().chain([20; 30]);
        for pause in fresh.chain([40, 80, 160, 180, 180]) {
            advance(Duration::from_millis(pause * 1000 - 1)).await;
            let Err(PveError::BreakerOpen { retry_after, .. }) = breaker.pass() else {
                panic!("asked before {pause} s were over");
            };
            assert_eq!(retry_after, Duration::from_millis(1));
            advance(Duration::from_millis(1)).await;
            fail(&breaker);
        }
        advance(Duration::from_mins(3)).await;
        breaker.pass().unwrap().succeeded();
        fail(&breaker);
        advance(Duration::from_secs(10)).await;

        assert!(breaker.pass().is_ok(), "a success puts the pause back to the first");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_pause_one_request_goes_first() {
        let breaker = breaker();
        fail(&breaker);
        advance(Duration::from_secs(10)).await;

        let trial = breaker.pass().unwrap();

        assert!(breaker.pass().is_err(), "a second one while the first is under way");
        trial.succeeded();
        assert!(breaker.pass().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_trial_leaves_room_for_the_next() {
        let breaker = breaker();
        fail(&breaker);
        advance(Duration::from_secs(10)).await;

        drop(breaker.pass().unwrap());

        assert!(breaker.pass().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn one_shaky_failure_is_forgiven_and_two_in_a_row_are_not() {
        let breaker = breaker();
        let shaky = || breaker.pass().unwrap().failed(Severity::Shaky, &failure());

        shaky();
        breaker.pass().unwrap().succeeded();
        shaky();
        assert!(!breaker.is_open());
        shaky();

        assert!(breaker.is_open());
        assert!(
            matches!(breaker.pass(), Err(PveError::BreakerOpen { source, .. }) if source.to_string() == "no route")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_ends_early_when_its_reason_is_over() {
        let breaker = breaker();
        fail(&breaker);

        breaker.forgive(|last| last.presented_fingerprint().is_some());
        assert!(breaker.is_open(), "that was not the reason");
        breaker.forgive(|last| matches!(last, PveError::Input { .. }));

        assert!(breaker.pass().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn late_failures_from_before_the_pause_do_not_lengthen_it() {
        let breaker = breaker();
        let late = breaker.pass().unwrap();
        fail(&breaker);
        advance(Duration::from_secs(9)).await;

        late.failed(Severity::Gone, &failure());

        advance(Duration::from_secs(1)).await;
        assert!(breaker.pass().is_ok());
    }
}
