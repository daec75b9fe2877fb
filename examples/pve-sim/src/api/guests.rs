//! A node's guests: lists, configuration, state, addresses.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::hex::sha256;
use crate::json::{Object, Rows, object};
use crate::world::{Agent, Guest, Interface, Kind, Status};

use super::answer::{Body, Refusal};
use super::call::Call;
use super::resources::{Usage, guest_usage};

/// Pressure stall numbers of running guests (PVE 9).
const PRESSURE: [&str; 6] = [
    "pressurecpufull",
    "pressurecpusome",
    "pressureiofull",
    "pressureiosome",
    "pressurememoryfull",
    "pressurememorysome",
];

pub(super) fn qemu_list(call: &mut Call<'_>) -> Result<Body, Refusal> {
    list(call, Kind::Qemu)
}

pub(super) fn lxc_list(call: &mut Call<'_>) -> Result<Body, Refusal> {
    list(call, Kind::Lxc)
}

fn list(call: &mut Call<'_>, kind: Kind) -> Result<Body, Refusal> {
    let tick = call.tick();
    let node = call.node().to_owned();
    let mut rows = Rows::with_capacity(call.world.guests.len());
    for guest in call.world.guests.values() {
        let here = guest.kind == kind && guest.node == node;
        if !here || !call.may(&format!("/vms/{}", guest.vmid), "VM.Audit") {
            continue;
        }
        let usage = guest_usage(guest, call.now, tick);
        let mut row = rows.row();
        common(guest, &usage, &mut row);
    }
    Ok(call.shuffled(rows))
}

/// What a node's list and `status/current` both show: a running guest's row has more.
fn common(guest: &Guest, usage: &Usage, row: &mut Object<'_>) {
    row.num("vmid", u64::from(guest.vmid))
        .str("name", &guest.name)
        .str("status", if guest.status == Status::Stopped { "stopped" } else { "running" })
        .num("cpus", u64::from(guest.cpus))
        .float("cpu", usage.cpu)
        .num("mem", usage.mem)
        .num("maxmem", guest.maxmem)
        .num("disk", usage.disk)
        .num("maxdisk", guest.maxdisk)
        .num("netin", usage.netin)
        .num("netout", usage.netout)
        .num("uptime", usage.uptime);
    match guest.kind {
        Kind::Qemu => {
            row.num("memhost", usage.mem);
            if guest.config.contains_key("serial0") {
                row.num("serial", 1);
            }
        }
        Kind::Lxc => {
            row.str("type", "lxc")
                .num("swap", 0)
                .num("maxswap", 512 << 20)
                .num("diskread", usage.diskread)
                .num("diskwrite", usage.diskwrite);
        }
    }
    if guest.template {
        row.num("template", 1);
    }
    if !guest.tags.is_empty() {
        row.str("tags", &guest.tags.join(";"));
    }
    row.opt("lock", guest.lock.as_deref());
    if guest.status != Status::Stopped {
        row.num("pid", 10_000 + u64::from(guest.vmid));
        for key in PRESSURE {
            row.num(key, 0);
        }
    }
}

pub(super) fn qemu_current(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let tick = call.tick();
    let guest = find(call, Kind::Qemu)?;
    Ok(current(guest, &guest_usage(guest, call.now, tick)))
}

pub(super) fn lxc_current(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let tick = call.tick();
    let guest = find(call, Kind::Lxc)?;
    Ok(current(guest, &guest_usage(guest, call.now, tick)))
}

fn current(guest: &Guest, usage: &Usage) -> Body {
    Body::raw(object(|row| {
        common(guest, usage, row);
        match &guest.hastate {
            None => row.json("ha", &json!({"managed": 0})),
            Some(state) => row.json("ha", &json!({"managed": 1, "state": state})),
        };
        if guest.kind == Kind::Lxc {
            return;
        }
        row.str("qmpstatus", guest.status.as_str());
        if guest.config.get("agent").and_then(Value::as_str).is_some_and(agent_enabled) {
            row.num("agent", 1);
        }
        if guest.config.contains_key("vga") {
            row.json("clipboard", &Value::Null);
        }
        if guest.status != Status::Stopped {
            let card = json!({"netin": usage.netin, "netout": usage.netout});
            row.json("nics", &json!({format!("tap{}i0", guest.vmid): card}));
        }
    }))
}

fn agent_enabled(value: &str) -> bool {
    value.starts_with('1') || value.split(',').any(|part| part == "enabled=1")
}

pub(super) fn qemu_config(call: &mut Call<'_>) -> Result<Body, Refusal> {
    Ok(config(find(call, Kind::Qemu)?))
}

pub(super) fn lxc_config(call: &mut Call<'_>) -> Result<Body, Refusal> {
    Ok(config(find(call, Kind::Lxc)?))
}

/// The configuration file as JSON; the digest changes when anything in it does.
fn config(guest: &Guest) -> Body {
    let (mut shown, digest) = digested(guest);
    shown.insert("digest", Value::String(digest));
    Body::of(&shown)
}

