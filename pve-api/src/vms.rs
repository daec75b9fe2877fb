//! `/vms`: guests, virtual machines and containers.

use axum::extract::State;
use schema::guest::{self, GuestFilter, GuestKind, GuestRow};
use schema::ip_address::{self, AddressRow};
use schema::page::{Listed, Page, SortKey};
use schema::{ClusterId, GuestId, NodeId};
use schemars::JsonSchema;
use serde::Serialize;

use crate::Api;
use crate::envelope::{Answer, List};
use crate::error::ApiError;
use crate::path::Id;
use crate::query::{FromQuery, Paged, Params, Query, Sortable};
use crate::read::{ask, read};
use crate::view::{Moment, Time, parts, time};

/// `GET /vms`: one page of the guests that pass every filter, newest id first.
pub(crate) async fn list(
    State(api): State<Api>,
    Params(Paged(page, filter)): Params<Paged<GuestFilter>>,
) -> Result<Answer<List<GuestView>>, ApiError> {
    let guests = ask(&api.db, async |conn| guest::list(conn, &filter, page).await).await?;
    let now = Moment::now(&api.settings);
    Ok(Answer(List::of(guests, |guest| GuestView::new(guest, now))))
}

impl Sortable for GuestFilter {
    const SORTS: &'static [SortKey] = guest::SORTS;
}

impl FromQuery for GuestFilter {
    fn from_query(query: &mut Query) -> Result<Self, ApiError> {
        Ok(Self {
            cluster_id: query.number("cluster_id")?.map(ClusterId),
            cluster_name: query.text("cluster_name")?,
            node_id: query.number("node_id")?.map(NodeId),
            node_name: query.text("node_name")?,
            status: query.text("status")?,
            name: query.text("name")?,
            vmid: query.number("vmid")?,
            tag: query.text("tag")?,
            pool: query.text("pool")?,
            is_template: query.flag("is_template")?,
            kind: query.one_of("kind", &[("qemu", GuestKind::Qemu), ("lxc", GuestKind::Lxc)])?,
        })
    }
}

/// `GET /vms/{id}`
pub(crate) async fn show(
    State(api): State<Api>,
    Id(id): Id,
    Params(()): Params<()>,
) -> Result<Answer<GuestView>, ApiError> {
    let guest = read(&api.db, async |conn| guest::get(conn, GuestId(id)).await).await?;
    let guest = guest.ok_or_else(|| no_such_guest(id))?;
    Ok(Answer(GuestView::new(guest, Moment::now(&api.settings))))
}

/// `GET /vms/{id}/ips`: the addresses that the guest told, newest id first.
pub(crate) async fn list_addresses(
    State(api): State<Api>,
    Id(id): Id,
    Params(page): Params<Page>,
) -> Result<Answer<List<AddressView>>, ApiError> {
    let addresses = read(&api.db, async |conn| {
        if guest::get(conn, GuestId(id)).await?.is_none() {
            return Ok(None);
        }
        ip_address::of_guest(conn, GuestId(id)).await.map(Some)
    });
    let mut addresses = addresses.await?.ok_or_else(|| no_such_guest(id))?;
    addresses.sort_unstable_by_key(|row| std::cmp::Reverse(row.id));
    // A guest has few, so a page is cut here.
    let (total, list) = page.cut(addresses, |row| row.id);
    Ok(Answer(List { total, list: list.into_iter().map(AddressView::from).collect() }))
}

pub(crate) fn no_such_guest(id: i64) -> ApiError {
    ApiError::not_found(format!("guest with id {id}; this is the row's id, not the VMID"))
}

/// What is shown of a guest. Passwords are not.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct GuestView {
    id: i64,
    cluster_id: i64,
    cluster_name: String,
    /// Null while the node is not known.
    node_id: Option<i64>,
    node_name: String,
    node_ip: Option<String>,
    vmid: i64,
    vm_name: Option<String>,
    /// `qemu` or `lxc`.
    kind: &'static str,
    /// PVE's word, or `unknown` while nobody can tell.
    status: String,
    is_template: bool,
    template_id: Option<i64>,
    cpu_num: Option<i32>,
    /// MiB.
    memory_size: Option<i64>,
    /// What PVE is doing with it: `clone`, `migrate`, `backup`, …
    lock: Option<String>,
    tags: Vec<String>,
    pool: Option<String>,
    ha_state: Option<String>,
    /// Names of the storages of its disks; null until its configuration was read.
    storages: Option<Vec<String>>,
    storage_cfg: Option<serde_json::Value>,
    /// When the configuration was found changed.
    details_at: Option<Time>,
    appid: Option<String>,
    vm_user: Option<String>,
    descriptions: Option<String>,
    gmt_create: Time,
    gmt_modified: Time,
    creator: Option<String>,
    modifier: Option<String>,
    last_sync_time: Option<Time>,
    last_seen: Option<Time>,
    stale: bool,
}

impl GuestView {
    pub(crate) fn new(Listed { row, cluster_name }: Listed<GuestRow>, now: Moment) -> Self {
        let synced = row.synced;
        Self {
            id: row.id.0,
            cluster_id: row.cluster_id.0,
            cluster_name,
            node_id: row.node_id.map(|id| id.0),
            node_name: synced.node_name,
            node_ip: row.node_ip,
            vmid: synced.vmid,
            vm_name: synced.vm_name,
            kind: synced.kind.as_str(),
            status: synced.status,
            is_template: synced.is_template.0,
            template_id: row.template_id,
            cpu_num: synced.cpu_num,
            memory_size: synced.memory_size,
            lock: synced.lock,
            tags: parts(synced.tags.as_deref(), ';'),
            pool: synced.pool,
            ha_state: synced.ha_state,
            storages: row.storages.map(|names| parts(Some(&names), ',')),
            storage_cfg: row.storage_cfg.map(json),
            details_at: time(row.details_at),
            appid: row.appid,
            vm_user: row.vm_user,
            descriptions: row.descriptions,
            gmt_create: Time(row.gmt_create),
            gmt_modified: Time(row.gmt_modified),
            creator: row.creator,
            modifier: row.modifier,
            last_sync_time: time(row.last_sync_time),
            last_seen: time(row.last_seen),
            stale: now.is_stale(row.last_seen),
        }
    }
}

/// The column is ours and holds JSON, unless somebody wrote it by hand: then it is a string.
fn json(text: String) -> serde_json::Value {
    serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text))
}

/// What is shown of a guest's address.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AddressView {
    id: i64,
    vm_id: i64,
    cluster_id: i64,
    /// As the guest gives it, an IPv6 zone included.
    ip_address: String,
    /// `net0`, or whatever else PVE calls the interface.
    network_id: Option<String>,
    /// The guest's name of the interface.
    nic_name: Option<String>,
    mac_address: Option<String>,
    /// The guest has stopped telling; this is the last that it said.
    stale: bool,
}

impl From<AddressRow> for AddressView {
    fn from(row: AddressRow) -> Self {
        let address = row.address;
        Self {
            id: row.id,
            vm_id: row.vm_id.0,
            cluster_id: row.cluster_id.0,
            ip_address: address.ip_address,
            network_id: address.network_id,
            nic_name: Some(address.nic_name).filter(|name| !name.is_empty()),
            mac_address: address.mac_address,
            stale: row.stale.0,
        }
    }
}
