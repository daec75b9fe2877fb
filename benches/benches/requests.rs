//! How often a large cluster is asked, and that a quiet one costs neither events nor rows.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use benches::{
    figures::{figure, ratio},
    http::sum_of,
    tables::{self, Access},
};
use clap::Parser;
use pve_operator::{
    args::{Args, Command, RunArgs},
    runtime::Operator,
};
use pve_sim::{Config, Sim};
use schema::Db;
use tokio::time::{Instant, sleep};

const NODES: usize = 32;
const GUESTS: usize = 2_000;
const POLLS: u64 = 20;

/// The first reading of all guests' disks and addresses takes most of it.
const PATIENCE: Duration = Duration::from_mins(5);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let sim = Sim::start(Config::quick().nodes(NODES).guests(GUESTS).seed(7))?;
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite://{}", folder.path().join("requests.db").display());
    let db = Db::open(&url)?;
    db.migrate().await?;
    let clusters = tables::insert(&db, &[access(&sim)]).await?;
    let operator = Operator::start(&operator_args(&url)?).await?;
    tables::wait_for_guests(&db, &clusters, GUESTS, PATIENCE, |row| row.details_at.is_some())
        .await?;

    let before = Seen::now(&operator, &db).await?;
    sim.reset_counters();
    polled(&sim, POLLS).await?;
    let counted = sim.counters();
    // What the last of them brought has been written by the time of the next one but one.
    polled(&sim, POLLS + 2).await?;
    let after = Seen::now(&operator, &db).await?;
    operator.stop().await;

    let polls = counted.of("GET", "/cluster/resources");
    figure("requests/polls", polls);
    figure("requests/list_requests", counted.list_requests);
    for (what, times) in counted.by_path.iter().filter(|(what, _)| !what.contains("{id}")) {
        figure("requests/of", format_args!("{what}: {times}"));
    }
    figure("requests/events", after.events - before.events);
    figure("requests/rows_written", after.rows - before.rows);
    let raised: i64 = std::iter::zip(after.revisions, before.revisions)
        .map(|(after, before)| after.0 - before.0)
        .sum();
    figure("requests/revisions_raised", raised);
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let (ours, original) = (counted.list_requests as f64 / polls as f64, (2 + 2 * NODES) as f64);
    figure("requests/list_requests_per_poll", format_args!("{ours:.2}"));
    ratio("requests/original", ours, original);
    ensure!(polls >= POLLS, "too few polls");
    Ok(())
}

fn access(sim: &Sim) -> Access {
    Access {
        url: sim.url(),
        user_id: sim.user_id(),
        user_token: sim.token(),
        fingerprint: sim.fingerprint(sim.first_node()),
    }
}

/// What the operator has done so far.
struct Seen {
    events: f64,
    rows: f64,
    revisions: [schema::Revision; 3],
}

impl Seen {
    async fn now(operator: &Operator, db: &Db) -> anyhow::Result<Self> {
        let metrics = operator.metrics.render();
        Ok(Self {
            events: sum_of(&metrics, "pve_operator_events_total"),
            rows: sum_of(&metrics, "pve_operator_rows_written_total"),
            revisions: tables::revisions(db).await?,
        })
    }
}

async fn polled(sim: &Sim, times: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while sim.counters().of("GET", "/cluster/resources") < times {
        ensure!(Instant::now() < deadline, "the operator does not poll");
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn operator_args(url: &str) -> anyhow::Result<RunArgs> {
    // The shorter interval lets the first reading of all guests end within a minute.
    let words = [
        "pve-operator",
        "run",
        "--database-url",
        url,
        "--listen",
        "127.0.0.1:0",
        "--poll-interval",
        "500ms",
        "--details-interval",
        "1m",
    ];
    match Args::try_parse_from(words).context("arguments of the operator")?.command {
        Command::Run(run) => Ok(*run),
        Command::Migrate(_) => bail!("`run` was asked for"),
    }
}
