//! `/clusters`: what is wanted of each, and how the operator gets on with it.

pub(crate) mod change;
pub(crate) mod form;

use axum::extract::State;
use schema::ClusterId;
use schema::cluster::{self, Cluster, ClusterFilter};
use schema::cluster_access::without_user;
use schema::cluster_status::{self, ClusterStatus};
use schema::page::Page;
use schemars::JsonSchema;
use serde::Serialize;

use crate::Api;
use crate::envelope::{Answer, List};
use crate::error::ApiError;
use crate::path::Id;
use crate::query::{FromQuery, Params, Query};
use crate::read::{ask, read};
use crate::view::{Time, parts, time};

/// `GET /clusters`: one page of the clusters that pass every filter, newest id first.
pub(crate) async fn list(
    State(api): State<Api>,
    Params((page, filter)): Params<(Page, ClusterFilter)>,
) -> Result<Answer<List<ClusterView>>, ApiError> {
    let rows = ask(&api.db, async |conn| cluster::page(conn, &filter, page).await).await?;
    Ok(Answer(List::of(rows, ClusterView::from)))
}

impl FromQuery for ClusterFilter {
    fn from_query(query: &mut Query) -> Result<Self, ApiError> {
        Ok(Self {
            cluster_name: query.text("cluster_name")?,
            env: query.text("env")?,
            datacenter: query.text("datacenter")?,
            region: query.text("region")?,
            is_enabled: query.flag("is_enabled")?,
        })
    }
}

/// `GET /clusters/{id}`
pub(crate) async fn show(
    State(api): State<Api>,
    Id(id): Id,
    Params(()): Params<()>,
) -> Result<Answer<ClusterView>, ApiError> {
    let row = read(&api.db, async |conn| cluster::get(conn, ClusterId(id)).await).await?;
    row.map(|row| Answer(row.into())).ok_or_else(|| no_such_cluster(id))
}

fn no_such_cluster(id: i64) -> ApiError {
    ApiError::not_found(format!("cluster with id {id}"))
}

/// What is shown of a cluster. Its token is not.
#[derive(Debug, Serialize, JsonSchema)]
#[expect(clippy::struct_excessive_bools, reason = "it shows a row, which has as many flags")]
pub(crate) struct ClusterView {
    id: i64,
    cluster_name: String,
    cluster_name_alias: Option<String>,
    env: Option<String>,
    datacenter: Option<String>,
    api_url: String,
    user_id: String,
    has_user_token: bool,
    /// Whether the token is sealed with the key of `--secret-key-file`.
    token_sealed: bool,
    dns: Option<String>,
    describes: Option<String>,
    region: Option<String>,
    is_schedulable: bool,
    /// Whether it is mirrored.
    is_enabled: bool,
    tls_fingerprint: Option<String>,
    tls_ca: Option<String>,
    tls_insecure: bool,
    gmt_create: Time,
    gmt_modified: Time,
    creator: Option<String>,
    modifier: Option<String>,
}

impl From<Cluster> for ClusterView {
    fn from(row: Cluster) -> Self {
        Self {
            id: row.id.0,
            cluster_name: row.cluster_name,
            cluster_name_alias: row.cluster_name_alias,
            env: row.env,
            datacenter: row.datacenter,
            api_url: without_user(&row.api_url),
            user_id: row.user_id,
            has_user_token: !row.user_token.expose().is_empty(),
            token_sealed: row.user_token.is_sealed(),
            dns: row.dns,
            describes: row.describes,
            region: row.region,
            is_schedulable: row.is_schedulable.0,
            is_enabled: row.is_enabled.0,
            tls_fingerprint: row.tls_fingerprint,
            tls_ca: row.tls_ca,
            tls_insecure: row.tls_insecure.0,
            gmt_create: Time(row.gmt_create),
            gmt_modified: Time(row.gmt_modified),
            creator: row.creator,
            modifier: row.modifier,
        }
    }
}

/// `GET /clusters/{id}/status`
pub(crate) async fn show_status(
    State(api): State<Api>,
    Id(id): Id,
    Params(()): Params<()>,
) -> Result<Answer<StatusView>, ApiError> {
    let id = ClusterId(id);
    let found = read(&api.db, async |conn| {
        let Some(cluster) = cluster::get(conn, id).await? else { return Ok(None) };
        let missing = cluster_status::missing_template_privileges(conn, id).await?;
        Ok(Some((cluster, cluster_status::get(conn, id).await?, missing)))
    });
    let (cluster, status, missing) = found.await?.ok_or_else(|| no_such_cluster(id.0))?;
    Ok(Answer(StatusView::new(cluster, status, missing)))
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
    /// What making templates lacks; null until somebody looked.
    missing_template_privileges: Option<Vec<String>>,
    /// SHA-256 of the certificate that was not trusted.
    presented_fingerprint: Option<String>,
    suspicious_since: Option<Time>,
}

impl StatusView {
    fn new(cluster: Cluster, status: Option<ClusterStatus>, missing: Option<String>) -> Self {
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
            missing_template_privileges: missing.map(|lines| parts(Some(&lines), '\n')),
            presented_fingerprint: status.presented_fingerprint,
            suspicious_since: time(status.suspicious_since),
        }
    }
}
