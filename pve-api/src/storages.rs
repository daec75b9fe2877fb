//! `/storages`: storages as each node sees them, one row per node and storage.

use axum::extract::State;
use schema::page::{Listed, SortKey};
use schema::storage::{self, StorageFilter, StorageRow};
use schema::{ClusterId, NodeId, StorageId};
use schemars::JsonSchema;
use serde::Serialize;

use crate::Api;
use crate::envelope::{Answer, List};
use crate::error::ApiError;
use crate::path::Id;
use crate::query::{FromQuery, Paged, Params, Query, Sortable};
use crate::read::{ask, read};
use crate::view::{Moment, Time, parts, time};

/// `GET /storages`: one page of the storages that pass every filter, newest id first.
pub(crate) async fn list(
    State(api): State<Api>,
    Params(Paged(page, filter)): Params<Paged<StorageFilter>>,
) -> Result<Answer<List<StorageView>>, ApiError> {
    let storages = ask(&api.db, async |conn| storage::list(conn, &filter, page).await).await?;
    let now = Moment::now(&api.settings);
    Ok(Answer(List::of(storages, |storage| StorageView::new(storage, now))))
}

impl Sortable for StorageFilter {
    const SORTS: &'static [SortKey] = storage::SORTS;
}

impl FromQuery for StorageFilter {
    fn from_query(query: &mut Query) -> Result<Self, ApiError> {
        Ok(Self {
            cluster_id: query.number("cluster_id")?.map(ClusterId),
            cluster_name: query.text("cluster_name")?,
            node_id: query.number("node_id")?.map(NodeId),
            node_name: query.text("node_name")?,
            name: query.text("name")?,
            kind: query.text("type")?,
            active: query.one_of("status", &[(ACTIVE, true), (INACTIVE, false)])?,
            shared: query.flag("shared")?,
        })
    }
}

/// `GET /storages/{id}`
pub(crate) async fn show(
    State(api): State<Api>,
    Id(id): Id,
    Params(()): Params<()>,
) -> Result<Answer<StorageView>, ApiError> {
    let storage = read(&api.db, async |conn| storage::get(conn, StorageId(id)).await).await?;
    let storage = storage.ok_or_else(|| ApiError::not_found(format!("storage with id {id}")))?;
    Ok(Answer(StorageView::new(storage, Moment::now(&api.settings))))
}

const ACTIVE: &str = "active";
const INACTIVE: &str = "inactive";

/// What is shown of a storage.
#[derive(Debug, Serialize, JsonSchema)]
#[expect(clippy::struct_excessive_bools, reason = "each is a column")]
pub(crate) struct StorageView {
    id: i64,
    cluster_id: i64,
    cluster_name: String,
    node_name: String,
    storage_name: String,
    /// PVE's type: `dir`, `lvmthin`, `cephfs`, …
    r#type: String,
    content: Vec<String>,
    /// `active`, or `inactive` while the node cannot use it.
    status: &'static str,
    active: bool,
    enabled: bool,
    shared: bool,
    /// Bytes, as are the next two.
    total: Option<i64>,
    used: Option<i64>,
    avail: Option<i64>,
    /// From 0 to 1.
    used_fraction: Option<f64>,
    gmt_create: Time,
    gmt_modified: Time,
    creator: Option<String>,
    modifier: Option<String>,
    last_sync_time: Option<Time>,
    last_seen: Option<Time>,
    stale: bool,
}

impl StorageView {
    fn new(Listed { row, cluster_name }: Listed<StorageRow>, now: Moment) -> Self {
        let synced = row.synced;
        Self {
            id: row.id.0,
            cluster_id: row.cluster_id.0,
            cluster_name,
            node_name: synced.key.node_name,
            storage_name: synced.key.storage_name,
            r#type: synced.kind,
            content: parts(synced.content.as_deref(), ','),
            status: if synced.active.0 { ACTIVE } else { INACTIVE },
            active: synced.active.0,
            enabled: synced.enabled.0,
            shared: synced.shared.0,
            total: synced.usage.total,
            used: synced.usage.used,
            avail: synced.usage.avail,
            used_fraction: synced.usage.used_fraction,
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
