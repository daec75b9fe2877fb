//! Files and volumes: what lies where, what is left over, and how much room there is.

use super::Sim;
use crate::world::drive::{Drive, is_drive, is_unused};
use crate::world::{File, Storage, Volume, World, plain};

impl Sim {
    /// Files that a node sees, also the temporary ones that no list shows.
    pub fn files(&self, node: &str) -> Vec<File> {
        self.look(|world| {
            let seen = |file: &&File| file.node.as_deref().is_none_or(|home| home == node);
            world.files.iter().filter(seen).cloned().collect()
        })
    }

    /// All files of the cluster.
    pub fn all_files(&self) -> Vec<File> {
        self.look(|world| world.files.clone())
    }

    /// All volumes of the cluster.
    pub fn volumes(&self) -> Vec<Volume> {
        self.look(|world| world.volumes.clone())
    }

    /// Volumes in the name of one guest.
    pub fn volumes_of(&self, vmid: u32) -> Vec<Volume> {
        self.look(|world| {
            world.volumes.iter().filter(|volume| volume.vmid == vmid).cloned().collect()
        })
    }

    /// Puts a file on a storage, or in the place of one of its name.
    pub fn put_file(&self, mut file: File) {
        if file.ctime == 0 {
            file.ctime = self.shared.clock.unix();
        }
        self.edit(|world| world.put_file(file));
    }

    /// What nobody will ever clean up: temporary files, volumes without a guest or that their
    /// guest does not name, guests that are locked while no task works on them. Sorted; empty is
    /// good. Ask when no task runs: what a task is making belongs to nobody yet.
    pub fn leftovers(&self) -> Vec<String> {
        self.look(|world| {
            let files = world.files.iter().filter(|file| file.temporary);
            let mut found: Vec<String> =
                files.map(|file| format!("file {} on {:?}", file.volid(), file.node)).collect();
            let volumes = world.volumes.iter().filter(|volume| !is_named(world, volume));
            found.extend(
                volumes
                    .map(|volume| format!("volume {} on {:?}", world.volid(volume), volume.node)),
            );
            let idle = world.running.is_empty();
            let locked = world.guests.values().filter(|guest| idle && guest.lock.is_some());
            found.extend(locked.map(|guest| {
                format!("guest {} locked ({})", guest.vmid, guest.lock.as_deref().unwrap_or(""))
            }));
            found.sort();
            found
        })
    }

    /// Leaves so many bytes free on a storage, as a node sees it.
    pub fn set_free_space(&self, node: &str, storage: &str, bytes: u64) {
        self.edit(|world| {
            let total = world.storage(storage).map_or(0, |storage| storage.total);
            let stored = world.stored(storage, node);
            let home = world.home(storage, node);
            let ballast = total.saturating_sub(stored).saturating_sub(bytes);
            world.ballast.insert((storage.to_owned(), home), ballast);
        });
    }

    /// Changes one entry of the storage configuration.
    ///
    /// # Panics
    ///
    /// If there is no such storage.
    pub fn change_storage(&self, name: &str, change: impl FnOnce(&mut Storage)) {
        self.edit(|world| {
            let found = world.storages.iter_mut().find(|storage| storage.name == name);
            change(found.unwrap_or_else(|| panic!("there is no storage {name}")));
        });
    }

    /// Switches a storage's contents: `&["images", "import"]`.
    pub fn set_content(&self, storage: &str, content: &[&str]) {
        self.change_storage(storage, |storage| {
            storage.content = content.iter().map(|&kind| kind.to_owned()).collect();
        });
    }
}

/// Whether a guest's configuration names a volume, also as unused.
fn is_named(world: &World, volume: &Volume) -> bool {
    let volid = world.volid(volume);
    world.guests.get(&volume.vmid).is_some_and(|guest| {
        let drives = guest.config.iter().filter(|(key, _)| is_drive(key) || is_unused(key));
        drives.map(|(_, value)| Drive::parse(&plain(value))).any(|drive| drive.file == volid)
    })
}
