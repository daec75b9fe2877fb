//! The image store: disk images as they were uploaded, for nodes to fetch.
//!
//! ```text
//! create --> ImageWriter --write*--> finish --> ObjectName --stat, read, signed_url--> bytes
//!                          dropped, aborted, wrong digest: nothing
//! ```
//!
//! An image is there whole or not at all, and never changes. It is kept in a folder of this
//! machine (`file://`, one API process) or in a bucket (`s3://`, as many as one likes); the URL
//! chooses. In a folder the digest is the name, so the same content twice is one file; in a bucket
//! the name is random, because renaming there means copying 50 GB.
//!
//! An upload may also come in several goes, across connections and restarts: see [`Arrival`].
//!
//! Who refers to an image is for the tables to say: the store lists, and deletes what it is told.

mod append;
mod bucket;
mod digest;
mod error;
mod folder;
mod location;
mod name;
mod parts;
mod pieces;
mod resumable;
mod sink;
mod writer;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{Stream, StreamExt as _};
use tokio::task::JoinError;
use url::Url;

use bucket::Bucket;
use folder::Folder;
use location::Location;
use sink::Sink;

pub use error::ImageError;
pub use name::ObjectName;
pub use resumable::{Arrival, From, Gathered, SessionId};
pub use writer::{Finished, ImageWriter};

/// Where images are kept. Clones are the same store.
#[derive(Clone)]
pub struct ImageStore(Place);

#[derive(Clone)]
enum Place {
    Folder(Arc<Folder>),
    Bucket(Arc<Bucket>),
}

/// An image in the store, as [`ImageStore::list`] saw it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stored {
    pub name: ObjectName,
    pub bytes: u64,
    /// When it was brought in; in a folder, when the same content was last brought in.
    pub modified: SystemTime,
}

impl ImageStore {
    /// Opens a store for writing, and makes the folder if it is missing. Blocks for a moment.
    ///
    /// `file:///var/lib/pve/images`, or `s3://bucket/prefix?endpoint=http://…&region=…` with the
    /// credentials in `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, if they are temporary,
    /// `AWS_SESSION_TOKEN`. A bucket is not asked for anything yet: that is [`check`](Self::check).
    ///
    /// # Errors
    ///
    /// [`ImageError::Url`] says what to write instead; [`ImageError::InUse`] if another process
    /// writes to this folder; [`ImageError::Denied`], [`ImageError::Full`] or
    /// [`ImageError::Unavailable`] if the folder takes no files.
    pub fn open(url: &str) -> Result<Self, ImageError> {
        Self::open_with(url, |name| std::env::var(name).ok())
    }

