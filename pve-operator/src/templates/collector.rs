//! Ends what is gone, and takes away what crashed attempts left; each with its proof of ownership.
//!
//! - A *template* ends when its last instance has.
//! - A *guest* that was given up goes when its marker names the instance whose leftover it is: the
//!   row and the marker together, never a name or a tag.
//! - A *file* goes when its name carries the id of this installation and the instance that it names
//!   has no use for it.

use std::{collections::BTreeSet, sync::Arc};

use informer::WorkQueue;
use schema::{
    DbError,
    instance::{self, InstanceRow, InstanceStatus},
    leftover::{self, LeftoverKind, LeftoverRow},
    template::{self, TemplateStatus},
    upload,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    clusters::Cluster,
    names::{Marker, instance_of_file},
    pass::PassError,
    plan::Node,
    reconciler::Shared,
};
use crate::pve::{ErrorClass, NodeName, PveError, Refusal, StorageName, Vmid, Volid};

/// Between two searches for files that nobody needs, in looks.
const SEARCH: u32 = 30;

/// Collects until told to stop.
pub(super) async fn run(
    shared: Arc<Shared>,
    instances: WorkQueue<i64>,
    clones: WorkQueue<i64>,
    stop: CancellationToken,
) {
    let mut next_search = Instant::now();
    loop {
        let (transfers, busy) = shared.slots.in_use();
        shared.metrics.transfers.set(gauge(transfers));
        shared.metrics.busy_nodes.set(gauge(busy));
        shared.metrics.queue.set(gauge(instances.len() + clones.len()));
        if let Err(error) = end_templates(&shared).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "Templates end later");
        }
        if Instant::now() >= next_search {
            next_search = Instant::now() + shared.settings.look * SEARCH;
            let mut left = 0;
            for id in shared.clusters.ids() {
                let Some(cluster) = shared.clusters.get(id) else { continue };
                match collect(&shared, &cluster).await {
                    Ok(there) => left += there,
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::debug!(error, cluster = cluster.name, "Collected later");
                    }
                }
            }
            shared.metrics.leftovers.set(gauge(left));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(shared.settings.look) => {}
        }
    }
}

