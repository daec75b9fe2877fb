//! Many clusters, followed by one operator or by several that share them: CPU, memory, and how long a
//! change takes into the tables. Operators and simulators are processes of their own on this machine.
//!
//! `FLEET_SECONDS`, `FLEET_QUIET_SECONDS`, `FLEET_OPERATORS`, `FLEET_CLUSTERS`, `FLEET_NODES`,
//! `FLEET_GUESTS` and `DATABASE_URL` say how large, how long and where; README.md has the defaults.

use std::{collections::HashMap, path::Path, time::Duration};

use benches::{
    figures::{Times, figure, milliseconds},
    http, number,
    process::Process,
    programs::{
        POLL, Simulated, Size, database_url, run, start_operator, start_sims, with_last_words,
    },
    tables,
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use schema::{ClusterId, Db, Revision, guest::GuestRow};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// Between two changes of some guest in some cluster.
const CHANGE_EVERY: Duration = Duration::from_millis(200);

/// Between two looks at the tables; a latency is at most so much too long.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Until all guests and what is read of each one are in the tables.
const SYNC_PATIENCE: Duration = Duration::from_mins(10);

/// For the last changes, when no new ones are made any more.
const LAST_PATIENCE: Duration = Duration::from_secs(30);

struct Fleet {
    seconds: Duration,
    quiet: Duration,
    operators: usize,
    clusters: usize,
    nodes: usize,
    guests: usize,
}

impl Fleet {
    fn from_env() -> anyhow::Result<Self> {
        Ok(Self {
            seconds: Duration::from_secs(number("FLEET_SECONDS", 60)?),
            quiet: Duration::from_secs(number("FLEET_QUIET_SECONDS", 60)?),
            operators: number("FLEET_OPERATORS", 1)?,
            clusters: number("FLEET_CLUSTERS", 50)?,
            nodes: number("FLEET_NODES", 10)?,
            guests: number("FLEET_GUESTS", 200)?,
        })
    }
}

fn main() -> anyhow::Result<()> {
    let fleet = Fleet::from_env()?;
    let folder = tempfile::tempdir()?;
    // The folder outlives both processes, which end with this function however it ends.
    let size = Size { clusters: fleet.clusters, nodes: fleet.nodes, guests: fleet.guests };
    let (sims, clusters) = start_sims(size, folder.path())?;
    run(measure(&fleet, sims, &clusters, folder.path()))
}

async fn measure(
    fleet: &Fleet,
    sims: Process,
    clusters: &[Simulated],
    folder: &Path,
) -> anyhow::Result<()> {
    let url = database_url(folder);
    let db = Db::open(&url)?;
    db.migrate().await?;
    let accesses: Vec<_> = clusters.iter().map(|it| it.access.clone()).collect();
    let ids = tables::insert(&db, &accesses).await?;
    figure("fleet/database", db.url());
    figure(
        "fleet/size",
        format_args!(
            "{} operators, {} clusters, {} nodes, {} guests",
            fleet.operators, fleet.clusters, fleet.nodes, fleet.guests
        ),
    );

    let log = folder.join("operator.log");
    let mut operators = vec![start_operator(&url, POLL, &log)?];
    for number in 1..fleet.operators {
        let log = folder.join(format!("operator-{number}.log"));
        operators.push(start_operator(&url, POLL, &log)?);
    }
    let mut all = Run { db, operators, sims };
    with_last_words(all.all(fleet, clusters, &ids).await, &log)
}

/// All that runs.
struct Run {
    db: Db,
    /// Each with host and port of its `/metrics`.
    operators: Vec<(Process, String)>,
    sims: Process,
}

impl Run {
    fn check(&mut self) -> anyhow::Result<()> {
        self.operators.iter_mut().try_for_each(|(operator, _)| operator.check())
    }

    async fn all(
        &mut self,
        fleet: &Fleet,
        clusters: &[Simulated],
        ids: &[ClusterId],
    ) -> anyhow::Result<()> {
        let guests = self.sync(fleet, ids).await?;
        self.memory("start")?;
        self.quiet(fleet.quiet).await?;

        let targets = guests.iter().filter_map(|row| {
            let at = ids.iter().position(|id| *id == row.cluster_id)?;
            Some(Target::of(row, clusters[at].control.clone()))
        });
        let mut changes = Changes::new(targets.collect(), tables::revisions(&self.db).await?[1]);
        let before = self.cpu()?;
        let written = self.rows_written().await?;
        changes.make(&self.db, fleet.seconds).await?;
        self.report_cpu("", &before)?;
        changes.wait_for_the_last(&self.db).await?;
        self.check()?;

        let rows = self.rows_written().await? - written;
        changes.report();
        figure("fleet/rows_written_for_changes", rows);
        self.memory("end")?;
        figure("fleet/rss_peak_mib", format_args!("{:.1}", self.most_memory_mib("VmHWM")?));
        Ok(())
    }

    async fn sync(&mut self, fleet: &Fleet, ids: &[ClusterId]) -> anyhow::Result<Vec<GuestRow>> {
        let (started, before) = (Instant::now(), self.cpu()?);
        let wait = tables::wait_for_guests(&self.db, ids, fleet.guests, SYNC_PATIENCE, |_| true);
        wait.await?;
        figure("fleet/sync_rows_s", format_args!("{:.1}", started.elapsed().as_secs_f64()));
        let wait = tables::wait_for_guests(&self.db, ids, fleet.guests, SYNC_PATIENCE, |row| {
            row.details_at.is_some()
        });
        let guests = wait.await?;
        figure("fleet/sync_details_s", format_args!("{:.1}", started.elapsed().as_secs_f64()));
        self.report_cpu("sync_", &before)?;
        self.check()?;
        Ok(guests)
    }

    /// Nothing changes in PVE but the numbers that always do.
    async fn quiet(&mut self, time: Duration) -> anyhow::Result<()> {
        let (before, rows) = (self.cpu()?, self.rows_written().await?);
        let revisions = tables::revisions(&self.db).await?;
        sleep(time).await;
        let rows = self.rows_written().await? - rows;
        figure("fleet/quiet_s", time.as_secs());
        figure("fleet/quiet_rows_written", rows);
        let unchanged = revisions == tables::revisions(&self.db).await?;
        figure("fleet/quiet_revisions_unchanged", unchanged);
        self.report_cpu("quiet_", &before)
    }

    async fn rows_written(&self) -> anyhow::Result<f64> {
        let mut rows = 0.0;
        for (_, admin) in &self.operators {
            let metrics = http::get(admin, "/metrics").await?;
            rows += http::sum_of(&metrics, "pve_operator_rows_written_total");
        }
        Ok(rows)
    }

    fn memory(&self, when: &str) -> anyhow::Result<()> {
        let rss = self.most_memory_mib("VmRSS")?;
        figure(&format!("fleet/rss_{when}_mib"), format_args!("{rss:.1}"));
        Ok(())
    }

    /// Of the operator that takes the most.
    fn most_memory_mib(&self, which: &str) -> anyhow::Result<f64> {
        let mut most = 0.0_f64;
        for (operator, _) in &self.operators {
            most = most.max(operator.memory_mib(which)?);
        }
        Ok(most)
    }

    fn cpu(&self) -> anyhow::Result<Cpu> {
        let operators = self.operators.iter().map(|(operator, _)| operator.cpu());
        let operators = operators.collect::<anyhow::Result<_>>()?;
        Ok(Cpu { at: Instant::now(), operators, sims: self.sims.cpu()? })
    }

    fn report_cpu(&self, phase: &str, before: &Cpu) -> anyhow::Result<()> {
        let now = self.cpu()?;
        let wall = (now.at - before.at).as_secs_f64();
        let percent = |used: Duration| format!("{:.1}", used.as_secs_f64() / wall * 100.0);
        let pairs = now.operators.iter().zip(&before.operators);
        let used: Vec<Duration> = pairs.map(|(now, before)| now.saturating_sub(*before)).collect();
        figure(&format!("fleet/{phase}cpu_percent_of_a_core"), percent(used.iter().sum()));
        if used.len() > 1 {
            let each: Vec<String> = used.into_iter().map(percent).collect();
            figure(&format!("fleet/{phase}cpu_percent_of_each"), each.join(" "));
        }
        let sims = percent(now.sims.saturating_sub(before.sims));
        figure(&format!("fleet/{phase}simulators_cpu_percent"), sims);
        Ok(())
    }
}

/// Time on CPUs at one moment.
struct Cpu {
    at: Instant,
    operators: Vec<Duration>,
    sims: Duration,
}

/// A guest in a table, by cluster and VMID.
type Key = (i64, i64);

/// A guest that may be changed.
struct Target {
    key: Key,
    control: String,
    running: bool,
    template: bool,
}

impl Target {
    fn of(row: &GuestRow, control: String) -> Self {
        Self {
            key: (row.cluster_id.0, row.synced.vmid),
            control,
            running: row.synced.status == "running",
            template: row.synced.is_template.0,
        }
    }
}

/// What a row will say.
enum Wanted {
    Name(String),
    Status(&'static str),
}

impl Wanted {
    fn is_in(&self, row: &GuestRow) -> bool {
        match self {
            Self::Name(name) => row.synced.vm_name.as_ref() == Some(name),
            Self::Status(status) => row.synced.status == *status,
        }
    }

    fn command(&self, vmid: i64) -> serde_json::Value {
        match self {
            Self::Name(name) => serde_json::json!({"do": "rename", "vmid": vmid, "name": name}),
            Self::Status(status) => {
                serde_json::json!({"do": "set_status", "vmid": vmid, "status": status})
            }
        }
    }
}

/// Changes that were made, and those that the tables do not show yet.
struct Changes {
    targets: Vec<Target>,
    random: SmallRng,
    awaited: HashMap<Key, (Wanted, Instant)>,
    seen: Revision,
    latencies: Times,
    made: usize,
}

impl Changes {
    fn new(targets: Vec<Target>, seen: Revision) -> Self {
        let random = SmallRng::seed_from_u64(7);
        let latencies = Times::default();
        Self { targets, random, awaited: HashMap::new(), seen, latencies, made: 0 }
    }

    /// Makes one after the other for so long, and watches the tables meanwhile.
    async fn make(&mut self, db: &Db, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        let (mut change, mut look) = (interval(CHANGE_EVERY), interval(LOOK_EVERY));
        change.set_missed_tick_behavior(MissedTickBehavior::Delay);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < end {
            tokio::select! {
                _ = change.tick() => self.make_one().await?,
                _ = look.tick() => self.look(db).await?,
            }
        }
        Ok(())
    }

    async fn wait_for_the_last(&mut self, db: &Db) -> anyhow::Result<()> {
        let end = Instant::now() + LAST_PATIENCE;
        while !self.awaited.is_empty() && Instant::now() < end {
            sleep(LOOK_EVERY).await;
            self.look(db).await?;
        }
        Ok(())
    }

    async fn make_one(&mut self) -> anyhow::Result<()> {
        let at = self.random.random_range(0..self.targets.len());
        let target = &mut self.targets[at];
        if self.awaited.contains_key(&target.key) {
            return Ok(());
        }
        self.made += 1;
        let wanted = if target.template || self.random.random_bool(0.5) {
            Wanted::Name(format!("changed-{}", self.made))
        } else {
            target.running = !target.running;
            Wanted::Status(if target.running { "running" } else { "stopped" })
        };
        let started = Instant::now();
        let command = wanted.command(target.key.1).to_string();
        http::post(&target.control, "/", &command).await?;
        self.awaited.insert(target.key, (wanted, started));
        Ok(())
    }

    async fn look(&mut self, db: &Db) -> anyhow::Result<()> {
        let seen = self.seen;
        let read = db.read(async |conn| schema::guest::changes_since(conn, seen, 1000).await);
        let changes = read.await?;
        let now = Instant::now();
        self.seen = changes.revision;
        for row in changes.rows {
            let key = (row.cluster_id.0, row.synced.vmid);
            if let Some((wanted, _)) = self.awaited.get(&key)
                && wanted.is_in(&row)
                && let Some((_, started)) = self.awaited.remove(&key)
            {
                self.latencies.push(now - started);
            }
        }
        Ok(())
    }

    fn report(&self) {
        let ms = |time| format!("{:.0}", milliseconds(time));
        figure("fleet/changes_made", self.made);
        figure("fleet/changes_that_never_came", self.awaited.len());
        figure("fleet/change_to_row_p50_ms", ms(self.latencies.median()));
        figure("fleet/change_to_row_p99_ms", ms(self.latencies.percentile(99)));
        figure("fleet/change_to_row_max_ms", ms(self.latencies.max()));
    }
}
