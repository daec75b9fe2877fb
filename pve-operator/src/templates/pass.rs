//! The life of one pass: from what was seen to what is written.

use std::sync::Arc;

use informer::Action;
use schema::{
    DbError, Timestamp,
    instance::{Desired, InstanceRow, InstanceStatus, Progress},
    template::TemplateRow,
    upload::UploadRow,
};

use super::{
    clusters::Cluster,
    judge::{Case, Verdict, judge},
    look::{Ended, Eye, Sight},
    plan::{self, Act, Task, Wish},
    progress::{Amount, percent},
    reconciler::{A_MOMENT, Shared},
    record::{CANCELLED, REFETCH, record},
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
        let sending = self.shared.sending.state(id, &self.cluster);
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
        let heals = matches!(
            error.class(),
            ErrorClass::NodeUnreachable | ErrorClass::Timeout | ErrorClass::NotOurs
        );
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
        let message = refusal.explained(words);
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

    /// Writes what changed.
    pub(super) async fn write(&mut self) -> Result<(), DbError> {
        record(&self.cluster.db, &self.row, &self.told).await?;
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
