//! `pve_vm`: the guests of each cluster, virtual machines and containers.

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
use crate::tables::{pve_vm, vm_ipaddress};
use crate::text::{NAME, WORD, fit_in_place, fit_some};
use crate::tombstone::{self, Grave};
use crate::{
    ClusterId, Conn, DbError, Flag, GuestId, NodeId, Revision, Timestamp, guest_tag, node,
};

/// What the mirror knows of a guest from the list of resources.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
#[diesel(table_name = pve_vm)]
pub struct SyncedGuest {
    /// Natural key within the cluster.
    pub vmid: i64,
    pub vm_name: Option<String>,
    /// The node that PVE says it is on; `node_id` and `node_ip` follow from it.
    pub node_name: String,
    pub kind: GuestKind,
    /// PVE's word, or `unknown` when its node does not answer.
    pub status: String,
    pub is_template: Flag,
    pub cpu_num: Option<i32>,
    /// MiB.
    pub memory_size: Option<i64>,
    pub lock: Option<String>,
    /// As PVE gives them: `a;b`.
    pub tags: Option<String>,
    pub pool: Option<String>,
    pub ha_state: Option<String>,
    /// The mirror's own mark of what it last saw; opaque here.
    pub resource_hash: String,
}

/// One row.
#[derive(Clone, Debug, PartialEq, QueryableByName)]
#[diesel(table_name = pve_vm)]
pub struct GuestRow {
    pub id: GuestId,
    pub cluster_id: ClusterId,
    #[diesel(embed)]
    pub synced: SyncedGuest,
    /// `None` while `pve_node` has no such node.
    pub node_id: Option<NodeId>,
    pub node_ip: Option<String>,
    /// From the guest's configuration, as are the next two: see [`crate::guest_details`].
    pub storages: Option<String>,
    /// JSON.
    pub storage_cfg: Option<String>,
    pub details_at: Option<Timestamp>,
    /// People's.
    pub appid: Option<String>,
    /// People's, or of the clone that made it.
    pub template_id: Option<i64>,
    pub vm_user: Option<String>,
    /// People's.
    pub descriptions: Option<String>,
    pub gmt_create: Timestamp,
    pub gmt_modified: Timestamp,
    pub creator: Option<String>,
    pub modifier: Option<String>,
    pub last_sync_time: Option<Timestamp>,
    pub last_seen: Option<Timestamp>,
    pub revision: Revision,
}

/// Virtual machine or container.
#[derive(
    Clone, Copy, Debug, Eq, PartialEq, Hash, Serialize, Deserialize, AsExpression, FromSqlRow,
)]
#[diesel(sql_type = Text)]
#[serde(rename_all = "lowercase")]
pub enum GuestKind {
    Qemu,
    Lxc,
}

impl GuestKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Lxc => "lxc",
        }
    }
}

impl<DB: Backend> FromSql<Text, DB> for GuestKind
where
    String: FromSql<Text, DB>,
{
    fn from_sql(bytes: DB::RawValue<'_>) -> deserialize::Result<Self> {
        match String::from_sql(bytes)?.as_str() {
            "lxc" => Ok(Self::Lxc),
            _ => Ok(Self::Qemu),
        }
    }
}

impl<DB: Backend> ToSql<Text, DB> for GuestKind
where
    str: ToSql<Text, DB>,
{
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, DB>) -> serialize::Result {
        self.as_str().to_sql(out)
    }
}

/// A guest with what follows from its node.
#[derive(Clone, Debug, PartialEq, QueryableByName)]
#[diesel(table_name = pve_vm)]
struct Linked {
    #[diesel(embed)]
    guest: SyncedGuest,
    node_id: Option<NodeId>,
    node_ip: Option<String>,
}

