//! What the mirror knows of a cluster, read in one moment, for those who decide where a template
//! can be.

use schema::cluster::{self, Cluster};
use schema::cluster_status::{self, ClusterStatus};
use schema::node::{self, NodeRow};
use schema::storage::{self, StorageRow};
use schema::{ClusterId, Conn, DbError, NodeId, StorageId, template_view};

/// A cluster as the mirror sees it.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub cluster: Cluster,
    /// None before the operator's first contact.
    pub status: Option<ClusterStatus>,
    /// Privileges that the pipeline lacks, as the operator found.
    pub missing_privileges: Vec<String>,
    /// Nodes that left the cluster too.
    pub nodes: Vec<NodeRow>,
    pub storages: Vec<StorageRow>,
}

/// Reads a cluster; `None` if there is none of this id. Call it within one transaction.
pub(super) async fn look(conn: &mut Conn, id: ClusterId) -> Result<Option<World>, DbError> {
    let Some(cluster) = cluster::get(conn, id).await? else { return Ok(None) };
    Ok(Some(World {
        cluster,
        status: cluster_status::get(conn, id).await?,
        missing_privileges: template_view::missing_privileges(conn, id).await?,
        nodes: node::load(conn, id).await?,
        storages: storage::load(conn, id).await?,
    }))
}

impl World {
    pub(super) fn node(&self, id: NodeId) -> Option<&NodeRow> {
        self.nodes.iter().find(|node| node.id == id)
    }

    pub(super) fn node_named(&self, name: &str) -> Option<&NodeRow> {
        self.nodes.iter().find(|node| node.synced.node_name == name)
    }

    pub(super) fn storage(&self, id: StorageId) -> Option<&StorageRow> {
        self.storages.iter().find(|storage| storage.id == id)
    }

    /// The storages of a node.
    pub(super) fn storages_on<'a>(
        &'a self,
        node: &'a NodeRow,
    ) -> impl Iterator<Item = &'a StorageRow> {
        let name = &node.synced.node_name;
        self.storages.iter().filter(move |storage| storage.synced.key.node_name == *name)
    }

    /// A storage by its name, on a node.
    pub(super) fn storage_on(&self, node: &NodeRow, storage: &str) -> Option<&StorageRow> {
        let node = &node.synced.node_name;
        self.storages
            .iter()
            .find(|it| it.synced.key.node_name == *node && it.synced.key.storage_name == storage)
    }
}

/// Whether a storage works at the moment.
pub(super) fn works(storage: &StorageRow) -> bool {
    storage.synced.active.0 && storage.synced.enabled.0
}

/// Whether a storage takes this kind of content.
pub(super) fn takes(storage: &StorageRow, content: &str) -> bool {
    let all = storage.synced.content.as_deref().unwrap_or_default();
    all.split(',').any(|it| it.trim() == content)
}

#[cfg(test)]
pub(super) mod tests {
    use schema::node::{NodeStatus, SyncedNode};
    use schema::secret::Secret;
    use schema::storage::{StorageKey, StorageUsage, SyncedStorage};
    use schema::{Flag, Revision};

    use super::*;

    pub(in crate::templates) const LAB: ClusterId = ClusterId(1);

    /// Cluster `lab` with PVE 9.2 and three nodes, each with `local` (files, for staging) and
    /// `data` (disks), and `ceph`, which all see. The rows of node 2 are 21, 22, 23.
    pub(in crate::templates) fn a_world() -> World {
        let now = schema::now();
        let cluster = Cluster {
            id: LAB,
            cluster_name: "lab".to_owned(),
            cluster_name_alias: None,
            env: None,
            datacenter: None,
            api_url: "https://pve".to_owned(),
            user_id: "a@pve!t".to_owned(),
            user_token: Secret::new("s"),
            dns: None,
            describes: None,
            region: None,
            is_schedulable: Flag(true),
            is_enabled: Flag(true),
            tls_fingerprint: None,
            tls_ca: None,
            tls_insecure: Flag(false),
            gmt_create: now,
            gmt_modified: now,
            creator: None,
            modifier: None,
        };
        let mut status = ClusterStatus::new(LAB, "Connected");
        status.pve_version = Some("9.2.11".to_owned());
        status.quorate = Some(Flag(true));
        let (mut nodes, mut storages) = (Vec::new(), Vec::new());
        for id in 1..=3 {
            nodes.push(a_node(id));
            storages.push(a_storage(10 * id + 1, id, "local", "dir", "iso,vztmpl,import"));
            storages.push(a_storage(10 * id + 2, id, "data", "lvmthin", "images,rootdir"));
            let mut ceph = a_storage(10 * id + 3, id, "ceph", "rbd", "images");
            ceph.synced.shared = Flag(true);
            storages.push(ceph);
        }
        let missing_privileges = Vec::new();
        World { cluster, status: Some(status), missing_privileges, nodes, storages }
    }

    fn a_node(id: i64) -> NodeRow {
        let now = schema::now();
        NodeRow {
            id: NodeId(id),
            cluster_id: LAB,
            synced: SyncedNode {
                node_name: format!("n{id}"),
                ip_address: None,
                env: None,
                status: NodeStatus::Online,
                pve_version: None,
                cpu_num: None,
                memory_size: None,
                resource_hash: String::new(),
            },
            is_schedulable: Flag(true),
            annotations: None,
            vm_limit: None,
            gmt_create: now,
            gmt_modified: now,
            creator: None,
            modifier: None,
            last_sync_time: None,
            last_seen: None,
            revision: Revision(1),
        }
    }

    fn a_storage(id: i64, node: i64, name: &str, kind: &str, content: &str) -> StorageRow {
        let now = schema::now();
        StorageRow {
            id: StorageId(id),
            cluster_id: LAB,
            synced: SyncedStorage {
                key: StorageKey { node_name: format!("n{node}"), storage_name: name.to_owned() },
                kind: kind.to_owned(),
                content: Some(content.to_owned()),
                active: Flag(true),
                enabled: Flag(true),
                shared: Flag(false),
                resource_hash: String::new(),
                usage: StorageUsage::default(),
            },
            gmt_create: now,
            gmt_modified: now,
            creator: None,
            modifier: None,
            last_sync_time: None,
            last_seen: None,
            revision: Revision(1),
        }
    }
}