    /// As [`open`](Self::open), with credentials from elsewhere than the environment.
    pub fn open_with(url: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self, ImageError> {
        Ok(Self(match Location::parse(url)? {
            Location::Folder(root) => Place::Folder(Arc::new(Folder::open(root)?)),
            Location::Bucket(url) => Place::Bucket(Arc::new(Bucket::open(&url, env, true)?)),
        }))
    }

    /// Opens a store beside the process that writes to it; whatever would change it is
    /// [`ImageError::ReadOnly`]. The folder may still be missing.
    ///
    /// # Errors
    ///
    /// [`ImageError::Url`].
    pub fn open_read_only(url: &str) -> Result<Self, ImageError> {
        let env = |name: &str| std::env::var(name).ok();
        Ok(Self(match Location::parse(url)? {
            Location::Folder(root) => Place::Folder(Arc::new(Folder::open_read_only(root))),
            Location::Bucket(url) => Place::Bucket(Arc::new(Bucket::open(&url, env, false)?)),
        }))
    }

    /// Whether the store answers and takes what it is given: for readiness.
    ///
    /// Writes a few bytes, and in a folder removes them again.
    ///
    /// # Errors
    ///
    /// What a write or a read would fail with.
    pub async fn check(&self) -> Result<(), ImageError> {
        match &self.0 {
            Place::Folder(folder) => {
                let folder = Arc::clone(folder);
                blocking(move || folder.check()).await
            }
            Place::Bucket(bucket) => bucket.check().await,
        }
    }

    /// Starts a new image. Nothing is visible before [`ImageWriter::finish`], which names it.
    ///
    /// Costs 8 MiB of memory at most while it is written, in a bucket 32 MiB more.
    pub async fn create(&self) -> Result<ImageWriter, ImageError> {
        match &self.0 {
            Place::Folder(folder) => {
                let folder = Arc::clone(folder);
                let file = blocking(move || folder.create()).await?;
                Ok(ImageWriter::new(Sink::file(file)))
            }
            Place::Bucket(bucket) => {
                Ok(ImageWriter::new(Sink::Parts(Box::new(bucket.create().await?))))
            }
        }
    }

    /// How many bytes an image has; `None` if there is no such image.
    pub async fn stat(&self, object: &ObjectName) -> Result<Option<u64>, ImageError> {
        match &self.0 {
            Place::Folder(folder) => {
                let (folder, object) = (Arc::clone(folder), object.clone());
                blocking(move || folder.stat(&object)).await
            }
            Place::Bucket(bucket) => bucket.stat(object).await,
        }
    }

    /// Reads the bytes of `range`, in chunks of at most a MiB or so, as fast as they are taken.
    ///
    /// An image that is deleted while it is read stays readable in a folder; from a bucket the
    /// stream may end in an error.
    ///
    /// # Errors
    ///
    /// [`ImageError::NotFound`], [`ImageError::Range`] if the range ends after the image does;
    /// later, within the stream, [`ImageError::Unavailable`]. The stream ends after an error.
    pub async fn read(
        &self,
        object: &ObjectName,
        range: Range<u64>,
    ) -> Result<impl Stream<Item = Result<Bytes, ImageError>> + Send + 'static + use<>, ImageError>
    {
        match &self.0 {
            Place::Folder(folder) => {
                let (folder, name) = (Arc::clone(folder), object.clone());
                let (file, bytes) = blocking(move || folder.open_image(&name)).await?;
                within(object, bytes, &range)?;
                Ok(folder::read(file, object.clone(), range).boxed())
            }
            Place::Bucket(bucket) => bucket.read(object, range).await,
        }
    }

    /// A URL that gives the image to whoever has it, until `ttl` (at most 7 days) is over.
    ///
    /// `None` for a folder: there the API serves the bytes itself.
    pub async fn signed_url(
        &self,
        object: &ObjectName,
        ttl: Duration,
    ) -> Result<Option<Url>, ImageError> {
        match &self.0 {
            Place::Folder(_) => Ok(None),
            Place::Bucket(bucket) => bucket.signed_url(object, ttl).await.map(Some),
        }
    }

    /// Deletes an image; one that is absent is fine.
    pub async fn delete(&self, object: &ObjectName) -> Result<(), ImageError> {
        match &self.0 {
            Place::Folder(folder) => {
                let (folder, object) = (Arc::clone(folder), object.clone());
                blocking(move || folder.delete(&object)).await
            }
            Place::Bucket(bucket) => bucket.delete(object).await,
        }
    }

    /// Deletes an image that was listed, unless the same content was brought in again since then.
    ///
    /// For collectors: list, ask the tables which images somebody refers to, delete the others
    /// with this. An image is in the store a moment before its row is in the tables, so leave
    /// those alone that came within the last hour. Says whether the image is gone.
    pub async fn delete_unchanged(&self, seen: &Stored) -> Result<bool, ImageError> {
        match &self.0 {
            Place::Folder(folder) => {
                let (folder, seen) = (Arc::clone(folder), seen.clone());
                blocking(move || folder.delete_unchanged(&seen)).await
            }
            // A name there is of one upload, so it can not have come again.
            Place::Bucket(bucket) => bucket.delete(&seen.name).await.map(|()| true),
        }
    }

    /// All finished images, in no particular order.
    pub async fn list(&self) -> Result<Vec<Stored>, ImageError> {
        match &self.0 {
            Place::Folder(folder) => {
                let folder = Arc::clone(folder);
                blocking(move || folder.list()).await
            }
            Place::Bucket(bucket) => bucket.list().await,
        }
    }

    /// Removes what crashed uploads left, if it was last written more than `older_than` ago, and
    /// says how many there were. Uploads of this process are never touched.
    pub async fn sweep_unfinished(&self, older_than: Duration) -> Result<usize, ImageError> {
        match &self.0 {
            Place::Folder(folder) => {
                let folder = Arc::clone(folder);
                blocking(move || folder.sweep_unfinished(older_than)).await
            }
            Place::Bucket(bucket) => bucket.sweep_unfinished(older_than).await,
        }
    }
}

impl fmt::Debug for ImageStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Folder(folder) => f.debug_tuple("ImageStore").field(folder).finish(),
            Place::Bucket(bucket) => f.debug_tuple("ImageStore").field(bucket).finish(),
        }
    }
}

fn within(object: &ObjectName, bytes: u64, range: &Range<u64>) -> Result<(), ImageError> {
    if range.start <= range.end && range.end <= bytes {
        return Ok(());
    }
    Err(ImageError::Range { object: object.clone(), bytes, start: range.start, end: range.end })
}

/// Runs what would block the runtime on a thread for such work.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    joined(tokio::task::spawn_blocking(work).await)?
}

/// Passes a panic on; a runtime that is shutting down is an error.
fn joined<T>(done: Result<T, JoinError>) -> Result<T, ImageError> {
    done.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => {
            ImageError::Unavailable { doing: "work on an image".to_owned(), source: error.into() }
        }
    })
}
