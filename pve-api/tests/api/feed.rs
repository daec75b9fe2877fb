//! Clients that watch sync tasks through a real listener, over either transport.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use futures::StreamExt as _;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

/// So long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) const PATH: &str = "/api/v1/templates/sync-tasks/watch";

/// A router that listens; gone when dropped.
#[derive(Debug)]
pub(crate) struct Listening {
    pub address: SocketAddr,
    _server: JoinSet<()>,
}

impl Listening {
    pub(crate) async fn start(router: &Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = router.clone().into_make_service_with_connect_info::<SocketAddr>();
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, service).await.unwrap() });
        Self { address, _server: server }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Transport {
    WebSocket,
    EventStream,
}

pub(crate) const BOTH: [Transport; 2] = [Transport::WebSocket, Transport::EventStream];

/// One connection that watches.
#[derive(Debug)]
pub(crate) enum Feed {
    WebSocket(Box<WebSocketStream<TcpStream>>),
    EventStream(BufReader<TcpStream>),
}

impl Feed {
    pub(crate) async fn open(address: SocketAddr, transport: Transport, query: &str) -> Self {
        Self::open_with(address, transport, query, &[]).await
    }

    pub(crate) async fn open_with(
        address: SocketAddr,
        transport: Transport,
        query: &str,
        headers: &[(&'static str, &str)],
    ) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if transport == Transport::WebSocket {
            let url = format!("ws://{address}{PATH}{query}");
            let mut request = url.into_client_request().unwrap();
            for (name, value) in headers {
                request.headers_mut().insert(*name, value.parse().unwrap());
            }
            let (socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
            return Self::WebSocket(Box::new(socket));
        }
        // Of HTTP/1.0, so that the body comes as it is and ends with the connection.
        let mut request = format!("GET {PATH}{query} HTTP/1.0\r\naccept: text/event-stream\r\n");
        for (name, value) in headers {
            for part in [name, ": ", value, "\r\n"] {
                request.push_str(part);
            }
        }
        stream.write_all(format!("{request}\r\n").as_bytes()).await.unwrap();
        let mut stream = BufReader::new(stream);
        let head = line(&mut stream).await.unwrap();
        assert!(head.contains(" 200 "), "{head}");
        while !line(&mut stream).await.unwrap().is_empty() {}
        assert_eq!(line(&mut stream).await.unwrap(), "retry: 2000");
        Self::EventStream(stream)
    }

    /// The next message; none once the other side has ended it.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        timeout(PATIENCE, self.wait()).await.expect("a message in time")
    }

    async fn wait(&mut self) -> Option<Value> {
        match self {
            Self::WebSocket(socket) => loop {
                match socket.next().await?.ok()? {
                    Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                    Message::Close(_) => return None,
                    _ => {}
                }
            },
            Self::EventStream(stream) => loop {
                let Some(id) = line(stream).await?.strip_prefix("id: ").map(str::to_owned) else {
                    continue;
                };
                let data = line(stream).await?;
                let message: Value = serde_json::from_str(&data["data: ".len()..]).unwrap();
                assert_eq!(id, message["revision"].to_string());
                return Some(message);
            },
        }
    }

    /// The next message that is no heartbeat.
    pub(crate) async fn news(&mut self) -> Value {
        loop {
            let message = self.next().await.expect("it goes on");
            if message["type"] != "heartbeat" {
                return message;
            }
        }
    }

    /// All messages until it is in step, that one included.
    pub(crate) async fn state(&mut self) -> Vec<Value> {
        let mut all = Vec::new();
        loop {
            let message = self.news().await;
            let synced = message["type"] == "synced";
            all.push(message);
            if synced {
                return all;
            }
        }
    }

    /// Reads until a task is shown as `holds`, and says what was told of it on the way.
    pub(crate) async fn until(&mut self, task: i64, holds: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut told = Vec::new();
        loop {
            let message = self.news().await;
            if message["task"]["task_id"] == task {
                told.push(message);
                if holds(&told.last().expect("it was pushed")["task"]) {
                    return told;
                }
            }
        }
    }
}

async fn line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    let read = stream.read_line(&mut line).await.ok()?;
    (read > 0).then(|| line.trim_end().to_owned())
}
