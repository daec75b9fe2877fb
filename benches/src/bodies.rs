//! Answers to `GET /cluster/resources` as PVE 9.2 writes them, one poll after the other.
//!
//! Perl orders the keys of every element, the elements, and the words of a list anew each time;
//! the usage numbers of everything that runs move. What counts as a change is drawn and known.

use bytes::Bytes;
use rand::{
    Rng, SeedableRng,
    rngs::SmallRng,
    seq::{SliceRandom, index},
};

/// How large the cluster is, and how much happens between two polls.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub nodes: usize,
    pub guests: usize,
    /// Guests whose name or status differs from the poll before.
    pub changed_guests: usize,
}

/// Storages that each node has; the first [`SHARED`] are the same everywhere.
const STORAGES: [(&str, &str, &str); 5] = [
    ("ceph-vm", "rbd", "images,rootdir"),
    ("nfs-backup", "nfs", "backup,iso,vztmpl,snippets"),
    ("local", "dir", "images,iso,snippets,rootdir,backup,vztmpl,import"),
    ("local-lvm", "lvmthin", "images,rootdir"),
    ("local-zfs", "zfspool", "rootdir,images"),
];
const SHARED: usize = 2;

const POOLS: [&str; 6] =
    ["production-web", "production-db", "staging", "development", "batch", "infrastructure"];
const TAGS: [&str; 8] = ["prod", "web", "db", "team-a", "team-b", "backup", "critical", "linux"];
const SERVICES: [&str; 6] = ["frontend", "database", "worker", "gateway", "metrics", "queue"];
const GIB: u64 = 1 << 30;

struct Guest {
    vmid: usize,
    kind: &'static str,
    node: String,
    name: String,
    running: bool,
    tags: Vec<&'static str>,
    pool: Option<&'static str>,
    in_ha: bool,
    cpus: u64,
    memory: u64,
    disk: u64,
}

struct Cluster {
    random: SmallRng,
    nodes: Vec<String>,
    /// Changes so far.
    age: usize,
    guests: Vec<Guest>,
}

/// Bodies of polls that follow each other. From each to the next one, and back, `changed_guests`
/// guests, two nodes and two storages differ.
///
/// # Panics
///
/// If more guests are to change than there are.
pub fn generate(size: Size, polls: usize, seed: u64) -> Vec<Bytes> {
    let mut cluster = Cluster::new(size, seed);
    let mut bodies = vec![cluster.body()];
    while bodies.len() < polls {
        cluster.change(size.changed_guests);
        bodies.push(cluster.body());
    }
    bodies
}

/// Nodes and storages that differ between two polls.
pub const CHANGED_NODES: usize = 2;
pub const CHANGED_STORAGES: usize = 2;

/// Rows of type `storage` in each body.
pub fn storages(size: Size) -> usize {
    size.nodes * STORAGES.len()
}

impl Cluster {
    fn new(size: Size, seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let nodes: Vec<String> = (1..=size.nodes).map(|n| format!("pve-rack{n:02}")).collect();
        let guests = (0..size.guests).map(|at| Guest::drawn(at, &nodes, &mut random)).collect();
        Self { random, nodes, age: 0, guests }
    }

    fn change(&mut self, guests: usize) {
        self.age += 1;
        for at in index::sample(&mut self.random, self.guests.len(), guests) {
            let rename = self.random.random_bool(0.5);
            let guest = &mut self.guests[at];
            if rename {
                guest.name = format!("{}-{}", guest.base_name(), self.age);
            } else {
                guest.running = !guest.running;
            }
        }
    }

    fn body(&mut self) -> Bytes {
        let mut rows = Vec::with_capacity(self.guests.len() + self.nodes.len() * 8);
        let random = &mut self.random;
        for guest in &self.guests {
            rows.push(guest.row(random));
        }
        for (at, node) in self.nodes.iter().enumerate() {
            // Each poll another node is the one that has more memory and lacks a storage.
            let odd = at == self.age % self.nodes.len();
            rows.push(node_row(node, odd, random));
            rows.push(network_row(node, random));
            for (number, storage) in STORAGES.iter().enumerate() {
                let lost = odd && number + 1 == STORAGES.len();
                rows.push(storage_row(node, storage, number < SHARED, lost, random));
            }
        }
        for pool in POOLS {
            let row = Row::new("pool").text("id", &format!("/pool/{pool}")).text("pool", pool);
            rows.push(row.shuffled(random));
        }
        rows.shuffle(random);
        Bytes::from(format!("{{\"data\":[{}]}}", rows.join(",")))
    }
}

impl Guest {
    fn drawn(at: usize, nodes: &[String], random: &mut SmallRng) -> Self {
        let mut tags = TAGS.to_vec();
        tags.shuffle(random);
        tags.truncate(random.random_range(0..4));
        let vmid = 10_000 + at;
        let guest = Self {
            vmid,
            kind: if at.is_multiple_of(5) { "lxc" } else { "qemu" },
            node: nodes[random.random_range(0..nodes.len())].clone(),
            name: String::new(),
            running: random.random_bool(0.8),
            tags,
            pool: random.random_bool(0.7).then(|| POOLS[vmid % POOLS.len()]),
            in_ha: random.random_bool(0.3),
            cpus: 1 << random.random_range(0..5),
            memory: GIB << random.random_range(0..6),
            disk: GIB * random.random_range(8..500),
        };
        Self { name: guest.base_name(), ..guest }
    }

    fn base_name(&self) -> String {
        format!("{}-{}.prod.example.net", SERVICES[self.vmid % SERVICES.len()], self.vmid)
    }

