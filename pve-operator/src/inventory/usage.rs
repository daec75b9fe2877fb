//! The numbers that always move, written in one batch at long intervals.
//!
//! Raises no revision: a storage that filled a little is no change that anyone waits for.

use std::{collections::HashMap, sync::Arc, time::Duration};

use schema::{ClusterId, Db, DbError, cluster_status, guest, node, storage};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;

use super::{poll::Poll, rows, spread};

/// Writes when each thing was last seen and how full storages are, until told to stop.
///
/// Only after polls that brought something new: what PVE did not say again was not seen again.
pub async fn run(
    db: Db,
    cluster: ClusterId,
    polls: watch::Receiver<Option<Arc<Poll>>>,
    period: Duration,
    stop: CancellationToken,
) {
    let mut ticks = interval_at(Instant::now() + spread::first(period), period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written: Option<Arc<Poll>> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let Some(poll) = polls.borrow().clone() else { continue };
        if written.as_ref().is_some_and(|written| Arc::ptr_eq(written, &poll)) {
            continue;
        }
        match write(&db, cluster, &poll).await {
            Ok(()) => written = Some(poll),
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "Usage is not written this time"
                );
            }
        }
    }
}

async fn write(db: &Db, cluster: ClusterId, poll: &Poll) -> Result<(), DbError> {
    let at = schema::now();
    let list = &poll.resources;
    let online: Vec<String> = list
        .nodes()
        .iter()
        .filter(|row| row.status.as_deref() == Some("online"))
        .map(|row| row.node.to_string())
        .collect();
    let seen: Vec<i64> = list.guests().iter().map(|row| i64::from(row.vmid.get())).collect();
    let usage: HashMap<_, _> = list
        .storages()
        .iter()
        .filter_map(|row| {
            let key = storage::StorageKey {
                node_name: row.node.to_string(),
                storage_name: row.storage.to_string(),
            };
            Some((key, rows::usage(row)?))
        })
        .collect();
    let usage: Vec<_> = usage.into_iter().collect();
    db.write(async |conn| {
        node::touch(conn, cluster, &online, at).await?;
        guest::touch(conn, cluster, &seen, at).await?;
        storage::touch(conn, cluster, &usage, at).await?;
        cluster_status::touch(conn, cluster, at).await?;
        Ok(())
    })
    .await
}
