//! Guests made from templates: the same passes as for templates, with fewer steps.
//!
//! The guest is made on the node that was asked for: of the instance there, or of the shared one by
//! its owner with `target=`. Description and tags of the template would be inherited, so the clone
//! gets a marker of its own and no tags.

use std::sync::Arc;

use informer::{Action, Context, Reconciler};
use schema::{
    CloneId, guest,
    instance::{self, InstanceRow, InstanceStatus},
    reservation, template,
    template_clone::{self, CloneProgress, CloneRow, CloneStatus},
    upload,
};

use super::{
    clusters::Cluster,
    look::may_be_missing,
    names::{Marker, guest_name},
    pass::{PassError, refusal_of, since},
    plan::Node,
    preflight,
    reconciler::{Shared, left_to_others},
};
use crate::pve::{
    Effect, GuestClone, GuestConfig, NodeName, Outcome, PveError, Refusal, StorageName, TaskFilter,
    TaskState, Upid, Vmid, classify_task, error_text,
};

/// Makes guests from templates.
#[derive(Clone, Debug)]
pub(super) struct Clones(pub Arc<Shared>);

impl Reconciler for Clones {
    type Key = i64;
    type Error = PassError;

    async fn reconcile(&self, context: Context<i64>) -> Result<Action, PassError> {
        let shared = &self.0;
        let mut conn = shared.db.conn().await?;
        let row = template_clone::get(&mut conn, CloneId(context.key)).await?;
        let Some(row) = row.filter(|row| !row.told.status.is_final()) else {
            return Ok(Action::AwaitChange);
        };
        let Some(cluster) = shared.clusters.get(row.cluster_id) else {
            return Ok(Action::AwaitChange);
        };
        let sources = instance::of_upload(&mut conn, row.upload_id).await?;
        drop(conn);
        let told = row.told.clone();
        left_to_others(Pass { shared, cluster: &cluster, row, told }.run(&sources).await)
    }
}

struct Pass<'a> {
    shared: &'a Shared,
    cluster: &'a Cluster,
    row: CloneRow,
    told: CloneProgress,
}

/// The instance to clone from: the one on the node, or the shared one. Pure.
fn source<'a>(row: &CloneRow, instances: &'a [InstanceRow]) -> Option<&'a InstanceRow> {
    let ready = |it: &&InstanceRow| it.told.status == InstanceStatus::Available;
    let shared = || instances.iter().filter(ready).find(|it| it.is_shared.0 && it.is_primary.0);
    instances
        .iter()
        .filter(ready)
        .find(|it| !it.is_shared.0 && it.node_id == row.node_id)
        .or_else(shared)
}

