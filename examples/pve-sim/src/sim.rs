//! The handle that tests, the demo and the control port hold.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
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
use crate::world::{
    Agent, Guest, Health, Kind, Node, Status, Storage, Task, Token, World, populate,
};

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
            next_id: (100, 1_000_000),
            authority: Authority::new(&unit).map_err(StartError::Certificate)?,
            serial: 0,
            tick: 0,
        };
        for (name, listener) in names.iter().zip(&listeners) {
            let address = listener
                .local_addr()
                .map_err(|source| StartError::Listen { address: config.listen, source })?;
            let id = if config.standalone { 0 } else { next_node_id(&world) };
            let node = new_node(&mut world, name, id, address).map_err(StartError::Certificate)?;
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

/// A handle that does not keep the cluster running.
#[derive(Clone, Debug)]
pub(crate) struct WeakSim {
    shared: Weak<Shared>,
    ports: Weak<Mutex<Ports>>,
    first: String,
    token_id: String,
    stop: Weak<DropGuard>,
}

impl WeakSim {
    pub(crate) fn upgrade(&self) -> Option<Sim> {
        Some(Sim {
            shared: self.shared.upgrade()?,
            ports: self.ports.upgrade()?,
            first: self.first.clone(),
            token_id: self.token_id.clone(),
            stop: self.stop.upgrade()?,
        })
    }
}

impl Sim {
    pub(crate) fn downgrade(&self) -> WeakSim {
        WeakSim {
            shared: Arc::downgrade(&self.shared),
            ports: Arc::downgrade(&self.ports),
            first: self.first.clone(),
            token_id: self.token_id.clone(),
            stop: Arc::downgrade(&self.stop),
        }
    }

    pub(crate) fn stopped(&self) -> CancellationToken {
        self.shared.stop.clone()
    }

    pub(crate) fn spawn_on(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
        runtime: &Handle,
    ) {
        self.shared.tasks.spawn_on(task, runtime);
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

/// Guests.
impl Sim {
    /// Adds a guest, replacing one of the same number; its row is bare for
    /// [`Config::settle`].
    pub fn add_guest(&self, mut guest: Guest) {
        let now = self.shared.clock.now();
        self.edit(|world| {
            node_in(world, &guest.node);
            guest.whole_at = now + self.shared.config.settle;
            guest.started_at = now;
            if let Some(old) = world.guests.get(&guest.vmid) {
                guest.incarnation = old.incarnation + 1;
            }
            world.put_guest(guest);
        });
    }

    /// Destroys a guest.
    pub fn remove_guest(&self, vmid: u32) {
        self.edit(|world| world.guests.remove(&vmid)).unwrap_or_else(|| no_guest(vmid));
    }

    /// Changes one guest.
    pub fn change_guest(&self, vmid: u32, change: impl FnOnce(&mut Guest)) {
        self.edit(|world| change(world.guests.get_mut(&vmid).unwrap_or_else(|| no_guest(vmid))));
    }

    /// Gives a guest another name.
    pub fn rename(&self, vmid: u32, name: &str) {
        self.change_guest(vmid, |guest| name.clone_into(&mut guest.name));
    }

    /// Moves a guest to another node at once; it keeps its number and goes on running.
    pub fn migrate_guest(&self, vmid: u32, node: &str) {
        self.edit(|world| {
            node_in(world, node);
            let guest = world.guests.get_mut(&vmid).unwrap_or_else(|| no_guest(vmid));
            node.clone_into(&mut guest.node);
        });
    }

    /// Starts, stops or pauses a guest.
    pub fn set_status(&self, vmid: u32, status: Status) {
        let now = self.shared.clock.now();
        self.change_guest(vmid, |guest| {
            if guest.status == Status::Stopped && status != Status::Stopped {
                guest.started_at = now;
                guest.uptime_before = Duration::ZERO;
            }
            guest.status = status;
        });
    }

    /// Locks or unlocks a guest's configuration.
    pub fn set_lock(&self, vmid: u32, lock: Option<&str>) {
        self.change_guest(vmid, |guest| guest.lock = lock.map(str::to_owned));
    }

    /// Sets a guest's tags.
    pub fn set_tags(&self, vmid: u32, tags: &[&str]) {
        self.change_guest(vmid, |guest| {
            guest.tags = tags.iter().map(|&tag| tag.to_owned()).collect();
        });
    }

    /// Gives a guest's card these addresses (`10.0.0.5/24`).
    pub fn set_ips(&self, vmid: u32, addresses: &[&str]) {
        self.change_guest(vmid, |guest| guest.set_ips(addresses));
    }

    /// Sets how a guest's agent behaves.
    pub fn set_agent(&self, vmid: u32, agent: Agent) {
        self.change_guest(vmid, |guest| guest.agent = agent);
    }

    /// The next free number, as `/cluster/nextid` tells it.
    pub fn free_vmid(&self) -> u32 {
        self.look(World::free_vmid).expect("a simulated cluster has free numbers")
    }

    /// Adds a task to the log of its node.
    pub fn add_task(&self, task: Task) {
        self.edit(|world| world.tasks.push(task));
    }

    /// A new guest of this kind on a node, under the next free number.
    pub fn create_guest(&self, kind: Kind, node: &str) -> u32 {
        let vmid = self.free_vmid();
        self.add_guest(match kind {
            Kind::Qemu => Guest::qemu(vmid, node),
            Kind::Lxc => Guest::lxc(vmid, node),
        });
        vmid
    }
}

/// Nodes and the cluster.
impl Sim {
    /// A new member, listening on the next free address with the cluster's port.
    ///
    /// # Errors
    ///
    /// [`StartError::Listen`] if that port is taken.
    pub fn add_node(&self, name: &str) -> Result<(), StartError> {
        let config = &self.shared.config;
        let (port, used) = self.look(|world| {
            let port = node_in(world, &self.first).address.port();
            (port, world.nodes.values().map(|node| node.address.ip()).collect::<Vec<_>>())
        });
        let ip = (0..=used.len())
            .map(|n| crate::http::nth_address(config.listen.ip(), n))
            .find(|ip| !used.contains(ip))
            .expect("a network has more addresses than a cluster has nodes");
        let address = SocketAddr::new(ip, port);
        let listen_error = |source| StartError::Listen { address, source };
        let listener = match std::net::TcpListener::bind(address) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
                std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(listen_error)?
            }
            other => other.map_err(listen_error)?,
        };
        let address = listener.local_addr().map_err(listen_error)?;
        let now = self.shared.clock.now();
        self.edit(|world| {
            let id = next_node_id(world);
            let mut node = new_node(world, name, id, address)?;
            node.booted_at = now;
            world.config_version += 1;
            world.nodes.insert(name.to_owned(), node);
            Ok(())
        })
        .map_err(StartError::Certificate)?;
        self.ports.lock().open(&self.shared, name, listener);
        Ok(())
    }

    /// Takes a node out of the cluster (`pvecm delnode`) with its guests; its port closes.
    pub fn remove_node(&self, name: &str) {
        self.ports.lock().close(name);
        self.edit(|world| {
            world.nodes.remove(name).unwrap_or_else(|| no_node(name));
            world.config_version += 1;
            world.guests.retain(|_, guest| guest.node != name);
        });
    }

    /// A node that was removed comes back under its name, empty. Like [`Sim::add_node`].
    ///
    /// # Errors
    ///
    /// [`StartError::Listen`] if its port is taken.
    pub fn rejoin(&self, name: &str) -> Result<(), StartError> {
        self.add_node(name)
    }

    /// Powers a node off: connections are refused, the others see it offline.
    pub fn node_down(&self, name: &str) {
        self.set_health(name, Health::Off);
    }

    /// Powers a node on again, or mends whatever ailed it.
    pub fn node_up(&self, name: &str) {
        self.set_health(name, Health::Up);
    }

    /// Lets something happen to a node.
    ///
    /// # Panics
    ///
    /// If its port cannot be opened again.
    pub fn set_health(&self, name: &str, health: Health) {
        let now = self.shared.clock.now();
        let (listens, address) = self.edit(|world| {
            let node = world.nodes.get_mut(name).unwrap_or_else(|| no_node(name));
            if node.health == Health::Off && health != Health::Off {
                node.booted_at = now;
                node.uptime_before = Duration::ZERO;
            }
            node.health = health;
            node.away_since = if node.is_member() { None } else { node.away_since.or(Some(now)) };
            (node.listens(), node.address)
        });
        let mut ports = self.ports.lock();
        if !listens {
            ports.close(name);
        } else if !ports.is_open(name) {
            let listener = std::net::TcpListener::bind(address)
                .unwrap_or_else(|error| panic!("listen on {address} again: {error}"));
            ports.open(&self.shared, name, listener);
        }
    }

    /// Gives or takes the cluster's quorum.
    pub fn set_quorum(&self, quorate: bool) {
        self.edit(|world| world.quorate = quorate);
    }

    /// Gives a node a new certificate of the same authority, as PVE does every other year.
    /// Connections that exist go on. Returns the new fingerprint.
    ///
    /// # Panics
    ///
    /// If no certificate can be made, which worked before.
    pub fn renew_certificate(&self, name: &str) -> String {
        self.edit(|world| {
            let ip = node_in(world, name).address.ip();
            world.serial += 1;
            let serial = world.serial;
            let certificate =
                world.authority.issue(name, ip, serial).expect("it was issued before");
            let fingerprint = certificate.certificate.fingerprint.clone();
            world.nodes.get_mut(name).unwrap_or_else(|| no_node(name)).certificate = certificate;
            fingerprint
        })
    }

    /// Adds a storage to the configuration, or replaces the one of that name.
    pub fn put_storage(&self, storage: Storage) {
        self.edit(|world| {
            world.storages.retain(|old| old.name != storage.name);
            world.storages.push(storage);
        });
    }

    /// Removes a storage from the configuration.
    pub fn remove_storage(&self, name: &str) {
        self.edit(|world| world.storages.retain(|storage| storage.name != name));
    }

    /// Lets time pass for the cluster: new guests settle, absent nodes are forgotten, uptimes
    /// grow. Connections do not age.
    pub fn skip(&self, by: Duration) {
        self.shared.clock.skip(by);
    }
}

/// Tokens and privileges. Those without a token's name mean the first token.
impl Sim {
    /// Adds a token, or replaces the one of that id.
    pub fn put_token(&self, token: Token) {
        self.edit(|world| world.tokens.insert(token.id.clone(), Arc::new(token)));
    }

    /// Gives the first token a new secret and returns it; the old one is a 401 at once.
    pub fn rotate_token(&self) -> String {
        let fresh = self.edit(|world| {
            world.serial += 1;
            secret_from(self.shared.config.seed, world.serial)
        });
        self.change_token(&self.token_id, |token| token.secret.clone_from(&fresh));
        fresh
    }

    /// Revokes the first token: 401 from now on.
    pub fn revoke_token(&self) {
        self.change_token(&self.token_id, |token| token.revoked = true);
    }

    /// Takes back [`Sim::revoke_token`].
    pub fn restore_token(&self) {
        self.change_token(&self.token_id, |token| token.revoked = false);
    }

    /// Grants privileges (`VM.Audit`, …) on a path and below.
    pub fn grant(&self, path: &str, privileges: &[&str]) {
        self.change_token(&self.token_id, |token| token.grant(path, privileges));
    }

    /// Takes privileges away on a path and everywhere below.
    pub fn withdraw(&self, path: &str, privileges: &[&str]) {
        self.change_token(&self.token_id, |token| token.withdraw(path, privileges));
    }

    /// Changes a token's rights, by id.
    ///
    /// # Panics
    ///
    /// If there is no such token.
    pub fn change_token(&self, id: &str, change: impl FnOnce(&mut Token)) {
        self.edit(|world| {
            let token =
                world.tokens.get_mut(id).unwrap_or_else(|| panic!("there is no token {id}"));
            change(Arc::make_mut(token));
        });
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

fn next_node_id(world: &World) -> u32 {
    world.nodes.values().map(|node| node.id).max().unwrap_or(0) + 1
}

fn new_node(
    world: &mut World,
    name: &str,
    id: u32,
    address: SocketAddr,
) -> Result<Node, rcgen::Error> {
    world.serial += 1;
    let certificate = world.authority.issue(name, address.ip(), world.serial)?;
    Ok(Node {
        name: name.to_owned(),
        id,
        address,
        health: Health::Up,
        cpus: 16,
        maxmem: 64 << 30,
        maxdisk: 270_553_174_016,
        level: String::new(),
        version: "9.2.11".to_owned(),
        away_since: None,
        booted_at: Duration::ZERO,
        uptime_before: Duration::from_secs(872_854),
        certificate,
    })
}

/// A secret in the form of PVE's: a UUID.
fn secret_from(seed: u64, serial: u64) -> String {
    let text = format!("pve-sim {seed} {serial}");
    let hex = sha256(text.as_bytes());
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32])
}
