//! `pve_node`: the nodes of each cluster.

use std::collections::HashMap;

use diesel::backend::Backend;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::prelude::*;
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::Text;
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};

use crate::batch::{self, CHUNK, Content, Row, Written, record};
use crate::db::on;
use crate::page::{Listed, Listing, OfCluster, Page, Search, SortKey, of_clusters};
use crate::revision::{self, Changes, Followed, Table};
use crate::sql::{self, Sql, There};
use crate::tables::{pve_node, pve_vm};
use crate::text::{NAME, WORD, fit_in_place, fit_some};
use crate::{ClusterId, Conn, DbError, Flag, NodeId, Revision, Timestamp};

/// What the mirror knows of a node.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
#[diesel(table_name = pve_node)]
pub struct SyncedNode {
    /// Natural key within the cluster.
    pub node_name: String,
    pub ip_address: Option<String>,
    /// The cluster's `env`.
    pub env: Option<String>,
    pub status: NodeStatus,
    pub pve_version: Option<String>,
    pub cpu_num: Option<i32>,
    /// MiB.
    pub memory_size: Option<i64>,
    /// The mirror's own mark of what it last saw; opaque here.
    pub resource_hash: String,
}

/// One row.
#[derive(Clone, Debug, PartialEq, QueryableByName)]
#[diesel(table_name = pve_node)]
pub struct NodeRow {
    pub id: NodeId,
    pub cluster_id: ClusterId,
    #[diesel(embed)]
    pub synced: SyncedNode,
    /// Whether guests may be placed here; people's.
    pub is_schedulable: Flag,
    /// People's.
    pub annotations: Option<String>,
    /// How many guests people want here at most.
    pub vm_limit: Option<i32>,
    pub gmt_create: Timestamp,
    pub gmt_modified: Timestamp,
    pub creator: Option<String>,
    pub modifier: Option<String>,
    pub last_sync_time: Option<Timestamp>,
    pub last_seen: Option<Timestamp>,
    pub revision: Revision,
}

/// How a node is.
#[derive(
    Clone, Copy, Debug, Eq, PartialEq, Hash, Serialize, Deserialize, AsExpression, FromSqlRow,
)]
#[diesel(sql_type = Text)]
#[serde(rename_all = "lowercase")]
pub enum NodeStatus {
    Online,
    Offline,
    /// Nobody said so lately.
    Unknown,
    /// Left the cluster; the row stays for its id and people's columns.
    Removed,
}

impl NodeStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Unknown => "unknown",
            Self::Removed => "removed",
        }
    }
}

impl<DB: Backend> FromSql<Text, DB> for NodeStatus
where
    String: FromSql<Text, DB>,
{
    /// A word that we did not write reads as unknown.
    fn from_sql(bytes: DB::RawValue<'_>) -> deserialize::Result<Self> {
        Ok(match String::from_sql(bytes)?.as_str() {
            "online" => Self::Online,
            "offline" => Self::Offline,
            "removed" => Self::Removed,
            _ => Self::Unknown,
        })
    }
}

impl<DB: Backend> ToSql<Text, DB> for NodeStatus
where
    str: ToSql<Text, DB>,
{
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, DB>) -> serialize::Result {
        self.as_str().to_sql(out)
    }
}

record!(
    Row<'_, SyncedNode>, pve_node,
    key [id = id],
    fixed [cluster_id = cluster_id, node_name = content.node_name, gmt_create = now],
    synced [
        ip_address = content.ip_address, env = content.env, status = content.status,
        pve_version = content.pve_version, cpu_num = content.cpu_num,
        memory_size = content.memory_size, resource_hash = content.resource_hash,
        revision = revision, gmt_modified = now, last_sync_time = now, last_seen = now,
    ],
);

impl Content for SyncedNode {
    type Key = String;

    fn key(&self) -> String {
        self.node_name.clone()
    }

    fn same(&self, other: &Self) -> bool {
        self == other
    }
}

impl SyncedNode {
    fn fitted(&self) -> Self {
        let mut node = self.clone();
        fit_in_place(&mut node.node_name, NAME);
        fit_some(&mut node.ip_address, NAME);
        fit_some(&mut node.env, WORD);
        fit_some(&mut node.pve_version, WORD);
        fit_in_place(&mut node.resource_hash, WORD);
        node
    }
}

