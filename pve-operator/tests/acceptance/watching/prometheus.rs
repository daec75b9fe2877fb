//! A Prometheus of its own for one test, set up as `docs/metrics.md` says.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::manifests::RULES;
use crate::support::{SOON, eventually, get};

/// Stopped and forgotten when dropped.
pub(super) struct Prometheus {
    address: SocketAddr,
    _process: Child,
    _folder: TempDir,
}

impl Prometheus {
    /// One that scrapes an operator, its API and its inventory, four times a second.
    pub(super) async fn start(admin: SocketAddr, api: SocketAddr) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let config = folder.path().join("prometheus.yml");
        std::fs::write(&config, configuration(admin, api)).expect("the folder can be written to");
        let (address, process) = run(folder.path(), &config);
        let prometheus = Self { address, _process: process, _folder: folder };
        eventually("Prometheus is ready", SOON, || async {
            get(address, "/-/ready").await.ok().filter(|it| it.0 == 200).ok_or("it is not")
        })
        .await;
        prometheus
    }

    /// How many series a query brings.
    ///
    /// # Errors
    ///
    /// What Prometheus says against the query.
    pub(super) async fn series(&self, query: &str) -> Result<usize, String> {
        let query: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let asked = get(self.address, &format!("/api/v1/query?query={query}")).await;
        let (_, body) = asked.map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
        match answer["data"]["result"].as_array() {
            Some(series) => Ok(series.len()),
            None => Err(answer["error"].to_string()),
        }
    }
}

fn configuration(admin: SocketAddr, api: SocketAddr) -> String {
    let rules = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(RULES);
    format!(
        "global: {{scrape_interval: 250ms, evaluation_interval: 1s}}\n\
         rule_files: ['{}']\n\
         scrape_configs:\n\
         - job_name: pve-operator\n  static_configs: [{{targets: ['{admin}']}}]\n\
         - job_name: pve-api\n  static_configs: [{{targets: ['{api}']}}]\n\
         - job_name: pve\n  metrics_path: /metrics/inventory\n  static_configs: [{{targets: ['{admin}']}}]\n  \
         metric_relabel_configs: [{{source_labels: [cluster], regex: (.+), target_label: instance}}]\n",
        rules.display()
    )
}

fn run(folder: &Path, config: &Path) -> (SocketAddr, Child) {
    // Free when it was asked for; nobody else is likely to take it within milliseconds.
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let process = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .arg("--log.level=warn")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let process = process.expect(
        "prometheus can be run (Debian: apt-get install prometheus); `scripts/test` brings it",
    );
    (address, process)
}

/// The time that rates of a dashboard go over, at the pace of a test.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);
