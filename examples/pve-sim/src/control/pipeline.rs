//! Commands about tasks and storages.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::sim::Sim;
use crate::world::Storage;
use crate::world::plan::Outcome;

/// A failure to come, or a storage that changes: see [`COMMANDS`](crate::COMMANDS).
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum PipelineCommand {
    /// The next such task ends with `error`, or with so many warnings.
    FailTask {
        kind: String,
        vmid: Option<u32>,
        node: Option<String>,
        error: Option<String>,
        warnings: Option<u32>,
    },
    /// The next such task stands still.
    HangTask { kind: String, vmid: Option<u32>, node: Option<String> },
    /// A running task dies: one by name, or all of a kind; with `next` the next one of the kind.
    KillTask {
        upid: Option<String>,
        kind: Option<String>,
        vmid: Option<u32>,
        node: Option<String>,
        #[serde(default)]
        leave_child_ms: u64,
        #[serde(default)]
        next: bool,
    },
    /// Nothing planned any more.
    ClearPlans,
    /// A storage more, or another one of that name.
    AddStorage {
        storage: String,
        #[serde(rename = "type")]
        plugin: String,
        #[serde(default)]
        shared: bool,
        content: Vec<String>,
        #[serde(default)]
        nodes: Vec<String>,
        total: Option<u64>,
    },
    /// A storage changes; what is left out stays.
    SetStorage {
        storage: String,
        content: Option<Vec<String>>,
        enabled: Option<bool>,
        nodes: Option<Vec<String>>,
        total: Option<u64>,
    },
    /// So many bytes are free on a storage of a node.
    SetFree { node: String, storage: String, bytes: u64 },
    /// The range of `/cluster/nextid`, its upper end not included.
    NextId { lower: u32, upper: u32 },
}

const NAMES: [&str; 8] = [
    "fail_task",
    "hang_task",
    "kill_task",
    "clear_plans",
    "add_storage",
    "set_storage",
    "set_free",
    "next_id",
];

impl PipelineCommand {
    /// Whether a command is one of these.
    pub(super) fn is_meant(command: &Value) -> bool {
        command["do"].as_str().is_some_and(|name| NAMES.contains(&name))
    }
}

impl Sim {
    /// Carries out a command about tasks or storages.
    ///
    /// # Errors
    ///
    /// A sentence, and nothing done, if it names a storage or node that there is not, or no task.
    pub fn run_pipeline(&self, command: PipelineCommand) -> Result<Value, String> {
        match command {
            PipelineCommand::FailTask { kind, vmid, node, error, warnings } => {
                let outcome = match (error, warnings) {
                    (Some(error), None) => Outcome::Fail(error),
                    (None, Some(warnings)) => Outcome::Warn(warnings),
                    _ => return Err("fail_task wants either error or warnings".to_owned()),
                };
                self.plan(&kind, vmid, node.as_deref(), outcome);
            }
            PipelineCommand::HangTask { kind, vmid, node } => {
                self.plan(&kind, vmid, node.as_deref(), Outcome::Hang);
            }
            PipelineCommand::KillTask { upid, kind, vmid, node, leave_child_ms, next } => {
                let child = Duration::from_millis(leave_child_ms);
                let killed = match (upid, kind) {
                    (Some(upid), None) if self.kill_task(&upid, child) => vec![upid],
                    (Some(upid), None) => return Err(format!("no task {upid} runs")),
                    (None, Some(kind)) if next => {
                        self.plan(&kind, vmid, node.as_deref(), Outcome::Kill { leave_child_ms });
                        Vec::new()
                    }
                    (None, Some(kind)) => self.kill_tasks(&kind, vmid, child),
                    _ => return Err("kill_task wants either upid or kind".to_owned()),
                };
                return Ok(json!({"ok": true, "killed": killed}));
            }
            PipelineCommand::ClearPlans => self.clear_plans(),
            PipelineCommand::AddStorage { storage, plugin, shared, content, nodes, total } => {
                let content: Vec<&str> = content.iter().map(String::as_str).collect();
                let mut new = Storage::new(&storage, &plugin, &content);
                (new.shared, new.nodes) = (shared, nodes);
                if let Some(total) = total {
                    (new.total, new.used) = (total, 0);
                }
                self.put_storage(new);
            }
            PipelineCommand::SetStorage { storage, content, enabled, nodes, total } => {
                self.has_storage(&storage)?;
                self.change_storage(&storage, |changed| {
                    changed.content = content.unwrap_or_else(|| changed.content.clone());
                    changed.enabled = enabled.unwrap_or(changed.enabled);
                    changed.nodes = nodes.unwrap_or_else(|| changed.nodes.clone());
                    changed.total = total.unwrap_or(changed.total);
                });
            }
            PipelineCommand::SetFree { node, storage, bytes } => {
                self.has_storage(&storage)?;
                if self.look(|world| world.node(&node).is_none()) {
                    return Err(format!("there is no node {node}"));
                }
                self.set_free_space(&node, &storage, bytes);
            }
            PipelineCommand::NextId { lower, upper } => {
                self.edit(|world| world.next_id = (lower, upper));
            }
        }
        Ok(json!({"ok": true}))
    }

    fn has_storage(&self, name: &str) -> Result<(), String> {
        let there = self.look(|world| world.storage(name).is_some());
        if there { Ok(()) } else { Err(format!("there is no storage {name}")) }
    }
}
