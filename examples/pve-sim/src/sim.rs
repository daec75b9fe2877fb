//! The handle that tests, the demo and the control port hold.

mod guests;
mod nodes;
mod stored;
mod tasks;
mod tokens;
mod weak;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::certs::Authority;
use crate::clock::Clock;
use crate::config::Config;
use crate::counters::Counters;
use crate::fault::{FaultRule, Faults};
use crate::hex::sha256;
use crate::http::{Ports, bind};
use crate::shared::Shared;
use crate::world::{Guest, Node, Storage, Token, World, populate};
use nodes::{new_node, next_node_id};

/// Why a simulator did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A port could not be opened; another process has it, perhaps.
    #[error("listen on {address}")]
    Listen {
        /// The first node's address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A certificate could not be made, because of a strange node name perhaps.
    #[error("make certificates")]
    Certificate(#[source] rcgen::Error),
    /// A cluster needs a node.
    #[error("a cluster needs at least one node")]
    NoNodes,
}

/// A running simulated cluster. Clones are handles to the same one; when the last is dropped,
/// its ports close.
///
/// Nothing here waits for requests in flight. Every method takes effect before it returns: a
/// request sent afterwards sees it. Methods that name a node or guest panic when there is
/// none of that name, because a test that does so is wrong.
#[derive(Clone, Debug)]
pub struct Sim {
    shared: Arc<Shared>,
    ports: Arc<Mutex<Ports>>,
    /// Name of the first node.
    first: String,
    token_id: String,
    /// Stops every task when the last handle is dropped.
    stop: Arc<DropGuard>,
}

impl Sim {
    /// Starts a cluster and opens its ports.
    ///
    /// # Errors
    ///
    /// [`StartError`] if a port is taken or the configuration makes no sense.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let names = config.names();
        let Some(first) = names.first().cloned() else { return Err(StartError::NoNodes) };
        let listeners = bind(config.listen, names.len())
            .map_err(|source| StartError::Listen { address: config.listen, source })?;
        let unit = format!("{:08x}-0000-4000-8000-{:012x}", config.seed, names.len());
        let mut world = World {
            cluster: (!config.standalone).then(|| config.cluster_name.clone()),
            config_version: u32::try_from(names.len()).unwrap_or(u32::MAX),
            quorate: true,
            nodes: BTreeMap::new(),
            guests: BTreeMap::new(),
            storages: Vec::new(),
            pools: Vec::new(),
            tokens: BTreeMap::new(),
            tasks: Vec::new(),
            files: Vec::new(),
            volumes: Vec::new(),
            next_id: (100, 1_000_000),
            running: BTreeMap::new(),
            locks: BTreeMap::new(),
            plans: Vec::new(),
            ballast: BTreeMap::new(),
            writable_at: BTreeMap::new(),
            authority: Authority::new(&unit).map_err(StartError::Certificate)?,
            serial: 0,
            tick: 0,
        };
        for (name, listener) in names.iter().zip(&listeners) {
            let address = listener
                .local_addr()
                .map_err(|source| StartError::Listen { address: config.listen, source })?;
            let id = if config.standalone { 0 } else { next_node_id(&world) };
            let mut node =
                new_node(&mut world, name, id, address).map_err(StartError::Certificate)?;
            node.version.clone_from(&config.pve_version);
            world.nodes.insert(name.clone(), node);
        }
        let secret = match &config.token {
            Some(token) => token.reveal().to_owned(),
            None => secret_from(config.seed, 0),
        };
        let token = Token::new(&config.user_id, &secret).with_everything();
        world.tokens.insert(config.user_id.clone(), Arc::new(token));
        populate(&mut world, &config);

        let stop = CancellationToken::new();
        let token_id = config.user_id.clone();
        let shared = Arc::new(Shared {
            config,
            clock: Clock::new(),
            world: Mutex::new(world),
            faults: Mutex::new(Faults::default()),
            counters: Mutex::new(Counters::default()),
            links: Mutex::new(BTreeMap::new()),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
        });
        let mut ports = Ports::default();
        for (name, listener) in names.iter().zip(listeners) {
            ports.open(&shared, name, listener);
        }
        Ok(Self {
            shared,
            ports: Arc::new(Mutex::new(ports)),
            first,
            token_id,
            stop: Arc::new(stop.drop_guard()),
        })
    }

    /// URL of the first node, without a path: `https://127.0.0.1:40123`.
    pub fn url(&self) -> String {
        self.url_of(&self.first)
    }

    /// URL of a node.
    pub fn url_of(&self, node: &str) -> String {
        format!("https://{}", self.look(|world| node_in(world, node).address))
    }

    /// URLs of all nodes, by name of the node.
    pub fn urls(&self) -> Vec<String> {
        self.look(|world| {
            world.nodes.values().map(|node| format!("https://{}", node.address)).collect()
        })
    }

    /// SHA-256 of a node's certificate, upper case with colons, as `/nodes` shows it.
    pub fn fingerprint(&self, node: &str) -> String {
        self.look(|world| node_in(world, node).certificate.certificate.fingerprint.clone())
    }

    /// The authority that signed all nodes' certificates.
    pub fn ca_pem(&self) -> String {
        self.look(|world| world.authority.certificate.pem.clone())
    }

    /// `user@realm!tokenid` of the first token.
    pub fn user_id(&self) -> String {
        self.token_id.clone()
    }

    /// Secret of the first token, as it is now.
    pub fn token(&self) -> String {
        self.look(|world| world.tokens[&self.token_id].secret.clone())
    }

    /// Name of the first node.
    pub fn first_node(&self) -> &str {
        &self.first
    }
}

