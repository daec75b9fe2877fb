//! What the downloads of one node share: its network link.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// A link that carries so many bytes per second, in turn for whoever asks.
#[derive(Debug)]
pub(crate) struct Link {
    bytes_per_second: u64,
    free_at: Mutex<Instant>,
}

impl Link {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_at: Mutex::new(Instant::now()) }
    }

    /// Waits until so many bytes have passed.
    pub(crate) async fn carry(&self, bytes: usize) {
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.bytes_per_second);
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let done = {
            let mut free_at = self.free_at.lock().await;
            *free_at = (*free_at).max(Instant::now()) + time;
            *free_at
        };
        tokio::time::sleep_until(done).await;
    }
}