/// The digest of a guest's configuration file.
pub(super) fn digest(guest: &Guest) -> String {
    digested(guest).1
}

fn digested(guest: &Guest) -> (BTreeMap<&str, Value>, String) {
    let mut shown: BTreeMap<&str, Value> =
        guest.config.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    // PVE shows "VM 100" for a configuration without a name.
    if guest.name != format!("VM {}", guest.vmid) {
        let key = if guest.kind == Kind::Qemu { "name" } else { "hostname" };
        shown.insert(key, Value::String(guest.name.clone()));
    }
    if !guest.tags.is_empty() {
        shown.insert("tags", Value::String(guest.tags.join(";")));
    }
    if guest.template {
        shown.insert("template", Value::from(1));
    }
    if let Some(lock) = &guest.lock {
        shown.insert("lock", Value::String(lock.clone()));
    }
    let text = serde_json::to_vec(&shown).expect("maps with string keys serialise");
    let digest = sha256(&text)[..40].to_owned();
    (shown, digest)
}

/// Addresses as the agent inside tells them.
pub(super) fn agent_interfaces(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let guest = find(call, Kind::Qemu)?;
    // The order is the one of assert_agent_available (qemu-server: PVE/QemuServer/Agent.pm).
    if guest.agent == Agent::Absent {
        return Err(Refusal::error("No QEMU guest agent configured"));
    }
    if guest.status == Status::Stopped {
        return Err(Refusal::error(format!("VM {} is not running", guest.vmid)));
    }
    match guest.agent {
        Agent::Absent | Agent::Silent => Err(Refusal::error("QEMU guest agent is not running")),
        Agent::Refuses => Ok(Body::of(&json!({"result": {"error": {
            "class": "CommandNotFound",
            "desc": "The command guest-network-get-interfaces has been disabled for this instance",
        }}}))),
        Agent::Answers => {
            let list: Vec<Value> = guest.interfaces.iter().map(agent_interface).collect();
            Ok(Body::of(&json!({"result": list})))
        }
    }
}

fn agent_interface(interface: &Interface) -> Value {
    let mut row = Map::new();
    row.insert("name".to_owned(), json!(interface.name));
    if let Some(mac) = &interface.mac {
        row.insert("hardware-address".to_owned(), json!(mac));
    }
    if !interface.addresses.is_empty() {
        let addresses = interface.addresses.iter().map(|address| {
            let kind = if address.ip.contains(':') { "ipv6" } else { "ipv4" };
            json!({
                "ip-address": address.ip, "ip-address-type": kind, "prefix": address.prefix,
            })
        });
        row.insert("ip-addresses".to_owned(), addresses.collect());
    }
    row.insert(
        "statistics".to_owned(),
        json!({
            "rx-bytes": 0, "rx-dropped": 0, "rx-errs": 0, "rx-packets": 0,
            "tx-bytes": 0, "tx-dropped": 0, "tx-errs": 0, "tx-packets": 0,
        }),
    );
    Value::Object(row)
}

/// Addresses of a container; `null` while it does not run.
pub(super) fn lxc_interfaces(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let guest = find(call, Kind::Lxc)?;
    if guest.status == Status::Stopped {
        return Ok(Body::of(&Value::Null));
    }
    let list = guest.interfaces.iter().map(|interface| {
        let mut row = Map::new();
        row.insert("name".to_owned(), json!(interface.name));
        for (key, wanted) in [("inet", false), ("inet6", true)] {
            let first = interface.addresses.iter().find(|a| a.ip.contains(':') == wanted);
            if let Some(address) = first {
                let text = format!("{}/{}", address.ip, address.prefix);
                row.insert(key.to_owned(), json!(text));
            }
        }
        let addresses = interface.addresses.iter().map(|address| {
            let kind = if address.ip.contains(':') { "inet6" } else { "inet" };
            json!({
                "ip-address": address.ip,
                "ip-address-type": kind,
                "prefix": address.prefix.to_string(),
            })
        });
        row.insert("ip-addresses".to_owned(), addresses.collect());
        if let Some(mac) = &interface.mac {
            row.insert("hwaddr".to_owned(), json!(mac));
            row.insert("hardware-address".to_owned(), json!(mac));
        }
        Value::Object(row)
    });
    Ok(Body::of(&list.collect::<Vec<_>>()))
}

/// The guest in the path, on the node in the path.
pub(super) fn find<'a>(call: &'a Call<'_>, kind: Kind) -> Result<&'a Guest, Refusal> {
    let vmid = call.vmid()?;
    let node = call.node();
    let found = call.world.guests.get(&vmid);
    found.filter(|guest| guest.kind == kind && guest.node == node).ok_or_else(|| {
        let folder = match kind {
            Kind::Qemu => "qemu-server",
            Kind::Lxc => "lxc",
        };
        Refusal::error(format!(
            "Configuration file 'nodes/{node}/{folder}/{vmid}.conf' does not exist"
        ))
    })
}
