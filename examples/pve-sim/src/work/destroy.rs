//! `qmdestroy`: disks first, then the configuration.

use super::configure::missing;
use super::{End, Worker};
use crate::world::World;
use crate::world::drive::{Drive, is_drive, is_unused};
use crate::world::plain;

/// A machine to destroy.
#[derive(Debug)]
pub(crate) struct Destroy {
    pub(crate) vmid: u32,
    pub(crate) purge: bool,
    /// Also volumes in its name that its configuration does not know.
    pub(crate) unreferenced: bool,
    pub(crate) skip_lock: bool,
}

impl Destroy {
    pub(crate) async fn run(self, worker: &Worker) -> Result<(), End> {
        let vmid = self.vmid;
        worker.lock_guest(vmid, worker.shared.config.lock_wait, false).await?;
        worker.half_way().await?;
        let now = worker.shared.clock.now();
        let mut log = Vec::new();
        let done = {
            let mut world = worker.world()?;
            self.destroy(worker, &mut world, now, &mut log)
        };
        for line in log {
            worker.log(&line);
        }
        done
    }

    fn destroy(
        &self,
        worker: &Worker,
        world: &mut World,
        now: std::time::Duration,
        log: &mut Vec<String>,
    ) -> Result<(), End> {
        let (vmid, node) = (self.vmid, worker.node.as_str());
        let Some(guest) = world.guests.get(&vmid).filter(|guest| guest.node == node) else {
            return Err(End::Failed(missing(node, vmid)));
        };
        if let (Some(lock), false) = (&guest.lock, self.skip_lock) {
            return Err(End::Failed(format!("VM is locked ({lock})")));
        }
        let named: Vec<String> = guest
            .config
            .iter()
            .filter(|(key, _)| is_drive(key) || is_unused(key))
            .map(|(_, value)| Drive::parse(&plain(value)))
            .filter(|drive| !drive.is_cdrom() || drive.file.contains("cloudinit"))
            .map(|drive| drive.file)
            .collect();
        if let Some(base) = named.iter().find(|volid| world.is_in_use(volid, node)) {
            let text = format!("base volume '{base}' is still in use by linked cloned");
            return Err(End::Failed(text));
        }
        if self.unreferenced {
            let written = world.volumes.iter().find(|volume| {
                volume.vmid == vmid && volume.is_written(now) && seen(volume.node.as_deref(), node)
            });
            if let Some(volume) = written {
                let storage = world.storage(&volume.storage);
                let path = storage.map_or(String::new(), |s| s.volume_path(vmid, &volume.name));
                log.push(format!(
                    "command '/usr/bin/qemu-img info '--output=json' {path} -f {}' failed: exit \
                     code 1",
                    volume.format
                ));
                return Err(End::Failed(write_lock(&path, ' ')));
            }
        }
        for volid in &named {
            let Some((storage, name)) = volid.split_once(':') else { continue };
            let name = name.rsplit('/').next().unwrap_or_default().to_owned();
            // What another machine's name is on is not this one's to destroy.
            if world.volume(volid, node).is_some_and(|volume| volume.vmid != vmid) {
                continue;
            }
            if !world.free_volume(volid, node)
                && let Some(storage) = world.storage(storage).filter(|s| s.has_files())
            {
                let path = storage.volume_path(vmid, &name);
                log.push(format!("disk image '{path}' does not exist"));
            }
        }
        if self.unreferenced {
            world
                .volumes
                .retain(|volume| volume.vmid != vmid || !seen(volume.node.as_deref(), node));
        }
        worker.writable(world, vmid)?;
        world.guests.remove(&vmid);
        if self.purge {
            log.push(format!("purging VM {vmid} from related configurations.."));
        }
        Ok(())
    }
}

fn seen(home: Option<&str>, node: &str) -> bool {
    crate::world::file::is_seen_from(home, node)
}

/// What qemu-img says of an image that somebody writes to; two lines, or one in a status.
pub(crate) fn write_lock(path: &str, between: char) -> String {
    format!(
        "qemu-img: Could not open '{path}': Failed to get shared \"write\" \
         lock{between}Is another process using the image [{path}]?"
    )
}
