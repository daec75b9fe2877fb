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

/// The columns of every table that is really there.
pub(crate) async fn columns(
    db: &schema::Db,
) -> std::collections::BTreeMap<String, std::collections::BTreeSet<String>> {
    let sql = match db.url().backend() {
        schema::Backend::Sqlite => {
            "SELECT m.name || '.' || p.name AS t FROM sqlite_master m, pragma_table_info(m.name) p \
             WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'"
        }
        schema::Backend::Mysql => {
            "SELECT CONCAT(table_name, '.', column_name) AS t FROM information_schema.columns \
             WHERE table_schema = database()"
        }
        schema::Backend::Postgres => {
            "SELECT table_name || '.' || column_name AS t FROM information_schema.columns \
             WHERE table_schema = 'public'"
        }
    };
    let mut tables: std::collections::BTreeMap<_, std::collections::BTreeSet<_>> =
        std::collections::BTreeMap::new();
    for text in texts(db, sql).await {
        let (table, column) = text.split_once('.').unwrap();
        tables.entry(table.to_owned()).or_default().insert(column.to_owned());
    }
    tables
}

/// Column `t` of the answer, as text.
pub(crate) async fn texts(db: &schema::Db, sql: &str) -> Vec<String> {
    schema::testing::texts(&mut db.conn().await.unwrap(), sql).await.unwrap()
}

/// Runs SQL as people do.
pub(crate) async fn run(db: &schema::Db, sql: &str) {
    db.conn().await.unwrap().execute_sql(sql).await.unwrap();
}

/// Two clusters, with the ids [`LAB`] and [`ATTIC`].
pub(crate) async fn two_clusters(db: &schema::Db) {
    for name in ["lab", "attic"] {
        let sql = format!(
            "INSERT INTO pve_cluster (cluster_name, api_url, user_id, user_token) \
             VALUES ('{name}', 'https://{name}:8006', 'mirror@pve', 'mirror=1234')"
        );
        run(db, &sql).await;
    }
}
