//! `pve-sim`: simulated clusters for other processes.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use pve_sim::{COMMANDS, Config, Secret, Sim};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

/// A simulated Proxmox VE 9.2 over TLS
///
/// Prints one line of JSON per cluster when its ports answer:
/// {"url":…,"fingerprint":…,"user_id":…,"user_token":…,"control_url":…}, and nothing else.
/// Nodes share the port on addresses of their own: 127.0.0.1, 127.0.0.2, …
/// Ends with exit code 0 on Ctrl-C and SIGTERM.
#[derive(Debug, Parser)]
#[command(version, after_help = COMMANDS)]
struct Args {
    /// Where the first node of the first cluster listens; port 0 picks a free one. Further
    /// clusters take the following ports
    #[arg(long, env = "PVE_SIM_LISTEN", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// How many clusters
    #[arg(long, env = "PVE_SIM_CLUSTERS", default_value_t = 1)]
    clusters: u16,
    /// Nodes of each cluster
    #[arg(long, env = "PVE_SIM_NODES", default_value_t = 3)]
    nodes: usize,
    /// Guests of each cluster
    #[arg(long, env = "PVE_SIM_GUESTS", default_value_t = 40)]
    guests: usize,
    /// Same seed, same guests; each further cluster takes the next seed
    #[arg(long, env = "PVE_SIM_SEED", default_value_t = 7)]
    seed: u64,
    /// One node without corosync
    #[arg(long, env = "PVE_SIM_STANDALONE")]
    standalone: bool,
    /// Where the control port listens; port 0 picks a free one
    #[arg(long, env = "PVE_SIM_CONTROL", default_value = "127.0.0.1:0")]
    control: SocketAddr,
    /// user@realm!tokenid of the token that may do everything
    #[arg(long, env = "PVE_SIM_USER_ID", default_value = "root@pam!sim")]
    user_id: String,
    /// Its secret; drawn from the seed unless given
    #[arg(long, env = "PVE_SIM_USER_TOKEN", hide_env_values = true)]
    user_token: Option<Secret>,
    /// How long a 401 takes, in milliseconds
    #[arg(long, env = "PVE_SIM_AUTH_DELAY_MS", default_value_t = 3000)]
    auth_delay_ms: u64,
    /// How long the row of a new guest is bare, in milliseconds
    #[arg(long, env = "PVE_SIM_SETTLE_MS", default_value_t = 10_000)]
    settle_ms: u64,
    /// Answer without compression, also when asked for gzip
    #[arg(long, env = "PVE_SIM_NO_GZIP")]
    no_gzip: bool,
    /// Keep usage numbers still from one answer to the next
    #[arg(long, env = "PVE_SIM_STILL")]
    still: bool,
}

impl Args {
    fn config(&self, number: u16) -> anyhow::Result<Config> {
        let mut listen = self.listen;
        if listen.port() != 0 {
            let port = listen.port().checked_add(number);
            listen.set_port(port.context("not enough ports after --listen")?);
        }
        let config = Config {
            cluster_name: if number == 0 { "sim".to_owned() } else { format!("sim{number}") },
            listen,
            nodes: self.nodes,
            guests: self.guests,
            seed: self.seed + u64::from(number),
            user_id: self.user_id.clone(),
            token: self.user_token.clone(),
            auth_delay: Duration::from_millis(self.auth_delay_ms),
            settle: Duration::from_millis(self.settle_ms),
            gzip: !self.no_gzip,
            moving: !self.still,
            ..Config::default()
        };
        Ok(if self.standalone { config.standalone() } else { config })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut clusters = Vec::with_capacity(usize::from(args.clusters));
    for number in 0..args.clusters {
        let sim = Sim::start(args.config(number)?).context("start a cluster")?;
        let mut control = args.control;
        if control.port() != 0 {
            let port = control.port().checked_add(number);
            control.set_port(port.context("not enough ports after --control")?);
        }
        let control = sim
            .serve_control(control)
            .with_context(|| format!("listen on {control} for control"))?;
        announce(&sim, control)?;
        clusters.push(sim);
    }
    tokio::select! {
        _ = terminate.recv() => {}
        pressed = tokio::signal::ctrl_c() => pressed.context("listen for Ctrl-C")?,
    }
    Ok(())
}

/// The one line that whoever started us waits for.
fn announce(sim: &Sim, control: SocketAddr) -> anyhow::Result<()> {
    let line = json!({
        "url": sim.url(),
        "fingerprint": sim.fingerprint(sim.first_node()),
        "user_id": sim.user_id(),
        "user_token": sim.token(),
        "control_url": format!("http://{control}"),
    });
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("print the line of JSON")
}
