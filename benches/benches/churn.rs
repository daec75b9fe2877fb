//! A08: one large cluster in which every guest changes between any two polls. How long a change
//! takes into the tables, how much waits on the way, and whether memory grows.
//!
//! `CHURN_SECONDS`, `CHURN_POLL_SECONDS`, `CHURN_NODES`, `CHURN_GUESTS` and `DATABASE_URL` say how
//! long, how often, how large and where; README.md has the defaults. Ends with an error where A08
//! does not hold.

use std::{collections::HashMap, path::Path, time::Duration};

use anyhow::{Context, ensure};
use benches::{
    figures::{Times, figure, median, milliseconds},
    http, number,
    process::Process,
    programs::{
        POLL, Simulated, Size, database_url, run, start_operator, start_sims, with_last_words,
    },
    tables,
};
use schema::{Db, Revision, guest::GuestRow};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// Between two looks at the tables; a latency is at most so much too long.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Between two looks at what waits. The operator's writer needs longer than this for a round.
const QUEUES_EVERY: Duration = Duration::from_millis(100);

/// Rounds before memory is read for the first time: every buffer has had its largest poll.
const WARM_UP: usize = 6;

const PATIENCE: Duration = Duration::from_mins(5);

fn main() -> anyhow::Result<()> {
    let time = Duration::from_secs(number("CHURN_SECONDS", 60)?);
    let poll = Duration::from_secs(number("CHURN_POLL_SECONDS", POLL.as_secs())?);
    let size = Size {
        clusters: 1,
        nodes: number("CHURN_NODES", 32)?,
        guests: number("CHURN_GUESTS", 2000)?,
    };
    let folder = tempfile::tempdir()?;
    // The folder outlives both processes, which end with this function however it ends.
    let (sims, mut clusters) = start_sims(size, folder.path())?;
    let cluster = clusters.pop().context("there is one cluster")?;
    run(measure(size, (time, poll), sims, &cluster, folder.path()))
}

async fn measure(
    size: Size,
    (time, poll): (Duration, Duration),
    _sims: Process,
    cluster: &Simulated,
    folder: &Path,
) -> anyhow::Result<()> {
    let url = database_url(folder);
    let db = Db::open(&url)?;
    db.migrate().await?;
    let ids = tables::insert(&db, std::slice::from_ref(&cluster.access)).await?;
    figure("churn/database", db.url());
    figure("churn/size", format_args!("{} nodes, {} guests", size.nodes, size.guests));
    let log = folder.join("operator.log");
    let (mut operator, admin) = start_operator(&url, poll, &log)?;
    let wait =
        tables::wait_for_guests(&db, &ids, size.guests, PATIENCE, |row| row.details_at.is_some());
    let guests = wait.await?;

    let mut churn = Churn::new(&guests, poll, tables::revisions(&db).await?[1]);
    let outcome = churn.run(&db, &operator, &cluster.control, &admin, time).await;
    with_last_words(outcome, &log)?;
    operator.check()?;
    churn.report(size)
}

/// One change of one guest that its row does not show yet.
struct Awaited {
    round: usize,
    since: Instant,
}

/// All changes so far.
struct Churn {
    poll: Duration,
    vmids: Vec<i64>,
    awaited: HashMap<i64, Vec<Awaited>>,
    seen: Revision,
    round: usize,
    latencies: Times,
    pending: f64,
    unread: f64,
    /// Resident memory in MiB after the warm-up and after each later round.
    memory: Vec<f64>,
}

impl Churn {
    fn new(guests: &[GuestRow], poll: Duration, seen: Revision) -> Self {
        Self {
            poll,
            vmids: guests.iter().map(|row| row.synced.vmid).collect(),
            awaited: HashMap::new(),
            seen,
            round: 0,
            latencies: Times::default(),
            pending: 0.0,
            unread: 0.0,
            memory: Vec::new(),
        }
    }

    async fn run(
        &mut self,
        db: &Db,
        operator: &Process,
        control: &str,
        admin: &str,
        time: Duration,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        let (mut change, mut look) = (interval(self.poll), interval(LOOK_EVERY));
        let mut queues = interval(QUEUES_EVERY);
        queues.set_missed_tick_behavior(MissedTickBehavior::Delay);
        change.set_missed_tick_behavior(MissedTickBehavior::Delay);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < end {
            tokio::select! {
                _ = change.tick() => {
                    if self.round >= WARM_UP {
                        self.memory.push(operator.memory_mib("VmRSS")?);
                    }
                    self.change_all(control).await?;
                }
                _ = look.tick() => self.look(db).await?,
                _ = queues.tick() => self.look_at_queues(admin).await?,
            }
        }
        let patience = Instant::now() + 4 * self.poll;
        while !self.awaited.is_empty() && Instant::now() < patience {
            sleep(LOOK_EVERY).await;
            self.look(db).await?;
        }
        Ok(())
    }

