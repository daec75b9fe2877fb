//! The command `pve-api serve` among callers who are many, slow, wrong, or gone.

use std::net::SocketAddr;

use schema::testing::TestDatabase;
use schema::token::{self, NewToken, Scope};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::command::{PATIENCE, Serving, a_cluster, begin_upload};

const ASK: &[u8] = b"GET /api/v1/vms HTTP/1.1\r\nhost: x\r\n\r\n";

/// The next answer on a connection that stays open: its head and its body.
async fn answer(stream: &mut TcpStream) -> std::io::Result<(String, String)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await?;
    Ok((head, String::from_utf8(body).unwrap()))
}

/// Lets this process have more than a thousand connections.
fn many_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

// C06
#[tokio::test]
async fn a_thousand_idle_callers_and_slow_heads_do_not_keep_others_waiting() {
    many_files();
    let database = TestDatabase::sqlite("idle").await;
    let server = Serving::start(&database.url).await;
    server.becomes_ready().await;
    let mut callers = Vec::new();
    for index in 0..1100 {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        // Some have asked before, some ask nothing, some never come to an end.
        match index % 3 {
            0 => stream.write_all(ASK).await.unwrap(),
            1 => stream.write_all(b"GET /api/v1/vms HTTP/1.1\r\nx-slow").await.unwrap(),
            _ => {}
        }
        callers.push(stream);
    }

    let vms = timeout(PATIENCE, server.get("/api/v1/vms")).await.expect("it is served").unwrap();

    assert!(vms.starts_with("HTTP/1.1 200 OK"), "{vms}");
    let metrics = server.get("/metrics").await.unwrap();
    let open = metrics.lines().find_map(|it| it.strip_prefix("pve_api_connections ")).unwrap();
    assert!(open.parse::<u32>().unwrap() > 1000, "{open}");
    server.terminate().await;
    assert_eq!(server.end().await.0, Some(0));
}

// C06
#[tokio::test]
async fn when_all_connections_are_taken_the_longest_idle_one_makes_room() {
    let database = TestDatabase::sqlite("room").await;
    let server =
        Serving::start_with(&database.url, &["--auth", "off", "--max-connections", "3"]).await;
    server.becomes_ready().await;
    let mut idle = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        stream.write_all(ASK).await.unwrap();
        assert!(answer(&mut stream).await.unwrap().0.starts_with("HTTP/1.1 200"));
        idle.push(stream);
    }

    let metrics = server.get("/metrics").await.unwrap();

    assert!(!metrics.contains("pve_api_connections_closed_total{reason=\"room\"} 0"), "{metrics}");
    assert_eq!(idle[0].read(&mut [0]).await.unwrap(), 0, "it was closed");
    idle[2].write_all(ASK).await.unwrap();
    assert!(answer(&mut idle[2]).await.is_ok(), "the youngest was left alone");
    server.terminate().await;
    assert_eq!(server.end().await.0, Some(0));
}

// C06
#[tokio::test]
async fn at_sigterm_under_load_every_request_is_answered_and_none_with_a_5xx() {
    for database in TestDatabase::all("under_load").await {
        let server = Serving::start(&database.url).await;
        server.becomes_ready().await;
        let mut callers = JoinSet::new();
        let (begun, mut all_begun) = tokio::sync::mpsc::channel(8);
        for _ in 0..8 {
            let (address, begun) = (server.address.clone(), begun.clone());
            callers.spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                for asked in 0_u64.. {
                    stream.write_all(ASK).await.unwrap();
                    let (head, _) = answer(&mut stream).await.unwrap();
                    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
                    if asked == 10 {
                        begun.send(()).await.unwrap();
                    }
                    if head.contains("connection: close\r\n") {
                        return asked;
                    }
                }
                0
            });
        }
        for _ in 0..8 {
            timeout(PATIENCE, all_begun.recv()).await.expect("they ask").unwrap();
        }

        server.terminate().await;
        let asked = timeout(PATIENCE, callers.join_all()).await.expect("they are told to close");

        assert!(asked.iter().all(|asked| *asked >= 10), "{asked:?}");
        let (code, said) = server.end().await;
        assert_eq!(code, Some(0), "{}", database.kind());
        assert!(!said.contains("too long"), "{said}");
    }
}

