//! `/cluster/*` apart from the resources.

use crate::json::Rows;

use super::answer::{Body, Refusal};
use super::call::Call;

/// Membership; a standalone node has no `cluster` row and the number 0.
pub(super) fn status(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let world = &*call.world;
    let mut rows = Rows::with_capacity(world.nodes.len() + 1);
    if let Some(name) = &world.cluster {
        rows.row()
            .str("id", "cluster")
            .str("type", "cluster")
            .str("name", name)
            .num("nodes", world.nodes.len() as u64)
            .num("version", u64::from(world.config_version))
            .flag("quorate", world.is_quorate(call.entry));
    }
    for node in world.nodes.values() {
        rows.row()
            .str("id", &format!("node/{}", node.name))
            .str("type", "node")
            .str("name", &node.name)
            .str("ip", &node.address.ip().to_string())
            .num("nodeid", u64::from(node.id))
            .flag("local", node.name == call.entry)
            .flag("online", world.is_online(call.entry, &node.name))
            .str("level", &node.level);
    }
    Ok(call.shuffled(rows))
}

/// `/cluster/nextid`: the lowest free number, as a string; nothing is reserved.
pub(super) fn next_id(call: &mut Call<'_>) -> Result<Body, Refusal> {
    if let Some(text) = call.param("vmid") {
        let taken = text.parse().is_ok_and(|vmid: u32| call.world.guests.contains_key(&vmid));
        if taken {
            return Err(Refusal::parameter("vmid", format!("VM {text} already exists")));
        }
        return Ok(Body::of(&text));
    }
    let (lower, upper) = call.world.next_id;
    let free = call.world.free_vmid().ok_or_else(|| {
        Refusal::error(format!("unable to get any free VMID in range [{lower}, {upper}]"))
    })?;
    Ok(Body::of(&free.to_string()))
}
