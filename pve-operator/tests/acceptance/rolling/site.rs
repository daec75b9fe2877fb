//! Operators and APIs as processes of their own, on one database and one bucket.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use pve_sim::Config;
use schema::{
    images::ImageStore,
    testing::{TestDatabase, texts},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::service::Service;
use crate::{
    binary::OPERATOR,
    support::{
        Followed, LATER, Mirror, QUICK_TEMPLATES, eventually, get,
        s3::{KEY, SECRET, Server},
        simulate,
    },
};

/// Everything that is rolled, and what stays.
pub(super) struct Site {
    pub(super) mirror: Mirror,
    pub(super) clusters: Vec<Followed>,
    /// Before the APIs.
    pub(super) service: Service,
    /// Before the bucket, for operators that send images themselves.
    pub(super) store: Service,
    pub(super) operators: Vec<Program>,
    pub(super) apis: Vec<Program>,
    bucket: Server,
    logs: TempDir,
    spawned: usize,
}

impl Site {
    /// With so many operators and APIs. On one database nodes fetch images, on the other they are sent.
    pub(super) async fn of(
        database: TestDatabase,
        configs: Vec<Config>,
        operators: usize,
        apis: usize,
    ) -> Self {
        let (bucket, service, store) = (Server::start().await, Service::start(), Service::start());
        let endpoint = endpoint(&bucket);
        store.add(endpoint);
        let behind = bucket.url().replace(&endpoint.to_string(), &store.address.to_string());
        let mut mirror = Mirror::stopped(database);
        for (name, value) in QUICK_TEMPLATES {
            mirror.option(name, value);
        }
        mirror.option("--images", &behind);
        if mirror.kind() == "postgres" {
            mirror.option("--image-base-url", &format!("http://{}", service.address));
        }
        let mut clusters = Vec::new();
        for (number, config) in configs.into_iter().enumerate() {
            clusters.push(mirror.follow(&format!("sim{number}"), simulate(config)).await);
        }
        let mut site = Self {
            mirror,
            clusters,
            service,
            store,
            operators: Vec::new(),
            apis: Vec::new(),
            bucket,
            logs: tempfile::tempdir().unwrap(),
            spawned: 0,
        };
        for _ in 0..apis {
            site.start_api().await;
        }
        for _ in 0..operators {
            site.start_operator().await;
        }
        for it in &site.clusters {
            site.mirror.until_equal_within(LATER, it).await;
            // Images that a node can not fetch are sent to its own address.
            eventually("the nodes' certificates are learned", LATER, || async {
                let status = site.mirror.status(it.id).await;
                status.and_then(|status| status.learned_fingerprints).map(drop).ok_or("none are")
            })
            .await;
        }
        site
    }

    /// Returns when it is ready.
    pub(super) async fn start_operator(&mut self) {
        let mut command = Command::new(OPERATOR);
        command.args(self.mirror.line());
        let program = self.start("op", command, "The operator is running", "admin").await;
        self.operators.push(program);
    }

    /// Returns when it is ready, and gets connections.
    pub(super) async fn start_api(&mut self) {
        let mut command = Command::new(api());
        command.args(["serve", "--listen", "127.0.0.1:0", "--auth", "off"]);
        command.args(["--database-url", &self.mirror.url, "--images", &self.bucket.url()]);
        command.args(["--max-uploads", "16", "--drain-timeout", "2m"]);
        let program = self.start("api", command, "The API listens", "address").await;
        self.service.add(program.address);
        self.apis.push(program);
    }

    async fn start(
        &mut self,
        kind: &str,
        mut command: Command,
        says: &str,
        field: &str,
    ) -> Program {
        self.spawned += 1;
        let log = self.logs.path().join(format!("{kind}{}.log", self.spawned));
        let child = command
            .args(["--log-format", "json", "--log", "info,pve_api::access=warn"])
            .env("AWS_ACCESS_KEY_ID", KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .expect("the command can be run");
        let line = eventually(&format!("a new {kind} runs"), LATER, || async {
            let said = std::fs::read_to_string(&log).unwrap();
            let line = said.lines().find(|line| line.contains(says)).map(str::to_owned);
            line.ok_or(said)
        })
        .await;
        let line: Value = serde_json::from_str(&line).unwrap();
        let address: SocketAddr = line[field].as_str().unwrap().parse().unwrap();
        eventually(&format!("a new {kind} is ready"), LATER, || async {
            match get(address, "/readyz").await {
                Ok((200, _)) => Ok(()),
                other => Err(other),
            }
        })
        .await;
        Program { child, log, address }
    }

    /// Lets whatever is on its way come as fast as it can.
    pub(super) fn let_go(&self) {
        for api in &self.apis {
            self.service.let_go(api.address);
        }
        self.store.let_go(endpoint(&self.bucket));
    }

    /// Holds all of it back again.
    pub(super) fn hold(&self) {
        self.service.hold();
        self.store.hold();
    }

    /// What one statement answers as `t`.
    pub(super) async fn texts(&self, sql: &str) -> Vec<String> {
        let mut conn = self.mirror.db().conn().await.unwrap();
        texts(&mut conn, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// The images of the bucket, to this process too.
    pub(super) fn images(&self) -> ImageStore {
        let env = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" => Some(KEY.to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some(SECRET.to_owned()),
            _ => None,
        };
        ImageStore::open_with(&self.bucket.url(), env).unwrap()
    }

    /// Uploads that nobody has ended, by what the bucket holds of them.
    pub(super) fn unfinished(&self) -> Vec<String> {
        let folder = self.bucket.root().join("images/lab/pve/unfinished");
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// One process.
pub(super) struct Program {
    child: Child,
    log: PathBuf,
    /// Of the API, or of the operator's probes.
    pub(super) address: SocketAddr,
}

impl Program {
    /// Sends SIGTERM, and returns when it has been heard.
    pub(super) async fn tell_to_stop(&self) {
        let pid = self.child.id().expect("it runs").to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
        eventually("it is stopping", LATER, || async {
            let said = self.said();
            if said.contains("\"Stopping\"") { Ok(()) } else { Err(said) }
        })
        .await;
    }

    /// Returns when it has ended by itself, as it should.
    pub(super) async fn ended(mut self) {
        let ended = tokio::time::timeout(LATER, self.child.wait()).await;
        let ended: ExitStatus = ended.expect("it ends").expect("it can be waited for");
        let said = self.said();
        assert!(ended.success(), "{ended}: {said}");
        assert!(!said.contains("too long"), "somebody was left: {said}");
    }

    pub(super) async fn kill(mut self) {
        self.child.kill().await.expect("SIGKILL is sent");
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

/// Where the bucket is.
fn endpoint(bucket: &Server) -> SocketAddr {
    let url = bucket.url();
    let (_, endpoint) = url.split_once("endpoint=http://").expect("it has an endpoint");
    let (address, _) = endpoint.split_once('&').expect("and a region");
    address.parse().expect("by number")
}

/// The other program: whoever builds all of the workspace, as everybody is to, has it beside this one.
fn api() -> PathBuf {
    let path = Path::new(OPERATOR).with_file_name("pve-api");
    assert!(
        path.is_file(),
        "{} is missing: test with --workspace, or cargo build --bin pve-api",
        path.display()
    );
    path
}
