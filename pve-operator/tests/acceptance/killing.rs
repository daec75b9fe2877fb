//! The operator dies at any moment, and nothing is lost or doubled.

use std::{process::Stdio, time::Duration};

use pve_sim::{Config, Guest, Kind, Sim, Status};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::process::{Child, Command};

use crate::{
    binary::OPERATOR,
    support::{Mirror, on_every_database, simulate},
};

/// One random change, as people and schedulers make them.
pub(crate) fn shake(sim: &Sim, rng: &mut SmallRng) {
    let guests = sim.guests();
    let guest = &guests[rng.random_range(0..guests.len())];
    let node = format!("pve{}", rng.random_range(1..=3));
    match rng.random_range(0..8) {
        0 => drop(sim.create_guest(Kind::Qemu, &node)),
        1 if guests.len() > 25 => sim.remove_guest(guest.vmid),
        2 => sim.migrate_guest(guest.vmid, &node),
        3 => sim.rename(guest.vmid, &format!("name-{}", rng.random::<u16>())),
        4 => sim.set_tags(guest.vmid, &["a", "b"][..rng.random_range(0..=2)]),
        5 => sim.add_guest(Guest::lxc(guest.vmid, &node)),
        6 => sim.set_status(guest.vmid, Status::Running),
        _ => sim.set_status(guest.vmid, Status::Stopped),
    }
}

/// Changes for a random while, which is what the moment of death is random by.
async fn shake_for_a_while(sim: &Sim, rng: &mut SmallRng) {
    for _ in 0..rng.random_range(10..60) {
        shake(sim, rng);
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..20))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_is_torn_down_in_the_middle_catches_up() {
    on_every_database("torn", async |database| {
        let (mut mirror, it) = Mirror::of(database, Config::quick().guests(40)).await;
        for seed in 0..5 {
            let mut rng = SmallRng::seed_from_u64(seed);
            shake_for_a_while(&it.sim, &mut rng).await;
            mirror.kill().await;
            shake(&it.sim, &mut rng);
            mirror.start().await;
            mirror.until_equal(&it).await;
        }
    })
    .await;
}

fn spawn(url: &str) -> Child {
    Command::new(OPERATOR)
        .args(["run", "--database-url", url, "--listen", "127.0.0.1:0"])
        .args(["--poll-interval", "100ms", "--details-interval", "1s"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the command can be run")
}

/// `KILLS=20` for the long form (`scripts/kill-nine`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_nine_loses_and_doubles_nothing() {
    on_every_database("kill_nine", async |database| {
        let kills = std::env::var("KILLS");
        let kills: u64 = kills.map_or(3, |count| count.parse().expect("KILLS is a number"));
        let mirror = Mirror::stopped(database);
        let it = mirror.follow("sim", simulate(Config::quick().guests(40))).await;
        for seed in 0..kills {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut operator = spawn(&mirror.url);
            shake_for_a_while(&it.sim, &mut rng).await;
            operator.kill().await.expect("SIGKILL is sent");
            mirror.leases_expire().await;
        }
        let _operator = spawn(&mirror.url);
        mirror.until_equal(&it).await;
    })
    .await;
}
