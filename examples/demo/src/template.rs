//! The second half of the story: one upload becomes a template on three nodes, and goes again.

use std::{
    io::IsTerminal,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::{fs::File, time::Instant};

use crate::{http, image};

/// What is uploaded to where.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    pub(crate) file: PathBuf,
    pub(crate) storage: String,
}

/// Nodes that get the template, the one that imports it included.
const NODES: usize = 3;

const LOOK: Duration = Duration::from_millis(100);

/// Without a terminal, a line each time that a node has come this much further, in per cent.
const STRIDE: i64 = 20;

/// The file that the demo makes itself.
pub(crate) async fn made(folder: &Path) -> anyhow::Result<Upload> {
    let file = folder.join("debian-13.qcow2");
    tokio::fs::write(&file, image::qcow2()).await.context("no room for the image")?;
    Ok(Upload { file, storage: "local-lvm".to_owned() })
}

/// A template that is in the cluster until it is deleted.
#[derive(Debug)]
pub(crate) struct Template {
    api: SocketAddr,
    id: i64,
    uploaded: Instant,
}

/// Uploads an image as curl would.
pub(crate) async fn upload(
    api: SocketAddr,
    cluster: i64,
    upload: &Upload,
) -> anyhow::Result<Template> {
    let target = target(api, cluster, &upload.storage).await?;
    let name = upload.file.file_name().and_then(|name| name.to_str()).unwrap_or("image.qcow2");
    let template_name = Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or(name);
    let file = File::open(&upload.file)
        .await
        .with_context(|| format!("--upload {}", upload.file.display()))?;
    let bytes = file.metadata().await?.len();

    let (cluster, storage) = (cluster.to_string(), target.storage_id.to_string());
    let mut fields =
        vec![("template_name", template_name), ("cluster_id", &cluster), ("storage_id", &storage)];
    if !target.others.is_empty() {
        fields.push(("sync_node_ids", &target.others));
    }
    println!("\nYou upload {name} ({}) to {} …", size(bytes), upload.storage);
    println!("  $ curl -X POST http://{api}/api/v1/templates/upload \\");
    for (field, value) in &fields {
        println!("      -F \"{field}={value}\" \\");
    }
    println!("      -F \"file=@{name}\"");
    let uploaded = Instant::now();
    let answer = http::upload(api, "/api/v1/templates/upload", &fields, name, file).await?;
    let id = answer["template_id"].as_i64().context("an upload has a template")?;
    println!("  template {id}, after {:.1} s; the rest goes on by itself\n", since(uploaded));
    Ok(Template { api, id, uploaded })
}

impl Template {
    /// Shows every node until all have it.
    pub(crate) async fn until_available(&self) -> anyhow::Result<()> {
        until(self.api, &self.detail(), "available").await?;
        println!("  after {:.1} s", since(self.uploaded));
        Ok(())
    }

    /// Takes away whatever there is of it.
    pub(crate) async fn delete(&self) -> anyhow::Result<()> {
        let (api, id, started) = (self.api, self.id, Instant::now());
        let path = format!("/api/v1/templates/{id}?cascade=true");
        println!("\nYou delete the template and its guests …");
        println!("  $ curl -X DELETE \"http://{api}{path}\"");
        http::delete(api, &path).await?;
        until(api, &self.detail(), "deleted").await?;
        println!("  no guest, no disk and no file is left, after {:.1} s", since(started));
        Ok(())
    }

    fn detail(&self) -> String {
        format!("/api/v1/templates/{}/detail?include_instances=true", self.id)
    }
}

fn size(bytes: u64) -> String {
    if bytes >> 20 > 0 {
        format!("{} MiB", bytes >> 20)
    } else {
        format!("{} KiB", bytes.div_ceil(1 << 10))
    }
}

fn since(started: Instant) -> f64 {
    started.elapsed().as_secs_f64()
}

/// Where the upload goes.
struct Target {
    storage_id: i64,
    /// Ids of the nodes that get a copy, as `sync_node_ids` takes them.
    others: String,
}

async fn target(api: SocketAddr, cluster: i64, storage: &str) -> anyhow::Result<Target> {
    let list =
        |kind: &str, more: &str| format!("/api/v1/{kind}?cluster_id={cluster}&page_size=100{more}");
    let mut storages = rows(http::get(api, &list("storages", &format!("&name={storage}"))).await?);
    storages.sort_by_key(|row| row["id"].as_i64());
    let first = storages.first().with_context(|| format!("no node has a storage `{storage}`"))?;
    let storage_id = first["id"].as_i64().context("a storage has an id")?;
    if first["shared"] == true {
        return Ok(Target { storage_id, others: String::new() });
    }
    let mut nodes = rows(http::get(api, &list("nodes", "")).await?);
    nodes.sort_by_key(|row| row["id"].as_i64());
    let others: Vec<String> = nodes
        .iter()
        .filter(|node| node["status"] == "online" && node["node_name"] != first["node_name"])
        .filter(|node| storages.iter().any(|it| it["node_name"] == node["node_name"]))
        .filter_map(|node| node["id"].as_i64())
        .take(NODES - 1)
        .map(|id| id.to_string())
        .collect();
    Ok(Target { storage_id, others: others.join(",") })
}

