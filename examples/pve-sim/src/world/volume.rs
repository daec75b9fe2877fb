//! Volumes: the disks of guests, named as each kind of storage names them.
//!
//! | storage | volume | its linked clone |
//! |---|---|---|
//! | dir, nfs, cifs, cephfs, btrfs | `local:300/base-300-disk-0.qcow2` | `local:300/base-…/301/vm-301-disk-0.qcow2` |
//! | zfspool, rbd | `ceph:base-300-disk-0` | `ceph:base-300-disk-0/vm-301-disk-0` |
//! | lvmthin | `lvm:base-300-disk-0` | `lvm:vm-301-disk-0` |
//! | lvm | `lvm:vm-300-disk-0`, never a base | none |

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::file::is_seen_from;
use super::{Storage, World};

/// The disk of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// The storage.
    pub storage: String,
    /// The node whose disk has it; `None` on a shared storage.
    pub node: Option<String>,
    /// The guest in whose name it lies there, alive or not.
    pub vmid: u32,
    /// `vm-300-disk-0.qcow2`, `base-300-disk-0`.
    pub name: String,
    /// `qcow2`, `raw`, …
    pub format: String,
    /// Size of the disk that the guest sees, in bytes.
    pub size: u64,
    /// Bytes on the storage.
    pub used: u64,
    /// The volume on the same storage that this one is a linked clone of, and the guest in whose
    /// name that lies.
    pub parent: Option<(String, u32)>,
    /// Seconds since 1970.
    pub ctime: u64,
    /// Somebody writes to it until then (time of the simulator).
    #[serde(skip)]
    pub(crate) written_until: Duration,
}

impl Volume {
    /// Whether it is what linked clones are made of.
    pub fn is_base(&self) -> bool {
        self.name.starts_with("base-")
    }

    pub(crate) fn is_written(&self, now: Duration) -> bool {
        now < self.written_until
    }
}

/// How a storage lays out its volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    Files,
    /// Block devices whose clones name their base.
    Named,
    Thin,
    Thick,
}

impl Storage {
    pub(crate) fn layout(&self) -> Layout {
        match self.plugin.as_str() {
            "lvmthin" => Layout::Thin,
            "lvm" | "iscsi" | "iscsidirect" => Layout::Thick,
            "zfspool" | "zfs" | "rbd" => Layout::Named,
            _ => Layout::Files,
        }
    }

    /// Whether files can be put there by name.
    pub(crate) fn has_files(&self) -> bool {
        self.layout() == Layout::Files
    }

    /// Its folder in the file system of a node.
    pub(crate) fn folder(&self) -> String {
        let path = self.options.iter().find(|(key, _)| key == "path");
        match path.and_then(|(_, value)| value.as_str()) {
            Some(path) => path.to_owned(),
            None if self.name == "local" => "/var/lib/vz".to_owned(),
            None => format!("/mnt/pve/{}", self.name),
        }
    }

    /// Where a file of this content lies.
    pub(crate) fn file_path(&self, content: &str, name: &str) -> String {
        let folder = match content {
            "iso" => "template/iso",
            "vztmpl" => "template/cache",
            other => other,
        };
        format!("{}/{folder}/{name}", self.folder())
    }

    /// Where the volume of a guest lies.
    pub(crate) fn volume_path(&self, vmid: u32, name: &str) -> String {
        let option = |key: &str, usual: &str| -> String {
            let found = self.options.iter().find(|(known, _)| known == key);
            found.and_then(|(_, value)| value.as_str()).unwrap_or(usual).to_owned()
        };
        match (self.layout(), self.plugin.as_str()) {
            (Layout::Files, _) => format!("{}/images/{vmid}/{name}", self.folder()),
            (_, "rbd") => format!("rbd:{}/{name}", option("pool", "rbd")),
            (_, "zfspool") => format!("/dev/zvol/{}/{name}", option("pool", "rpool/data")),
            _ => format!("/dev/{}/{name}", option("vgname", "pve")),
        }
    }
}

impl World {
    /// One entry of the storage configuration.
    pub(crate) fn storage(&self, name: &str) -> Option<&Storage> {
        self.storages.iter().find(|storage| storage.name == name)
    }

    /// The node to which something on a storage belongs: none if all share it.
    pub(crate) fn home(&self, storage: &str, node: &str) -> Option<String> {
        let shared = self.storage(storage).is_some_and(|storage| storage.shared);
        (!shared).then(|| node.to_owned())
    }

    /// The name that PVE gives a volume: `local:300/vm-300-disk-0.qcow2`.
    pub fn volid(&self, volume: &Volume) -> String {
        format!("{}:{}", volume.storage, self.volname(volume))
    }

    /// The same without the storage.
    pub(crate) fn volname(&self, volume: &Volume) -> String {
        let layout = self.storage(&volume.storage).map_or(Layout::Files, Storage::layout);
        match (layout, &volume.parent) {
            (Layout::Files, Some((parent, owner))) => {
                format!("{owner}/{parent}/{}/{}", volume.vmid, volume.name)
            }
            (Layout::Files, None) => format!("{}/{}", volume.vmid, volume.name),
            (Layout::Named, Some((parent, _))) => format!("{parent}/{}", volume.name),
            _ => volume.name.clone(),
        }
    }

    fn volume_at(&self, volid: &str, node: &str) -> Option<usize> {
        let (storage, rest) = volid.split_once(':')?;
        let name = rest.rsplit('/').next()?;
        self.volumes.iter().position(|volume| {
            volume.storage == storage
                && volume.name == name
                && is_seen_from(volume.node.as_deref(), node)
        })
    }