record!(
    Row<'_, Linked>, pve_vm,
    key [id = id],
    fixed [cluster_id = cluster_id, vmid = content.guest.vmid, gmt_create = now],
    synced [
        vm_name = content.guest.vm_name, node_name = content.guest.node_name,
        node_id = content.node_id, node_ip = content.node_ip, kind = content.guest.kind,
        status = content.guest.status, is_template = content.guest.is_template,
        cpu_num = content.guest.cpu_num, memory_size = content.guest.memory_size,
        lock = content.guest.lock, tags = content.guest.tags, pool = content.guest.pool,
        ha_state = content.guest.ha_state, resource_hash = content.guest.resource_hash,
        revision = revision, gmt_modified = now, last_sync_time = now, last_seen = now,
    ],
);

impl Content for Linked {
    type Key = i64;

    fn key(&self) -> i64 {
        self.guest.vmid
    }

    fn same(&self, other: &Self) -> bool {
        self == other
    }
}

impl SyncedGuest {
    fn fitted(&self) -> Self {
        let mut guest = self.clone();
        fit_some(&mut guest.vm_name, NAME);
        fit_in_place(&mut guest.node_name, NAME);
        fit_in_place(&mut guest.status, 32);
        fit_some(&mut guest.lock, WORD);
        fit_some(&mut guest.tags, usize::MAX);
        fit_some(&mut guest.pool, NAME);
        fit_some(&mut guest.ha_state, WORD);
        fit_in_place(&mut guest.resource_hash, WORD);
        guest
    }
}

/// Every guest of a cluster.
pub async fn load(conn: &mut Conn, cluster_id: ClusterId) -> Result<Vec<GuestRow>, DbError> {
    let rows = Sql::new("SELECT * FROM pve_vm WHERE cluster_id = ").bind(cluster_id);
    sql::fetch(conn, &rows.push(" ORDER BY id")).await
}

/// Makes the synced columns of these guests say what is given, and deletes the guests of these
/// VMIDs with their addresses, leaving tombstones. A VMID in both is deleted, then made anew
/// with a new id: another guest under an old number.
///
/// Call it within [`crate::Db::write`], after [`node::write`].
pub async fn write(
    conn: &mut Conn,
    cluster_id: ClusterId,
    upserts: &[SyncedGuest],
    deletes: &[i64],
) -> Result<Written, DbError> {
    let mut wanted: Vec<_> = upserts
        .iter()
        .map(|guest| Linked { guest: guest.fitted(), node_id: None, node_ip: None })
        .collect();
    let names = wanted.iter().map(|linked| linked.guest.node_name.as_str());
    let links = node::links(conn, cluster_id, names).await?;
    for linked in &mut wanted {
        if let Some((id, address)) = links.get(&linked.guest.node_name) {
            linked.node_id = Some(*id);
            linked.node_ip.clone_from(address);
        }
    }
    let gone = graves(conn, cluster_id, deletes).await?;
    let mut there = numbered(conn, cluster_id, &wanted).await?;
    there.retain(|row| gone.iter().all(|grave| grave.row_id != row.id));
    let plan = batch::plan(&there, &wanted);
    if plan.is_empty() && gone.is_empty() {
        return Ok(Written { unchanged: plan.unchanged, ..Written::default() });
    }
    let revision = revision::raise(conn, Table::Guest).await?;
    let mut written = delete(conn, cluster_id, &gone, revision).await?;
    written += plan.act(conn, cluster_id, revision).await?;
    note_tags(conn, cluster_id, &there, &plan).await?;
    Ok(written)
}

