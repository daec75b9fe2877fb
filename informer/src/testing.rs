//! For tests: a source that does what its script says, and a check for sources of your own.
//!
//! Run everything under `#[tokio::test(start_paused = true)]`: hours pass in milliseconds.

mod conformance;
mod scripted;

pub use conformance::{Violation, conformance};
pub use scripted::{Fault, ScriptedSource, WatchFault};
