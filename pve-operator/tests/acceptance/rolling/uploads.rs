//! Clients that upload images, as slowly as they are told to.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp::OwnedReadHalf},
    sync::watch,
};

use crate::support::{LATER, eventually};

/// How long tus-js-client waits after failures in a row, unless it is told otherwise; then it gives up.
const RETRY_DELAYS: [Duration; 4] =
    [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(5)];

/// Requests of a resumable upload have so many bytes.
const CHUNK: usize = 512 << 10;

const PIECE: usize = 32 << 10;

/// A client that waits says that it lives: the API hangs up on who is silent for a minute.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// Bytes that are an image, and that no two offsets or seeds share for long.
pub(super) fn image(seed: &str, bytes: usize) -> Bytes {
    let mut state = seed.bytes().fold(0x9e37_79b9_7f4a_7c15_u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(bytes).collect()
}

/// What is to be uploaded.
#[derive(Clone)]
pub(super) struct Order {
    pub(super) name: String,
    pub(super) cluster: i64,
    pub(super) storage: i64,
    /// Nodes that get copies.
    pub(super) copies: Vec<i64>,
    pub(super) image: Bytes,
}

impl Order {
    fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("template_name", self.name.clone()),
            ("cluster_id", self.cluster.to_string()),
            ("storage_id", self.storage.to_string()),
        ];
        if !self.copies.is_empty() {
            let ids: Vec<_> = self.copies.iter().map(i64::to_string).collect();
            fields.push(("sync_node_ids", ids.join(",")));
        }
        fields
    }
}

/// How far an upload may go, and how far it is.
pub(super) struct Reins {
    allowed: watch::Sender<usize>,
    place: watch::Receiver<Place>,
}

/// Where an upload is.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    sent: usize,
    /// Our end of the connection.
    client: Option<SocketAddr>,
}

/// The client's end of the [`Reins`].
pub(super) struct Bit {
    allowed: watch::Receiver<usize>,
    place: watch::Sender<Place>,
}

impl Reins {
    /// So many bytes may be sent; the last one not before all may.
    pub(super) fn held_at(bytes: usize) -> (Self, Bit) {
        let (allowed, watched) = watch::channel(bytes);
        let (place, shown) = watch::channel(Place::default());
        (Self { allowed, place: shown }, Bit { allowed: watched, place })
    }

    pub(super) fn let_to(&self, bytes: usize) {
        self.allowed.send_replace(bytes);
    }

    pub(super) fn let_go(&self) {
        self.let_to(usize::MAX);
    }

    /// Returns when all that may be sent is sent, and the request is still open.
    pub(super) async fn until_held(&self) {
        eventually("an upload is under way", LATER, || async {
            let (place, allowed) = (*self.place.borrow(), *self.allowed.borrow());
            if place.sent >= allowed && place.client.is_some() { Ok(()) } else { Err(place) }
        })
        .await;
    }

    /// Our end of the connection that it uses.
    pub(super) fn client(&self) -> Option<SocketAddr> {
        self.place.borrow().client
    }
}

impl Bit {
    /// The next bytes behind `at` that may be sent, which may take long.
    async fn next(&mut self, image: &Bytes, at: usize, end: usize) -> Bytes {
        loop {
            let allowed = *self.allowed.borrow_and_update();
            if at < allowed {
                let piece = PIECE.min(allowed - at).min(end - at);
                return image.slice(at..at + piece);
            }
            tokio::select! {
                changed = self.allowed.changed() => changed.expect("somebody holds the reins"),
                () = tokio::time::sleep(SIGN_OF_LIFE) => {
                    if at + 1 < end {
                        return image.slice(at..=at);
                    }
                }
            }
        }
    }
}

/// An answer, as it came.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn data(&self) -> Value {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"));
        body["data"].clone()
    }
}

/// What a request has behind its head.
enum Body<'a> {
    None,
    /// A part of an image, perhaps with something around it.
    Paced {
        bit: &'a mut Bit,
        image: &'a Bytes,
        from: usize,
        end: usize,
        before: String,
        after: String,
    },
}

