//! A key that somebody works on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use crate::object::Key;
use crate::queue_core::Outcome;

/// A key that is worked on. Nobody else gets it until this is gone.
///
/// Say how it went; dropping it without a word (a panic, a cancelled task) counts as a failure.
#[must_use = "dropping it counts as a failure"]
pub struct Taken<K: Key> {
    pub(super) shared: Option<Arc<Shared<K>>>,
    pub(super) at: u32,
    pub(super) key: K,
    pub(super) failures: u32,
    pub(super) since: Instant,
}

impl<K: Key> Taken<K> {
    /// The key to work on.
    pub fn key(&self) -> &K {
        &self.key
    }

    /// How often it has failed since it last went well.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// It went well. The key is forgotten, or comes again if it was added meanwhile.
    pub fn done(mut self) {
        self.finish(Outcome::Done);
    }

    /// It went well and wants to come again after a delay, or earlier if it is added.
    pub fn done_after(mut self, delay: Duration) {
        self.finish(Outcome::DoneAfter(delay));
    }

    /// It failed and comes again after its back-off.
    pub fn retry(mut self) {
        self.finish(Outcome::Failed { pause: None });
    }

    /// It failed and comes again after this pause.
    pub fn retry_after(mut self, pause: Duration) {
        self.finish(Outcome::Failed { pause: Some(pause) });
    }

    fn finish(&mut self, outcome: Outcome) {
        if let Some(shared) = self.shared.take() {
            shared.finish(self.at, outcome, self.since);
        }
    }
}

impl<K: Key> Drop for Taken<K> {
    fn drop(&mut self) {
        self.finish(Outcome::Failed { pause: None });
    }
}

impl<K: Key> fmt::Debug for Taken<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taken")
            .field("key", &self.key)
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}
