//! PVE or the database is away.

use std::time::Duration;

use pve_sim::{Config, FaultKind, FaultRule, Guest};
use schema::testing::TestDatabase;
use tokio::time::Instant;

use crate::support::{Mirror, Proxy, SOON, eventually, get, on_every_database, simulate};

/// Longer than the first pause of the circuit breaker.
const AFTER_A_PAUSE: Duration = Duration::from_secs(30);

/// A02
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a02_a_cluster_that_is_down_at_the_start_is_mirrored_once_it_is_up() {
    on_every_database("a02", async |database| {
        let sim = simulate(Config::quick().guests(12));
        for node in sim.nodes() {
            sim.node_down(&node.name);
        }
        let mut mirror = Mirror::stopped(database);
        let it = mirror.follow("sim", sim).await;
        mirror.start().await;
        let status = mirror.until_reason(&it, "Unreachable").await;
        assert!(status.message.is_some_and(|it| it.contains("Check api_url and the network")));

        for node in it.sim.nodes() {
            it.sim.node_up(&node.name);
        }

        mirror.until_equal_within(AFTER_A_PAUSE, &it).await;
        mirror.until_reason(&it, "Synced").await;
    })
    .await;
}

/// A02
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a02_a_node_that_is_down_at_the_start_is_mirrored_once_it_is_up() {
    on_every_database("a02_node", async |database| {
        let sim = simulate(Config::quick().guests(12));
        sim.node_down("pve3");
        let mut mirror = Mirror::stopped(database);
        let it = mirror.follow("sim", sim).await;
        mirror.start().await;
        mirror.until_equal(&it).await;

        it.sim.node_up("pve3");

        mirror.until_equal_within(AFTER_A_PAUSE, &it).await;
    })
    .await;
}

/// A17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a17_when_the_first_node_dies_another_one_is_asked() {
    on_every_database("a17", async |database| {
        let mut mirror = Mirror::stopped(database);
        mirror.option("--usage-interval", "500ms");
        let it = mirror.follow("sim", simulate(Config::quick().guests(12))).await;
        mirror.start().await;
        mirror.until_equal(&it).await;
        eventually("addresses and certificates are learned, and kept", SOON, || async {
            let status = mirror.status(it.id).await.ok_or("no status".to_owned())?;
            let kept = (status.learned_addresses.unwrap_or_default(), status.learned_ca.is_some());
            if kept.0.contains("127.0.0.3") && kept.1 { Ok(()) } else { Err(kept.0) }
        })
        .await;

        it.sim.node_down("pve1");
        it.sim.add_guest(Guest::qemu(900, "pve2").running());
        mirror.until_equal(&it).await;
        assert_eq!(mirror.status(it.id).await.unwrap().reason, "Synced");

        // What was learned is known to the next process too.
        mirror.stop().await;
        it.sim.rename(900, "renamed");
        mirror.start().await;
        mirror.until_equal(&it).await;
    })
    .await;
}

/// Half an answer, no answer, no JSON: nothing of it is taken for the truth.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_answers_change_nothing_and_are_got_over() {
    on_every_database("bad_answers", async |database| {
        let (mirror, it) = Mirror::of(database, Config::quick().nodes(1).guests(12)).await;
        let rows = async || {
            let mut rows = mirror.guests(it.id).await;
            rows.sort_unstable_by_key(|row| row.id);
            rows.into_iter().map(|row| (row.id, row.synced)).collect::<Vec<_>>()
        };
        let before = rows().await;
        let errors = || mirror.metric("pve_operator_poll_errors_total", &[]);

        let faults = [
            FaultKind::DropHalfBody,
            FaultKind::NotJson,
            FaultKind::Status { code: 500, reason: "out of memory".to_owned() },
            FaultKind::DropBeforeAnswer,
        ];
        for fault in faults {
            let known = errors();
            it.sim.fault(FaultRule::new("/cluster/resources", fault.clone()));
            eventually(&format!("{fault:?} is noticed"), AFTER_A_PAUSE, || async {
                if errors() > known { Ok(()) } else { Err(errors()) }
            })
            .await;
            it.sim.clear_faults();
            assert_eq!(rows().await, before, "{fault:?}");
            mirror.polls(&it, 1).await;
            mirror.until_reason(&it, "Synced").await;
            assert_eq!(rows().await, before, "{fault:?}");
        }
    })
    .await;
}