/// Keeps `pve_vm_tag` of the guests that were just written.
async fn note_tags(
    conn: &mut Conn,
    cluster_id: ClusterId,
    there: &[There<Linked>],
    plan: &batch::Plan<'_, Linked>,
) -> Result<(), DbError> {
    let before: HashMap<i64, Option<&str>> =
        there.iter().map(|row| (row.id, row.content.guest.tags.as_deref())).collect();
    let retagged: Vec<(i64, Option<&str>)> = plan
        .update
        .iter()
        .map(|(id, linked)| (*id, linked.guest.tags.as_deref()))
        .filter(|(id, tags)| before.get(id) != Some(tags))
        .collect();
    guest_tag::replace(conn, cluster_id, &retagged).await?;

    let tagged: HashMap<i64, &str> = plan
        .insert
        .iter()
        .filter_map(|linked| Some((linked.guest.vmid, linked.guest.tags.as_deref()?)))
        .collect();
    let vmids: Vec<i64> = tagged.keys().copied().collect();
    for part in vmids.chunks(CHUNK) {
        let rows = pve_vm::table
            .filter(pve_vm::cluster_id.eq(cluster_id))
            .filter(pve_vm::vmid.eq_any(part))
            .select((pve_vm::id, pve_vm::vmid));
        let rows: Vec<(i64, i64)> = on!(conn, c => rows.load(c).await?);
        let new: Vec<_> =
            rows.into_iter().map(|(id, vmid)| (id, tagged.get(&vmid).copied())).collect();
        guest_tag::add(conn, cluster_id, &new).await?;
    }
    Ok(())
}

/// Notes that these guests were seen at `at`. Raises no revision: a moment is not a change.
pub async fn touch(
    conn: &mut Conn,
    cluster_id: ClusterId,
    vmids: &[i64],
    at: Timestamp,
) -> Result<u64, DbError> {
    let mut touched = 0;
    for part in vmids.chunks(CHUNK) {
        let rows = pve_vm::table
            .filter(pve_vm::cluster_id.eq(cluster_id))
            .filter(pve_vm::vmid.eq_any(part));
        touched += on!(conn, c => diesel::update(rows)
            .set((pve_vm::last_seen.eq(at), pve_vm::last_sync_time.eq(at)))
            .execute(c)
            .await?) as u64;
    }
    Ok(touched)
}

async fn graves(
    conn: &mut Conn,
    cluster_id: ClusterId,
    vmids: &[i64],
) -> Result<Vec<Grave>, DbError> {
    let mut graves = Vec::new();
    for part in vmids.chunks(CHUNK) {
        let rows = pve_vm::table
            .filter(pve_vm::cluster_id.eq(cluster_id))
            .filter(pve_vm::vmid.eq_any(part))
            .select((pve_vm::id, pve_vm::vmid));
        let rows: Vec<(i64, i64)> = on!(conn, c => rows.load(c).await?);
        graves
            .extend(rows.into_iter().map(|(row_id, vmid)| Grave { row_id, key: vmid.to_string() }));
    }
    Ok(graves)
}

async fn delete(
    conn: &mut Conn,
    cluster_id: ClusterId,
    gone: &[Grave],
    revision: Revision,
) -> Result<Written, DbError> {
    let mut written = Written::default();
    for part in gone.chunks(CHUNK) {
        let ids: Vec<i64> = part.iter().map(|grave| grave.row_id).collect();
        let addresses = vm_ipaddress::table.filter(vm_ipaddress::vm_id.eq_any(&ids));
        written.followed += on!(conn, c => diesel::delete(addresses).execute(c).await?) as u64;
        guest_tag::forget(conn, &ids).await?;
        let rows = pve_vm::table.filter(pve_vm::id.eq_any(&ids));
        written.deleted += on!(conn, c => diesel::delete(rows).execute(c).await?) as u64;
    }
    tombstone::raise(conn, Table::Guest, cluster_id, gone, revision).await?;
    Ok(written)
}

/// Says of which template a guest was cloned; `false` while the mirror has not seen it.
///
/// Call it within [`crate::Db::write`].
pub async fn set_template(
    conn: &mut Conn,
    cluster: ClusterId,
    vmid: i64,
    template: crate::TemplateId,
) -> Result<bool, DbError> {
    let revision = revision::raise(conn, Table::Guest).await?;
    let row =
        Sql::update("pve_vm", [("template_id", template.into()), ("revision", revision.into())]);
    let row = row.push(" WHERE cluster_id = ").bind(cluster).push(" AND vmid = ").bind(vmid);
    Ok(sql::execute(conn, &row).await? > 0)
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
) -> Result<Changes<GuestRow>, DbError> {
    revision::changes(conn, Table::Guest, since, limit).await
}

