//! What happens to rows when PVE lists less than before.

use std::time::Duration;

use pve_sim::{Config, FaultKind, FaultRule, Guest};

use crate::support::{Followed, Mirror, SOON, eventually, on_every_database};

/// Ids, and when each row was last changed.
async fn marks(mirror: &Mirror, cluster: &Followed) -> Vec<(i64, i64, schema::Timestamp)> {
    let mut rows = mirror.guests(cluster.id).await;
    rows.sort_unstable_by_key(|row| row.id);
    rows.iter().map(|row| (row.id.0, row.synced.vmid, row.gmt_modified)).collect()
}

fn suspicious(mirror: &Mirror) -> u64 {
    mirror.metric("pve_operator_suspicious_shrink", &["kind=\"guest\""])
}

/// A01
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a01_a_token_that_lost_its_audit_right_deletes_nothing() {
    on_every_database("a01", async |database| {
        let (mut mirror, it) = Mirror::of(database, Config::quick().guests(20)).await;
        mirror.until_reason(&it, "Synced").await;
        let ids = |marks: &[(i64, i64, _)]| marks.iter().map(|it| (it.0, it.1)).collect::<Vec<_>>();
        let before = marks(&mirror, &it).await;

        it.sim.withdraw("/", &["VM.Audit"]);
        let status = mirror.until_reason(&it, "SuspiciousShrink").await;
        mirror.polls(&it, 6).await;

        assert!(status.message.as_deref().is_some_and(|it| it.contains("Grant VM.Audit on /vms")));
        assert!(status.suspicious_since.is_some());
        assert!(suspicious(&mirror) > 0);
        assert_eq!(ids(&marks(&mirror, &it).await), ids(&before));

        mirror.kill().await;
        mirror.start().await;
        mirror.until_reason(&it, "SuspiciousShrink").await;
        mirror.polls(&it, 6).await;
        assert_eq!(ids(&marks(&mirror, &it).await), ids(&before), "after a restart");

        it.sim.grant("/", &["VM.Audit"]);
        mirror.until_reason(&it, "Synced").await;
        mirror.until_equal(&it).await;
        assert_eq!(ids(&marks(&mirror, &it).await), ids(&before), "after the right is back");
        assert!(suspicious(&mirror) == 0);
        assert_eq!(mirror.metric("pve_operator_rows_written_total", &["pve_vm", "delete"]), 0);
    })
    .await;
}

/// A01
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a01_one_guest_that_the_token_may_no_longer_see_stays() {
    on_every_database("a01_one", async |database| {
        let (mirror, it) = Mirror::of(database, Config::quick().guests(20)).await;
        let before = marks(&mirror, &it).await.len();

        it.sim.withdraw("/vms/104", &["VM.Audit"]);
        mirror.until_reason(&it, "SuspiciousShrink").await;
        mirror.polls(&it, 6).await;

        assert_eq!(marks(&mirror, &it).await.len(), before);
    })
    .await;
}

/// A01
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a01_an_empty_list_deletes_nothing_and_is_told() {
    on_every_database("a01_empty", async |database| {
        let (mirror, it) = Mirror::of(database, Config::quick().guests(20)).await;
        mirror.until_reason(&it, "Synced").await;
        let before = marks(&mirror, &it).await;

        it.sim.fault(FaultRule::new("/cluster/resources", FaultKind::EmptyList));
        mirror.until_reason(&it, "SuspiciousShrink").await;
        mirror.polls(&it, 6).await;
        let during = (mirror.guests(it.id).await.len(), mirror.nodes(it.id).await.len());
        let storages = mirror.storages(it.id).await.len();
        it.sim.clear_faults();
        mirror.until_reason(&it, "Synced").await;

        assert_eq!((during, storages), ((20, 3), 9));
        mirror.until_equal(&it).await;
        let ids = |marks: Vec<(i64, i64, _)>| marks.into_iter().map(|it| it.0).collect::<Vec<_>>();
        assert_eq!(ids(marks(&mirror, &it).await), ids(before));
    })
    .await;
}

