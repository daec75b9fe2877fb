//! What a simulated cluster is made of when it starts, and how patient it is.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Text that no `Debug` output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// How one simulated cluster starts. [`Config::default`] keeps PVE's own delays,
/// [`Config::quick`] has none and is meant for tests.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "four switches, each on its own")]
pub struct Config {
    /// Name of the cluster in `/cluster/status`.
    pub cluster_name: String,
    /// How many nodes, called `pve1` … `pveN` unless `node_names` says otherwise.
    pub nodes: usize,
    /// Names for the nodes; wins over `nodes` when it is not empty.
    pub node_names: Vec<String>,
    /// How many guests are drawn from the seed.
    pub guests: usize,
    /// VMID of the first drawn guest.
    pub first_vmid: u32,
    /// Same seed, same cluster.
    pub seed: u64,
    /// Where the first node listens. The others take the following addresses with the same
    /// port (`127.0.0.2`, …), as real nodes share port 8006. Port 0 picks a free one.
    pub listen: SocketAddr,
    /// No corosync: one node, and `/cluster/status` has no `cluster` row.
    pub standalone: bool,
    /// `user@realm!tokenid` of the token that has every privilege at the start.
    pub user_id: String,
    /// Secret of that token; `None` derives one from the seed.
    pub token: Option<Secret>,
    /// How long a 401 takes.
    pub auth_delay: Duration,
    /// How long a new guest's row is `unknown` and bare.
    pub settle: Duration,
    /// How long the last values of a node that went offline are shown.
    pub stale_after: Duration,
    /// How long another node takes to find out that a node has no route (595).
    pub unreachable_delay: Duration,
    /// How long a hung daemon takes to become a 596.
    pub hung_delay: Duration,
    /// How long an idle connection is kept.
    pub keep_alive: Duration,
    /// How many requests a connection may carry.
    pub requests_per_connection: u32,
    /// Whether `Accept-Encoding: gzip` is honoured.
    pub gzip: bool,
    /// Whether lists come in another order each time.
    pub shuffle: bool,
    /// Whether usage numbers move with every answer.
    pub moving: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_name: "sim".to_owned(),
            nodes: 3,
            node_names: Vec::new(),
            guests: 40,
            first_vmid: 100,
            seed: 7,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            standalone: false,
            user_id: "root@pam!sim".to_owned(),
            token: None,
            auth_delay: Duration::from_secs(3),
            settle: Duration::from_secs(10),
            stale_after: Duration::from_mins(5),
            unreachable_delay: Duration::from_secs(3),
            hung_delay: Duration::from_secs(30),
            keep_alive: Duration::from_secs(5),
            requests_per_connection: 100,
            gzip: true,
            shuffle: true,
            moving: true,
        }
    }
}

impl Config {
    /// PVE without its delays: 401, 595 and 596 come at once and new guests are whole at once.
    pub fn quick() -> Self {
        Self {
            auth_delay: Duration::ZERO,
            settle: Duration::ZERO,
            unreachable_delay: Duration::ZERO,
            hung_delay: Duration::ZERO,
            ..Self::default()
        }
    }

    /// Sets the number of nodes.
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// Sets the number of drawn guests.
    #[must_use]
    pub fn guests(mut self, guests: usize) -> Self {
        self.guests = guests;
        self
    }

    /// Sets the seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the names of the nodes, and so their number.
    #[must_use]
    pub fn node_names(mut self, names: &[&str]) -> Self {
        self.node_names = names.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// A single node without corosync.
    #[must_use]
    pub fn standalone(mut self) -> Self {
        self.standalone = true;
        self.nodes = 1;
        self.node_names.truncate(1);
        self
    }

    pub(crate) fn names(&self) -> Vec<String> {
        if self.node_names.is_empty() {
            (1..=self.nodes).map(|n| format!("pve{n}")).collect()
        } else {
            self.node_names.clone()
        }
    }
}
