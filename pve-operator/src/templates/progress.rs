//! How far an instance has come, in per cent and in bytes.
//!
//! PVE tells nothing while it checks a sum and is silent for long stretches of an import (seen on
//! PVE 9.2), so this is an estimate; but it never falls, and is 100 only when the guest is a template.

use super::plan::Act;

/// How far something is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Amount {
    pub done: u64,
    /// 0 while it is not known.
    pub total: u64,
}

impl Amount {
    fn share(self) -> f64 {
        if self.total == 0 {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "per cent need no 53 bits")]
        let share = self.done as f64 / self.total as f64;
        share.clamp(0.0, 1.0)
    }
}

/// The per cent at which each part of the way begins and ends. Between fetching and importing PVE
/// checks the sum.
const FETCH: (f64, f64) = (0.0, 60.0);
const IMPORT: (f64, f64) = (65.0, 97.0);
const CONVERT: i32 = 97;

/// Per cent while `act` goes on, never less than `before`.
pub(super) fn percent(before: i32, act: Act, amount: Amount) -> i32 {
    let within = |(from, to): (f64, f64)| {
        #[expect(clippy::cast_possible_truncation, reason = "between 0 and 100")]
        let percent = (from + (to - from) * amount.share()).floor() as i32;
        percent
    };
    let now = match act {
        Act::Fetch => within(FETCH),
        Act::Shell => 65,
        Act::Import => within(IMPORT),
        Act::Convert | Act::RemoveFile => CONVERT,
        Act::Destroy => 0,
    };
    now.max(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B06: it never falls, and is 100 only at the end.
    #[test]
    fn the_way_goes_up_and_stops_short_of_the_end() {
        let mut before = 0;
        for act in [Act::Fetch, Act::Shell, Act::Import, Act::Convert, Act::RemoveFile] {
            for done in 0..=10 {
                let now = percent(before, act, Amount { done, total: 10 });
                assert!(now >= before && now < 100, "{act:?} {done}: {before} -> {now}");
                before = now;
            }
        }
        assert_eq!(before, 97);
    }

    #[test]
    fn a_second_try_does_not_go_back() {
        assert_eq!(percent(40, Act::Fetch, Amount { done: 1, total: 10 }), 40);
        assert_eq!(percent(0, Act::Fetch, Amount { done: 5, total: 0 }), 0, "total not known");
        assert_eq!(percent(0, Act::Fetch, Amount { done: 50, total: 10 }), 60, "more than all");
    }
}
