//! How watches end, and what they outlive: slow peers, dead ones, and a database that is away.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use clap::Parser as _;
use futures::{SinkExt as _, StreamExt as _};
use pve_api::Auth;
use pve_api::args::{Args, Command};
use schema::sync_task::TaskStatus;
use schema::token::{self, NewToken, Scope};
use schema::{Conn, Db};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use crate::feed::{BOTH, Feed, Listening, PATH, PATIENCE, Transport};
use crate::fixture::{TestApi, call};
use crate::templates::Lab;
use crate::watching::the_operator_says;

async fn close_code(feed: &mut Feed) -> u16 {
    let Feed::WebSocket(socket) = feed else { panic!("not a WebSocket") };
    loop {
        match socket.next().await {
            Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
            Some(Ok(_)) => {}
            other => panic!("no close, but {other:?}"),
        }
    }
}

async fn metrics_say(router: &Router, line: &str) {
    let mut said = String::new();
    let wait = async {
        while !said.contains(line) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            said = call(router, "GET", "/metrics", &[], "").await.text;
        }
    };
    let waited = timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "never {line:?}, but {said}");
}

// C03
#[tokio::test]
async fn a_watch_ends_when_its_token_is_revoked_or_expires() {
    let lab = Lab::one("watch_token", |settings| settings.auth = Auth::Tokens).await;
    tokio::time::pause();
    let db = &lab.api.database.db;
    let server = Listening::start(&lab.router).await;
    let make = async |name: &str| {
        let new = NewToken { name, scope: Scope::Read, expires_at: None, creator: None };
        let make = async |conn: &mut Conn| token::create(conn, &new).await;
        format!("Bearer {}", db.write(make).await.unwrap().expose())
    };
    for (name, end) in [
        ("revoked", "revoked_at = '2025-01-02 03:04:05'"),
        ("expired", "expires_at = '2025-01-02 03:04:05'"),
    ] {
        let shown = make(name).await;
        let shown = [("authorization", shown.as_str())];
        let other = make(&format!("not {name}")).await;
        let mut stays = Feed::open_with(
            server.address,
            Transport::EventStream,
            "",
            &[("authorization", &other)],
        )
        .await;
        stays.state().await;
        let mut feeds = Vec::new();
        for transport in BOTH {
            let mut feed = Feed::open_with(server.address, transport, "", &shown).await;
            feed.state().await;
            feeds.push(feed);
        }

        lab.sql(&format!("UPDATE api_token SET {end} WHERE name = '{name}'")).await;

        assert_eq!(close_code(&mut feeds[0]).await, 4401, "{name}");
        let end = feeds[1].news().await;
        assert_eq!((&end["type"], &end["reason"]), (&"end".into(), &"token".into()), "{end}");
        assert_eq!(feeds[1].next().await, None);
        assert!(stays.next().await.is_some(), "another token's watch goes on");
    }
    metrics_say(&lab.router, "pve_api_watches_total{result=\"token\"} 4\n").await;
}

#[tokio::test]
async fn a_quiet_watch_has_a_heartbeat_and_who_does_not_answer_is_cut() {
    let lab = Lab::one("watch_dead", |_| {}).await;
    tokio::time::pause();
    let server = Listening::start(&lab.router).await;
    for transport in BOTH {
        let mut feed = Feed::open(server.address, transport, "").await;
        let synced = feed.state().await.pop().unwrap();
        for _ in 0..3 {
            let beat = feed.next().await.unwrap();
            assert_eq!(beat["type"], "heartbeat");
            assert_eq!(beat["revision"], synced["revision"]);
        }
    }

    // It reads, and never answers a ping.
    let mut mute = TcpStream::connect(server.address).await.unwrap();
    let hello = format!(
        "GET {PATH} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    mute.write_all(hello.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    mute.read_to_end(&mut heard).await.unwrap();
    assert!(heard.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&heard));
    metrics_say(&lab.router, "pve_api_watchers{transport=\"websocket\"} 0\n").await;
}

#[tokio::test]
async fn peers_that_say_much_are_cut_and_those_that_say_little_are_not() {
    let lab = Lab::one("watch_talks", |_| {}).await;
    lab.template("web", 5, "2").await;
    let server = Listening::start(&lab.router).await;
    let mut feed = Feed::open(server.address, Transport::WebSocket, "").await;
    feed.state().await;
    let Feed::WebSocket(socket) = &mut feed else { panic!("not a WebSocket") };

    socket.send(Message::text("hello")).await.unwrap();
    socket.send(Message::Ping("are you there".into())).await.unwrap();
    the_operator_says(&lab.api.database.db, 1, TaskStatus::Syncing, 50).await;
    assert_eq!(feed.news().await["task"]["progress"], 50);
    let Feed::WebSocket(socket) = &mut feed else { panic!("not a WebSocket") };
    // More than it takes; it may hang up before all of it is out.
    let told = socket.send(Message::text("x".repeat(1 << 20))).await;

    assert!(told.is_err() || feed.next().await.is_none());
    metrics_say(&lab.router, "pve_api_watchers{transport=\"websocket\"} 0\n").await;
}