fn gauge(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Says of each template that is to go what holds it, and ends it when nothing does.
async fn end_templates(shared: &Shared) -> Result<(), DbError> {
    let unwanted = template::unwanted(&mut shared.db.conn().await?).await?;
    for row in unwanted {
        let rest = instance::of_template(&mut shared.db.conn().await?, row.id).await?;
        let (status, reason) = how_a_delete_is(&rest);
        if status == row.status && reason == row.blocked_reason {
            continue;
        }
        let cluster = shared.clusters.get(row.cluster_id);
        let db = match &cluster {
            Some(cluster) => &cluster.db,
            // Nobody may work on the cluster, or another operator does, who can say no other.
            None if status == TemplateStatus::Deleted => &shared.db,
            None => continue,
        };
        db.write(async |conn| {
            template::record_deletion(conn, row.id, status, reason.as_deref()).await?;
            if status == TemplateStatus::Deleted {
                upload::bury(conn, row.id).await?;
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// What is told of a delete by what is left of the template. Pure.
fn how_a_delete_is(rest: &[InstanceRow]) -> (TemplateStatus, Option<String>) {
    if rest.is_empty() {
        return (TemplateStatus::Deleted, None);
    }
    let reasons: BTreeSet<String> = rest
        .iter()
        .filter_map(|it| {
            let reason = it.told.blocked_reason.as_deref()?;
            Some(format!("{}: {reason}", it.node_name))
        })
        .collect();
    let reason = reasons.into_iter().collect::<Vec<_>>().join("; ");
    (TemplateStatus::Deleting, Some(reason).filter(|it| !it.is_empty()))
}

/// Goes through one cluster; says how much is left.
async fn collect(shared: &Shared, cluster: &Cluster) -> Result<usize, PassError> {
    search_files(shared, cluster).await?;
    let rows = leftover::of_cluster(&mut shared.db.conn().await?, cluster.id).await?;
    let mut left = 0;
    for row in &rows {
        if cluster.node_now(&row.node_name).await? != Node::Ready {
            left += 1;
            continue;
        }
        let looked = match row.kind {
            LeftoverKind::Guest => guest(shared, cluster, row).await,
            LeftoverKind::File => file(cluster, row).await,
        };
        let outcome = match looked {
            Ok(outcome) => outcome,
            Err(PassError::Pve(error)) => {
                tracing::debug!(error = error.report(), node = row.node_name, "Collected later");
                left += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        let db = &cluster.db;
        match outcome {
            Outcome::Gone => db.write(async |conn| leftover::forget(conn, row.id).await).await?,
            Outcome::Begun => left += 1,
            Outcome::Held(reason) => {
                left += 1;
                if row.reason.as_deref() != Some(&*reason) {
                    db.write(async |conn| leftover::explain(conn, row.id, &reason).await).await?;
                }
            }
        }
    }
    Ok(left)
}

enum Outcome {
    Gone,
    /// It is being removed; the next round sees whether that worked.
    Begun,
    Held(String),
}

async fn guest(
    shared: &Shared,
    cluster: &Cluster,
    row: &LeftoverRow,
) -> Result<Outcome, PassError> {
    let node = NodeName::new(&row.node_name)?;
    let vmid = Vmid::new(u32::try_from(row.vmid).unwrap_or(0))?;
    let config = match cluster.reader.qemu_config(&node, vmid).await {
        Ok(config) => config,
        Err(error) if matches!(Refusal::of(&error), Some(Refusal::GuestMissing)) => {
            return Ok(Outcome::Gone);
        }
        // Hidden from a token with rights through a pool, or gone: the list of all says which.
        Err(error) if error.class() == ErrorClass::Forbidden => {
            let listed = cluster.reader.resources().await?;
            let there = listed.guests().iter().any(|it| it.vmid == vmid);
            return Ok(if there { held(row, &error) } else { Outcome::Gone });
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(lock) = config.lock() {
        return Ok(Outcome::Held(format!(
            "VMID {vmid} on node {node} is locked ({lock}): if no task runs for it, an administrator \
             removes the lock with `qm unlock {vmid}`, or an empty guest with `qm destroy {vmid} \
             --skiplock`"
        )));
    }
    let marker = config.description().and_then(Marker::find);
    let ours = marker.is_some_and(|it| it.is_of(&shared.owner, row.instance_id));
    let used = instance::get(&mut shared.db.conn().await?, row.instance_id)
        .await?
        .is_some_and(|it| it.deleted_id == 0 && it.told.vmid == row.vmid);
    // Without the marker it is somebody else's by now, and no leftover.
    if !ours || used {
        return Ok(Outcome::Gone);
    }
    cluster.still_ours().await?;
    match cluster.changer.destroy_guest(&node, vmid).await {
        Ok(_) => Ok(Outcome::Begun),
        Err(error) => Ok(held(row, &error)),
    }
}

async fn file(cluster: &Cluster, row: &LeftoverRow) -> Result<Outcome, PassError> {
    let node = NodeName::new(&row.node_name)?;
    let volume: Volid = row.volume_id.parse()?;
    let listed = cluster.reader.storage_content(&node, volume.storage(), "import", None).await?;
    if !listed.rows.iter().any(|it| it.volid == volume) {
        return Ok(Outcome::Gone);
    }
    cluster.still_ours().await?;
    match cluster.changer.delete_volume(&node, &volume).await {
        Ok(_) => Ok(Outcome::Begun),
        Err(error) => Ok(held(row, &error)),
    }
}

fn held(row: &LeftoverRow, error: &PveError) -> Outcome {
    let what = match row.kind {
        LeftoverKind::Guest => format!("VMID {}", row.vmid),
        LeftoverKind::File => row.volume_id.clone(),
    };
    Outcome::Held(format!("{what} on node {} cannot be removed: {}", row.node_name, error.report()))
}

/// Removes staged files of this installation that their instance does not need.
async fn search_files(shared: &Shared, cluster: &Cluster) -> Result<(), PassError> {
    let mut places = Vec::new();
    cluster.storages.store().for_each(|it| {
        let takes_images = it.content.split(',').any(|kind| kind == "import");
        if takes_images && &*it.status == "available" {
            places.push((it.key.node.to_string(), it.key.storage.to_string()));
        }
    });
    for (node, storage) in places {
        if cluster.node(&node).await? != Node::Ready {
            continue;
        }
        let (node, storage) = (NodeName::new(&node)?, StorageName::new(&storage)?);
        let listed = match cluster.reader.storage_content(&node, &storage, "import", None).await {
            Ok(listed) => listed,
            // One node that does not answer, or may not be seen, keeps nobody waiting.
            Err(error) => {
                tracing::debug!(error = error.report(), %node, "Searched later");
                continue;
            }
        };
        for volume in listed.rows {
            let Some(id) = instance_of_file(&shared.owner, volume.volid.basename()) else {
                continue;
            };
            let now = chrono::Utc::now().timestamp().unsigned_abs();
            // It may belong to something that is only now written down.
            let young = shared.settings.patience.as_secs();
            if volume.ctime.is_some_and(|at| now.saturating_sub(at) < young) {
                continue;
            }
            let row = instance::get(&mut shared.db.conn().await?, id).await?;
            if row.is_none_or(|row| !needs(&row, volume.volid.basename())) {
                cluster.still_ours().await?;
                tracing::info!(volume = %volume.volid, %node, "Removing an image that nobody needs");
                if let Err(error) = cluster.changer.delete_volume(&node, &volume.volid).await {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(error, volume = %volume.volid, "It is removed later");
                }
            }
        }
    }
    Ok(())
}

/// Whether an instance may still need a staged file. Pure.
fn needs(row: &InstanceRow, file: &str) -> bool {
    let under_way = matches!(
        row.told.status,
        InstanceStatus::Pending | InstanceStatus::Syncing | InstanceStatus::Deleting
    );
    row.deleted_id == 0 && (under_way || row.told.staged_file.as_deref() == Some(file))
}
