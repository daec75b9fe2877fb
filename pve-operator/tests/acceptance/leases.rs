//! A19: several operators share the clusters, and none works where another one does.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
    time::Duration,
};

use pve_sim::Config;
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use schema::{
    images::ImageStore,
    lease::{self, Seen},
    testing::TestDatabase,
};
use tokio::{
    process::{Child, Command},
    task::JoinSet,
    time::Instant,
};

use crate::{
    binary::{OPERATOR, failing},
    killing::shake,
    support::{
        Followed, Mirror, Proxy, Replica, SOON, eventually, on_every_database, send, simulate,
    },
};

const TTL: Duration = Duration::from_secs(3);

/// What becomes of an operator.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Fate {
    /// SIGKILL, and another one in its place.
    Killed,
    /// SIGTERM, and another one in its place.
    Stopped,
    /// It stands still for longer than its leases last, and goes on as if nothing had been.
    Paused,
}

/// Operators of one database, each a process.
struct Team {
    mirror: Mirror,
    clusters: Vec<Followed>,
    running: BTreeMap<String, Child>,
    spawned: usize,
    pauses: u64,
    takeovers: BTreeMap<Fate, Vec<Duration>>,
}

impl Team {
    async fn of(database: TestDatabase, operators: usize, clusters: usize) -> Self {
        let mirror = Mirror::stopped(database);
        let mut followed = Vec::new();
        for number in 0..clusters {
            let sim = simulate(Config::quick().guests(12));
            followed.push(mirror.follow(&format!("sim{number}"), sim).await);
        }
        let mut team = Self {
            mirror,
            clusters: followed,
            running: BTreeMap::new(),
            spawned: 0,
            pauses: 0,
            takeovers: BTreeMap::new(),
        };
        for _ in 0..operators {
            team.spawn();
        }
        team.until_even().await;
        team
    }

    fn spawn(&mut self) {
        let name = format!("op{}", self.spawned);
        self.spawned += 1;
        let ttl = format!("{}ms", TTL.as_millis());
        let child = Command::new(OPERATOR)
            .args(["run", "--database-url", &self.mirror.url, "--listen", "127.0.0.1:0"])
            .args(["--poll-interval", "150ms", "--cluster-check-interval", "200ms"])
            .args(["--details-interval", "1s", "--lease-ttl", &ttl, "--identity", &name])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the command can be run");
        self.running.insert(name, child);
    }

    async fn seen(&self) -> Seen {
        self.mirror.db().read(lease::look).await.expect("the leases can be read")
    }

    /// How many clusters each operator of ours has; Err if that is not even, or not all.
    fn shares(&self, seen: &Seen) -> Result<BTreeMap<String, usize>, String> {
        let mut shares: BTreeMap<String, usize> =
            self.running.keys().map(|name| (name.clone(), 0)).collect();
        for lease in seen.leases.values().filter(|lease| !lease.left.is_zero()) {
            let (name, _) = lease.holder.split_once('/').unwrap_or_default();
            *shares.entry(name.to_owned()).or_default() += 1;
        }
        let (least, most) = (shares.values().min(), shares.values().max());
        let all = shares.values().sum::<usize>() == self.clusters.len();
        let even = least.zip(most).is_some_and(|(least, most)| most - least <= 1);
        if all && even && shares.len() == self.running.len() {
            Ok(shares)
        } else {
            Err(format!("{shares:?} of {seen:?}"))
        }
    }

    async fn until_even(&self) {
        eventually("operators share the clusters evenly", LONG, || async {
            self.shares(&self.seen().await).map(drop)
        })
        .await;
    }

    /// Lets one meet its fate, and waits until others do its work and all of it is right.
    async fn meet(&mut self, name: &str, fate: Fate, rng: &mut SmallRng) {
        let seen = self.seen().await;
        let held: BTreeSet<i64> = seen
            .leases
            .iter()
            .filter(|(_, lease)| lease.holder.split('/').next() == Some(name))
            .map(|(id, _)| *id)
            .collect();
        let mut child = self.running.remove(name).expect("it runs");
        let pid = child.id().expect("it runs").to_string();
        let began = Instant::now();
        match fate {
            Fate::Killed => child.kill().await.expect("SIGKILL is sent"),
            Fate::Stopped => signal("-TERM", &pid).await,
            Fate::Paused => signal("-STOP", &pid).await,
        }
        let mut waiting = JoinSet::new();
        for it in self.clusters.iter().filter(|it| held.contains(&it.id.0)) {
            let (sim, before) = (it.sim.clone(), it.sim.counters().lease);
            waiting.spawn(async move {
                eventually("another operator asks", LONG, || async {
                    let lease = sim.counters().lease;
                    if lease > before { Ok(()) } else { Err(lease) }
                })
                .await;
                began.elapsed()
            });
        }
        for it in &self.clusters {
            shake(&it.sim, rng);
        }
        let took = waiting.join_all().await;
        self.takeovers.entry(fate).or_default().extend(took);
        match fate {
            Fate::Paused => {
                self.pauses += 1;
                signal("-CONT", &pid).await;
                self.running.insert(name.to_owned(), child);
            }
            Fate::Stopped => {
                let ended = tokio::time::timeout(SOON, child.wait()).await;
                let ended = ended.expect("it ends").expect("it can be waited for");
                assert!(ended.success(), "{name}: {ended}");
                self.spawn();
            }
            Fate::Killed => self.spawn(),
        }
        self.until_even().await;
        for it in &self.clusters {
            self.mirror.until_equal_within(LONG, it).await;
        }
    }

