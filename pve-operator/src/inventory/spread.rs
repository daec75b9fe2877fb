//! When to begin with what every cluster does at long intervals: clusters that were started together
//! must not all meet in the database for ever after.

use std::time::Duration;

use rand::Rng;

/// A moment in the second half of the first period; every further one comes a period later.
pub(super) fn first(period: Duration) -> Duration {
    period.mul_f64(rand::rng().random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_longer_than_a_period_and_two_do_not_meet() {
        let period = Duration::from_mins(1);

        let moments: Vec<_> = (0..100).map(|_| first(period)).collect();

        assert!(moments.iter().all(|at| (period / 2..period).contains(at)), "{moments:?}");
        assert!(moments.iter().any(|at| *at != moments[0]));
    }
}
