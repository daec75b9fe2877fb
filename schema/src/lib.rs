//! All that outlives a process: tables, migrations, queries, sealed secrets, disk images.
//!
//! ```text
//! Db --conn/write/read--> Conn --> cluster, node, guest, storage, ... (a file per table)
//! ```
//!
//! One binary speaks SQLite, MariaDB (MySQL) and PostgreSQL; the URL chooses at run time. A
//! query is a free function over a [`Conn`], so whoever calls it chooses the transaction:
//! [`Db::conn`] for single statements, [`Db::write`] for a change that is retried when
//! databases collide, [`Db::read`] for several reads of one moment.
//!
//! - *natural key*: what PVE calls a thing (node name, VMID, node and storage name). Ids are
//!   ours, given once, and never burnt: rows are updated by id and only new ones inserted.
//! - *synced columns*: what the mirror writes. All others belong to people and to the API,
//!   and no write of the mirror touches them.
//! - *revision*: one counter per table, raised in the transaction that changes its rows; so
//!   "what changed" is `revision > n`, in commit order. A *tombstone* tells of a deleted row.
//!
//! All times are UTC with milliseconds.

mod batch;
mod connect;
mod db;
mod error;
mod flag;
mod id;
mod migrate;
mod sql;
mod sqlite_thread;
mod tables;
mod text;
mod url;
mod words;

pub mod audit;
pub mod cluster;
pub mod cluster_access;
pub mod cluster_status;
pub mod guest;
pub mod guest_details;
pub mod guest_tag;
pub mod idempotency;
pub mod image_format;
pub mod image_url;
pub mod image_use;
pub mod images;
pub mod installation;
pub mod instance;
pub mod ip_address;
pub mod lease;
pub mod leftover;
pub mod node;
pub mod overview;
pub mod page;
pub mod reservation;
pub mod resumable_upload;
pub mod revision;
pub mod secret;
pub mod storage;
pub mod sweep;
pub mod sync_task;
pub mod task_changes;
pub mod template;
pub mod template_clone;
pub mod template_view;
pub mod template_wish;
#[cfg(feature = "testing")]
pub mod testing;
pub mod token;
pub mod tombstone;
pub mod upload;
pub mod user_change;

pub use batch::Written;
pub use db::{Conn, Db, Transaction};
pub use error::DbError;
pub use flag::Flag;
pub use id::{
    CloneId, ClusterId, GuestId, InstanceId, NodeId, Revision, StorageId, SyncTaskId, TemplateId,
    UploadId,
};
pub use migrate::{LATEST, Version};
pub use url::{Backend, DatabaseUrl};

/// UTC with milliseconds, as every table keeps it.
pub type Timestamp = chrono::NaiveDateTime;

/// Now, cut to the milliseconds that every database keeps.
pub fn now() -> Timestamp {
    let now = chrono::Utc::now();
    chrono::DateTime::from_timestamp_millis(now.timestamp_millis()).unwrap_or(now).naive_utc()
}