// C06
#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let database = TestDatabase::sqlite("second").await;
    a_cluster(&database).await;
    let folder = tempfile::tempdir().unwrap();
    let images = format!("file://{}", folder.path().display());
    let arguments = ["--auth", "off", "--images", &images, "--drain-timeout", "1h"];
    let mut server = Serving::start_with(&database.url, &arguments).await;
    server.becomes_ready().await;
    let mut upload = begin_upload(&server, 4096).await;
    upload.write_all(&[0; 1024]).await.unwrap();
    server.terminate().await;
    server.says("Stopping").await;

    server.terminate().await;

    let (code, said) = server.end().await;
    assert_eq!(code, Some(1));
    assert!(said.contains("Told to stop a second time"), "{said}");
}

// C03
#[tokio::test]
async fn wrong_tokens_are_soon_told_to_wait_and_right_ones_from_there_are_served() {
    for database in TestDatabase::all("wrong_tokens").await {
        let new = NewToken { name: "r", scope: Scope::Read, expires_at: None, creator: None };
        let make = async |conn: &mut schema::Conn| token::create(conn, &new).await;
        let right = database.db.write(make).await.unwrap();
        let server = Serving::start_with(&database.url, &[]).await;
        server.becomes_ready().await;
        let ask = async |token: &str| {
            let path = format!("/api/v1/vms HTTP/1.1\r\nauthorization: Bearer {token}\r\nx-rest:");
            server.get(&path).await.unwrap()
        };

        let (mut unknown, mut wait) = (0, 0);
        for index in 0..30 {
            let wrong = ask(&format!("pveo_wrong{index}")).await;
            if wrong.starts_with("HTTP/1.1 429") {
                assert!(wrong.contains("\r\nretry-after: "), "{wrong}");
                assert!(wrong.contains(r#""reason":"wrong_tokens""#), "{wrong}");
                wait += 1;
            } else {
                assert!(wrong.starts_with("HTTP/1.1 401"), "{wrong}");
                unknown += 1;
            }
            let right = ask(right.expose()).await;
            assert!(right.starts_with("HTTP/1.1 200"), "{}: {right}", database.kind());
        }

        assert!(unknown >= 10 && wait > 0, "{unknown} answered, {wait} told to wait");
        let metrics = server.get("/metrics").await.unwrap();
        let counted = format!("pve_api_refused_total{{reason=\"wrong_tokens\"}} {wait}\n");
        assert!(metrics.contains(&counted), "{metrics}");
    }
}

#[tokio::test]
async fn a_token_that_is_used_too_often_is_told_when_to_come_again() {
    let database = TestDatabase::sqlite("rate").await;
    let new = NewToken { name: "r", scope: Scope::Read, expires_at: None, creator: None };
    let make = async |conn: &mut schema::Conn| token::create(conn, &new).await;
    let token = database.db.write(make).await.unwrap();
    let mut settings = pve_api::Settings::default();
    settings.rate_limit = std::num::NonZeroU32::new(1);
    let router = pve_api::router_with(database.db.clone(), settings);
    let bearer = format!("Bearer {}", token.expose());

    let mut last = None;
    for _ in 0..4 {
        let headers = [("authorization", bearer.as_str())];
        last = Some(crate::fixture::call(&router, "GET", "/api/v1/vms", &headers, "").await);
    }

    let refused = last.unwrap();
    assert_eq!(refused.status, 429);
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.json()["data"]["reason"], "rate");
}

#[tokio::test]
async fn each_request_is_one_line_without_secrets() {
    let database = TestDatabase::sqlite("access_line").await;
    let new = NewToken { name: "portal", scope: Scope::Read, expires_at: None, creator: None };
    let make = async |conn: &mut schema::Conn| token::create(conn, &new).await;
    let token = database.db.write(make).await.unwrap();
    let arguments = ["--trusted-proxy", "127.0.0.0/8", "--log", "info"];
    let server = Serving::start_with(&database.url, &arguments).await;
    server.becomes_ready().await;
    let head = format!(
        " HTTP/1.1\r\nauthorization: Bearer {}\r\nx-forwarded-for: 203.0.113.9\r\n\
         x-request-id: job-17\r\nx-rest:",
        token.expose()
    );
    for path in ["/api/v1/vms/7?secret-word=1", "/images/secret-word/secret-word?t=secret-word"] {
        server.get(&format!("{path}{head}")).await.unwrap();
    }

    server.terminate().await;
    let (_, said) = server.end().await;

    for secret in [token.expose(), "secret-word"] {
        assert!(!said.contains(secret), "{said}");
    }
    let lines: Vec<serde_json::Value> = said
        .split("{\"timestamp\"")
        .filter(|line| line.contains("Request answered"))
        .map(|line| serde_json::from_str(&format!("{{\"timestamp\"{line}")).unwrap())
        .collect();
    assert_eq!(lines.len(), 2, "{said}");
    let (list, image) = (&lines[0], &lines[1]);
    for (field, value) in [
        ("level", "INFO"),
        ("route", "/api/v1/vms/{id}"),
        ("method", "GET"),
        ("token", "portal"),
        ("address", "203.0.113.9"),
        ("request_id", "job-17"),
    ] {
        assert_eq!(list[field], value, "{said}");
    }
    assert_eq!(list["status"], 400);
    assert!(list["bytes"].as_u64().unwrap() > 50 && list["duration_ms"].is_u64(), "{said}");
    assert_eq!(image["route"], "/images/{prefix}/{file}");
}

#[tokio::test]
async fn a_caller_who_hangs_up_gets_a_line_too() {
    let database = TestDatabase::sqlite("hangs_up").await;
    a_cluster(&database).await;
    let folder = tempfile::tempdir().unwrap();
    let images = format!("file://{}", folder.path().display());
    let arguments = ["--auth", "off", "--images", &images, "--log", "info"];
    let mut server = Serving::start_with(&database.url, &arguments).await;
    server.becomes_ready().await;
    let mut upload = begin_upload(&server, 4096).await;
    upload.write_all(&[0; 1024]).await.unwrap();
    drop(upload);

    server.says("/api/v1/templates/upload").await;
}

/// Between a program and its database; lets nothing through while it is cut.
struct Cable {
    address: SocketAddr,
    cut: tokio::sync::watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Cable {
    async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, is_cut) = tokio::sync::watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let (server, mut is_cut) = (server.clone(), is_cut.clone());
                connections.spawn(async move {
                    if *is_cut.borrow() {
                        return;
                    }
                    let mut far = TcpStream::connect(server).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = is_cut.wait_for(|cut| *cut) => {}
                    }
                });
            }
        });
        Self { address, cut, _tasks: tasks }
    }
}

