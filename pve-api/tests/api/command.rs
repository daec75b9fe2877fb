//! The command `pve-api` as people start it.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use schema::testing::TestDatabase;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pve-api"));
    command.args(arguments).kill_on_drop(true).stdout(Stdio::null()).stderr(Stdio::piped());
    // Every flag is an environment variable too.
    command.env_clear();
    command
}

/// Runs to the end; its exit code and what it said last.
pub(crate) async fn refusal(arguments: &[&str]) -> (Option<i32>, String) {
    let output = timeout(PATIENCE, command(arguments).output()).await.expect("it ends").unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// A server that listens.
pub(crate) struct Serving {
    pub child: Child,
    log: Lines<BufReader<ChildStderr>>,
    pub address: String,
}

impl Serving {
    pub(crate) async fn start(database_url: &str) -> Self {
        Self::start_with(database_url, &["--auth", "off"]).await
    }

    pub(crate) async fn start_with(database_url: &str, arguments: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", database_url, arguments).await
    }

    pub(crate) async fn start_at(listen: &str, database_url: &str, arguments: &[&str]) -> Self {
        let mut child = command(&["serve", "--database-url", database_url])
            .args(["--listen", listen, "--log-format", "json"])
            // A pipe that nobody reads holds some hundreds of lines.
            .env("RUST_LOG", "info,pve_api::access=warn")
            .args(arguments)
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = timeout(PATIENCE, log.next_line()).await.expect("a line").unwrap();
            let line: serde_json::Value = serde_json::from_str(&line.expect("it runs")).unwrap();
            if line["message"] == "The API listens" {
                break line["address"].as_str().unwrap().to_owned();
            }
        };
        Self { child, log, address }
    }

    pub(crate) async fn get(&self, path: &str) -> io::Result<String> {
        get(&self.address, path).await
    }

    pub(crate) async fn becomes_ready(&self) {
        let ready = async {
            while !self.get("/readyz").await.is_ok_and(|it| it.starts_with("HTTP/1.1 200")) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, ready).await.expect("it becomes ready");
    }

    /// The most memory that it ever had, in KiB.
    pub(crate) async fn peak_memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id().expect("it runs"));
        let status = tokio::fs::read_to_string(path).await.unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Sends SIGTERM.
    pub(crate) async fn terminate(&self) {
        let pid = self.child.id().expect("it runs").to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    }

    /// The next line of the log that says `message`.
    pub(crate) async fn says(&mut self, message: &str) {
        let said = async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                if line.contains(message) {
                    return;
                }
            }
            panic!("it ended without saying {message}");
        };
        timeout(PATIENCE, said).await.expect("it says so");
    }

    /// The exit code, and what it said until then.
    pub(crate) async fn end(mut self) -> (Option<i32>, String) {
        let rest = async {
            let mut rest = String::new();
            while let Some(line) = self.log.next_line().await.unwrap() {
                rest.push_str(&line);
            }
            rest
        };
        let ended = async { tokio::join!(self.child.wait(), rest) };
        let (status, rest) = timeout(PATIENCE, ended).await.expect("it ends");
        (status.unwrap().code(), rest)
    }
}

