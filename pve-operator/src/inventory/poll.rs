//! One whole answer of a cluster, and its way to the three sources.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::{sync::watch, time::Instant};

use super::guard::Quorum;
use crate::pve::{ClusterStatus, Resources, Version};

/// What one poll brought. The numbers that always move are read from here too.
#[derive(Debug)]
pub struct Poll {
    pub resources: Resources,
    pub membership: Arc<Membership>,
    /// PVE's version on the node that was asked; None until it was asked for.
    pub version: Option<Arc<Version>>,
    /// When the answer was whole.
    pub at: Instant,
    /// Asked about for every guest and storage, so looked up once.
    online: HashSet<String>,
}

impl Poll {
    pub fn new(
        resources: Resources,
        membership: Arc<Membership>,
        version: Option<Arc<Version>>,
    ) -> Self {
        let online = resources.nodes().iter().filter(|row| row.status.as_deref() == Some("online"));
        let online = online.map(|row| row.node.to_string()).collect();
        Self { resources, membership, version, at: Instant::now(), online }
    }

    /// Whether the node can speak for its guests: listed, and online.
    pub fn is_online(&self, node: &str) -> bool {
        self.online.contains(node)
    }

    /// PVE's word for the node's state; None if the node is not a member.
    pub fn node_status(&self, node: &str) -> Option<&str> {
        let row = self.resources.nodes().iter().find(|row| row.node == node)?;
        Some(row.status.as_deref().unwrap_or(super::project::UNKNOWN))
    }
}

/// What `/cluster/status` adds to the list; read less often.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Membership {
    pub quorum: Quorum,
    /// Addresses by node name; empty without Sys.Audit.
    pub ips: HashMap<String, String>,
    /// The answer itself; empty without Sys.Audit.
    pub status: ClusterStatus,
}

impl Default for Membership {
    fn default() -> Self {
        Self { quorum: Quorum::NotShown, ips: HashMap::new(), status: ClusterStatus::default() }
    }
}

/// The poller's end: publishes each good poll; only the latest one is kept.
pub type Publish = watch::Sender<Option<Arc<Poll>>>;

/// A source's end.
#[derive(Debug)]
pub struct Feed(tokio::sync::Mutex<watch::Receiver<Option<Arc<Poll>>>>);

/// The poller has stopped; the pipeline is shutting down.
#[derive(Debug, thiserror::Error)]
#[error("the poller has stopped")]
pub struct Stopped;

impl Feed {
    pub fn new(publish: &Publish) -> Self {
        Self(tokio::sync::Mutex::new(publish.subscribe()))
    }

    /// Waits for a poll that this feed has not returned yet.
    ///
    /// # Cancellation
    ///
    /// Safe: a poll that was not returned comes again.
    pub async fn next(&self) -> Result<Arc<Poll>, Stopped> {
        let mut receiver = self.0.lock().await;
        loop {
            receiver.changed().await.map_err(|_| Stopped)?;
            if let Some(poll) = &*receiver.borrow_and_update() {
                return Ok(Arc::clone(poll));
            }
        }
    }
}
