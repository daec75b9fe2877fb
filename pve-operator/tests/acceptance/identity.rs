//! Rows keep their ids and what people wrote into them.

use pve_sim::{Config, Guest, Status};

use crate::support::{Mirror, SOON, eventually, on_every_database, simulate};

/// A03
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a03_equal_names_and_numbers_in_two_clusters_are_two_guests() {
    on_every_database("a03", async |database| {
        let mut mirror = Mirror::stopped(database);
        let config = |seed| Config::quick().node_names(&["pve"]).standalone().guests(3).seed(seed);
        let one = mirror.follow("one", simulate(config(1))).await;
        let other = mirror.follow("other", simulate(config(2))).await;
        mirror.start().await;
        mirror.until_equal(&one).await;
        mirror.until_equal(&other).await;
        let before = mirror.guest(other.id, 100).await.unwrap().id;

        one.sim.remove_guest(100);
        mirror.until_equal(&one).await;
        mirror.polls(&other, 4).await;

        mirror.until_equal(&other).await;
        assert_eq!(mirror.guest(other.id, 100).await.unwrap().id, before);
    })
    .await;
}

/// A04
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a04_what_people_wrote_survives_every_change_of_pve() {
    on_every_database("a04", async |database| {
        let (mut mirror, it) = Mirror::of(database, Config::quick().guests(6)).await;
        let rack = r#"{"rack": 7, "说明": "ü"}"#;
        mirror
            .sql(&format!(
                "UPDATE pve_node SET is_schedulable = 0, annotations = '{rack}', vm_limit = 30, creator = 'ann' \
                 WHERE node_name = 'pve2'"
            ))
            .await;
        mirror
            .sql("UPDATE pve_vm SET template_id = 7, appid = 'shop', descriptions = '商店', vm_user = 'bob' WHERE vmid = 102")
            .await;
        it.sim.change_guest(102, |guest| "pve2".clone_into(&mut guest.node));
        mirror.until_equal(&it).await;
        let look = async |mirror: &Mirror| {
            let node = mirror.node(it.id, "pve2").await.unwrap();
            let guest = mirror.guest(it.id, 102).await.unwrap();
            (
                (node.id, node.is_schedulable, node.annotations, node.vm_limit, node.gmt_create, node.creator),
                (guest.id, guest.template_id, guest.appid, guest.descriptions, guest.vm_user, guest.gmt_create),
            )
        };
        let before = look(&mirror).await;
        assert_eq!(before.0.2.as_deref(), Some(rack));
        assert_eq!((before.1.1, before.1.2.as_deref()), (Some(7), Some("shop")));

        for status in [Status::Stopped, Status::Running, Status::Paused] {
            it.sim.set_status(102, status);
            mirror.until_equal(&it).await;
        }
        it.sim.node_down("pve2");
        mirror.until_equal(&it).await;
        it.sim.node_up("pve2");
        mirror.until_equal(&it).await;
        it.sim.rename(102, "new-name");
        it.sim.migrate_guest(102, "pve3");
        mirror.until_equal(&it).await;
        mirror.stop().await;
        mirror.option("--full-sync-interval", "300ms");
        mirror.start().await;
        mirror.polls(&it, 6).await;

        assert_eq!(look(&mirror).await, before);
    })
    .await;
}

/// A06
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a06_what_happened_while_nobody_looked_is_caught_up() {
    on_every_database("a06", async |database| {
        let (mut mirror, it) = Mirror::of(database, Config::quick().guests(10)).await;
        it.sim.migrate_guest(102, "pve1");
        mirror.until_equal(&it).await;
        let before = mirror.guest(it.id, 102).await.unwrap();

        mirror.stop().await;
        it.sim.remove_guest(101);
        it.sim.migrate_guest(102, "pve2");
        mirror.start().await;
        mirror.until_equal(&it).await;

        let after = mirror.guest(it.id, 102).await.unwrap();
        assert_eq!((after.id, &*after.synced.node_name), (before.id, "pve2"));
        assert!(mirror.guest(it.id, 101).await.is_none());
        let written =
            |change| mirror.metric("pve_operator_rows_written_total", &["pve_vm", change]);
        let all = ["insert", "update", "delete"].map(written);
        assert_eq!(all, [0, 1, 1], "unchanged rows are recognised");
    })
    .await;
}

/// A10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a10_a_node_comes_goes_and_returns_under_its_id() {
    on_every_database("a10", async |database| {
        let (mirror, it) = Mirror::of(database, Config::quick().guests(30)).await;

        it.sim.add_node("pve9").unwrap();
        it.sim.add_guest(Guest::qemu(900, "pve9").running());
        mirror.until_equal(&it).await;
        let before = mirror.node(it.id, "pve9").await.unwrap();
        mirror.sql("UPDATE pve_node SET vm_limit = 5 WHERE node_name = 'pve9'").await;
        let address = it.sim.nodes().into_iter().find(|node| node.name == "pve9").unwrap().address;
        mirror.polls(&it, 2).await;

        it.sim.remove_node("pve9");
        eventually("the node left", SOON, || async {
            let status = mirror.node(it.id, "pve9").await.map(|node| node.synced.status);
            if status == Some(schema::node::NodeStatus::Removed) { Ok(()) } else { Err(status) }
        })
        .await;
        mirror.until_equal(&it).await;
        let deaf = tokio::net::TcpListener::bind(address).await.unwrap();
        tokio::select! {
            _ = deaf.accept() => panic!("a node that left is asked"),
            () = mirror.polls(&it, 8) => {}
        }
        drop(deaf);

        it.sim.rejoin("pve9").unwrap();
        it.sim.add_guest(Guest::qemu(901, "pve9").running());
        mirror.until_equal(&it).await;
        let after = mirror.node(it.id, "pve9").await.unwrap();
        assert_eq!((after.id, after.vm_limit), (before.id, Some(5)));
        let rows = mirror.nodes(it.id).await;
        assert_eq!(rows.iter().filter(|row| row.synced.node_name == "pve9").count(), 1);
    })
    .await;
}

/// A11, in the tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a11_a_migrating_guest_is_one_row_at_every_moment() {
    on_every_database("a11", async |database| {
        let (mirror, it) = Mirror::of(database, Config::quick().guests(10)).await;
        let before = mirror.guest(it.id, 103).await.unwrap();
        for node in ["pve2", "pve3", "pve1", "pve3"] {
            it.sim.set_lock(103, Some("migrate"));
            it.sim.migrate_guest(103, node);
            it.sim.set_lock(103, None);
            eventually("it arrived", SOON, || async {
                let rows = mirror.guests(it.id).await;
                let rows: Vec<_> = rows.iter().filter(|row| row.synced.vmid == 103).collect();
                assert_eq!(rows.len(), 1, "zero or two rows");
                assert_eq!(rows[0].id, before.id);
                let at = rows[0].synced.node_name.clone();
                if at == node { Ok(()) } else { Err(at) }
            })
            .await;
        }
        mirror.until_equal(&it).await;
    })
    .await;
}
