//! Running what is not ours: a panic or a timeout of a source is a failure like any other.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::{Instant, sleep_until, timeout};

use crate::list_watcher::SourceError;

/// Runs what a source gave us: a panic or a timeout is a failure like any other.
pub(super) async fn guarded<F: Future>(
    limit: Option<Duration>,
    work: F,
) -> Result<F::Output, SourceError> {
    let work = AssertUnwindSafe(work).catch_unwind();
    let done = match limit {
        Some(limit) => timeout(limit, work).await.map_err(SourceError::transient)?,
        None => work.await,
    };
    done.map_err(|panic| panicked(&panic))
}

pub(super) fn panicked(panic: &Box<dyn Any + Send>) -> SourceError {
    SourceError::transient(format!("the source panicked: {}", panic_text(panic.as_ref())))
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

pub(super) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
