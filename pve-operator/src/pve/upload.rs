//! The body of an upload, laid out as PVE's parser wants it and kept flowing.
//!
//! ```text
//! head: content, checksum-algorithm, checksum, the file part's own head   one chunk
//! data: the file                                                         as it comes
//! tail: the closing boundary                                             one chunk
//! ```
//!
//! The parser (pve-http-server: `src/PVE/APIServer/AnyEvent.pm:1280`) takes the fields in this
//! order only, and writes what it gets of the file part's head into the file if that head is
//! spread over two TLS records. So the whole head is one chunk, which the TLS layer starts a
//! record with and which fits into one.
//!
//! A pause of 5 s ends an upload without an answer (seen on PVE 9.2). So a little of the file is
//! held back always, and given out in bits while its source is slow.

use std::{collections::VecDeque, error::Error, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Cause, PveError};

/// A file that is uploaded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UploadFile {
    /// Letters, digits, `_`, `.` and `-` only: PVE replaces all others, and the file would have
    /// another name than the one that was sent. Ends in `.qcow2`, `.raw`, `.vmdk` or `.ova`.
    pub filename: String,
    /// Of the file.
    pub bytes: u64,
    /// 128 hexadecimal digits. PVE checks it once it has the whole file, in the task.
    pub sha512: String,
}

/// A body with its length.
pub(crate) struct Parcel {
    pub(crate) content_type: String,
    pub(crate) length: u64,
    pub(crate) body: reqwest::Body,
}

/// Between two bits, when the source is slow.
const BIT_PAUSE: Duration = Duration::from_secs(2);

/// Bytes in a bit.
const BIT: usize = 16;

/// Held back for bits: enough for a source that is slow for two minutes, which no caller waits for.
const RESERVE: usize = 1024;

/// The most that is handed over at once. That the connection takes the next one is what shows that
/// an upload moves, however large the chunks of its source are.
const PIECE: usize = 64 << 10;

impl Parcel {
    /// `boundary` must not occur in the file; 24 random letters do not.
    pub(crate) fn new<S, E>(
        file: &UploadFile,
        boundary: &str,
        source: S,
        watch: &Watch,
        progress: impl Fn(u64) + Send + 'static,
    ) -> Self
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let (head, tail) = envelope(file, boundary);
        let length = head.len() as u64 + file.bytes + tail.len() as u64;
        let flow = Flow {
            source: Box::pin(source.map(|chunk| chunk.map_err(|error| Arc::from(error.into())))),
            ready: VecDeque::from([head]),
            held: Bytes::new(),
            tail: Some(tail),
            expected: file.bytes,
            seen: 0,
            given: 0,
            watch: watch.clone(),
            progress,
        };
        let chunks = stream::unfold(Some(flow), |flow| async {
            let mut flow = flow?;
            match flow.next().await? {
                Ok(chunk) => Some((Ok(chunk), Some(flow))),
                Err(fault) => Some((Err(fault), None)),
            }
        });
        Self {
            content_type: format!("multipart/form-data; boundary={boundary}"),
            length,
            body: reqwest::Body::wrap_stream(chunks),
        }
    }
}

/// What stands before the file and after it.
fn envelope(file: &UploadFile, boundary: &str) -> (Bytes, Bytes) {
    let field = |name: &str, value: &str| {
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        )
    };
    let fields = [
        field("content", "import"),
        field("checksum-algorithm", "sha512"),
        field("checksum", &file.sha512.to_ascii_lowercase()),
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"filename\"; \
             filename=\"{}\"\r\nContent-Type: application/octet-stream\r\n\r\n",
            file.filename
        ),
    ];
    (fields.concat().into(), format!("\r\n--{boundary}--\r\n").into())
}

struct Flow<P> {
    source: std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, Cause>> + Send>>,
    /// To be given out next.
    ready: VecDeque<Bytes>,
    /// The last of what the source gave, at most [`RESERVE`].
    held: Bytes,
    /// There until the file has ended.
    tail: Option<Bytes>,
    expected: u64,
    /// Bytes of the file that the source gave.
    seen: u64,
    /// Bytes of the file that the connection took.
    given: u64,
    watch: Watch,
    progress: P,
}

