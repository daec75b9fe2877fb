//! The truth: what the simulated cluster consists of. Answers are views of it.

mod acl;
mod guest;
mod node;
mod seed;
mod task;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use acl::{AUDIT, PRIVILEGES, Token};
pub use guest::{Address, Agent, Guest, Interface, Kind, Status};
pub use node::{Health, Node, Storage};
pub(crate) use seed::populate;
pub use task::Task;

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
    /// Range of `/cluster/nextid`, lower end included, upper end not.
    pub next_id: (u32, u32),
    pub(crate) authority: Authority,
    pub(crate) serial: u64,
    /// Raised by every answer with usage numbers, so that they move.
    pub(crate) tick: u64,
}

impl World {
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
        self.guests.insert(guest.vmid, guest);
    }

    /// The free number that `/cluster/nextid` would tell.
    pub(crate) fn free_vmid(&self) -> Option<u32> {
        (self.next_id.0..self.next_id.1).find(|vmid| !self.guests.contains_key(vmid))
    }
}
