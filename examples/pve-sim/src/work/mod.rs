//! Workers: what goes on after a UPID was answered.
//!
//! ```text
//! handler --Job--> start --(task_time, plan, stop, kill)--> Work::run --> end of the task
//! ```
//!
//! A worker is a future. SIGTERM is a token that its waits look at, so that it can clean up;
//! SIGKILL drops it where it stands. Whatever it changes of the world it changes through
//! [`Worker::world`], which a dead worker no longer gets.

pub(crate) mod clone;
pub(crate) mod configure;
pub(crate) mod copy;
pub(crate) mod create;
pub(crate) mod destroy;
mod dots;
pub(crate) mod download;
pub(crate) mod link;
pub(crate) mod power;
pub(crate) mod remove;
pub(crate) mod template;
pub(crate) mod upload;
pub(crate) mod wget;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::MutexGuard;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::shared::{Shared, runtime};
use crate::world::plan::Outcome;
use crate::world::{Task, World};

/// A task that a handler has begun.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) task: Task,
    pub(crate) vmid: Option<u32>,
    pub(crate) work: Work,
}

/// What a task does.
#[derive(Debug)]
pub(crate) enum Work {
    Download(download::Download),
    Upload(upload::Upload),
    Remove(remove::Remove),
    Create(create::Create),
    Configure(configure::Configure),
    Template(template::Template),
    Clone(clone::Clone),
    Destroy(destroy::Destroy),
    Power(power::Power),
}

/// Why a worker did not reach its end.
#[derive(Debug)]
pub(crate) enum End {
    /// An error, which callers may put into a sentence of theirs.
    Failed(String),
    /// The error that a test has planned, word for word.
    Planned(String),
    /// SIGTERM.
    Interrupted,
    /// SIGKILL: nothing more is to be touched.
    Gone,
}

impl End {
    /// Puts an error into a sentence: `unable to create VM 100 - …`.
    pub(crate) fn within(self, sentence: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::Failed(text) => Self::Failed(sentence(&text)),
            Self::Interrupted => Self::Failed(sentence("received interrupt")),
            other => other,
        }
    }
}

/// What the work of one task holds.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) upid: String,
    pub(crate) node: String,
    pub(crate) pid: u32,
    stop: CancellationToken,
    plan: Option<Outcome>,
}

/// Lets a job run.
pub(crate) fn start(shared: &Arc<Shared>, job: Job) {
    let Job { task, vmid, work } = job;
    let upid = task.upid();
    let (running, plan) = {
        let mut world = shared.world.lock();
        let Some(running) = world.running.get(&upid).cloned() else { return };
        (running, world.take_plan(&task.kind, vmid, &task.node))
    };
    let worker = Worker {
        shared: Arc::clone(shared),
        upid,
        node: task.node,
        pid: task.pid,
        stop: running.stop,
        plan,
    };
    let (kill, over) = (running.kill, shared.stop.clone());
    shared.tasks.spawn_on(
        async move {
            tokio::select! {
                biased;
                () = kill.cancelled() => {}
                () = over.cancelled() => {}
                () = worker.carry_out(work) => {}
            }
        },
        runtime(),
    );
}

impl Worker {
    async fn carry_out(&self, work: Work) {
        let began = Instant::now();
        let mut end = match work {
            Work::Download(work) => work.run(self).await,
            Work::Upload(work) => work.run(self).await,
            Work::Remove(work) => work.run(self).await,
            Work::Create(work) => work.run(self).await,
            Work::Configure(work) => work.run(self).await,
            Work::Template(work) => work.run(self).await,
            Work::Clone(work) => work.run(self).await,
            Work::Destroy(work) => work.run(self).await,
            Work::Power(work) => work.run(self).await,
        };
        let rest = self.shared.config.task_time.saturating_sub(began.elapsed());
        if end.is_ok() {
            end = self.sleep(rest).await.or(Ok(()));
        }
        self.finish(end);
    }

