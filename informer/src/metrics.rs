//! What the crate counts, as a trait: implement it for the metrics library of your choice.

use std::time::Duration;

use crate::listing::ListCounts;

/// Hears of everything worth counting. Every method does nothing by default.
///
/// `informer` and `queue` are the names that were given to the builders: few and fixed, so they
/// may be labels. Calls come from hot paths and must be quick.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use std::time::Duration;
/// use informer::{ListCounts, Metrics};
///
/// #[derive(Default)]
/// struct Lists(AtomicU64);
///
/// impl Metrics for Lists {
///     fn listed(&self, _informer: &str, _took: Duration, _counts: ListCounts) {
///         self.0.fetch_add(1, Ordering::Relaxed);
///     }
/// }
/// # Lists::default().listed("guests", Duration::ZERO, ListCounts::default());
/// ```
pub trait Metrics: Send + Sync + 'static {
    /// A list ended well.
    fn listed(&self, informer: &str, took: Duration, counts: ListCounts) {
        let _ = (informer, took, counts);
    }

    /// A list or a watch failed; `class` is [`SourceError::class`](crate::SourceError::class).
    fn source_failed(&self, informer: &str, class: &'static str) {
        let _ = (informer, class);
    }

    /// A watch ended, well or not, after so many items.
    fn watched(&self, informer: &str, took: Duration, items: u64) {
        let _ = (informer, took, items);
    }

    /// A list was marked as suspicious.
    fn suspicious(&self, informer: &str) {
        let _ = informer;
    }

    /// An object could not be taken; see [`Quarantined`](crate::Quarantined).
    fn rejected(&self, informer: &str) {
        let _ = informer;
    }

    /// The store was checked against the source: so many objects differed.
    fn verified(&self, informer: &str, took: Duration, differences: u64) {
        let _ = (informer, took, differences);
    }

    /// So many changes were made to the store; `kind` is `added`, `modified` or `deleted`.
    fn changed(&self, informer: &str, kind: &'static str, count: u64) {
        let _ = (informer, kind, count);
    }

    /// A handler failed or panicked.
    fn handler_failed(&self, informer: &str, subscription: &str, panicked: bool) {
        let _ = (informer, subscription, panicked);
    }

    /// A subscription was ended because it held too many keys.
    fn disconnected(&self, informer: &str, subscription: &str) {
        let _ = (informer, subscription);
    }

    /// A key came to wait in a queue, not having waited there.
    fn queue_added(&self, queue: &str) {
        let _ = queue;
    }

    /// A key is to be tried again after a failure.
    fn queue_retried(&self, queue: &str) {
        let _ = queue;
    }

    /// A key was handed out after waiting for so long.
    fn queue_taken(&self, queue: &str, waited: Duration) {
        let _ = (queue, waited);
    }

    /// A key was worked on for so long.
    fn queue_done(&self, queue: &str, worked: Duration) {
        let _ = (queue, worked);
    }

    /// How many keys wait to be handed out now.
    fn queue_depth(&self, queue: &str, depth: usize) {
        let _ = (queue, depth);
    }

    /// A reconciler ended: `outcome` is `success`, `error`, `timeout` or `panic`.
    fn reconciled(&self, controller: &str, outcome: &'static str, took: Duration) {
        let _ = (controller, outcome, took);
    }
}

/// Counts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMetrics;

impl Metrics for NoMetrics {}
