//! The API beside the operator and a simulator, and images that are sent to it, as the benches of
//! templates need them.

use std::{
    fmt::Write as _,
    fs::File,
    io::{Read, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use schema::Db;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{
    http,
    process::{Process, program},
    programs::{self, Size},
    tables,
};

/// How long anything but a transfer may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// All of it, in processes of their own, ended when dropped.
#[derive(Debug)]
pub struct Site {
    pub api: Process,
    /// Host and port.
    pub address: String,
    pub operator: Process,
    _sim: Process,
    folder: TempDir,
}

impl Site {
    /// Starts a simulated cluster of `nodes` and waits until it is mirrored. `sim` are options of
    /// its own, `operator` of the operator's.
    pub async fn start(nodes: usize, sim: &[&str], operator: &[&str]) -> anyhow::Result<Self> {
        let folder = TempDir::new_in(std::env::var("BENCH_FOLDER").unwrap_or("/var/tmp".into()))?;
        let url = format!("sqlite://{}", folder.path().join("bench.db").display());
        let images = format!("file://{}", folder.path().join("images").display());
        let db = Db::open(&url)?;
        db.migrate().await?;
        let cluster = Size { clusters: 1, nodes, guests: 3 };
        let (sim, clusters) = programs::start_sims_with(cluster, sim, folder.path())?;
        tables::insert(&db, &[clusters[0].access.clone()]).await?;

        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let mut command = Command::new(program("pve-api")?);
        command.args(["serve", "--listen", &address, "--auth", "off", "--images", &images]);
        command.env("DATABASE_URL", &url).env("RUST_LOG", "warn").stdout(Stdio::null());
        let api = Process::start("pve-api", &mut command, &folder.path().join("api.log"))?;

        let admin = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let base = format!("http://{address}");
        let mut command = Command::new(program("pve-operator")?);
        command.args(["run", "--listen", &admin, "--poll-interval", "1s"]);
        command.args(["--usage-interval", "1s", "--images", &images, "--image-base-url", &base]);
        command.args(operator);
        command.env("DATABASE_URL", &url).env("RUST_LOG", "warn").stdout(Stdio::null());
        let log = folder.path().join("operator.log");
        let operator = Process::start("pve-operator", &mut command, &log)?;
        let site = Self { api, address, operator, _sim: sim, folder };
        let deadline = Instant::now() + PATIENCE;
        while site.storages().await.map_or(0, |it| it.len()) < nodes {
            ensure!(Instant::now() < deadline, "{} is not mirrored", site.log("operator.log"));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // By then every node's certificate is known.
        tokio::time::sleep(Duration::from_secs(3)).await;
        Ok(site)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    /// Id of `local-lvm` on each node, by name of the node.
    pub async fn storages(&self) -> anyhow::Result<Vec<(String, i64)>> {
        let data = self.get("/api/v1/storages?page_size=100").await?;
        let list = data["list"].as_array().context("a list")?;
        let mut found: Vec<(String, i64)> = list
            .iter()
            .filter(|it| it["storage_name"] == "local-lvm")
            .filter_map(|it| Some((it["node_name"].as_str()?.to_owned(), it["id"].as_i64()?)))
            .collect();
        found.sort_by_key(|(node, _)| (node.len(), node.clone()));
        Ok(found)
    }

    /// Ids of the nodes, by name.
    pub async fn nodes(&self) -> anyhow::Result<Vec<(String, i64)>> {
        let data = self.get("/api/v1/nodes?page_size=100").await?;
        let list = data["list"].as_array().context("a list")?;
        let mut found: Vec<(String, i64)> = list
            .iter()
            .filter_map(|it| Some((it["node_name"].as_str()?.to_owned(), it["id"].as_i64()?)))
            .collect();
        found.sort_by_key(|(node, _)| (node.len(), node.clone()));
        Ok(found)
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let body = http::get(&self.address, path).await?;
        Ok(serde_json::from_str::<Value>(&body)?["data"].clone())
    }

    /// Sends an image, and answers the id of its template once it is taken.
    pub fn upload(
        &self,
        name: &str,
        storage: i64,
        copies: &[i64],
        file: &Path,
    ) -> anyhow::Result<i64> {
        let mut fields = vec![
            ("template_name", name.to_owned()),
            ("cluster_id", "1".to_owned()),
            ("storage_id", storage.to_string()),
        ];
        if !copies.is_empty() {
            let ids: Vec<_> = copies.iter().map(i64::to_string).collect();
            fields.push(("sync_node_ids", ids.join(",")));
        }
        let answer = multipart(&self.address, &fields, file)?;
        let answer: Value = serde_json::from_str(&answer).with_context(|| answer.clone())?;
        answer["data"]["template_id"].as_i64().with_context(|| answer.to_string())
    }

    /// Waits until all instances of a template are available.
    pub async fn until_available(&self, template: i64) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE * 5;
        let path = format!("/api/v1/templates/{template}/instances");
        loop {
            let data = self.get(&path).await?;
            let all = data["instances"].as_array().context("instances")?;
            let is = |status: &str| all.iter().filter(|it| it["status"] == status).count();
            if !all.is_empty() && is("available") == all.len() {
                return Ok(());
            }
            if is("failed") > 0 || Instant::now() >= deadline {
                bail!("{data}\n{}", self.log("operator.log"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// A file that takes no short cut on its way: every block is another one.
pub fn image(folder: &Path, name: &str, bytes: u64) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    let mut file = File::create(&path)?;
    let (mut block, mut state) = (vec![0_u8; 1 << 20], 0x9E37_79B9_7F4A_7C15_u64);
    for _ in 0..bytes.div_ceil(1 << 20) {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok(path)
}

fn multipart(address: &str, fields: &[(&str, String)], path: &Path) -> anyhow::Result<String> {
    const BOUNDARY: &str = "----bench7MA4YWxkTrZu0gW";
    let mut head = String::new();
    for (name, value) in fields {
        write!(
            head,
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        )?;
    }
    let name = path.file_name().and_then(|it| it.to_str()).context("a file has a name")?;
    write!(
        head,
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    )?;
    let tail = format!("\r\n--{BOUNDARY}--\r\n");
    let mut file = File::open(path)?;
    let length = head.len() as u64 + file.metadata()?.len() + tail.len() as u64;
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "POST /api/v1/templates/upload HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {length}\r\n\r\n{head}"
    )?;
    let mut block = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            break;
        }
        stream.write_all(&block[..read])?;
    }
    stream.write_all(tail.as_bytes())?;
    stream.flush()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    // The server has closed it already, or not: both are fine.
    if let Err(error) = stream.shutdown(Shutdown::Both)
        && error.kind() != std::io::ErrorKind::NotConnected
    {
        return Err(error.into());
    }
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without end of head")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}: {body}");
    Ok(body.to_owned())
}
