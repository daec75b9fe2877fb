//! `/metrics/inventory` of a running operator.

use pve_sim::Config;
use schema::testing::TestDatabase;

use super::series::Scrape;
use crate::support::{Followed, LATER, Mirror, SOON, eventually, get, simulate};

async fn scrape(mirror: &Mirror, query: &str) -> (u16, String) {
    let path = format!("/metrics/inventory{query}");
    get(mirror.operator().admin, &path).await.expect("the operator answers")
}

/// The answer once there is one.
async fn shown(mirror: &Mirror, query: &str) -> Scrape {
    let text = eventually("the inventory is shown", SOON, || async {
        let (status, text) = scrape(mirror, query).await;
        if status == 200 && text.contains("pve_version_info{") { Ok(text) } else { Err(text) }
    })
    .await;
    Scrape::parse(&text)
}

async fn operator(name: &str, options: &[(&str, &str)]) -> (Mirror, Followed) {
    let mut mirror = Mirror::stopped(TestDatabase::sqlite(name).await);
    for (option, value) in options {
        mirror.option(option, value);
    }
    let it = mirror.follow("sim", simulate(Config::quick().guests(30))).await;
    mirror.start().await;
    mirror.until_equal(&it).await;
    (mirror, it)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scrapes_show_every_guest_and_ask_nothing_of_pve() {
    let pace = [("--poll-interval", "2s"), ("--details-interval", "1h")];
    let (mirror, it) = operator("inventory", &pace).await;
    let first = shown(&mirror, "?cluster=sim").await;
    for guest in it.sim.guests() {
        let id = format!("{}/{}", guest.kind.as_str(), guest.vmid);
        assert!(first.get("pve_up", ("id", &id)).is_some(), "{id}");
        assert_eq!(first.get("pve_guest_info", ("name", &guest.name)), Some(1.0), "{id}");
    }

    // Between two polls nothing else asks; a round into which one falls is no proof.
    eventually("a round of scrapes without a request", LATER, || async {
        it.sim.reset_counters();
        for _ in 0..5 {
            let (status, _) = scrape(&mirror, "?cluster=sim").await;
            assert_eq!(status, 200);
        }
        let asked = it.sim.counters();
        if asked.requests == 0 { Ok(()) } else { Err(asked.by_path) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_are_told_apart_and_go_with_their_pipelines() {
    let (mirror, _sim) = operator("inventory_two", &[]).await;
    let other = mirror.follow("other", simulate(Config::quick().guests(3))).await;
    mirror.until_equal(&other).await;
    eventually("both are shown", SOON, || async {
        let (_, text) = scrape(&mirror, "").await;
        let all = Scrape::parse(&text);
        let up = |name| all.get("pve_cluster_info", ("cluster", name));
        if (up("sim"), up("other")) == (Some(1.0), Some(1.0)) { Ok(()) } else { Err(text) }
    })
    .await;

    mirror.sql("UPDATE pve_cluster SET is_enabled = 0 WHERE cluster_name = 'other'").await;

    eventually("the other one is gone", SOON, || async {
        let (_, text) = scrape(&mirror, "").await;
        if text.contains("cluster=\"other\"") { Err(text) } else { Ok(()) }
    })
    .await;
    let (status, said) = scrape(&mirror, "?cluster=other").await;
    assert_eq!(status, 404);
    assert!(said.contains("\"other\"") && said.contains("is_enabled"), "{said}");
    assert_eq!(scrape(&mirror, "?cluster=sim").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_of_what_is_not_there_says_why() {
    let (mirror, _sim) = operator("inventory_wrong", &[]).await;
    mirror
        .sql(
            "INSERT INTO pve_cluster (cluster_name, api_url, user_id, user_token, is_enabled, is_schedulable, env) \
             VALUES ('dead', 'https://127.0.0.1:1', 'root@pam!sim', 'y', 1, 1, 'prod')",
        )
        .await;

    let (unknown, said) = scrape(&mirror, "?cluster=nowhere").await;
    assert_eq!(unknown, 404);
    assert!(said.contains("\"nowhere\""), "{said}");
    let (mistyped, said) = scrape(&mirror, "?clutser=sim").await;
    assert_eq!(mistyped, 400);
    assert!(said.contains("cluster=NAME"), "{said}");
    eventually("the dead one has not answered", SOON, || async {
        let (status, said) = scrape(&mirror, "?cluster=dead").await;
        if status == 503 && said.contains("pve_cluster_status") { Ok(()) } else { Err(said) }
    })
    .await;
    let (all, text) = scrape(&mirror, "").await;
    assert_eq!(all, 200);
    assert!(!text.contains("cluster=\"dead\""), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_its_details_is_counted_down_although_nothing_changes() {
    let (mirror, _sim) = operator("details_pending", &[("--details-interval", "10s")]).await;

    eventually("all details are read", LATER, || async {
        let read = mirror.metric("pve_operator_pve_requests_total", &["/config", "200"]);
        let waiting = mirror.metric("pve_operator_details_pending", &[]);
        if read >= 30 && waiting == 0 { Ok(()) } else { Err((read, waiting)) }
    })
    .await;
}
