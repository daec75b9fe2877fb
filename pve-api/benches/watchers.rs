//! How long after its commit a change is told to a thousand watchers.
//!
//! Starts `pve-api` as a process of its own over `DATABASE_URL` (an empty database; a new SQLite file
//! if unset), connects `WATCHERS` WebSockets (1000) and commits `CHANGES` changes (50), each at
//! another moment between two looks of the server. Prints the time from commit to message.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::StreamExt as _;
use rand::Rng as _;
use schema::sync_task::{self, TaskStatus};
use schema::template_wish::{self, NewUpload, Place, Placement, Under};
use schema::{ClusterId, Conn, Db, NodeId, StorageId, SyncTaskId};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::Message;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let watchers: usize = setting("WATCHERS", 1000)?;
    let changes: i32 = setting("CHANGES", 50)?;
    ensure!(watchers > 0 && changes > 0, "WATCHERS and CHANGES are 1 or more");
    let folder = tempfile::tempdir()?;
    let file = format!("sqlite://{}/watch.db", folder.path().display());
    let url = std::env::var("DATABASE_URL").unwrap_or(file);
    let db = Db::open(&url)?;
    db.migrate().await?;
    let task = a_task(&db).await?;
    let (_server, address) = serve(&url).await?;

    let (seen, mut all_seen) = mpsc::channel(watchers);
    let mut tasks = JoinSet::new();
    for _ in 0..watchers {
        let stream = TcpStream::connect(&address).await?;
        let url = format!("ws://{address}/api/v1/templates/sync-tasks/watch");
        let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await?;
        let seen = seen.clone();
        tasks.spawn(async move {
            while let Some(Ok(message)) = socket.next().await {
                let at = Instant::now();
                let Message::Text(text) = message else { continue };
                let message: serde_json::Value = serde_json::from_str(&text)?;
                let synced = message["type"] == "synced";
                let progress = message["task"]["progress"].as_i64().unwrap_or(-1);
                if (synced || progress > 0) && seen.send((progress, at)).await.is_err() {
                    break;
                }
            }
            anyhow::Ok(())
        });
    }
    for _ in 0..watchers {
        all_seen.recv().await.context("a watcher ended")?;
    }

    let mut times = Vec::new();
    for change in 1..=changes {
        let pause = rand::rng().random_range(0..250);
        sleep(Duration::from_millis(pause)).await;
        commit(&db, task, change).await?;
        let committed = Instant::now();
        for _ in 0..watchers {
            let (progress, at) = all_seen.recv().await.context("a watcher ended")?;
            ensure!(progress == i64::from(change), "told {progress} after {change}");
            // A message may be faster than the answer to COMMIT.
            times.push(at.saturating_duration_since(committed));
        }
    }

    times.sort_unstable();
    let of = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1].as_millis();
    println!("FIGURE watch_watchers {watchers}");
    println!("FIGURE watch_commit_to_message_p50_ms {}", of(50));
    println!("FIGURE watch_commit_to_message_p99_ms {}", of(99));
    println!("FIGURE watch_commit_to_message_max_ms {}", of(100));
    Ok(())
}

fn setting<T: std::str::FromStr>(name: &str, default: T) -> anyhow::Result<T> {
    match std::env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => {
            text.parse().ok().with_context(|| format!("{name} is `{text}`: write a number"))
        }
    }
}

async fn serve(database_url: &str) -> anyhow::Result<(Child, String)> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pve-api"))
        .args(["serve", "--auth", "off", "--listen", "127.0.0.1:0", "--log-format", "json"])
        .args(["--database-url", database_url])
        .kill_on_drop(true)
        .stderr(Stdio::piped())
        .spawn()?;
    let mut log = BufReader::new(child.stderr.take().context("it is piped")?).lines();
    while let Some(line) = log.next_line().await? {
        let line: serde_json::Value = serde_json::from_str(&line)?;
        if line["message"] == "The API listens" {
            return Ok((child, line["address"].as_str().context("an address")?.to_owned()));
        }
    }
    anyhow::bail!("the server ended")
}

async fn a_task(db: &Db) -> anyhow::Result<SyncTaskId> {
    let new = NewUpload {
        under: Under::New { name: "web", description: None },
        version: 1,
        cluster_id: ClusterId(1),
        storage_id: StorageId(1),
        storage_name: "local",
        storage_type: "dir",
        is_shared: false,
        file_name: "web.qcow2",
        file_path: "sha256/00",
        file_size: 1 << 30,
        file_format: "qcow2",
        virtual_size: None,
        ova_disk: None,
        sha256: "00",
        sha512: "00",
        os_type: None,
        cores: None,
        memory_mb: None,
        bridge: None,
        creator: "bench",
    };
    let place =
        |id| Place { node_id: NodeId(id), node_name: format!("n{id}"), storage_id: StorageId(id) };
    let placement = Placement { primary: place(1), others: vec![place(2)] };
    let insert = async |conn: &mut Conn| template_wish::insert(conn, &new, &placement).await;
    let made = db.write(insert).await?;
    made.tasks.first().copied().context("a task was made")
}

async fn commit(db: &Db, id: SyncTaskId, progress: i32) -> anyhow::Result<()> {
    let told = async |conn: &mut Conn| {
        let Some(row) = sync_task::get(conn, id).await? else { return Ok(()) };
        let mut told = row.told;
        (told.status, told.progress) = (TaskStatus::Syncing, progress);
        told.observed_generation = row.generation;
        sync_task::record(conn, id, &told).await
    };
    Ok(db.write(told).await?)
}
