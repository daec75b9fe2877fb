//! What must be true before bytes are moved, and what follows from it for the requests.

use schema::upload::UploadRow;

use super::staging;
use crate::pve::{Permissions, Version, Vmid};

/// What the decision is made from.
pub(super) struct Facts<'a> {
    pub node: &'a str,
    pub vmid: Vmid,
    pub upload: &'a UploadRow,
    pub version: Version,
    pub permissions: &'a Permissions,
    /// The storages of the node, as the mirror shows them.
    pub storages: &'a [staging::Seen<'a>],
    /// Free bytes, where PVE tells: of the staging and of the target.
    pub free: &'a [(String, Option<u64>)],
}

/// How it will be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Way {
    pub staging: String,
    /// The pool through which the token has its rights, if it has them through one.
    pub pool: Option<String>,
    /// What to make of the disk; None leaves it to PVE.
    pub disk_format: Option<&'static str>,
    /// Where an OVA is unpacked.
    pub working_storage: Option<String>,
    pub may_download: bool,
}

/// Checks all that can be known beforehand.
///
/// # Errors
///
/// A sentence that says what is missing and what to do.
pub(super) fn check(facts: &Facts<'_>) -> Result<Way, String> {
    let upload = facts.upload;
    let is_ova = upload.file_format.as_deref() == Some("ova");
    capable(&facts.version, is_ova)?;
    let target = facts
        .storages
        .iter()
        .find(|it| it.name == upload.storage_name)
        .ok_or_else(|| format!("node {} has no storage {}", facts.node, upload.storage_name))?;
    if !target.active {
        return Err(format!("storage {} is not active on node {}", target.name, facts.node));
    }
    if !target.content.split(',').any(|it| it == "images") {
        return Err(format!(
            "storage {} takes no disks: enable the content type `images` on it",
            target.name
        ));
    }
    let staging = staging::choose(facts.node, facts.storages, facts.permissions)?;
    let pool = pool(facts.permissions, facts.vmid);
    let missing = missing(facts, staging, pool.as_deref());
    if !missing.is_empty() {
        return Err(format!(
            "the token lacks {}: docs/privileges.md lists what templates need",
            missing.join(", ")
        ));
    }
    room(facts, staging, target)?;
    let working_storage = if is_ova {
        let storage = staging::working_storage(facts.storages).ok_or_else(|| {
            format!(
                "an OVA is unpacked on a storage that keeps files and takes disks; node {} has none: \
                 enable `images` on one, or convert the image with `qemu-img convert -O qcow2`",
                facts.node
            )
        })?;
        Some(storage.to_owned())
    } else {
        None
    };
    let network = format!("/nodes/{}", facts.node);
    Ok(Way {
        staging: staging.to_owned(),
        pool,
        disk_format: staging::disk_format(target.plugin),
        working_storage,
        may_download: facts.permissions.has(&network, "Sys.AccessNetwork")
            || ["Sys.Audit", "Sys.Modify"].iter().all(|it| facts.permissions.has("/", it)),
    })
}

/// B15: images can be imported through the API from PVE 8.4 on, OVA from 8.3 on (pve-storage 76f695f,
/// d955a46).
fn capable(version: &Version, is_ova: bool) -> Result<(), String> {
    let (enough, needed) =
        if is_ova { (version.at_least(8, 3), "8.3") } else { (version.at_least(8, 4), "8.4") };
    if enough {
        return Ok(());
    }
    Err(format!("the node runs PVE {}: images need {needed} or later", version.version))
}

/// The first pool that lets guests be made, if that is not allowed for any VMID.
pub(super) fn pool(permissions: &Permissions, vmid: Vmid) -> Option<String> {
    if permissions.has(&format!("/vms/{vmid}"), "VM.Allocate") {
        return None;
    }
    let pools = permissions.paths_with("VM.Allocate");
    pools.into_iter().find_map(|path| path.strip_prefix("/pool/")).map(str::to_owned)
}

/// What a guest is made with (seen on PVE 9.2: each of them was needed by some request).
const ON_GUEST: [&str; 7] = [
    "VM.Allocate",
    "VM.Audit",
    "VM.Config.Disk",
    "VM.Config.Options",
    "VM.Config.CPU",
    "VM.Config.Memory",
    "VM.Config.HWType",
];

fn missing(facts: &Facts<'_>, staging: &str, pool: Option<&str>) -> Vec<String> {
    let guest = match pool {
        Some(pool) => format!("/pool/{pool}"),
        None => format!("/vms/{}", facts.vmid),
    };
    let bridge = facts.upload.bridge.as_deref();
    lacking(facts.permissions, &guest, staging, &facts.upload.storage_name, bridge)
}

/// What a token lacks for guests on the path `guest`, images on `staging` and disks on `target`.
fn lacking(
    permissions: &Permissions,
    guest: &str,
    staging: &str,
    target: &str,
    bridge: Option<&str>,
) -> Vec<String> {
    let mut needed: Vec<(String, &str)> =
        ON_GUEST.iter().map(|privilege| (guest.to_owned(), *privilege)).collect();
    if let Some(bridge) = bridge {
        needed.push((guest.to_owned(), "VM.Config.Network"));
        needed.push((format!("/sdn/zones/localnetwork/{bridge}"), "SDN.Use"));
    }
    let staged = format!("/storage/{staging}");
    needed.push((staged.clone(), "Datastore.AllocateTemplate"));
    needed.push((staged.clone(), "Datastore.Allocate"));
    needed.push((format!("/storage/{target}"), "Datastore.AllocateSpace"));
    let mut missing: Vec<String> = needed
        .iter()
        .filter(|(path, privilege)| !permissions.has(path, privilege))
        .map(|(path, privilege)| format!("{privilege} on {path}"))
        .collect();
    let reads = ["Datastore.Audit", "Datastore.AllocateSpace"];
    if !reads.iter().any(|privilege| permissions.has(&staged, privilege)) {
        missing.push(format!("Datastore.Audit on {staged}"));
    }
    missing
}

fn room(facts: &Facts<'_>, staging: &str, target: &staging::Seen<'_>) -> Result<(), String> {
    let file = facts.upload.file_size.unsigned_abs();
    let disk = facts.upload.virtual_size.map_or(file, i64::unsigned_abs);
    // Thin storage takes what is in the disk, which is about what is in the file.
    let on_target = if target.plugin == "lvm" { disk } else { file.min(disk) };
    for (storage, needed, what) in
        [(staging, file + file / 20, "the image"), (target.name, on_target, "the disk")]
    {
        let known = facts.free.iter().find(|(name, _)| name == storage);
        if let Some(free) = known.and_then(|(_, free)| *free)
            && free < needed
        {
            return Err(format!(
                "storage {storage} on node {} has {} MiB free and {what} needs {} MiB: free space, \
                 or choose another storage",
                facts.node,
                free >> 20,
                needed.div_ceil(1 << 20)
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "preflight_tests.rs"]
mod tests;
