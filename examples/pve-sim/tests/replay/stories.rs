//! Replays what was done to a real cluster, request by request, on one simulator: each answer is
//! compared, each task is awaited, and its log is compared with the recorded one.
//!
//! `tests/stories` has the recordings. What moves is made equal on both sides: process numbers,
//! dates, speeds, sums, the lines between the first and the last of a copy, and the words of a
//! task that waited for the one before it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use pve_sim::{AUDIT, Config, File, Guest, Health, PRIVILEGES, Sim, Storage, Token};
use serde_json::Value;

use crate::client::{Connection, Reply};
use crate::compare::differences;
use crate::leveled::{is_made_up, leveled, leveled_json, leveled_log, task_name};
use crate::recording::{Recording, in_folder};
use crate::server::{IMAGES, head, serve, sum};

const SECRET: &str = "00000000-0000-0000-0000-000000000000";

/// How many requests there are to compare over all stories; it may grow.
const COMPARED: usize = 279;

/// Recordings of one run, and what lay there before.
struct Story {
    numbers: RangeInclusive<u32>,
    /// Part of the names of its recordings: several runs went on at once.
    named: &'static str,
    standalone: bool,
    before: fn(&Sim),
}

const fn three_nodes(numbers: RangeInclusive<u32>, before: fn(&Sim)) -> Story {
    Story { numbers, named: "", standalone: false, before }
}

static STORIES: [Story; 14] = [
    // A node alone: downloads and their refusals, machines and theirs.
    Story {
        numbers: 185..=304,
        named: "",
        standalone: true,
        before: |sim| {
            put(sim, "local", Some("pve1"), "x.qcow2", "x.qcow2");
            put(sim, "local", Some("pve1"), "disk.raw", "junk.img");
        },
    },
    Story { numbers: 358..=371, named: "", standalone: true, before: |_| {} },
    // From a download to clones and back, on local and on shared storage.
    three_nodes(764..=956, |sim| put(sim, "local", Some("pve1"), "x.qcow2", "x.qcow2")),
    Story { named: "gshared", ..three_nodes(958..=1300, |_| {}) },
    // A create that is killed, and what is asked of its remains.
    Story {
        named: "k_create",
        ..three_nodes(1169..=1195, |sim| {
            put(sim, "local2", Some("pve2"), "kill.qcow2", "big.qcow2");
            sim.kill_next_task("qmcreate", Duration::ZERO);
        })
    },
    // Downloads that break, are refused, or find what they would fetch.
    three_nodes(1302..=1377, |_| {}),
    // Templates of all kinds, and machines that are gone.
    three_nodes(1423..=1526, |sim| {
        put(sim, "local2", Some("pve1"), "m.qcow2", "tiny.qcow2");
        machine(sim, 320, "pve2", &[]);
    }),
    // On a node that is cut off: what is refused, and what fails half-way.
    Story {
        named: "noquorum",
        ..three_nodes(1679..=1700, |sim| {
            put(sim, "local2", Some("pve3"), "nt.qcow2", "tiny.qcow2");
            for vmid in [100, 601, 602, 603] {
                let volid = format!("local:{vmid}/vm-{vmid}-disk-0.qcow2,size=64M");
                let disk = [("scsi0", volid.as_str())];
                machine(sim, vmid, "pve3", if vmid == 601 { &[] } else { &disk });
            }
            sim.set_health("pve3", Health::Isolated);
        })
    },
    // A template made of a linked clone.
    three_nodes(1868..=1905, |sim| {
        let volid = "local:800/base-800-disk-0.qcow2,size=64M";
        machine(sim, 800, "pve2", &[("description", "mk"), ("scsi0", volid)]);
        sim.change_guest(800, |guest| guest.template = true);
    }),
    three_nodes(1967..=1972, |_| {}),
    // An import that is killed, and its disk.
    three_nodes(1977..=1983, |sim| {
        put(sim, "local2", Some("pve2"), "kill.qcow2", "big.qcow2");
        machine(sim, 330, "pve2", &[]);
        sim.kill_next_task("qmconfig", Duration::ZERO);
    }),
    // A machine of which only its lock was made.
    three_nodes(1991..=1998, |sim| {
        sim.add_guest(Guest::qemu(332, "pve2").named("VM 332").locked("create"));
        sim.change_guest(332, |guest| guest.config.clear());
    }),
    // Imports and clones that go odd ways.
    three_nodes(2047..=2099, |sim| {
        put(sim, "local2", Some("pve1"), "y.qcow2", "tiny.qcow2");
        let volid = "local:950/vm-950-disk-0.qcow2,size=64M";
        machine(sim, 950, "pve1", &[("description", "orig-marker"), ("scsi0", volid)]);
        sim.rename(950, "y");
        sim.set_tags(950, &["pvet", "pvet-v1"]);
    }),
    // One download to a shared storage, imports on other nodes.
    three_nodes(2131..=2147, |sim| {
        for (vmid, node) in [(990, "pve2"), (991, "pve3")] {
            machine(sim, vmid, node, &[("description", "m")]);
            sim.rename(vmid, &format!("v{vmid}"));
        }
    }),
];