async fn get(address: &str, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn a_log_that_nobody_reads_any_more_stops_nothing() {
    let database = TestDatabase::sqlite("unread").await;
    let every_request = &["--auth", "off", "--log", "info"];
    let server = Serving::start_with(&database.url, every_request).await;
    server.becomes_ready().await;
    let Serving { child: _running, log, address } = server;

    drop(log);

    for _ in 0..3 {
        let answer = get(&address, "/api/v1/vms").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

// C06, as far as callers who are idle go.
#[tokio::test]
async fn it_serves_until_sigterm_and_idle_callers_do_not_hold_it_up() {
    let database = TestDatabase::sqlite("serves").await;
    let server = Serving::start(&database.url).await;
    server.becomes_ready().await;
    let vms = server.get("/api/v1/vms").await.unwrap();
    let mut idle = TcpStream::connect(&server.address).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 15];
    idle.read_exact(&mut first).await.unwrap();

    server.terminate().await;
    let (code, said) = server.end().await;

    assert_eq!(&first, b"HTTP/1.1 200 OK");
    assert!(vms.ends_with(r#"{"code":200,"message":"success","data":{"total":0,"list":[]}}"#));
    assert_eq!(code, Some(0));
    assert!(!said.contains("too long"), "{said}");
}

// C06
#[tokio::test]
async fn what_is_in_flight_at_sigterm_is_answered() {
    for database in TestDatabase::all("in_flight").await {
        // Readers of SQLite wait for nobody, so nothing can be kept in flight there.
        let (lock, unlock) = match database.kind() {
            "mysql" => ("LOCK TABLES pve_vm WRITE", "UNLOCK TABLES"),
            "postgres" => ("BEGIN; LOCK TABLE pve_vm IN ACCESS EXCLUSIVE MODE", "COMMIT"),
            _ => continue,
        };
        let mut server = Serving::start(&database.url).await;
        server.becomes_ready().await;
        let mut holder = database.db.conn().await.unwrap();
        holder.execute_sql(lock).await.unwrap();
        let mut caller = TcpStream::connect(&server.address).await.unwrap();
        caller.write_all(b"GET /api/v1/vms HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let in_flight = async {
            // This question is the other one.
            while !server.get("/metrics").await.unwrap().contains("http_requests_in_flight 2\n") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, in_flight).await.expect("it is in flight");

        server.terminate().await;
        server.says("Stopping").await;
        holder.execute_sql(unlock).await.unwrap();

        let mut answer = String::new();
        caller.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{}: {answer}", database.kind());
        let (code, said) = server.end().await;
        assert_eq!(code, Some(0));
        assert!(!said.contains("too long"), "{said}");
    }
}

// C07
#[tokio::test]
async fn it_waits_for_a_database_that_is_away_alive_and_not_ready() {
    let database = TestDatabase::sqlite("waits").await;
    let home = std::path::Path::new(database.url.trim_start_matches("sqlite://")).parent().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mount = folder.path().join("mount");
    let server = Serving::start(&format!("sqlite://{}/waits.db", mount.display())).await;

    let alive = server.get("/livez").await.unwrap();
    let ready = server.get("/readyz").await.unwrap();
    let vms = server.get("/api/v1/vms").await.unwrap();
    std::os::unix::fs::symlink(home, &mount).unwrap();
    server.becomes_ready().await;

    assert!(alive.starts_with("HTTP/1.1 200"), "{alive}");
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(vms.starts_with("HTTP/1.1 503"), "{vms}");
    assert!(vms.contains("retry-after: 5"), "{vms}");
    server.terminate().await;
    assert_eq!(server.end().await.0, Some(0));
}

#[tokio::test]
async fn a_database_without_tables_is_refused_with_what_to_run() {
    for database in TestDatabase::all_empty("refuses_empty").await {
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--database-url", &database.url];

        let (code, said) = refusal(&arguments).await;

        assert_eq!(code, Some(1), "{said}");
        let last = said.lines().last().unwrap();
        assert!(last.starts_with("pve-api: the database has tables of version 0"), "{said}");
        assert!(last.contains("run `pve-operator migrate"), "{said}");
    }
}

#[tokio::test]
async fn what_a_person_got_wrong_is_one_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let table = [
        (
            &["--auth", "off", "--listen", "0.0.0.0:8080", "--database-url", "sqlite://x.db"][..],
            "pve-api: --listen 0.0.0.0:8080 is not a loopback address, and --auth off lets whoever \
             reaches it do everything: leave --auth off away, so that callers need a token, or \
             listen on for example 127.0.0.1:8080\n"
                .to_owned(),
        ),
        (
            &["--auth", "off", "--listen", "[::]:8080", "--database-url", "sqlite://x.db"],
            "pve-api: --listen [::]:8080 is not a loopback address, and --auth off lets whoever \
             reaches it do everything: leave --auth off away, so that callers need a token, or \
             listen on for example 127.0.0.1:8080\n"
                .to_owned(),
        ),
        (
            &["--listen", &taken, "--database-url", "sqlite://x.db"],
            format!("pve-api: cannot listen on {taken}: Address already in use (os error 98)\n"),
        ),
    ];
    for (arguments, sentence) in table {
        let (code, said) = refusal(&[&["serve"][..], arguments].concat()).await;
        assert_eq!((code, said), (Some(1), sentence));
    }
    for url in ["oracle://u:hunter2@h/d", "mysql://u:hunter2@h", "nonsense"] {
        let (code, said) =
            refusal(&["serve", "--listen", "127.0.0.1:0", "--database-url", url]).await;
        assert_eq!(code, Some(1), "{url}");
        assert!(said.starts_with("pve-api: database URL: "), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[tokio::test]
async fn a_command_line_that_cannot_be_read_is_exit_code_2() {
    for arguments in [
        &["serve", "--database-url", "sqlite://x.db", "--colour"][..],
        &["serve", "--database-url", "sqlite://x.db", "--listen", "8080"],
        &["serve", "--database-url", "sqlite://x.db", "--stale-after", "5"],
        &["serve"],
        &["start"],
        &[],
    ] {
        let (code, said) = refusal(arguments).await;
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains("--help") || said.contains("Usage"), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn the_first_start_prints_one_token_once() {
    let database = TestDatabase::sqlite("first_start").await;
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let mut server = Serving::start_with(&database.url, &[]).await;
        let token = async {
            while let Some(line) = server.log.next_line().await.unwrap() {
                if line.trim().starts_with("pveo_") {
                    tokens.push(line.trim().to_owned());
                }
                if line.contains("The API is ready") {
                    break;
                }
            }
        };
        timeout(PATIENCE, token).await.expect("it becomes ready");
        let without = server.get("/api/v1/vms").await.unwrap();
        assert!(without.starts_with("HTTP/1.1 401"), "{without}");
        let path =
            format!("/api/v1/vms HTTP/1.1\r\nauthorization: Bearer {}\r\nx-rest:", tokens[0]);
        let with = server.get(&path).await.unwrap();
        assert!(with.starts_with("HTTP/1.1 200"), "{with}");
        server.terminate().await;
        server.end().await;
    }

    assert_eq!(tokens.len(), 1);
}

// B01, smaller than there and by the same measure
#[tokio::test]
async fn an_upload_takes_no_more_memory_than_a_few_chunks() {
    const MIB: usize = 1024 * 1024;
    const SIZE: usize = 96;
    let database = TestDatabase::sqlite("memory").await;
    a_cluster(&database).await;
    let folder = tempfile::tempdir().unwrap();
    let images = format!("file://{}", folder.path().display());
    let server = Serving::start_with(&database.url, &["--auth", "off", "--images", &images]).await;
    server.becomes_ready().await;
    let before = server.peak_memory().await;
    let mut stream = begin_upload(&server, SIZE * MIB).await;
    for index in 0..SIZE {
        stream.write_all(&vec![u8::try_from(index).unwrap(); MIB]).await.unwrap();
    }
    stream.write_all(TAIL).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let grown = (server.peak_memory().await - before) / 1024;

    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(grown <= 32, "it grew by {grown} MiB while {SIZE} MiB came in");
    server.terminate().await;
    assert_eq!(server.end().await.0, Some(0));
}

// C06, for what takes longest
#[tokio::test]
async fn an_upload_under_way_at_sigterm_is_finished() {
    let database = TestDatabase::sqlite("drains").await;
    a_cluster(&database).await;
    let folder = tempfile::tempdir().unwrap();
    let images = format!("file://{}", folder.path().display());
    let arguments = ["--auth", "off", "--images", &images, "--drain-timeout", "1m"];
    let mut server = Serving::start_with(&database.url, &arguments).await;
    server.becomes_ready().await;
    let mut stream = begin_upload(&server, 4096).await;
    let under_way = async {
        while !server.get("/metrics").await.unwrap().contains("pve_api_uploads_in_progress 1\n") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, under_way).await.expect("it is under way");

    server.terminate().await;
    server.says("Stopping").await;
    stream.write_all(&[0; 4096]).await.unwrap();
    stream.write_all(TAIL).await.unwrap();

    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(server.end().await.0, Some(0));
}

/// One node with one storage that takes everything.
pub(crate) async fn a_cluster(database: &TestDatabase) {
    let rows = "INSERT INTO pve_cluster (cluster_name, api_url, user_id, user_token) \
                VALUES ('lab', 'https://pve', 'a@pve!t', 's'); \
                INSERT INTO pve_node (node_name, cluster_id, status, resource_hash) \
                VALUES ('n1', 1, 'online', ''); \
                INSERT INTO pve_storage (node_name, cluster_id, active, type, storage_name, content, \
                resource_hash) VALUES ('n1', 1, 1, 'dir', 'local', 'images,import', '')";
    database.db.conn().await.unwrap().execute_sql(rows).await.unwrap();
}

/// Sends an upload until the bytes of its file, which are to be this many, and then [`TAIL`].
pub(crate) async fn begin_upload(server: &Serving, bytes: usize) -> TcpStream {
    let field = |name: &str| format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"");
    let head = [("template_name", "web"), ("cluster_id", "1"), ("storage_id", "1")]
        .map(|(name, value)| format!("{}\r\n\r\n{value}\r\n", field(name)))
        .concat()
        + &format!("{}; filename=\"disk.raw\"\r\n\r\n", field("file"));
    let length = head.len() + bytes + TAIL.len();
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let request = format!(
        "POST /api/v1/templates/upload HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: multipart/form-data; boundary=b\r\ncontent-length: {length}\r\n\r\n{head}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

const TAIL: &[u8] = b"\r\n--b--\r\n";
