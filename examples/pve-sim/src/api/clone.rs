//! `POST …/clone`: reserves the number, then a task copies or links the disks.

use super::answer::{Body, Refusal};
use super::call::Call;
use super::create::may_allocate;
use crate::work::Work;
use crate::work::clone::Clone;
use crate::world::drive::{Drive, is_drive};
use crate::world::volume::Layout;
use crate::world::{Guest, Kind, is_card, plain};

pub(super) fn clone(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let (vmid, node) = (call.vmid()?, call.node().to_owned());
    let newid: u32 = call.number("newid").and_then(|vmid| vmid.try_into().ok()).unwrap_or(0);
    let pool = call.param("pool").map(str::to_owned);
    may_allocate(call, newid, pool.as_deref())?;
    let target = call.param("target").filter(|target| *target != node).map(str::to_owned);
    if let Some(target) = &target
        && !call.world.nodes.contains_key(target)
    {
        return Err(Refusal::error(format!("no such cluster node '{target}'")));
    }
    let storage = call.param("storage").map(str::to_owned);
    if let Some(storage) = &storage {
        call.storage_here(storage)?;
    }
    let found = call.world.guests.get(&vmid);
    let source = found.filter(|guest| guest.kind == Kind::Qemu && guest.node == node).cloned();
    let source = source.ok_or_else(|| {
        let text = format!("unable to find configuration file for VM {vmid} on node '{node}'");
        Refusal::error(text)
    })?;
    if let Some(lock) = &source.lock {
        return Err(Refusal::error(format!("VM is locked ({lock})")));
    }
    let full = call.flag("full").unwrap_or(!source.template);
    disks(call, &source, full, storage.as_deref(), target.as_deref())?;
    if !call.world.is_quorate(&node) {
        return Err(Refusal::error("cluster not ready - no quorum?"));
    }
    if call.world.guests.contains_key(&newid) {
        let text = format!("unable to create VM {newid}: config file already exists");
        return Err(Refusal::error(text));
    }
    let mut reserved = Guest::reserved(newid, &node, "clone");
    reserved.set_key("description", " qmclone temporary file");
    call.world.put_guest(reserved);
    let text = |name: &str| call.param(name).map(str::to_owned);
    let work = Clone {
        vmid,
        newid,
        name: text("name"),
        description: text("description"),
        pool,
        full,
        storage,
        format: text("format"),
        target,
    };
    // The task is named after the machine that is cloned.
    Ok(call.begin("qmclone", &vmid.to_string(), Some(vmid), Work::Clone(work)))
}

/// What stands against a clone of these disks and cards.
fn disks(
    call: &Call<'_>,
    source: &Guest,
    full: bool,
    storage: Option<&str>,
    target: Option<&str>,
) -> Result<(), Refusal> {
    if !full {
        for name in ["storage", "format"] {
            if call.param(name).is_some() {
                let text = format!("parameter '{name}' not allowed for linked clones");
                return Err(Refusal::error(text));
            }
        }
    }
    for (key, value) in &source.config {
        let text = plain(value);
        if is_card(key)
            && let Some(bridge) = text.split(',').find_map(|part| part.strip_prefix("bridge="))
        {
            call.need(&format!("/sdn/zones/localnetwork/{bridge}"), "SDN.Use")?;
        }
        let drive = Drive::parse(&text);
        if !is_drive(key) || drive.is_cdrom() {
            continue;
        }
        let Some(own) = drive.storage() else { continue };
        if let Some(target) = target {
            let shared = |name: &str| call.world.storage(name).is_some_and(|s| s.shared);
            if !shared(own) {
                return Err(Refusal::error(format!(
                    "can't clone VM to node '{target}' (VM uses local storage)"
                )));
            }
            if let Some(storage) = storage.filter(|storage| !shared(storage)) {
                let text = format!("can't clone to non-shared storage '{storage}'");
                return Err(Refusal::error(text));
            }
        }
        let to = if full { storage.unwrap_or(own) } else { own };
        call.need(&format!("/storage/{to}"), "Datastore.AllocateSpace")?;
        let thick = call.world.storage(own).is_some_and(|s| s.layout() == Layout::Thick);
        let base = drive.file.rsplit(['/', ':']).next().unwrap_or_default().starts_with("base-");
        if !full && (thick || !base) {
            return Err(Refusal::error(format!(
                "Linked clone feature is not supported for '{}' ({key})",
                drive.file
            )));
        }
    }
    Ok(())
}
