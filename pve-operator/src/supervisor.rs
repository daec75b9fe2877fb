//! Reads `pve_cluster` and keeps one pipeline per enabled cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use schema::{
    ClusterId, Db, DbError,
    cluster::{self, Cluster, Swap},
    cluster_status::{self, ClusterStatus},
    secret::{Secret, SecretKeys, reveal},
    sweep::{orphan_cluster_ids, sweep_cluster},
};
use tokio::{sync::Notify, task::JoinHandle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::Readiness,
    lease::{Lease, Leases},
    pipeline::{Pipeline, Shared, Wanted},
    supervisor_plan::{Act, plan},
};

/// A table of up to this many clusters is read every second.
const SMALL: usize = 200;

/// How often a small table is read.
const OFTEN: Duration = Duration::from_secs(1);

/// How often other tables are searched for clusters that are gone.
const LEFTOVERS: Duration = Duration::from_secs(10);

/// However rarely clusters are checked: the keeper of the leases takes silence for a fault.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A database that answers later is one that does not answer.
const LONGEST_LOOK: Duration = Duration::from_secs(30);

/// The reason in the status of a cluster with `is_enabled` 0.
const DISABLED: &str = "Disabled";

/// What tokens are sealed for: nothing else opens with the same key.
const PURPOSE: &str = "pve_cluster.user_token";

/// Keeps the pipelines of the clusters that this operator holds the lease of.
#[expect(missing_debug_implementations, reason = "the tables show what it keeps")]
pub struct Supervisor {
    shared: Shared,
    leases: Leases,
    keys: Option<Arc<SecretKeys>>,
    readiness: Readiness,
    check_interval: Duration,
    running: BTreeMap<i64, Pipeline>,
    /// Told to stop, and not waited for: one that takes long delays no other cluster.
    stopping: BTreeMap<i64, JoinHandle<()>>,
    /// One of them has stopped.
    stopped: Arc<Notify>,
    /// Clusters whose row cannot be used, by what was said about it.
    broken: BTreeMap<i64, String>,
    /// Clusters whose status says that they are disabled.
    disabled: BTreeSet<i64>,
    tasks: TaskTracker,
}

/// What a pipeline is made from. If it changes, so does the pipeline.
struct Config {
    wanted: Wanted,
    lease: Lease,
}

impl Config {
    fn of(pipeline: &Pipeline) -> Self {
        Self { wanted: pipeline.wanted.clone(), lease: pipeline.lease.clone() }
    }
}

impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        self.wanted == other.wanted && self.lease.is(&other.lease)
    }
}

impl Eq for Config {}

/// What one look at the database showed.
struct Seen {
    rows: Vec<Cluster>,
    leftovers: BTreeSet<i64>,
}

