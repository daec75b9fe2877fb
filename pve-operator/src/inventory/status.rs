//! Keeps a cluster's row in `pve_cluster_status`, and says in the log when its condition changes.

use std::time::Duration;

use schema::{ClusterId, Db, DbError, Timestamp, cluster_status, cluster_status::ClusterStatus};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    guard::Quorum,
    health::{Board, Connection, Facts, Trouble, condition},
};

/// Pause after the database did not take a status.
const RETRY: Duration = Duration::from_secs(5);

/// How much the mirror holds, at this moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    pub nodes: usize,
    pub online_nodes: usize,
    pub guests: usize,
    pub storages: usize,
}

/// What the client learned through connections that were trusted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Learned {
    /// Base URLs, as JSON.
    pub addresses: Option<String>,
    /// PEM.
    pub ca: Option<String>,
    /// SHA-256 by node, as JSON.
    pub fingerprints: Option<String>,
}

/// Where the numbers and learned things come from.
pub trait Source: Send + Sync {
    fn counts(&self) -> Counts;
    fn learned(&self) -> Learned;
}

/// Writes the status when its reason changes, at once, and everything else once per `period`.
pub async fn run(
    db: Db,
    cluster: ClusterId,
    board: Board,
    source: impl Source,
    period: Duration,
    stop: CancellationToken,
) {
    let mut written: Option<ClusterStatus> = None;
    let mut logged = None;
    let mut due = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = board.changed() => {}
            () = sleep_until(due) => {}
        }
        let facts = board.facts();
        let condition = condition(&facts, cluster.0);
        if logged != Some(condition.reason) {
            log(condition.reason, &condition.message);
            logged = Some(condition.reason);
        }
        let news = written.as_ref().is_none_or(|row| row.reason != condition.reason);
        if !news && Instant::now() < due {
            continue;
        }
        let before = match written.take() {
            Some(row) => Some(row),
            None => before(&db, cluster).await,
        };
        let row = row(cluster, &facts, source.counts(), source.learned(), before, schema::now());
        due = match save(&db, &row).await {
            Ok(()) => {
                written = Some(row);
                Instant::now() + period
            }
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "Status is not written yet"
                );
                Instant::now() + RETRY
            }
        };
    }
}

/// What an earlier run of the operator wrote.
async fn before(db: &Db, cluster: ClusterId) -> Option<ClusterStatus> {
    let mut conn = db.conn().await.ok()?;
    cluster_status::get(&mut conn, cluster).await.ok()?
}

async fn save(db: &Db, row: &ClusterStatus) -> Result<(), DbError> {
    db.write(async |conn| cluster_status::write(conn, row).await.map(drop)).await
}

/// The row that these facts make.
fn row(
    cluster: ClusterId,
    facts: &Facts,
    counts: Counts,
    learned: Learned,
    before: Option<ClusterStatus>,
    now: Timestamp,
) -> ClusterStatus {
    let condition = condition(facts, cluster.0);
    let before = before.unwrap_or_else(|| ClusterStatus::new(cluster, ""));
    let working = facts.mistake.is_none() && facts.connection == Connection::Working;
    let trouble = match (&facts.mistake, &facts.connection) {
        (None, Connection::Failing(trouble)) => Some(trouble),
        _ => None,
    };
    let failing = trouble.is_some() || facts.mistake.is_some();
    let same_reason = before.reason == condition.reason;
    let suspicious = condition.reason == "SuspiciousShrink";
    ClusterStatus {
        cluster_id: cluster,
        is_ready: working.into(),
        reason: condition.reason.to_owned(),
        reason_since: before.reason_since.filter(|_| same_reason).or(Some(now)),
        pve_version: facts.version.clone().or(before.pve_version),
        quorate: match facts.quorum {
            Quorum::Yes => Some(true.into()),
            Quorum::No => Some(false.into()),
            Quorum::NotShown => None,
        },
        node_count: count(counts.nodes),
        online_node_count: count(counts.online_nodes),
        guest_count: count(counts.guests),
        storage_count: count(counts.storages),
        last_success: if working { Some(now) } else { before.last_success },
        last_error: if failing { Some(condition.message.clone()) } else { before.last_error },
        last_error_at: if failing && !same_reason { Some(now) } else { before.last_error_at },
        missing_privileges: Some(facts.missing_privileges.join(",")).filter(|all| !all.is_empty()),
        learned_addresses: learned.addresses.or(before.learned_addresses),
        learned_ca: learned.ca.or(before.learned_ca),
        learned_fingerprints: learned.fingerprints.or(before.learned_fingerprints),
        presented_fingerprint: match trouble {
            Some(Trouble::Untrusted { presented, .. }) => presented.clone(),
            _ => None,
        },
        suspicious_since: if suspicious { before.suspicious_since.or(Some(now)) } else { None },
        message: Some(condition.message),
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn log(reason: &'static str, message: &str) {
    match reason {
        "Synced" | "Connecting" => tracing::info!(reason, "{message}"),
        _ => tracing::warn!(reason, "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(7);

    fn at(seconds: i64) -> Timestamp {
        schema::Timestamp::default() + chrono::TimeDelta::seconds(seconds)
    }

    fn working() -> Facts {
        Facts { connection: Connection::Working, ..Facts::default() }
    }

    fn failing() -> Facts {
        Facts { connection: Connection::Failing(Trouble::Unauthorized), ..Facts::default() }
    }

    fn next(facts: &Facts, before: Option<ClusterStatus>, seconds: i64) -> ClusterStatus {
        row(CLUSTER, facts, Counts::default(), Learned::default(), before, at(seconds))
    }

    #[test]
    fn a_condition_keeps_the_time_it_began() {
        let first = next(&failing(), None, 10);
        let later = next(&failing(), Some(first.clone()), 20);

        assert_eq!(later.reason_since, Some(at(10)));
        assert_eq!(later.last_error_at, Some(at(10)));
    }

    #[test]
    fn the_last_error_stays_readable_after_recovery() {
        let failed = next(&failing(), None, 10);
        let recovered = next(&working(), Some(failed.clone()), 20);

        assert_eq!(recovered.last_error, failed.last_error);
        assert_eq!((recovered.last_success, recovered.is_ready.0), (Some(at(20)), true));
    }

    #[test]
    fn what_was_learned_is_not_forgotten_while_the_cluster_is_away() {
        let learned = Learned { ca: Some("PEM".to_owned()), ..Learned::default() };
        let first = row(CLUSTER, &working(), Counts::default(), learned, None, at(10));

        assert_eq!(next(&failing(), Some(first), 20).learned_ca.as_deref(), Some("PEM"));
    }
}