/// A05
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a05_the_last_guest_of_a_node_goes_within_two_polls() {
    on_every_database("a05", async |database| {
        let mut mirror = Mirror::stopped(database);
        mirror.option("--poll-interval", "1s");
        let sim = crate::support::simulate(Config::quick().guests(0));
        for (vmid, node) in [(100, "pve1"), (101, "pve1"), (102, "pve2"), (900, "pve3")] {
            sim.add_guest(Guest::qemu(vmid, node).running());
        }
        let it = mirror.follow("sim", sim).await;
        mirror.start().await;
        mirror.until_equal(&it).await;

        it.sim.remove_guest(900);
        it.sim.reset_counters();
        eventually("guest 900 has no row", SOON, || async {
            if mirror.guest(it.id, 900).await.is_none() { Ok(()) } else { Err("it has") }
        })
        .await;

        let lists = it.sim.counters().of("GET", "/cluster/resources");
        assert!(lists <= 3, "two lists without it, and perhaps one that was on its way: {lists}");
        mirror.until_equal(&it).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_all_guests_can_really_go() {
    on_every_database("half", async |database| {
        let (mirror, it) = Mirror::of(database, Config::quick().guests(30)).await;

        for vmid in 100..115 {
            it.sim.remove_guest(vmid);
        }

        mirror.until_equal(&it).await;
        mirror.until_reason(&it, "Synced").await;
    })
    .await;
}

/// What a node without quorum shows may be old.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_deleted_without_quorum() {
    on_every_database("quorum", async |database| {
        let (mirror, it) = Mirror::of(database, Config::quick().guests(12)).await;

        it.sim.set_quorum(false);
        it.sim.remove_guest(105);
        mirror.polls(&it, 8).await;
        assert!(mirror.guest(it.id, 105).await.is_some(), "deleted without quorum");
        let reason = mirror.status(it.id).await.unwrap().reason;
        assert!(["SuspiciousShrink", "NoQuorum"].contains(&&*reason), "{reason}");

        it.sim.set_quorum(true);
        mirror.until_equal(&it).await;
        mirror.until_reason(&it, "Synced").await;
    })
    .await;
}

/// PVE cannot say whether its permissions still hold: there is no proof then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_deleted_while_permissions_are_not_told() {
    on_every_database("no_proof", async |database| {
        let (mirror, it) = Mirror::of(database, Config::quick().guests(12)).await;

        let refuse = FaultKind::Status { code: 500, reason: "got timeout".to_owned() };
        it.sim.fault(FaultRule::new("/access/permissions", refuse));
        it.sim.remove_guest(105);
        mirror.polls(&it, 6).await;
        assert!(mirror.guest(it.id, 105).await.is_some(), "deleted without proof");

        it.sim.clear_faults();
        mirror.until_equal_within(Duration::from_secs(30), &it).await;
    })
    .await;
}

/// A number that changes hands between two polls, from a virtual machine to a container.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_in_the_place_of_a_machine_is_another_guest() {
    on_every_database("replaced", async |database| {
        let (mirror, it) = Mirror::of(database, Config::quick().guests(5)).await;
        let vmid = it.sim.create_guest(pve_sim::Kind::Qemu, "pve1");
        mirror.until_equal(&it).await;
        let before = mirror.guest(it.id, vmid).await.unwrap();
        mirror.sql(&format!("UPDATE pve_vm SET appid = 'shop' WHERE vmid = {vmid}")).await;

        it.sim.add_guest(Guest::lxc(vmid, "pve2").named("other").running());
        mirror.until_equal(&it).await;

        let after = mirror.guest(it.id, vmid).await.unwrap();
        assert_ne!(after.id, before.id);
        assert_eq!(after.appid, None, "what people wrote about the machine is not the container's");
    })
    .await;
}
