//! The truth: what the simulated cluster consists of. Answers are views of it.

mod acl;
pub(crate) mod drive;
pub(crate) mod file;
mod guest;
mod keys;
mod node;
pub(crate) mod plan;
mod seed;
mod task;
pub(crate) mod volume;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use acl::{AUDIT, PRIVILEGES, Token};
pub use file::File;
pub use guest::{Address, Agent, Guest, Interface, Kind, Status};
pub(crate) use keys::{is_card, plain};
pub use node::{Health, Node, Storage};
pub(crate) use seed::populate;
pub(crate) use task::Running;
pub use task::Task;
pub use volume::Volume;

use crate::certs::Authority;

/// A simulated cluster's state.
///
/// [`Sim::edit`](crate::Sim::edit) hands it out for states that have no method of their own.
#[derive(Debug)]
pub struct World {
    /// Name in `/cluster/status`; `None` on a standalone node.
    pub cluster: Option<String>,
    /// corosync's configuration version: raised by joins and leaves.
    pub config_version: u32,
    /// Whether the cluster has quorum.
    pub quorate: bool,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Guests by number.
    pub guests: BTreeMap<u32, Guest>,
    /// Storage configuration.
    pub storages: Vec<Storage>,
    /// Pools, also empty ones.
    pub pools: Vec<String>,
    /// Tokens by id; the first one made is the one that [`Sim::token`](crate::Sim::token) tells.
    pub tokens: BTreeMap<String, Arc<Token>>,
    /// Tasks, newest last.
    pub tasks: Vec<Task>,
    /// Files on storages, also those that no list shows.
    pub files: Vec<File>,
    /// The disks of guests, and those that no guest has any more.
    pub volumes: Vec<Volume>,
    /// Range of `/cluster/nextid`, lower end included, upper end not.
    pub next_id: (u32, u32),
    /// Workers that run, by UPID.
    pub(crate) running: BTreeMap<String, Running>,
    /// The tasks that hold a guest's lock file, by VMID.
    pub(crate) locks: BTreeMap<u32, GuestLock>,
    /// What shall happen to tasks that begin.
    pub(crate) plans: Vec<plan::Plan>,
    /// Bytes that something else has on a storage, by storage and node.
    pub(crate) ballast: BTreeMap<(String, Option<String>), u64>,
    /// When a node's `/etc/pve` can be written again (time of the simulator).
    pub(crate) writable_at: BTreeMap<String, Duration>,
    pub(crate) authority: Authority,
    pub(crate) serial: u64,
    /// Raised by every answer with usage numbers, so that they move.
    pub(crate) tick: u64,
}

/// Who holds the lock file of a guest: one task, or several that only read.
#[derive(Debug, Default)]
pub(crate) struct GuestLock {
    pub(crate) holders: Vec<String>,
    pub(crate) shared: bool,
}

impl World {
    /// Takes a guest's lock file; whether it could be had.
    pub(crate) fn lock_guest(&mut self, vmid: u32, upid: &str, shared: bool) -> bool {
        let lock = self.locks.entry(vmid).or_default();
        let free = lock.holders.is_empty() || (lock.shared && shared);
        if free {
            lock.shared = shared;
            lock.holders.push(upid.to_owned());
        }
        free
    }

    /// Whether nobody holds a guest's lock file.
    pub(crate) fn is_lockable(&self, vmid: u32) -> bool {
        self.locks.get(&vmid).is_none_or(|lock| lock.holders.is_empty())
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// Whether `seen` is a member in the eyes of `from`.
    pub(crate) fn is_online(&self, from: &str, seen: &str) -> bool {
        let isolated =
            |name: &str| self.nodes.get(name).is_some_and(|node| node.health == Health::Isolated);
        if from == seen {
            return true;
        }
        if isolated(from) {
            return false;
        }
        self.nodes.get(seen).is_some_and(Node::is_member)
    }

    /// Whether a node is in the quorate part.
    pub(crate) fn is_quorate(&self, from: &str) -> bool {
        let isolated = self.nodes.get(from).is_some_and(|node| node.health == Health::Isolated);
        self.quorate && !isolated
    }

    pub(crate) fn put_guest(&mut self, guest: Guest) {
        if let Some(pool) = &guest.pool
            && !self.pools.contains(pool)
        {
            self.pools.push(pool.clone());
        }
        // Numbers first: most guests are new, and clusters have thousands.
        let own = self.volumes.iter().any(|volume| volume.vmid == guest.vmid);
        self.adopt_disks(&guest, own);
        self.guests.insert(guest.vmid, guest);
    }

    /// Puts a guest into an empty world, without looking for disks that it may have.
    pub(crate) fn put_first(&mut self, guest: Guest) {
        self.adopt_disks(&guest, false);
        self.guests.insert(guest.vmid, guest);
    }

    /// Makes the volumes that a guest's configuration names; `look` for those that are there.
    fn adopt_disks(&mut self, guest: &Guest, look: bool) {
        for (key, value) in &guest.config {
            let drive = value.as_str().filter(|_| drive::is_drive(key)).map(drive::Drive::parse);
            let Some(drive) = drive else { continue };
            let (Some(storage), Some(size)) = (drive.storage(), drive.size()) else { continue };
            if self.storage(storage).is_none()
                || (look && self.volume(&drive.file, &guest.node).is_some())
            {
                continue;
            }
            let name = drive.file.rsplit([':', '/']).next().unwrap_or_default().to_owned();
            self.volumes.push(Volume {
                storage: storage.to_owned(),
                node: self.home(storage, &guest.node),
                vmid: guest.vmid,
                format: name.rsplit_once('.').map_or("raw", |(_, end)| end).to_owned(),
                name,
                size,
                used: 0,
                parent: None,
                ctime: 0,
                written_until: Duration::ZERO,
            });
        }
    }

    /// Destroys a guest with its disks, as an administrator does by hand.
    pub(crate) fn drop_guest(&mut self, vmid: u32) -> Option<Guest> {
        let guest = self.guests.remove(&vmid)?;
        self.volumes.retain(|volume| volume.vmid != vmid);
        Some(guest)
    }

    /// Whether a node may write below `/etc/pve`; the text is what a task dies with.
    pub(crate) fn writable(
        &self,
        node: &str,
        vmid: u32,
        pid: u32,
        now: Duration,
    ) -> Result<(), String> {
        let since = self.writable_at.get(node).copied().unwrap_or_default();
        if self.is_quorate(node) && now >= since {
            return Ok(());
        }
        Err(format!(
            "unable to open file '/etc/pve/nodes/{node}/qemu-server/{vmid}.conf.tmp.{pid}' - \
             Permission denied"
        ))
    }

    /// The free number that `/cluster/nextid` would tell.
    pub(crate) fn free_vmid(&self) -> Option<u32> {
        (self.next_id.0..self.next_id.1).find(|vmid| !self.guests.contains_key(vmid))
    }
}