/// The truth, for comparing with what a client believes.
impl Sim {
    /// Reads the state under its lock; keep it short.
    pub fn look<T>(&self, read: impl FnOnce(&World) -> T) -> T {
        read(&self.shared.world.lock())
    }

    /// Changes anything at all.
    pub fn edit<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        change(&mut self.shared.world.lock())
    }

    /// All guests, by number.
    pub fn guests(&self) -> Vec<Guest> {
        self.look(|world| world.guests.values().cloned().collect())
    }

    /// One guest.
    pub fn guest(&self, vmid: u32) -> Option<Guest> {
        self.look(|world| world.guests.get(&vmid).cloned())
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> Vec<Node> {
        self.look(|world| world.nodes.values().cloned().collect())
    }

    /// The storage configuration.
    pub fn storages(&self) -> Vec<Storage> {
        self.look(|world| world.storages.clone())
    }
}

/// Faults and counters.
impl Sim {
    /// Puts a rule in force; the oldest rule that matches a request is used.
    pub fn fault(&self, rule: FaultRule) {
        self.shared.faults.lock().add(rule);
    }

    /// Ends all rules. Requests that stall already go on stalling.
    pub fn clear_faults(&self) {
        self.shared.faults.lock().clear();
    }

    /// What was asked since the last reset.
    pub fn counters(&self) -> Counters {
        self.shared.counters.lock().clone()
    }

    /// Starts to count from zero.
    pub fn reset_counters(&self) {
        self.shared.counters.lock().reset();
    }
}

fn node_in<'a>(world: &'a World, name: &str) -> &'a Node {
    world.nodes.get(name).unwrap_or_else(|| no_node(name))
}

fn no_node<T>(name: &str) -> T {
    panic!("there is no node {name}")
}

fn no_guest<T>(vmid: u32) -> T {
    panic!("there is no guest {vmid}")
}

/// A secret in the form of PVE's: a UUID.
fn secret_from(seed: u64, serial: u64) -> String {
    let text = format!("pve-sim {seed} {serial}");
    let hex = sha256(text.as_bytes());
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32])
}
