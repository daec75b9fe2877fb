//! The simulator's clock: real time plus what tests skipped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Time since the simulator started, as PVE would see it.
#[derive(Debug)]
pub(crate) struct Clock {
    started: SystemTime,
    skipped_ms: AtomicU64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { started: SystemTime::now(), skipped_ms: AtomicU64::new(0) }
    }

    /// Time since the start. A step back of the system clock shows as standing still.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed().unwrap_or_default()
            + Duration::from_millis(self.skipped_ms.load(Ordering::Relaxed))
    }

    /// Seconds since 1970.
    pub(crate) fn unix(&self) -> u64 {
        let start = self.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        (start + self.now()).as_secs()
    }

    pub(crate) fn skip(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.skipped_ms.fetch_add(ms, Ordering::Relaxed);
    }
}
