//! `qmclone`: a machine made of another one.

use std::collections::BTreeMap;

use rand::Rng;
use serde_json::Value;

use super::copy::{Source, Target, cloudinit, copy};
use super::{End, Worker};
use crate::world::drive::{Drive, is_drive, is_unused, size_text};
use crate::world::volume::{Layout, Purpose, Wanted};
use crate::world::{is_card, plain};

/// A clone to make; its number is reserved already.
#[derive(Debug)]
pub(crate) struct Clone {
    pub(crate) vmid: u32,
    pub(crate) newid: u32,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) pool: Option<String>,
    pub(crate) full: bool,
    pub(crate) storage: Option<String>,
    pub(crate) format: Option<String>,
    pub(crate) target: Option<String>,
}

impl Clone {
    pub(crate) async fn run(self, worker: &Worker) -> Result<(), End> {
        let newid = self.newid;
        let mut made = Vec::new();
        let Err(end) = self.make(worker, &mut made).await else { return Ok(()) };
        let planned = matches!(end, End::Planned(_) | End::Gone);
        let Ok(mut world) = worker.world() else { return Err(end) };
        for volid in &made {
            world.free_volume(volid, &worker.node);
        }
        if worker.writable(&world, newid).is_ok() {
            world.guests.remove(&newid);
        }
        drop(world);
        let locked = matches!(&end, End::Failed(text) if text.starts_with("can't lock"));
        if planned || locked {
            return Err(end);
        }
        Err(end.within(|text| format!("clone failed: {text}")))
    }

    async fn make(&self, worker: &Worker, made: &mut Vec<String>) -> Result<(), End> {
        let patience = worker.shared.config.lock_wait / 7;
        worker.lock_guest(self.vmid, patience, true).await?;
        worker.log(&format!("creating a clone of VM {} with ID {}", self.vmid, self.newid));
        let source = {
            let world = worker.world()?;
            let found = world.guests.get(&self.vmid).cloned();
            found.ok_or_else(|| End::Failed(super::configure::missing(&worker.node, self.vmid)))?
        };
        let mut config = BTreeMap::new();
        let mut copied = false;
        for (key, value) in &source.config {
            if is_unused(key) {
                continue;
            }
            let text = plain(value);
            let drive = Drive::parse(&text);
            let value = if is_cloudinit(&drive) {
                let storage = drive.storage().unwrap_or_default().to_owned();
                let volid = cloudinit(worker, &storage, self.newid)?;
                made.push(volid.clone());
                Value::from(drive.on(&volid).to_string())
            } else if is_drive(key) && drive.storage().is_some() && !drive.is_cdrom() {
                copied = true;
                Value::from(self.drive(worker, key, drive, made).await?)
            } else if is_card(key) {
                Value::from(with_fresh_mac(&text))
            } else {
                value.clone()
            };
            config.insert(key.clone(), value);
        }
        if !copied || !self.full {
            worker.half_way().await?;
        }
        let mut world = worker.world()?;
        worker.writable(&world, self.newid)?;
        let whole_at = worker.shared.clock.now() + worker.shared.config.settle;
        let Some(guest) = world.guests.get_mut(&self.newid) else { return Err(End::Gone) };
        guest.config = config;
        if let Some(description) = &self.description {
            guest.set_key("description", description);
        }
        guest.name = self.name.clone().unwrap_or_else(|| format!("Copy-of-VM-{}", source.name));
        guest.tags = source.tags;
        guest.agent = source.agent;
        guest.lock = None;
        guest.whole_at = whole_at;
        guest.pool.clone_from(&self.pool);
        if let Some(target) = &self.target {
            guest.node.clone_from(target);
        }
        guest.follow_config();
        Ok(())
    }

    async fn drive(
        &self,
        worker: &Worker,
        key: &str,
        drive: Drive,
        made: &mut Vec<String>,
    ) -> Result<String, End> {
        if !self.full {
            let volid = self.linked(worker, key, &drive)?;
            made.push(volid.clone());
            return Ok(drive.on(&volid).to_string());
        }
        let (source, target) = {
            let world = worker.world()?;
            let volume = world.volume(&drive.file, &worker.node);
            let gone = || End::Failed(format!("volume '{}' does not exist", drive.file));
            let volume = volume.ok_or_else(gone)?;
            let storage = self.storage.clone().unwrap_or_else(|| volume.storage.clone());
            let from = world.storage(&volume.storage);
            let files = world.storage(&storage).is_some_and(crate::world::Storage::has_files);
            let usual = if files { volume.format.clone() } else { "raw".to_owned() };
            let source = Source {
                volid: drive.file.clone(),
                path: from.map_or(String::new(), |s| s.volume_path(volume.vmid, &volume.name)),
                format: volume.format.clone(),
                size: volume.size,
                used: volume.used,
            };
            let format = self.format.clone().unwrap_or(usual);
            (source, Target { storage, vmid: self.newid, format })
        };
        let volid = copy(worker, &source, &target, key).await?;
        made.push(volid.clone());
        Ok(drive.on(&volid).with("size", &size_text(source.size)).to_string())
    }

    fn linked(&self, worker: &Worker, key: &str, drive: &Drive) -> Result<String, End> {
        worker.log(&format!("create linked clone of drive {key} ({})", drive.file));
        let mut world = worker.world()?;
        let base = world.volume(&drive.file, &worker.node).cloned();
        let base =
            base.ok_or_else(|| End::Failed(format!("volume '{}' does not exist", drive.file)))?;
        let volid = world.allocate(Wanted {
            storage: &base.storage,
            node: &worker.node,
            vmid: self.newid,
            format: "qcow2",
            size: base.size,
            parent: Some(&base),
            purpose: Purpose::Disk,
            now: worker.shared.clock.unix(),
        });
        let storage = world.storage(&base.storage).cloned();
        let base_name = world.volname(&base);
        drop(world);
        let Some(storage) = storage.filter(|storage| storage.layout() == Layout::Files) else {
            return Ok(volid);
        };
        let name = volid.rsplit('/').next().unwrap_or_default();
        let parent = format!("../{}/{}", base.vmid, base.name);
        worker.log(&format!(
            "clone {base_name}: images, {name}, {} to {name} (base={parent})",
            self.newid
        ));
        worker.log(&format!(
            "Formatting '{}', fmt=qcow2 cluster_size=131072 extended_l2=on preallocation=metadata \
             compression_type=zlib size={} backing_file={parent} backing_fmt={} lazy_refcounts=off \
             refcount_bits=16",
            storage.volume_path(self.newid, name),
            base.size,
            base.format
        ));
        Ok(volid)
    }
}

/// Whether a drive is the disk with settings for cloud-init, of which each machine has its own.
fn is_cloudinit(drive: &Drive) -> bool {
    drive.is_cdrom() && drive.file.contains("-cloudinit")
}

/// A card's value with another MAC; its model and bridge stay.
pub(crate) fn with_fresh_mac(card: &str) -> String {
    let [a, b, c]: [u8; 3] = rand::rng().random();
    let mac = format!("BC:24:11:{a:02X}:{b:02X}:{c:02X}");
    let mut parts = card.split(',');
    let model = parts.next().unwrap_or_default();
    let model = model.split('=').next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    let end = if rest.is_empty() { String::new() } else { format!(",{}", rest.join(",")) };
    format!("{model}={mac}{end}")
}
