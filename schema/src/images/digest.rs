//! Digests that are computed beside the writing, each on a thread of its own.

use std::sync::Arc;

use bytes::Bytes;
use ring::digest::{Algorithm, Context};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinHandle;

use super::ImageError;

/// Bytes on their way to whoever reads them, and the room that they take until all have.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) bytes: Bytes,
    pub(super) _room: OwnedSemaphorePermit,
}

/// How many chunks may wait. The bytes are bounded elsewhere; this is for very small chunks.
pub(super) const WAITING: usize = 256;

/// A thread that digests what it is sent.
#[derive(Debug)]
pub(super) struct Digester {
    chunks: Sender<Arc<Chunk>>,
    thread: JoinHandle<String>,
}

impl Digester {
    pub(super) fn start(algorithm: &'static Algorithm) -> Self {
        let (chunks, waiting) = mpsc::channel(WAITING);
        let thread = tokio::task::spawn_blocking(move || digest(algorithm, waiting));
        Self { chunks, thread }
    }

    pub(super) async fn take(&self, chunk: Arc<Chunk>) -> Result<(), ImageError> {
        self.chunks.send(chunk).await.map_err(|_| ImageError::NotWhole)
    }

    /// The digest in hex of all that was taken.
    pub(super) async fn finish(self) -> Result<String, ImageError> {
        drop(self.chunks);
        super::joined(self.thread.await)
    }
}

fn digest(algorithm: &'static Algorithm, mut waiting: Receiver<Arc<Chunk>>) -> String {
    let mut context = Context::new(algorithm);
    while let Some(chunk) = waiting.blocking_recv() {
        context.update(&chunk.bytes);
    }
    let digest = context.finish();
    let mut hex = String::with_capacity(2 * digest.as_ref().len());
    for byte in digest.as_ref() {
        for nibble in [byte >> 4, byte & 15] {
            hex.push(char::from_digit(nibble.into(), 16).unwrap_or('0'));
        }
    }
    hex
}
