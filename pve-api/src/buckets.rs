//! How often each of many may do something: a token bucket for each, in a bounded table.
//!
//! A bucket is kept as the time at which it will be full again. One that is full says nothing, so it
//! need not be kept.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// Buckets that each hold `burst` and get one back every `interval`.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    interval: Duration,
    burst: u32,
    /// How many are kept; more than that, and those that are nearly full are forgotten.
    most: usize,
    full_at: HashMap<K, Instant>,
}

impl<K: Copy + Eq + Hash> Buckets<K> {
    pub(crate) fn new(interval: Duration, burst: u32, most: usize) -> Self {
        Self { interval, burst: burst.max(1), most: most.max(1), full_at: HashMap::new() }
    }

    /// Takes one out of a bucket; or says how long until there is one, and takes nothing.
    pub(crate) fn take(&mut self, key: K, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at.get(&key).map_or(now, |at| (*at).max(now));
        // What is missing, as time; one more must fit.
        let missing = full_at.duration_since(now) + self.interval;
        let size = self.interval * self.burst;
        if missing > size {
            return Err(missing.saturating_sub(size));
        }
        if !self.full_at.contains_key(&key) && self.full_at.len() >= self.most {
            self.forget(now);
        }
        self.full_at.insert(key, full_at + self.interval);
        Ok(())
    }

    /// Makes room: for half of the table at least, so that it is not done for each that comes.
    fn forget(&mut self, now: Instant) {
        self.full_at.retain(|_, at| *at > now);
        let keep = self.most / 2;
        if self.full_at.len() <= keep {
            return;
        }
        let mut times: Vec<Instant> = self.full_at.values().copied().collect();
        let drop = times.len() - keep;
        let (_, last, _) = times.select_nth_unstable(drop - 1);
        let last = *last;
        self.full_at.retain(|_, at| *at > last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_one_each_interval() {
        let mut buckets = Buckets::new(SECOND, 3, 100);
        let now = Instant::now();

        let first: Vec<_> = (0..5).map(|_| buckets.take("a", now)).collect();

        assert_eq!(first, [Ok(()), Ok(()), Ok(()), Err(SECOND), Err(SECOND)]);
        assert_eq!(buckets.take("b", now), Ok(()));
        assert_eq!(buckets.take("a", now + SECOND / 2), Err(SECOND / 2));
        assert_eq!(buckets.take("a", now + SECOND), Ok(()));
        assert_eq!(buckets.take("a", now + SECOND), Err(SECOND));
    }

    /// In any time, of any requests, no more pass than the burst and what came back since; and who
    /// waits as long as it was told passes.
    #[tokio::test(start_paused = true)]
    async fn no_more_pass_than_came_back() {
        use rand::{Rng as _, SeedableRng as _};
        for seed in 0..100 {
            let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
            let (burst, start) = (random.random_range(1..10), Instant::now());
            let mut buckets = Buckets::new(SECOND, burst, 100);
            let (mut now, mut passed) = (start, 0);
            for _ in 0..500 {
                now += Duration::from_millis(random.random_range(0..800));
                match buckets.take((), now) {
                    Ok(()) => passed += 1,
                    Err(wait) => {
                        let mut later = Buckets { full_at: buckets.full_at.clone(), ..buckets };
                        assert!(wait <= SECOND, "seed {seed}: {wait:?}");
                        assert_eq!(later.take((), now + wait), Ok(()), "seed {seed}");
                        buckets = Buckets { full_at: buckets.full_at, ..later };
                    }
                }
                let most = u64::from(burst) + (now - start).as_secs() + 1;
                assert!(passed <= most, "seed {seed}: {passed} of {most}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_bounded_and_keeps_those_that_did_most() {
        let mut buckets = Buckets::new(SECOND, 10, 1000);
        let now = Instant::now();
        while buckets.take(0, now).is_ok() {}

        for key in 1..100_000 {
            assert_eq!(buckets.take(key, now), Ok(()));
            assert!(buckets.full_at.len() <= 1000);
        }

        assert!(buckets.take(0, now).is_err());
    }
}
