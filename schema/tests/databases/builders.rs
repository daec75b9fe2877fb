//! Rows with defaults: a test names only what matters to it.

use schema::guest::{GuestKind, SyncedGuest};
use schema::node::{NodeStatus, SyncedNode};
use schema::storage::{StorageKey, StorageUsage, SyncedStorage};
use schema::{ClusterId, Flag};

pub(crate) const LAB: ClusterId = ClusterId(1);
pub(crate) const ATTIC: ClusterId = ClusterId(2);

pub(crate) fn a_node(name: &str) -> SyncedNode {
    SyncedNode {
        node_name: name.to_owned(),
        ip_address: Some("10.0.0.1".to_owned()),
        env: Some("prod".to_owned()),
        status: NodeStatus::Online,
        pve_version: Some("9.2.11".to_owned()),
        cpu_num: Some(16),
        memory_size: Some(65_536),
        resource_hash: "00".to_owned(),
    }
}

pub(crate) fn a_guest(vmid: i64) -> SyncedGuest {
    SyncedGuest {
        vmid,
        vm_name: Some(format!("guest-{vmid}")),
        node_name: "n1".to_owned(),
        kind: GuestKind::Qemu,
        status: "running".to_owned(),
        is_template: Flag(false),
        cpu_num: Some(4),
        memory_size: Some(8192),
        lock: None,
        tags: None,
        pool: None,
        ha_state: None,
        resource_hash: "00".to_owned(),
    }
}

pub(crate) fn a_storage(node: &str, name: &str) -> SyncedStorage {
    SyncedStorage {
        key: a_key(node, name),
        kind: "dir".to_owned(),
        content: Some("images,import".to_owned()),
        active: Flag(true),
        enabled: Flag(true),
        shared: Flag(false),
        resource_hash: "00".to_owned(),
        usage: StorageUsage {
            avail: Some(60),
            used: Some(40),
            total: Some(100),
            used_fraction: Some(0.4),
        },
    }
}

pub(crate) fn a_key(node: &str, name: &str) -> StorageKey {
    StorageKey { node_name: node.to_owned(), storage_name: name.to_owned() }
}
