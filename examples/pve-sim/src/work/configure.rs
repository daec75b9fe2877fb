//! `qmconfig`: keys and disks of a machine that is there.

use std::collections::BTreeMap;

use super::copy::{Source, Target, allocate, cloudinit, copy};
use super::{End, Worker};
use crate::world::drive::{Drive, is_drive, size_text};
use crate::world::{Guest, World};

/// Drives to make, by key.
pub(crate) type Drives = BTreeMap<String, NewDrive>;

type Keys = BTreeMap<String, String>;

/// Where a drive comes from.
#[derive(Clone, Debug)]
pub(crate) enum NewDrive {
    /// An image that is copied.
    Import {
        drive: Drive,
        /// `local2:import/a.qcow2`.
        from: String,
        storage: String,
        format: Option<String>,
    },
    /// The disk with settings for cloud-init.
    Cloudinit { drive: Drive, storage: String },
    /// Space without content.
    Empty { drive: Drive, storage: String, size: u64, format: String },
}

/// A change of a configuration.
#[derive(Debug)]
pub(crate) struct Configure {
    pub(crate) vmid: u32,
    /// What was asked, as the log repeats it.
    pub(crate) asked: BTreeMap<String, String>,
    pub(crate) keys: BTreeMap<String, String>,
    pub(crate) drives: Drives,
    pub(crate) delete: Vec<String>,
}

impl Configure {
    pub(crate) async fn run(self, worker: &Worker) -> Result<(), End> {
        let vmid = self.vmid;
        worker.lock_guest(vmid, worker.shared.config.lock_wait, false).await?;
        let asked: Vec<String> =
            self.asked.iter().map(|(key, value)| format!("-{key} {value}")).collect();
        worker.log(&format!("update VM {vmid}: {}", asked.join(" ")));
        are_there(worker, &self.keys)?;
        let (early, late) = self.in_turn(worker)?;
        if !self.drives.is_empty() && !early.is_empty() {
            let mut world = worker.world()?;
            // Where nothing can be written this is the end, before anything was copied.
            worker.writable(&world, vmid)?;
            guest_in(&mut world, worker, vmid)?.apply(&early, &[]);
        }
        let mut made: BTreeMap<String, String> = BTreeMap::new();
        for (key, drive) in self.drives {
            let value = match make_drive(worker, vmid, drive).await {
                Ok(value) => value,
                Err(end) => {
                    let mut world = worker.world()?;
                    for value in made.values() {
                        world.free_volume(&Drive::parse(value).file, &worker.node);
                    }
                    return Err(end);
                }
            };
            worker.log(&format!("{key}: successfully created disk '{value}'"));
            made.insert(key, value);
        }
        if made.is_empty() {
            worker.half_way().await?;
        }
        let mut world = worker.world()?;
        worker.writable(&world, vmid)?;
        let guest = guest_in(&mut world, worker, vmid)?;
        let mut keys = early;
        keys.extend(late);
        keys.extend(made);
        guest.apply(&keys, &self.delete);
        Ok(())
    }

    /// PVE takes parameters in the order of a hash: some are written before the disks are
    /// copied, some after.
    fn in_turn(&self, worker: &Worker) -> Result<(Keys, Keys), End> {
        let mut world = worker.world()?;
        world.serial += 1;
        let coin = world.serial;
        let early = |key: &str| (coin ^ key.len() as u64).is_multiple_of(2);
        Ok(self.keys.clone().into_iter().partition(|(key, _)| early(key)))
    }
}

fn guest_in<'a>(world: &'a mut World, worker: &Worker, vmid: u32) -> Result<&'a mut Guest, End> {
    let guest = world.guests.get_mut(&vmid).filter(|guest| guest.node == worker.node);
    guest.ok_or_else(|| End::Failed(missing(&worker.node, vmid)))
}

/// What PVE says of a machine that is not there.
pub(crate) fn missing(node: &str, vmid: u32) -> String {
    format!("Configuration file 'nodes/{node}/qemu-server/{vmid}.conf' does not exist")
}

/// Makes one drive; returns its value in the configuration.
pub(crate) async fn make_drive(worker: &Worker, vmid: u32, new: NewDrive) -> Result<String, End> {
    match new {
        NewDrive::Import { drive, from, storage, format } => {
            let source = source(worker, &from)?;
            let format = format.unwrap_or_else(|| default_format(worker, &storage, &source.format));
            let target = Target { storage, vmid, format };
            let copied = copy(worker, &source, &target, "").await;
            let volid = copied.map_err(|end| {
                end.within(|text| format!("cannot import from '{from}' - {text}"))
            })?;
            Ok(drive.on(&volid).with("size", &size_text(source.size)).to_string())
        }
        NewDrive::Cloudinit { drive, storage } => {
            let volid = cloudinit(worker, &storage, vmid)?;
            Ok(drive.on(&volid).with("media", "cdrom").to_string())
        }
        NewDrive::Empty { drive, storage, size, format } => {
            let target = Target { storage, vmid, format };
            let (volid, _) = allocate(worker, &target, size)?;
            if let Err(end) = worker.half_way().await {
                worker.world()?.free_volume(&volid, &worker.node);
                return Err(end);
            }
            Ok(drive.on(&volid).with("size", &size_text(size)).to_string())
        }
    }
}

/// Whether the drives among these keys name what is there.
pub(crate) fn are_there(worker: &Worker, keys: &Keys) -> Result<(), End> {
    let world = worker.world()?;
    for value in keys.iter().filter(|(key, _)| is_drive(key)).map(|(_, value)| value) {
        let drive = Drive::parse(value);
        let Some((storage, name)) = drive.file.split_once(':') else { continue };
        let there = match name.split_once('/') {
            Some((content @ ("iso" | "import" | "vztmpl"), file)) => {
                world.file(storage, &worker.node, content, file).is_some()
            }
            _ => world.volume(&drive.file, &worker.node).is_some(),
        };
        if !there {
            return Err(End::Failed(format!("volume '{}' does not exist", drive.file)));
        }
    }
    Ok(())
}

/// Finds what is to be imported.
fn source(worker: &Worker, from: &str) -> Result<Source, End> {
    let world = worker.world()?;
    let node = &worker.node;
    let (storage, rest) = from.split_once(':').unwrap_or((from, ""));
    let Some(found) = world.storage(storage) else {
        return Err(End::Failed(format!("storage '{storage}' does not exist")));
    };
    if let Some(name) = rest.strip_prefix("import/") {
        let path = found.file_path("import", name);
        let file = world.file(storage, node, "import", name);
        let file = file.ok_or_else(|| End::Failed(format!("failed to stat '{path}'")))?;
        return Ok(Source {
            volid: from.to_owned(),
            path,
            format: file.format().to_owned(),
            size: file.virtual_size(),
            used: file.size,
        });
    }
    let volume = world.volume(from, node);
    let volume = volume.ok_or_else(|| End::Failed(format!("volume '{from}' does not exist")))?;
    Ok(Source {
        volid: from.to_owned(),
        path: found.volume_path(volume.vmid, &volume.name),
        format: volume.format.clone(),
        size: volume.size,
        used: volume.used,
    })
}

/// Block devices are raw; folders keep the format of the image if they can.
pub(crate) fn default_format(worker: &Worker, storage: &str, of: &str) -> String {
    let files = worker
        .world()
        .is_ok_and(|world| world.storage(storage).is_some_and(crate::world::Storage::has_files));
    if files && matches!(of, "qcow2" | "vmdk") { of.to_owned() } else { "raw".to_owned() }
}