impl Followed for GuestRow {
    fn id(&self) -> i64 {
        self.id.0
    }

    fn revision(&self) -> Revision {
        self.revision
    }
}

/// Which guests to list.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GuestFilter {
    pub cluster_id: Option<ClusterId>,
    pub cluster_name: Option<String>,
    pub node_id: Option<NodeId>,
    pub node_name: Option<String>,
    pub status: Option<String>,
    /// `vm_name`, whole.
    pub name: Option<String>,
    pub vmid: Option<i64>,
    /// One tag, whole.
    pub tag: Option<String>,
    pub pool: Option<String>,
    pub is_template: Option<bool>,
    pub kind: Option<GuestKind>,
}

/// What guests can be sorted by.
pub const SORTS: &[SortKey] =
    &[SortKey::ID, SortKey::nullable("name", "vm_name"), SortKey::new("vmid", "vmid")];

/// One page of the guests that pass `filter`. One statement, so it needs no transaction.
pub async fn list(
    conn: &mut Conn,
    filter: &GuestFilter,
    page: Page,
) -> Result<Listing<Listed<GuestRow>>, DbError> {
    search(filter, page).page(conn, page).await
}

/// One guest.
pub async fn get(conn: &mut Conn, id: GuestId) -> Result<Option<Listed<GuestRow>>, DbError> {
    of_clusters!("pve_vm").one(conn, id.0).await
}

/// Those with a tag are looked for among the tags, which need the guests beside them only if
/// something else is asked of these.
pub(crate) fn search(filter: &GuestFilter, page: Page) -> Search<'_> {
    let of_cluster = OfCluster { id: filter.cluster_id, name: filter.cluster_name.as_ref() };
    let of_guest = Sql::new("")
        .and("pve_vm.node_id", filter.node_id)
        .and("pve_vm.node_name", filter.node_name.as_ref())
        .and("pve_vm.status", filter.status.as_ref())
        .and("pve_vm.vm_name", filter.name.as_ref())
        .and("pve_vm.vmid", filter.vmid)
        .and("pve_vm.pool", filter.pool.as_ref())
        .and("pve_vm.is_template", filter.is_template.map(Flag))
        .and("pve_vm.kind", filter.kind.map(GuestKind::as_str));
    let all = of_clusters!("pve_vm");
    let Some(tag) = &filter.tag else {
        let conditions = of_cluster.condition("pve_vm.cluster_id").append(&of_guest);
        return Search { conditions, ..all };
    };
    let tags_alone = of_guest.params() == 0 && page.is_by_id();
    let among = if tags_alone {
        "pve_vm_tag"
    } else {
        "pve_vm_tag JOIN pve_vm ON pve_vm.id = pve_vm_tag.vm_id"
    };
    let tagged = of_cluster.condition("pve_vm_tag.cluster_id").and("pve_vm_tag.tag", Some(tag));
    Search { among: (among, "pve_vm_tag.vm_id"), conditions: tagged.append(&of_guest), ..all }
}

async fn numbered(
    conn: &mut Conn,
    cluster_id: ClusterId,
    wanted: &[Linked],
) -> Result<Vec<There<Linked>>, DbError> {
    let mut there = Vec::new();
    for part in wanted.chunks(CHUNK) {
        let rows = Sql::new("SELECT * FROM pve_vm WHERE cluster_id = ")
            .bind(cluster_id)
            .push(" AND vmid IN ")
            .list(part.iter().map(|linked| linked.guest.vmid));
        there.extend(sql::fetch(conn, &rows).await?);
    }
    Ok(there)
}
