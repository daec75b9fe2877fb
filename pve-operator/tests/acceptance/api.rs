//! What the HTTP API shows of the mirror.

use pve_sim::{Config, Guest};
use schema::testing::TestDatabase;
use serde_json::Value;

use crate::support::{Followed, Mirror, SOON, eventually, get, on_every_database};

async fn with_api(database: TestDatabase) -> (Mirror, Followed) {
    let mut mirror = Mirror::stopped(database);
    mirror.option("--api", "127.0.0.1:0");
    mirror.option("--api-auth", "off");
    let it = mirror.follow("sim", crate::support::simulate(Config::quick().guests(20))).await;
    mirror.start().await;
    mirror.until_equal(&it).await;
    (mirror, it)
}

/// The list of `GET /vms` with this query.
async fn vms(mirror: &Mirror, query: &str) -> Vec<Value> {
    let api = mirror.operator().api.expect("the API is served");
    let (status, body) = get(api, &format!("/api/v1/vms?{query}")).await.unwrap();
    assert_eq!(status, 200, "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    body["data"]["list"].as_array().unwrap_or_else(|| panic!("{body}")).clone()
}

/// A11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a11_a_migrating_guest_is_listed_once_at_every_moment() {
    on_every_database("a11_api", async |database| {
        let (mirror, it) = with_api(database).await;
        let before = vms(&mirror, "vmid=103").await[0]["id"].clone();

        for node in ["pve2", "pve3", "pve1", "pve3"] {
            it.sim.set_lock(103, Some("migrate"));
            it.sim.migrate_guest(103, node);
            it.sim.set_lock(103, None);
            eventually("it arrived", SOON, || async {
                let rows = vms(&mirror, "vmid=103").await;
                assert_eq!(rows.len(), 1, "zero or two rows: {rows:?}");
                assert_eq!(rows[0]["id"], before);
                if rows[0]["node_name"] == node {
                    Ok(())
                } else {
                    Err(rows[0]["node_name"].clone())
                }
            })
            .await;
        }
    })
    .await;
}

/// A20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a20_guests_of_every_name_and_kind_are_listed() {
    on_every_database("a20", async |database| {
        let (mirror, it) = with_api(database).await;
        it.sim.add_guest(Guest::qemu(900, "pve1").named("sync-worker-template").running());
        it.sim.add_guest(Guest::lxc(901, "pve2").named("sync-gateway"));
        it.sim.add_guest(Guest::qemu(902, "pve3").named("tmpl").template());
        mirror.until_equal(&it).await;

        let mut listed: Vec<_> = vms(&mirror, "page_size=100")
            .await
            .iter()
            .map(|row| (row["vmid"].as_u64(), row["vm_name"].as_str().map(str::to_owned)))
            .collect();
        listed.sort_unstable();

        let there = it.sim.guests();
        let there: Vec<_> =
            there.into_iter().map(|it| (Some(u64::from(it.vmid)), Some(it.name))).collect();
        assert_eq!(listed, there);
        assert!(there.iter().filter(|it| it.1.as_deref() == Some("sync-gateway")).count() == 2);
    })
    .await;
}