    fn row(&self, random: &mut SmallRng) -> String {
        let mut tags = self.tags.clone();
        tags.shuffle(random);
        let mut moving = |below: u64| if self.running { random.random_range(0..below) } else { 0 };
        let mem = moving(self.memory);
        let mut row = Row::new(self.kind)
            .text("id", &format!("{}/{}", self.kind, self.vmid))
            .number("vmid", self.vmid as u64)
            .text("node", &self.node)
            .text("name", &self.name)
            .text("status", if self.running { "running" } else { "stopped" })
            .number("template", 0)
            .number("maxcpu", self.cpus)
            .number("maxmem", self.memory)
            .number("maxdisk", self.disk)
            .number("mem", mem)
            .number("disk", if self.kind == "lxc" { self.disk / 3 } else { 0 })
            .number("netin", moving(1 << 40))
            .number("netout", moving(1 << 40))
            .number("diskread", moving(1 << 42))
            .number("diskwrite", moving(1 << 42))
            .number("uptime", moving(10_000_000));
        if self.kind == "qemu" {
            row = row.number("memhost", mem + mem / 20);
        }
        if !tags.is_empty() {
            row = row.text("tags", &tags.join(";"));
        }
        if let Some(pool) = self.pool {
            row = row.text("pool", pool);
        }
        if self.in_ha {
            row = row.text("hastate", "started");
        }
        let row = if self.running {
            row.share("cpu", random.random::<f64>() * 0.3)
        } else {
            row.number("cpu", 0)
        };
        row.shuffled(random)
    }
}

fn node_row(node: &str, extended: bool, random: &mut SmallRng) -> String {
    Row::new("node")
        .text("id", &format!("node/{node}"))
        .text("node", node)
        .text("status", "online")
        .text("level", "c")
        .number("cgroup-mode", 2)
        .number("maxcpu", 128)
        .number("maxmem", if extended { 2048 * GIB } else { 1024 * GIB })
        .number("mem", random.random_range(0..1024 * GIB))
        .number("maxdisk", 512 * GIB)
        .number("disk", random.random_range(0..512 * GIB))
        .number("uptime", random.random_range(0..10_000_000))
        .share("cpu", random.random::<f64>())
        .shuffled(random)
}

fn network_row(node: &str, random: &mut SmallRng) -> String {
    Row::new("network")
        .text("id", &format!("network/{node}/zone/localnetwork"))
        .text("node", node)
        .text("network", "localnetwork")
        .text("network-type", "zone")
        .text("status", "ok")
        .shuffled(random)
}

fn storage_row(
    node: &str,
    (name, plugin, content): &(&str, &str, &str),
    shared: bool,
    lost: bool,
    random: &mut SmallRng,
) -> String {
    let mut content: Vec<&str> = content.split(',').collect();
    content.shuffle(random);
    Row::new("storage")
        .text("id", &format!("storage/{node}/{name}"))
        .text("node", node)
        .text("storage", name)
        .text("plugintype", plugin)
        .text("content", &content.join(","))
        .number("shared", u64::from(shared))
        .text("status", if lost { "unknown" } else { "available" })
        .number("maxdisk", 8192 * GIB)
        .number("disk", random.random_range(0..8192 * GIB))
        .shuffled(random)
}

/// One element; its words need no escapes.
struct Row(Vec<String>);

impl Row {
    fn new(kind: &str) -> Self {
        Self(Vec::with_capacity(24)).text("type", kind)
    }

    fn text(mut self, key: &str, value: &str) -> Self {
        self.0.push(format!("\"{key}\":\"{value}\""));
        self
    }

    fn number(mut self, key: &str, value: u64) -> Self {
        self.0.push(format!("\"{key}\":{value}"));
        self
    }

    /// With the 15 digits that Perl prints.
    fn share(mut self, key: &str, value: f64) -> Self {
        self.0.push(format!("\"{key}\":{value:.15}"));
        self
    }

    fn shuffled(mut self, random: &mut SmallRng) -> String {
        self.0.shuffle(random);
        format!("{{{}}}", self.0.join(","))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::peer::Answer;

    const SIZE: Size = Size { nodes: 4, guests: 300, changed_guests: 3 };

    fn guests(body: &Bytes) -> BTreeMap<u32, (String, String)> {
        let resources = pve_operator::pve::Resources::parse(body.clone()).unwrap();
        assert_eq!(resources.skipped(), 0);
        assert_eq!(resources.nodes().len(), SIZE.nodes);
        assert_eq!(resources.storages().len(), storages(SIZE));
        let row = |row: &pve_operator::pve::GuestRow<'_>| {
            let text =
                |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().unwrap().to_owned();
            (row.vmid.get(), (text(&row.name), text(&row.status)))
        };
        resources.guests().iter().map(row).collect()
    }

    #[test]
    fn each_poll_differs_from_the_one_before_by_so_many_guests() {
        let bodies = generate(SIZE, 5, 1);

        for pair in bodies.windows(2) {
            let (before, after) = (guests(&pair[0]), guests(&pair[1]));
            assert_eq!(before.len(), SIZE.guests);
            let changed = after.iter().filter(|(vmid, now)| before[vmid] != **now).count();
            assert_eq!(changed, SIZE.changed_guests);
        }
    }

    #[test]
    fn strict_structs_can_read_what_is_generated() {
        let body = &generate(SIZE, 1, 1)[0];

        let owned: Answer<String> = serde_json::from_slice(body).unwrap();
        let borrowed: Answer<&str> = serde_json::from_slice(body).unwrap();

        assert_eq!(owned.data.len(), borrowed.data.len());
        assert!(owned.data.len() > SIZE.guests);
    }
}
