//! `qmcreate`: a machine out of nothing, or with imported disks.

use std::collections::BTreeMap;

use super::configure::{Drives, are_there, make_drive};
use super::{End, Worker};

/// A machine to make; its number is reserved already.
#[derive(Debug)]
pub(crate) struct Create {
    pub(crate) vmid: u32,
    pub(crate) pool: Option<String>,
    /// Keys without drives to make.
    pub(crate) keys: BTreeMap<String, String>,
    pub(crate) drives: Drives,
    /// A privilege that the caller turns out not to have when it is too late.
    pub(crate) forbidden: Option<String>,
    pub(crate) start: bool,
}

impl Create {
    pub(crate) async fn run(self, worker: &Worker) -> Result<(), End> {
        let vmid = self.vmid;
        let done = self.make(worker).await;
        let Err(end) = done else { return Ok(()) };
        let end = end.within(|text| format!("unable to create VM {vmid} - {text}"));
        if let Ok(mut world) = worker.world() {
            world.volumes.retain(|volume| volume.vmid != vmid);
            if worker.writable(&world, vmid).is_ok() {
                world.drop_guest(vmid);
            } else {
                drop(world);
                worker.log("failed to remove config file: Permission denied");
            }
        }
        Err(end)
    }

    async fn make(self, worker: &Worker) -> Result<(), End> {
        let vmid = self.vmid;
        worker.lock_guest(vmid, worker.shared.config.lock_wait, false).await?;
        are_there(worker, &self.keys)?;
        let mut made = Vec::new();
        for (key, drive) in self.drives {
            let value = make_drive(worker, vmid, drive).await?;
            worker.log(&format!("{key}: successfully created disk '{value}'"));
            made.push((key, value));
        }
        if made.is_empty() {
            worker.half_way().await?;
        }
        if let Some(text) = self.forbidden {
            return Err(End::Failed(format!("403 {text}")));
        }
        let mut world = worker.world()?;
        worker.writable(&world, vmid)?;
        let settle = worker.shared.clock.now() + worker.shared.config.settle;
        let ctime = worker.shared.clock.unix();
        let Some(guest) = world.guests.get_mut(&vmid) else { return Err(End::Gone) };
        for (key, value) in self.keys.into_iter().chain(made) {
            guest.set_key(&key, &value);
        }
        guest.set_key("meta", &format!("creation-qemu=10.0.2,ctime={ctime}"));
        guest.set_key("smbios1", "uuid=00000000-0000-4000-8000-000000000000");
        guest.set_key("vmgenid", "00000000-0000-4000-8000-000000000000");
        if !guest.config.contains_key("boot") {
            guest.choose_boot();
        }
        guest.lock = None;
        guest.follow_config();
        guest.whole_at = settle;
        guest.pool = self.pool;
        if self.start {
            guest.status = crate::world::Status::Running;
        }
        Ok(())
    }
}