    fn print(&mut self) {
        let kind = self.mirror.kind();
        for (fate, took) in &mut self.takeovers {
            took.sort_unstable();
            let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_millis();
            println!(
                "FIGURE takeover_ms/{kind}/{fate:?} count {} p50 {} p99 {} max {}",
                took.len(),
                at(50),
                at(99),
                at(100)
            );
        }
    }
}

const LONG: Duration = Duration::from_mins(1);

async fn signal(name: &str, pid: &str) {
    assert!(Command::new("kill").args([name, pid]).status().await.unwrap().success());
}

/// People change their columns all the while: what was written last, by cluster and VMID.
async fn people(api: &Replica, clusters: &[Followed], round: usize) -> Vec<(i64, i64)> {
    let (status, body) = send(api.address, "GET", "/api/v1/vms?page_size=100", "").await.unwrap();
    assert_eq!(status, 200, "{body}");
    let listed: serde_json::Value = serde_json::from_str(&body).unwrap();
    let mut changed = Vec::new();
    for vm in listed["data"]["list"].as_array().unwrap().iter().take(3 * clusters.len()) {
        let path = format!("/api/v1/vms/{}", vm["id"]);
        let json = format!(r#"{{"appid":"app-{round}"}}"#);
        let (status, _) = send(api.address, "PATCH", &path, &json).await.unwrap();
        // Its guest may be gone by now.
        assert!(matches!(status, 200 | 404), "{status}");
        if status == 200 {
            changed.push((vm["id"].as_i64().unwrap(), i64::try_from(round).unwrap()));
        }
    }
    changed
}

/// `A19_SECONDS=600` for the long form (`scripts/long/operators`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a19_operators_share_clusters_and_none_works_where_another_does() {
    on_every_database("a19", async |database| {
        if database.kind() == "sqlite" {
            return; // It serves one operator.
        }
        let seconds: u64 = std::env::var("A19_SECONDS")
            .map_or(0, |seconds| seconds.parse().expect("A19_SECONDS is a number"));
        let folder = tempfile::tempdir().unwrap();
        let images = ImageStore::open(&format!("file://{}", folder.path().display())).unwrap();
        let mut team = Team::of(database, 3, 5).await;
        let api = Replica::start(team.mirror.db(), &images, 0).await;
        let (began, mut rng) = (Instant::now(), SmallRng::seed_from_u64(19));
        let mut fates = vec![Fate::Paused, Fate::Stopped, Fate::Killed];
        let mut round = 0;
        while let Some(fate) = fates.pop() {
            let names: Vec<String> = team.running.keys().cloned().collect();
            let name = names.choose(&mut rng).expect("three run").clone();
            let changed = people(&api, &team.clusters, round).await;
            team.meet(&name, fate, &mut rng).await;
            for (id, round) in changed {
                let (status, vm) =
                    send(api.address, "GET", &format!("/api/v1/vms/{id}"), "").await.unwrap();
                assert!(
                    status == 404 || vm.contains(&format!("\"appid\":\"app-{round}\"")),
                    "a person's column was lost: {vm}"
                );
            }
            round += 1;
            if fates.is_empty() && began.elapsed().as_secs() < seconds {
                fates.push(match rng.random_range(0..3) {
                    0 => Fate::Killed,
                    1 => Fate::Stopped,
                    _ => Fate::Paused,
                });
            }
        }
        team.print();
        for it in &team.clusters {
            let counters = it.sim.counters();
            assert_eq!(counters.overlapping_requests, 0, "{}: two operators at once", it.name);
            // One that stood still between its look at the clock and its write sends that, late.
            let late = counters.late_requests;
            assert!(late <= team.pauses, "{}: {late} requests of who should have stopped", it.name);
            let (rows, guests) = (team.mirror.guests(it.id).await, it.sim.guests());
            assert_eq!(rows.len(), guests.len(), "{}: rows are doubled or lost", it.name);
        }
    })
    .await;
}

/// A lease that can not be renewed stops an operator by itself: nobody has to take it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a19_who_cannot_renew_stops_asking() {
    on_every_database("a19_cut", async |database| {
        if database.kind() == "sqlite" {
            return; // Its file is not shared, so nobody else can have the lease.
        }
        let (proxy, url) = Proxy::before(&database.url).await;
        let mut mirror = Mirror::stopped(database);
        mirror.url = url;
        let it = mirror.follow("sim", simulate(Config::quick().guests(5))).await;
        mirror.start().await;
        mirror.until_equal(&it).await;

        proxy.cut();
        eventually("it asks nothing any more", LONG, || async {
            let before = it.sim.counters().requests;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let asked = it.sim.counters().requests - before;
            if asked == 0 { Ok(()) } else { Err(asked) }
        })
        .await;
        shake(&it.sim, &mut SmallRng::seed_from_u64(1));

        proxy.mend();
        mirror.until_equal_within(LONG, &it).await;
        assert!(it.sim.counters().lease >= 1, "it asks under a lease again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_operator_on_one_sqlite_file_is_refused() {
    let (mirror, _it) =
        Mirror::of(TestDatabase::sqlite("second").await, Config::quick().guests(5)).await;
    let line = ["run", "--database-url", &mirror.url, "--listen", "127.0.0.1:0"];

    let said = failing(&line).await;

    assert!(said.contains("one file serves one operator"), "{said}");
    assert!(said.contains("MariaDB or PostgreSQL"), "{said}");
}

#[tokio::test]
async fn a_lease_that_is_too_short_or_too_long_is_refused() {
    for ttl in ["1s", "11m", "soon"] {
        let said = failing(&["run", "--database-url", "sqlite://x.db", "--lease-ttl", ttl]).await;
        assert!(said.contains("--lease-ttl"), "{said}");
    }
}
