//! Puts a simulator into the state in which a recording was made.
//!
//! The recordings do not say which guests, storages and tasks there were, nor which node was
//! asked. Guests, storages and tasks are read from the rows of the answer, and only their plain
//! facts: what follows from a fact (a new guest's bare row, an offline node's missing numbers,
//! a filtered row) is left to the simulator. To every state strangers are added that the caller
//! may not see. Which node was asked shows in the `Connection` headers: two where the answer
//! came by way of another node.

use std::collections::BTreeMap;
use std::sync::Arc;

use pve_sim::{
    AUDIT, File, Guest, Health, PRIVILEGES, Sim, Status, Storage, Task, Token, Volume, World,
};
use serde_json::Value;

use crate::recording::Recording;

const SECRET: &str = "00000000-0000-0000-0000-000000000000";

/// The lines of every task's log, as far as any recording has them.
pub(crate) type Logs = BTreeMap<String, BTreeMap<u64, String>>;

/// Gathers the lines of task logs from all recordings.
pub(crate) fn logs(recordings: &[Recording]) -> Logs {
    let mut logs = Logs::new();
    for recording in recordings {
        let parts = recording.parts();
        if parts.last().is_some_and(|last| last == "log") && recording.status == 200 {
            let log = logs.entry(parts[3].clone()).or_default();
            log.extend(recording.rows().iter().map(|row| (number(row, "n"), text(row, "t"))));
        }
    }
    logs
}

/// Makes the state; returns the node to ask.
pub(crate) fn prepare(sim: &Sim, recording: &Recording, logs: &Logs) -> String {
    for node in sim.nodes() {
        if node.health != Health::Up {
            sim.node_up(&node.name);
        }
    }
    sim.edit(|world| {
        world.guests.clear();
        world.storages.clear();
        world.pools.clear();
        world.tasks.clear();
        world.files.clear();
        world.volumes.clear();
        world.next_id = (100, 1_000_000);
        for node in world.nodes.values_mut() {
            (node.cpus, node.maxmem, node.maxdisk) = (2, 25_324_822_528, 270_553_174_016);
        }
        tokens(world, recording);
    });
    let entry = entry(sim, recording);
    health(sim, recording, &entry);
    let parts = recording.parts();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["cluster", "resources"] => resources(sim, recording),
        ["cluster", "nextid"] => sim.edit(|world| numbers(world, recording)),
        ["cluster", "tasks"] => sim.edit(|world| task_rows(world, recording)),
        ["nodes", node, "tasks"] => sim.edit(|world| {
            task_rows(world, recording);
            older_tasks(world, recording, node);
        }),
        ["nodes", _, "tasks", upid, what] => {
            sim.edit(|world| task(world, recording, upid, what, logs));
        }
        ["nodes", node, kind @ ("qemu" | "lxc")] => sim.edit(|world| {
            for row in recording.rows() {
                let guest = in_callers_pool(listed_guest(row, node, kind), recording);
                world.guests.insert(guest.vmid, guest);
            }
            let elsewhere = Guest::qemu(99_990, world.nodes.keys().next_back().expect("a node"));
            if elsewhere.node != *node || kind == &"lxc" {
                world.guests.insert(99_990, elsewhere);
            }
        }),
        ["nodes", node, "qemu", vmid, ..] => {
            let vmid = vmid.parse().expect("a number");
            sim.edit(|world| one_guest(world, recording, node, vmid));
        }
        ["nodes", node, "storage", storage, "content", ..] => sim.edit(|world| {
            content(world, recording, node, storage);
        }),
        ["storage", ..] | ["nodes", _, "storage", ..] => sim.edit(|world| {
            world.storages = storage_rows(recording);
        }),
        _ => {}
    }
    sim.edit(|world| strangers(world, recording));
    entry
}