impl Pass<'_> {
    async fn run(mut self, instances: &[InstanceRow]) -> Result<Action, PassError> {
        let Some(source) = source(&self.row, instances) else {
            return self.fail("the template is not available on that node".to_owned()).await;
        };
        for node in [&source.node_name, &self.row.node_name] {
            if self.cluster.node(node).await? != Node::Ready {
                return Ok(self.shared.later());
            }
        }
        if self.told.vmid == 0 {
            return self.reserve().await;
        }
        let vmid = number(self.told.vmid)?;
        if let Some(action) = self.wait_for_task(&source.node_name).await? {
            return Ok(action);
        }
        let target = NodeName::new(&self.row.node_name)?;
        match self.look(&target, vmid).await? {
            Seen::Absent if self.is_unanswered() => Ok(self.shared.later()),
            Seen::Absent => self.clone(source, vmid).await,
            Seen::Stranger => {
                self.told.vmid = 0;
                self.told.asked_at = None;
                self.write().await?;
                Ok(self.shared.soon())
            }
            Seen::Locked => Ok(self.shared.later()),
            Seen::Ours(config) => self.finish(&target, vmid, &config).await,
        }
    }

    fn is_unanswered(&self) -> bool {
        self.told.asked_at.is_some_and(|at| since(at) < self.shared.settings.patience)
    }

    async fn reserve(mut self) -> Result<Action, PassError> {
        let taken = self.cluster.guests.store().keys().into_iter().map(i64::from).collect();
        let (cluster, holder) = (self.row.cluster_id, format!("clone {}", self.row.id));
        let range = &self.shared.settings.vmids;
        let reserve = self
            .cluster
            .db
            .write(async |conn| reservation::reserve(conn, cluster, range, &taken, &holder).await);
        let Some(vmid) = reserve.await? else {
            return self.fail("no VMID is free: widen --vmid-range".to_owned()).await;
        };
        self.told.vmid = vmid;
        self.told.status = CloneStatus::Cloning;
        self.write().await?;
        Ok(self.shared.soon())
    }

    async fn wait_for_task(&mut self, source_node: &str) -> Result<Option<Action>, PassError> {
        let upid = match (&self.told.upid, self.told.asked_at) {
            (Some(upid), _) => upid.parse::<Upid>()?,
            (None, Some(_)) => match self.find_running(source_node).await? {
                Some(upid) => upid,
                None => return Ok(None),
            },
            (None, None) => return Ok(None),
        };
        match self.cluster.reader.task_state(&upid).await? {
            TaskState::Running => {
                self.told.upid = Some(upid.as_str().to_owned());
                self.write().await?;
                Ok(Some(self.shared.soon()))
            }
            TaskState::Stopped(outcome) => {
                self.told.upid = None;
                self.told.asked_at = None;
                if let Outcome::Failed(words) = outcome {
                    let log = self.cluster.reader.task_log(&upid, 0, 0).await?;
                    let lines: Vec<_> = log.lines.into_iter().map(|line| line.t).collect();
                    let refusal = classify_task(&words, &lines);
                    let words = error_text(&lines).unwrap_or(words);
                    return self.refused(&refusal, words).await.map(Some);
                }
                self.write().await?;
                Ok(None)
            }
        }
    }

    /// A clone's task is named after its source, so others' clones of it look the same; ours is
    /// taken for running for as long as any is.
    async fn find_running(&self, source_node: &str) -> Result<Option<Upid>, PveError> {
        let filter = TaskFilter {
            vmid: Some(number(self.told.source_vmid)?),
            kind: Some("qmclone".to_owned()),
            ..TaskFilter::default()
        };
        let node = NodeName::new(source_node)?;
        let rows = self.cluster.reader.tasks(&node, &filter).await?.rows;
        let mut running = rows.into_iter().filter(|row| row.state == TaskState::Running);
        Ok(running.next().map(|row| row.upid))
    }

    async fn look(&self, node: &NodeName, vmid: Vmid) -> Result<Seen, PveError> {
        match self.cluster.reader.qemu_config(node, vmid).await {
            Ok(config) if config.lock().is_some() => Ok(Seen::Locked),
            Ok(config) => {
                let marker = config.description().and_then(Marker::find);
                let ours = marker.is_some_and(|it| it.is_of_clone(&self.shared.owner, self.row.id));
                Ok(if ours { Seen::Ours(config) } else { Seen::Stranger })
            }
            Err(error) if may_be_missing(&error) => {
                let listed = self.cluster.reader.resources().await?;
                let there = listed.guests().iter().any(|it| it.vmid == vmid);
                // Elsewhere, or hidden: not ours to touch, unless a clone of ours is being made.
                Ok(match there {
                    true if self.is_unanswered() => Seen::Locked,
                    true => Seen::Stranger,
                    false => Seen::Absent,
                })
            }
            Err(error) => Err(error),
        }
    }

    async fn clone(mut self, source: &InstanceRow, vmid: Vmid) -> Result<Action, PassError> {
        let mut conn = self.shared.db.conn().await?;
        let template = template::get(&mut conn, self.row.template_id).await?;
        let upload = upload::get(&mut conn, self.row.upload_id).await?;
        drop(conn);
        let (Some(template), Some(upload)) = (template, upload) else {
            return self.fail("the template is gone".to_owned()).await;
        };
        let owner = NodeName::new(&source.node_name)?;
        let from = number(source.told.vmid)?;
        let base = self.cluster.reader.qemu_config(&owner, from).await?;
        // PVE clones a template that lost its disk, and says nothing (seen on PVE 9.2).
        let Some(disk) = base.volume("scsi0") else {
            return self
                .fail(format!("template {from} on node {owner} has no disk any more"))
                .await;
        };
        let is_full = self.row.is_full.0 || !disk.is_base();
        let marker = Marker {
            owner: self.shared.owner.clone(),
            template: template.id.0,
            version: upload.version,
            instance: 0,
            attempt: 0,
            sha512: String::new(),
            clone: Some(self.row.id.0),
        };
        let permissions = self.cluster.reader.permissions().await?;
        let mut clone = if is_full { GuestClone::full(vmid) } else { GuestClone::linked(vmid) };
        clone.name = Some(guest_name(&self.row.guest_name));
        clone.description = Some(marker.description(&template.template_name));
        clone.target = if source.node_name == self.row.node_name {
            None
        } else {
            Some(NodeName::new(&self.row.node_name)?)
        };
        let storage = self.row.storage_name.as_deref().filter(|_| is_full);
        clone.storage = storage.map(StorageName::new).transpose()?;
        clone.pool = preflight::pool(&permissions, vmid);
        self.told.source_vmid = i64::from(from.get());
        self.told.asked_at = Some(schema::now());
        self.told.upid = None;
        self.told.step = Some("clone".to_owned());
        self.write().await?;
        match self.cluster.changer.clone_guest(&owner, from, &clone).await {
            Ok(upid) => {
                self.told.upid = Some(upid.as_str().to_owned());
                self.write().await?;
                Ok(self.shared.soon())
            }
            Err(error) => match refusal_of(&error) {
                Some(refusal) if error.status().is_some_and(|status| status < 595) => {
                    self.told.asked_at = None;
                    let words = error.message().unwrap_or_default().to_owned();
                    self.refused(&refusal, words).await
                }
                _ if error.effect() == Effect::None => {
                    self.told.asked_at = None;
                    self.write().await?;
                    Err(error.into())
                }
                _ => Ok(self.shared.soon()),
            },
        }
    }

    async fn refused(&mut self, refusal: &Refusal, words: String) -> Result<Action, PassError> {
        match refusal {
            Refusal::VmidTaken => {
                self.told.vmid = 0;
                self.write().await?;
                Ok(self.shared.soon())
            }
            Refusal::NoQuorum | Refusal::ConfigPermissionDenied | Refusal::Timeout => {
                self.write().await?;
                Ok(self.shared.later())
            }
            _ => {
                let words = refusal.explained(words);
                self.end(CloneStatus::Failed, Some(words)).await
            }
        }
    }

    /// The guest is there: sets what was asked for, starts it, and says so.
    async fn finish(
        mut self,
        node: &NodeName,
        vmid: Vmid,
        config: &GuestConfig,
    ) -> Result<Action, PassError> {
        self.told.upid = None;
        self.told.asked_at = None;
        let (cores, memory) = (text(self.row.cores), text(self.row.memory_mb));
        let wanted = [("cores", cores.as_deref()), ("memory", memory.as_deref())];
        let pairs: Vec<(&str, &str)> = wanted
            .into_iter()
            .filter_map(|(option, value)| Some((option, value?)))
            .filter(|(option, value)| config.get(option) != Some(*value))
            .collect();
        let inherited = config.tags().any(|tag| tag == "pvet");
        let delete: &[&str] = if inherited { &["tags"] } else { &[] };
        if !pairs.is_empty() || inherited {
            self.cluster.still_ours().await?;
            self.cluster.changer.set_config(node, vmid, &pairs, delete).await?;
        }
        let seen = self.cluster.guests.store().get(&vmid.get());
        if self.row.is_started.0 && self.told.step.as_deref() != Some("start") {
            self.told.step = Some("start".to_owned());
            self.write().await?;
            self.cluster.changer.start_guest(node, vmid).await?;
            return Ok(self.shared.soon());
        }
        let (cluster, template) = (self.row.cluster_id, self.row.template_id);
        let known = seen.is_some()
            && self
                .cluster
                .db
                .write(async |conn| {
                    guest::set_template(conn, cluster, i64::from(vmid.get()), template).await
                })
                .await?;
        if !known {
            self.write().await?;
            return Ok(self.shared.later());
        }
        self.end(CloneStatus::Completed, None).await
    }

    async fn fail(mut self, words: String) -> Result<Action, PassError> {
        self.end(CloneStatus::Failed, Some(words)).await
    }

    async fn end(
        &mut self,
        status: CloneStatus,
        words: Option<String>,
    ) -> Result<Action, PassError> {
        self.told.status = status;
        self.told.step = None;
        self.told.upid = None;
        self.told.asked_at = None;
        self.told.error_message = words;
        self.write().await?;
        let (cluster, holder) = (self.row.cluster_id, format!("clone {}", self.row.id));
        self.shared
            .db
            .write(async |conn| reservation::release(conn, cluster, &holder, None).await)
            .await?;
        Ok(Action::AwaitChange)
    }

    async fn write(&mut self) -> Result<(), PassError> {
        if self.row.told != self.told {
            let (id, told) = (self.row.id, &self.told);
            self.cluster
                .db
                .write(async |conn| template_clone::record(conn, id, told).await)
                .await?;
            self.row.told.clone_from(&self.told);
        }
        Ok(())
    }
}

/// What has the VMID.
enum Seen {
    Absent,
    Stranger,
    /// Being made.
    Locked,
    Ours(GuestConfig),
}

fn number(vmid: i64) -> Result<Vmid, PveError> {
    Vmid::new(u32::try_from(vmid).unwrap_or(0))
}

fn text(number: Option<i32>) -> Option<String> {
    number.map(|number| number.to_string())
}
