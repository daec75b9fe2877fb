//! How a queue is set up.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use super::{Mode, Shared, State, WorkQueue};
use crate::backoff::Backoff;
use crate::metrics::Metrics;
use crate::object::{Key, fingerprint};
use crate::queue_core::{Core, GroupOf};
use crate::ready::Ready;
use crate::sleepers::Sleepers;
use crate::sync::{Mutex, Notify};

/// Sets up a queue; see [`WorkQueue::builder`].
#[must_use = "a builder does nothing until it builds"]
pub struct WorkQueueBuilder<K: Key> {
    pub(super) name: String,
    pub(super) backoff: Backoff,
    pub(super) ageing: Duration,
    pub(super) cap: usize,
    pub(super) group_of: Option<GroupOf<K>>,
    pub(super) metrics: Option<Arc<dyn Metrics>>,
}

impl<K: Key> WorkQueueBuilder<K> {
    /// How long a key that failed waits. Default: 100 ms to 1000 s.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// A key that has waited this much longer than another one makes up for one level of
    /// priority. Default: 10 s.
    pub fn ageing(mut self, per_level: Duration) -> Self {
        self.ageing = per_level;
        self
    }

    /// Puts keys into groups (of one node, of one tenant) that take turns, and of each of which
    /// at most `cap` keys are worked on at once. Default: one group without a limit.
    ///
    /// Runs under a lock; must depend on the key alone.
    pub fn groups<G: Hash>(
        mut self,
        group: impl Fn(&K) -> G + Send + Sync + 'static,
        cap: usize,
    ) -> Self {
        self.group_of = Some(Box::new(move |key| fingerprint(&group(key))));
        self.cap = cap;
        self
    }

    /// Where to count.
    pub fn metrics(mut self, metrics: Arc<dyn Metrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// The queue.
    pub fn build(self) -> WorkQueue<K> {
        let core = Core::new(self.backoff, Ready::new(self.cap, self.ageing), self.group_of);
        WorkQueue {
            shared: Arc::new(Shared {
                name: self.name,
                metrics: self.metrics,
                state: Mutex::new(State { core, mode: Mode::Open, sleepers: Sleepers::default() }),
                ended: Notify::new(),
            }),
        }
    }
}

impl<K: Key> fmt::Debug for WorkQueueBuilder<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkQueueBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}