fn tokens(world: &mut World, recording: &Recording) {
    let staging = [
        "Datastore.AllocateTemplate",
        "Datastore.AllocateSpace",
        "Datastore.Audit",
        "Datastore.Allocate",
    ];
    let build: Vec<&str> =
        PRIVILEGES.into_iter().filter(|name| name.starts_with("VM.Config")).collect();
    let machines: Vec<&str> = PRIVILEGES
        .into_iter()
        .filter(|name| name.starts_with("VM.") || name.starts_with("Datastore."))
        .collect();
    // Recordings hide secrets, so a wrong one looks like a right one.
    let wrong = recording.file.contains("bad_secret") || recording.file.contains("badauth");
    let root = if wrong { "another" } else { SECRET };
    let token = |id: &str| Token::new(id, SECRET);
    // Number 693 gave this one a role on a pool.
    let none = match recording.number {
        693.. => token("none@pve!tk").granted("/pool/team", &["VM.Audit"]),
        _ => token("none@pve!tk"),
    };
    let all = [
        Token::new("root@pam!full", root).with_everything(),
        token("root@pam!sep"),
        token("ro@pve!tk").granted("/", &AUDIT).granted("/", &["SDN.Audit"]),
        token("op@pve!tk").granted("/", &machines),
        none,
        token("tmpl@pve!sep"),
        token("py@pve!tk").granted("/pool/ptest", &staging),
        token("px@pve!tk").granted("/vms", &["VM.Audit"]),
        token("tmpl@pve!tk")
            .granted("/storage/local2", &staging)
            .granted("/storage/local", &["Datastore.AllocateSpace", "Datastore.Audit"])
            .granted("/storage/shared", &staging)
            .granted("/pool/tmpl", &build)
            .granted("/pool/tmpl", &["VM.Allocate", "VM.Audit", "VM.Clone"])
            .granted("/sdn/zones/localnetwork/vmbr0", &["SDN.Use"])
            .granted("/nodes", &["Sys.AccessNetwork"]),
    ];
    world.tokens.retain(|id, _| id == "root@pam!sim");
    for token in all {
        world.tokens.insert(token.id.clone(), Arc::new(token));
    }
}

fn entry(sim: &Sim, recording: &Recording) -> String {
    let first = sim.first_node().to_owned();
    let on = |name: &str| recording.file.contains(name);
    if on("noquorum_pve3") || on("n_down_pve3") {
        return "pve3".to_owned();
    }
    if let Some(local) = recording.rows().iter().find(|row| row["local"] == 1) {
        return text(local, "name");
    }
    let parts = recording.parts();
    let node = match parts.as_slice() {
        [first, node, ..] if first == "nodes" => node.clone(),
        _ => return first,
    };
    let by_another = matches!(
        recording.connection.as_str(),
        "Keep-Alive,Keep-Alive" | "close,Keep-Alive,Keep-Alive"
    );
    let known = sim.nodes().iter().any(|known| known.name == node);
    match (known, by_another) {
        (true, false) if recording.status == 200 => node,
        (true, true) if node == first => "pve2".to_owned(),
        _ => first,
    }
}

fn health(sim: &Sim, recording: &Recording, entry: &str) {
    let parts = recording.parts();
    let target = parts.get(1).map_or(entry, String::as_str);
    match (recording.status, recording.reason.as_str()) {
        (595, "Connection refused") if target == entry => {
            sim.set_health(target, Health::DaemonDown);
        }
        (595, "Connection refused") => sim.set_health(target, Health::ProxyDown),
        (595, "No route to host") => sim.node_down(target),
        (596, _) => sim.set_health(target, Health::DaemonHung),
        _ => {}
    }
    let away: Vec<String> = recording
        .rows()
        .iter()
        .filter(|row| row["type"] == "node" && (row["online"] == 0 || row["status"] == "offline"))
        .map(|row| row.get("node").map_or_else(|| text(row, "name"), |_| text(row, "node")))
        .collect();
    // One of three away is off; two of three away means that we asked the one that is cut off.
    if away.len() > 1 {
        sim.set_health(entry, Health::Isolated);
    } else if let [one] = away.as_slice() {
        sim.node_down(one);
    }
}

fn resources(sim: &Sim, recording: &Recording) {
    for row in recording.rows() {
        match row["type"].as_str() {
            Some(kind @ ("qemu" | "lxc")) => {
                let node = text(row, "node");
                let guest = listed_guest(row, &node, kind);
                let guest = match row["pool"].as_str() {
                    Some(pool) => guest.in_pool(pool),
                    None => in_callers_pool(guest, recording),
                };
                sim.edit(|world| pool(world, guest.pool.as_deref()));
                if row["status"] == "unknown" {
                    sim.add_guest(guest); // Its row is bare while it is new.
                } else {
                    sim.edit(|world| world.guests.insert(guest.vmid, guest));
                }
            }
            Some("pool") => sim.edit(|world| pool(world, row["pool"].as_str())),
            _ => {}
        }
    }
    sim.edit(|world| world.storages = storage_rows(recording));
}

