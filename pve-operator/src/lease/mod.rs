//! Which clusters are ours, and for how long: several operators share them by leases in the database.
//!
//! ```text
//! Keeper (a task) -- look, renew, take, release --> schema::lease (the database's clock)
//!    |  share (pure): who should have what
//!    v
//! Leases -- held --> supervisor: a pipeline for each ---> PVE client: asks nothing once it is over
//!           ^- give_back                            '--> Db::fenced: changes nothing once another has it
//! ```
//!
//! - *lease*: the right to work on one cluster. It has an end by the database's clock, and we obey an
//!   earlier one by our own monotonic clock, counted from before we asked: so clocks that differ, and
//!   answers that were slow, make it shorter and never longer.
//! - *over*: what a lease is for good once that moment has passed or somebody else has it. Requests
//!   under way are dropped then; they do not wait for anybody to notice.

mod keeper;
mod metrics;
mod share;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use schema::lease::Fence;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use keeper::{Keeper, LEAVE};

/// The right to work on one cluster, until it is over. Clones are the same lease.
#[derive(Clone, Debug)]
pub struct Lease(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fence: Fence,
    began: Instant,
    /// Milliseconds after `began`.
    until: AtomicU64,
    over: CancellationToken,
}

impl Lease {
    /// One that is ours until `until`.
    pub fn new(fence: Fence, until: Option<Instant>) -> Self {
        let lease = Self(Arc::new(Inner {
            fence,
            began: Instant::now(),
            until: AtomicU64::new(0),
            over: CancellationToken::new(),
        }));
        lease.extend(until);
        lease
    }

    /// What changes of the database are made under.
    pub fn fence(&self) -> &Fence {
        &self.0.fence
    }

    /// Whether nothing may be done any more. Asks the clock, so it is right in a process that stood
    /// still, before any task of it could tell.
    pub fn is_over(&self) -> bool {
        if self.until().is_some_and(|until| Instant::now() >= until) {
            // For good: whoever was told must not see it come back by a renewal that was late.
            self.end();
        }
        self.0.over.is_cancelled()
    }

    /// Returns when nothing may be done any more. Asks the clock whenever it is polled: where a process
    /// goes on that stood still, that may be before any timer.
    pub async fn over(&self) {
        let mut told = std::pin::pin!(self.told());
        std::future::poll_fn(|context| {
            if self.is_over() { Poll::Ready(()) } else { told.as_mut().poll(context) }
        })
        .await;
    }

    async fn told(&self) {
        loop {
            let until = self.until();
            let ends = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.0.over.cancelled() => return,
                // It may have been extended meanwhile.
                () = ends => if self.is_over() { return },
            }
        }
    }

    /// Whether these are the same lease, not only one of the same cluster.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// None: for ever.
    fn until(&self) -> Option<Instant> {
        match self.0.until.load(Ordering::Acquire) {
            u64::MAX => None,
            ms => Some(self.0.began + Duration::from_millis(ms)),
        }
    }

    fn extend(&self, until: Option<Instant>) {
        let ms = until.map_or(u64::MAX, |until| {
            let length = until.saturating_duration_since(self.0.began);
            u64::try_from(length.as_millis()).unwrap_or(u64::MAX - 1)
        });
        self.0.until.store(ms, Ordering::Release);
    }

    fn end(&self) {
        self.0.over.cancel();
    }
}

/// What is ours, as the keeper and the supervisor tell each other. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    state: Arc<Mutex<State>>,
    /// For the supervisor: what is held has changed.
    changed: Arc<Notify>,
    /// For the keeper: there is something to do.
    asked: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    wanted: BTreeSet<i64>,
    /// When the supervisor last said so.
    said: Option<Instant>,
    held: BTreeMap<i64, Lease>,
    /// Held, and to be given back once nothing of it runs.
    surplus: BTreeSet<i64>,
    given_back: BTreeSet<i64>,
}

impl Leases {
    /// Says which clusters somebody should hold.
    ///
    /// Say it often: leases of an operator whose supervisor says nothing are left to others.
    pub fn want(&self, clusters: BTreeSet<i64>) {
        let mut state = self.state.lock();
        state.said = Some(Instant::now());
        if state.wanted != clusters {
            state.wanted = clusters;
            drop(state);
            self.asked.notify_one();
        }
    }

    /// What may be worked on.
    pub fn held(&self) -> BTreeMap<i64, Lease> {
        let state = self.state.lock();
        let ours =
            state.held.iter().filter(|(id, it)| !state.surplus.contains(id) && !it.is_over());
        ours.map(|(id, it)| (*id, it.clone())).collect()
    }

    /// Gives back what is to be, but for those of which something still runs.
    pub fn give_back(&self, running: impl Fn(i64) -> bool) {
        let mut state = self.state.lock();
        let idle: Vec<i64> = state.surplus.iter().copied().filter(|id| !running(*id)).collect();
        if idle.is_empty() {
            return;
        }
        state.given_back.extend(idle);
        drop(state);
        self.asked.notify_one();
    }

    /// Returns when what is held has changed since the last time.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}
