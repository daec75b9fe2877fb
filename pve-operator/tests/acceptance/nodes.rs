//! Nodes that go down, guests in odd states.

use std::time::Duration;

use pve_sim::{Config, Guest, Health};
use schema::node::NodeStatus;

use crate::support::{Mirror, SOON, eventually, on_every_database};

/// A13
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a13_guests_of_an_offline_node_are_unknown_and_stay() {
    on_every_database("a13", async |database| {
        let (mirror, it) = Mirror::of(database, Config::quick().guests(20)).await;
        let ids = async || {
            let mut ids: Vec<_> = mirror.guests(it.id).await.iter().map(|row| row.id).collect();
            ids.sort_unstable();
            ids
        };
        let before = ids().await;

        it.sim.node_down("pve2");
        mirror.until_equal(&it).await;
        let node = mirror.node(it.id, "pve2").await.unwrap();
        assert_eq!(node.synced.status, NodeStatus::Offline);
        let unknown = mirror.guests(it.id).await;
        let unknown = unknown.iter().filter(|row| row.synced.status == "unknown").count();
        assert!(unknown > 0, "this seed puts guests on pve2");

        // By now PVE shows bare rows: no name, no sizes.
        it.sim.skip(Duration::from_mins(10));
        mirror.polls(&it, 4).await;
        mirror.until_equal(&it).await;
        assert_eq!(ids().await, before);

        it.sim.node_up("pve2");
        mirror.until_equal(&it).await;
        assert_eq!(ids().await, before);
    })
    .await;
}

/// A13: seen from a node that lost the others, they are all offline, and nothing of that is proof.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a13_an_isolated_entry_node_deletes_nothing() {
    on_every_database("a13_isolated", async |database| {
        let (mirror, it) = Mirror::of(database, Config::quick().guests(20)).await;

        it.sim.set_health("pve1", Health::Isolated);
        it.sim.remove_guest(104);
        mirror.polls(&it, 6).await;
        assert!(mirror.guests(it.id).await.len() >= 19);

        it.sim.node_up("pve1");
        mirror.until_equal(&it).await;
    })
    .await;
}

/// A12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a12_a_bare_row_keeps_what_was_known() {
    on_every_database("a12", async |database| {
        let hour = Duration::from_hours(1);
        let config = Config { settle: hour, ..Config::quick().guests(10) };
        let (mut mirror, it) = Mirror::of(database, config).await;
        let before = mirror.guest(it.id, 102).await.unwrap();
        let known = it.sim.guest(102).unwrap();

        // From now on its row in the list has neither name nor sizes, and says `unknown`.
        it.sim.add_guest(known.clone().locked("clone"));
        let look = async |mirror: &Mirror| {
            eventually("102 is unknown and locked", SOON, || async {
                let row = mirror.guest(it.id, 102).await.ok_or(None)?;
                let state = (row.synced.status.clone(), row.synced.lock.clone());
                if state == ("unknown".to_owned(), Some("clone".to_owned())) {
                    Ok(row)
                } else {
                    Err(Some(state))
                }
            })
            .await
        };
        for restarted in [false, true] {
            if restarted {
                mirror.stop().await;
                mirror.start().await;
                mirror.polls(&it, 4).await;
            }
            let row = look(&mirror).await;
            assert_eq!(row.id, before.id);
            assert_eq!(row.synced.vm_name, before.synced.vm_name);
            assert_eq!(row.synced.is_template, before.synced.is_template);
            assert_eq!(row.synced.cpu_num, before.synced.cpu_num);
            assert_eq!(row.synced.memory_size, before.synced.memory_size);
        }

        it.sim.set_lock(102, None);
        it.sim.skip(hour * 2);
        mirror.until_equal(&it).await;
        assert_eq!(mirror.guest(it.id, 102).await.unwrap().id, before.id);
    })
    .await;
}

/// A12: a guest that is bare from its first moment has a row at once, and a name later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a12_a_new_guest_has_a_row_before_it_has_a_name() {
    on_every_database("a12_new", async |database| {
        let hour = Duration::from_hours(1);
        let config = Config { settle: hour, ..Config::quick().guests(3) };
        let (mirror, it) = Mirror::of(database, config).await;

        it.sim.add_guest(Guest::qemu(900, "pve1").named("late").locked("create"));
        let row = eventually("900 has a row", SOON, || async {
            mirror.guest(it.id, 900).await.ok_or("none")
        })
        .await;
        assert_eq!((&*row.synced.status, &row.synced.vm_name), ("unknown", &None));

        it.sim.skip(hour * 2);
        mirror.until_equal(&it).await;
        assert_eq!(mirror.guest(it.id, 900).await.unwrap().id, row.id);
    })
    .await;
}
