//! Rows of `pve_cluster` that change while the operator runs.

use pve_sim::{Config, Sim};
use serde_json::{Value, json};

use crate::support::{Followed, Mirror, SOON, eventually, on_every_database, send, simulate};

/// No request for as long as `other` is polled five times.
async fn silence(mirror: &Mirror, quiet: &Followed, other: &Followed) {
    quiet.sim.reset_counters();
    mirror.polls(other, 5).await;
    assert_eq!(quiet.sim.counters().requests, 0, "{:?}", quiet.sim.counters().by_path);
}

async fn two(database: schema::testing::TestDatabase) -> (Mirror, Followed, Followed) {
    let mut mirror = Mirror::stopped(database);
    let one = mirror.follow("one", simulate(Config::quick().guests(8).seed(1))).await;
    let other = mirror.follow("other", simulate(Config::quick().guests(8).seed(2))).await;
    mirror.start().await;
    mirror.until_equal(&one).await;
    mirror.until_equal(&other).await;
    (mirror, one, other)
}

/// A16
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a16_a_rotated_token_is_used_once_it_is_in_the_table() {
    on_every_database("a16_token", async |database| {
        let (mirror, it) = Mirror::of(database, Config::quick().guests(8)).await;

        let fresh = it.sim.rotate_token();
        mirror.until_reason(&it, "Unauthorized").await;
        it.sim.rename(104, "renamed");
        mirror
            .sql(&format!("UPDATE pve_cluster SET user_token = '{fresh}' WHERE id = {}", it.id.0))
            .await;

        mirror.until_reason(&it, "Synced").await;
        mirror.until_equal(&it).await;
    })
    .await;
}

/// A16
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a16_a_disabled_cluster_is_not_asked_and_keeps_its_rows() {
    on_every_database("a16_disabled", async |database| {
        let (mirror, one, other) = two(database).await;

        mirror.sql("UPDATE pve_cluster SET is_enabled = 0 WHERE cluster_name = 'one'").await;
        mirror.until_reason(&one, "Disabled").await;
        silence(&mirror, &one, &other).await;
        mirror.equal(&one).await.expect("its rows stay");

        one.sim.rename(104, "renamed");
        mirror.sql("UPDATE pve_cluster SET is_enabled = 1 WHERE cluster_name = 'one'").await;
        mirror.until_equal(&one).await;
        mirror.until_reason(&one, "Synced").await;
    })
    .await;
}

/// A cluster that is disabled while nobody looks, and one whose token nobody could open before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_cluster_says_so_whatever_it_was_before() {
    on_every_database("disabled_before", async |database| {
        let (mut mirror, one, other) = two(database).await;
        let sealed =
            "UPDATE pve_cluster SET user_token = 'v1:lost:AAAA' WHERE cluster_name = 'other'";
        mirror.sql(sealed).await;
        mirror.until_reason(&other, "InvalidConfiguration").await;
        mirror.stop().await;
        mirror.sql("UPDATE pve_cluster SET is_enabled = 0 WHERE cluster_name = 'one'").await;
        mirror.start().await;
        mirror.until_reason(&one, "Disabled").await;
        mirror.until_reason(&other, "InvalidConfiguration").await;

        mirror.sql("UPDATE pve_cluster SET is_enabled = 0 WHERE cluster_name = 'other'").await;
        mirror.until_reason(&other, "Disabled").await;

        eventually("nothing is counted as failed", SOON, || async {
            let count = |state| mirror.metric("pve_operator_clusters", &[state]);
            let counts = ["running", "failed", "disabled"].map(count);
            if counts == [0, 0, 2] { Ok(()) } else { Err(counts) }
        })
        .await;
    })
    .await;
}

/// A16
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a16_a_deleted_cluster_leaves_no_row() {
    on_every_database("a16_deleted", async |database| {
        let (mut mirror, one, other) = two(database).await;
        let broken = mirror.follow("broken", simulate(Config::quick().guests(1))).await;
        mirror.sql("UPDATE pve_cluster SET user_id = '' WHERE cluster_name = 'broken'").await;
        mirror.until_reason(&broken, "InvalidConfiguration").await;
        eventually("every table has rows of it", SOON, || async {
            let rows = mirror.rows(one.id).await;
            if rows.contains(&0) { Err(rows) } else { Ok(()) }
        })
        .await;
        let gone = async |mirror: &Mirror, id| {
            eventually("no row is left", SOON, || async {
                let rows = mirror.rows(id).await;
                if rows == [0; 5] { Ok(()) } else { Err(rows) }
            })
            .await;
        };

        // With a sync in flight: everything has just changed.
        for guest in one.sim.guests() {
            one.sim.rename(guest.vmid, "renamed");
        }
        mirror.sql("DELETE FROM pve_cluster WHERE cluster_name IN ('one', 'broken')").await;
        gone(&mirror, one.id).await;
        gone(&mirror, broken.id).await;
        silence(&mirror, &one, &other).await;
        assert_eq!(mirror.rows(one.id).await, [0; 5], "nothing comes back");
        mirror.until_equal(&other).await;

        // The same while the operator is away.
        mirror.stop().await;
        mirror.sql("DELETE FROM pve_cluster WHERE cluster_name = 'other'").await;
        mirror.start().await;
        gone(&mirror, other.id).await;
    })
    .await;
}

