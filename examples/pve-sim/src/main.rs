//! `pve-sim`: simulated clusters for other processes.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use pve_sim::{COMMANDS, Config, Secret, Sim, Storage, parse_bytes, parse_storage};
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
    /// A storage: NAME=TYPE[,shared][,content=images+import][,nodes=pve1+pve2][,total=100GiB].
    /// May be given several times; without any there are local, local-lvm and nfs-shared
    #[arg(long = "storage", value_name = "NAME=TYPE[,…]", value_parser = parse_storage)]
    storages: Vec<Storage>,
    /// PVE's version on all nodes; before 8.4 no .qcow2 can be put on a storage by API
    #[arg(long, env = "PVE_SIM_PVE_VERSION", default_value = "9.2.11")]
    pve_version: String,
    /// How long a task takes at least, in milliseconds
    #[arg(long, env = "PVE_SIM_TASK_TIME_MS", default_value_t = 250)]
    task_time_ms: u64,
    /// Bytes of a guest's disk that are copied per second: 400MiB
    #[arg(long, env = "PVE_SIM_COPY_RATE", default_value = "400MiB", value_parser = parse_bytes)]
    copy_rate: u64,
    /// Bytes per second that all downloads of a node together can take: 50MiB; no limit unless
    /// given
    #[arg(long, env = "PVE_SIM_NODE_LINK", value_parser = parse_bytes)]
    node_link: Option<u64>,
    /// A file with certificates (PEM) that nodes trust when they download by https
    #[arg(long, env = "PVE_SIM_TRUST")]
    trust: Option<PathBuf>,
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
            storages: self.storages.clone(),
            pve_version: self.pve_version.clone(),
            task_time: Duration::from_millis(self.task_time_ms),
            copy_rate: Some(self.copy_rate),
            node_link: self.node_link,
            trusted: self.trusted()?,
            ..Config::default()
        };
        Ok(if self.standalone { config.standalone() } else { config })
    }

    fn trusted(&self) -> anyhow::Result<Vec<String>> {
        let Some(file) = &self.trust else { return Ok(Vec::new()) };
        let pem = std::fs::read_to_string(file);
        Ok(vec![pem.with_context(|| format!("read the certificates in {}", file.display()))?])
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
