//! The quick start, word for word, with the operator's own timings.

use std::time::Duration;

use pve_sim::Config;

use crate::support::{Followed, Mirror, eventually, on_every_database, simulate};

/// What the quick start promises for every change of a cluster's row.
const PROMISED: Duration = Duration::from_secs(30);

const INSERT: &str = "INSERT INTO pve_cluster (
    cluster_name, api_url, user_id, user_token, 
    is_enabled, is_schedulable, env
) VALUES (
    'my-cluster',
    'https://your-pve-host:8006',
    'your-user@pve',
    'your-api-token',
    1,  -- is_enabled: 启用数据自动上报
    1,  -- is_schedulable: 允许虚拟机调度
    'prod'
);";
const ENABLE: &str = "UPDATE pve_cluster SET is_enabled = 1 WHERE cluster_name = 'my-cluster';";
const DISABLE: &str = "UPDATE pve_cluster SET is_enabled = 0 WHERE cluster_name = 'my-cluster';";
const NO_SCHEDULING: &str =
    "UPDATE pve_cluster SET is_schedulable = 0 WHERE cluster_name = 'my-cluster';";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_statements_of_the_quick_start_do_what_it_says() {
    on_every_database("quick_start", async |database| {
        let mut mirror = Mirror::stopped(database);
        for option in ["--poll-interval", "--cluster-check-interval", "--details-interval"] {
            let default = ["5s", "30s", "5m"][usize::from(option.contains("check"))
                + 2 * usize::from(option.contains("details"))];
            mirror.option(option, default);
        }
        mirror.start().await;

        // A user id without token id goes with `tokenid=secret`.
        let sim = simulate(Config::quick().guests(10));
        let (user, token_id) =
            sim.user_id().split_once('!').map(|(u, t)| (u.to_owned(), t.to_owned())).unwrap();
        let insert = INSERT
            .replace("https://your-pve-host:8006", &sim.url())
            .replace("your-user@pve", &user)
            .replace("your-api-token", &format!("{token_id}={}", sim.token()));
        mirror.sql(&insert).await;
        let id = mirror.cluster_id("my-cluster").await;
        let it = Followed { sim, id, name: "my-cluster".to_owned() };

        // The status says how to accept the certificate; that statement is all it takes.
        let status = mirror.until_reason(&it, "CertificateNotTrusted").await;
        assert_eq!(it.sim.counters().with_token, 0);
        let message = status.message.unwrap();
        let at = message.find("UPDATE pve_cluster").expect("the statement is in the message");
        let end = at + message[at..].find(';').expect("it ends") + 1;
        mirror.sql(&message[at..end]).await;
        mirror.until_equal_within(PROMISED, &it).await;

        mirror.sql(NO_SCHEDULING).await;
        it.sim.rename(104, "renamed");
        mirror.until_equal_within(PROMISED, &it).await;

        mirror.sql(DISABLE).await;
        eventually("it is disabled", PROMISED, || async {
            let reason = mirror.status(it.id).await.map(|status| status.reason);
            if reason.as_deref() == Some("Disabled") { Ok(()) } else { Err(reason) }
        })
        .await;
        it.sim.reset_counters();
        it.sim.rename(104, "renamed again");

        mirror.sql(ENABLE).await;
        mirror.until_equal_within(PROMISED, &it).await;
    })
    .await;
}