// C07
#[tokio::test]
async fn a_database_that_goes_away_and_comes_back_needs_no_restart() {
    for database in TestDatabase::all("goes_away").await {
        if database.kind() == "sqlite" {
            // A file does not go away; faults.rs has what there is.
            continue;
        }
        let (scheme, rest) = database.url.split_once("://").unwrap();
        let (user, rest) = rest.split_once('@').unwrap();
        let (server, name) = rest.split_once('/').unwrap();
        let cable = Cable::to(server.to_owned()).await;
        // Its driver goes around the cable otherwise, once it knows that the server is near.
        let only = if scheme == "mysql" { "?prefer_socket=false" } else { "" };
        let url = format!("{scheme}://{user}@{}/{name}{only}", cable.address);
        let api = Serving::start(&url).await;
        api.becomes_ready().await;
        assert!(api.get("/api/v1/vms").await.unwrap().starts_with("HTTP/1.1 200"));

        cable.cut.send_replace(true);

        let away =
            async { while !api.get("/readyz").await.unwrap().starts_with("HTTP/1.1 503") {} };
        timeout(PATIENCE, away).await.expect("it notices");
        let (live, vms) = tokio::join!(api.get("/livez"), api.get("/api/v1/vms"));
        assert!(live.unwrap().starts_with("HTTP/1.1 200"), "{scheme}");
        let vms = vms.unwrap();
        assert!(vms.starts_with("HTTP/1.1 503") && vms.contains("\r\nretry-after: 5\r\n"), "{vms}");
        cable.cut.send_replace(false);
        api.becomes_ready().await;
        let vms = api.get("/api/v1/vms").await.unwrap();
        assert!(vms.starts_with("HTTP/1.1 200"), "{vms}");
        api.terminate().await;
        assert_eq!(api.end().await.0, Some(0));
    }
}
