//! What the tables should hold, told by the simulator, against what they hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use pve_sim::Sim;
use schema::{
    guest::GuestRow,
    node::{NodeRow, NodeStatus},
    storage::StorageRow,
};

/// Every difference in one line. A node that left may keep its row; guests of a node that is not
/// up are `unknown`.
pub(crate) fn differences(
    sim: &Sim,
    nodes: &[NodeRow],
    guests: &[GuestRow],
    storages: &[StorageRow],
) -> Vec<String> {
    let mut wrong = Vec::new();
    compare("node", &nodes_there(sim), &nodes_kept(nodes), &mut wrong);
    compare("guest", &guests_there(sim, nodes), &guests_kept(guests), &mut wrong);
    compare("storage", &storages_there(sim), &storages_kept(storages), &mut wrong);
    for (what, keys) in [
        ("node", nodes.iter().map(|row| row.synced.node_name.clone()).collect::<Vec<_>>()),
        ("guest", guests.iter().map(|row| row.synced.vmid.to_string()).collect()),
    ] {
        let distinct: BTreeSet<_> = keys.iter().collect();
        if distinct.len() != keys.len() {
            wrong.push(format!("a {what} has two rows: {keys:?}"));
        }
    }
    wrong
}

fn compare<K: Ord + Debug, V: PartialEq + Debug>(
    kind: &str,
    there: &BTreeMap<K, V>,
    kept: &BTreeMap<K, V>,
    wrong: &mut Vec<String>,
) {
    for (key, value) in there {
        match kept.get(key) {
            None => wrong.push(format!("{kind} {key:?} has no row")),
            Some(row) if row != value => {
                wrong.push(format!("{kind} {key:?} is {value:?}, its row says {row:?}"));
            }
            Some(_) => {}
        }
    }
    for key in kept.keys().filter(|key| !there.contains_key(key)) {
        wrong.push(format!("{kind} {key:?} has a row and does not exist"));
    }
}

#[derive(Debug, PartialEq)]
struct NodeLook {
    online: bool,
    ip: Option<String>,
    cpus: Option<i32>,
    memory_mib: Option<i64>,
}

fn nodes_there(sim: &Sim) -> BTreeMap<String, NodeLook> {
    let look = |node: pve_sim::Node| {
        let look = NodeLook {
            online: node.is_member(),
            ip: Some(node.address.ip().to_string()),
            cpus: i32::try_from(node.cpus).ok(),
            memory_mib: i64::try_from(node.maxmem >> 20).ok(),
        };
        (node.name, look)
    };
    sim.nodes().into_iter().map(look).collect()
}

fn nodes_kept(rows: &[NodeRow]) -> BTreeMap<String, NodeLook> {
    let members = rows.iter().map(|row| &row.synced).filter(|it| it.status != NodeStatus::Removed);
    let look = |node: &schema::node::SyncedNode| {
        let look = NodeLook {
            online: node.status == NodeStatus::Online,
            ip: node.ip_address.clone(),
            cpus: node.cpu_num,
            memory_mib: node.memory_size,
        };
        (node.node_name.clone(), look)
    };
    members.map(look).collect()
}

#[derive(Debug, PartialEq)]
struct GuestLook {
    kind: String,
    node: String,
    node_id: Option<i64>,
    node_ip: Option<String>,
    name: Option<String>,
    status: String,
    template: bool,
    tags: BTreeSet<String>,
    pool: Option<String>,
    lock: Option<String>,
    ha_state: Option<String>,
    cpus: Option<i32>,
    memory_mib: Option<i64>,
}

fn guests_there(sim: &Sim, rows: &[NodeRow]) -> BTreeMap<i64, GuestLook> {
    let nodes = sim.nodes();
    let look = |guest: pve_sim::Guest| {
        let node = nodes.iter().find(|node| node.name == guest.node);
        let row = rows.iter().find(|row| row.synced.node_name == guest.node);
        let status = match node {
            Some(node) if node.is_member() => guest.status.as_str(),
            _ => "unknown",
        };
        let look = GuestLook {
            kind: guest.kind.as_str().to_owned(),
            node_id: row.map(|row| row.id.0),
            node_ip: node.map(|node| node.address.ip().to_string()),
            node: guest.node,
            name: Some(guest.name),
            status: status.to_owned(),
            template: guest.template,
            tags: guest.tags.into_iter().collect(),
            pool: guest.pool,
            lock: guest.lock,
            ha_state: guest.hastate,
            cpus: i32::try_from(guest.cpus).ok(),
            memory_mib: i64::try_from(guest.maxmem >> 20).ok(),
        };
        (i64::from(guest.vmid), look)
    };
    sim.guests().into_iter().map(look).collect()
}

fn guests_kept(rows: &[GuestRow]) -> BTreeMap<i64, GuestLook> {
    let look = |row: &GuestRow| {
        let guest = &row.synced;
        let look = GuestLook {
            kind: guest.kind.as_str().to_owned(),
            node: guest.node_name.clone(),
            node_id: row.node_id.map(|id| id.0),
            node_ip: row.node_ip.clone(),
            name: guest.vm_name.clone(),
            status: guest.status.clone(),
            template: guest.is_template.0,
            tags: guest.tags.iter().flat_map(|tags| tags.split(';')).map(str::to_owned).collect(),
            pool: guest.pool.clone(),
            lock: guest.lock.clone(),
            ha_state: guest.ha_state.clone(),
            cpus: guest.cpu_num,
            memory_mib: guest.memory_size,
        };
        (guest.vmid, look)
    };
    rows.iter().map(look).collect()
}

#[derive(Debug, PartialEq)]
struct StorageLook {
    plugin: String,
    content: BTreeSet<String>,
    shared: bool,
}

fn storages_there(sim: &Sim) -> BTreeMap<(String, String), StorageLook> {
    let (nodes, mut all) = (sim.nodes(), BTreeMap::new());
    for storage in sim.storages().into_iter().filter(|storage| storage.enabled) {
        for node in nodes.iter().filter(|node| storage.is_on(&node.name)) {
            let look = StorageLook {
                plugin: storage.plugin.clone(),
                content: storage.content.iter().cloned().collect(),
                shared: storage.shared,
            };
            all.insert((node.name.clone(), storage.name.clone()), look);
        }
    }
    all
}

fn storages_kept(rows: &[StorageRow]) -> BTreeMap<(String, String), StorageLook> {
    let look = |row: &StorageRow| {
        let storage = &row.synced;
        let content = storage.content.iter().flat_map(|content| content.split(','));
        let look = StorageLook {
            plugin: storage.kind.clone(),
            content: content.map(str::to_owned).collect(),
            shared: storage.shared.0,
        };
        ((storage.key.node_name.clone(), storage.key.storage_name.clone()), look)
    };
    rows.iter().map(look).collect()
}