/// Every node of a cluster, removed ones too.
pub async fn load(conn: &mut Conn, cluster_id: ClusterId) -> Result<Vec<NodeRow>, DbError> {
    let rows = Sql::new("SELECT * FROM pve_node WHERE cluster_id = ").bind(cluster_id);
    sql::fetch(conn, &rows.push(" ORDER BY id")).await
}

/// Makes the synced columns of these nodes say what is given; a removed node that is given
/// again gets its old row back. Guests follow when their node gets an id or another address.
///
/// Call it within [`crate::Db::write`].
pub async fn write(
    conn: &mut Conn,
    cluster_id: ClusterId,
    upserts: &[SyncedNode],
) -> Result<Written, DbError> {
    let wanted: Vec<_> = upserts.iter().map(SyncedNode::fitted).collect();
    let there = named(conn, cluster_id, &wanted).await?;
    let plan = batch::plan(&there, &wanted);
    if plan.is_empty() {
        return Ok(Written { unchanged: plan.unchanged, ..Written::default() });
    }
    let revision = revision::raise(conn, Table::Node).await?;
    let mut written = plan.act(conn, cluster_id, revision).await?;

    let before: HashMap<&str, &SyncedNode> =
        there.iter().map(|row| (row.content.node_name.as_str(), &row.content)).collect();
    let moved: Vec<&str> = plan
        .insert
        .iter()
        .copied()
        .chain(plan.update.iter().map(|(_, node)| *node))
        .filter(|node| {
            before.get(node.node_name.as_str()).is_none_or(|old| old.ip_address != node.ip_address)
        })
        .map(|node| node.node_name.as_str())
        .collect();
    written.followed += relink(conn, cluster_id, &moved).await?;
    Ok(written)
}

/// Marks nodes that left the cluster. Their rows, ids and people's columns stay.
pub async fn remove(
    conn: &mut Conn,
    cluster_id: ClusterId,
    names: &[String],
) -> Result<Written, DbError> {
    let mut written = Written::default();
    let mut revision = None;
    for part in names.chunks(CHUNK) {
        let leaving = pve_node::table
            .filter(pve_node::cluster_id.eq(cluster_id))
            .filter(pve_node::node_name.eq_any(part))
            .filter(pve_node::status.ne(NodeStatus::Removed));
        let ids: Vec<NodeId> = on!(conn, c => leaving.select(pve_node::id).load(c).await?);
        written.unchanged += (part.len() - ids.len()) as u64;
        if ids.is_empty() {
            continue;
        }
        let revision = match revision {
            Some(revision) => revision,
            None => *revision.insert(revision::raise(conn, Table::Node).await?),
        };
        let rows = pve_node::table.filter(pve_node::id.eq_any(&ids));
        written.updated += on!(conn, c => diesel::update(rows)
            .set((
                pve_node::status.eq(NodeStatus::Removed),
                pve_node::revision.eq(revision),
                pve_node::gmt_modified.eq(crate::now()),
            ))
            .execute(c)
            .await?) as u64;
    }
    Ok(written)
}

/// Notes that these nodes were seen at `at`. Raises no revision: a moment is not a change.
pub async fn touch(
    conn: &mut Conn,
    cluster_id: ClusterId,
    names: &[String],
    at: Timestamp,
) -> Result<u64, DbError> {
    let mut touched = 0;
    for part in names.chunks(CHUNK) {
        let rows = pve_node::table
            .filter(pve_node::cluster_id.eq(cluster_id))
            .filter(pve_node::node_name.eq_any(part));
        touched += on!(conn, c => diesel::update(rows)
            .set((pve_node::last_seen.eq(at), pve_node::last_sync_time.eq(at)))
            .execute(c)
            .await?) as u64;
    }
    Ok(touched)
}

/// Id and address of nodes by name, as guests refer to them.
pub(crate) async fn links<'a>(
    conn: &mut Conn,
    cluster_id: ClusterId,
    names: impl Iterator<Item = &'a str>,
) -> Result<HashMap<String, (NodeId, Option<String>)>, DbError> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    let mut links = HashMap::new();
    for part in names.chunks(CHUNK) {
        let rows = pve_node::table
            .filter(pve_node::cluster_id.eq(cluster_id))
            .filter(pve_node::node_name.eq_any(part))
            .select((pve_node::node_name, pve_node::id, pve_node::ip_address));
        let rows: Vec<(String, NodeId, Option<String>)> = on!(conn, c => rows.load(c).await?);
        links.extend(rows.into_iter().map(|(name, id, address)| (name, (id, address))));
    }
    Ok(links)
}

