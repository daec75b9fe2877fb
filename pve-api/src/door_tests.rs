//! The door, with callers of every kind.

use axum::routing::{get, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::Instant;

use super::*;
use crate::access::{self, Access};
use crate::metrics::Metrics;

/// A server in memory, so that its clock can be paused.
struct Served {
    connections: Connections,
    ready: mpsc::Sender<Arrival<DuplexStream>>,
    slots: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

const LONG: Duration = Duration::from_hours(1);

impl Served {
    fn start() -> Self {
        let (connections, stop) = (Connections::default(), CancellationToken::new());
        let metrics = Metrics::new();
        connections.register(metrics.registry());
        let access =
            Access { metrics, connections: connections.clone(), trusted_proxies: Arc::default() };
        let large = get(async || vec![b'x'; 1 << 20]);
        let router = Router::new()
            .route("/", get(async || "hello"))
            .route("/slow", get(async || tokio::time::sleep(LONG).await))
            .route("/large", large)
            .route("/body", post(async |body: String| body))
            .layer(axum::middleware::from_fn_with_state(access, access::tell));
        let (ready, arrivals) = mpsc::channel(8);
        let queue =
            Queue { ready: arrivals, address: ([127, 0, 0, 1], 80).into(), _tasks: JoinSet::new() };
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(queue, connections.clone(), router, stop.clone()));
        Self { connections, ready, slots: Arc::new(Semaphore::new(100)), stop, tasks }
    }

    async fn connect(&self) -> DuplexStream {
        let (ours, theirs) = duplex(64 * 1024);
        let slot = Arc::clone(&self.slots).acquire_owned().await.unwrap();
        let theirs = Watched::new(theirs, &self.connections, slot);
        let arrival = (theirs, ([203, 0, 113, 9], 4711).into());
        assert!(self.ready.send(arrival).await.is_ok());
        ours
    }

    fn closed(&self, reason: &str) -> u64 {
        self.connections.metrics().how_many_closed(reason)
    }
}

/// Sends, and reads until the server closes; what came, and after how many seconds.
async fn until_closed(stream: &mut DuplexStream, sent: &str) -> (String, u64) {
    stream.write_all(sent.as_bytes()).await.unwrap();
    let (start, mut all) = (Instant::now(), String::new());
    stream.read_to_string(&mut all).await.unwrap();
    (all, start.elapsed().as_secs())
}

// C06
#[tokio::test(start_paused = true)]
async fn who_asks_nothing_is_closed_after_a_while() {
    let served = Served::start();

    let (silent, after) = until_closed(&mut served.connect().await, "").await;
    let (kept, after_answer) =
        until_closed(&mut served.connect().await, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;

    assert_eq!((silent.as_str(), after), ("", 90));
    assert!(kept.starts_with("HTTP/1.1 200 OK"), "{kept}");
    assert_eq!(after_answer, 90);
    assert_eq!(served.closed("idle"), 2);
}

// C06
#[tokio::test(start_paused = true)]
async fn a_head_that_comes_bit_by_bit_is_given_up() {
    let served = Served::start();
    for before in ["", "GET / HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut slow = served.connect().await;
        slow.write_all(before.as_bytes()).await.unwrap();
        let start = Instant::now();
        let line = "GET / HTTP/1.1\r\nhost: x\r\n";
        // A byte in time for the next look, for ever.
        for byte in line.bytes().chain(std::iter::repeat(b'x')) {
            if slow.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(start.elapsed() < Duration::from_secs(13), "{:?}", start.elapsed());
    }
    assert_eq!(served.closed("slow_head"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_head_without_end_is_given_up() {
    let served = Served::start();
    let mut endless = served.connect().await;
    endless.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();

    let mut sent = 0;
    while endless.write_all(&[b'x'; 1024]).await.is_ok() {
        sent += 1024;
    }

    assert!(sent < 512 * 1024, "{sent}");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_works_in_silence_is_waited_for() {
    let served = Served::start();
    let mut stream = served.connect().await;

    let request = "GET /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let (answer, after) = until_closed(&mut stream, request).await;

    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert_eq!(after, LONG.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_slowly_is_not_a_slow_head() {
    let served = Served::start();
    let mut stream = served.connect().await;
    stream.write_all(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n").await.unwrap();
    for byte in b"abc" {
        tokio::time::sleep(Duration::from_mins(2)).await;
        stream.write_all(&[*byte]).await.unwrap();
    }

    let (answer, _) = until_closed(&mut stream, "").await;

    assert!(answer.ends_with("\r\n\r\nabc"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_its_answer_is_left() {
    let served = Served::start();
    let mut stream = served.connect().await;
    stream.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();

    tokio::time::sleep(Duration::from_mins(2)).await;

    assert_eq!(served.closed("slow_reader"), 1);
    assert_eq!(served.connections.metrics().open(), 0);
    assert_eq!(served.slots.available_permits(), 100);
}

#[tokio::test(start_paused = true)]
async fn who_reads_its_answer_slowly_gets_all_of_it() {
    let served = Served::start();
    let mut stream = served.connect().await;
    stream.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();

    // Longer than a connection may be idle, and never silent for as long as a caller may be.
    let (mut answer, mut part) = (Vec::new(), vec![0; 128 * 1024]);
    while answer.len() < 1 << 20 {
        tokio::time::sleep(Duration::from_secs(30)).await;
        let bytes = stream.read(&mut part).await.unwrap();
        assert!(bytes > 0, "it was closed after {} bytes", answer.len());
        answer.extend_from_slice(&part[..bytes]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_makes_room_sends_its_answer_first() {
    let served = Served::start();
    let mut stream = served.connect().await;
    stream.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;

    assert!(served.connections.close_longest_idle());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (answer, after) = until_closed(&mut stream, "").await;

    assert!(answer.len() > 1 << 20, "{} bytes came", answer.len());
    assert_eq!(after, 0, "then it is closed");
}

/// An entrance without a slot left, and the connections that have them.
async fn full_of_idle_ones(count: usize) -> (Entrance, Vec<Watched<DuplexStream>>) {
    let (slots, connections) = (Arc::new(Semaphore::new(count)), Connections::default());
    let mut idle = Vec::new();
    for _ in 0..count {
        let slot = Arc::clone(&slots).acquire_owned().await.unwrap();
        idle.push(Watched::new(duplex(1).0, &connections, slot));
    }
    let entrance = Entrance {
        listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        tls: None,
        slots,
        connections,
        ready: mpsc::channel(1).0,
    };
    (entrance, idle)
}

#[tokio::test(start_paused = true)]
async fn one_caller_costs_one_idle_connection() {
    let (entrance, mut idle) = full_of_idle_ones(3).await;
    let connections = entrance.connections.clone();
    let busy = idle[2].connection();

    let requests = async {
        for _ in 0..10 {
            drop(busy.hold());
            tokio::task::yield_now().await;
        }
        drop(idle.remove(0));
    };
    let (_slot, ()) = tokio::join!(entrance.slot(), requests);

    assert_eq!(connections.metrics().how_many_closed("room"), 1);
}

#[tokio::test(start_paused = true)]
async fn where_one_takes_long_to_close_another_one_makes_room() {
    let (entrance, mut idle) = full_of_idle_ones(2).await;
    let connections = entrance.connections.clone();

    let closes = async {
        while connections.metrics().how_many_closed("room") < 2 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        drop(idle.pop());
    };
    let (_slot, ()) = tokio::join!(entrance.slot(), closes);
}

#[tokio::test(start_paused = true)]
async fn the_one_that_was_idle_longest_makes_room() {
    let served = Served::start();
    let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut all = Vec::new();
    for _ in 0..3 {
        let mut stream = served.connect().await;
        stream.write_all(request).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'H');
        all.push(stream);
    }
    // The first one is at work again.
    all[0].write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;

    assert!(served.connections.close_longest_idle());
    let (rest, after) = until_closed(&mut all[1], "").await;
    assert!(rest.ends_with("hello"), "{rest}");
    assert_eq!(after, 0);
    assert!(served.connections.close_longest_idle());
    assert!(!served.connections.close_longest_idle(), "the other one is busy");
}

// C06
#[tokio::test(start_paused = true)]
async fn at_the_end_callers_are_told_to_close_and_what_they_asked_is_answered() {
    let mut served = Served::start();
    let (mut idle, mut busy) = (served.connect().await, served.connect().await);
    busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;

    served.stop.cancel();
    tokio::task::yield_now().await;
    let (told, _) = until_closed(&mut idle, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let (answered, _) = until_closed(&mut busy, "").await;

    assert!(told.contains("connection: close\r\n"), "{told}");
    assert!(answered.starts_with("HTTP/1.1 200 OK"), "{answered}");
    assert!(served.tasks.join_next().await.is_some());
}