    fn finish(&self, end: Result<(), End>) {
        let (exit, line) = match (end, &self.plan) {
            (Err(End::Gone), _) => return,
            (Ok(()), Some(Outcome::Warn(n))) => {
                (format!("WARNINGS: {n}"), format!("TASK WARNINGS: {n}"))
            }
            (Ok(()), _) => ("OK".to_owned(), "TASK OK".to_owned()),
            (Err(End::Failed(text) | End::Planned(text)), _) => {
                let line = format!("TASK ERROR: {text}");
                (text, line)
            }
            (Err(End::Interrupted), _) => {
                let text = "received interrupt".to_owned();
                (text.clone(), format!("TASK ERROR: {text}"))
            }
        };
        self.log(&line);
        let (at, now) = (self.shared.clock.unix(), self.shared.clock.now());
        self.shared.world.lock().end_task(&self.upid, &exit, at, now, Duration::ZERO);
    }

    /// The world, as long as nobody has killed this worker.
    pub(crate) fn world(&self) -> Result<MutexGuard<'_, World>, End> {
        let world = self.shared.world.lock();
        if world.running.contains_key(&self.upid) { Ok(world) } else { Err(End::Gone) }
    }

    /// Waits; SIGTERM ends it.
    pub(crate) async fn sleep(&self, time: Duration) -> Result<(), End> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(End::Interrupted),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    /// Waits for something; SIGTERM ends it.
    pub(crate) async fn until<T>(&self, future: impl Future<Output = T>) -> Result<T, End> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(End::Interrupted),
            done = future => Ok(done),
        }
    }

    /// Half-way through the work: what a test has planned happens here.
    pub(crate) async fn half_way(&self) -> Result<(), End> {
        match &self.plan {
            None | Some(Outcome::Warn(_)) => self.sleep(self.shared.config.task_time / 2).await,
            Some(Outcome::Fail(text)) => Err(End::Planned(text.clone())),
            Some(Outcome::Hang) => {
                self.stop.cancelled().await;
                Err(End::Interrupted)
            }
            Some(Outcome::Kill { leave_child_ms }) => {
                let lasting = Duration::from_millis(*leave_child_ms);
                let (at, now) = (self.shared.clock.unix(), self.shared.clock.now());
                self.shared.world.lock().kill_task(&self.upid, at, now, lasting);
                Err(End::Gone)
            }
        }
    }

    pub(crate) fn log(&self, line: &str) {
        if let Some(task) = self.shared.world.lock().task_mut(&self.upid) {
            task.log.push(line.to_owned());
        }
    }

    /// Makes the last line longer.
    pub(crate) fn grow(&self, more: &str) {
        if let Some(task) = self.shared.world.lock().task_mut(&self.upid)
            && let Some(last) = task.log.last_mut()
        {
            last.push_str(more);
        }
    }

    /// Takes a guest's lock file, or fails as PVE does when somebody else keeps it.
    pub(crate) async fn lock_guest(
        &self,
        vmid: u32,
        patience: Duration,
        shared: bool,
    ) -> Result<(), End> {
        let end = Instant::now() + patience;
        let mut waited = false;
        loop {
            if self.world()?.lock_guest(vmid, &self.upid, shared) {
                if waited {
                    self.log(" OK");
                }
                return Ok(());
            }
            if !waited {
                self.log("trying to acquire lock...");
                waited = true;
            }
            if Instant::now() >= end {
                return Err(End::Failed(lock_timeout(vmid)));
            }
            self.sleep(Duration::from_millis(10)).await?;
        }
    }

    /// Whether `/etc/pve` can be written now.
    pub(crate) fn writable(&self, world: &World, vmid: u32) -> Result<(), End> {
        world.writable(&self.node, vmid, self.pid, self.shared.clock.now()).map_err(End::Failed)
    }
}

/// What PVE says when a guest's lock file cannot be had.
pub(crate) fn lock_timeout(vmid: u32) -> String {
    format!("can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout")
}
