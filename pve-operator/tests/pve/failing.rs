//! What breaks, and who is asked next.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use pve_operator::pve::{
    ErrorClass, FirstUse, NodeName, PveError, Reader, RequestObserver, RequestSeen, Retry, Trust,
    Vmid,
};

use crate::server::{Identity, Reply, Server};

fn trust(identity: &Identity) -> Trust {
    let fingerprint = identity.fingerprint().to_string();
    Trust::parse(Some(&fingerprint), None, false, FirstUse::default()).unwrap()
}

fn members() -> Reply {
    Reply::json(
        r#"{"data":[{"type":"cluster","name":"c","quorate":1,"nodes":2,"version":2},
            {"type":"node","name":"pve1","ip":"127.0.0.1","online":1,"local":1},
            {"type":"node","name":"pve2","ip":"127.0.0.2","online":1,"local":0}]}"#,
    )
}

fn empty(_: &str) -> Reply {
    Reply::json(r#"{"data":[]}"#)
}

/// Two nodes of one cluster on one port; the first one says who they are.
async fn two_nodes(
    first: impl Fn(&str) -> Reply + Send + Sync + 'static,
) -> (Server, Server, Trust) {
    let identity = Identity::self_signed(&["pve1"]);
    let one = Server::start(&identity, move |path| match path {
        "/cluster/status" => members(),
        path => first(path),
    })
    .await;
    let two =
        Server::start_at(&format!("127.0.0.2:{}", one.address.port()), &identity, empty).await;
    (one, two, trust(&identity))
}

fn lists(server: &Server) -> usize {
    server.requests().iter().filter(|it| it.contains("/cluster/resources")).count()
}

/// A17
#[tokio::test]
async fn when_the_node_behind_api_url_dies_the_next_list_comes_from_another() {
    let (one, two, trust) = two_nodes(empty).await;
    let reader = one.reader(trust);
    reader.cluster_status().await.unwrap();
    drop(one);

    reader.resources().await.unwrap();

    assert_eq!(lists(&two), 1);
    reader.resources().await.unwrap();
    assert_eq!(lists(&two), 2);
    assert!(reader.address().starts_with("127.0.0.2:"), "and it stays there");
}

/// A17
#[tokio::test]
async fn a_node_that_hangs_is_left_for_the_next_list() {
    let (one, two, trust) = two_nodes(|_| Reply::Stall).await;
    let mut config = one.config(trust);
    config.request_timeout = Duration::from_millis(200);
    let reader = Reader::new(config).unwrap();
    reader.cluster_status().await.unwrap();

    let error = reader.resources().await.unwrap_err();

    // Timed out late or "soon" after the start: either way the other node is asked next.
    assert_eq!(error.class(), ErrorClass::Timeout);
    reader.resources().await.unwrap();
    assert!(lists(&two) >= 1);
}

#[tokio::test]
async fn a_node_without_its_daemon_hands_lists_over_to_another() {
    let (one, two, trust) =
        two_nodes(|_| Reply::answer("595 Connection refused", "Connection: close\r\n", "")).await;
    let reader = one.reader(trust);
    reader.cluster_status().await.unwrap();

    reader.resources().await.unwrap();

    assert_eq!((lists(&one), lists(&two)), (1, 1));
}

#[tokio::test]
async fn a_connection_that_breaks_once_is_tried_again() {
    let identity = Identity::self_signed(&["x"]);
    let first = AtomicBool::new(true);
    let server = Server::start(&identity, move |path| {
        if first.swap(false, Ordering::SeqCst) { Reply::Close } else { empty(path) }
    })
    .await;

    server.reader(trust(&identity)).resources().await.unwrap();

    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn an_address_where_nobody_is_is_left_alone_for_a_while() {
    let identity = Identity::self_signed(&["x"]);
    let server = Server::start(&identity, empty).await;
    let reader = server.reader(trust(&identity));
    drop(server);

    let first = reader.resources().await.unwrap_err();
    let second = reader.resources().await.unwrap_err();

    assert_eq!(first.class(), ErrorClass::Connect, "{}", first.report());
    assert!(
        matches!(&second, PveError::BreakerOpen { source, .. } if source.class() == ErrorClass::Connect)
    );
    let Retry::After(pause) = second.retry() else { panic!("{second:?}") };
    assert!(pause <= Duration::from_secs(10));
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_costs_the_others_nothing() {
    let identity = Identity::self_signed(&["x"]);
    let server = Server::start(&identity, |path| {
        if path.starts_with("/nodes/pve2") {
            Reply::answer("595 No route to host", "Connection: close\r\n", "")
        } else {
            Reply::json(r#"{"data":{}}"#)
        }
    })
    .await;
    let reader = server.reader(trust(&identity));
    let config = async |node: &str| {
        reader.qemu_config(&NodeName::new(node).unwrap(), Vmid::new(100).unwrap()).await
    };

    assert_eq!(config("pve2").await.unwrap_err().class(), ErrorClass::NodeUnreachable);
    assert_eq!(config("pve2").await.unwrap_err().class(), ErrorClass::BreakerOpen);

    config("pve1").await.unwrap();
    assert_eq!(server.requests().len(), 2, "the second question to pve2 was not sent");
}

#[tokio::test]
async fn what_pve_refuses_opens_no_breaker() {
    let identity = Identity::self_signed(&["x"]);
    let server = Server::start(&identity, |_| {
        Reply::answer("500 got no worker upid - start worker failed", "Connection: close\r\n", "")
    })
    .await;
    let reader = server.reader(trust(&identity));

    for _ in 0..5 {
        assert_eq!(reader.resources().await.unwrap_err().class(), ErrorClass::Server);
    }

    assert_eq!(server.requests().len(), 5);
}

#[tokio::test]
async fn a_body_longer_than_the_limit_is_not_held() {
    let identity = Identity::self_signed(&["x"]);
    let server = Server::start(&identity, |_| Reply::json(&" ".repeat(4096))).await;
    let mut config = server.config(trust(&identity));
    config.max_body_bytes = 1000;

    let error = Reader::new(config).unwrap().resources().await.unwrap_err();

    assert!(matches!(error, PveError::TooLarge { limit_bytes: 1000, .. }), "{error:?}");
}

#[tokio::test]
async fn a_body_that_ends_early_is_no_answer() {
    let identity = Identity::self_signed(&["x"]);
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{\"data\":[";
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let server = Server::start(&identity, move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Reply::Last(half.into())
    })
    .await;

    let error = server.reader(trust(&identity)).resources().await.unwrap_err();

    assert_eq!(error.class(), ErrorClass::NoAnswer, "{}", error.report());
    assert_eq!(sent.load(Ordering::SeqCst), 2, "asked once more, and not again");
}

#[tokio::test]
async fn what_would_leave_its_path_is_refused_before_a_request_exists() {
    let identity = Identity::self_signed(&["x"]);
    let server = Server::start(&identity, empty).await;
    let reader = server.reader(trust(&identity));

    for name in ["..", "a/b", "a?b", "a#b", "%2f", "a\0b", ""] {
        assert!(NodeName::new(name).is_err());
    }
    for number in [0, 1_000_000_000] {
        assert!(Vmid::new(number).is_err());
    }

    drop(reader);
    assert!(server.requests().is_empty());
}

#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl RequestObserver for Log {
    fn on_request(&self, seen: &RequestSeen<'_>) {
        let node = seen.node.map_or("-", NodeName::as_str);
        let outcome = seen.error.map_or("ok", ErrorClass::as_str);
        let line = format!("{} {node} {:?} {outcome}", seen.endpoint, seen.status);
        self.0.lock().unwrap().push(line);
    }
}

#[tokio::test]
async fn every_request_is_told_to_the_observer_under_its_pattern() {
    let identity = Identity::self_signed(&["x"]);
    let server = Server::start(&identity, |path| match path {
        "/cluster/resources" => empty(path),
        "/version" => Reply::Close,
        _ => Reply::answer("403 Permission check failed", "Connection: close\r\n", ""),
    })
    .await;
    let log = Arc::new(Log::default());
    let mut config = server.config(trust(&identity));
    config.observer = Some(log.clone());
    let reader = Reader::new(config).unwrap();

    reader.resources().await.unwrap();
    reader.lxc_config(&NodeName::new("pve2").unwrap(), Vmid::new(7).unwrap()).await.unwrap_err();
    reader.version().await.unwrap_err();

    assert_eq!(
        *log.0.lock().unwrap(),
        [
            "/cluster/resources - Some(200) ok",
            "/nodes/{node}/lxc/{vmid}/config pve2 Some(403) forbidden",
            "/version - None no_answer",
            "/version - None no_answer",
        ]
    );
}
