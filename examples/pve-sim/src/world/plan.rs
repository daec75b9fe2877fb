//! What a test has planned for the next task of a kind.

use serde::{Deserialize, Serialize};

use super::World;

/// What happens to a task instead of a good end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// Half-way it ends with this error and cleans up, as PVE does after errors.
    Fail(String),
    /// It does its work and ends with `WARNINGS: n`.
    Warn(u32),
    /// Half-way it stands still until it is stopped or killed.
    Hang,
    /// Half-way its worker dies by SIGKILL: nothing is cleaned, and its status is
    /// `unexpected status`. A copying child goes on for so many milliseconds.
    Kill {
        /// How much longer the child holds the write lock on its volume.
        leave_child_ms: u64,
    },
}

/// For which task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) kind: String,
    pub(crate) vmid: Option<u32>,
    pub(crate) node: Option<String>,
    pub(crate) outcome: Outcome,
}

impl World {
    /// The oldest plan for a task that begins; it is used up.
    pub(crate) fn take_plan(
        &mut self,
        kind: &str,
        vmid: Option<u32>,
        node: &str,
    ) -> Option<Outcome> {
        let at = self.plans.iter().position(|plan| {
            plan.kind == kind
                && (plan.vmid.is_none() || plan.vmid == vmid)
                && plan.node.as_deref().is_none_or(|wanted| wanted == node)
        })?;
        Some(self.plans.remove(at).outcome)
    }
}
