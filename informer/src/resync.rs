//! Which objects a handler is to be reminded of now, so that a period's reminders are spread
//! evenly over it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::object::Object;
use crate::store::{Place, Store};

/// A walk through a store that takes one period.
pub(crate) struct Resync<T> {
    period: Duration,
    started: Instant,
    /// Objects there were when the period began; what comes later waits for the next one.
    total: usize,
    done: usize,
    shard: usize,
    place: Place,
    page: Vec<Arc<T>>,
}

impl<T: Object> Resync<T> {
    pub(crate) fn new(period: Duration) -> Self {
        Self {
            period: period.max(Duration::from_millis(1)),
            started: Instant::now(),
            total: 0,
            done: 0,
            shard: 0,
            place: Place::default(),
            page: Vec::new(),
        }
    }

    /// Calls `remind` with what is due by `now`.
    pub(crate) fn advance(
        &mut self,
        store: &Store<T>,
        now: Instant,
        mut remind: impl FnMut(Arc<T>),
    ) {
        if self.total == 0 {
            self.total = store.len();
        }
        let elapsed = now.saturating_duration_since(self.started);
        let over = elapsed >= self.period;
        let due = if over { usize::MAX } else { share(self.total, elapsed, self.period) };
        while self.done < due && self.shard < store.shards() {
            let next = store.shard_page(self.shard, self.place, due - self.done, &mut self.page);
            (self.shard, self.place) = match next {
                Some(place) => (self.shard, place),
                None => (self.shard + 1, Place::default()),
            };
            self.done += self.page.len();
            self.page.drain(..).for_each(&mut remind);
        }
        if over {
            // Periods that nobody was there to see are not made up for.
            let missed = elapsed.as_nanos() / self.period.as_nanos();
            self.started += self.period * u32::try_from(missed).unwrap_or(u32::MAX);
            (self.total, self.done, self.shard) = (store.len(), 0, 0);
            self.place = Place::default();
        }
    }

    /// When the next reminder is due.
    pub(crate) fn next_at(&self, store: &Store<T>, now: Instant) -> Instant {
        let total = if self.total == 0 { store.len() } else { self.total };
        let end = self.started + self.period;
        if total == 0 || self.done >= total || self.shard >= store.shards() {
            return end;
        }
        #[expect(clippy::cast_precision_loss, reason = "a time, not a count")]
        let part = (self.done + 1) as f64 / total as f64;
        let at = self.started + self.period.mul_f64(part);
        at.clamp(now + Duration::from_millis(1), end.max(now + Duration::from_millis(1)))
    }
}

fn share(total: usize, elapsed: Duration, period: Duration) -> usize {
    let share = total as u128 * elapsed.as_nanos() / period.as_nanos();
    usize::try_from(share).unwrap_or(usize::MAX)
}
