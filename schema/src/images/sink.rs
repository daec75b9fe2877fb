//! Where the bytes of one upload go: a file of the folder, or parts of an object in the bucket.

use std::sync::Arc;

use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinHandle;

use super::digest::{Chunk, WAITING};
use super::folder::Unfinished;
use super::parts::Parts;
use super::{ImageError, ObjectName};

/// Takes bytes in order.
#[derive(Debug)]
pub(super) enum Sink {
    File(FileSink),
    Parts(Box<Parts>),
}

/// All bytes are safe, none is visible. Dropped, they are gone.
#[derive(Debug)]
#[must_use]
pub(super) enum Sealed {
    File(Unfinished),
    Parts(Box<Parts>),
}

impl Sink {
    pub(super) fn file(file: Unfinished) -> Self {
        let (orders, waiting) = mpsc::channel(WAITING);
        let thread = tokio::task::spawn_blocking(move || write_file(file, waiting));
        Self::File(FileSink { orders, thread: Some(thread) })
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
            // The room goes back at once; what a part holds is bounded by its size.
            Self::Parts(parts) => parts.take(chunk.bytes.clone()).await,
        }
    }

    pub(super) async fn seal(self) -> Result<Sealed, ImageError> {
        match self {
            Self::File(mut file) => {
                if file.orders.send(Order::Seal).await.is_err() {
                    return Err(file.failure().await);
                }
                let Some(thread) = file.thread.take() else { return Err(ImageError::NotWhole) };
                match super::joined(thread.await)?? {
                    Some(file) => Ok(Sealed::File(file)),
                    None => Err(ImageError::NotWhole),
                }
            }
            Self::Parts(mut parts) => {
                parts.seal().await?;
                Ok(Sealed::Parts(parts))
            }
        }
    }

    pub(super) async fn abort(self) {
        match self {
            Self::File(FileSink { orders, thread }) => {
                drop(orders);
                if let Some(thread) = thread {
                    // Whatever it says, the file is gone.
                    drop(thread.await);
                }
            }
            Self::Parts(parts) => parts.abort().await,
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
            Self::Parts(parts) => parts.publish().await,
        }
    }

    pub(super) async fn abort(self) {
        match self {
            Self::File(file) => {
                let removed = tokio::task::spawn_blocking(move || drop(file)).await;
                drop(removed); // the file says itself if it stays
            }
            Self::Parts(parts) => parts.abort().await,
        }
    }
}

/// A thread that writes a file. It ends by itself, and removes the file, when it loses its orders.
#[derive(Debug)]
pub(super) struct FileSink {
    orders: Sender<Order>,
    /// `None` once it ended and said why.
    thread: Option<JoinHandle<Result<Option<Unfinished>, ImageError>>>,
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
        let Some(thread) = self.thread.take() else { return ImageError::NotWhole };
        match super::joined(thread.await) {
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

#[cfg(test)]
mod tests {
    use super::super::folder::{Folder, Unfinished};
    use super::super::writer::ImageWriter;
    use super::*;

    /// An upload whose bytes go to a device that is always full, and the folder that it is in.
    fn to_a_full_disk() -> (tempfile::TempDir, Unfinished) {
        let root = tempfile::tempdir().unwrap();
        let folder = Arc::new(Folder::open(root.path().to_owned()).unwrap());
        let device = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let unfinished = folder.create().unwrap().written_to(device);
        (root, unfinished)
    }

    #[tokio::test]
    async fn a_full_disk_is_said_and_leaves_nothing() {
        let (root, unfinished) = to_a_full_disk();
        let unfinished_files =
            || std::fs::read_dir(root.path().join("unfinished")).unwrap().count();
        assert_eq!(unfinished_files(), 1);

        let mut writer = ImageWriter::new(Sink::file(unfinished));
        let mut written = Ok(());
        while written.is_ok() {
            written = writer.write(vec![7; 100_000].into()).await;
        }
        let finished = writer.finish(None).await;

        assert!(matches!(written, Err(ImageError::Full { .. })), "{written:?}");
        assert!(matches!(finished, Err(ImageError::NotWhole)), "{finished:?}");
        assert_eq!(unfinished_files(), 0);
    }

    #[tokio::test]
    async fn a_disk_that_is_full_at_the_end_is_said_too() {
        let (root, unfinished) = to_a_full_disk();

        let mut writer = ImageWriter::new(Sink::file(unfinished));
        writer.write("a few bytes".into()).await.unwrap();
        let finished = writer.finish(None).await;

        assert!(matches!(finished, Err(ImageError::Full { .. })), "{finished:?}");
        assert_eq!(std::fs::read_dir(root.path().join("unfinished")).unwrap().count(), 0);
    }
}
