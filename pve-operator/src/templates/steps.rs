//! Carries out what was decided, but for what PVE is asked to do, which is in `act`.

use informer::Action;
use schema::{
    instance::{Desired, InstanceStatus},
    leftover::{self, Left, Leftover},
    reservation,
};

use super::{
    look::Sight,
    pass::{Pass, PassError},
    plan::{Act, Step, Why},
    record::{CANCELLED, holder},
};

impl Pass<'_> {
    /// Carries a decision out.
    pub(super) async fn take(mut self, step: Step, sight: Sight) -> Result<Action, PassError> {
        let shared = self.shared;
        let id = self.row.id.0;
        if !matches!(step, Step::Wait(_) | Step::Settle) {
            self.told.blocked_reason = None;
        }
        if self.row.desired == Desired::Absent && self.told.status != InstanceStatus::Deleted {
            self.told.status = InstanceStatus::Deleting;
        }
        let action = match step {
            Step::Settle => {
                shared.slots.give_back(id);
                self.told.blocked_reason = None;
                Action::AwaitChange
            }
            Step::Begin => {
                self.begin();
                shared.soon()
            }
            Step::Wait(why) => self.wait(why, &sight),
            Step::Reserve => return self.reserve().await,
            Step::Renumber { husk } => {
                self.renumber(sight.remark.filter(|_| husk)).await?;
                shared.soon()
            }
            Step::Ask(act) => return self.ask(act, sight).await,
            Step::Stop => {
                shared.sending.stop(id);
                self.cluster.still_ours().await?;
                if let Some(running) = &sight.running
                    && let Err(error) = self.cluster.changer.stop_task(&running.upid).await
                {
                    let why = error.report();
                    self.told.blocked_reason = Some(format!("the task cannot be stopped: {why}"));
                    self.write().await?;
                    return Err(error.into());
                }
                shared.soon()
            }
            Step::Publish => {
                self.told.status = InstanceStatus::Available;
                // A file that an earlier attempt brought was not fetched again.
                self.told.bytes_done = self.upload.file_size;
                self.told.bytes_total = Some(self.upload.file_size);
                self.told.volume_id = sight.volume.map(|volume| volume.as_str().to_owned());
                self.told.progress = 100;
                self.told.step = None;
                self.told.failures = 0;
                self.told.error_message = None;
                self.told.staging_storage = None;
                self.told.staged_file = None;
                self.told.ended_at = Some(schema::now());
                shared.slots.give_back(id);
                shared.metrics.ended("available");
                tracing::info!(instance = id, vmid = self.told.vmid, "The template is available");
                Action::AwaitChange
            }
            Step::Lost => {
                let what = sight.remark.unwrap_or_else(|| "its guest is gone".to_owned());
                self.fail(format!("the template was removed in PVE: {what}; retry makes it again"));
                Action::AwaitChange
            }
            Step::Moved => {
                let node = sight.guest_node.map_or_else(String::new, |node| node.to_string());
                self.fail(format!("the guest was moved to node {node} while it was made"));
                shared.soon()
            }
            Step::Cancelled => {
                self.told.status = InstanceStatus::Failed;
                self.told.step = Some(CANCELLED.to_owned());
                self.told.error_message = Some("cancelled".to_owned());
                self.told.staging_storage = None;
                self.told.staged_file = None;
                self.told.observed_generation = self.row.generation;
                self.told.ended_at = Some(schema::now());
                shared.slots.give_back(id);
                shared.metrics.ended("cancelled");
                Action::AwaitChange
            }
            Step::Gone => {
                self.told.status = InstanceStatus::Deleted;
                self.told.error_message = sight.remark.map(|it| format!("{it}; it was left alone"));
                self.told.observed_generation = self.row.generation;
                self.told.ended_at = Some(schema::now());
                shared.slots.give_back(id);
                Action::AwaitChange
            }
        };
        self.write().await?;
        Ok(action)
    }

    fn begin(&mut self) {
        let told = &mut self.told;
        told.status = InstanceStatus::Pending;
        told.observed_generation = self.row.generation;
        told.attempt = told.attempt.saturating_add(1);
        told.failures = 0;
        told.error_message = None;
        told.step = None;
        told.progress = 0;
        told.bytes_done = 0;
        told.bytes_total = Some(self.upload.file_size);
        told.volume_id = None;
        told.started_at = Some(schema::now());
        told.ended_at = None;
    }

    fn wait(&mut self, why: Why, sight: &Sight) -> Action {
        let node = &self.row.node_name;
        self.told.blocked_reason = match why {
            Why::Task => None,
            Why::Answer(act) => Some(format!(
                "PVE gave no answer to `{}`; it may have begun, so it is looked for",
                act.as_str()
            )),
            Why::Node => Some(format!("node {node} is offline")),
            Why::Quorum => Some("the cluster has no quorum".to_owned()),
            Why::Lock => sight.remark.clone(),
        };
        if why == Why::Node {
            // Others need not wait for it. What runs there meanwhile is counted again when it is seen.
            self.shared.slots.give_back(self.row.id.0);
        }
        match why {
            Why::Task => match self.asked() {
                Some(Act::Fetch | Act::Import) => self.shared.later(),
                _ => self.shared.soon(),
            },
            Why::Answer(_) | Why::Node | Why::Quorum | Why::Lock => self.shared.later(),
        }
    }

    async fn reserve(mut self) -> Result<Action, PassError> {
        let shared = self.shared;
        let taken = self.cluster.guests.store().keys().into_iter().map(i64::from).collect();
        let (cluster, holder) = (self.row.cluster_id, holder(&self.row));
        let range = &shared.settings.vmids;
        let reserved = self
            .cluster
            .db
            .write(async |conn| reservation::reserve(conn, cluster, range, &taken, &holder).await);
        let Some(vmid) = reserved.await? else {
            let (from, to) = (range.start, range.end - 1);
            self.fail(format!("no VMID is free from {from} to {to}: widen --vmid-range"));
            self.write().await?;
            return Ok(Action::AwaitChange);
        };
        self.told.vmid = vmid;
        self.write().await?;
        Ok(shared.soon())
    }

    /// Leaves the VMID to whoever has it. The reservation stays, so that it is not chosen again.
    /// With a `doubt` the collector looks whether the guest is one of ours.
    pub(super) async fn renumber(&mut self, doubt: Option<String>) -> Result<(), PassError> {
        if let Some(reason) = doubt {
            self.remember(Left::Guest(self.told.vmid), &reason).await?;
        }
        self.told.vmid = 0;
        self.told.step = None;
        Ok(())
    }

    pub(super) async fn leave_file(&mut self, reason: &str) -> Result<(), PassError> {
        let (storage, file) = (self.told.staging_storage.take(), self.told.staged_file.take());
        if let (Some(storage), Some(file)) = (storage, file) {
            self.remember(Left::File(&format!("{storage}:import/{file}")), reason).await?;
        }
        Ok(())
    }

    async fn remember(&self, what: Left<'_>, reason: &str) -> Result<(), PassError> {
        let (cluster_id, instance_id) = (self.row.cluster_id, self.row.id);
        let node_name = &self.row.node_name;
        let write = self.cluster.db.write(async |conn| {
            let reason = Some(reason);
            let left = Leftover { cluster_id, instance_id, node_name, what, reason };
            leftover::remember(conn, &left).await
        });
        Ok(write.await?)
    }

    /// Says whose disks refer to the one that cannot be removed.
    pub(super) async fn with_linked_clones(&self, words: String, sight: &Sight) -> String {
        let (Some(node), Some(volume)) = (&sight.guest_node, &sight.volume) else { return words };
        let listed = self.cluster.reader.storage_content(node, volume.storage(), "images", None);
        let Ok(listed) = listed.await else { return words };
        let own = self.told.vmid.unsigned_abs();
        let base = volume.basename();
        let mut clones: Vec<u64> = listed
            .rows
            .iter()
            .filter(|row| {
                let parent = row.parent.as_deref().unwrap_or_default();
                row.volid.name().contains(base) || parent.contains(base)
            })
            .filter_map(|row| row.vmid.filter(|vmid| *vmid != own))
            .collect();
        clones.sort_unstable();
        clones.dedup();
        if clones.is_empty() {
            return words;
        }
        let clones: Vec<_> = clones.iter().map(u64::to_string).collect();
        format!("{words}: linked clones {}", clones.join(", "))
    }
}
