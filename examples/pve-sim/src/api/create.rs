//! `POST /nodes/{node}/qemu`: reserves the number, then a task makes the machine.

use super::answer::{Body, Refusal};
use super::call::Call;
use super::change::read;
use crate::work::Work;
use crate::work::create::Create;
use crate::world::{Guest, Kind, Node};

pub(super) fn create(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let vmid: u32 = call.number("vmid").and_then(|vmid| vmid.try_into().ok()).unwrap_or(0);
    let pool = call.param("pool").map(str::to_owned);
    may_allocate(call, vmid, pool.as_deref())?;
    if call.query.contains_key("force") && !call.query.contains_key("archive") {
        return Err(Refusal::parameter("archive", "missing property required by 'force'"));
    }
    let change = read(call, vmid, pool.as_deref())?;
    let node = call.node().to_owned();
    if !call.world.is_quorate(&node) {
        return Err(Refusal::error("cluster not ready - no quorum?"));
    }
    is_free(call, vmid)?;
    // What a pool grants does not hold yet when tags are looked at: the machine joins it last.
    let tags =
        change.keys.contains_key("tags") && !call.may(&format!("/vms/{vmid}"), "VM.Config.Options");
    let forbidden =
        tags.then(|| format!("Permission check failed (/vms/{vmid}, VM.Config.Options)"));
    call.world.put_guest(Guest::reserved(vmid, &node, "create"));
    let work = Create {
        vmid,
        pool,
        keys: change.keys,
        drives: change.drives,
        forbidden,
        start: call.flag("start") == Some(true),
    };
    Ok(call.begin("qmcreate", &vmid.to_string(), Some(vmid), Work::Create(work)))
}

/// A machine may be made by those who may allocate its number, or in a pool.
pub(super) fn may_allocate(call: &Call<'_>, vmid: u32, pool: Option<&str>) -> Result<(), Refusal> {
    if let Some(pool) = pool
        && !call.world.pools.iter().any(|known| known == pool)
        && call.may("/pool", "VM.Allocate")
    {
        let text = format!("Permission check failed (pool '{pool}' does not exist)");
        return Err(Refusal::new(403, text));
    }
    if call.may_in(vmid, pool, "VM.Allocate") {
        return Ok(());
    }
    Err(Refusal::new(403, "Permission check failed"))
}

/// Whether a number is free; PVE has two ways to say that it is not.
fn is_free(call: &Call<'_>, vmid: u32) -> Result<(), Refusal> {
    let Some(other) = call.world.guests.get(&vmid) else { return Ok(()) };
    // Another node has just reserved it: the loser only learns it from the cluster file system.
    let raced = other.node != call.node() && other.lock.as_deref() == Some("create");
    let how = if raced && call.world.node(&other.node).is_some_and(Node::is_member) {
        format!(
            "close (rename) atomic file '/etc/pve/nodes/{}/qemu-server/{vmid}.conf' failed: File \
             exists",
            call.node()
        )
    } else {
        let kind = if other.kind == Kind::Lxc { "CT" } else { "VM" };
        format!("{kind} {vmid} already exists on node '{}'", other.node)
    };
    Err(Refusal::error(format!("unable to create VM {vmid} - {how}")))
}
