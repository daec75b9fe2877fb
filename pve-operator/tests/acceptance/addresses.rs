//! Addresses that guests tell.

use pve_sim::{Agent, Config, Guest, Interface, Status};

use crate::support::{Followed, Mirror, SOON, eventually, on_every_database};

/// Waits until a guest has these addresses, all stale or none.
async fn until_addresses(mirror: &Mirror, it: &Followed, vmid: u32, stale: bool, wanted: &[&str]) {
    let what = format!("{vmid} on {} has {wanted:?}, stale: {stale}", mirror.kind());
    eventually(&what, SOON, || async {
        let rows = mirror.addresses(it.id, vmid).await;
        let fresh: Vec<_> = rows.iter().map(|(row, _)| row.address.ip_address.as_str()).collect();
        let right = fresh == wanted && rows.iter().all(|(_, it)| *it == stale);
        if right { Ok(()) } else { Err(rows) }
    })
    .await;
}

/// A18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a18_addresses_of_machines_and_containers_are_mirrored() {
    on_every_database("a18", async |database| {
        let (mirror, it) = Mirror::of(database, Config::quick().guests(3)).await;

        it.sim.add_guest(
            Guest::qemu(900, "pve1").running().with_ips(&["10.0.0.5/24", "2001:db8::5/64"]),
        );
        it.sim.add_guest(Guest::lxc(901, "pve2").running().with_ips(&["10.0.0.6/24"]));
        let windows = Guest::qemu(902, "pve3").running();
        let mac = windows.mac();
        it.sim.add_guest(windows);
        it.sim.change_guest(902, |guest| {
            guest.interfaces = vec![
                Interface::new("以太网 2", Some(&mac), &["10.0.0.7/24", "fe80::1%3/-1"]),
                Interface::new("Loopback Pseudo-Interface 1", None, &["127.0.0.1/8", "::1/128"]),
                Interface::new("tun0", None, &["10.8.0.2/24"]),
                Interface::new("without", None, &[]),
            ];
        });

        until_addresses(&mirror, &it, 900, false, &["10.0.0.5", "2001:db8::5"]).await;
        until_addresses(&mirror, &it, 901, false, &["10.0.0.6"]).await;
        eventually("what Windows tells is there", SOON, || async {
            let rows = mirror.addresses(it.id, 902).await;
            let found: Vec<_> = rows
                .iter()
                .map(|(row, _)| row.address.ip_address.split('%').next().unwrap().to_owned())
                .collect();
            if found == ["10.0.0.7", "10.8.0.2", "fe80::1"] { Ok(()) } else { Err(found) }
        })
        .await;
        let rows = mirror.addresses(it.id, 902).await;
        let of = |nic: &str| {
            rows.iter().find(|(row, _)| row.address.nic_name == nic).unwrap().0.address.clone()
        };
        assert_eq!(of("以太网 2").network_id.as_deref(), Some("vmbr0"));
        assert_eq!(of("tun0").mac_address, None);
    })
    .await;
}

/// A18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a18_a_silent_agent_leaves_the_last_addresses_stale() {
    on_every_database("a18_stale", async |database| {
        let (mirror, it) = Mirror::of(database, Config::quick().guests(0)).await;
        let guest = Guest::qemu(900, "pve1").running().with_ips(&["10.0.0.5/24", "10.0.0.6/24"]);
        it.sim.add_guest(guest);
        let told = ["10.0.0.5", "10.0.0.6"];
        until_addresses(&mirror, &it, 900, false, &told).await;

        for agent in [Agent::Silent, Agent::Refuses] {
            it.sim.set_agent(900, agent);
            until_addresses(&mirror, &it, 900, true, &told).await;
            it.sim.set_agent(900, Agent::Answers);
            until_addresses(&mirror, &it, 900, false, &told).await;
        }
        it.sim.set_status(900, Status::Stopped);
        until_addresses(&mirror, &it, 900, true, &told).await;
        it.sim.set_status(900, Status::Running);
        it.sim.set_ips(900, &["10.0.0.6/24", "10.0.0.7/24"]);
        until_addresses(&mirror, &it, 900, false, &["10.0.0.6", "10.0.0.7"]).await;

        it.sim.remove_guest(900);
        mirror.until_equal(&it).await;
        assert_eq!(mirror.rows(it.id).await[4], 0, "a guest's addresses go with it");
    })
    .await;
}
