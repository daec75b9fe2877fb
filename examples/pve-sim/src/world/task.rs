//! Tasks: what PVE's workers have done or are doing.

use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::World;

/// One task of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Task {
    /// The node that runs it.
    pub node: String,
    /// Process id of the worker.
    pub pid: u32,
    /// Start of the process in ticks since boot.
    pub pstart: u64,
    /// When it began, seconds since 1970.
    pub start: u64,
    /// Kind of work: `qmcreate`, `qmclone`, `download`, …
    pub kind: String,
    /// What it works on: a VMID, a file name, or nothing.
    pub id: String,
    /// `user@realm` or `user@realm!tokenid`.
    pub user: String,
    /// When it ended.
    pub end: Option<u64>,
    /// How it ended: `OK`, `WARNINGS: n` or the error.
    pub exit: Option<String>,
    /// Its log, line by line.
    pub log: Vec<String>,
    /// The node has not yet written its list of tasks again since this one began or ended;
    /// shows in the type of `saved`.
    pub fresh: bool,
}

impl Task {
    /// A running task without a log.
    pub fn new(node: &str, kind: &str, id: &str, user: &str, start: u64) -> Self {
        Self {
            node: node.to_owned(),
            pid: 10_000 + u32::try_from(start % 20_000).expect("below 20,000"),
            pstart: start % 1_000_000,
            start,
            kind: kind.to_owned(),
            id: id.to_owned(),
            user: user.to_owned(),
            end: None,
            exit: None,
            log: Vec::new(),
            fresh: false,
        }
    }

    /// Ends it.
    #[must_use]
    pub fn ended(mut self, at: u64, exit: &str) -> Self {
        self.end = Some(at);
        self.exit = Some(exit.to_owned());
        self
    }

    /// Reads a UPID: `UPID:node:pid:pstart:start:type:id:user:`, numbers in hex.
    pub fn from_upid(upid: &str) -> Option<Self> {
        let mut parts = upid.strip_prefix("UPID:")?.strip_suffix(':')?.split(':');
        let mut next = || parts.next();
        let node = next().filter(|node| !node.is_empty())?;
        let pid = u32::from_str_radix(next()?, 16).ok()?;
        let pstart = u64::from_str_radix(next()?, 16).ok()?;
        let start = u64::from_str_radix(next()?, 16).ok()?;
        let (kind, id, user) = (next()?, next()?, next()?);
        if next().is_some() || kind.is_empty() || user.is_empty() {
            return None;
        }
        Some(Self { pid, pstart, ..Self::new(node, kind, id, user, start) })
    }

    /// Its name in PVE's API.
    pub fn upid(&self) -> String {
        format!(
            "UPID:{}:{:08X}:{:08X}:{:08X}:{}:{}:{}:",
            self.node, self.pid, self.pstart, self.start, self.kind, self.id, self.user
        )
    }

    /// `user@realm` and the token's name apart.
    pub(crate) fn owner(&self) -> (&str, Option<&str>) {
        match self.user.split_once('!') {
            Some((user, token)) => (user, Some(token)),
            None => (&self.user, None),
        }
    }
}

/// What can be done to a worker from outside.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) node: String,
    pub(crate) kind: String,
    pub(crate) vmid: Option<u32>,
    /// SIGTERM: the worker cleans up.
    pub(crate) stop: CancellationToken,
    /// SIGKILL: it does not.
    pub(crate) kill: CancellationToken,
    /// Volumes that its child writes to.
    pub(crate) writes: Vec<(String, String)>,
}

/// More finished tasks than this are forgotten, the oldest first.
const KEPT: usize = 20_000;

impl World {
    /// A new task on a node; its process ids are unique.
    pub(crate) fn begin_task(
        &mut self,
        node: &str,
        kind: &str,
        id: &str,
        user: &str,
        now: u64,
        vmid: Option<u32>,
    ) -> Task {
        self.serial += 1;
        let mut task = Task::new(node, kind, id, user, now);
        task.pid = 4000 + u32::try_from(self.serial % 4_000_000).expect("below four millions");
        task.pstart = self.serial + 100_000;
        task.fresh = true;
        let running = Running {
            node: node.to_owned(),
            kind: kind.to_owned(),
            vmid,
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            writes: Vec::new(),
        };
        self.running.insert(task.upid(), running);
        if self.tasks.len() > KEPT
            && let Some(old) = self.tasks.iter().position(|task| task.end.is_some())
        {
            self.tasks.remove(old);
        }
        self.tasks.push(task.clone());
        task
    }

    pub(crate) fn task_mut(&mut self, upid: &str) -> Option<&mut Task> {
        let named = Task::from_upid(upid)?;
        self.tasks.iter_mut().rev().find(|task| {
            task.pid == named.pid && task.pstart == named.pstart && task.node == named.node
        })
    }

    /// Ends a task; `lasting` is how much longer its child goes on writing.
    pub(crate) fn end_task(
        &mut self,
        upid: &str,
        exit: &str,
        at: u64,
        now: Duration,
        lasting: Duration,
    ) {
        let Some(running) = self.running.remove(upid) else { return };
        for lock in self.locks.values_mut() {
            lock.holders.retain(|holder| holder != upid);
        }
        for (volid, node) in &running.writes {
            if let Some(volume) = self.volume_mut(volid, node) {
                volume.written_until = now + lasting;
            }
        }
        if let Some(task) = self.task_mut(upid) {
            task.end = Some(at);
            task.exit = Some(exit.to_owned());
        }
    }

    /// SIGKILL for a worker: it cleans nothing, and its status is unknown for ever.
    pub(crate) fn kill_task(&mut self, upid: &str, at: u64, now: Duration, lasting: Duration) {
        if let Some(running) = self.running.get(upid) {
            running.kill.cancel();
            self.end_task(upid, "unexpected status", at, now, lasting);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_upid_reads_back_as_it_was_written() {
        let upid = "UPID:pve1:00005C7F:0003ABD0:6B01F744:download:slow.qcow2:root@pam!full:";

        let task = Task::from_upid(upid).unwrap();

        assert_eq!(task.upid(), upid);
        assert_eq!(task.owner(), ("root@pam", Some("full")));
        assert_eq!(task.pid, 23679);
        assert_eq!(Task::from_upid("garbage"), None);
    }
}
