//! `/cluster/resources`: the list that everybody polls.
//!
//! Rows are left out, not refused, where a privilege is missing; nodes always appear, without
//! numbers when Sys.Audit is missing (seen on PVE 9.2.11; pve-manager: PVE/API2/Cluster.pm:262).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::json::{Object, Rows};
use crate::world::{Guest, Kind, Node, Status};

use super::answer::{Body, Refusal};
use super::call::Call;

/// Usage that moves from one answer to the next.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Usage {
    pub(super) cpu: f64,
    pub(super) mem: u64,
    pub(super) disk: u64,
    pub(super) uptime: u64,
    pub(super) netin: u64,
    pub(super) netout: u64,
    pub(super) diskread: u64,
    pub(super) diskwrite: u64,
}

pub(super) fn resources(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let only = call.param("type").map(str::to_owned);
    let wants = |kind: &str| only.as_deref().is_none_or(|only| only == kind);
    let tick = call.tick();
    let contents: BTreeMap<String, String> = {
        let storages = call.world.storages.clone();
        storages.iter().map(|s| (s.name.clone(), call.joined(&s.content))).collect()
    };

    let world = &*call.world;
    let stored = world.stored_everywhere();
    let mut rows = Rows::with_capacity(world.guests.len() + 8 * world.nodes.len() + 8);
    if only.is_none() {
        for pool in seen_pools(call) {
            rows.row().str("id", &format!("/pool/{pool}")).str("type", "pool").str("pool", pool);
        }
    }
    if wants("vm") {
        guest_rows(call, tick, &mut rows);
    }
    for node in world.nodes.values() {
        let online = world.is_online(call.entry, &node.name);
        if wants("node") {
            let mut row = rows.row();
            node_row(call, node, tick, &mut row);
            row.num("cgroup-mode", 2);
        }
        if wants("storage") {
            storage_rows(call, node, online, tick, (&contents, &stored), &mut rows);
        }
        if only.is_none() && call.may("/sdn/zones/localnetwork", "SDN.Audit") {
            rows.row()
                .str("id", &format!("network/{}/zone/localnetwork", node.name))
                .str("type", "network")
                .str("network", "localnetwork")
                .str("network-type", "zone")
                .str("node", &node.name)
                .str("status", "ok");
        }
    }
    Ok(call.shuffled(rows))
}

fn seen_pools<'a>(call: &'a Call<'_>) -> impl Iterator<Item = &'a str> {
    let pools = call.world.pools.iter().map(String::as_str);
    pools.filter(|pool| call.may(&format!("/pool/{pool}"), "Pool.Audit"))
}

fn guest_rows(call: &Call<'_>, tick: u64, rows: &mut Rows) {
    let world = &*call.world;
    // One look-up per node, not per guest.
    let homes: BTreeMap<&str, Home> =
        world.nodes.values().map(|node| (node.name.as_str(), Home::of(call, node))).collect();
    let seen_pools: Vec<&str> = seen_pools(call).collect();
    // The usual token has one answer for all guests.
    let all_seen = call.token.is_even_below("/vms") && call.may("/vms", "VM.Audit");
    for guest in world.guests.values() {
        if !all_seen && !call.may(&format!("/vms/{}", guest.vmid), "VM.Audit") {
            continue;
        }
        let home = homes.get(guest.node.as_str()).unwrap_or(&Home::Gone);
        let mut row = rows.row();
        row.str("id", &format!("{}/{}", guest.kind.as_str(), guest.vmid))
            .str("type", guest.kind.as_str())
            .num("vmid", u64::from(guest.vmid))
            .str("node", &guest.node);
        if !guest.tags.is_empty() {
            row.str("tags", &guest.tags.join(";"));
        }
        // The pool is told to those who may see the pool (seen on PVE 9.2.11).
        let pool = guest.pool.as_deref();
        row.opt("pool", pool.filter(|pool| seen_pools.contains(pool)))
            .opt("lock", guest.lock.as_deref())
            .opt("hastate", guest.hastate.as_deref());
        let (now, tick) = match home {
            Home::Here => (call.now, tick),
            Home::LastSeen(at) => (*at, 0),
            Home::Gone => {
                row.str("status", "unknown");
                continue;
            }
        };
        if call.now < guest.whole_at {
            row.str("status", "unknown");
            continue;
        }
        let usage = guest_usage(guest, now, tick);
        row.str("status", guest.status.as_str())
            .str("name", &guest.name)
            .flag("template", guest.template)
            .num("maxcpu", u64::from(guest.cpus))
            .num("maxmem", guest.maxmem)
            .num("maxdisk", guest.maxdisk)
            .float("cpu", usage.cpu)
            .num("mem", usage.mem)
            .num("disk", usage.disk)
            .num("uptime", usage.uptime)
            .num("netin", usage.netin)
            .num("netout", usage.netout)
            .num("diskread", usage.diskread)
            .num("diskwrite", usage.diskwrite);
        if guest.kind == Kind::Qemu {
            row.num("memhost", usage.mem);
        }
    }
}

