//! The bytes of an upload as PVE's strict parser needs them, and what ends one.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use pve_operator::pve::{
    Changer, Effect, ErrorClass, NodeName, PveError, Reader, StorageName, Upid, UploadFile,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::server::{Identity, Reply, SECRET, Server, token};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 69\r\nConnection: close\r\n\r\n\
    {\"data\":\"UPID:pve1:000051B6:0003944C:6B01F708:imgcopy::tmpl@pve!tk:\"} ";

fn file(bytes: u64) -> UploadFile {
    UploadFile { filename: "u-ok.qcow2".to_owned(), bytes, sha512: "AB".repeat(64) }
}

type Source = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

fn chunks(of: &[usize]) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let chunks: Vec<_> = of.iter().map(|size| Ok(Bytes::from(vec![b'q'; *size]))).collect();
    stream::iter(chunks)
}

/// The bytes that came in below TLS.
struct Tapped {
    stream: TcpStream,
    raw: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Tapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.raw.lock().unwrap().extend_from_slice(&buf.filled()[before..]);
        polled
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Takes one upload; gives back the request as it was written, and where its TLS records end.
struct Receiver {
    address: std::net::SocketAddr,
    request: Arc<Mutex<Vec<u8>>>,
    raw: Arc<Mutex<Vec<u8>>>,
    _tasks: JoinSet<()>,
}

impl Receiver {
    async fn start(identity: &Identity) -> Self {
        Self::slow(identity, Duration::ZERO).await
    }

    /// Pauses after each read of at most 256 KiB.
    async fn slow(identity: &Identity, pause: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (request, raw): (Arc<Mutex<Vec<u8>>>, _) = Default::default();
        let (acceptor, into, tap) = (identity.acceptor(), Arc::clone(&request), Arc::clone(&raw));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(Tapped { stream, raw: tap }).await.unwrap();
            let mut buffer = vec![0; 1 << 18];
            loop {
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                let read = stream.read(&mut buffer).await.unwrap_or(0);
                let mut request = into.lock().unwrap();
                request.extend_from_slice(&buffer[..read]);
                if read == 0 || request.ends_with(b"--\r\n") {
                    break;
                }
            }
            stream.write_all(ANSWER).await.ok();
            stream.shutdown().await.ok();
        });
        Self { address, request, raw, _tasks: tasks }
    }

    fn reader(&self, identity: &Identity) -> Reader {
        let url = format!("https://{}", self.address);
        let config = pve_operator::pve::ClientConfig::new(&url, token(), identity.trust());
        Reader::new(config.unwrap()).unwrap()
    }

    fn request(&self) -> Vec<u8> {
        self.request.lock().unwrap().clone()
    }

    /// How many bytes of the request each TLS record held, in order. All of TLS 1.3 looks like data
    /// from the client's `Finished` on, which is the first one.
    fn records(&self) -> Vec<usize> {
        let raw = self.raw.lock().unwrap();
        let (mut records, mut rest) = (Vec::new(), &raw[..]);
        while let [kind, _, _, high, low, after @ ..] = rest {
            let length = usize::from(*high) << 8 | usize::from(*low);
            if *kind == 23 {
                records.push(length - 17);
            }
            rest = after.get(length..).unwrap_or_default();
        }
        records.remove(0);
        // The last one is the alert that closes the connection, if it came in time.
        let sum: usize = records.iter().sum();
        if sum > self.request().len() {
            records.pop();
        }
        records
    }
}

async fn upload<S>(reader: &Reader, file: &UploadFile, body: S) -> Result<Upid, PveError>
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let storage = StorageName::new("local2").unwrap();
    Changer::new(reader).upload(&node(), &storage, file, body, |_| {}).await
}

fn node() -> NodeName {
    NodeName::new("pve1").unwrap()
}

fn place(of: &[u8], within: &[u8]) -> usize {
    within.windows(of.len()).position(|it| it == of).unwrap()
}

