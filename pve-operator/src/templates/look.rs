//! What PVE shows of one instance, asked anew each time.

use std::time::Duration;

use schema::{instance::InstanceRow, upload::UploadRow};

use super::{
    clusters::Cluster,
    names::Marker,
    pass::since,
    plan::{Act, Disk, File, Guest, Node, Ours, Seen, Task},
    progress::Amount,
};
use crate::pve::{
    ErrorClass, GuestConfig, GuestKind, NodeName, Outcome, PveError, Refusal, StorageName,
    TaskFilter, TaskLog, TaskState, Upid, Vmid, Volid, classify_task, download_progress,
    error_text, import_progress,
};

/// A task that PVE does not list yet may come for this long after it was asked for.
const NOT_LISTED_YET: Duration = Duration::from_secs(10);

/// What was seen.
#[derive(Debug)]
pub(super) struct Sight {
    pub seen: Seen,
    /// The task that runs.
    pub running: Option<Running>,
    /// The task that we waited for has ended.
    pub ended: Option<Ended>,
    /// The node that has the guest, if it is ours.
    pub guest_node: Option<NodeName>,
    /// The guest's disk.
    pub volume: Option<Volid>,
    /// What a person should know of the VMID: who has it.
    pub remark: Option<String>,
}

#[derive(Debug)]
pub(super) struct Running {
    pub upid: Upid,
    pub amount: Amount,
    pub log: TaskLog,
}

/// How a task ended.
#[derive(Debug)]
pub(super) enum Ended {
    Well {
        warnings: Option<String>,
    },
    Badly {
        refusal: Refusal,
        /// PVE's words.
        words: String,
    },
    /// PVE does not know the task any more: what it did shows in the rest.
    Forgotten,
}

impl Sight {
    fn of(node: Node) -> Self {
        Self {
            seen: Seen { node, task: Task::None, guest: Guest::Absent, file: File::Absent },
            running: None,
            ended: None,
            guest_node: None,
            volume: None,
            remark: None,
        }
    }
}

/// What an instance is looked at with.
#[derive(Debug)]
pub(super) struct Eye<'a> {
    pub cluster: &'a Cluster,
    /// The id of this installation.
    pub owner: &'a str,
    pub row: &'a InstanceRow,
    pub upload: &'a UploadRow,
    /// What is known of the running task's log.
    pub log: TaskLog,
    /// For how long work may still begin.
    pub patience: Duration,
}