/// A new row is followed without restart, and another URL under the same row is another connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_url_and_env_take_effect() {
    on_every_database("changed_row", async |database| {
        let (mirror, it) = Mirror::of(database, Config::quick().guests(8)).await;
        let ids = mirror.nodes(it.id).await.iter().map(|row| row.id).collect::<Vec<_>>();

        mirror
            .sql(&format!(
                "UPDATE pve_cluster SET api_url = '{}/', env = 'test' WHERE id = {}",
                it.sim.url().replace("https://127.0.0.1:", "https://127.0.0.1:0"),
                it.id.0
            ))
            .await;
        eventually("nodes carry the new env", SOON, || async {
            let nodes = mirror.nodes(it.id).await;
            let envs: Vec<_> = nodes.iter().map(|row| row.synced.env.clone()).collect();
            if envs.iter().all(|env| env.as_deref() == Some("test")) { Ok(()) } else { Err(envs) }
        })
        .await;

        mirror.until_equal(&it).await;
        assert_eq!(mirror.nodes(it.id).await.iter().map(|row| row.id).collect::<Vec<_>>(), ids);
    })
    .await;
}

/// A cluster as it is given to the API.
fn as_json(name: &str, sim: &Sim) -> Value {
    json!({
        "cluster_name": name,
        "api_url": sim.url(),
        "user_id": sim.user_id(),
        "user_token": sim.token(),
        "tls_fingerprint": sim.fingerprint(sim.first_node()),
        "env": "prod",
    })
}

/// A16, through the API: a new cluster is followed, a changed one is followed otherwise, and of a
/// deleted one nothing is left, each without restart; the token is sealed on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a16_what_the_api_changes_takes_effect() {
    on_every_database("a16_api", async |database| {
        let keys = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(keys.path(), "ab".repeat(32)).unwrap();
        let mut mirror = Mirror::stopped(database);
        mirror.option("--api", "127.0.0.1:0");
        mirror.option("--api-auth", "off");
        mirror.option("--secret-key-file", keys.path().to_str().unwrap());
        mirror.start().await;
        let api = mirror.operator().api.expect("the API is served");
        let ask = async |method: &str, path: &str, body: &Value| -> Value {
            let path = format!("/api/v1/clusters{path}");
            let (status, text) = send(api, method, &path, &body.to_string()).await.unwrap();
            assert_eq!(status, 200, "{method} {path}: {text}");
            serde_json::from_str(&text).unwrap()
        };

        let sim = simulate(Config::quick().guests(8));
        let token = sim.token();
        let made = ask("POST", "", &as_json("api", &sim)).await;
        assert_eq!(made["data"]["token_sealed"], json!(true));
        let id = mirror.cluster_id("api").await;
        let it = Followed { id, name: "api".to_owned(), sim };
        mirror.until_equal(&it).await;

        // Another token and another env; the old token is refused from now on.
        let one = format!("/{}", id.0);
        it.sim.rotate_token();
        mirror.until_reason(&it, "Unauthorized").await;
        it.sim.rename(104, "renamed");
        let mut changed = as_json("api", &it.sim);
        changed["env"] = json!("test");
        ask("PUT", &one, &changed).await;
        mirror.until_equal(&it).await;
        mirror.until_reason(&it, "Synced").await;
        eventually("nodes carry the new env", SOON, || async {
            let nodes = mirror.nodes(id).await;
            let new = nodes.iter().all(|row| row.synced.env.as_deref() == Some("test"));
            if new { Ok(()) } else { Err(nodes) }
        })
        .await;

        // With a sync in flight: everything has just changed.
        for guest in it.sim.guests() {
            it.sim.rename(guest.vmid, "renamed-again");
        }
        let status = ask("GET", &format!("{one}/status"), &json!({})).await;
        assert_eq!(status["data"]["reason"], json!("Synced"));
        assert!(!status.to_string().contains(&token));
        ask("DELETE", &one, &json!({})).await;
        eventually("no row is left, and nobody asks", SOON, || async {
            let rows = mirror.rows(id).await;
            let running = mirror.metric("pve_operator_clusters", &["running"]);
            if rows == [0; 5] && running == 0 { Ok(()) } else { Err((rows, running)) }
        })
        .await;
        it.sim.reset_counters();
        let other = mirror.follow("other", simulate(Config::quick().guests(2))).await;
        mirror.until_equal(&other).await;
        assert_eq!(it.sim.counters().requests, 0);
        assert_eq!(mirror.rows(id).await, [0; 5], "nothing comes back");
    })
    .await;
}
