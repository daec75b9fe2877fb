//! `/nodes`: the nodes of each cluster.

use axum::extract::State;
use schema::node::{self, NodeFilter, NodeRow, NodeStatus};
use schema::page::{Listed, SortKey};
use schema::{ClusterId, NodeId};
use schemars::JsonSchema;
use serde::Serialize;

use crate::Api;
use crate::envelope::{Answer, List};
use crate::error::ApiError;
use crate::path::Id;
use crate::query::{FromQuery, Paged, Params, Query, Sortable};
use crate::read::{ask, read};
use crate::view::{Moment, Time, time};

/// `GET /nodes`: one page of the nodes that pass every filter, newest id first; nodes that left
/// their cluster only with `status=removed`.
pub(crate) async fn list(
    State(api): State<Api>,
    Params(Paged(page, filter)): Params<Paged<NodeFilter>>,
) -> Result<Answer<List<NodeView>>, ApiError> {
    let nodes = ask(&api.db, async |conn| node::list(conn, &filter, page).await).await?;
    let now = Moment::now(&api.settings);
    Ok(Answer(List::of(nodes, |node| NodeView::new(node, now))))
}

impl Sortable for NodeFilter {
    const SORTS: &'static [SortKey] = node::SORTS;
}

impl FromQuery for NodeFilter {
    fn from_query(query: &mut Query) -> Result<Self, ApiError> {
        let cluster_id = query.number("cluster_id")?.map(ClusterId);
        let cluster_name = query.text("cluster_name")?;
        let node_id = query.number("node_id")?.map(NodeId);
        let node_name = query.text("node_name")?;
        let name = query.text("name")?;
        let status = query.one_of("status", &STATUSES)?;
        if node_name.is_some() && name.is_some() {
            let message = "name and node_name are the same here; give one of them";
            return Err(ApiError::invalid("name", message));
        }
        let node_name = node_name.or(name);
        Ok(Self { cluster_id, cluster_name, node_id, node_name, status })
    }
}

const STATUSES: [(&str, NodeStatus); 4] = [
    ("online", NodeStatus::Online),
    ("offline", NodeStatus::Offline),
    ("unknown", NodeStatus::Unknown),
    ("removed", NodeStatus::Removed),
];

/// `GET /nodes/{id}`, also of a node that left its cluster.
pub(crate) async fn show(
    State(api): State<Api>,
    Id(id): Id,
    Params(()): Params<()>,
) -> Result<Answer<NodeView>, ApiError> {
    let node = read(&api.db, async |conn| node::get(conn, NodeId(id)).await).await?;
    let node = node.ok_or_else(|| no_such_node(id))?;
    Ok(Answer(NodeView::new(node, Moment::now(&api.settings))))
}

pub(crate) fn no_such_node(id: i64) -> ApiError {
    ApiError::not_found(format!("node with id {id}"))
}

/// What is shown of a node.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct NodeView {
    id: i64,
    cluster_id: i64,
    cluster_name: String,
    node_name: String,
    ip_address: Option<String>,
    env: Option<String>,
    /// `online`, `offline`, `unknown` or `removed`.
    status: &'static str,
    pve_version: Option<String>,
    cpu_num: Option<i32>,
    /// MiB.
    memory_size: Option<i64>,
    is_schedulable: bool,
    annotations: Option<String>,
    vm_limit: Option<i32>,
    gmt_create: Time,
    gmt_modified: Time,
    creator: Option<String>,
    modifier: Option<String>,
    last_sync_time: Option<Time>,
    last_seen: Option<Time>,
    stale: bool,
}

impl NodeView {
    pub(crate) fn new(Listed { row, cluster_name }: Listed<NodeRow>, now: Moment) -> Self {
        let synced = row.synced;
        Self {
            id: row.id.0,
            cluster_id: row.cluster_id.0,
            cluster_name,
            node_name: synced.node_name,
            ip_address: synced.ip_address,
            env: synced.env,
            status: synced.status.as_str(),
            pve_version: synced.pve_version,
            cpu_num: synced.cpu_num,
            memory_size: synced.memory_size,
            is_schedulable: row.is_schedulable.0,
            annotations: row.annotations,
            vm_limit: row.vm_limit,
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
