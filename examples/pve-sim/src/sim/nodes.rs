//! Nodes, their health, the cluster, its storages and its time.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::{Sim, StartError, no_node, node_in};
use crate::world::{Health, Node, Storage, World};

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
            node.version.clone_from(&config.pve_version);
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
        self.kill_tasks_of(name);
        self.edit(|world| {
            world.nodes.remove(name).unwrap_or_else(|| no_node(name));
            world.config_version += 1;
            world.guests.retain(|_, guest| guest.node != name);
            world.files.retain(|file| file.node.as_deref() != Some(name));
            world.volumes.retain(|volume| volume.node.as_deref() != Some(name));
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
        if health == Health::Off {
            self.kill_tasks_of(name);
        }
        let rejoin = self.shared.config.rejoin_delay;
        let (listens, address) = self.edit(|world| {
            let member = world.nodes.get(name).is_some_and(Node::is_member);
            let node = world.nodes.get_mut(name).unwrap_or_else(|| no_node(name));
            if node.health == Health::Off && health != Health::Off {
                node.booted_at = now;
                node.uptime_before = Duration::ZERO;
            }
            node.health = health;
            node.away_since = if node.is_member() { None } else { node.away_since.or(Some(now)) };
            let seen = (node.listens(), node.address);
            if !member && node.is_member() {
                world.writable_at.insert(name.to_owned(), now + rejoin);
            }
            seen
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

pub(super) fn next_node_id(world: &World) -> u32 {
    world.nodes.values().map(|node| node.id).max().unwrap_or(0) + 1
}

pub(super) fn new_node(
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