/// Gives the guests of these nodes the node's id and address.
async fn relink(conn: &mut Conn, cluster_id: ClusterId, names: &[&str]) -> Result<u64, DbError> {
    let links = links(conn, cluster_id, names.iter().copied()).await?;
    let mut followed = 0;
    let mut revision = None;
    for (name, (id, address)) in links {
        let guests = pve_vm::table
            .filter(pve_vm::cluster_id.eq(cluster_id))
            .filter(pve_vm::node_name.eq(&name));
        let stale: Vec<(i64, Option<NodeId>, Option<String>)> = on!(conn, c =>
            guests.select((pve_vm::id, pve_vm::node_id, pve_vm::node_ip)).load(c).await?);
        let stale: Vec<i64> = stale
            .into_iter()
            .filter(|(_, node, ip)| *node != Some(id) || *ip != address)
            .map(|(guest, ..)| guest)
            .collect();
        for part in stale.chunks(CHUNK) {
            let revision = match revision {
                Some(revision) => revision,
                None => *revision.insert(revision::raise(conn, Table::Guest).await?),
            };
            let rows = pve_vm::table.filter(pve_vm::id.eq_any(part));
            followed += on!(conn, c => diesel::update(rows)
                .set((
                    pve_vm::node_id.eq(Some(id)),
                    pve_vm::node_ip.eq(&address),
                    pve_vm::revision.eq(revision),
                ))
                .execute(c)
                .await?) as u64;
        }
    }
    Ok(followed)
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
) -> Result<Changes<NodeRow>, DbError> {
    revision::changes(conn, Table::Node, since, limit).await
}

impl Followed for NodeRow {
    fn id(&self) -> i64 {
        self.id.0
    }

    fn revision(&self) -> Revision {
        self.revision
    }
}

/// Which nodes to list. Removed ones only when `status` asks for them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodeFilter {
    pub cluster_id: Option<ClusterId>,
    pub cluster_name: Option<String>,
    pub node_id: Option<NodeId>,
    pub node_name: Option<String>,
    pub status: Option<NodeStatus>,
}

/// What nodes can be sorted by.
pub const SORTS: &[SortKey] = &[SortKey::ID, SortKey::new("name", "node_name")];

/// One page of the nodes that pass `filter`. One statement, so it needs no transaction.
pub async fn list(
    conn: &mut Conn,
    filter: &NodeFilter,
    page: Page,
) -> Result<Listing<Listed<NodeRow>>, DbError> {
    search(filter).page(conn, page).await
}

/// One node, removed or not.
pub async fn get(conn: &mut Conn, id: NodeId) -> Result<Option<Listed<NodeRow>>, DbError> {
    of_clusters!("pve_node").one(conn, id.0).await
}

pub(crate) fn search(filter: &NodeFilter) -> Search<'_> {
    let of_cluster = OfCluster { id: filter.cluster_id, name: filter.cluster_name.as_ref() };
    let conditions = of_cluster
        .condition("pve_node.cluster_id")
        .and("pve_node.id", filter.node_id)
        .and("pve_node.node_name", filter.node_name.as_ref());
    let conditions = match filter.status {
        Some(status) => conditions.and("pve_node.status", Some(status.as_str())),
        None => conditions.push(" AND pve_node.status <> ").bind(NodeStatus::Removed.as_str()),
    };
    Search { conditions, ..of_clusters!("pve_node") }
}

async fn named(
    conn: &mut Conn,
    cluster_id: ClusterId,
    wanted: &[SyncedNode],
) -> Result<Vec<There<SyncedNode>>, DbError> {
    let mut there = Vec::new();
    for part in wanted.chunks(CHUNK) {
        let rows = Sql::new("SELECT * FROM pve_node WHERE cluster_id = ")
            .bind(cluster_id)
            .push(" AND node_name IN ")
            .list(part.iter().map(|node| &node.node_name));
        there.extend(sql::fetch(conn, &rows).await?);
    }
    Ok(there)
}