#[tokio::test]
async fn the_body_is_laid_out_as_pves_parser_wants_it_and_its_heads_are_in_one_record() {
    for sizes in [&[5][..], &[1; 1500], &[70_000, 1, 0, 300_000], &[2_000_000]] {
        let identity = Identity::self_signed(&["pve1"]);
        let receiver = Receiver::start(&identity).await;
        let bytes = sizes.iter().sum::<usize>();

        let upid =
            upload(&receiver.reader(&identity), &file(bytes as u64), chunks(sizes)).await.unwrap();

        assert_eq!((upid.kind(), upid.id()), ("imgcopy", ""));
        let request = receiver.request();
        let end = place(b"\r\n\r\n", &request) + 4;
        let head = String::from_utf8(request[..end].to_vec()).unwrap();
        let body = &request[end..];
        assert!(head.starts_with("POST /api2/json/nodes/pve1/storage/local2/upload HTTP/1.1\r\n"));
        assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())), "{head}");
        assert!(!head.contains("transfer-encoding"));
        let (_, boundary) = head.split_once("multipart/form-data; boundary=").unwrap();
        let boundary = boundary.lines().next().unwrap();
        let checksum = "ab".repeat(64);
        let before = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"content\"\r\n\r\nimport\r\n\
             --{boundary}\r\nContent-Disposition: form-data; name=\"checksum-algorithm\"\r\n\r\nsha512\r\n\
             --{boundary}\r\nContent-Disposition: form-data; name=\"checksum\"\r\n\r\n{checksum}\r\n\
             --{boundary}\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"u-ok.qcow2\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        assert_eq!(String::from_utf8_lossy(&body[..before.len()]), before);
        let after = format!("\r\n--{boundary}--\r\n");
        assert_eq!(body.len(), before.len() + bytes + after.len());
        assert!(body[before.len()..][..bytes].iter().all(|byte| *byte == b'q'));
        assert_eq!(&body[before.len() + bytes..], after.as_bytes());

        let records = receiver.records();
        assert_eq!(records.iter().sum::<usize>(), request.len(), "{records:?}");
        let part = end..end + before.len();
        let mut at = 0;
        for record in &records {
            at += record;
            assert!(!(part.start < at && at < part.end), "cut at {at} of {part:?}: {records:?}");
        }
    }
}

#[tokio::test]
async fn progress_grows_and_ends_with_the_size_of_the_file() {
    let identity = Identity::self_signed(&["pve1"]);
    let receiver = Receiver::start(&identity).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let into = seen.clone();
    let storage = StorageName::new("local2").unwrap();

    Changer::new(&receiver.reader(&identity))
        .upload(
            &node(),
            &storage,
            &file(301_000),
            chunks(&[100_000, 1000, 200_000]),
            move |bytes| {
                into.lock().unwrap().push(bytes);
            },
        )
        .await
        .unwrap();

    let seen = seen.lock().unwrap();
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");
    assert!(seen.len() >= 3 && seen.last() == Some(&301_000), "{seen:?}");
}

/// PVE closes an upload after 5 s without a byte.
#[tokio::test(start_paused = true)]
async fn while_the_source_is_slow_bits_of_the_file_keep_the_upload_alive() {
    let identity = Identity::self_signed(&["pve1"]);
    let receiver = Receiver::start(&identity).await;
    let (reader, request) = (receiver.reader(&identity), receiver.request.clone());
    // What had arrived when the source woke up: with paused time, all that was sent before.
    let during = Arc::new(AtomicU64::new(0));
    let at_wake = during.clone();
    let body = chunks(&[4000]).chain(stream::once(async move {
        let mut seen = Vec::new();
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(2500)).await;
            seen.push(request.lock().unwrap().len());
        }
        let grew = seen.windows(2).filter(|pair| pair[0] < pair[1]).count();
        at_wake.store(grew as u64, Ordering::SeqCst);
        Ok(Bytes::from(vec![b'q'; 4000]))
    }));

    upload(&reader, &file(8000), body).await.unwrap();

    assert!(during.load(Ordering::SeqCst) >= 7, "{during:?} of 9 pauses of 2.5 s brought a byte");
    assert!(receiver.request().windows(8000).any(|it| it.iter().all(|byte| *byte == b'q')));
}

#[tokio::test]
async fn a_source_that_fails_or_lies_about_its_length_ends_the_upload_before_its_end() {
    let broken = || chunks(&[4000]).chain(stream::iter([Err(io::Error::other("disk on fire"))]));
    let cases: [(u64, Source, &str); 4] = [
        (9000, broken().boxed(), "disk on fire"),
        (9000, chunks(&[4000]).boxed(), "announced with 9000 bytes: it ended after 4000 bytes"),
        (3000, chunks(&[4000]).boxed(), "it has more than 3000 bytes"),
        (9000, stream::empty().boxed(), "it ended after 0 bytes"),
    ];
    for (bytes, body, words) in cases {
        let identity = Identity::self_signed(&["pve1"]);
        let receiver = Receiver::start(&identity).await;

        let error = upload(&receiver.reader(&identity), &file(bytes), body).await.unwrap_err();

        assert!(matches!(error, PveError::Unread { .. }), "{error:?}");
        assert_eq!((error.class(), error.effect()), (ErrorClass::Unread, Effect::None));
        assert!(error.report().contains(words), "{}", error.report());
        assert!(!receiver.request().ends_with(b"--\r\n"), "PVE must not take it for whole");
    }
}