    async fn change_all(&mut self, control: &str) -> anyhow::Result<()> {
        self.round += 1;
        let (round, since) = (self.round, Instant::now());
        let rename = |vmid: &i64| {
            let name = format!("guest-{vmid}-{round}");
            serde_json::json!({"do": "rename", "vmid": vmid, "name": name})
        };
        let commands: Vec<_> = self.vmids.iter().map(rename).collect();
        http::post(control, "/", &serde_json::to_string(&commands)?).await?;
        for vmid in &self.vmids {
            self.awaited.entry(*vmid).or_default().push(Awaited { round, since });
        }
        Ok(())
    }

    /// A row that shows a round shows all before it.
    async fn look(&mut self, db: &Db) -> anyhow::Result<()> {
        loop {
            let seen = self.seen;
            let read = db.read(async |conn| schema::guest::changes_since(conn, seen, 1000).await);
            let changes = read.await?;
            let now = Instant::now();
            self.seen = changes.revision;
            if changes.rows.is_empty() {
                return Ok(());
            }
            for row in changes.rows {
                let vmid = row.synced.vmid;
                let Some(round) = row.synced.vm_name.as_deref().and_then(round_of) else {
                    continue;
                };
                let Some(awaited) = self.awaited.get_mut(&vmid) else { continue };
                for shown in awaited.extract_if(.., |it| it.round <= round) {
                    self.latencies.push(now - shown.since);
                }
                if awaited.is_empty() {
                    self.awaited.remove(&vmid);
                }
            }
        }
    }

    async fn look_at_queues(&mut self, admin: &str) -> anyhow::Result<()> {
        let metrics = http::get(admin, "/metrics").await?;
        self.pending = self.pending.max(http::sum_of(&metrics, "pve_operator_writer_pending"));
        self.unread = self.unread.max(http::sum_of(&metrics, "pve_operator_details_pending"));
        Ok(())
    }

    fn report(&self, size: Size) -> anyhow::Result<()> {
        let never: usize = self.awaited.values().map(Vec::len).sum();
        let p99 = self.latencies.percentile(99);
        let ms = |time| format!("{:.0}", milliseconds(time));
        let rounds = self.memory.len();
        let quarter = (rounds / 4).max(1).min(rounds);
        let start = median(&self.memory[..quarter]).unwrap_or_default();
        let end = median(&self.memory[rounds - quarter..]).unwrap_or_default();
        figure("churn/rounds", self.round);
        figure("churn/changes", self.latencies.len() + never);
        figure("churn/changes_that_never_came", never);
        figure("churn/change_to_row_p50_ms", ms(self.latencies.median()));
        figure("churn/change_to_row_p99_ms", ms(p99));
        figure("churn/change_to_row_max_ms", ms(self.latencies.max()));
        figure("churn/writer_pending_max", self.pending);
        figure("churn/details_pending_max", self.unread);
        let course = self.memory.iter().step_by(rounds.div_ceil(12).max(1));
        let course: Vec<_> = course.map(|mib| format!("{mib:.1}")).collect();
        figure("churn/rss_course_mib", course.join(" "));
        figure("churn/rss_first_quarter_mib", format_args!("{start:.1}"));
        figure("churn/rss_last_quarter_mib", format_args!("{end:.1}"));

        ensure!(never == 0, "{never} changes never came");
        ensure!(p99 <= 2 * self.poll, "p99 is more than two polls");
        let objects = size.guests + 4 * size.nodes;
        ensure!(self.pending <= objects_as_f64(objects), "more waits than there is");
        ensure!(end <= start * 1.1 + 4.0, "memory grows: {start:.1} to {end:.1} MiB");
        Ok(())
    }
}

fn round_of(name: &str) -> Option<usize> {
    name.rsplit_once('-')?.1.parse().ok()
}

#[expect(clippy::cast_precision_loss, reason = "there are not that many guests")]
fn objects_as_f64(objects: usize) -> f64 {
    objects as f64
}
