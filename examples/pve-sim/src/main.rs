//! `pve-sim`: simulated clusters for other processes.

use std::net::SocketAddr;

use anyhow::Context;
use clap::Parser;
use pve_sim::{Config, Sim};
use serde_json::json;

/// A simulated Proxmox VE 9.2 over TLS.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Where the first node listens; port 0 picks a free one
    #[arg(long, env = "PVE_SIM_LISTEN", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Nodes of each cluster
    #[arg(long, env = "PVE_SIM_NODES", default_value_t = 3)]
    nodes: usize,
    /// Guests of each cluster
    #[arg(long, env = "PVE_SIM_GUESTS", default_value_t = 40)]
    guests: usize,
    /// Same seed, same guests
    #[arg(long, env = "PVE_SIM_SEED", default_value_t = 7)]
    seed: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let config = Config {
        listen: args.listen,
        nodes: args.nodes,
        guests: args.guests,
        seed: args.seed,
        ..Config::default()
    };
    let sim = Sim::start(config).context("start the cluster")?;
    println!(
        "{}",
        json!({
            "url": sim.url(),
            "fingerprint": sim.fingerprint(sim.first_node()),
            "user_id": sim.user_id(),
            "user_token": sim.token(),
        })
    );
    tokio::signal::ctrl_c().await.context("wait for Ctrl-C")
}