impl Supervisor {
    pub fn new(
        shared: Shared,
        leases: Leases,
        keys: Option<Arc<SecretKeys>>,
        readiness: Readiness,
        check_interval: Duration,
    ) -> Self {
        Self {
            shared,
            leases,
            keys,
            readiness,
            check_interval,
            running: BTreeMap::new(),
            stopping: BTreeMap::new(),
            stopped: Arc::default(),
            broken: BTreeMap::new(),
            disabled: BTreeSet::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Follows the table until told to stop; then stops every pipeline and waits for it.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut next_leftovers = tokio::time::Instant::now();
        let mut failures: u32 = 0;
        loop {
            let with_leftovers = tokio::time::Instant::now() >= next_leftovers;
            let pause = match self.check(with_leftovers).await {
                Ok(clusters) => {
                    if with_leftovers {
                        next_leftovers =
                            tokio::time::Instant::now() + LEFTOVERS.min(self.check_interval);
                    }
                    failures = 0;
                    self.readiness.set(true);
                    if clusters <= SMALL {
                        OFTEN.min(self.check_interval)
                    } else {
                        self.check_interval
                    }
                }
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "Clusters cannot be read; those that are known are followed on"
                        );
                    }
                    failures += 1;
                    self.readiness.set(false);
                    OFTEN.min(self.check_interval)
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause.min(LONGEST_PAUSE)) => {}
                () = self.leases.changed() => {}
                () = self.stopped.notified() => next_leftovers = tokio::time::Instant::now(),
            }
        }
        self.readiness.set(false);
        for pipeline in self.running.values() {
            pipeline.stop();
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Looks, decides, acts; answers how many clusters there are.
    async fn check(&mut self, with_leftovers: bool) -> Result<usize, DbError> {
        let seen = timeout(LONGEST_LOOK, look(&self.shared.db, with_leftovers)).await;
        let seen = seen.map_err(|_| DbError::no_answer(self.shared.db.url()))??;
        self.stopping.retain(|_, task| !task.is_finished());
        let (enabled, disabled): (Vec<_>, Vec<_>) =
            seen.rows.iter().partition(|row| row.is_enabled.0);
        let (enabled_ids, disabled_ids) = (ids(&enabled), ids(&disabled));
        self.disabled.retain(|id| disabled_ids.contains(id));
        self.find_disabled(&disabled_ids).await?;
        let unsaid = &disabled_ids - &self.disabled;
        self.leases.want(&enabled_ids | &unsaid);
        let held = self.leases.held();
        let unsaid = unsaid.into_iter().filter(|id| held.contains_key(id)).collect();
        self.broken.retain(|id, _| enabled_ids.contains(id) && held.contains_key(id));
        let (mut wanted, mut mistakes) = (BTreeMap::new(), Vec::new());
        for row in &enabled {
            let Some(lease) = held.get(&row.id.0) else { continue };
            match self.token(row).await? {
                Ok(token) => {
                    self.broken.remove(&row.id.0);
                    let config = Config { wanted: Wanted::new(row, token), lease: lease.clone() };
                    wanted.insert(row.id.0, config);
                }
                Err(mistake) => mistakes.push((row, lease, mistake)),
            }
        }
        let known = &enabled_ids | &disabled_ids;
        // One that ended by itself is not one that runs.
        let ended: Vec<i64> =
            self.running.iter().filter(|(_, it)| it.has_ended()).map(|(id, _)| *id).collect();
        for id in ended {
            self.stop(id);
        }
        let running = self.running.iter().map(|(id, it)| (*id, Config::of(it))).collect();
        let mut failed = None;
        for act in plan(&wanted, &known, &unsaid, &running, &seen.leftovers) {
            // What goes wrong with one cluster is none of the others' business.
            match self.act(act, &mut wanted, &held).await {
                Ok(()) | Err(DbError::Fenced { .. }) => {}
                Err(error) => failed = Some(error),
            }
        }
        // Now that nobody else writes their status.
        for (row, lease, mistake) in mistakes {
            match self.report_broken(row, lease, mistake).await {
                Ok(()) | Err(DbError::Fenced { .. }) => {}
                Err(error) => failed = Some(error),
            }
        }
        self.leases
            .give_back(|id| self.running.contains_key(&id) || self.stopping.contains_key(&id));
        if let Some(error) = failed {
            return Err(error);
        }
        let failed = self.broken.len() + self.running.values().filter(|it| it.is_failing()).count();
        let ours = self.running.len() + self.broken.len();
        self.shared.metrics.set_clusters(ours.saturating_sub(failed), failed, disabled.len());
        Ok(seen.rows.len())
    }

    async fn act(
        &mut self,
        act: Act,
        wanted: &mut BTreeMap<i64, Config>,
        held: &BTreeMap<i64, Lease>,
    ) -> Result<(), DbError> {
        let db = &self.shared.db;
        match act {
            // The next check does it: one that was told to stop may still write.
            Act::Start(id) | Act::Disable(id) | Act::Sweep(id)
                if self.stopping.contains_key(&id) => {}
            Act::Start(id) => {
                if let Some(Config { wanted, lease }) = wanted.remove(&id) {
                    tracing::info!(cluster = wanted.name, "Following the cluster");
                    let pipeline = Pipeline::start(self.shared.clone(), wanted, lease, &self.tasks);
                    self.running.insert(id, pipeline);
                }
            }
            Act::Stop(id) => self.stop(id),
            Act::Disable(id) => {
                let Some(lease) = held.get(&id) else { return Ok(()) };
                if let Some(status) = disabled_status(db, ClusterId(id)).await? {
                    let db = db.fenced(lease.fence().clone());
                    db.write(async |conn| cluster_status::write(conn, &status).await).await?;
                }
                self.disabled.insert(id);
            }
            Act::Sweep(id) => {
                match db.write(async |conn| sweep_cluster(conn, ClusterId(id)).await).await {
                    Ok(rows) => tracing::info!(
                        id,
                        rows,
                        "The cluster is gone from pve_cluster, its rows are deleted"
                    ),
                    // Its row is back: the next check starts it.
                    Err(DbError::Conflict { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn stop(&mut self, id: i64) {
        let Some(pipeline) = self.running.remove(&id) else { return };
        tracing::info!(cluster = pipeline.wanted.name, "No longer following the cluster");
        pipeline.stop();
        let stopped = Arc::clone(&self.stopped);
        let waiting = self.tasks.spawn(async move {
            pipeline.stopped().await;
            stopped.notify_one();
        });
        self.stopping.insert(id, waiting);
    }

    /// Finds the disabled clusters whose status says so already: nobody needs a lease for those.
    async fn find_disabled(&mut self, disabled: &BTreeSet<i64>) -> Result<(), DbError> {
        for id in disabled - &self.disabled {
            let ours = self.running.contains_key(&id) || self.stopping.contains_key(&id);
            if !ours && disabled_status(&self.shared.db, ClusterId(id)).await?.is_none() {
                self.disabled.insert(id);
            }
        }
        Ok(())
    }

    /// The cluster's token, plain; in the table it is sealed with the newest key, if there is one.
    ///
    /// The inner error is a sentence about the row.
    async fn token(&self, row: &Cluster) -> Result<Result<Secret, String>, DbError> {
        let plain = match reveal(self.keys.as_deref(), PURPOSE, &row.user_token) {
            Ok(plain) => plain,
            Err(error) => return Ok(Err(format!("user_token: {error}"))),
        };
        if let Some(keys) = &self.keys
            && !keys.is_current(&row.user_token)
        {
            let sealed = keys.seal(PURPOSE, &plain).map_err(DbError::from)?;
            let swap = self
                .shared
                .db
                .write(async |conn| {
                    cluster::seal_token(conn, row.id, &row.user_token, &sealed).await
                })
                .await?;
            match swap {
                Swap::Done => {
                    tracing::info!(cluster = row.cluster_name, "Sealed the token of the cluster");
                }
                Swap::Stale => {} // somebody wrote another one meanwhile: the next check sees it
            }
        }
        Ok(Ok(plain))
    }

    async fn report_broken(
        &mut self,
        row: &Cluster,
        lease: &Lease,
        mistake: String,
    ) -> Result<(), DbError> {
        if self.broken.get(&row.id.0) == Some(&mistake) {
            return Ok(());
        }
        tracing::warn!(cluster = row.cluster_name, "{mistake}");
        let status = ClusterStatus {
            message: Some(mistake.clone()),
            reason_since: Some(schema::now()),
            ..ClusterStatus::new(row.id, "InvalidConfiguration")
        };
        let db = self.shared.db.fenced(lease.fence().clone());
        db.write(async |conn| cluster_status::write(conn, &status).await).await?;
        self.broken.insert(row.id.0, mistake);
        Ok(())
    }
}

async fn look(db: &Db, with_leftovers: bool) -> Result<Seen, DbError> {
    let mut conn = db.conn().await?;
    // Leftovers first: a cluster that is inserted in between is then known, and not swept.
    let leftovers = if with_leftovers {
        orphan_cluster_ids(&mut conn).await?.into_iter().map(|id| id.0).collect()
    } else {
        BTreeSet::new()
    };
    Ok(Seen { rows: cluster::list(&mut conn).await?, leftovers })
}

fn ids(rows: &[&Cluster]) -> BTreeSet<i64> {
    rows.iter().map(|row| row.id.0).collect()
}

/// The status to write for a disabled cluster; None if it is there already.
async fn disabled_status(db: &Db, id: ClusterId) -> Result<Option<ClusterStatus>, DbError> {
    let before = cluster_status::get(&mut db.conn().await?, id).await?;
    let before = before.unwrap_or_else(|| ClusterStatus::new(id, ""));
    Ok((before.reason != DISABLED).then(|| ClusterStatus {
        is_ready: false.into(),
        reason: DISABLED.to_owned(),
        reason_since: Some(schema::now()),
        message: Some("is_enabled is 0: the rows keep their last values.".to_owned()),
        ..before
    }))
}
