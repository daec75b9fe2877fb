//! Numbers from many measurements, and the lines that they are printed on.

use std::{fmt::Display, time::Duration};

/// What a peer in the same run is divided into.
pub fn ratio(name: &str, ours: f64, peer: f64) {
    println!("RATIO {name} {:.2}", ours / peer);
}

pub fn figure(name: &str, value: impl Display) {
    println!("FIGURE {name} {value}");
}

pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The value in the middle, the upper one of two; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// Durations of one thing.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn median(&self) -> Duration {
        self.percentile(50)
    }

    pub fn max(&self) -> Duration {
        self.percentile(100)
    }

    /// The smallest time that `percent` of all do not exceed; zero if there is none.
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100);
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_measured_times() {
        let mut times = Times::default();
        for ms in [5, 1, 4, 2, 3] {
            times.push(Duration::from_millis(ms));
        }

        assert_eq!(times.median(), Duration::from_millis(3));
        assert_eq!(times.percentile(99), Duration::from_millis(5));
        assert_eq!(times.max(), Duration::from_millis(5));
        assert_eq!(Times::default().median(), Duration::ZERO);
    }
}
