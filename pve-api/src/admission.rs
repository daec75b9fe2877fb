//! How often callers are let in: right tokens so often each, wrong ones hardly ever from anywhere.
//!
//! Whoever guesses does not lock out those behind the same address: a right token is served however
//! many wrong ones came from there.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::buckets::Buckets;
use crate::remote;

/// As many wrong tokens an address may show at once, and then one each [`WRONG_INTERVAL`].
const WRONG_BURST: u32 = 10;
const WRONG_INTERVAL: Duration = Duration::from_secs(6);

/// For how many seconds' worth of requests a token may be saved up.
const BURST_SECONDS: u32 = 2;

/// About 4 MiB of addresses.
const MOST: usize = 1 << 16;

/// The counts of one API. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    wrong: Arc<Mutex<Buckets<IpAddr>>>,
    requests: Option<Arc<Mutex<Buckets<i64>>>>,
}

impl Admission {
    /// `rate`: requests a second for each token; none is no limit.
    pub(crate) fn new(rate: Option<NonZeroU32>) -> Self {
        let requests = rate.map(|rate| {
            let interval = Duration::from_secs(1) / rate.get();
            let burst = rate.get().saturating_mul(BURST_SECONDS);
            Arc::new(Mutex::new(Buckets::new(interval, burst, MOST)))
        });
        let wrong = Buckets::new(WRONG_INTERVAL, WRONG_BURST, MOST);
        Self { wrong: Arc::new(Mutex::new(wrong)), requests }
    }

    /// Counts a wrong token; or says for how long no more of them is listened to.
    pub(crate) fn wrong(&self, address: Option<IpAddr>) -> Result<(), Duration> {
        let Some(address) = address else { return Ok(()) };
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.take(remote::counted_as(address), Instant::now())
    }

    /// Counts a request with a right token; or says how long its caller must wait.
    pub(crate) fn right(&self, token: i64) -> Result<(), Duration> {
        let Some(requests) = &self.requests else { return Ok(()) };
        requests.lock().unwrap_or_else(PoisonError::into_inner).take(token, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    // C03
    #[tokio::test(start_paused = true)]
    async fn ten_wrong_tokens_a_second_are_soon_too_many() {
        let admission = Admission::new(None);
        let mut refused = 0;
        for _ in 0..100 {
            refused += u32::from(admission.wrong(Some(ip("203.0.113.9"))).is_err());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }

        assert_eq!(refused, 89, "ten at once, and one after six seconds");
        assert!(admission.wrong(Some(ip("203.0.113.8"))).is_ok());
        let wait = admission.wrong(Some(ip("203.0.113.9"))).unwrap_err();
        tokio::time::sleep(wait).await;
        assert!(admission.wrong(Some(ip("203.0.113.9"))).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn another_address_of_the_same_network_is_the_same_caller() {
        let admission = Admission::new(None);
        for last in 0..10 {
            assert!(admission.wrong(Some(ip(&format!("2001:db8::{last}")))).is_ok());
        }

        assert!(admission.wrong(Some(ip("2001:db8::ffff"))).is_err());
        assert!(admission.wrong(Some(ip("2001:db8:0:1::1"))).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn each_token_has_its_own_rate() {
        let admission = Admission::new(NonZeroU32::new(100));
        let pass = |token| (0..1000).filter(|_| admission.right(token).is_ok()).count();

        assert_eq!((pass(1), pass(2)), (200, 200));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(pass(1), 100);
        assert!(Admission::new(None).right(1).is_ok());
    }
}
