//! Times from a trigger to its end, one at a time.

use std::time::Duration;

/// Two thousand of them.
#[derive(Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    /// What to wait for after each one: a little now and then, so that they do not fall into step
    /// with a timer.
    pub(crate) fn pauses() -> impl Iterator<Item = Option<Duration>> {
        (0..2000).map(|i| (i % 7 == 0).then_some(Duration::from_micros(300)))
    }

    pub(crate) fn push(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    pub(crate) fn median_us(mut self) -> f64 {
        self.0.sort_unstable();
        self.0[self.0.len() / 2].as_secs_f64() * 1e6
    }
}