fn pool(world: &mut World, name: Option<&str>) {
    if let Some(name) = name
        && !world.pools.iter().any(|known| known == name)
    {
        world.pools.push(name.to_owned());
    }
}

fn listed_guest(row: &Value, node: &str, kind: &str) -> Guest {
    let vmid = u32::try_from(number(row, "vmid")).expect("a VMID");
    let mut guest = match kind {
        "lxc" => Guest::lxc(vmid, node),
        _ => Guest::qemu(vmid, node),
    };
    facts(&mut guest, row);
    guest
}

/// The plain facts of a guest that its rows and its state tell.
fn facts(guest: &mut Guest, row: &Value) {
    if let Some(name) = row["name"].as_str() {
        name.clone_into(&mut guest.name);
    }
    guest.status = match row["qmpstatus"].as_str().or(row["status"].as_str()) {
        Some("running") => Status::Running,
        Some("paused") => Status::Paused,
        _ => Status::Stopped,
    };
    guest.template = row["template"] == 1;
    guest.tags = tags(row);
    guest.lock = row["lock"].as_str().map(str::to_owned);
    guest.maxmem = row["maxmem"].as_u64().unwrap_or(guest.maxmem);
    guest.maxdisk = row["maxdisk"].as_u64().unwrap_or(guest.maxdisk);
    let cpus = row["maxcpu"].as_u64().or(row["cpus"].as_u64()).unwrap_or(1);
    guest.cpus = u32::try_from(cpus).expect("few processors");
    guest.config.clear();
    let configured = [("serial", "serial0", "socket"), ("agent", "agent", "enabled=1")];
    for (seen, key, value) in configured {
        if row[seen] == 1 {
            guest.config.insert(key.to_owned(), value.into());
        }
    }
    if row.get("clipboard").is_some() {
        guest.config.insert("vga".to_owned(), "serial0".into());
    }
}

