//! PVE to tables: one poll feeds three informers, and a writer follows their changes.
//!
//! ```text
//! PVE --GET--> poller --one list, split--> sources --> informers --> writer --> tables
//!                                             |
//!                                           guard: what a list lacks is gone only with proof
//! ```

pub mod details;
mod details_of;
mod details_writer;
pub mod dirty;
pub mod evidence;
pub mod guard;
pub mod health;
pub mod interner;
pub mod objects;
pub mod poll;
pub mod poller;
pub mod project;
pub mod rows;
pub mod sources;
mod spread;
pub mod status;
pub mod trust;
pub mod usage;
pub mod writer;