#[tokio::test]
async fn one_that_never_reads_holds_up_nobody_and_ends_with_the_newest_state() {
    for lab in Lab::all("watch_slow").await {
        lab.template("web", 5, "2,3").await;
        let db = &lab.api.database.db;
        let server = Listening::start(&lab.router).await;
        let mut slow = Vec::new();
        let mut quick = Vec::new();
        for transport in BOTH {
            slow.push(Feed::open(server.address, transport, "").await);
            let mut feed = Feed::open(server.address, transport, "").await;
            feed.state().await;
            quick.push(feed);
        }

        for step in 1..=100 {
            for task in [1, 2] {
                the_operator_says(db, task, TaskStatus::Syncing, step).await;
            }
        }

        for feed in quick.iter_mut().chain(&mut slow) {
            feed.until(2, |task| task["progress"] == 100).await;
        }
    }
}

// C06
#[tokio::test]
async fn a_stop_ends_watches_first_and_does_not_wait_for_them() {
    for api in TestApi::all("watch_stop").await {
        let args = Args::parse_from([
            "pve-api",
            "serve",
            "--auth",
            "off",
            "--listen",
            "127.0.0.1:0",
            "--drain-timeout",
            "9h",
            "--database-url",
            &api.database.url,
        ]);
        let Command::Serve(args) = args.command else { panic!("not serve") };
        let server = pve_api::Server::bind(&args).await.unwrap();
        let (address, stop) = (server.address(), CancellationToken::new());
        let watch = async {
            let mut feeds = Vec::new();
            for transport in BOTH {
                let mut feed = Feed::open(address, transport, "").await;
                feed.state().await;
                feeds.push(feed);
            }

            stop.cancel();

            assert_eq!(close_code(&mut feeds[0]).await, 1001);
            let end = feeds[1].news().await;
            let expected = (&"end".into(), &"stopping".into());
            assert_eq!((&end["type"], &end["reason"]), expected, "{end}");
            assert_eq!(feeds[1].next().await, None);
        };

        let both = async { tokio::join!(server.serve(stop.clone().cancelled_owned()), watch) };
        let (ended, ()) = timeout(PATIENCE, Box::pin(both)).await.expect("it ends");
        ended.unwrap();
    }
}

// C06
#[tokio::test]
async fn who_comes_to_watch_during_a_stop_is_told_so_at_once() {
    let lab = Lab::one("watch_late", |settings| settings.stopping.cancel()).await;
    let server = Listening::start(&lab.router).await;

    let mut socket = Feed::open(server.address, Transport::WebSocket, "").await;
    assert_eq!(close_code(&mut socket).await, 1001);
    let mut events = Feed::open(server.address, Transport::EventStream, "").await;
    let end = events.news().await;

    assert_eq!((&end["type"], &end["reason"]), (&"end".into(), &"stopping".into()), "{end}");
    assert_eq!(events.next().await, None);
}

/// A way to a server that can be cut.
struct Wire {
    address: SocketAddr,
    whole: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Wire {
    async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (whole, state) = watch::channel(true);
        let target = Arc::new(target);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let (mut state, target) = (state.clone(), Arc::clone(&target));
                connections.spawn(async move {
                    if !*state.borrow() {
                        return;
                    }
                    let Ok(mut far) = TcpStream::connect(target.as_str()).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = state.wait_for(|whole| !whole) => {}
                    }
                });
            }
        });
        Self { address, whole, _tasks: tasks }
    }
}

// C07
#[tokio::test]
async fn while_the_database_is_away_watchers_stay_and_hear_afterwards_what_happened() {
    for lab in Lab::all("watch_away").await {
        let kind = lab.api.database.kind();
        if kind == "sqlite" {
            continue; // A file is not away.
        }
        lab.template("web", 5, "2").await;
        let direct = &lab.api.database.db;
        let mut url = lab.api.database.url.clone();
        let from = url.find('@').expect("a user") + 1;
        let to = from + url[from..].find('/').expect("a name");
        let wire = Wire::to(url[from..to].to_owned()).await;
        url.replace_range(from..to, &wire.address.to_string());
        let router = pve_api::router_with(Db::open(&url).unwrap(), lab.settings.clone());
        let server = Listening::start(&router).await;
        let mut feeds = Vec::new();
        for transport in BOTH {
            let mut feed = Feed::open(server.address, transport, "").await;
            feed.state().await;
            feeds.push(feed);
        }

        wire.whole.send_replace(false);
        let lists = "/api/v1/templates/sync-tasks";
        let away = async {
            while call(&router, "GET", lists, &[], "").await.status != 503 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, away).await.expect("it is away");
        the_operator_says(direct, 1, TaskStatus::Syncing, 70).await;
        wire.whole.send_replace(true);

        for feed in &mut feeds {
            let told = feed.until(1, |task| task["progress"] == 70).await;
            assert_eq!(told.len(), 1, "{kind}");
        }
    }
}
