//! `pve_storage`: storages as each node sees them, one row per node and storage.

use std::collections::HashSet;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::batch::{self, CHUNK, Content, Row, Written, record};
use crate::db::on;
use crate::page::{Listed, Listing, OfCluster, Page, Search, SortKey, of_clusters};
use crate::revision::{self, Changes, Followed, Table};
use crate::sql::{self, Sql, There};
use crate::tables::pve_storage;
use crate::text::{NAME, WORD, fit_in_place, fit_some};
use crate::tombstone::{self, Grave};
use crate::{ClusterId, Conn, DbError, Flag, NodeId, Revision, StorageId, Timestamp};

/// What the mirror knows of a storage on a node.
#[derive(Clone, Debug, PartialEq, QueryableByName)]
#[diesel(table_name = pve_storage)]
pub struct SyncedStorage {
    #[diesel(embed)]
    pub key: StorageKey,
    /// PVE's type: `dir`, `lvmthin`, `cephfs`, …
    #[diesel(column_name = "type", sql_type = diesel::sql_types::Text)]
    pub kind: String,
    /// Kinds of content, separated by commas.
    pub content: Option<String>,
    pub active: Flag,
    pub enabled: Flag,
    pub shared: Flag,
    /// The mirror's own mark of what it last saw; opaque here.
    pub resource_hash: String,
    /// Written with a change of the others, never a reason to write: see [`touch`].
    #[diesel(embed)]
    pub usage: StorageUsage,
}

/// Natural key within the cluster.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, QueryableByName)]
#[diesel(table_name = pve_storage)]
pub struct StorageKey {
    pub node_name: String,
    pub storage_name: String,
}

/// How full a storage is; bytes, and used / total.
#[derive(Clone, Copy, Debug, Default, PartialEq, QueryableByName)]
#[diesel(table_name = pve_storage)]
pub struct StorageUsage {
    pub avail: Option<i64>,
    pub used: Option<i64>,
    pub total: Option<i64>,
    pub used_fraction: Option<f64>,
}

/// One row.
#[derive(Clone, Debug, PartialEq, QueryableByName)]
#[diesel(table_name = pve_storage)]
pub struct StorageRow {
    pub id: StorageId,
    pub cluster_id: ClusterId,
    #[diesel(embed)]
    pub synced: SyncedStorage,
    pub gmt_create: Timestamp,
    pub gmt_modified: Timestamp,
    pub creator: Option<String>,
    pub modifier: Option<String>,
    pub last_sync_time: Option<Timestamp>,
    pub last_seen: Option<Timestamp>,
    pub revision: Revision,
}

record!(
    Row<'_, SyncedStorage>, pve_storage,
    key [id = id],
    fixed [
        cluster_id = cluster_id, node_name = content.key.node_name,
        storage_name = content.key.storage_name, gmt_create = now,
    ],
    synced [
        kind = content.kind, content = content.content, active = content.active,
        enabled = content.enabled, shared = content.shared, avail = content.usage.avail,
        used = content.usage.used, total = content.usage.total,
        used_fraction = content.usage.used_fraction, resource_hash = content.resource_hash,
        revision = revision, gmt_modified = now, last_sync_time = now, last_seen = now,
    ],
);

impl Content for SyncedStorage {
    type Key = StorageKey;

    fn key(&self) -> StorageKey {
        self.key.clone()
    }

    fn same(&self, other: &Self) -> bool {
        // Exhaustive, so that a new column cannot be forgotten here.
        let Self { key, kind, content, active, enabled, shared, resource_hash, usage: _ } = self;
        *key == other.key
            && *kind == other.kind
            && *content == other.content
            && *active == other.active
            && *enabled == other.enabled
            && *shared == other.shared
            && *resource_hash == other.resource_hash
    }
}

impl SyncedStorage {
    fn fitted(&self) -> Self {
        let mut storage = self.clone();
        fit_in_place(&mut storage.key.node_name, NAME);
        fit_in_place(&mut storage.key.storage_name, NAME);
        fit_in_place(&mut storage.kind, WORD);
        fit_some(&mut storage.content, usize::MAX);
        fit_in_place(&mut storage.resource_hash, WORD);
        storage
    }
}

/// Every storage of a cluster.
pub async fn load(conn: &mut Conn, cluster_id: ClusterId) -> Result<Vec<StorageRow>, DbError> {
    let rows = Sql::new("SELECT * FROM pve_storage WHERE cluster_id = ").bind(cluster_id);
    sql::fetch(conn, &rows.push(" ORDER BY id")).await
}

