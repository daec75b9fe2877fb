//! `pve_cluster_status`: how the operator gets on with each cluster, in words.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::db::on;
use crate::tables::pve_cluster_status;
use crate::text::{NAME, WORD, fit_in_place, fit_some};
use crate::{ClusterId, Conn, DbError, Flag, Timestamp};

/// One row. The operator is its only writer.
#[derive(Clone, Debug, Eq, PartialEq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = pve_cluster_status)]
#[diesel(primary_key(cluster_id))]
#[diesel(treat_none_as_null = true, treat_none_as_default_value = false)]
pub struct ClusterStatus {
    pub cluster_id: ClusterId,
    /// Whether the mirror of this cluster is up to date.
    pub is_ready: Flag,
    /// One word, as in `Connected`, `Unauthorized`, `SuspiciousShrink`.
    pub reason: String,
    /// What is wrong and what to do.
    pub message: Option<String>,
    /// Since when `reason` holds.
    pub reason_since: Option<Timestamp>,
    pub pve_version: Option<String>,
    /// `None` where the token may not see it.
    pub quorate: Option<Flag>,
    pub node_count: i32,
    pub online_node_count: i32,
    pub guest_count: i32,
    pub storage_count: i32,
    /// The last whole list. Never a reason to write by itself: see [`touch`].
    pub last_success: Option<Timestamp>,
    pub last_error: Option<String>,
    pub last_error_at: Option<Timestamp>,
    /// Separated by commas.
    pub missing_privileges: Option<String>,
    /// JSON: addresses of nodes to fall over to.
    pub learned_addresses: Option<String>,
    /// PEM.
    pub learned_ca: Option<String>,
    /// JSON: SHA-256 by node.
    pub learned_fingerprints: Option<String>,
    /// What an untrusted server showed.
    pub presented_fingerprint: Option<String>,
    pub suspicious_since: Option<Timestamp>,
}

impl ClusterStatus {
    /// A status that says `reason` and nothing else.
    pub fn new(cluster_id: ClusterId, reason: impl Into<String>) -> Self {
        Self {
            cluster_id,
            is_ready: Flag(false),
            reason: reason.into(),
            message: None,
            reason_since: None,
            pve_version: None,
            quorate: None,
            node_count: 0,
            online_node_count: 0,
            guest_count: 0,
            storage_count: 0,
            last_success: None,
            last_error: None,
            last_error_at: None,
            missing_privileges: None,
            learned_addresses: None,
            learned_ca: None,
            learned_fingerprints: None,
            presented_fingerprint: None,
            suspicious_since: None,
        }
    }

    fn fitted(&self) -> Self {
        let mut status = self.clone();
        fit_in_place(&mut status.reason, WORD);
        fit_some(&mut status.pve_version, WORD);
        fit_some(&mut status.presented_fingerprint, NAME);
        for text in [
            &mut status.message,
            &mut status.last_error,
            &mut status.missing_privileges,
            &mut status.learned_addresses,
            &mut status.learned_ca,
            &mut status.learned_fingerprints,
        ] {
            fit_some(text, usize::MAX);
        }
        status
    }
}

/// The status of one cluster.
pub async fn get(conn: &mut Conn, id: ClusterId) -> Result<Option<ClusterStatus>, DbError> {
    let row = pve_cluster_status::table.find(id);
    Ok(on!(conn, c => row.select(ClusterStatus::as_select()).first(c).await.optional()?))
}

/// Of every cluster that has one.
pub async fn list(conn: &mut Conn) -> Result<Vec<ClusterStatus>, DbError> {
    let rows = pve_cluster_status::table.order(pve_cluster_status::cluster_id);
    Ok(on!(conn, c => rows.select(ClusterStatus::as_select()).load(c).await?))
}

/// Makes the row say what is given; `false` if it said so already, `last_success` aside.
///
/// Call it within [`crate::Db::write`].
pub async fn write(conn: &mut Conn, status: &ClusterStatus) -> Result<bool, DbError> {
    let wanted = status.fitted();
    match get(conn, status.cluster_id).await? {
        None => {
            on!(conn, c => diesel::insert_into(pve_cluster_status::table)
                .values(&wanted)
                .execute(c)
                .await?);
        }
        Some(there) => {
            let same = ClusterStatus { last_success: wanted.last_success, ..there } == wanted;
            if same {
                return Ok(false);
            }
            let row = pve_cluster_status::table.find(status.cluster_id);
            on!(conn, c => diesel::update(row)
                .set((&wanted, pve_cluster_status::gmt_modified.eq(crate::now())))
                .execute(c)
                .await?);
        }
    }
    Ok(true)
}

/// Notes the last whole list, with the once-a-minute batch.
pub async fn touch(
    conn: &mut Conn,
    id: ClusterId,
    last_success: Timestamp,
) -> Result<u64, DbError> {
    let row = pve_cluster_status::table.find(id);
    Ok(on!(conn, c => diesel::update(row)
        .set(pve_cluster_status::last_success.eq(last_success))
        .execute(c)
        .await?) as u64)
}
