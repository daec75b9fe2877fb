//! How little happens when little changes, and how much is held when much does.

use pve_sim::{Config, Status};
use tokio::net::TcpListener;

use crate::support::{Followed, Mirror, SOON, eventually, on_every_database, simulate};

/// Every row of all three tables with its revision.
async fn revisions(mirror: &Mirror, it: &Followed) -> Vec<(&'static str, i64, i64)> {
    let mut all = Vec::new();
    all.extend(mirror.nodes(it.id).await.iter().map(|row| ("node", row.id.0, row.revision.0)));
    all.extend(mirror.guests(it.id).await.iter().map(|row| ("guest", row.id.0, row.revision.0)));
    all.extend(
        mirror.storages(it.id).await.iter().map(|row| ("storage", row.id.0, row.revision.0)),
    );
    all.sort_unstable();
    all
}

/// A07
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a07_moving_numbers_and_shuffled_lists_are_no_change() {
    on_every_database("a07", async |database| {
        let mut mirror = Mirror::stopped(database);
        mirror.option("--details-interval", "1h");
        let it = mirror.follow("sim", simulate(Config::quick().guests(200))).await;
        mirror.start().await;
        mirror.until_equal(&it).await;
        let counts = || {
            let events = mirror.metric("pve_operator_events_total", &[]);
            (events, mirror.metric("pve_operator_rows_written_total", &[]))
        };
        mirror.polls(&it, 2).await;
        let before = counts();

        mirror.polls(&it, 20).await;
        assert_eq!(counts(), before);

        it.sim.rename(142, "renamed");
        mirror.until_equal(&it).await;
        mirror.polls(&it, 2).await;
        assert_eq!(counts(), (before.0 + 1, before.1 + 1));
    })
    .await;
}

/// A07: details that are read again and again change no row either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a07_what_is_read_again_and_is_the_same_is_not_written() {
    on_every_database("a07_details", async |database| {
        let (mirror, it) = Mirror::of(database, Config::quick().guests(12)).await;
        let requests = || mirror.metric("pve_operator_pve_requests_total", &["/config"]);
        let rounds = async |count: u64| {
            let until = requests() + count * 12;
            eventually("details are read again", SOON, || async {
                if requests() >= until { Ok(()) } else { Err(requests()) }
            })
            .await;
        };
        rounds(2).await;
        let before = revisions(&mirror, &it).await;

        rounds(3).await;

        assert_eq!(revisions(&mirror, &it).await, before);
    })
    .await;
}

/// A07: a full sync finds nothing to repair either, and repairs what somebody changed by hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a07_a_full_sync_writes_only_what_differs() {
    on_every_database("a07_full", async |database| {
        let mut mirror = Mirror::stopped(database);
        mirror.option("--full-sync-interval", "500ms");
        mirror.option("--details-interval", "1h");
        let it = mirror.follow("sim", simulate(Config::quick().guests(40))).await;
        mirror.start().await;
        mirror.until_equal(&it).await;
        mirror.polls(&it, 2).await;
        let written = || mirror.metric("pve_operator_rows_written_total", &[]);
        let before = written();
        mirror.polls(&it, 10).await;
        assert_eq!(written(), before);

        mirror.sql("UPDATE pve_vm SET status = 'stopped', vm_name = 'mine' WHERE vmid = 100").await;
        mirror.sql("DELETE FROM pve_vm WHERE vmid = 103").await;
        mirror.sql("DELETE FROM pve_storage WHERE node_name = 'pve2'").await;
        mirror.until_equal(&it).await;
    })
    .await;
}

/// A08, the short form: 300 guests on 8 nodes all change at each of 10 polls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a08_when_everything_changes_what_waits_is_bounded() {
    on_every_database("a08", async |database| {
        let mut mirror = Mirror::stopped(database);
        mirror.option("--details-interval", "1h");
        let it = mirror.follow("sim", simulate(Config::quick().nodes(8).guests(300))).await;
        mirror.start().await;
        mirror.until_equal(&it).await;

        for round in 0..10_u32 {
            for guest in it.sim.guests() {
                it.sim.change_guest(guest.vmid, |guest| {
                    guest.name = format!("guest-{}-{round}", guest.vmid);
                    guest.status = if round % 2 == 0 { Status::Stopped } else { Status::Running };
                });
            }
            mirror.polls(&it, 1).await;
            let pending = mirror.metric("pve_operator_writer_pending", &[]);
            assert!(pending <= 300 + 8 + 24, "{pending} changes wait for {round} rounds");
        }

        mirror.until_equal(&it).await;
    })
    .await;
}

/// A15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a15_two_lists_per_poll_are_enough_for_32_nodes() {
    on_every_database("a15", async |database| {
        let mut mirror = Mirror::stopped(database);
        mirror.option("--details-interval", "1h");
        let it = mirror.follow("sim", simulate(Config::quick().nodes(32).guests(2000))).await;
        mirror.start().await;
        mirror.until_equal(&it).await;

        it.sim.reset_counters();
        mirror.polls(&it, 14).await;

        let asked = it.sim.counters();
        let polls = asked.of("GET", "/cluster/resources");
        assert!(polls >= 14);
        assert!(asked.list_requests <= 2 * polls, "{:?}", asked.by_path);
        assert!(
            asked.list_requests <= polls + polls / 6 + 1,
            "one, and another at every sixth: {:?}",
            asked.by_path
        );
    })
    .await;
}

/// A15: a cluster that closes every connection is left alone, and the others do not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a15_a_dead_cluster_is_asked_rarely_and_holds_nobody_up() {
    on_every_database("a15_dead", async |database| {
        let mut mirror = Mirror::stopped(database);
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let it = mirror.follow("sim", simulate(Config::quick().guests(10))).await;
        mirror
            .sql(&format!(
                "INSERT INTO pve_cluster (cluster_name, api_url, user_id, user_token, is_enabled, is_schedulable, env) \
                 VALUES ('dead', 'https://{}', 'root@pam!sim', 'y', 1, 1, 'prod')",
                dead.local_addr().unwrap(),
            ))
            .await;
        mirror.start().await;

        let mut connections = 0;
        let living = async {
            mirror.until_equal(&it).await;
            it.sim.rename(104, "renamed");
            mirror.until_equal(&it).await;
            mirror.polls(&it, 25).await;
        };
        tokio::pin!(living);
        loop {
            tokio::select! {
                () = &mut living => break,
                accepted = dead.accept() => { drop(accepted); connections += 1; }
            }
        }

        assert!((1..=6).contains(&connections), "{connections} connections within 25 polls");
    })
    .await;
}