#[tokio::test]
async fn an_upload_that_stands_still_is_given_up_and_says_which_side_it_was() {
    let identity = Identity::self_signed(&["pve1"]);
    let deaf = Server::start(&identity, |_| Reply::Stall).await;
    let mut config = deaf.config(identity.trust());
    config.upload_idle = Duration::from_millis(300);
    let reader = Reader::new(config).unwrap();

    let source = upload(&reader, &file(9000), chunks(&[4000]).chain(stream::pending())).await;
    let never = upload(&reader, &file(9000), stream::pending()).await;
    let answer = upload(&reader, &file(4000), chunks(&[4000])).await;

    for error in [source.unwrap_err(), never.unwrap_err()] {
        assert_eq!(error.class(), ErrorClass::Unread);
        assert!(error.report().contains("stood still"), "{}", error.report());
    }
    let error = answer.unwrap_err();
    assert_eq!((error.class(), error.effect()), (ErrorClass::Timeout, Effect::Unknown));
}

/// 20 minutes, where a request has 35 s.
#[tokio::test(start_paused = true)]
async fn a_long_upload_is_not_cut_off_by_the_timeout_of_a_request() {
    let identity = Identity::self_signed(&["pve1"]);
    let receiver = Receiver::start(&identity).await;
    let body = chunks(&[2000; 60]).then(async |chunk| {
        tokio::time::sleep(Duration::from_secs(20)).await;
        chunk
    });

    upload(&receiver.reader(&identity), &file(120_000), body).await.unwrap();
}

/// One chunk of 24 MiB, taken at less than 256 KiB a second: it moves, and that is enough.
#[tokio::test(start_paused = true)]
async fn a_slow_network_is_no_standstill_however_large_the_chunks_are() {
    let identity = Identity::self_signed(&["pve1"]);
    let receiver = Receiver::slow(&identity, Duration::from_secs(1)).await;
    let size = 24 << 20;
    let started = tokio::time::Instant::now();

    upload(&receiver.reader(&identity), &file(size as u64), chunks(&[size])).await.unwrap();

    assert!(started.elapsed() > Duration::from_secs(90), "else this shows nothing");
}

#[tokio::test]
async fn a_refusal_before_the_body_ended_ends_it_and_the_node_is_not_blamed() {
    let identity = Identity::self_signed(&["pve1"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = identity.acceptor();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        // One after the other: each upload must have ended before the next one can begin.
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = [0; 64];
            stream.read_exact(&mut head).await.ok();
            let upload = head.starts_with(b"POST");
            let answer: &[u8] = if upload {
                b"HTTP/1.1 403 Permission check failed (/storage/local2, Datastore.AllocateTemplate)\r\n\
                  Connection: close\r\nContent-Length: 0\r\n\r\n"
            } else {
                b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 11\r\n\r\n{\"data\":[]}"
            };
            stream.write_all(answer).await.ok();
            stream.flush().await.ok();
            // The rest is read and thrown away, so that the answer is not lost in a reset.
            let mut rest = [0; 1 << 12];
            while upload && stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
            stream.shutdown().await.ok();
        }
    });
    let url = format!("https://{address}");
    let config = pve_operator::pve::ClientConfig::new(&url, token(), identity.trust()).unwrap();
    let reader = Reader::new(config).unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let at_end = ended.clone();

    for _ in 0..3 {
        let at_end = at_end.clone();
        let body = chunks(&[4000]).chain(stream::once(async move {
            std::future::pending::<()>().await;
            at_end.store(true, Ordering::SeqCst);
            Ok(Bytes::new())
        }));
        let error = upload(&reader, &file(1 << 30), body).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Forbidden, "{}", error.report());
        assert!(!format!("{error:?}").contains(SECRET));
    }

    assert!(!ended.load(Ordering::SeqCst));
    reader.resources().await.unwrap();
}

#[tokio::test]
async fn an_upload_goes_to_the_nodes_own_address_alone() {
    let identity = Identity::self_signed(&["pve1"]);
    let server = Server::start(&identity, |path| match path {
        "/cluster/status" => Reply::json(
            r#"{"data":[{"type":"node","name":"pve0","ip":"127.0.0.1","online":1,"local":1},
                {"type":"node","name":"pve1","ip":"127.0.0.2","online":1,"local":0}]}"#,
        ),
        _ => Reply::Close,
    })
    .await;
    let reader = server.reader(identity.trust());
    reader.cluster_status().await.unwrap();

    let nobody = upload(&reader, &file(10), chunks(&[10])).await.unwrap_err();
    let paused = upload(&reader, &file(10), chunks(&[10])).await.unwrap_err();

    assert_eq!(nobody.class(), ErrorClass::Connect, "{}", nobody.report());
    assert_eq!(paused.class(), ErrorClass::BreakerOpen, "{}", paused.report());
    assert_eq!(server.requests().len(), 1, "the other node was not asked to pass it on");
}
