//! `qmstart`, `qmstop`, `qmshutdown`.

use std::time::Duration;

use super::configure::missing;
use super::{End, Worker};
use crate::world::Status;

/// A machine to start or stop.
#[derive(Debug)]
pub(crate) struct Power {
    pub(crate) vmid: u32,
    pub(crate) on: bool,
}

impl Power {
    pub(crate) async fn run(self, worker: &Worker) -> Result<(), End> {
        let vmid = self.vmid;
        worker.lock_guest(vmid, worker.shared.config.lock_wait, false).await?;
        worker.half_way().await?;
        let now = worker.shared.clock.now();
        let mut world = worker.world()?;
        let found = world.guests.get_mut(&vmid).filter(|guest| guest.node == worker.node);
        let guest = found.ok_or_else(|| {
            End::Failed(if self.on {
                missing(&worker.node, vmid)
            } else {
                format!("unable to find configuration file for VM {vmid} on node '{}'", worker.node)
            })
        })?;
        if let Some(lock) = &guest.lock {
            return Err(End::Failed(format!("VM is locked ({lock})")));
        }
        if !self.on {
            guest.status = Status::Stopped;
            return Ok(());
        }
        if guest.template {
            return Err(End::Failed("you can't start a vm if it's a template".to_owned()));
        }
        if guest.status != Status::Stopped {
            return Err(End::Failed(format!("VM {vmid} already running")));
        }
        guest.status = Status::Running;
        (guest.started_at, guest.uptime_before) = (now, Duration::ZERO);
        Ok(())
    }
}
