//! `/clusters`: how the operator gets on with each of them.

use axum::extract::State;
use schema::ClusterId;
use schema::cluster::{self, Cluster};
use schema::cluster_status::{self, ClusterStatus};
use schemars::JsonSchema;
use serde::Serialize;

use crate::Api;
use crate::envelope::Answer;
use crate::error::ApiError;
use crate::path::Id;
use crate::query::Params;
use crate::read::read;
use crate::view::{Time, parts, time};

/// `GET /clusters/{id}/status`
pub(crate) async fn show_status(
    State(api): State<Api>,
    Id(id): Id,
    Params(()): Params<()>,
) -> Result<Answer<StatusView>, ApiError> {
    let id = ClusterId(id);
    let found = read(&api.db, async |conn| {
        let Some(cluster) = cluster::get(conn, id).await? else { return Ok(None) };
        Ok(Some((cluster, cluster_status::get(conn, id).await?)))
    });
    let (cluster, status) =
        found.await?.ok_or_else(|| ApiError::not_found(format!("cluster with id {id}")))?;
    Ok(Answer(StatusView::new(cluster, status)))
}

/// What is shown of a cluster's status. What was learned about its certificates is not, and
/// neither is the token.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct StatusView {
    cluster_id: i64,
    cluster_name: String,
    is_enabled: bool,
    /// Whether the mirror of this cluster is up to date.
    is_ready: bool,
    /// One word, as in `Connected` or `SuspiciousShrink`; null before the first contact.
    reason: Option<String>,
    /// What is wrong and what to do.
    message: Option<String>,
    reason_since: Option<Time>,
    pve_version: Option<String>,
    /// Null where the token may not see it.
    quorate: Option<bool>,
    node_count: Option<i32>,
    online_node_count: Option<i32>,
    guest_count: Option<i32>,
    storage_count: Option<i32>,
    last_success: Option<Time>,
    last_error: Option<String>,
    last_error_at: Option<Time>,
    missing_privileges: Vec<String>,
    /// SHA-256 of the certificate that was not trusted.
    presented_fingerprint: Option<String>,
    suspicious_since: Option<Time>,
}

impl StatusView {
    fn new(cluster: Cluster, status: Option<ClusterStatus>) -> Self {
        let known = status.is_some();
        let status = status.unwrap_or_else(|| ClusterStatus::new(cluster.id, ""));
        let count = |number| known.then_some(number);
        Self {
            cluster_id: cluster.id.0,
            cluster_name: cluster.cluster_name,
            is_enabled: cluster.is_enabled.0,
            is_ready: status.is_ready.0,
            node_count: count(status.node_count),
            online_node_count: count(status.online_node_count),
            guest_count: count(status.guest_count),
            storage_count: count(status.storage_count),
            reason: known.then_some(status.reason),
            message: status.message,
            reason_since: time(status.reason_since),
            pve_version: status.pve_version,
            quorate: status.quorate.map(bool::from),
            last_success: time(status.last_success),
            last_error: status.last_error,
            last_error_at: time(status.last_error_at),
            missing_privileges: parts(status.missing_privileges.as_deref(), ','),
            presented_fingerprint: status.presented_fingerprint,
            suspicious_since: time(status.suspicious_since),
        }
    }
}