/// Makes the synced columns of these storages say what is given, and deletes those of these
/// keys, leaving tombstones. How full a storage is never is a reason to write.
///
/// Call it within [`crate::Db::write`].
pub async fn write(
    conn: &mut Conn,
    cluster_id: ClusterId,
    upserts: &[SyncedStorage],
    deletes: &[StorageKey],
) -> Result<Written, DbError> {
    let wanted: Vec<_> = upserts.iter().map(SyncedStorage::fitted).collect();
    let gone: Vec<Grave> = keyed(conn, cluster_id, deletes.iter())
        .await?
        .into_iter()
        .map(|row| Grave {
            row_id: row.id,
            key: format!("{}/{}", row.content.key.node_name, row.content.key.storage_name),
        })
        .collect();
    let mut there = keyed(conn, cluster_id, wanted.iter().map(|storage| &storage.key)).await?;
    there.retain(|row| gone.iter().all(|grave| grave.row_id != row.id));
    let plan = batch::plan(&there, &wanted);
    if plan.is_empty() && gone.is_empty() {
        return Ok(Written { unchanged: plan.unchanged, ..Written::default() });
    }
    let revision = revision::raise(conn, Table::Storage).await?;
    let mut written = Written::default();
    for part in gone.chunks(CHUNK) {
        let ids: Vec<i64> = part.iter().map(|grave| grave.row_id).collect();
        let rows = pve_storage::table.filter(pve_storage::id.eq_any(&ids));
        written.deleted += on!(conn, c => diesel::delete(rows).execute(c).await?) as u64;
    }
    tombstone::raise(conn, Table::Storage, cluster_id, &gone, revision).await?;
    written += plan.act(conn, cluster_id, revision).await?;
    Ok(written)
}

struct Seen<'a> {
    cluster_id: ClusterId,
    key: &'a StorageKey,
    usage: &'a StorageUsage,
    at: Timestamp,
}

record!(
    Seen<'_>, pve_storage,
    key [
        cluster_id = cluster_id, node_name = key.node_name, storage_name = key.storage_name,
    ],
    fixed [],
    synced [
        avail = usage.avail, used = usage.used, total = usage.total,
        used_fraction = usage.used_fraction, last_seen = at, last_sync_time = at,
    ],
);

/// Notes how full these storages were at `at`. Raises no revision.
pub async fn touch(
    conn: &mut Conn,
    cluster_id: ClusterId,
    usage: &[(StorageKey, StorageUsage)],
    at: Timestamp,
) -> Result<u64, DbError> {
    let seen: Vec<_> =
        usage.iter().map(|(key, usage)| Seen { cluster_id, key, usage, at }).collect();
    batch::update(conn, &seen).await
}

/// What changed after `since`: about `limit` rows, more if one transaction wrote more.
///
/// Call it within [`crate::Db::read`], so that rows and tombstones are of one moment.
///
/// # Errors
///
/// [`DbError::Expired`] if deletes after `since` were forgotten: list again.
pub async fn changes_since(
    conn: &mut Conn,
    since: Revision,
    limit: u32,
) -> Result<Changes<StorageRow>, DbError> {
    revision::changes(conn, Table::Storage, since, limit).await
}

impl Followed for StorageRow {
    fn id(&self) -> i64 {
        self.id.0
    }

    fn revision(&self) -> Revision {
        self.revision
    }
}

/// Which storages to list.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct StorageFilter {
    pub cluster_id: Option<ClusterId>,
    pub cluster_name: Option<String>,
    /// The node that sees it.
    pub node_id: Option<NodeId>,
    pub node_name: Option<String>,
    /// `storage_name`, whole.
    pub name: Option<String>,
    pub kind: Option<String>,
    pub active: Option<bool>,
    pub shared: Option<bool>,
}

/// What storages can be sorted by.
pub const SORTS: &[SortKey] = &[SortKey::ID, SortKey::new("name", "storage_name")];

/// One page of the storages that pass `filter`. One statement, so it needs no transaction.
pub async fn list(
    conn: &mut Conn,
    filter: &StorageFilter,
    page: Page,
) -> Result<Listing<Listed<StorageRow>>, DbError> {
    search(filter).page(conn, page).await
}

/// One storage on one node.
pub async fn get(conn: &mut Conn, id: StorageId) -> Result<Option<Listed<StorageRow>>, DbError> {
    of_clusters!("pve_storage").one(conn, id.0).await
}

pub(crate) fn search(filter: &StorageFilter) -> Search<'_> {
    let of_cluster = OfCluster { id: filter.cluster_id, name: filter.cluster_name.as_ref() };
    let mut conditions = of_cluster
        .condition("pve_storage.cluster_id")
        .and("pve_storage.node_name", filter.node_name.as_ref())
        .and("pve_storage.storage_name", filter.name.as_ref())
        .and("pve_storage.type", filter.kind.as_ref())
        .and("pve_storage.active", filter.active.map(Flag))
        .and("pve_storage.shared", filter.shared.map(Flag));
    if let Some(node) = filter.node_id {
        for column in ["cluster_id", "node_name"] {
            conditions = conditions
                .push(&format!(
                    " AND pve_storage.{column} = (SELECT {column} FROM pve_node WHERE id = "
                ))
                .bind(node)
                .push(")");
        }
    }
    Search { conditions, ..of_clusters!("pve_storage") }
}

/// Rows of these keys. Asked for by node, so the answer of the database holds more than that.
async fn keyed(
    conn: &mut Conn,
    cluster_id: ClusterId,
    keys: impl Iterator<Item = &StorageKey>,
) -> Result<Vec<There<SyncedStorage>>, DbError> {
    let keys: HashSet<&StorageKey> = keys.collect();
    let mut nodes: Vec<&str> = keys.iter().map(|key| key.node_name.as_str()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let mut there = Vec::new();
    for part in nodes.chunks(CHUNK) {
        let rows = Sql::new("SELECT * FROM pve_storage WHERE cluster_id = ")
            .bind(cluster_id)
            .push(" AND node_name IN ")
            .list(part.iter().copied());
        there.extend(sql::fetch::<There<SyncedStorage>>(conn, &rows).await?);
    }
    there.retain(|row| keys.contains(&row.content.key));
    Ok(there)
}
