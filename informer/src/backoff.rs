//! How long to wait after a failure, and how many may start at once.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Exponential back-off with full jitter: the n-th pause is drawn from nothing to
/// `base * 2^n`, at most `max`.
///
/// Full jitter spreads those who failed together over the whole pause, which a pause with a
/// little jitter does not.
///
/// ```
/// use std::time::Duration;
/// use informer::Backoff;
///
/// let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
///
/// assert!(backoff.pause(0, None) <= Duration::from_secs(1));
/// assert!(backoff.pause(20, None) <= Duration::from_secs(30));
/// assert!(backoff.pause(0, Some(Duration::from_secs(7))) >= Duration::from_secs(7));
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    jitter: bool,
}

impl Backoff {
    /// Pauses of up to `base`, then up to twice that, and so on up to `max`.
    pub const fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, jitter: true }
    }

    /// The pauses are exactly `base * 2^n`: for tests and for those who fail alone.
    #[must_use]
    pub const fn without_jitter(mut self) -> Self {
        self.jitter = false;
        self
    }

    /// The longest pause.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The pause after `failures` earlier failures in a row (0 after the first one), at least
    /// what the other side asked for.
    pub fn pause(&self, failures: u32, retry_after: Option<Duration>) -> Duration {
        let ceiling = self.ceiling(failures);
        let pause = if self.jitter { ceiling.mul_f64(random_fraction()) } else { ceiling };
        // Those who were all told the same second should not all come in that second.
        retry_after.map_or(pause, |least| {
            if self.jitter { least + pause.min(least / 4) } else { least.max(pause) }
        })
    }

    fn ceiling(&self, failures: u32) -> Duration {
        2_u32
            .checked_pow(failures)
            .and_then(|n| self.base.checked_mul(n))
            .map_or(self.max, |pause| pause.min(self.max))
    }
}

impl Default for Backoff {
    /// 800 ms to 30 s, as client-go's reflector.
    fn default() -> Self {
        Self::new(Duration::from_millis(800), Duration::from_secs(30))
    }
}

/// A number from 0 up to, not including, 1.
///
/// The standard library's hash keys are random enough to spread pauses, and no dependency.
pub(crate) fn random_fraction() -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    let fraction = (RandomState::new().hash_one(0) >> 11) as f64 / (1_u64 << 53) as f64;
    fraction
}

/// `period`, give or take `share` of it.
pub(crate) fn jittered(period: Duration, share: f64) -> Duration {
    period.mul_f64(1.0 + share * (2.0 * random_fraction() - 1.0))
}

/// Lets a limited number of lists run at once, over all informers that share it, so that a
/// process that starts does not ask everything of everybody in one moment.
///
/// Not for sources that pace themselves: they hold their place while they wait.
///
/// ```
/// # #[derive(Clone)] struct Guest(u32);
/// # impl informer::Object for Guest {
/// #     type Key = u32;
/// #     fn key(&self) -> u32 { self.0 }
/// #     fn version(&self) -> u64 { 0 }
/// # }
/// use informer::testing::ScriptedSource;
/// use informer::{SharedIndexInformer, StartGate};
///
/// let gate = StartGate::new(2); // ten informers, and two lists at once
/// let informers: Vec<_> = (0..10)
///     .map(|_| {
///         let source = ScriptedSource::<Guest>::list_only();
///         SharedIndexInformer::builder(source).start_gate(gate.clone()).build()
///     })
///     .collect();
/// # assert_eq!(informers.len(), 10);
/// ```
#[derive(Clone, Debug)]
pub struct StartGate {
    places: Arc<Semaphore>,
}

impl StartGate {
    /// A gate for `lists` lists at once, at least one.
    pub fn new(lists: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(lists.max(1))) }
    }

    pub(crate) async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        // Only a closed semaphore refuses, and nobody closes this one.
        self.places.clone().acquire_owned().await.ok()
    }
}
