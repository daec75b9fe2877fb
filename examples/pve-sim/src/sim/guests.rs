//! Guests come, change and go.

use std::time::Duration;

use super::{Sim, no_guest, node_in};
use crate::world::{Agent, Guest, Kind, Status, Task, World};

impl Sim {
    /// Adds a guest, replacing one of the same number; its row is bare for
    /// [`Config::settle`](crate::Config::settle).
    pub fn add_guest(&self, mut guest: Guest) {
        let now = self.shared.clock.now();
        self.edit(|world| {
            node_in(world, &guest.node);
            guest.whole_at = now + self.shared.config.settle;
            guest.started_at = now;
            if let Some(old) = world.guests.get(&guest.vmid) {
                guest.incarnation = old.incarnation + 1;
            }
            world.put_guest(guest);
        });
    }

    /// Destroys a guest with its disks, as an administrator does by hand.
    pub fn remove_guest(&self, vmid: u32) {
        self.edit(|world| world.drop_guest(vmid)).unwrap_or_else(|| no_guest(vmid));
    }

    /// Changes one guest.
    pub fn change_guest(&self, vmid: u32, change: impl FnOnce(&mut Guest)) {
        self.edit(|world| change(world.guests.get_mut(&vmid).unwrap_or_else(|| no_guest(vmid))));
    }

    /// Gives a guest another name.
    pub fn rename(&self, vmid: u32, name: &str) {
        self.change_guest(vmid, |guest| name.clone_into(&mut guest.name));
    }

    /// Moves a guest to another node at once; it keeps its number and goes on running.
    pub fn migrate_guest(&self, vmid: u32, node: &str) {
        self.edit(|world| {
            node_in(world, node);
            let guest = world.guests.get_mut(&vmid).unwrap_or_else(|| no_guest(vmid));
            node.clone_into(&mut guest.node);
            for volume in world.volumes.iter_mut().filter(|volume| volume.vmid == vmid) {
                volume.node = volume.node.as_ref().map(|_| node.to_owned());
            }
        });
    }

    /// Starts, stops or pauses a guest.
    pub fn set_status(&self, vmid: u32, status: Status) {
        let now = self.shared.clock.now();
        self.change_guest(vmid, |guest| {
            if guest.status == Status::Stopped && status != Status::Stopped {
                guest.started_at = now;
                guest.uptime_before = Duration::ZERO;
            }
            guest.status = status;
        });
    }

    /// Locks or unlocks a guest's configuration.
    pub fn set_lock(&self, vmid: u32, lock: Option<&str>) {
        self.change_guest(vmid, |guest| guest.lock = lock.map(str::to_owned));
    }

    /// Sets a guest's tags.
    pub fn set_tags(&self, vmid: u32, tags: &[&str]) {
        self.change_guest(vmid, |guest| {
            guest.tags = tags.iter().map(|&tag| tag.to_owned()).collect();
        });
    }

    /// Gives a guest's card these addresses (`10.0.0.5/24`).
    pub fn set_ips(&self, vmid: u32, addresses: &[&str]) {
        self.change_guest(vmid, |guest| guest.set_ips(addresses));
    }

    /// Sets how a guest's agent behaves.
    pub fn set_agent(&self, vmid: u32, agent: Agent) {
        self.change_guest(vmid, |guest| guest.agent = agent);
    }

    /// The next free number, as `/cluster/nextid` tells it.
    pub fn free_vmid(&self) -> u32 {
        self.look(World::free_vmid).expect("a simulated cluster has free numbers")
    }

    /// Adds a task to the log of its node.
    pub fn add_task(&self, task: Task) {
        self.edit(|world| world.tasks.push(task));
    }

    /// A new guest of this kind on a node, under the next free number.
    pub fn create_guest(&self, kind: Kind, node: &str) -> u32 {
        let vmid = self.free_vmid();
        self.add_guest(match kind {
            Kind::Qemu => Guest::qemu(vmid, node),
            Kind::Lxc => Guest::lxc(vmid, node),
        });
        vmid
    }
}