#[test]
fn what_was_done_to_a_real_cluster_happens_here_too() {
    let address = serve();
    let recordings = in_folder("stories");
    let (mut wrong, mut compared) = (Vec::new(), 0);
    let replayed = std::thread::scope(|scope| {
        let threads: Vec<_> = STORIES
            .iter()
            .map(|story| {
                let mine = |one: &&Recording| {
                    story.numbers.contains(&one.number) && one.file.contains(story.named)
                };
                let here: Vec<&Recording> = recordings.iter().filter(mine).collect();
                scope.spawn(move || Replay::new(story, address).run(&here))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a story")).collect::<Vec<_>>()
    });
    for (story_wrong, story_compared) in replayed {
        wrong.extend(story_wrong);
        compared += story_compared;
    }
    println!("{compared} requests and their tasks compared, {} differ", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared >= COMPARED, "only {compared} of {COMPARED}");
}

struct Replay {
    sim: Sim,
    address: SocketAddr,
}

impl Replay {
    fn new(story: &Story, address: SocketAddr) -> Self {
        let config = Config::quick().guests(0);
        let config = if story.standalone { config.standalone() } else { config.nodes(3) };
        let sim = Sim::start(config).expect("it starts");
        let all = ["images", "rootdir", "iso", "vztmpl", "backup", "snippets", "import"];
        sim.edit(|world| {
            world.storages = vec![
                Storage::new("local", "dir", &all).option("path", "/var/lib/vz"),
                Storage::new("local2", "dir", &["images", "rootdir", "iso", "import"])
                    .option("path", "/var/lib/vz2"),
                Storage::new("shared", "dir", &["images", "import"])
                    .shared()
                    .option("path", "/srv/lab/shared"),
            ];
            world.pools = vec!["tmpl".to_owned(), "ptest".to_owned(), "team".to_owned()];
            for token in tokens() {
                world.tokens.insert(token.id.clone(), Arc::new(token));
            }
        });
        (story.before)(&sim);
        Self { sim, address }
    }

    fn run(self, recordings: &[&Recording]) -> (Vec<String>, usize) {
        let logs = logs(recordings);
        let (mut wrong, mut compared) = (Vec::new(), 0);
        for recording in recordings.iter().filter(|recording| is_replayed(recording)) {
            compared += 1;
            let found = self.compared(recording, &logs);
            if !found.is_empty() {
                wrong.push(format!("{}:\n    {}", recording.file, found.join("\n    ")));
            }
        }
        (wrong, compared)
    }

    fn compared(&self, recording: &Recording, logs: &BTreeMap<String, Vec<String>>) -> Vec<String> {
        let reply = self.ask(recording);
        let mut found = Vec::new();
        let mut same = |what: &str, want: &str, got: &str| {
            if want != got {
                found.push(format!("{what} is {got:?}, not {want:?}"));
            }
        };
        same("status", &recording.status.to_string(), &reply.status.to_string());
        same("reason", &leveled(&recording.reason), &leveled(&reply.reason));
        let connection = reply.header("Connection").unwrap_or_default();
        if recording.method == "GET" || recording.status != 200 {
            same("Connection", &recording.connection, &connection);
        }
        let kind = reply.header("Content-Type");
        same("Content-Type", &format!("{:?}", recording.content_type), &format!("{kind:?}"));
        let recorded = recording.body["data"].as_str().filter(|text| text.starts_with("UPID:"));
        let Some(recorded) = recorded else {
            let want = leveled_json(&recording.body);
            found.extend(differences(&want, &leveled_json(&reply.json()), false));
            return found;
        };
        let body = reply.json();
        let upid = body["data"].as_str().unwrap_or_default();
        same("UPID", &task_name(recorded), &task_name(upid));
        if let (Some(want), true) = (logs.get(recorded), upid.starts_with("UPID:")) {
            let got = self.log_of(upid);
            let (want, got) = (leveled_log(want), leveled_log(&got));
            if want != got {
                found.push(format!("log is {got:#?}, not {want:#?}"));
            }
        } else if upid.starts_with("UPID:") {
            self.log_of(upid);
        }
        found
    }

    /// Asks as it was asked, of the image server of today.
    fn ask(&self, recording: &Recording) -> Reply {
        let node = recording.parts().get(1).cloned().unwrap_or_default();
        let via = recording.connection.contains("Keep-Alive,Keep-Alive");
        let known = self.sim.nodes().iter().any(|known| known.name == node);
        let entry = match (known, via) {
            (true, false) => node,
            (true, true) if node == "pve1" => "pve2".to_owned(),
            _ => "pve1".to_owned(),
        };
        let here = |text: &str| {
            let address = self.address.to_string();
            text.replace("127.0.0.1:8898", &address).replace("127.0.0.1:8899", &address)
        };
        let image = |url: &str| {
            url.rsplit('/').next().unwrap_or("").split('?').next().unwrap_or("").to_owned()
        };
        let name = recording.form.iter().find(|(key, _)| key == "url").map(|(_, url)| image(url));
        let algorithm = recording.form.iter().find(|(key, _)| key == "checksum-algorithm");
        let mut form: Vec<(String, String)> = Vec::new();
        for (key, value) in &recording.form {
            let mut value = here(value);
            if key == "checksum" && !is_made_up(&value) {
                let algorithm = algorithm.map_or("sha512", |(_, value)| value.as_str());
                // The URL of one request has no file: what was there has the sum of `tiny`.
                let known = name.clone().filter(|name| sum_is_known(name));
                let name = known.unwrap_or_else(|| "tiny.qcow2".to_owned());
                value = sum(&name, algorithm).expect("an image");
            }
            form.push((key.clone(), value));
        }
        let target = match recording.param("url") {
            Some(url) => {
                let new: String =
                    url::form_urlencoded::byte_serialize(here(&url).as_bytes()).collect();
                let old = recording.target.split("url=").nth(1).unwrap_or_default();
                let old = old.split('&').next().unwrap_or_default();
                recording.target.replace(old, &new)
            }
            None => recording.target.clone(),
        };
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let auth = format!("PVEAPIToken={}={SECRET}", recording.caller());
        let mut connection = Connection::open(&self.sim, &entry).expect("the node listens");
        connection
            .send(&format!(
                "{} /api2/json{target} HTTP/1.1\r\nHost: x\r\nAuthorization: {auth}\r\n\
                 Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
                recording.method,
                body.len()
            ))
            .expect("the node reads");
        connection.reply().expect("the node answers")
    }

    /// Waits for a task's end; returns its log.
    fn log_of(&self, upid: &str) -> Vec<String> {
        loop {
            let task = self.sim.tasks().into_iter().rev().find(|task| task.upid() == upid);
            let task = task.expect("the task was answered");
            if task.end.is_some() && !self.sim.running_tasks().iter().any(|one| one == upid) {
                return task.log;
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
}

fn tokens() -> Vec<Token> {
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
    vec![
        Token::new("root@pam!full", SECRET).with_everything(),
        Token::new("ro@pve!tk", SECRET).granted("/", &AUDIT),
        Token::new("none@pve!tk", SECRET),
        Token::new("tmpl@pve!sep", SECRET),
        Token::new("op@pve!tk", SECRET).granted("/", &machines),
        Token::new("tmpl@pve!tk", SECRET)
            .granted("/storage/local2", &staging)
            .granted("/storage/local", &["Datastore.AllocateSpace", "Datastore.Audit"])
            .granted("/storage/shared", &staging)
            .granted("/pool/tmpl", &build)
            .granted("/pool/tmpl", &["VM.Allocate", "VM.Audit", "VM.Clone"])
            .granted("/sdn/zones/localnetwork/vmbr0", &["SDN.Use"])
            .granted("/nodes", &["Sys.AccessNetwork"]),
    ]
}

/// Whether a recording is replayed: what was asked in the middle of a task is not, and tasks are
/// looked at when they have ended.
fn is_replayed(recording: &Recording) -> bool {
    let parts = recording.parts();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let middle = ["during", "running", "resources"];
    if middle.iter().any(|word| recording.file.contains(word))
        || recording.auth.as_deref() == Some("ticket")
    {
        return false;
    }
    let parts = parts.as_slice();
    match recording.method.as_str() {
        "GET" => matches!(
            parts,
            ["cluster", "nextid"]
                | ["nodes", _, "query-url-metadata"]
                | ["nodes", _, "storage", _, "content", ..]
                | ["nodes", _, "qemu", _, "config"]
                | ["nodes", _, "qemu", _, "status", "current"]
        ),
        "POST" => matches!(
            parts,
            ["nodes", _, "storage", _, "download-url"]
                | ["nodes", _, "qemu"]
                | ["nodes", _, "qemu", _, "config" | "template" | "clone"]
                | ["nodes", _, "qemu", _, "status", "start" | "stop"]
        ),
        "PUT" => matches!(parts, ["nodes", _, "qemu", _, "config"]),
        "DELETE" => {
            matches!(parts, ["nodes", _, "storage", _, "content", ..] | ["nodes", _, "qemu", _])
        }
        _ => false,
    }
}

/// The last whole log of each task.
fn logs(recordings: &[&Recording]) -> BTreeMap<String, Vec<String>> {
    let mut logs = BTreeMap::new();
    for recording in recordings {
        let parts = recording.parts();
        let whole =
            recording.target.contains("start=0") && parts.last().is_some_and(|p| p == "log");
        let lines: Vec<String> = recording
            .rows()
            .iter()
            .map(|row| row["t"].as_str().unwrap_or_default().to_owned())
            .collect();
        if whole && lines.last().is_some_and(|line| line.starts_with("TASK ")) {
            logs.insert(parts[3].clone(), lines);
        }
    }
    logs
}

fn sum_is_known(name: &str) -> bool {
    IMAGES.iter().any(|(known, ..)| known == &name)
}

/// A file of the image server on a storage.
fn put(sim: &Sim, storage: &str, node: Option<&str>, name: &str, image: &str) {
    let (_, bytes, size) = *IMAGES.iter().find(|(known, ..)| *known == image).expect("an image");
    let mut file = File::new(storage, node, name, &head(size));
    file.size = bytes;
    file.sha512 = sum(image, "sha512").expect("an image");
    sim.put_file(file);
}

/// A machine in the pool, as those of the laboratory were, with more keys.
fn machine(sim: &Sim, vmid: u32, node: &str, more: &[(&str, &str)]) {
    let usual = [
        ("boot", "order=scsi0"),
        ("memory", "256"),
        ("scsihw", "virtio-scsi-single"),
        ("meta", ""),
        ("smbios1", ""),
        ("vmgenid", ""),
    ];
    let mut guest = Guest::qemu(vmid, node).in_pool("tmpl");
    let keys = usual.iter().chain(more);
    guest.config = keys.map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
    sim.add_guest(guest);
}
