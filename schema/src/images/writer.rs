//! One upload on its way into the store.
//!
//! ```text
//!              +--> sha256, a thread
//! write(Bytes) +--> sha512, a thread
//!              +--> the file, a thread; or parts of 16 MiB to a bucket
//! ```
//!
//! All three run at once, and together hold at most [`ROOM`] bytes (a bucket has its parts
//! besides); the slowest holds the others back, and whoever calls [`ImageWriter::write`].

use std::sync::Arc;

use bytes::Bytes;
use ring::digest::{SHA256, SHA512};
use tokio::sync::Semaphore;

use super::digest::{Chunk, Digester};
use super::sink::Sink;
use super::{ImageError, ObjectName};

/// How many bytes may wait for the disk and for the digests.
const ROOM: usize = 8 * 1024 * 1024;

/// The longest chunk: a longer one is taken in pieces.
const PIECE: usize = 1024 * 1024;

/// An image that is being written; nobody sees it before [`finish`](Self::finish).
///
/// Dropped, it is aborted: a file is removed at once, an upload to a bucket as soon as the bucket
/// answers. What a crash leaves behind is removed by
/// [`sweep_unfinished`](super::ImageStore::sweep_unfinished).
#[derive(Debug)]
#[must_use = "dropping it throws the image away"]
pub struct ImageWriter {
    room: Arc<Semaphore>,
    sha256: Digester,
    sha512: Digester,
    sink: Sink,
    bytes: u64,
    /// Whether every write so far was taken by all three.
    whole: bool,
}

/// An image that is in the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finished {
    pub object: ObjectName,
    pub bytes: u64,
    /// In lower-case hex, as is `sha512`.
    pub sha256: String,
    pub sha512: String,
}

impl ImageWriter {
    pub(super) fn new(sink: Sink) -> Self {
        Self {
            room: Arc::new(Semaphore::new(ROOM)),
            sha256: Digester::start(&SHA256),
            sha512: Digester::start(&SHA512),
            sink,
            bytes: 0,
            whole: true,
        }
    }

    /// Takes more bytes; waits while the disk, the bucket or a digest is behind.
    ///
    /// # Errors
    ///
    /// Those of the store. The image can not be finished after one: abort or drop the writer,
    /// and nothing stays.
    ///
    /// # Cancellation
    ///
    /// The same as an error: part of `bytes` may have been taken.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), ImageError> {
        if !self.whole {
            return Err(ImageError::NotWhole);
        }
        self.whole = false;
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            let length = u32::try_from(piece.len()).expect("a piece is at most a MiB");
            let Ok(room) = Arc::clone(&self.room).acquire_many_owned(length).await else {
                return Err(ImageError::NotWhole); // the semaphore is never closed
            };
            let chunk = Arc::new(Chunk { bytes: piece, _room: room });
            // The sink first: it is the one that has a reason to refuse.
            self.sink.take(Arc::clone(&chunk)).await?;
            self.sha256.take(Arc::clone(&chunk)).await?;
            self.sha512.take(chunk).await?;
            self.bytes += u64::from(length);
        }
        self.whole = true;
        Ok(())
    }

    /// How many bytes were taken so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Waits until all of it is safe, then makes the image visible, whole and at once.
    ///
    /// With `expected_sha256` (hex, in any case) the bytes must be those.
    ///
    /// # Errors
    ///
    /// [`ImageError::Mismatch`] if they are not, [`ImageError::NotWhole`] after a write that
    /// failed, or those of the store; nothing stays then. If a bucket's answer was lost, the
    /// image may be there under a name that nobody knows, for the collector.
    ///
    /// # Cancellation
    ///
    /// Nothing stays, or a whole image that no row refers to, for the collector.
    pub async fn finish(self, expected_sha256: Option<&str>) -> Result<Finished, ImageError> {
        if !self.whole {
            self.abort().await;
            return Err(ImageError::NotWhole);
        }
        let sealed = self.sink.seal().await?;
        let (sha256, sha512) = (self.sha256.finish().await?, self.sha512.finish().await?);
        if let Some(expected) = expected_sha256
            && !expected.eq_ignore_ascii_case(&sha256)
        {
            sealed.abort().await;
            let expected = expected.chars().take(64).collect();
            return Err(ImageError::Mismatch { expected, actual: sha256 });
        }
        let object = sealed.publish(&sha256).await?;
        Ok(Finished { object, bytes: self.bytes, sha256, sha512 })
    }

    /// Throws the image away; when this returns, a file is gone.
    pub async fn abort(self) {
        self.sink.abort().await;
    }
}
