//! An operator on a database, started and stopped as a process would be.

use std::time::Duration;

use clap::Parser;
use pve_operator::{
    args::{Args, Command, RunArgs},
    runtime::Operator,
};
use pve_sim::{Config, Sim};
use schema::{
    ClusterId, Db, cluster,
    cluster_status::{self, ClusterStatus},
    guest::{self, GuestRow},
    ip_address::{self, AddressRow},
    node::{self, NodeRow},
    storage::{self, StorageRow},
    testing::TestDatabase,
};
use tokio::runtime::Runtime;

use super::{compare, eventually};

/// Time enough for anything that takes a few polls, on a machine that has other things to do.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// What an operator of a test is started with: everything as quick as makes sense.
const OPTIONS: [&str; 12] = [
    "--listen",
    "127.0.0.1:0",
    "--poll-interval",
    "150ms",
    "--cluster-check-interval",
    "200ms",
    "--usage-interval",
    "1m",
    "--full-sync-interval",
    "5m",
    "--details-interval",
    "1s",
];

/// A database and the operator that works on it.
pub(crate) struct Mirror {
    pub(crate) database: TestDatabase,
    /// Where the operator looks for the database.
    pub(crate) url: String,
    options: Vec<String>,
    running: Option<Running>,
}

struct Running {
    operator: Operator,
    /// Of its own, so that it can end as abruptly as a process.
    runtime: Runtime,
}

/// A cluster that has a row in `pve_cluster`.
pub(crate) struct Followed {
    pub(crate) sim: Sim,
    pub(crate) id: ClusterId,
    pub(crate) name: String,
}

impl Mirror {
    /// A database without an operator.
    pub(crate) fn stopped(database: TestDatabase) -> Self {
        let options = OPTIONS.map(str::to_owned).to_vec();
        Self { url: database.url.clone(), database, options, running: None }
    }

    /// An operator that follows one cluster and has mirrored it once.
    pub(crate) async fn of(database: TestDatabase, config: Config) -> (Self, Followed) {
        let mut mirror = Self::stopped(database);
        let cluster = mirror.follow("sim", simulate(config)).await;
        mirror.start().await;
        mirror.until_equal(&cluster).await;
        (mirror, cluster)
    }

    /// Sets an option of the next start.
    pub(crate) fn option(&mut self, name: &str, value: &str) {
        match self.options.iter().position(|option| option == name) {
            Some(at) => value.clone_into(&mut self.options[at + 1]),
            None => self.options.extend([name.to_owned(), value.to_owned()]),
        }
    }

    /// The arguments of `pve-operator` for a start as a process of its own.
    pub(crate) fn line(&self) -> Vec<String> {
        let mut line = vec!["run".to_owned(), "--database-url".to_owned(), self.url.clone()];
        line.extend(self.options.iter().cloned());
        line
    }

