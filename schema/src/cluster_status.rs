//! `pve_cluster_status`: how the operator gets on with each cluster, in words.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::batch::{self, record};
use crate::db::on;
use crate::sql::{self, Sql};
use crate::tables::pve_cluster_status;
use crate::text::{NAME, WORD, fit_in_place, fit_some};
use crate::{ClusterId, Conn, DbError, Flag, Timestamp};

/// One row. The operator is its only writer.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
#[diesel(table_name = pve_cluster_status)]
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
    let row = Sql::new("SELECT * FROM pve_cluster_status WHERE cluster_id = ").bind(id);
    sql::first(conn, &row).await
}

/// Of every cluster that has one.
pub async fn list(conn: &mut Conn) -> Result<Vec<ClusterStatus>, DbError> {
    sql::fetch(conn, &Sql::new("SELECT * FROM pve_cluster_status ORDER BY cluster_id")).await
}

struct Said {
    status: ClusterStatus,
    now: Timestamp,
}

record!(
    Said, pve_cluster_status,
    key [cluster_id = status.cluster_id],
    fixed [cluster_id = status.cluster_id, gmt_create = now],
    synced [
        is_ready = status.is_ready, reason = status.reason, message = status.message,
        reason_since = status.reason_since, pve_version = status.pve_version,
        quorate = status.quorate, node_count = status.node_count,
        online_node_count = status.online_node_count, guest_count = status.guest_count,
        storage_count = status.storage_count, last_success = status.last_success,
        last_error = status.last_error, last_error_at = status.last_error_at,
        missing_privileges = status.missing_privileges,
        learned_addresses = status.learned_addresses, learned_ca = status.learned_ca,
        learned_fingerprints = status.learned_fingerprints,
        presented_fingerprint = status.presented_fingerprint,
        suspicious_since = status.suspicious_since, gmt_modified = now,
    ],
);

/// Makes the row say what is given; `false` if it said so already, `last_success` aside.
///
/// Call it within [`crate::Db::write`].
pub async fn write(conn: &mut Conn, status: &ClusterStatus) -> Result<bool, DbError> {
    let there = get(conn, status.cluster_id).await?;
    let said = Said { status: status.fitted(), now: crate::now() };
    match there {
        None => batch::insert(conn, &[said]).await?,
        Some(there) => {
            let last_success = said.status.last_success;
            if (ClusterStatus { last_success, ..there }) == said.status {
                return Ok(false);
            }
            batch::update(conn, &[said]).await?
        }
    };
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

/// Writes which privileges the template flow lacks, one a line; `false` if there is no row yet.
///
/// A column of its own: the mirror, which writes the row, never names it.
pub async fn write_missing_template_privileges(
    conn: &mut Conn,
    id: ClusterId,
    missing: &str,
) -> Result<bool, DbError> {
    let row = Sql::update(
        "pve_cluster_status",
        [("missing_template_privileges", missing.into()), ("gmt_modified", crate::now().into())],
    );
    Ok(sql::execute(conn, &row.push(" WHERE cluster_id = ").bind(id)).await? > 0)
}

/// Which privileges the template flow lacks; None until somebody looked.
pub async fn missing_template_privileges(
    conn: &mut Conn,
    id: ClusterId,
) -> Result<Option<String>, DbError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Text>)]
        missing_template_privileges: Option<String>,
    }
    let row =
        Sql::new("SELECT missing_template_privileges FROM pve_cluster_status WHERE cluster_id = ");
    Ok(sql::first::<Row>(conn, &row.bind(id))
        .await?
        .and_then(|row| row.missing_template_privileges))
}
