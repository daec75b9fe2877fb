//! Uploads by clients that others wrote, to a server that runs, over a connection that breaks and
//! across a server that is killed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use schema::testing::{TestDatabase, texts};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::command::{Serving, a_cluster};

const PATIENCE: Duration = Duration::from_mins(2);
const MIB: u64 = 1024 * 1024;
const SIZE: u64 = 48 * MIB;
/// So much comes before the connection breaks, and so much more before the server is killed: more
/// than may be lost then.
const BREAKS_AT: u64 = 10 * MIB;
const KILLED_AT: u64 = 34 * MIB;

/// Whatever scripts/test puts below the target folder.
fn tools(folder: &str) -> PathBuf {
    let target = std::env::var("CARGO_TARGET_DIR")
        .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let tools = target.join("tools").join(folder);
    assert!(tools.exists(), "{} is missing: scripts/test installs it", tools.display());
    tools
}

/// A client's program, as it is started.
fn client(program: &str) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tus_clients").join(program);
    let mut command;
    if path.extension().is_some_and(|it| it == "py") {
        command = Command::new("python3");
        command.env("PYTHONPATH", tools("tuspy-1.1.0"));
    } else {
        command = Command::new("node");
        command.env("NODE_PATH", tools("tus-js-client-4.3.1").join("node_modules"));
    }
    command.arg(path).kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A line to the server that breaks after [`BREAKS_AT`], and says when [`KILLED_AT`] is reached.
struct Line {
    address: String,
    reached: Arc<Notify>,
    _connections: JoinSet<()>,
}

impl Line {
    async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (reached, passed) = (Arc::new(Notify::new()), Arc::new(AtomicU64::new(0)));
        let mut connections = JoinSet::new();
        let notify = Arc::clone(&reached);
        connections.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (server, passed, notify) =
                    (server.clone(), Arc::clone(&passed), Arc::clone(&notify));
                open.spawn(async move {
                    // While the server is away the client finds its connection closed.
                    let Ok(server) = TcpStream::connect(server).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    tokio::select! {
                        () = forth(from_client, to_server, &passed, &notify) => {}
                        () = back(from_server, to_client) => {}
                    }
                });
            }
        });
        Self { address, reached, _connections: connections }
    }
}

/// Carries what the client sends, and ends where the line breaks.
async fn forth(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    passed: &AtomicU64,
    reached: &Notify,
) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
        let before = passed.fetch_add(read as u64, Ordering::Relaxed);
        let after = before + read as u64;
        if (before..after).contains(&BREAKS_AT) {
            return;
        }
        if (before..after).contains(&KILLED_AT) {
            reached.notify_one();
            // Nothing more, until the server is gone.
            std::future::pending::<()>().await;
        }
    }
    std::future::pending::<()>().await;
}

async fn back(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    drop(tokio::io::copy(&mut from, &mut to).await);
}

/// Its output; it must have worked.
async fn output(client: Child) -> String {
    let output = timeout(PATIENCE, client.wait_with_output()).await.expect("it ends").unwrap();
    let (out, err) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
    assert!(output.status.success(), "{}", err.unwrap());
    out.unwrap()
}

/// Bytes that no two offsets share for long.
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(usize::try_from(SIZE).unwrap());
    while (bytes.len() as u64) < SIZE {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

async fn survives(program: &str) {
    let database = TestDatabase::sqlite("tus_clients").await;
    a_cluster(&database).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("disk.raw");
    tokio::fs::write(&file, noise()).await.unwrap();
    let images = format!("file://{}", folder.path().join("images").display());
    let arguments = ["--auth", "off", "--images", &images];
    let mut server = Serving::start_at("127.0.0.1:0", &database.url, &arguments).await;
    server.becomes_ready().await;
    let line = Line::to(server.address.clone()).await;
    let metadata = json!({
        "template_name": "web", "cluster_id": "1", "storage_id": "1", "filename": "disk.raw"
    });

    let client = client(program)
        .arg(format!("http://{}/api/v1/files", line.address))
        .arg(&file)
        .arg(metadata.to_string())
        .spawn()
        .unwrap();
    timeout(PATIENCE, line.reached.notified()).await.expect("it goes on after the break");
    server.child.kill().await.unwrap();
    let mut conn = database.db.conn().await.unwrap();
    let safe = "SELECT CAST(received_bytes AS TEXT) AS t FROM resumable_upload";
    let safe: u64 = texts(&mut conn, safe).await.unwrap()[0].parse().unwrap();
    assert!((BREAKS_AT..KILLED_AT).contains(&safe), "{safe} bytes were safe");
    let server = Serving::start_at(&server.address, &database.url, &arguments).await;
    let url = output(client).await;

    let path = url.trim().split_once("/api/v1").unwrap().1;
    let shown = server.get(&format!("/api/v1{path}")).await.unwrap();
    assert!(shown.contains(r#""state":"done""#), "{shown}");
    let sha256 = Command::new("sha256sum").arg(&file).output().await.unwrap().stdout;
    let kept = "SELECT sha256 AS t FROM template_upload JOIN vm_template \
                ON vm_template.id = template_id WHERE template_name = 'web'";
    let kept = texts(&mut conn, kept).await.unwrap();
    assert!(String::from_utf8(sha256).unwrap().starts_with(&kept[0]), "{kept:?}");
    let image = folder.path().join("images/sha256").join(&kept[0]);
    assert_eq!(tokio::fs::metadata(image).await.unwrap().len(), SIZE);
    // What came was not sent again: the second server got what was lost, and the rest.
    let metrics = server.get("/metrics").await.unwrap();
    let again = format!("pve_api_resumable_bytes_total {}", SIZE - safe);
    assert!(metrics.lines().any(|line| line == again), "{again} in\n{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tuspy_gets_an_upload_through_a_break_and_a_kill() {
    survives("upload.py").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tus_js_client_gets_an_upload_through_a_break_and_a_kill() {
    survives("upload.cjs").await;
}