    pub(crate) fn kind(&self) -> &'static str {
        self.database.kind()
    }

    pub(crate) fn db(&self) -> &Db {
        &self.database.db
    }

    pub(crate) fn operator(&self) -> &Operator {
        &self.running.as_ref().expect("the operator of this test runs").operator
    }

    pub(crate) async fn start(&mut self) {
        self.try_start().await.expect("the operator starts");
    }

    /// What a person sees when it does not start is the error.
    pub(crate) async fn try_start(&mut self) -> anyhow::Result<()> {
        let mut line = vec!["pve-operator", "run", "--database-url", &self.url];
        line.extend(self.options.iter().map(String::as_str));
        let args = run_args(&line);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime can be made");
        match runtime.spawn(async move { Operator::start(&args).await }).await {
            Ok(Ok(operator)) => {
                self.running = Some(Running { operator, runtime });
                Ok(())
            }
            Ok(Err(error)) => {
                runtime.shutdown_background();
                Err(error)
            }
            Err(panic) => panic!("{panic}"),
        }
    }

    /// As SIGTERM does.
    pub(crate) async fn stop(&mut self) {
        let Running { operator, runtime } = self.running.take().expect("the operator runs");
        runtime.spawn(operator.stop()).await.expect("stopping does not panic");
        runtime.shutdown_background();
    }

    /// As SIGKILL does: whatever it was doing ends in the middle.
    pub(crate) async fn kill(&mut self) {
        let Running { runtime, .. } = self.running.take().expect("the operator runs");
        let ended = move || runtime.shutdown_timeout(Duration::from_secs(2));
        tokio::task::spawn_blocking(ended).await.expect("a runtime can be dropped");
        self.leases_expire().await;
    }

    /// What becomes of the leases of an operator that was killed, once its time has passed.
    pub(crate) async fn leases_expire(&self) {
        self.sql("UPDATE cluster_lease SET expires_at = '2001-01-01 00:00:00'").await;
        self.sql("DELETE FROM operator_replica").await;
    }

    /// Puts a simulated cluster into `pve_cluster`, trusted by its first node's fingerprint.
    pub(crate) async fn follow(&self, name: &str, sim: Sim) -> Followed {
        schema::testing::note_secret(&sim.token());
        let sql = format!(
            "INSERT INTO pve_cluster (cluster_name, api_url, user_id, user_token, is_enabled, is_schedulable, env) \
             VALUES ('{name}', '{}', '{}', '{}', 1, 1, 'prod')",
            sim.url(),
            sim.user_id(),
            sim.token(),
        );
        self.sql(&sql).await;
        let fingerprint = sim.fingerprint(sim.first_node());
        self.sql(&format!(
            "UPDATE pve_cluster SET tls_fingerprint = '{fingerprint}' WHERE cluster_name = '{name}'"
        ))
        .await;
        Followed { id: self.cluster_id(name).await, name: name.to_owned(), sim }
    }

    pub(crate) async fn cluster_id(&self, name: &str) -> ClusterId {
        let clusters = cluster::list(&mut self.db().conn().await.unwrap()).await.unwrap();
        clusters.into_iter().find(|row| row.cluster_name == name).expect("the row is there").id
    }

    /// Does what a person does.
    pub(crate) async fn sql(&self, sql: &str) {
        let mut conn = self.db().conn().await.unwrap();
        conn.execute_sql(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    // --- reading -------------------------------------------------------------------------

    pub(crate) async fn nodes(&self, id: ClusterId) -> Vec<NodeRow> {
        node::load(&mut self.db().conn().await.unwrap(), id).await.unwrap()
    }

    pub(crate) async fn guests(&self, id: ClusterId) -> Vec<GuestRow> {
        guest::load(&mut self.db().conn().await.unwrap(), id).await.unwrap()
    }

    pub(crate) async fn storages(&self, id: ClusterId) -> Vec<StorageRow> {
        storage::load(&mut self.db().conn().await.unwrap(), id).await.unwrap()
    }

    /// The addresses of one guest, stale ones last, each with whether it is stale.
    pub(crate) async fn addresses(&self, id: ClusterId, vmid: u32) -> Vec<(AddressRow, bool)> {
        let Some(guest) = self.guest(id, vmid).await else { return Vec::new() };
        let rows =
            ip_address::of_guest(&mut self.db().conn().await.unwrap(), guest.id).await.unwrap();
        let mut rows: Vec<_> = rows.into_iter().map(|row| (row.stale.0, row)).collect();
        rows.sort_unstable_by(|one, other| {
            (one.0, &one.1.address.ip_address).cmp(&(other.0, &other.1.address.ip_address))
        });
        rows.into_iter().map(|(stale, row)| (row, stale)).collect()
    }

    /// How many rows of any table belong to a cluster.
    pub(crate) async fn rows(&self, id: ClusterId) -> [usize; 5] {
        let mut conn = self.db().conn().await.unwrap();
        [
            usize::from(cluster_status::get(&mut conn, id).await.unwrap().is_some()),
            node::load(&mut conn, id).await.unwrap().len(),
            guest::load(&mut conn, id).await.unwrap().len(),
            storage::load(&mut conn, id).await.unwrap().len(),
            ip_address::load(&mut conn, id).await.unwrap().values().map(Vec::len).sum(),
        ]
    }

    /// The row of one guest, if there is one.
    pub(crate) async fn guest(&self, id: ClusterId, vmid: u32) -> Option<GuestRow> {
        self.guests(id).await.into_iter().find(|row| row.synced.vmid == i64::from(vmid))
    }

    pub(crate) async fn node(&self, id: ClusterId, name: &str) -> Option<NodeRow> {
        self.nodes(id).await.into_iter().find(|row| row.synced.node_name == name)
    }

    pub(crate) async fn status(&self, id: ClusterId) -> Option<ClusterStatus> {
        cluster_status::get(&mut self.db().conn().await.unwrap(), id).await.unwrap()
    }

    /// The sum of the series of a counter whose labels contain all of `labels` (`kind="guest"`).
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let text = self.operator().metrics.render();
        text.lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
            .sum()
    }

    // --- waiting -------------------------------------------------------------------------

    /// Waits until the tables show what the cluster is.
    pub(crate) async fn until_equal(&self, cluster: &Followed) {
        self.until_equal_within(SOON, cluster).await;
    }

    pub(crate) async fn until_equal_within(&self, within: Duration, cluster: &Followed) {
        let what = format!("the tables on {} show what {} is", self.kind(), cluster.name);
        eventually(&what, within, || async { self.equal(cluster).await }).await;
    }

    /// What the tables get wrong.
    pub(crate) async fn equal(&self, cluster: &Followed) -> Result<(), Vec<String>> {
        let (nodes, guests) = (self.nodes(cluster.id).await, self.guests(cluster.id).await);
        let storages = self.storages(cluster.id).await;
        let wrong = compare::differences(&cluster.sim, &nodes, &guests, &storages);
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    pub(crate) async fn until_reason(&self, cluster: &Followed, reason: &str) -> ClusterStatus {
        let what = format!("the status on {} is {reason}", self.kind());
        eventually(&what, SOON, || async {
            match self.status(cluster.id).await {
                Some(status) if status.reason == reason => Ok(status),
                other => Err(other.map(|status| (status.reason, status.message))),
            }
        })
        .await
    }

    /// Waits for whole polls: `count` lists were answered and taken in.
    pub(crate) async fn polls(&self, cluster: &Followed, count: u64) {
        let labels = [&*format!("cluster=\"{}\"", cluster.name)];
        let polled = || self.metric("pve_operator_poll_duration_seconds_count", &labels);
        let (before, wanted) = (polled(), count + 1);
        eventually(&format!("{count} polls on {}", self.kind()), SOON, || async {
            let seen = polled() - before;
            if seen >= wanted { Ok(()) } else { Err(seen) }
        })
        .await;
    }
}

/// Starts a simulator; its ports are drawn, so another test may be quicker.
pub(crate) fn simulate(config: Config) -> Sim {
    let again = config.clone();
    Sim::start(config).or_else(|_| Sim::start(again)).expect("a simulator starts")
}

impl Drop for Mirror {
    fn drop(&mut self) {
        if let Some(Running { runtime, .. }) = self.running.take() {
            runtime.shutdown_background();
        }
    }
}

/// The options of `pve-operator run` as the command line has them.
fn run_args(line: &[&str]) -> RunArgs {
    match Args::try_parse_from(line).expect("the options are right").command {
        Command::Run(args) => *args,
        Command::Migrate(_) => unreachable!("the line says run"),
    }
}
