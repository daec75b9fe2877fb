//! Where threads meet: the locks, atomics and notifications of this crate, from one place.
//!
//! The package `interleavings` compiles this crate with others in their place, and runs it
//! through every schedule of a few threads.

pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub(crate) use parking_lot::{Mutex, RwLock};
pub(crate) use tokio::sync::Notify;
