//! How an informer is doing, for people and probes.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::list_watcher::SourceError;
use crate::listing::ListCounts;

/// How an informer is doing at the moment.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Status {
    /// What it is doing.
    pub phase: Phase,
    /// Whether there ever was a complete list that was not suspicious.
    pub synced: bool,
    /// Lists and watches tried so far.
    pub attempts: u64,
    /// Failures since the last good answer; 0 means healthy.
    pub failures: u32,
    /// The last failure, also after it was overcome.
    pub last_error: Option<Arc<SourceError>>,
    /// When that was.
    pub last_error_at: Option<Instant>,
    /// When the source last gave a good answer.
    pub last_success: Option<Instant>,
    /// What the last good list brought.
    pub last_list: ListCounts,
    /// Why the last list was suspicious, if it was.
    pub suspicious: Option<String>,
    /// How many objects could not be taken; see
    /// [`InformerHandle::quarantine`](crate::InformerHandle::quarantine).
    pub quarantined: usize,
    /// What the last [check](crate::InformerBuilder::verify_every) of the store against the
    /// source came to.
    pub verified: Option<Verification>,
    /// Objects that checks found to differ, and that were repaired, so far.
    pub differences: u64,
}

/// What one check of a store against its source came to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Verification {
    /// When it ended.
    pub at: Instant,
    /// How many objects the source showed.
    pub objects: u64,
    /// How many differed although the watch had passed them: changes that it never sent.
    pub differences: u64,
    /// The first few keys of these, as `Debug` shows them.
    pub keys: Vec<String>,
}

/// What an informer is doing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Phase {
    /// Not running yet.
    #[default]
    New,
    /// Reading the whole collection.
    Listing,
    /// Following changes.
    Watching,
    /// Waiting for the next list, or after a failure.
    Waiting,
    /// Over. The store stays as it is.
    Stopped,
}

impl Status {
    pub(crate) fn stop(&mut self) {
        self.phase = Phase::Stopped;
    }

    /// Whether it has stopped.
    pub fn stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }
}

/// There was no complete list within the deadline, or the informer stopped before there was one.
///
/// ```
/// use std::time::Duration;
/// use informer::InformerHandle;
///
/// async fn ready<T: informer::Object>(guests: &InformerHandle<T>) -> bool {
///     let synced = guests.synced(Duration::from_secs(30)).await;
///     if let Err(why) = &synced {
///         eprintln!("{why}, after {} attempts", why.attempts);
///     }
///     synced.is_ok()
/// }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NotSynced {
    /// How long the caller was ready to wait.
    pub deadline: Duration,
    /// Lists and watches that were tried so far.
    pub attempts: u64,
    /// Whether the informer has stopped.
    pub stopped: bool,
    /// Why the last list was suspicious, if it was.
    pub suspicious: Option<String>,
    /// What the source said last; `None` if it did not fail but is slow.
    pub last_error: Option<Arc<SourceError>>,
}

impl NotSynced {
    pub(crate) fn new(deadline: Duration, status: &Status) -> Self {
        Self {
            deadline,
            attempts: status.attempts,
            stopped: status.stopped(),
            suspicious: status.suspicious.clone(),
            last_error: status.last_error.clone(),
        }
    }
}

impl fmt::Display for NotSynced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.stopped {
            return write!(f, "stopped before it had synced, after {} attempts", self.attempts);
        }
        write!(f, "not synced within {:?}, after {} attempts", self.deadline, self.attempts)?;
        match &self.suspicious {
            Some(why) => write!(f, "; the last list is suspicious: {why}"),
            None => Ok(()),
        }
    }
}

impl Error for NotSynced {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.last_error.as_deref().map(|error| error as _)
    }
}

pub(crate) async fn wait_for_sync(
    status: &watch::Sender<Status>,
    deadline: Duration,
) -> Result<(), NotSynced> {
    let mut changes = status.subscribe();
    let settled = changes.wait_for(|status| status.synced || status.stopped());
    match timeout(deadline, settled).await {
        Ok(Ok(now)) if now.synced => Ok(()),
        _ => Err(NotSynced::new(deadline, &status.borrow())),
    }
}
