//! One pass for one instance: look, decide, do at most one thing.
//!
//! Safe to repeat and safe to drop at any `.await`: the next pass reads the row and looks at PVE
//! again. What PVE is asked for is in the row before it is asked, so a lost answer is found by
//! looking, and a VMID or file name that exists is refused by PVE, never made twice.

use std::{collections::HashMap, sync::Arc, time::Duration};

use informer::{Action, Context, Reconciler};
use parking_lot::Mutex;
use schema::{
    Db, DbError,
    image_url::ImageUrlKey,
    instance::{self, Desired, InstanceRow, InstanceStatus},
    template, upload,
};

use super::{
    clusters::{Cluster, Clusters},
    metrics::Metrics,
    pass::{Pass, PassError},
    record::record,
    sending::Sending,
    settings::Settings,
    slots::Slots,
};
use crate::pve::{PveError, TaskLog};

/// What all passes share.
#[derive(Debug)]
pub(super) struct Shared {
    pub db: Db,
    pub clusters: Clusters,
    /// The id of this installation.
    pub owner: String,
    /// Signs the addresses at which nodes fetch images.
    pub key: ImageUrlKey,
    pub settings: Settings,
    pub slots: Slots,
    pub sending: Sending,
    pub metrics: Metrics,
    /// The logs of running tasks, as far as they were read.
    pub logs: Mutex<HashMap<i64, TaskLog>>,
}

/// Brings instances to where they should be.
#[derive(Clone, Debug)]
pub(super) struct Instances(pub Arc<Shared>);

impl Reconciler for Instances {
    type Key = i64;
    type Error = PassError;

    async fn reconcile(&self, context: Context<i64>) -> Result<Action, PassError> {
        let shared = &self.0;
        let id = schema::InstanceId(context.key);
        // Read anew: the cache may be behind what the last pass wrote.
        let mut conn = shared.db.conn().await?;
        let Some(row) = instance::get(&mut conn, id).await?.filter(|row| row.deleted_id == 0)
        else {
            shared.slots.give_back(id.0);
            shared.logs.lock().remove(&id.0);
            return Ok(Action::AwaitChange);
        };
        // It comes back when its pipeline does; until then another operator may work on it.
        let Some(cluster) = shared.clusters.get(row.cluster_id) else {
            shared.slots.give_back(id.0);
            shared.sending.forget(id.0);
            shared.logs.lock().remove(&id.0);
            return Ok(Action::AwaitChange);
        };
        let follows = row.is_shared.0 && !row.is_primary.0;
        if follows {
            let all = instance::of_upload(&mut conn, row.upload_id).await?;
            drop(conn);
            return left_to_others(follow(&cluster.db, &row, &all).await);
        }
        if is_at_rest(&cluster, &row) {
            return Ok(Action::AwaitChange);
        }
        let Some(upload) = upload::get(&mut conn, row.upload_id).await? else {
            return Ok(Action::AwaitChange);
        };
        let Some(template) = template::get(&mut conn, row.template_id).await? else {
            return Ok(Action::AwaitChange);
        };
        drop(conn);
        let pass = Pass::new(shared, cluster, row, &upload, &template);
        left_to_others(pass.run(context.failures).await)
    }
}

/// What the lease's end cut short is for whoever has the cluster now. It comes back if we get it.
pub(super) fn left_to_others(outcome: Result<Action, PassError>) -> Result<Action, PassError> {
    match outcome {
        Err(
            PassError::Pve(PveError::NotOurs { .. }) | PassError::Database(DbError::Fenced { .. }),
        ) => Ok(Action::AwaitChange),
        outcome => outcome,
    }
}

/// Whether the mirror shows that nothing is to be done, so that PVE need not be asked.
fn is_at_rest(cluster: &Cluster, row: &InstanceRow) -> bool {
    let wanted =
        row.desired == Desired::Available && row.generation <= row.told.observed_generation;
    let there = || {
        let vmid = u32::try_from(row.told.vmid).unwrap_or(0);
        cluster.guests.store().get(&vmid).is_some_and(|guest| guest.template)
    };
    match row.told.status {
        InstanceStatus::Available => wanted && (!cluster.guests.has_synced() || there()),
        _ => false,
    }
}

/// On shared storage there is one guest, the primary's; what the others say follows from it.
async fn follow(db: &Db, row: &InstanceRow, all: &[InstanceRow]) -> Result<Action, PassError> {
    let primary = all.iter().find(|it| it.is_primary.0);
    let told = followed(row, primary);
    record(db, row, &told).await?;
    Ok(Action::AwaitChange)
}

/// What an instance says that has the guest of another one. Pure.
fn followed(row: &InstanceRow, primary: Option<&InstanceRow>) -> instance::Progress {
    let mut told = row.told.clone();
    told.observed_generation = row.generation;
    match primary {
        Some(primary) => {
            told.status = match (primary.told.status, row.desired) {
                (_, Desired::Absent) => InstanceStatus::Deleting,
                (status, _) => status,
            };
            told.vmid = primary.told.vmid;
            told.volume_id.clone_from(&primary.told.volume_id);
            told.progress = primary.told.progress;
            told.error_message.clone_from(&primary.told.error_message);
            told.blocked_reason.clone_from(&primary.told.blocked_reason);
            told.step.clone_from(&primary.told.step);
        }
        None if row.desired == Desired::Absent => told.status = InstanceStatus::Deleted,
        None => {
            told.status = InstanceStatus::Failed;
            told.error_message = Some("the instance that has the guest is gone".to_owned());
        }
    }
    told
}

/// Between two looks at something that takes a moment.
pub(super) const A_MOMENT: Duration = Duration::from_millis(300);

impl Shared {
    pub(super) fn soon(&self) -> Action {
        Action::RequeueAfter(A_MOMENT.min(self.settings.look))
    }

    pub(super) fn later(&self) -> Action {
        Action::RequeueAfter(self.settings.look)
    }
}

impl From<DbError> for PassError {
    fn from(error: DbError) -> Self {
        Self::Database(error)
    }
}