/// One request on a connection of its own. None if no answer came.
async fn ask(
    server: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: Body<'_>,
) -> Option<Answer> {
    let stream = TcpStream::connect(server).await.ok()?;
    let client = stream.local_addr().ok()?;
    let (from_server, mut to_server) = stream.into_split();
    let length = match &body {
        Body::None => 0,
        Body::Paced { from, end, before, after, .. } => end - from + before.len() + after.len(),
    };
    let head = format!(
        "{method} {path} HTTP/1.0\r\nhost: {server}\r\n{headers}content-length: {length}\r\n\r\n"
    );
    let writing = async {
        to_server.write_all(head.as_bytes()).await?;
        if let Body::Paced { bit, image, from, end, before, after } = body {
            to_server.write_all(before.as_bytes()).await?;
            let mut at = from;
            while at < end {
                bit.place.send_replace(Place { sent: at, client: Some(client) });
                let piece = bit.next(image, at, end).await;
                to_server.write_all(&piece).await?;
                at += piece.len();
            }
            bit.place.send_replace(Place { sent: at, client: None });
            to_server.write_all(after.as_bytes()).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    let reading = answer(from_server);
    tokio::pin!(reading);
    tokio::select! {
        answer = &mut reading => answer,
        // Whether or not all of it is out: what was answered says what became of it.
        _ = writing => reading.await,
    }
}

async fn answer(mut from: OwnedReadHalf) -> Option<Answer> {
    let mut bytes = Vec::new();
    // What came before a connection broke counts.
    drop(from.read_to_end(&mut bytes).await);
    let text = String::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// One form in one request, which can not be resumed: what it was answered.
pub(super) async fn form(service: SocketAddr, order: Order, mut bit: Bit) -> Value {
    const BOUNDARY: &str = "----7MA4YWxkTrZu0gW";
    let mut before = String::new();
    for (name, value) in order.fields() {
        write!(
            before,
            "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        )
        .unwrap();
    }
    write!(
        before,
        "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"disk.raw\"\r\n\r\n"
    )
    .unwrap();
    let after = format!("\r\n--{BOUNDARY}--\r\n");
    let headers = format!("content-type: multipart/form-data; boundary={BOUNDARY}\r\n");
    let (image, end) = (&order.image, order.image.len());
    let body = Body::Paced { bit: &mut bit, image, from: 0, end, before, after };
    let answer = ask(service, "POST", "/api/v1/templates/upload", &headers, body).await;
    let answer = answer.unwrap_or_else(|| panic!("{}: the connection broke", order.name));
    assert_eq!(answer.status, 200, "{}: {answer:?}", order.name);
    answer.data()
}

/// What it took to bring an image in.
#[derive(Debug, Default)]
pub(super) struct Came {
    /// Requests that did not come to their end.
    pub(super) resumes: u32,
    /// Times that somebody was still thought to be at it.
    pub(super) waits: u32,
}

/// One upload by tus 1.0.0, as tus-js-client goes about it.
pub(super) async fn resumable(service: SocketAddr, order: Order, mut bit: Bit) -> Came {
    const VERSION: &str = "tus-resumable: 1.0.0\r\n";
    let total = order.image.len();
    let mut fields = order.fields();
    fields.push(("filename", "disk.raw".to_owned()));
    let pairs = fields.iter().map(|(name, value)| format!("{name} {}", STANDARD.encode(value)));
    let metadata = pairs.collect::<Vec<_>>().join(",");
    let headers = format!("{VERSION}upload-length: {total}\r\nupload-metadata: {metadata}\r\n");
    let begun = ask(service, "POST", "/api/v1/files", &headers, Body::None).await;
    let begun = begun.expect("no replica goes while nothing is begun");
    assert_eq!(begun.status, 201, "{begun:?}");
    let path = begun.header("location").expect("it has a place").to_owned();

    let (mut came, mut failures, mut offset) = (Came::default(), 0, 0);
    let mut is_known = true;
    while offset < total {
        let answer = if is_known {
            let headers = format!(
                "{VERSION}content-type: application/offset+octet-stream\r\nupload-offset: {offset}\r\n"
            );
            let (image, end) = (&order.image, total.min(offset + CHUNK));
            let (before, after) = (String::new(), String::new());
            let body = Body::Paced { bit: &mut bit, image, from: offset, end, before, after };
            let answer = ask(service, "PATCH", &path, &headers, body).await;
            match answer.as_ref().map(|answer| answer.status) {
                Some(204) => {}
                Some(423) => came.waits += 1,
                _ => came.resumes += 1,
            }
            answer
        } else {
            ask(service, "HEAD", &path, VERSION, Body::None).await
        };
        match answer {
            Some(answer) if matches!(answer.status, 200 | 204) => {
                let there = answer.header("upload-offset").expect("it says so").parse().unwrap();
                if there > offset {
                    failures = 0;
                }
                (offset, is_known) = (there, true);
            }
            other => {
                let passing = |status| matches!(status, 409 | 423 | 500..);
                let may_be_tried = other.as_ref().is_none_or(|answer| passing(answer.status));
                let delay = RETRY_DELAYS.get(failures).filter(|_| may_be_tried);
                let delay = delay.unwrap_or_else(|| panic!("{} gives up: {other:?}", order.name));
                tokio::time::sleep(*delay).await;
                (failures, is_known) = (failures + 1, false);
            }
        }
    }
    eventually(&format!("{} is done", order.name), LATER, || async {
        match ask(service, "GET", &path, "", Body::None).await {
            Some(answer) if answer.data()["state"] == "done" => Ok(()),
            other => Err(other),
        }
    })
    .await;
    came
}