impl<P: Fn(u64)> Flow<P> {
    async fn next(&mut self) -> Option<Result<Bytes, BodyFault>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                self.watch.touch();
                return Some(Ok(self.give(chunk)));
            }
            self.tail.as_ref()?;
            self.watch.waits_for_source(true);
            let read = tokio::select! {
                biased;
                () = self.watch.over.cancelled() => return Some(Err(BodyFault::over())),
                read = timeout(BIT_PAUSE, self.source.next()) => read,
            };
            match read {
                Err(_) => {
                    let bit = self.held.split_to(BIT.min(self.held.len()));
                    if !bit.is_empty() {
                        return Some(Ok(self.give(bit)));
                    }
                }
                Ok(Some(Ok(chunk))) => {
                    if let Err(fault) = self.take(chunk) {
                        return Some(Err(fault));
                    }
                }
                Ok(Some(Err(cause))) => return Some(Err(BodyFault::broke(cause))),
                Ok(None) if self.seen < self.expected => {
                    return Some(Err(BodyFault::length(self.seen, self.expected)));
                }
                Ok(None) => {
                    self.watch.ended();
                    let held = std::mem::take(&mut self.held);
                    self.ready.extend([held].into_iter().filter(|it| !it.is_empty()));
                    self.ready.extend(self.tail.take());
                }
            }
        }
    }

    /// Counts what goes out of the file. The head goes before anything was seen of it, the tail
    /// after all of it was given.
    fn give(&mut self, chunk: Bytes) -> Bytes {
        if self.seen > 0 && self.given < self.expected {
            self.given += chunk.len() as u64;
            (self.progress)(self.given);
        }
        chunk
    }

    fn take(&mut self, mut chunk: Bytes) -> Result<(), BodyFault> {
        self.seen += chunk.len() as u64;
        if self.seen > self.expected {
            return Err(BodyFault::length(self.seen, self.expected));
        }
        if chunk.is_empty() {
            return Ok(());
        }
        self.watch.waits_for_source(false);
        self.watch.touch();
        if chunk.len() < RESERVE {
            // The two together are held, up to a reserve.
            let mut both = Vec::with_capacity(self.held.len() + chunk.len());
            both.extend_from_slice(&self.held);
            both.extend_from_slice(&chunk);
            self.held = Bytes::new();
            chunk = both.into();
        }
        let mut out = chunk.split_to(chunk.len().saturating_sub(RESERVE));
        let held = std::mem::replace(&mut self.held, chunk);
        self.ready.extend([held].into_iter().filter(|it| !it.is_empty()));
        while !out.is_empty() {
            self.ready.push_back(out.split_to(PIECE.min(out.len())));
        }
        Ok(())
    }
}

/// Why a body did not reach its end.
#[derive(Clone, Debug)]
pub(crate) struct BodyFault {
    what: String,
    cause: Cause,
}

impl BodyFault {
    fn broke(cause: Cause) -> Self {
        Self { what: "its file could not be read".to_owned(), cause }
    }

    fn length(seen: u64, expected: u64) -> Self {
        let words = if seen < expected { "ended after" } else { "has more than" };
        let cause = format!("it {words} {} bytes", seen.min(expected));
        Self {
            what: format!("its file was announced with {expected} bytes"),
            cause: Box::<dyn Error + Send + Sync>::from(cause).into(),
        }
    }

    fn over() -> Self {
        let cause = Box::<dyn Error + Send + Sync>::from("the answer came before its end");
        Self { what: "nobody waits for it any more".to_owned(), cause: cause.into() }
    }

    pub(crate) fn still(idle: Duration) -> Self {
        let cause = format!("no byte of it came for {} s", idle.as_secs_f64());
        Self {
            what: "its file stood still".to_owned(),
            cause: Box::<dyn Error + Send + Sync>::from(cause).into(),
        }
    }

    pub(crate) fn into_error(self, request: String) -> PveError {
        PveError::Unread { request, what: self.what, source: self.cause }
    }
}

impl fmt::Display for BodyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for BodyFault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.cause)
    }
}

/// Sees whether an upload moves. Clones see the same one.
#[derive(Clone)]
pub(crate) struct Watch {
    seen: Arc<Mutex<Seen>>,
    over: CancellationToken,
}

struct Seen {
    at: Instant,
    waits_for_source: bool,
    ended: bool,
}

impl Watch {
    pub(crate) fn new() -> Self {
        let seen = Seen { at: Instant::now(), waits_for_source: false, ended: false };
        Self { seen: Arc::new(Mutex::new(seen)), over: CancellationToken::new() }
    }

    /// Ends the body when it is dropped. A connection would go on to send it after an answer that
    /// came early, as a refusal does.
    pub(crate) fn guard(&self) -> DropGuard {
        self.over.clone().drop_guard()
    }

    pub(crate) fn touch(&self) {
        self.seen.lock().at = Instant::now();
    }

    fn waits_for_source(&self, waits: bool) {
        self.seen.lock().waits_for_source = waits;
    }

    fn ended(&self) {
        let mut seen = self.seen.lock();
        (seen.at, seen.waits_for_source, seen.ended) = (Instant::now(), false, true);
    }

    /// Returns once nothing moved for `idle`, or the answer did not come in four times that after
    /// the end; with a fault if it was our source that stood still.
    pub(crate) async fn stalled(&self, idle: Duration) -> Option<BodyFault> {
        loop {
            let (until, waits) = {
                let seen = self.seen.lock();
                let pause = if seen.ended { idle * 4 } else { idle };
                (seen.at + pause, seen.waits_for_source)
            };
            if until <= Instant::now() {
                return waits.then(|| BodyFault::still(idle));
            }
            sleep_until(until).await;
        }
    }
}
