//! Where the bytes of one upload go: a file of the folder, or parts of an object in the bucket.

use std::sync::Arc;

use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinHandle;

use super::digest::{Chunk, WAITING};
use super::folder::Unfinished;
use super::{ImageError, ObjectName};

/// Takes bytes in order.
#[derive(Debug)]
pub(super) enum Sink {
    File(FileSink),
}

/// All bytes are safe, none is visible. Dropped, they are gone.
#[derive(Debug)]
#[must_use]
pub(super) enum Sealed {
    File(Unfinished),
}

impl Sink {
    pub(super) fn file(file: Unfinished) -> Self {
        let (orders, waiting) = mpsc::channel(WAITING);
        let thread = tokio::task::spawn_blocking(move || write_file(file, waiting));
        Self::File(FileSink { orders, thread })
    }

    /// # Errors
    ///
    /// Why this or an earlier chunk could not be written.
    pub(super) async fn take(&mut self, chunk: Arc<Chunk>) -> Result<(), ImageError> {
        match self {
            Self::File(file) => match file.orders.send(Order::Write(chunk)).await {
                Ok(()) => Ok(()),
                Err(_) => Err(file.failure().await),
            },
        }
    }

    pub(super) async fn seal(self) -> Result<Sealed, ImageError> {
        match self {
            Self::File(mut file) => {
                if file.orders.send(Order::Seal).await.is_err() {
                    return Err(file.failure().await);
                }
                match super::joined(file.thread.await)?? {
                    Some(file) => Ok(Sealed::File(file)),
                    None => Err(ImageError::NotWhole),
                }
            }
        }
    }

    pub(super) async fn abort(self) {
        match self {
            Self::File(FileSink { orders, thread }) => {
                drop(orders);
                // Whatever it says, the file is gone.
                drop(thread.await);
            }
        }
    }
}

impl Sealed {
    pub(super) async fn publish(self, sha256: &str) -> Result<ObjectName, ImageError> {
        match self {
            Self::File(file) => {
                let sha256 = sha256.to_owned();
                super::blocking(move || file.publish(&sha256)).await
            }
        }
    }

    pub(super) async fn abort(self) {
        match self {
            Self::File(file) => {
                let removed = tokio::task::spawn_blocking(move || drop(file)).await;
                drop(removed); // the file says itself if it stays
            }
        }
    }
}

/// A thread that writes a file. It ends by itself, and removes the file, when it loses its orders.
#[derive(Debug)]
pub(super) struct FileSink {
    orders: Sender<Order>,
    thread: JoinHandle<Result<Option<Unfinished>, ImageError>>,
}

#[derive(Debug)]
enum Order {
    Write(Arc<Chunk>),
    /// All was written: see that the disk has it, and give the file back.
    Seal,
}

impl FileSink {
    /// Why the thread ended before it was told to.
    async fn failure(&mut self) -> ImageError {
        match super::joined((&mut self.thread).await) {
            Ok(Err(error)) | Err(error) => error,
            Ok(Ok(_)) => ImageError::NotWhole,
        }
    }
}

fn write_file(
    mut file: Unfinished,
    mut orders: Receiver<Order>,
) -> Result<Option<Unfinished>, ImageError> {
    while let Some(order) = orders.blocking_recv() {
        match order {
            Order::Write(chunk) => file.write(&chunk.bytes)?,
            Order::Seal => {
                file.sync()?;
                return Ok(Some(file));
            }
        }
    }
    Ok(None)
}