fn one_guest(world: &mut World, recording: &Recording, node: &str, vmid: u32) {
    let data = &recording.body["data"];
    if matches!(recording.status, 595 | 596) {
        world.guests.insert(vmid, in_callers_pool(Guest::qemu(vmid, node), recording));
        return;
    }
    if recording.status != 200 {
        // Somewhere else, or not at all: both are refused alike.
        let elsewhere = world.nodes.keys().find(|name| *name != node).cloned();
        if let (Some(elsewhere), true) =
            (elsewhere, recording.file.contains("wrong") || recording.file.contains("old_node"))
        {
            world.guests.insert(vmid, in_callers_pool(Guest::qemu(vmid, &elsewhere), recording));
        }
        return;
    }
    let mut guest = Guest::qemu(vmid, node);
    if recording.path().ends_with("/config") {
        guest.name = data["name"].as_str().map_or(format!("VM {vmid}"), str::to_owned);
        guest.tags = tags(data);
        guest.template = data["template"] == 1;
        guest.lock = data["lock"].as_str().map(str::to_owned);
        let fields = ["name", "tags", "template", "lock", "digest"];
        let rest = data.as_object().expect("a configuration").iter();
        guest.config = rest
            .filter(|(key, _)| !fields.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
    } else {
        facts(&mut guest, data);
    }
    world.guests.insert(vmid, in_callers_pool(guest, recording));
}

fn in_callers_pool(guest: Guest, recording: &Recording) -> Guest {
    match recording.caller() {
        "tmpl@pve!tk" => guest.in_pool("tmpl"),
        "none@pve!tk" => guest.in_pool("team"),
        _ => guest,
    }
}

fn tags(row: &Value) -> Vec<String> {
    let tags = row["tags"].as_str().unwrap_or_default();
    tags.split(';').filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
}

/// Storages of `/storage`, of a node's list, of a storage's state, or of resources.
fn storage_rows(recording: &Recording) -> Vec<Storage> {
    let one = std::slice::from_ref(&recording.body["data"]);
    let rows = if recording.body["data"].is_object() { one } else { recording.rows() };
    let mut found: BTreeMap<String, Storage> = BTreeMap::new();
    for row in rows {
        let plugin = row["plugintype"].as_str().or(row["type"].as_str()).unwrap_or_default();
        let name = row["storage"]
            .as_str()
            .map(str::to_owned)
            .or_else(|| recording.parts().get(3).cloned());
        let (Some(content), Some(name)) = (row["content"].as_str(), name) else { continue };
        let mut storage = Storage::new(&name, plugin, &content.split(',').collect::<Vec<_>>());
        storage.shared = row["shared"] == 1;
        storage.total = row["total"].as_u64().or(row["maxdisk"].as_u64()).unwrap_or(storage.total);
        for key in ["path", "prune-backups", "bwlimit", "priority"] {
            if let Some(value) = row.get(key) {
                storage = storage.option(key, value.clone());
            }
        }
        found.insert(name, storage);
    }
    if recording.status == 403 {
        let name = recording.parts().get(3).cloned().unwrap_or_default();
        found.insert(name.clone(), Storage::new(&name, "dir", &["iso"]));
    }
    found.into_values().collect()
}

/// Files and disks of a storage, and a guest for each disk that the caller could see.
fn content(world: &mut World, recording: &Recording, node: &str, storage: &str) {
    if !recording.reason.ends_with("does not exist") {
        let all = ["images", "rootdir", "iso", "vztmpl", "backup", "snippets", "import"];
        let folder = if storage == "local" { "/var/lib/vz" } else { "/var/lib/vz2" };
        let mut here = Storage::new(storage, "dir", &all).option("path", folder);
        if recording.reason.contains("is not available on node") {
            here = here.only_on(&["elsewhere"]);
        }
        here.pool = (recording.caller() == "py@pve!tk").then(|| "ptest".to_owned());
        world.storages.push(here);
    }
    let one = std::slice::from_ref(&recording.body["data"]);
    let parts = recording.parts();
    let named = parts.get(5..).filter(|parts| !parts.is_empty());
    let named = named.map(|parts| parts.join("/"));
    for row in if named.is_some() { one } else { recording.rows() } {
        let volid = named.clone().unwrap_or_else(|| text(row, "volid"));
        let (_, name) = volid.split_once(':').expect("a volume");
        if row.is_null() {
            continue;
        }
        if let Some((kind @ ("import" | "iso" | "vztmpl"), file)) = name.split_once('/') {
            let mut file = File::new(storage, Some(node), file, b"");
            kind.clone_into(&mut file.content);
            file.size = row["used"].as_u64().unwrap_or(number(row, "size"));
            file.ctime = number(row, "ctime");
            if row.get("used").is_some() && file.size != number(row, "size") {
                file.head = vec![0; 32];
                file.head[..4].copy_from_slice(b"QFI\xfb");
                file.head[24..].copy_from_slice(&number(row, "size").to_be_bytes());
            }
            world.files.push(file);
            continue;
        }
        let parts: Vec<&str> = name.split('/').collect();
        let last = parts.last().expect("a name").to_string();
        let owner = last.split('-').nth(1).and_then(|n| n.parse::<u32>().ok());
        let Some(owner) = owner else { continue };
        let config = BTreeMap::from([(
            "scsi0".to_owned(),
            Value::from(format!("{storage}:{name},size={}", number(row, "size"))),
        )]);
        let mut guest = in_callers_pool(Guest::qemu(owner, node), recording);
        guest.config = config;
        world.guests.insert(owner, guest);
        let mut volume = Volume::default();
        storage.clone_into(&mut volume.storage);
        volume.node = Some(node.to_owned());
        (volume.vmid, volume.name, volume.format) = (owner, last, text(row, "format"));
        (volume.size, volume.used) = (number(row, "size"), number(row, "used"));
        volume.ctime = number(row, "ctime");
        if let [base_owner, base, ..] = parts.as_slice()
            && parts.len() == 4
        {
            volume.parent = Some(((*base).to_owned(), base_owner.parse().expect("a VMID")));
        }
        world.volumes.push(volume);
    }
}

fn numbers(world: &mut World, recording: &Recording) {
    if (1531..=1541).contains(&recording.number) {
        world.next_id = (9000, 9002);
    }
    let node = world.nodes.keys().next().expect("a node").clone();
    let asked = recording.param("vmid").and_then(|vmid| vmid.parse().ok());
    let free = recording.body["data"].as_str().and_then(|vmid| vmid.parse().ok());
    let taken = match (asked, free) {
        (Some(asked), None) => asked..asked + 1,
        (None, Some(free)) => world.next_id.0..free,
        (None, None) => world.next_id.0..world.next_id.1,
        (Some(_), Some(_)) => 0..0,
    };
    world.guests.extend(taken.map(|vmid| (vmid, Guest::qemu(vmid, &node))));
}

fn task_rows(world: &mut World, recording: &Recording) {
    for row in recording.rows() {
        let mut task = Task::from_upid(&text(row, "upid")).expect("a UPID");
        task.end = row["endtime"].as_u64();
        task.exit = task.end.map(|_| text(row, "status"));
        task.fresh = !row["saved"].is_string();
        world.tasks.push(task);
    }
}

/// Tasks before those that fitted into the answer's limit, as many as `total` says.
fn older_tasks(world: &mut World, recording: &Recording, node: &str) {
    let shown = recording.rows().len();
    let total = recording.body["total"].as_u64().unwrap_or(0);
    let Some(oldest) = world.tasks.iter().filter(|task| task.end.is_some()).min_by_key(|t| t.end)
    else {
        return;
    };
    let like = oldest.clone();
    for n in shown as u64..total {
        let mut task = like.clone();
        node.clone_into(&mut task.node);
        task.pstart += n + 1;
        task.end = task.end.map(|end| end - n - 1);
        world.tasks.push(task);
    }
}

fn task(world: &mut World, recording: &Recording, upid: &str, what: &str, logs: &Logs) {
    let Some(mut task) = Task::from_upid(upid) else { return };
    let data = &recording.body["data"];
    let file_missing = data[0]["t"].as_str().is_some_and(|t| t.starts_with("unable to open file"));
    if recording.status == 400 && recording.file.contains("unknown") || file_missing {
        return;
    }
    if what == "status" {
        if data["status"] == "stopped" {
            task = task.ended(task_end(data), &text(data, "exitstatus"));
        }
    } else {
        let total = recording.body["total"].as_u64().unwrap_or(0);
        let lines = logs.get(upid);
        let empty =
            total == 1 && lines.is_none_or(|lines| lines.get(&1).is_none_or(|l| l == "no content"));
        if !empty {
            let line = |n: u64| {
                let here = recording.rows().iter().find(|row| number(row, "n") == n);
                let known = lines.and_then(|lines| lines.get(&n).cloned());
                here.map(|row| text(row, "t")).or(known).unwrap_or_default()
            };
            task.log = (1..=total).map(line).collect();
        }
        if recording.rows().iter().any(|row| row["t"] == "no content") {
            task.log.clear();
        }
    }
    world.tasks.push(task);
}

fn task_end(data: &Value) -> u64 {
    number(data, "starttime") + 1
}

/// What the caller must not see, or must not see here.
fn strangers(world: &mut World, recording: &Recording) {
    let first = world.nodes.keys().next().expect("a node").clone();
    let blind = ["none@pve!tk", "tmpl@pve!tk", "tmpl@pve!sep", "root@pam!sep"];
    if blind.contains(&recording.caller()) && !recording.path().ends_with("nextid") {
        world.guests.insert(99_991, Guest::qemu(99_991, &first).running());
        world.storages.push(Storage::new("hidden", "dir", &["import"]));
        world.pools.push("hidden".to_owned());
        if recording.caller() != "ro@pve!tk" {
            let task = Task::new(&first, "vzdump", "", "somebody@pve", 1_795_290_000);
            world.tasks.push(task.ended(1_795_290_001, "OK"));
        }
    }
    // A filter by type leaves these out.
    if let Some(only) = recording.param("type") {
        if only != "vm" {
            world.guests.insert(99_992, Guest::lxc(99_992, &first));
        }
        if only != "storage" {
            world.storages.push(Storage::new("other", "dir", &["iso"]));
        }
        world.pools.push("other".to_owned());
    }
}

fn text(row: &Value, key: &str) -> String {
    row[key].as_str().unwrap_or_default().to_owned()
}

fn number(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap_or_default()
}