    /// The volume of this name, as a node sees it.
    pub(crate) fn volume(&self, volid: &str, node: &str) -> Option<&Volume> {
        self.volume_at(volid, node).map(|at| &self.volumes[at])
    }

    pub(crate) fn volume_mut(&mut self, volid: &str, node: &str) -> Option<&mut Volume> {
        let at = self.volume_at(volid, node)?;
        Some(&mut self.volumes[at])
    }

    /// Takes a volume away; whether there was one.
    pub(crate) fn free_volume(&mut self, volid: &str, node: &str) -> bool {
        let at = self.volume_at(volid, node);
        at.map(|at| self.volumes.remove(at)).is_some()
    }

    /// Allocates a volume; disks have the lowest free number.
    pub(crate) fn allocate(&mut self, wanted: Wanted<'_>) -> String {
        let Wanted { storage, node, vmid, format, size, parent, purpose, now } = wanted;
        let files = self.storage(storage).is_some_and(Storage::has_files);
        let end = if files { format!(".{format}") } else { String::new() };
        let taken = |n: &u32, world: &Self| {
            let stem = format!("-{vmid}-disk-{n}");
            world.volumes.iter().any(|volume| {
                let name = volume.name.split('.').next().unwrap_or_default();
                volume.storage == storage
                    && is_seen_from(volume.node.as_deref(), node)
                    && name.strip_prefix("vm").or(name.strip_prefix("base")) == Some(stem.as_str())
            })
        };
        let n = (0_u32..10_000).find(|n| !taken(n, self)).expect("nobody keeps so many disks");
        let volume = Volume {
            storage: storage.to_owned(),
            node: self.home(storage, node),
            vmid,
            name: match purpose {
                Purpose::Disk => format!("vm-{vmid}-disk-{n}{end}"),
                Purpose::Cloudinit => format!("vm-{vmid}-cloudinit{end}"),
            },
            format: if files { format.to_owned() } else { "raw".to_owned() },
            size,
            used: 196_608,
            parent: parent.map(|volume| (volume.name.clone(), volume.vmid)),
            ctime: now,
            written_until: Duration::ZERO,
        };
        let volid = self.volid(&volume);
        self.volumes.push(volume);
        volid
    }

    /// Makes a volume a base; returns its new name. Storages that cannot leave it as it is.
    pub(crate) fn make_base(&mut self, volid: &str, node: &str) -> String {
        let Some(at) = self.volume_at(volid, node) else { return volid.to_owned() };
        let thick = self
            .storage(&self.volumes[at].storage)
            .is_some_and(|storage| storage.layout() == Layout::Thick);
        if !thick && let Some(rest) = self.volumes[at].name.strip_prefix("vm-") {
            self.volumes[at].name = format!("base-{rest}");
        }
        self.volid(&self.volumes[at])
    }

    /// The linked clones of a volume, where the storage keeps it for them.
    pub(crate) fn is_in_use(&self, volid: &str, node: &str) -> bool {
        let Some(base) = self.volume(volid, node) else { return false };
        let layout = self.storage(&base.storage).map_or(Layout::Files, Storage::layout);
        layout != Layout::Thin
            && self.volumes.iter().any(|volume| {
                volume.storage == base.storage
                    && volume.node == base.node
                    && volume.parent.as_ref().is_some_and(|(name, _)| *name == base.name)
            })
    }

    /// Bytes that a node can still put on a storage.
    pub(crate) fn free_space(&self, storage: &str, node: &str) -> u64 {
        let Some(found) = self.storage(storage) else { return 0 };
        let ballast = self.ballast_of(storage, node).unwrap_or(found.used);
        found.total.saturating_sub(ballast).saturating_sub(self.stored(storage, node))
    }

    /// Bytes on a storage that no file and no volume of ours explains, where a test said so.
    pub(crate) fn ballast_of(&self, storage: &str, node: &str) -> Option<u64> {
        let home = self.home(storage, node);
        self.ballast.get(&(storage.to_owned(), home)).copied()
    }

    /// Bytes of our files and volumes on a storage, as a node sees it.
    pub(crate) fn stored(&self, storage: &str, node: &str) -> u64 {
        let files = self
            .files
            .iter()
            .filter(|file| file.storage == storage && is_seen_from(file.node.as_deref(), node));
        let volumes = self.volumes.iter().filter(|volume| {
            volume.storage == storage && is_seen_from(volume.node.as_deref(), node)
        });
        files.map(|file| file.size).sum::<u64>() + volumes.map(|volume| volume.used).sum::<u64>()
    }

    /// The same for all storages and nodes at once; what is shared has no node.
    pub(crate) fn stored_everywhere(&self) -> BTreeMap<(&str, Option<&str>), u64> {
        let mut all = BTreeMap::new();
        for file in &self.files {
            let home = (file.storage.as_str(), file.node.as_deref());
            *all.entry(home).or_default() += file.size;
        }
        for volume in self.volumes.iter().filter(|volume| volume.used > 0) {
            let home = (volume.storage.as_str(), volume.node.as_deref());
            *all.entry(home).or_default() += volume.used;
        }
        all
    }
}

/// What a volume is for; it decides the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Disk,
    Cloudinit,
}

/// What to allocate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) storage: &'a str,
    pub(crate) node: &'a str,
    pub(crate) vmid: u32,
    pub(crate) format: &'a str,
    pub(crate) size: u64,
    pub(crate) parent: Option<&'a Volume>,
    pub(crate) purpose: Purpose,
    /// Seconds since 1970.
    pub(crate) now: u64,
}
