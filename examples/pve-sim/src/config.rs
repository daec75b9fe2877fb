//! What a simulated cluster is made of when it starts, and how patient it is.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::world::Storage;

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
    /// The storages; empty means PVE's usual ones (`local`, `local-lvm`) and `nfs-shared`.
    pub storages: Vec<Storage>,
    /// PVE's version on all nodes. Before 8.4 no `.qcow2` can be put on a storage by API, before
    /// 8.3 nothing to import at all.
    pub pve_version: String,
    /// How long a task lasts at least.
    pub task_time: Duration,
    /// Bytes of the guest's disk that `qemu-img` copies per second; `None` is as many as it likes.
    pub copy_rate: Option<u64>,
    /// Bytes per second that all downloads of a node together can take; `None` is no limit.
    pub node_link: Option<u64>,
    /// How long a task waits for a guest's lock file. A clone waits a seventh of it.
    pub lock_wait: Duration,
    /// How long wget waits before it connects again after a connection broke.
    pub download_retry: Duration,
    /// How long an upload may be silent.
    pub upload_patience: Duration,
    /// How long `/etc/pve` cannot be written after a node is back in the cluster.
    pub rejoin_delay: Duration,
    /// Certificates (PEM) that the nodes trust when they download by https.
    pub trusted: Vec<String>,
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
            storages: Vec::new(),
            pve_version: "9.2.11".to_owned(),
            task_time: Duration::from_millis(250),
            copy_rate: Some(400 << 20),
            node_link: None,
            lock_wait: Duration::from_secs(10),
            download_retry: Duration::from_secs(1),
            upload_patience: Duration::from_secs(5),
            rejoin_delay: Duration::from_millis(4500),
            trusted: Vec::new(),
        }
    }
}

impl Config {
    /// PVE without its delays: 401, 595 and 596 come at once, new guests are whole at once, and
    /// tasks take 20 ms.
    pub fn quick() -> Self {
        Self {
            auth_delay: Duration::ZERO,
            settle: Duration::ZERO,
            unreachable_delay: Duration::ZERO,
            hung_delay: Duration::ZERO,
            task_time: Duration::from_millis(20),
            copy_rate: None,
            lock_wait: Duration::from_millis(300),
            download_retry: Duration::from_millis(20),
            rejoin_delay: Duration::ZERO,
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

    /// Adds a storage; with the first one the usual ones are no longer there.
    #[must_use]
    pub fn storage(mut self, storage: Storage) -> Self {
        self.storages.push(storage);
        self
    }

    /// Sets PVE's version.
    #[must_use]
    pub fn pve_version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.pve_version);
        self
    }

    /// Sets how long a task lasts at least.
    #[must_use]
    pub fn task_time(mut self, time: Duration) -> Self {
        self.task_time = time;
        self
    }

    /// Sets how many bytes per second `qemu-img` copies.
    #[must_use]
    pub fn copy_rate(mut self, rate: u64) -> Self {
        self.copy_rate = Some(rate);
        self
    }

    /// Sets how many bytes per second a node can download.
    #[must_use]
    pub fn node_link(mut self, rate: u64) -> Self {
        self.node_link = Some(rate);
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
