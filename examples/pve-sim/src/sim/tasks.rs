//! What a test does to tasks: lets the next one fail, hang or die, and kills those that run.

use std::time::Duration;

use super::Sim;
use crate::world::Task;
use crate::world::plan::{Outcome, Plan};

/// Failures of workers, by the kinds of PVE: `download`, `imgcopy`, `imgdel`, `qmcreate`,
/// `qmconfig`, `qmtemplate`, `qmclone`, `qmdestroy`, `qmstart`, `qmstop`.
impl Sim {
    /// The next task of this kind ends with this error half-way, and cleans up after itself.
    pub fn fail_next_task(&self, kind: &str, error: &str) {
        self.plan(kind, None, None, Outcome::Fail(error.to_owned()));
    }

    /// The next task of this kind stands still half-way until it is stopped or killed.
    pub fn hang_next_task(&self, kind: &str) {
        self.plan(kind, None, None, Outcome::Hang);
    }

    /// The next task of this kind does its work and ends with `WARNINGS: n`.
    pub fn warn_next_task(&self, kind: &str, warnings: u32) {
        self.plan(kind, None, None, Outcome::Warn(warnings));
    }

    /// The worker of the next task of this kind dies half-way by SIGKILL: nothing is cleaned, and
    /// a copying child goes on for so long.
    pub fn kill_next_task(&self, kind: &str, leave_child: Duration) {
        let leave_child_ms = u64::try_from(leave_child.as_millis()).unwrap_or(u64::MAX);
        self.plan(kind, None, None, Outcome::Kill { leave_child_ms });
    }

    /// Plans what happens to the next task of a kind, for a guest, on a node; `None` is any.
    /// For a clone the guest is the one that is cloned.
    pub fn plan(&self, kind: &str, vmid: Option<u32>, node: Option<&str>, outcome: Outcome) {
        let (kind, node) = (kind.to_owned(), node.map(str::to_owned));
        self.edit(|world| world.plans.push(Plan { kind, vmid, node, outcome }));
    }

    /// Plans that no task has met yet.
    pub fn plans_left(&self) -> usize {
        self.look(|world| world.plans.len())
    }

    /// Takes back every plan.
    pub fn clear_plans(&self) {
        self.edit(|world| world.plans.clear());
    }

    /// SIGKILL for the worker of a task that runs; returns whether it ran. Its status is
    /// `unexpected status` from now on, nothing is cleaned, and a child that copies goes on for
    /// so long.
    pub fn kill_task(&self, upid: &str, leave_child: Duration) -> bool {
        let (at, now) = (self.shared.clock.unix(), self.shared.clock.now());
        self.edit(|world| {
            let runs = world.running.contains_key(upid);
            world.kill_task(upid, at, now, leave_child);
            runs
        })
    }

    /// The same for all running tasks of a kind, of one guest or of any; returns their UPIDs.
    pub fn kill_tasks(&self, kind: &str, vmid: Option<u32>, leave_child: Duration) -> Vec<String> {
        let found: Vec<String> = self.look(|world| {
            let runs = world.running.iter().filter(|(_, running)| {
                running.kind == kind && (vmid.is_none() || running.vmid == vmid)
            });
            runs.map(|(upid, _)| upid.clone()).collect()
        });
        found.into_iter().filter(|upid| self.kill_task(upid, leave_child)).collect()
    }

    /// UPIDs of the tasks that run.
    pub fn running_tasks(&self) -> Vec<String> {
        self.look(|world| world.running.keys().cloned().collect())
    }

    /// All tasks, oldest first.
    pub fn tasks(&self) -> Vec<Task> {
        self.look(|world| world.tasks.clone())
    }

    /// A node loses its power: its workers die and their children with them.
    pub(super) fn kill_tasks_of(&self, node: &str) {
        let (at, now) = (self.shared.clock.unix(), self.shared.clock.now());
        self.edit(|world| {
            let here = world.running.iter().filter(|(_, running)| running.node == node);
            let upids: Vec<String> = here.map(|(upid, _)| upid.clone()).collect();
            for upid in upids {
                world.kill_task(&upid, at, now, Duration::ZERO);
            }
        });
    }
}
