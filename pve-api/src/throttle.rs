//! How fast image bytes may leave.
//!
//! Whoever sends waits *after* taking its turn, so turns are first come first served, and a pause
//! is never longer than what was just sent is worth.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schema::ClusterId;
use tokio::time::{Instant, sleep_until};

/// The limits of all transfers and of those to each cluster. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Throttle {
    all: Option<Bucket>,
    per_cluster: Option<NonZeroU64>,
    clusters: Arc<Mutex<HashMap<ClusterId, Bucket>>>,
}

impl Throttle {
    /// In bytes a second; none is no limit.
    pub(crate) fn new(all: Option<NonZeroU64>, per_cluster: Option<NonZeroU64>) -> Self {
        Self { all: all.map(Bucket::new), per_cluster, clusters: Arc::default() }
    }

    /// Waits until these bytes may be sent.
    pub(crate) async fn pass(&self, cluster: ClusterId, bytes: usize) {
        if let Some(rate) = self.per_cluster {
            let bucket = {
                let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
                clusters.entry(cluster).or_insert_with(|| Bucket::new(rate)).clone()
            };
            bucket.take(bytes).await;
        }
        if let Some(all) = &self.all {
            all.take(bytes).await;
        }
    }
}

/// A token bucket that may go into debt: whoever empties it waits until it is filled again.
#[derive(Clone, Debug)]
struct Bucket {
    rate: NonZeroU64,
    /// When everything that was let through will have been paid for.
    paid: Arc<Mutex<Option<Instant>>>,
}

/// What may pass at once after a pause.
const BURST: Duration = Duration::from_millis(100);

impl Bucket {
    fn new(rate: NonZeroU64) -> Self {
        Self { rate, paid: Arc::default() }
    }

    async fn take(&self, bytes: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a chunk is a MiB or so, a rate is rounded")]
        let price = Duration::from_secs_f64(bytes as f64 / self.rate.get() as f64);
        let paid = {
            let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let from = paid.map_or(now, |paid| paid.max(now));
            *paid.insert(from + price)
        };
        sleep_until(paid.checked_sub(BURST).unwrap_or(paid)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAB: ClusterId = ClusterId(1);
    const ATTIC: ClusterId = ClusterId(2);

    async fn send(throttle: &Throttle, cluster: ClusterId, chunks: usize) -> f64 {
        let start = Instant::now();
        for _ in 0..chunks {
            throttle.pass(cluster, 1000).await;
        }
        start.elapsed().as_secs_f64()
    }

    fn about(seconds: f64, expected: f64) {
        assert!((seconds - expected).abs() < 0.2, "{seconds} s, expected {expected} s");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nobody_waits() {
        assert!(send(&Throttle::default(), LAB, 1_000_000).await.abs() < f64::EPSILON);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_gets_its_rate_and_does_not_slow_another() {
        let throttle = Throttle::new(None, NonZeroU64::new(1000));

        let (lab, attic) = tokio::join!(send(&throttle, LAB, 10), send(&throttle, ATTIC, 5));

        about(lab, 10.0);
        about(attic, 5.0);
    }

    #[tokio::test(start_paused = true)]
    async fn all_together_get_the_rate_of_all() {
        let throttle = Throttle::new(NonZeroU64::new(1000), None);

        let (lab, attic) = tokio::join!(send(&throttle, LAB, 10), send(&throttle, ATTIC, 10));

        about(lab.max(attic), 20.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_not_saved_up() {
        let throttle = Throttle::new(NonZeroU64::new(1000), None);
        send(&throttle, LAB, 1).await;
        tokio::time::sleep(Duration::from_hours(1)).await;

        about(send(&throttle, LAB, 10).await, 10.0);
    }
}
