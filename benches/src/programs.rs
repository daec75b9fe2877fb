//! The operator and the simulators as processes of their own, as the benches start them.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    process::{Process, program},
    tables::Access,
};

/// The operator's poll interval, as it is by default.
pub const POLL: Duration = Duration::from_secs(5);

/// How many simulated clusters, and what each one has.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub clusters: usize,
    pub nodes: usize,
    pub guests: usize,
}

/// One simulated cluster.
#[derive(Clone, Debug)]
pub struct Simulated {
    pub access: Access,
    /// Host and port of its control port.
    pub control: String,
}

/// Starts them in one process; their log is `sim.log` in `folder`.
///
/// # Errors
///
/// If they do not come up; with what they said.
pub fn start_sims(size: Size, folder: &Path) -> anyhow::Result<(Process, Vec<Simulated>)> {
    start_sims_with(size, &[], folder)
}

/// [`start_sims`], with options of `pve-sim` besides.
pub fn start_sims_with(
    size: Size,
    options: &[&str],
    folder: &Path,
) -> anyhow::Result<(Process, Vec<Simulated>)> {
    let mut command = Command::new(program("pve-sim")?);
    command.args(["--clusters", &size.clusters.to_string()]);
    command.args(["--nodes", &size.nodes.to_string()]);
    command.args(["--guests", &size.guests.to_string()]);
    command.args(options);
    command.stdout(Stdio::piped());
    let mut process = Process::start("pve-sim", &mut command, &folder.join("sim.log"))?;
    let output = BufReader::new(process.stdout().context("stdout is piped")?);
    let clusters = output.lines().take(size.clusters).map(|line| announced(&line?));
    let clusters = clusters.collect::<anyhow::Result<Vec<_>>>()?;
    if clusters.len() < size.clusters {
        bail!("the simulator stopped: {}", fs::read_to_string(folder.join("sim.log"))?);
    }
    Ok((process, clusters))
}

fn announced(line: &str) -> anyhow::Result<Simulated> {
    let json: serde_json::Value = serde_json::from_str(line)?;
    let text = |key: &str| -> anyhow::Result<String> {
        Ok(json[key].as_str().with_context(|| format!("{key} in {line}"))?.to_owned())
    };
    Ok(Simulated {
        access: Access {
            url: text("url")?,
            user_id: text("user_id")?,
            user_token: text("user_token")?,
            fingerprint: text("fingerprint")?,
        },
        control: text("control_url")?.trim_start_matches("http://").to_owned(),
    })
}

/// Starts it with a new admin port, whose host and port are returned too.
pub fn start_operator(url: &str, poll: Duration, log: &Path) -> anyhow::Result<(Process, String)> {
    // Free when it was asked for; nobody else is likely to take it within milliseconds.
    let admin = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let mut command = Command::new(program("pve-operator")?);
    let poll = format!("{}ms", poll.as_millis());
    command.args(["run", "--listen", &admin, "--poll-interval", &poll]);
    // Not as an argument: it may hold a password.
    command.env("DATABASE_URL", url).env("RUST_LOG", "warn");
    command.stdout(Stdio::null());
    Ok((Process::start("pve-operator", &mut command, log)?, admin))
}

/// Runs what needs them, unless somebody wants it to stop: both processes end with it either way.
pub fn run(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            outcome = work => outcome,
            _ = terminated.recv() => bail!("terminated"),
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })
}

/// `DATABASE_URL`, or a new SQLite file in `folder`.
pub fn database_url(folder: &Path) -> String {
    env::var("DATABASE_URL")
        .unwrap_or_else(|_| format!("sqlite://{}", folder.join("bench.db").display()))
}

/// Prints the end of the operator's log if something went wrong.
pub fn with_last_words(outcome: anyhow::Result<()>, log: &Path) -> anyhow::Result<()> {
    if outcome.is_err() {
        let log = fs::read_to_string(log)?;
        eprintln!("last words of the operator:\n{}", &log[log.len().saturating_sub(2000)..]);
    }
    outcome
}