/// What the cluster knows of a guest's node.
enum Home {
    Here,
    /// Away; the last values are from then.
    LastSeen(Duration),
    /// Away for so long that the last values are dropped.
    Gone,
}

impl Home {
    fn of(call: &Call<'_>, node: &Node) -> Self {
        if call.world.is_online(call.entry, &node.name) {
            return Self::Here;
        }
        if node.is_stale(call.now, call.config.stale_after) {
            return Self::Gone;
        }
        Self::LastSeen(node.away_since.unwrap_or(call.now))
    }
}

/// A node's row, as `/nodes` has it too.
pub(super) fn node_row(call: &Call<'_>, node: &Node, tick: u64, row: &mut Object<'_>) {
    let online = call.world.is_online(call.entry, &node.name);
    row.str("id", &format!("node/{}", node.name))
        .str("node", &node.name)
        .str("type", "node")
        .str("status", if online { "online" } else { "offline" });
    row.str("level", if online { &node.level } else { "" });
    let stale = node.is_stale(call.now, call.config.stale_after);
    if stale || !call.may(&format!("/nodes/{}", node.name), "Sys.Audit") {
        return;
    }
    row.num("maxcpu", u64::from(node.cpus)).num("maxmem", node.maxmem).num("maxdisk", node.maxdisk);
    if online {
        let usage = node_usage(node, call.now, tick);
        row.float("cpu", usage.cpu)
            .num("mem", usage.mem)
            .num("disk", usage.disk)
            .num("uptime", usage.uptime);
    }
}

/// Bytes of files and volumes, by storage and node.
type Stored<'a> = BTreeMap<(&'a str, Option<&'a str>), u64>;

fn storage_rows(
    call: &Call<'_>,
    node: &Node,
    online: bool,
    tick: u64,
    (contents, stored): (&BTreeMap<String, String>, &Stored<'_>),
    rows: &mut Rows,
) {
    let stale = !online && node.is_stale(call.now, call.config.stale_after);
    for storage in &call.world.storages {
        let seen = storage.enabled && storage.is_on(&node.name);
        if !seen || !call.may(&format!("/storage/{}", storage.name), "Datastore.Audit") {
            continue;
        }
        let mut row = rows.row();
        row.str("id", &format!("storage/{}/{}", node.name, storage.name))
            .str("type", "storage")
            .str("storage", &storage.name)
            .str("node", &node.name)
            .str("plugintype", &storage.plugin)
            .str("content", &contents[&storage.name])
            .flag("shared", storage.shared)
            .str("status", if stale { "unknown" } else { "available" });
        if !stale {
            let tick = if online { tick } else { 0 };
            let home = (!storage.shared).then_some(node.name.as_str());
            let own = stored.get(&(storage.name.as_str(), home)).copied().unwrap_or(0);
            let other = call.world.ballast_of(&storage.name, &node.name);
            let used = other.unwrap_or_else(|| storage_used(storage, tick)) + own;
            row.num("maxdisk", storage.total).num("disk", used.min(storage.total));
        }
    }
}

/// Bytes in use; a little more each time somebody looks.
pub(super) fn storage_used(storage: &crate::world::Storage, tick: u64) -> u64 {
    (storage.used + (tick % 100_000) * 4096).min(storage.total)
}

pub(super) fn node_usage(node: &Node, now: Duration, tick: u64) -> Usage {
    let noise = mixed(u64::from(node.id) << 40, tick);
    Usage {
        cpu: fraction(noise) * 0.5,
        mem: node.maxmem / 4 + noise % (node.maxmem / 8).max(1),
        disk: node.maxdisk / 12 + (tick % 100_000) * 4096,
        uptime: node.uptime(now).as_secs(),
        ..Usage::default()
    }
}

pub(super) fn guest_usage(guest: &Guest, now: Duration, tick: u64) -> Usage {
    let disk = match guest.kind {
        Kind::Qemu => 0,
        Kind::Lxc => guest.maxdisk / 3,
    };
    if guest.status == Status::Stopped {
        return Usage { disk, ..Usage::default() };
    }
    let noise = mixed(u64::from(guest.vmid), tick);
    Usage {
        cpu: fraction(noise) * 0.3,
        mem: guest.maxmem / 3 + noise % (guest.maxmem / 4).max(1),
        disk,
        uptime: guest.uptime(now).as_secs(),
        netin: tick * 1500 + noise % 1500,
        netout: tick * 900 + noise % 900,
        diskread: tick * 4096,
        diskwrite: tick * 8192,
    }
}

/// Any of 2^53 values in `0.0..1.0`.
fn fraction(noise: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
    let value = (noise >> 11) as f64 / (1u64 << 53) as f64;
    value
}

/// splitmix64 of two numbers.
fn mixed(a: u64, b: u64) -> u64 {
    let mut z = (a ^ b.rotate_left(32)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
