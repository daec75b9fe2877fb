//! PVE's HTTP API, with its oddities, turned into our types.
//!
//! ```text
//! Reader --Call--> limits --> breaker --> failover --> TLS --> PVE
//!    ^                                                          |
//!    +--- rows, answers <--- scalar, reply, resources <--body---+--- PveError <--- status
//! ```
//!
//! - [`Reader`] asks and cannot change anything. One per cluster; clones share everything.
//! - [`Changer`] asks for changes, each of them once.
//! - [`Resources`] is the whole inventory in one answer, as rows that borrow from its body.
//! - [`PveError`] says what failed, whether a change may have happened ([`PveError::effect`]),
//!   and what to do ([`PveError::retry`]). It never holds a token.
//! - [`Refusal`] is the meaning of PVE's words for a failure; [`download_progress`] and
//!   [`import_progress`] are that of a task's log.
//! - [`Trust`] is whom we believe; [`Learned`] is what trusted connections added to it.
//!
//! Reading is tolerant (a number may be a string, one bad element costs only itself); writing is
//! strict ([`NodeName`], [`Vmid`], [`StorageName`], [`Upid`] are checked before a request exists).

mod advice;
mod answers;
mod breaker;
mod changer;
mod client;
mod elements;
mod error;
mod failover;
mod limits;
mod orders;
mod path;
mod permissions;
mod progress;
mod reader;
mod refusal;
mod reply;
mod resources;
mod scalar;
mod staging;
mod task_log;
mod tls;
mod token;
mod upid;
mod upload;
mod verdict;
mod volid;

pub use advice::Again;
pub use answers::{
    Certificate, ClusterStatus, GuestConfig, GuestInterface, InterfaceAddress, Interfaces,
    MemberNode, Membership, NodeListing, NodeStorage, Version,
};
pub use breaker::BreakerPauses;
pub use changer::Changer;
pub use client::{ClientConfig, RequestObserver, RequestSeen};
pub use error::{Cause, Effect, ErrorClass, PveError, Retry};
pub use limits::Limits;
pub use orders::{
    Download, GuestClone, IMPORT_SUFFIXES, ImportDisk, NewGuest, SecretUrl, joined_tags,
};
pub use path::{NodeName, StorageName, Vmid};
pub use permissions::{MIRROR, Need, Permissions, guest_ips_need};
pub use progress::{download_progress, import_progress};
pub use reader::Reader;
pub use refusal::{
    DownloadFailure, Refusal, classify, classify_task, error_text, without_url_secrets,
};
pub use reply::Listed;
pub use resources::{GuestKind, GuestRow, NodeRow, Resources, StorageRow};
pub use staging::{TaskFilter, TaskRow, UrlMetadata, VolumeRow};
pub use task_log::{LogLine, LogPage, Outcome, TaskLog, TaskState};
pub use tls::{Fingerprint, FirstUse, Learned, Trust};
pub use token::ApiToken;
pub use upid::Upid;
pub use upload::UploadFile;
pub use volid::Volid;