fn rows(mut list: Value) -> Vec<Value> {
    match list["list"].take() {
        Value::Array(rows) => rows,
        _ => Vec::new(),
    }
}

/// Shows every node until all have this status; a template that is not there any more has none, and
/// that is what is waited for when it is deleted.
async fn until(api: SocketAddr, detail: &str, status: &str) -> anyhow::Result<()> {
    let mut screen = Screen::default();
    let deleting = status == "deleted";
    loop {
        let seen = match http::get(api, detail).await {
            Err(error) if deleting && error.to_string().contains(" 404 ") => {
                screen.show(&[]);
                return Ok(());
            }
            seen => seen?,
        };
        let nodes: Vec<Node> = match &seen["instances"] {
            Value::Array(all) => all.iter().map(|it| Node::of(it, &seen["upload_info"])).collect(),
            _ => Vec::new(),
        };
        screen.show(&nodes);
        if !nodes.is_empty() && nodes.iter().all(|node| node.status == status) {
            return Ok(());
        }
        if let Some(failed) = nodes.iter().find(|node| node.status == "failed" && !deleting) {
            bail!("{}: {}", failed.name, failed.remark);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How far a node is.
#[derive(Clone, Debug, PartialEq)]
struct Node {
    name: String,
    status: String,
    step: String,
    percent: i64,
    remark: String,
}

impl Node {
    fn of(instance: &Value, upload: &Value) -> Self {
        let text = |key: &str| instance[key].as_str().unwrap_or_default().to_owned();
        let percent = match (instance["status"].as_str(), instance["sync_progress"].as_i64()) {
            (Some("available"), _) => 100,
            (_, Some(percent)) => percent,
            // The node that imports it has no task; it is the upload's progress.
            (_, None) => upload["import_progress"].as_i64().unwrap_or(0),
        };
        let remark = match instance["vmid"].as_i64() {
            Some(vmid) if instance["status"] == "available" => format!("VMID {vmid}"),
            // What went wrong before no longer matters.
            _ if instance["status"] == "deleting" => text("blocked_reason"),
            _ => text("error_message") + &text("blocked_reason"),
        };
        Self {
            name: text("node_name"),
            status: text("status"),
            step: text("step"),
            percent,
            remark,
        }
    }

    /// What is shown of a node that has no template any more.
    fn gone(&self) -> Self {
        let status = "gone".to_owned();
        Self { status, step: String::new(), remark: String::new(), ..self.clone() }
    }

    fn line(&self) -> String {
        let Self { name, status, step, percent, remark } = self;
        let step = if status == "available" { "" } else { step };
        let bar = if matches!(status.as_str(), "deleting" | "gone") {
            String::new()
        } else {
            let done = usize::try_from((*percent).clamp(0, 100) / 5).unwrap_or(0);
            format!("[{}{}] {percent:>3} %", "#".repeat(done), ".".repeat(20 - done))
        };
        let line = format!("  {name:<8} {status:<10} {step:<8} {bar}  {remark}");
        line.trim_end().to_owned()
    }

    /// Whether somebody who reads lines wants to know of it.
    fn is_news_after(&self, before: &Self) -> bool {
        (&self.status, &self.step, &self.remark) != (&before.status, &before.step, &before.remark)
            || self.percent / STRIDE != before.percent / STRIDE
    }
}

/// On a terminal a line for each node, which is written over; elsewhere a line for each change.
#[derive(Default)]
struct Screen {
    shown: Vec<Node>,
}

impl Screen {
    fn show(&mut self, nodes: &[Node]) {
        let left = self.shown.iter().filter(|it| nodes.iter().all(|node| node.name != it.name));
        let nodes: Vec<Node> = nodes.iter().cloned().chain(left.map(Node::gone)).collect();
        if std::io::stdout().is_terminal() {
            if !self.shown.is_empty() {
                print!("\x1b[{}A", self.shown.len());
            }
            for node in &nodes {
                println!("\x1b[2K{}", node.line());
            }
        } else {
            for node in &nodes {
                let before = self.shown.iter().find(|it| it.name == node.name);
                if before.is_none_or(|before| node.is_news_after(before)) {
                    println!("{}", node.line());
                }
            }
        }
        self.shown = nodes;
    }
}
