//! List, watch, cache, queue, reconcile: follow anything that can be listed.
//!
//! ```text
//!                                             +--> DeltaFifo --> Subscription --> handler
//! source --list/watch--> Reflector --> Store -+--> DeltaFifo --> Subscription --> handler
//!                                        ^    +--> DeltaFifo --> Subscription --> WorkQueue
//!                                        |                                            |
//!                                     readers <------------------------------ Reconciler
//! ```
//!
//! Data moves left to right only. What comes from the source goes straight into the [`Store`],
//! which tells what is a change; every handler has a queue of its own in which changes wait, one
//! per key at most. So nobody ever waits for a slow handler, and no copy of a list is held.
//!
//! Whoever reads the [`Store`] sees a past state of the source. How far past is bounded by the
//! poll interval while the source answers, and unbounded while it does not: ask
//! [`Store::age`] if that matters to you.
//!
//! # Where to start
//!
//! - You bring a source: implement [`Object`] and [`ListWatcher`], then run
//!   [`testing::conformance`](crate::ListWatcher) (feature `testing`) on it.
//! - You follow one: [`SharedIndexInformer::builder`].
//! - You read: [`Store`]. You react to events: [`Subscription`]. You write to the source, too:
//!   [`Overlay`] and [`Store::wait_for`] let you read that.
//! - You bring things to where they should be: [`Reconciler`] and [`Controller`]; or take the
//!   [`WorkQueue`] by itself.
//!
//! # Words
//!
//! - *object*: one thing in the collection; its [key](Object::key) never changes.
//! - *version*: a fingerprint of what counts as changed. Compared for equality only. An object
//!   that comes again in the same version costs nothing and keeps its `Arc`.
//! - *incarnation*: tells a thing from a later one under the same key.
//! - *scope*: a part of the collection that answers, or fails to, as a whole.
//! - *relist*: a list after the first one. It repairs whatever a watch missed.
//! - *check*: a list that is compared with the store and not taken in; see
//!   [`InformerBuilder::verify_every`].
//! - *put aside*, *in quarantine*: an object that could not be taken; see [`Quarantined`].
//! - *parked*: an event that a handler was given up on; see [`Parked`].
//! - *synced*: there was a complete list that was not suspicious.
//! - *certainty*: whether a delete was [observed](Certainty::Observed) or
//!   [inferred](Certainty::Inferred) from a list that lacked the object.
//!
//! # What is promised
//!
//! - For one key, a handler hears `Added (Modified | Resync)* Deleted`, over and over. Changes
//!   that it was too slow for are merged; no delete of something that it was told of is lost.
//! - Objects are moved into an `Arc` once and never cloned. Order in a list means nothing.
//! - A list that failed, was broken off or is [suspicious](Listing::suspicious) deletes nothing;
//!   of one that was [restricted](Listing::scope), only the scopes that answered are swept; and
//!   the source is [asked again](ListWatcher::confirm_absent) before anything is.
//! - Failures of the source are retried with back-off for ever, the first list too. Panics of
//!   sources, handlers and reconcilers are counted and stay where they are.
//! - An object that cannot be decoded, or that makes your code panic, is [put
//!   aside](Quarantined) and shown with its error. What was under its key stays as it was, and
//!   others come and go as ever.
//! - All futures are safe to drop; their docs say what that leaves behind.
//! - The clock is tokio's: `#[tokio::test(start_paused = true)]` runs hours in milliseconds.
//!
//! # Features
//!
//! - `prometheus`: `PrometheusMetrics`, with client-go's names.
//! - `testing`: a scripted source and the conformance check.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

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
mod quarantine;
mod queue_core;
mod ready;
mod reflector;
mod resync;
mod shared_informer;
mod sleepers;
mod status;
mod store;
mod subscription;
#[cfg(not(interleavings))]
mod sync;
#[cfg(interleavings)]
#[path = "../interleavings/src/sync.rs"]
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod work_queue;

pub use backoff::{Backoff, StartGate};
pub use controller::{Action, Context, Controller, Failure, Reconciler};
pub use delta_fifo::{Certainty, Change, DeltaFifo, Event};
pub use handler::{Handled, PanicPolicy, Retry};
pub use index::{Conflict, Index, OrderedIndex, Page, Position, UniqueIndex};
pub use list_watcher::{Cause, Cursor, ListDone, ListWatcher, SourceError, Verdict, WatchEvent};
pub use listing::{ListCounts, Listing, Offered};
pub use metrics::{Metrics, NoMetrics};
pub use object::{Key, Object, Scope, fingerprint};
#[cfg(feature = "prometheus")]
pub use prometheus::PrometheusMetrics;
pub use quarantine::Quarantined;
pub use ready::Priority;
pub use reflector::{Decision, Reflector, Step};
pub use shared_informer::{InformerBuilder, InformerHandle, SharedIndexInformer};
pub use status::{NotSynced, Phase, Status, Verification};
pub use store::{NotYet, Overlay, Store, StoreWriter, Until, Writing};
pub use subscription::{Lag, Parked, Replay, SubscribeOptions, Subscription, SubscriptionMonitor};
pub use work_queue::{Shutdown, Taken, WorkQueue, WorkQueueBuilder};

/// Runs the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
