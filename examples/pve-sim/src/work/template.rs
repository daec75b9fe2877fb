//! `qmtemplate`: a machine becomes a template, then its disks become bases, one by one.

use super::configure::missing;
use super::{End, Worker};
use crate::world::drive::{Drive, is_drive};
use crate::world::plain;

/// A machine to turn into a template.
#[derive(Debug)]
pub(crate) struct Template {
    pub(crate) vmid: u32,
    /// Only this disk.
    pub(crate) disk: Option<String>,
}

impl Template {
    pub(crate) async fn run(self, worker: &Worker) -> Result<(), End> {
        let vmid = self.vmid;
        worker.lock_guest(vmid, worker.shared.config.lock_wait, false).await?;
        {
            let mut world = worker.world()?;
            worker.writable(&world, vmid)?;
            let guest = world.guests.get_mut(&vmid);
            guest.ok_or_else(|| End::Failed(missing(&worker.node, vmid)))?.template = true;
        }
        worker.half_way().await?;
        let mut world = worker.world()?;
        let Some(guest) = world.guests.get(&vmid) else { return Err(End::Gone) };
        let drives: Vec<(String, Drive)> = guest
            .config
            .iter()
            .filter(|(key, _)| is_drive(key))
            .filter(|(key, _)| self.disk.as_ref().is_none_or(|disk| disk == *key))
            .map(|(key, value)| (key.clone(), Drive::parse(&plain(value))))
            .filter(|(_, drive)| !drive.is_cdrom())
            .collect();
        for (key, drive) in drives {
            let base = world.make_base(&drive.file, &worker.node);
            if let Some(guest) = world.guests.get_mut(&vmid) {
                guest.set_key(&key, &drive.on(&base).to_string());
            }
        }
        Ok(())
    }
}
