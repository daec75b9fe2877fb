//! List, watch, cache, queue, reconcile: follow anything that can be listed.
#![forbid(unsafe_code)]

mod backoff;
mod controller;
mod delta_fifo;
mod handler;
mod index;
mod list_watcher;
mod listing;
mod metrics;
mod object;
#[cfg(feature = "prometheus")]
mod prometheus;
mod queue_core;
mod ready;
mod reflector;
mod resync;
mod shared_informer;
mod status;
mod store;
mod subscription;
#[cfg(feature = "testing")]
pub mod testing;
mod work_queue;

pub use backoff::{Backoff, StartGate};
pub use controller::{Action, Context, Controller, Failure, Reconciler};
pub use delta_fifo::{Certainty, Change, DeltaFifo, Event};
pub use handler::{Handled, Retry};
pub use index::Index;
pub use list_watcher::{Cause, Cursor, ListDone, ListWatcher, SourceError, Verdict, WatchEvent};
pub use listing::{ListCounts, Listing, Offered};
pub use metrics::{Metrics, NoMetrics};
pub use object::{Key, Object, Scope, fingerprint};
#[cfg(feature = "prometheus")]
pub use prometheus::PrometheusMetrics;
pub use ready::Priority;
pub use reflector::{Decision, Reflector, Step};
pub use shared_informer::{InformerBuilder, InformerHandle, SharedIndexInformer};
pub use status::{NotSynced, Phase, Status};
pub use store::{Store, StoreWriter};
pub use subscription::{Lag, Replay, SubscribeOptions, Subscription, SubscriptionMonitor};
pub use work_queue::{Shutdown, Taken, WorkQueue, WorkQueueBuilder};
