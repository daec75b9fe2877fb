//! The life of one pass: from what was seen to what is written.

use std::sync::Arc;

use informer::Action;
use schema::{
    DbError, Timestamp,
    instance::{Desired, InstanceRow, InstanceStatus, Progress},
    leftover::{self, Left, Leftover},
    reservation,
    template::TemplateRow,
    upload::UploadRow,
};

use super::{
    clusters::Cluster,
    judge::{Case, Verdict, judge},
    look::{Ended, Eye, Sight},
    plan::{self, Act, Step, Task, Why, Wish},
    progress::{Amount, percent},
    reconciler::{A_MOMENT, Shared},
    record::{CANCELLED, REFETCH, holder, record},
    sending::{SendError, State},
    staging,
};
use crate::pve::{Effect, ErrorClass, PveError, Refusal, Retry, Upid, classify};

/// Why a pass ended early. The next one starts by looking.
#[derive(Debug, thiserror::Error)]
pub(super) enum PassError {
    #[error(transparent)]
    Database(DbError),
    #[error(transparent)]
    Pve(#[from] PveError),
}

/// One pass.
pub(super) struct Pass<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) cluster: Arc<Cluster>,
    /// What the row says now; written ones are taken over.
    pub(super) row: InstanceRow,
    pub(super) upload: &'a UploadRow,
    pub(super) template: &'a TemplateRow,
    /// What it shall say.
    pub(super) told: Progress,
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        shared: &'a Arc<Shared>,
        cluster: Arc<Cluster>,
        row: InstanceRow,
        upload: &'a UploadRow,
        template: &'a TemplateRow,
    ) -> Self {
        let told = row.told.clone();
        Self { shared, cluster, row, upload, template, told }
    }

    pub(super) async fn run(mut self, failures: u32) -> Result<Action, PassError> {
        let id = self.row.id.0;
        let sending = self.shared.sending.state(id);
        if let State::Over(sent) = sending {
            return self.sent(sent).await;
        }
        let log = self.shared.logs.lock().remove(&id).unwrap_or_default();
        let eye = Eye {
            cluster: &self.cluster,
            owner: &self.shared.owner,
            row: &self.row,
            upload: self.upload,
            log,
            patience: self.shared.settings.patience,
        };
        let mut sight = match eye.look().await {
            Ok(sight) => sight,
            Err(error) => return self.blind(error, failures).await,
        };
        if let State::UnderWay(amount) = sending {
            sight.seen.task = Task::Running(Act::Fetch);
            self.show(Act::Fetch, amount);
        }
        if let Some(running) = &sight.running {
            self.told.upid = Some(running.upid.as_str().to_owned());
            self.shared.logs.lock().insert(id, running.log.clone());
            if let Task::Running(act) = sight.seen.task {
                if matches!(act, Act::Fetch | Act::Import) {
                    let transferring = act == Act::Fetch;
                    let node = &self.row.node_name;
                    self.shared.slots.adopt(id, self.cluster.id.0, node, transferring);
                }
                self.show(act, running.amount);
            }
        }
        if let Some(ended) = sight.ended.take()
            && let Some(act) = self.asked()
            && let Some(action) = self.ended(act, ended, &sight).await?
        {
            return Ok(action);
        }
        let wish = self.wish(&sight);
        let step = plan::plan(&wish, &sight.seen);
        tracing::debug!(instance = id, ?wish, seen = ?sight.seen, ?step, "Planned");
        self.take(step, sight).await
    }

    /// PVE did not answer: nothing is known, so nothing is done.
    async fn blind(mut self, error: PveError, failures: u32) -> Result<Action, PassError> {
        // Once may be chance.
        let lasts = failures > 0 || error.class() == ErrorClass::BreakerOpen;
        if lasts && self.row.told.status != InstanceStatus::Available {
            self.told.blocked_reason = Some(error.report());
            self.write().await?;
        }
        later_or(error)
    }

    pub(super) fn asked(&self) -> Option<Act> {
        self.told.asked.as_deref().and_then(Act::parse)
    }

    fn wish(&mut self, sight: &Sight) -> Wish {
        let running = sight.seen.task != Task::None;
        let unanswered = match self.asked() {
            Some(act) if self.told.upid.is_none() && !running => {
                let age = self.told.asked_at.map(since);
                if age.is_none_or(|age| age >= self.shared.settings.patience) {
                    self.nothing_asked();
                    None
                } else {
                    Some(act)
                }
            }
            _ => None,
        };
        let told = &self.told;
        Wish {
            desired: self.row.desired,
            status: told.status,
            fresh: self.row.generation > told.observed_generation,
            cancelled: told.step.as_deref() == Some(CANCELLED),
            numbered: told.vmid != 0,
            unanswered,
            new_shell: told.step.as_deref() == Some(Act::Shell.as_str()),
            wrong_file: told.step.as_deref() == Some(REFETCH),
            has_base: staging::has_base(self.upload.storage_type.as_deref().unwrap_or_default()),
        }
    }

    fn show(&mut self, act: Act, amount: Amount) {
        if self.row.desired != Desired::Available {
            return;
        }
        self.told.progress = percent(self.told.progress, act, amount);
        if act == Act::Fetch {
            let done = i64::try_from(amount.done).unwrap_or(i64::MAX);
            self.told.bytes_done = self.told.bytes_done.max(done);
            self.told.bytes_total = i64::try_from(amount.total).ok();
        }
    }

    /// A transfer of ours is over.
    async fn sent(mut self, sent: Result<Upid, SendError>) -> Result<Action, PassError> {
        match sent {
            Ok(upid) => {
                self.told.upid = Some(upid.as_str().to_owned());
                self.write().await?;
                Ok(self.shared.soon())
            }
            Err(SendError::Stopped) => {
                self.nothing_asked();
                self.write().await?;
                Ok(self.shared.soon())
            }
            // It did not get as far as PVE: no try of the attempt was lost.
            Err(SendError::Pve(error))
                if error.effect() == Effect::None && refusal_of(&error).is_none() =>
            {
                tracing::debug!(
                    instance = self.row.id.0,
                    error = error.report(),
                    "Nothing was sent"
                );
                self.nothing_asked();
                self.told.blocked_reason = Some(error.report());
                self.write().await?;
                later_or(error)
            }
            // It may have arrived whole all the same.
            Err(SendError::Pve(error)) if error.effect() == Effect::Unknown => {
                self.unanswered(Act::Fetch, &error).await
            }
            Err(error) => {
                let refusal = match &error {
                    SendError::Pve(error) => refusal_of(error).unwrap_or(Refusal::Other),
                    SendError::Image(_) | SendError::Stopped => Refusal::Other,
                };
                let words = match error {
                    SendError::Pve(error) => error.report(),
                    other => report(&other),
                };
                self.failed(Act::Fetch, &refusal, words).await
            }
        }
    }

    /// No answer, or one that leaves open whether PVE began: that stays in the row and is looked for.
    pub(super) async fn unanswered(
        mut self,
        act: Act,
        error: &PveError,
    ) -> Result<Action, PassError> {
        tracing::warn!(
            instance = self.row.id.0,
            act = act.as_str(),
            error = error.report(),
            "No answer: it may have begun, so it is looked for"
        );
        // The patience counts from now: a transfer may have taken long.
        self.told.asked_at = Some(schema::now());
        // A node that is cut off comes back. Anything else that hangs up on us may do so for ever.
        let heals = matches!(error.class(), ErrorClass::NodeUnreachable | ErrorClass::Timeout);
        if self.row.desired == Desired::Available && !heals {
            self.told.failures = self.told.failures.saturating_add(1);
            self.told.error_message = Some(error.report());
            if self.told.failures.unsigned_abs() >= self.shared.settings.tries {
                self.fail(error.report());
                self.shared.slots.give_back(self.row.id.0);
            }
        }
        self.write().await?;
        Ok(self.shared.soon())
    }

    /// The task is over; an action if that is all for now.
    async fn ended(
        &mut self,
        act: Act,
        ended: Ended,
        sight: &Sight,
    ) -> Result<Option<Action>, PassError> {
        let id = self.row.id.0;
        self.shared.logs.lock().remove(&id);
        let took = self.told.asked_at.map(since);
        let making = !matches!(act, Act::Destroy | Act::RemoveFile);
        match ended {
            Ended::Well { warnings } => {
                self.shared.metrics.done(act, took);
                self.nothing_asked();
                if act == Act::Fetch {
                    let bytes = self.upload.file_size.unsigned_abs();
                    self.shared.metrics.fetched(bytes);
                    self.shared.slots.transferred(id);
                    let whole = self.upload.file_size.unsigned_abs();
                    self.show(act, Amount { done: whole, total: whole });
                }
                if making {
                    self.told.error_message = None;
                    // A guest is made anew after each import that failed: that is no step ahead.
                    if act != Act::Shell {
                        self.told.failures = 0;
                    }
                }
                if let Some(warnings) = warnings {
                    tracing::warn!(instance = id, act = act.as_str(), "{warnings}");
                }
                Ok(None)
            }
            Ended::Forgotten => {
                self.nothing_asked();
                Ok(None)
            }
            // It was stopped, or does not matter any more: what is left is seen.
            Ended::Badly { .. } if making && self.row.desired != Desired::Available => {
                self.nothing_asked();
                Ok(None)
            }
            Ended::Badly { refusal, words } => {
                self.shared.metrics.failed(act, &refusal);
                let words = match refusal {
                    Refusal::BaseInUse => self.with_linked_clones(words, sight).await,
                    _ => words,
                };
                self.failed_with(act, &refusal, words).await.map(Some)
            }
        }
    }

    /// Nothing that PVE was asked for is waited for.
    pub(super) fn nothing_asked(&mut self) {
        self.told.asked = None;
        self.told.asked_at = None;
        self.told.upid = None;
    }

    pub(super) async fn failed(
        mut self,
        act: Act,
        refusal: &Refusal,
        words: String,
    ) -> Result<Action, PassError> {
        self.shared.metrics.failed(act, refusal);
        self.failed_with(act, refusal, words).await
    }

    async fn failed_with(
        &mut self,
        act: Act,
        refusal: &Refusal,
        words: String,
    ) -> Result<Action, PassError> {
        let shared = self.shared;
        self.nothing_asked();
        let failures = self.told.failures.unsigned_abs();
        let taking_away =
            self.row.desired != Desired::Available || self.told.status == InstanceStatus::Failed;
        let verdict = judge(
            Case {
                act,
                taking_away,
                failures,
                tries: shared.settings.tries,
                refetched: failures > 0,
            },
            refusal,
        );
        tracing::warn!(
            instance = self.row.id.0,
            node = self.row.node_name,
            act = act.as_str(),
            ?verdict,
            "{words}"
        );
        let advice = refusal.advice();
        let message = if advice.is_empty() { words } else { format!("{words} ({advice})") };
        let pause = shared.settings.backoff.pause(failures.min(16), None);
        // What ends by itself, or goes on at once, is no try lost.
        if taking_away || matches!(verdict, Verdict::Again | Verdict::Refetch | Verdict::Fail) {
            self.told.failures = self.told.failures.saturating_add(1);
        }
        let action = match verdict {
            Verdict::Again => {
                self.told.error_message = Some(message);
                Action::RequeueAfter(pause)
            }
            Verdict::Hold => {
                self.told.blocked_reason = Some(message);
                Action::RequeueAfter(pause.min(LONGEST_HOLD))
            }
            Verdict::Fail => {
                self.fail(message);
                shared.soon()
            }
            Verdict::Renumber => {
                // It may be ours: of a request whose answer was lost and that began only now.
                self.renumber(Some(message)).await?;
                shared.soon()
            }
            Verdict::Refetch => {
                self.told.step = Some(REFETCH.to_owned());
                self.told.error_message = Some(message);
                shared.soon()
            }
            Verdict::Leave => {
                self.leave_file(&message).await?;
                shared.soon()
            }
        };
        if !matches!(verdict, Verdict::Hold) {
            shared.slots.give_back(self.row.id.0);
        }
        self.write().await?;
        Ok(action)
    }

    pub(super) fn fail(&mut self, message: String) {
        self.told.status = InstanceStatus::Failed;
        self.told.error_message = Some(message);
        self.told.blocked_reason = None;
        self.told.ended_at = Some(schema::now());
        self.shared.metrics.ended("failed");
    }

    /// Carries a decision out.
    async fn take(mut self, step: Step, sight: Sight) -> Result<Action, PassError> {
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
        let reserved = shared
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
    async fn renumber(&mut self, doubt: Option<String>) -> Result<(), PassError> {
        if let Some(reason) = doubt {
            self.remember(Left::Guest(self.told.vmid), &reason).await?;
        }
        self.told.vmid = 0;
        self.told.step = None;
        Ok(())
    }

    async fn leave_file(&mut self, reason: &str) -> Result<(), PassError> {
        let (storage, file) = (self.told.staging_storage.take(), self.told.staged_file.take());
        if let (Some(storage), Some(file)) = (storage, file) {
            self.remember(Left::File(&format!("{storage}:import/{file}")), reason).await?;
        }
        Ok(())
    }

    async fn remember(&self, what: Left<'_>, reason: &str) -> Result<(), PassError> {
        let (cluster_id, instance_id) = (self.row.cluster_id, self.row.id);
        let node_name = &self.row.node_name;
        let write = self.shared.db.write(async |conn| {
            let reason = Some(reason);
            let left = Leftover { cluster_id, instance_id, node_name, what, reason };
            leftover::remember(conn, &left).await
        });
        Ok(write.await?)
    }

    /// Says whose disks refer to the one that cannot be removed.
    async fn with_linked_clones(&self, words: String, sight: &Sight) -> String {
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

    /// Writes what changed.
    pub(super) async fn write(&mut self) -> Result<(), DbError> {
        record(&self.shared.db, &self.row, &self.told).await?;
        self.row.told.clone_from(&self.told);
        Ok(())
    }
}

/// However long the pauses between tries: somebody may have removed what holds it.
const LONGEST_HOLD: std::time::Duration = std::time::Duration::from_mins(1);

/// When to look again after PVE did not answer: at once when it may be asked again, if that is
/// known; else after a pause that grows.
pub(super) fn later_or(error: PveError) -> Result<Action, PassError> {
    match error.retry() {
        Retry::After(pause) => Ok(Action::RequeueAfter(pause.max(A_MOMENT))),
        Retry::Backoff | Retry::Fix => Err(error.into()),
    }
}

/// How far away a moment is. Replicas' clocks differ a little: one of the next seconds is now.
pub(super) fn since(at: Timestamp) -> std::time::Duration {
    (schema::now() - at).abs().to_std().unwrap_or_default()
}

pub(super) fn report(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What a refused request means.
pub(super) fn refusal_of(error: &PveError) -> Option<Refusal> {
    Refusal::of(error).or_else(|| error.message().map(classify))
}
