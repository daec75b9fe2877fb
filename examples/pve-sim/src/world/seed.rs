//! Draws a cluster's guests and storages from a seed.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::{Agent, Guest, Kind, Status, Storage, World};
use crate::config::Config;

/// Names that once tripped somebody up come first.
const ROLES: [&str; 12] = [
    "web", "db", "cache", "queue", "build", "mail", "dns", "proxy", "metrics", "git", "api", "vpn",
];
const TAGS: [&str; 6] = ["prod", "test", "k8s", "debian", "backup", "team-a"];
const POOLS: [&str; 3] = ["prod", "staging", "lab"];
const GIB: u64 = 1 << 30;

/// Fills an empty world: the usual storages, three pools, and guests on all nodes.
pub(crate) fn populate(world: &mut World, config: &Config) {
    let mut rng = SmallRng::seed_from_u64(config.seed);
    world.storages = if config.storages.is_empty() { usual() } else { config.storages.clone() };
    world.pools = POOLS.iter().map(|&pool| pool.to_owned()).collect();
    let nodes: Vec<String> = world.nodes.keys().cloned().collect();
    for n in 0..u32::try_from(config.guests).expect("fewer guests than VMIDs") {
        let guest = draw(n, config.first_vmid + n, &nodes, &mut rng);
        world.put_first(guest);
    }
}

/// What an installer makes, and a shared storage.
fn usual() -> Vec<Storage> {
    vec![
        Storage::new("local", "dir", &["iso", "vztmpl", "backup", "snippets", "import"])
            .option("path", "/var/lib/vz"),
        Storage::new("local-lvm", "lvmthin", &["images", "rootdir"])
            .option("thinpool", "data")
            .option("vgname", "pve"),
        Storage::new("nfs-shared", "nfs", &["images", "iso", "import"])
            .shared()
            .option("path", "/mnt/pve/nfs-shared")
            .option("server", "192.0.2.10")
            .option("export", "/srv/pve"),
    ]
}

fn draw(n: u32, vmid: u32, nodes: &[String], rng: &mut SmallRng) -> Guest {
    let node = nodes.choose(rng).expect("a cluster has a node");
    let kind = if n % 5 == 3 { Kind::Lxc } else { Kind::Qemu };
    let mut guest = match kind {
        Kind::Qemu => Guest::qemu(vmid, node),
        Kind::Lxc => Guest::lxc(vmid, node),
    };
    guest = guest.sized(
        rng.random_range(1..=8),
        GIB << rng.random_range(0..5),
        GIB * rng.random_range(4..=200),
    );
    guest.name = match n {
        0 => "sync-gateway".to_owned(),
        _ => format!("{}-{vmid}", ROLES.choose(rng).expect("roles are listed above")),
    };
    if n % 13 == 7 && kind == Kind::Qemu {
        guest.template = true;
        guest.name = format!("tmpl-debian13-{vmid}");
        guest.config.insert(
            "scsi0".to_owned(),
            format!("local-lvm:base-{vmid}-disk-0,size={}G", guest.maxdisk / GIB).into(),
        );
    } else if rng.random_bool(0.8) {
        guest.status = Status::Running;
        guest.uptime_before = Duration::from_secs(rng.random_range(60..9_000_000));
    }
    for tag in TAGS {
        if rng.random_bool(0.2) {
            guest.tags.push(tag.to_owned());
        }
    }
    if rng.random_bool(0.5) {
        guest.pool = POOLS.choose(rng).map(|&pool| pool.to_owned());
    }
    if n % 17 == 11 {
        guest.hastate = Some("started".to_owned());
    }
    if n % 11 == 5 {
        guest.agent = Agent::Silent;
    }
    let [_, high, mid, low] = vmid.to_be_bytes();
    let v4 = format!("10.{high}.{mid}.{low}/24");
    let v6 = format!("2001:db8::{vmid:x}/64");
    guest.set_ips(&[&v4, &v6]);
    guest
}
