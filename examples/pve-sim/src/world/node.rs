//! Nodes and storages as the simulated cluster really has them.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use serde_json::Value;

use crate::certs::NodeCertificate;

/// What has happened to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// All is well.
    Up,
    /// Powered off: nothing listens, the others see it offline and answer 595 "No route to host".
    Off,
    /// A member, but its pveproxy is down: nothing listens, the others answer 595
    /// "Connection refused".
    ProxyDown,
    /// Its pvedaemon is down: what needs it is 595 "Connection refused", lists go on.
    DaemonDown,
    /// Its pvedaemon hangs: what needs it is 596 "Connection timed out".
    DaemonHung,
    /// Cut off from the cluster network: it answers, without quorum, and sees the others
    /// offline; they see it offline.
    Isolated,
}

/// One node.
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its number in corosync; 0 on a standalone node.
    pub id: u32,
    /// Where its pveproxy listens.
    pub address: SocketAddr,
    /// What has happened to it.
    pub health: Health,
    /// Processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub maxmem: u64,
    /// Size of the root file system in bytes.
    pub maxdisk: u64,
    /// Subscription level: empty, or `c`, `b`, `s`, `p`.
    pub level: String,
    /// PVE's version, for example `9.2.11`.
    pub version: String,
    /// When it went away, in the simulator's time.
    #[serde(skip)]
    pub(crate) away_since: Option<Duration>,
    #[serde(skip)]
    pub(crate) booted_at: Duration,
    #[serde(skip)]
    pub(crate) uptime_before: Duration,
    #[serde(skip)]
    pub(crate) certificate: NodeCertificate,
}

impl Node {
    /// Whether its API port answers.
    pub fn listens(&self) -> bool {
        !matches!(self.health, Health::Off | Health::ProxyDown)
    }

    /// Whether the rest of the cluster counts it as a member.
    pub fn is_member(&self) -> bool {
        !matches!(self.health, Health::Off | Health::Isolated)
    }

    /// Whether what the cluster last heard of it has been dropped.
    pub(crate) fn is_stale(&self, now: Duration, after: Duration) -> bool {
        self.away_since.is_some_and(|since| now.saturating_sub(since) >= after)
    }

    pub(crate) fn uptime(&self, now: Duration) -> Duration {
        self.uptime_before + now.saturating_sub(self.booted_at)
    }
}

/// One entry of the storage configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// Its name.
    pub name: String,
    /// The plugin: `dir`, `lvmthin`, `nfs`, …
    pub plugin: String,
    /// Content types; PVE writes them in random order.
    pub content: Vec<String>,
    /// Whether all nodes see the same bytes.
    pub shared: bool,
    /// The nodes that have it; empty means all.
    pub nodes: Vec<String>,
    /// A disabled one is left out of `/cluster/resources`.
    pub enabled: bool,
    /// Size in bytes.
    pub total: u64,
    /// Bytes in use, about.
    pub used: u64,
    /// The pool it is in: what the pool grants holds for it too.
    #[serde(default)]
    pub pool: Option<String>,
    /// Further keys of its section (`path`, `vgname`, `server`, …).
    pub options: Vec<(String, Value)>,
}

impl Storage {
    /// An enabled storage of this plugin on all nodes.
    pub fn new(name: &str, plugin: &str, content: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            plugin: plugin.to_owned(),
            content: content.iter().map(|&kind| kind.to_owned()).collect(),
            shared: false,
            nodes: Vec::new(),
            enabled: true,
            total: 270_553_174_016,
            used: 23_400_591_360,
            pool: None,
            options: Vec::new(),
        }
    }

    /// Marks it as shared.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    /// Adds a key to its section.
    #[must_use]
    pub fn option(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.options.push((key.to_owned(), value.into()));
        self
    }

    /// Restricts it to these nodes.
    #[must_use]
    pub fn only_on(mut self, nodes: &[&str]) -> Self {
        self.nodes = nodes.iter().map(|&node| node.to_owned()).collect();
        self
    }

    /// Whether a node has it.
    pub fn is_on(&self, node: &str) -> bool {
        self.nodes.is_empty() || self.nodes.iter().any(|name| name == node)
    }
}
