//! List, watch, cache, queue, reconcile: follow anything that can be listed.
#![forbid(unsafe_code)]

mod backoff;
mod delta_fifo;
mod index;
mod list_watcher;
mod listing;
mod metrics;
mod object;
mod reflector;
mod resync;
mod shared_informer;
mod status;
mod store;
mod subscription;

pub use backoff::{Backoff, StartGate};
pub use delta_fifo::{Certainty, Change, DeltaFifo, Event};
pub use index::Index;
pub use list_watcher::{Cause, Cursor, ListDone, ListWatcher, SourceError, Verdict, WatchEvent};
pub use listing::{ListCounts, Listing, Offered};
pub use metrics::{Metrics, NoMetrics};
pub use object::{Key, Object, Scope, fingerprint};
pub use reflector::{Decision, Reflector, Step};
pub use shared_informer::{InformerBuilder, InformerHandle, SharedIndexInformer};
pub use status::{NotSynced, Phase, Status};
pub use store::{Store, StoreWriter};
pub use subscription::{Lag, Replay, SubscribeOptions, Subscription, SubscriptionMonitor};