/// A database that can be away: through a proxy, or a file that somebody else has locked.
enum Outage {
    Server(Proxy),
    File,
}

impl Outage {
    async fn of(database: &TestDatabase) -> (Self, String) {
        if database.kind() == "sqlite" {
            return (Self::File, database.url.clone());
        }
        let (proxy, url) = Proxy::before(&database.url).await;
        (Self::Server(proxy), url)
    }

    async fn during(&self, database: &TestDatabase, work: impl Future<Output = ()>) {
        match self {
            Self::Server(proxy) => {
                proxy.cut();
                work.await;
                proxy.mend();
            }
            Self::File => {
                let mut conn = database.db.conn().await.unwrap();
                conn.execute_sql("BEGIN IMMEDIATE").await.unwrap();
                work.await;
                conn.execute_sql("ROLLBACK").await.unwrap();
            }
        }
    }
}

/// What A09 says.
const OUTAGE: Duration = Duration::from_secs(30);

/// A09
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a09_changes_wait_for_the_database() {
    on_every_database("a09", async |database| {
        let (outage, url) = Outage::of(&database).await;
        let mut mirror = Mirror::stopped(database);
        mirror.url = url;
        // Else it would stop until the database is back.
        mirror.option("--lease-ttl", "1m");
        let it = mirror.follow("sim", simulate(Config::quick().guests(20))).await;
        mirror.start().await;
        mirror.until_equal(&it).await;

        let changes = async {
            for vmid in 900..905 {
                it.sim.add_guest(Guest::qemu(vmid, "pve1").running());
            }
            it.sim.remove_guest(101);
            it.sim.remove_guest(102);
            // The clock is the outage's: drivers, pools and pauses between attempts have real limits.
            let over = Instant::now() + OUTAGE;
            while Instant::now() < over {
                mirror.polls(&it, 1).await;
            }
            let pending = mirror.metric("pve_operator_writer_pending", &[]);
            assert!(pending <= 50, "what waits is bounded by what there is: {pending}");
        };
        outage.during(&mirror.database, changes).await;

        mirror.until_equal_within(AFTER_A_PAUSE, &it).await;
        eventually("ready again", SOON, || async {
            if mirror.operator().is_ready() { Ok(()) } else { Err("not ready") }
        })
        .await;
    })
    .await;
}

/// A server that is away at the start is waited for, alive and not ready.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_at_the_start_is_waited_for() {
    on_every_database("away_at_start", async |database| {
        if database.kind() == "sqlite" {
            return; // a file is there or not
        }
        let (proxy, url) = Proxy::before(&database.url).await;
        let mut mirror = Mirror::stopped(database);
        mirror.url = url;
        let free = async || {
            let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            free.local_addr().unwrap()
        };
        let (admin, api) = tokio::join!(free(), free());
        mirror.option("--listen", &admin.to_string());
        mirror.option("--api", &api.to_string());
        mirror.option("--api-auth", "off");
        let it = mirror.follow("sim", simulate(Config::quick().guests(5))).await;
        proxy.cut();

        let answers = async {
            let alive = eventually("it is alive", SOON, || get(admin, "/livez")).await;
            let ready = get(admin, "/readyz").await.unwrap();
            let api_alive = eventually("the API is alive", SOON, || get(api, "/livez")).await;
            let api_ready = get(api, "/readyz").await.unwrap();
            proxy.mend();
            [alive.0, ready.0, api_alive.0, api_ready.0]
        };
        let ((), answers) = tokio::join!(mirror.start(), answers);

        assert_eq!(answers, [200, 503, 200, 503]);
        mirror.until_equal(&it).await;
        assert_eq!(get(admin, "/readyz").await.unwrap().0, 200);
        assert_eq!(get(api, "/readyz").await.unwrap().0, 200);
    })
    .await;
}