impl Eye<'_> {
    /// Looks at all that matters: two to five requests.
    ///
    /// # Errors
    ///
    /// Whatever PVE did not answer: then nothing may be concluded.
    pub(super) async fn look(mut self) -> Result<Sight, PveError> {
        let mut sight = Sight::of(self.cluster.node(&self.row.node_name).await?);
        if sight.seen.node == Node::Away {
            return Ok(sight);
        }
        self.look_at_task(&mut sight).await?;
        self.look_at_guest(&mut sight).await?;
        self.look_at_file(&mut sight).await?;
        Ok(sight)
    }

    async fn look_at_task(&mut self, sight: &mut Sight) -> Result<(), PveError> {
        let told = &self.row.told;
        let Some(act) = told.asked.as_deref().and_then(Act::parse) else { return Ok(()) };
        let upid = match told.upid.as_deref().map(str::parse::<Upid>) {
            Some(upid) => upid?,
            None => match self.find_running(act).await? {
                Some(upid) => upid,
                None => return Ok(()),
            },
        };
        match self.cluster.reader.task_state(&upid).await {
            Ok(TaskState::Running) => {
                let log = self.read_log(&upid).await?;
                sight.seen.task = Task::Running(act);
                sight.running = Some(Running { amount: self.amount(act, &log), upid, log });
            }
            Ok(TaskState::Stopped(outcome)) => {
                // A last line may have grown unseen: all of it, once.
                let log = self.read_whole_log(&upid).await;
                sight.ended = Some(how_it_ended(&outcome, &log));
            }
            Err(error) if is_unknown_task(&error) => {
                if told.asked_at.is_some_and(|at| since(at) < NOT_LISTED_YET.min(self.patience)) {
                    sight.seen.task = Task::Running(act);
                } else {
                    sight.ended = Some(Ended::Forgotten);
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// A running task that does what was asked for and whose answer was lost. Only running ones:
    /// what ended shows in the guest and in the file.
    async fn find_running(&self, act: Act) -> Result<Option<Upid>, PveError> {
        let node = NodeName::new(&self.row.node_name)?;
        let by_guest = |kind| (kind, vmid(self.row));
        let (kind, vmid) = match act {
            Act::Fetch => ("download", None),
            Act::RemoveFile => ("imgdel", None),
            Act::Shell => by_guest("qmcreate"),
            Act::Import => by_guest("qmconfig"),
            Act::Convert => by_guest("qmtemplate"),
            Act::Destroy => by_guest("qmdestroy"),
        };
        let filter = TaskFilter { vmid, kind: Some(kind.to_owned()), ..TaskFilter::default() };
        let tasks = self.cluster.reader.tasks(&node, &filter).await?;
        let file = self.row.told.staged_file.as_deref();
        let ours = |upid: &Upid| match act {
            Act::Fetch => file == Some(upid.id()),
            Act::RemoveFile => file.is_some_and(|file| upid.id().contains(file)),
            _ => vmid.is_some_and(|vmid| upid.id() == vmid.to_string()),
        };
        let mut running = tasks.rows.into_iter().filter(|row| row.state == TaskState::Running);
        Ok(running.find(|row| ours(&row.upid)).map(|row| row.upid))
    }

    async fn read_log(&mut self, upid: &Upid) -> Result<TaskLog, PveError> {
        let mut log = std::mem::take(&mut self.log);
        let page = self.cluster.reader.task_log(upid, log.next_start(), 500).await?;
        log.add(&page);
        Ok(log)
    }

    async fn read_whole_log(&self, upid: &Upid) -> TaskLog {
        let mut log = TaskLog::default();
        match self.cluster.reader.task_log(upid, 0, 0).await {
            Ok(page) => {
                log.add(&page);
            }
            // The outcome is known; only the words are missing.
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "No log of a task");
            }
        }
        log
    }

    fn amount(&self, act: Act, log: &TaskLog) -> Amount {
        let file = self.upload.file_size.unsigned_abs();
        match act {
            Act::Fetch => {
                let done = download_progress(log.lines(), file).unwrap_or(0);
                Amount { done, total: file }
            }
            Act::Import => {
                let (done, total) = import_progress(log.lines()).unwrap_or((0, 0));
                Amount { done, total }
            }
            Act::Shell | Act::Convert | Act::Destroy | Act::RemoveFile => Amount::default(),
        }
    }

    async fn look_at_guest(&self, sight: &mut Sight) -> Result<(), PveError> {
        let Some(vmid) = vmid(self.row) else { return Ok(()) };
        let home = NodeName::new(&self.row.node_name)?;
        match self.cluster.reader.qemu_config(&home, vmid).await {
            Ok(config) => {
                self.judge_guest(&config, home, true, sight);
                return Ok(());
            }
            Err(error) if may_be_missing(&error) => {}
            Err(error) => return Err(error),
        }
        // Not here, or not for us to see: the list of all says which. It is behind the configuration
        // by a moment, so what it has is asked for once more.
        let resources = self.cluster.reader.resources().await?;
        let Some(row) = resources.guests().iter().find(|row| row.vmid == vmid) else {
            sight.seen.guest = Guest::Absent;
            return Ok(());
        };
        if row.kind != GuestKind::Qemu {
            sight.seen.guest = Guest::Stranger;
            sight.remark = Some(format!("VMID {vmid} belongs to a container now"));
            return Ok(());
        }
        let node = NodeName::new(&row.node)?;
        match self.cluster.reader.qemu_config(&node, vmid).await {
            Ok(config) => {
                let at_home = node == home;
                self.judge_guest(&config, node, at_home, sight);
                Ok(())
            }
            // Gone between the two, or hidden from this token: neither is ours to touch.
            Err(error) if may_be_missing(&error) => {
                sight.seen.guest = Guest::Stranger;
                sight.remark =
                    Some(format!("VMID {vmid} on node {node} cannot be read: {}", error.report()));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn judge_guest(&self, config: &GuestConfig, node: NodeName, at_home: bool, sight: &mut Sight) {
        let marker = config.description().and_then(Marker::find);
        let ours = marker.is_some_and(|it| it.is_of(self.owner, self.row.id));
        if !ours {
            let husk = config.lock() == Some("create") && config.disks().next().is_none();
            sight.seen.guest = if husk { Guest::Husk } else { Guest::Stranger };
            let name = config.name().unwrap_or("without a name");
            sight.remark = Some(if husk {
                format!(
                    "VMID {} on node {node} is locked (create) and empty: if no task runs for it, \
                     `qm destroy {0} --skiplock` on the node removes it",
                    self.row.told.vmid
                )
            } else {
                format!("VMID {} belongs to another guest now: {name}", self.row.told.vmid)
            });
            return;
        }
        let volume = config.volume("scsi0");
        let disk = match &volume {
            None => Disk::None,
            Some(volume) if volume.is_base() => Disk::Base,
            Some(_) => Disk::Plain,
        };
        sight.seen.guest = Guest::Ours(Ours {
            at_home,
            locked: config.lock().is_some(),
            template: config.is_template(),
            disk,
            has_unused: config.has_unused_disks(),
        });
        if let Some(lock) = config.lock() {
            let vmid = self.row.told.vmid;
            sight.remark = Some(format!(
                "VMID {vmid} on node {node} is locked ({lock}): if no task runs for it, `qm unlock \
                 {vmid}` on the node frees it"
            ));
        }
        sight.volume = volume;
        sight.guest_node = Some(node);
    }

    async fn look_at_file(&self, sight: &mut Sight) -> Result<(), PveError> {
        let told = &self.row.told;
        let (Some(storage), Some(file)) = (&told.staging_storage, &told.staged_file) else {
            return Ok(());
        };
        let (node, storage) = (NodeName::new(&self.row.node_name)?, StorageName::new(storage)?);
        let volume = Volid::import(&storage, file)?;
        let rows = self.cluster.reader.storage_content(&node, &storage, "import", None).await?;
        let found = rows.rows.iter().find(|row| row.volid == volume);
        sight.seen.file = match found {
            None => File::Absent,
            Some(row) if row.size == Some(self.upload.file_size.unsigned_abs()) => File::Whole,
            Some(_) => File::Damaged,
        };
        Ok(())
    }
}

/// The VMID that the row reserved.
pub(super) fn vmid(row: &InstanceRow) -> Option<Vmid> {
    u32::try_from(row.told.vmid).ok().and_then(|vmid| Vmid::new(vmid).ok())
}

fn how_it_ended(outcome: &Outcome, log: &TaskLog) -> Ended {
    match outcome {
        Outcome::Ok => Ended::Well { warnings: None },
        Outcome::Warnings(count) => {
            let words = log.lines().iter().filter(|line| line.contains("WARN"));
            let words: Vec<_> = words.map(|line| line.trim().to_owned()).collect();
            Ended::Well { warnings: Some(format!("WARNINGS: {count}; {}", words.join("; "))) }
        }
        Outcome::Failed(words) => Ended::Badly {
            refusal: classify_task(words, log.lines()),
            words: error_text(log.lines()).unwrap_or_else(|| words.clone()),
        },
    }
}

/// A guest that is not on a node is a 500 with a text; a token with rights through a pool gets a
/// 403 for it (seen on PVE 9.2).
pub(super) fn may_be_missing(error: &PveError) -> bool {
    error.class() == ErrorClass::Forbidden
        || matches!(Refusal::of(error), Some(Refusal::GuestMissing))
}

/// PVE says it of the parameter `upid`, not of the whole (pve-manager: `src/PVE/API2/Tasks.pm`).
fn is_unknown_task(error: &PveError) -> bool {
    let unknown = |words: &str| words.contains("no such task");
    match error {
        PveError::Refused { message, errors, .. } => {
            unknown(message) || errors.values().any(|words| unknown(words))
        }
        _ => false,
    }
}
