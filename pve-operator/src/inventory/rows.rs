//! Between what the cache holds and what the tables hold.

use std::sync::Arc;

use schema::{
    guest::{GuestRow, SyncedGuest},
    node::{NodeRow, NodeStatus, SyncedNode},
    storage::{StorageKey as RowKey, StorageRow, StorageUsage, SyncedStorage},
};

use super::{
    interner::Interner,
    objects::{Guest, Node, Storage, StorageKey},
};
use crate::pve::{self, GuestKind};

const MIB: u64 = 1 << 20;

pub fn of_node(node: &Node, env: Option<&str>) -> SyncedNode {
    SyncedNode {
        node_name: node.name.to_string(),
        ip_address: node.ip.as_deref().map(str::to_owned),
        env: env.map(str::to_owned),
        status: match &*node.status {
            "online" => NodeStatus::Online,
            "offline" => NodeStatus::Offline,
            _ => NodeStatus::Unknown,
        },
        pve_version: None,
        cpu_num: node.cpus.map(narrow),
        memory_size: node.memory_bytes.map(|bytes| wide(bytes / MIB)),
        resource_hash: hash(node.fingerprint),
    }
}

pub fn of_guest(guest: &Guest) -> SyncedGuest {
    SyncedGuest {
        vmid: i64::from(guest.vmid),
        vm_name: guest.name.as_deref().map(str::to_owned),
        node_name: guest.node.to_string(),
        kind: match guest.kind {
            GuestKind::Qemu => schema::guest::GuestKind::Qemu,
            GuestKind::Lxc => schema::guest::GuestKind::Lxc,
        },
        status: guest.status.to_string(),
        is_template: guest.template.into(),
        cpu_num: guest.cpus.map(narrow),
        memory_size: guest.memory_bytes.map(|bytes| wide(bytes / MIB)),
        lock: text(guest.lock.as_ref()),
        tags: text(guest.tags.as_ref()),
        pool: text(guest.pool.as_ref()),
        ha_state: text(guest.ha_state.as_ref()),
        resource_hash: hash(guest.fingerprint),
    }
}

pub fn of_storage(storage: &Storage, usage: StorageUsage) -> SyncedStorage {
    SyncedStorage {
        key: of_key(&storage.key),
        kind: storage.plugin.to_string(),
        content: Some(storage.content.to_string()),
        active: (&*storage.status == "available").into(),
        // A disabled storage is not listed at all.
        enabled: true.into(),
        shared: storage.shared.into(),
        resource_hash: hash(storage.fingerprint),
        usage,
    }
}

pub fn of_key(key: &StorageKey) -> RowKey {
    RowKey { node_name: key.node.to_string(), storage_name: key.storage.to_string() }
}

/// How full PVE says that a storage is; nothing where it does not know at the moment.
pub fn usage(row: &pve::StorageRow<'_>) -> Option<StorageUsage> {
    let (total, used) = (row.maxdisk?, row.disk?);
    #[expect(clippy::cast_precision_loss, reason = "a share needs no exact bytes")]
    let fraction = if total == 0 { 0.0 } else { used as f64 / total as f64 };
    Some(StorageUsage {
        avail: Some(wide(total.saturating_sub(used))),
        used: Some(wide(used)),
        total: Some(wide(total)),
        used_fraction: Some(fraction),
    })
}

/// The node as it was when its row was written; None for one that had left.
///
/// A hash that we did not write makes it differ from anything PVE says, so it is written again.
pub fn to_node(row: &NodeRow, words: &Interner) -> Option<Node> {
    let node = &row.synced;
    (node.status != NodeStatus::Removed).then(|| Node {
        name: words.get(&node.node_name),
        status: words.get(node.status.as_str()),
        ip: node.ip_address.as_deref().map(Box::from),
        cpus: node.cpu_num.and_then(|cpus| u32::try_from(cpus).ok()),
        memory_bytes: bytes(node.memory_size),
        fingerprint: unhash(&node.resource_hash),
    })
}

/// The guest as it was when its row was written; None for a number that PVE cannot have.
pub fn to_guest(row: &GuestRow, words: &Interner) -> Option<Guest> {
    let guest = &row.synced;
    let word = |text: &Option<String>| text.as_deref().map(|text| words.get(text));
    Some(Guest {
        vmid: u32::try_from(guest.vmid).ok()?,
        kind: match guest.kind {
            schema::guest::GuestKind::Qemu => GuestKind::Qemu,
            schema::guest::GuestKind::Lxc => GuestKind::Lxc,
        },
        template: guest.is_template.into(),
        node: words.get(&guest.node_name),
        name: guest.vm_name.as_deref().map(Box::from),
        status: words.get(&guest.status),
        tags: word(&guest.tags),
        pool: word(&guest.pool),
        lock: word(&guest.lock),
        ha_state: word(&guest.ha_state),
        cpus: guest.cpu_num.and_then(|cpus| u32::try_from(cpus).ok()),
        memory_bytes: bytes(guest.memory_size),
        disk_bytes: None,
        fingerprint: unhash(&guest.resource_hash),
    })
}

pub fn to_storage(row: &StorageRow, words: &Interner) -> Storage {
    let storage = &row.synced;
    Storage {
        key: StorageKey {
            node: words.get(&storage.key.node_name),
            storage: words.get(&storage.key.storage_name),
        },
        plugin: words.get(&storage.kind),
        content: words.get(storage.content.as_deref().unwrap_or_default()),
        shared: storage.shared.into(),
        status: words.get(if storage.active.0 { "available" } else { super::project::UNKNOWN }),
        fingerprint: unhash(&storage.resource_hash),
    }
}

fn hash(fingerprint: u64) -> String {
    format!("{fingerprint:016x}")
}

fn unhash(hash: &str) -> u64 {
    u64::from_str_radix(hash, 16).unwrap_or(0)
}

fn text(word: Option<&Arc<str>>) -> Option<String> {
    word.map(ToString::to_string)
}

fn bytes(mib: Option<i64>) -> Option<u64> {
    mib.and_then(|mib| u64::try_from(mib).ok()).map(|mib| mib.saturating_mul(MIB))
}

fn narrow(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn wide(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_survives_the_tables_and_a_strange_one_equals_nothing() {
        assert_eq!(unhash(&hash(7)), 7);
        assert_eq!(unhash(&hash(u64::MAX)), u64::MAX);
        assert_eq!(unhash("edited by hand"), 0);
    }
}
