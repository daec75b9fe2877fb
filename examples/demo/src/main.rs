//! The first thing a newcomer runs: a PVE cluster, a database and the operator in one process,
//! with what happens in PVE and what arrives in the tables side by side; then an upload that becomes
//! a template on every node.

mod cluster;
mod http;
mod image;
mod show;
mod template;

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Parser;
use pve_api::logging;
use pve_operator::{
    args::{Args as OperatorArgs, Command, LogArgs, LogFormat},
    runtime::Operator,
};
use schema::{ClusterId, Db};

use cluster::Cluster;

/// Mirrors a simulated PVE cluster (or a real one, with --pve) into an SQLite file and shows it;
/// then makes a template of an image on three nodes, and takes it away again.
#[derive(Debug, Parser)]
struct Args {
    /// End by itself when everything was shown, instead of serving until Ctrl-C.
    #[arg(long)]
    once: bool,
    /// A real cluster to mirror, as https://HOST:8006. Nothing is changed in it without --upload.
    #[arg(long, value_name = "URL", requires_all = ["user_id", "user_token"])]
    pve: Option<String>,
    /// The token's name, as USER@REALM!TOKENID.
    #[arg(long, requires = "pve")]
    user_id: Option<String>,
    /// The token's secret.
    #[arg(long, requires = "pve", env = "PVE_TOKEN", hide_env_values = true)]
    user_token: Option<String>,
    /// SHA-256 fingerprint of the node's certificate, if it is signed by PVE itself.
    #[arg(long, requires = "pve")]
    fingerprint: Option<String>,
    /// An image (qcow2, raw, vmdk, ova) that becomes a template on up to three nodes of the real
    /// cluster, and is deleted there again when all of them have it.
    #[arg(long, value_name = "FILE", requires_all = ["pve", "storage"])]
    upload: Option<PathBuf>,
    /// The storage in the real cluster on which the template's disks are made.
    #[arg(long, value_name = "NAME", requires = "upload")]
    storage: Option<String>,
    /// Where the API listens.
    #[arg(long, default_value = "127.0.0.1:8080")]
    api: SocketAddr,
    /// Where /metrics is.
    #[arg(long, default_value = "127.0.0.1:9090")]
    listen: SocketAddr,
    /// What is logged besides, for example `info`.
    #[arg(long, env = "RUST_LOG", default_value = "error")]
    log: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    logging::start(&LogArgs { log_format: LogFormat::Text, log: args.log.clone() });
    match demo(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demo(args: &Args) -> anyhow::Result<()> {
    let cluster = Cluster::find(args)?;
    let folder = tempfile::tempdir().context("no folder for the database")?;
    let upload = upload(args, folder.path()).await?;
    let url = format!("sqlite://{}", folder.path().join("demo.db").display());
    let db = Db::open(&url)?;
    db.migrate().await?;
    let id = cluster.insert(&db).await?;
    println!("PVE       {} ({})", cluster.url(), cluster.what(upload.is_some()));
    println!("Database  {url}");

    let operator = Operator::start(&operator_args(&url, folder.path(), args)?).await?;
    let api = operator.api.context("the API was asked for")?;
    println!("API       http://{api}/api/v1/vms?page_size=100");
    println!("Metrics   http://{}/metrics\n", operator.admin);

    let ended = logging::terminated();
    tokio::pin!(ended);
    tokio::select! {
        shown = tell(&cluster, &db, id) => shown?,
        () = &mut ended => return stop(operator).await,
    }
    match &upload {
        Some(upload) => {
            let template = tokio::select! {
                template = template::upload(api, id.0, upload) => template?,
                () = &mut ended => return stop(operator).await,
            };
            // Whatever comes of it, nothing of it is left in somebody's cluster.
            let (made, interrupted) = tokio::select! {
                made = template.until_available() => (made, false),
                () = &mut ended => (Ok(()), true),
            };
            tokio::select! {
                deleted = template.delete() => deleted?,
                () = logging::terminated() => bail!("what is there of the template was left"),
            }
            made?;
            if interrupted {
                return stop(operator).await;
            }
        }
        None => println!(
            "\nNothing was changed in your cluster. With --upload FILE --storage NAME the demo makes a \
             template there on up to three nodes, and takes it away again."
        ),
    }
    if !args.once {
        println!(
            "\nGoes on mirroring. Look with curl or sqlite3 at the addresses above; Ctrl-C ends."
        );
        tokio::select! {
            () = ended => println!(),
            followed = show::changes(&db, id) => followed?,
        }
    }
    stop(operator).await
}

/// The story: everything arrives; a guest moves; a guest goes; a guest comes.
async fn tell(cluster: &Cluster, db: &Db, id: ClusterId) -> anyhow::Result<()> {
    wait_until_synced(db, id).await?;
    show::tables(db, id).await?;
    let Some(sim) = cluster.simulated() else { return Ok(()) };

    let guests = sim.guests();
    let running = |guest: &&pve_sim::Guest| guest.status == pve_sim::Status::Running;
    let moving = guests.iter().find(running).context("the simulator has running guests")?;
    let nodes = sim.nodes();
    let target = nodes.iter().find(|node| node.name != moving.node).context("there are 3 nodes")?;
    let leaving = guests.iter().rfind(running).context("the simulator has running guests")?;

    println!("\nPVE migrates {} from {} to {} …", moving.vmid, moving.node, target.name);
    sim.migrate_guest(moving.vmid, &target.name);
    show::until(db, id, moving.vmid, |row| {
        row.is_some_and(|row| row.synced.node_name == target.name)
    })
    .await?;

    println!("\nPVE destroys {} …", leaving.vmid);
    sim.remove_guest(leaving.vmid);
    show::until(db, id, leaving.vmid, |row| row.is_none()).await?;

    let vmid = sim.create_guest(pve_sim::Kind::Qemu, &target.name);
    println!("\nPVE creates {vmid} …");
    show::until(db, id, vmid, |row| row.is_some_and(|row| row.synced.vm_name.is_some())).await
}

async fn wait_until_synced(db: &Db, id: ClusterId) -> anyhow::Result<()> {
    let mut said = String::new();
    for _ in 0..600 {
        let status = schema::cluster_status::get(&mut db.conn().await?, id).await?;
        let (reason, message) =
            status.map_or_else(Default::default, |it| (it.reason, it.message.unwrap_or_default()));
        if matches!(reason.as_str(), "Synced" | "MissingPrivileges") {
            let guests = schema::guest::load(&mut db.conn().await?, id).await?;
            let storages = schema::storage::load(&mut db.conn().await?, id).await?;
            if !guests.is_empty() && !storages.is_empty() {
                return Ok(());
            }
        }
        if said != message && reason != "Connecting" {
            println!("{reason}: {message}");
            said = message;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("the cluster is not in the tables after a minute; its status says: {said}")
}

/// What becomes a template; nothing, unless it is simulated or asked for.
async fn upload(args: &Args, folder: &Path) -> anyhow::Result<Option<template::Upload>> {
    match (&args.upload, &args.storage) {
        (Some(file), Some(storage)) => {
            Ok(Some(template::Upload { file: file.clone(), storage: storage.clone() }))
        }
        _ if args.pve.is_some() => Ok(None),
        _ => template::made(folder).await.map(Some),
    }
}

fn operator_args(
    url: &str,
    folder: &Path,
    args: &Args,
) -> anyhow::Result<pve_operator::args::RunArgs> {
    let (listen, images) =
        (args.listen.to_string(), format!("file://{}", folder.join("images").display()));
    let mut api = args.api;
    if api.port() == 0 {
        // Simulated nodes fetch the image there, so it must be known before.
        api = TcpListener::bind(api).and_then(|it| it.local_addr()).context("no port is free")?;
    }
    let (api, base) = (api.to_string(), format!("http://{api}"));
    let mut words = vec!["pve-operator", "run", "--database-url", url, "--poll-interval", "1s"];
    words.extend(["--details-interval", "10s", "--usage-interval", "5s", "--listen", &listen]);
    words.extend(["--api", &api, "--api-auth", "off", "--images", &images]);
    words.extend(["--task-interval", "250ms"]);
    if args.pve.is_none() {
        // A real node has another loopback than this machine: it is sent the image.
        words.extend(["--image-base-url", &base]);
    }
    match OperatorArgs::try_parse_from(words)?.command {
        Command::Run(run) => Ok(*run),
        Command::Migrate(_) => bail!("`run` was asked for"),
    }
}

async fn stop(operator: Operator) -> anyhow::Result<()> {
    operator.stop().await;
    Ok(())
}
