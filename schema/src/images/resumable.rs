//! Uploads whose bytes come in several goes: what has come stays, whatever becomes of the connection,
//! the process and, in a bucket, the machine.
//!
//! ```text
//! resume --> Arrival --write*, secure--> safe   ... resume ... -->   gather --> finish --> image
//!                     undo: nothing of this go                       discard: nothing at all
//! ```
//!
//! How many bytes there are is for the tables to say. A go begins at the offset that they hold, and
//! what lies behind it was never acknowledged: it is overwritten, or passed over.
//!
//! In a folder the bytes are one file that grows, and its digests grow with it, so that in the end
//! it only gets its name; after a restart it is read once more for them. In a bucket they are an
//! object for each piece, which in the end are read and written once more.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::append::{Appended, Appender};
use super::name::random_id;
use super::pieces::Pieces;
use super::{Finished, ImageError, ImageStore, ImageWriter, Place, blocking};

/// The name of one upload, which nobody can guess.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionId(String);

impl SessionId {
    /// A new one.
    pub fn random() -> Self {
        Self(random_id())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionId {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 32 && text.bytes().all(hex) {
            return Ok(Self(text.to_owned()));
        }
        Err(ImageError::Name { name: text.chars().take(100).collect() })
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a go begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct From {
    /// How many bytes are there.
    pub offset: u64,
    /// Higher than that of every go before it: so of two that believe to be the only one, the later
    /// one's bytes count.
    pub epoch: i64,
}

/// Bytes that are coming in, in one go.
///
/// Dropped, what was not [`secure`](Self::secure)d may be lost, and nothing that was is.
#[derive(Debug)]
#[must_use = "what is not secured may be lost"]
pub struct Arrival(Way);

#[derive(Debug)]
enum Way {
    File(Box<Appender>),
    Pieces(Box<Pieces>),
}

impl Arrival {
    /// Takes more bytes; waits while the disk or the bucket is behind.
    ///
    /// # Errors
    ///
    /// Those of the store. What is [`safe`](Self::safe) stays so; nothing more can be written.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), ImageError> {
        match &mut self.0 {
            Way::File(file) => file.write(bytes).await,
            Way::Pieces(pieces) => pieces.write(bytes).await,
        }
    }

    /// How many bytes of the whole upload are safe: they outlive a crash of this machine's system.
    pub fn safe(&self) -> u64 {
        match &self.0 {
            Way::File(file) => file.safe(),
            Way::Pieces(pieces) => pieces.safe(),
        }
    }

    /// Waits until all that was written is safe, and says how many bytes that makes.
    pub async fn secure(&mut self) -> Result<u64, ImageError> {
        match &mut self.0 {
            Way::File(file) => file.secure().await,
            Way::Pieces(pieces) => pieces.secure().await,
        }
    }

    /// Throws away what came in this go.
    pub async fn undo(self) -> Result<(), ImageError> {
        match self.0 {
            Way::File(file) => file.undo().await,
            Way::Pieces(pieces) => pieces.undo().await,
        }
    }
}

/// All bytes of an upload, which is no image yet.
#[derive(Debug)]
#[must_use]
pub struct Gathered(Whole);

#[derive(Debug)]
enum Whole {
    File(Appended),
    Writer(Box<ImageWriter>),
}

impl Gathered {
    /// Makes it an image, whole and at once; its bytes stay until they are
    /// [discarded](ImageStore::discard), so all this can be done once more.
    ///
    /// # Errors
    ///
    /// As [`ImageWriter::finish`].
    pub async fn finish(self, expected_sha256: Option<&str>) -> Result<Finished, ImageError> {
        match self.0 {
            Whole::File(file) => {
                let expected = expected_sha256.map(str::to_owned);
                blocking(move || file.finish(expected.as_deref())).await
            }
            Whole::Writer(writer) => writer.finish(expected_sha256).await,
        }
    }
}

impl ImageStore {
    /// Whether several processes may bring bytes in: a bucket's; a folder has one.
    pub fn is_shared(&self) -> bool {
        matches!(self.0, Place::Bucket(_))
    }

    /// Goes on with an upload. Costs 8 MiB of memory at most, in a bucket 32.
    ///
    /// # Errors
    ///
    /// [`ImageError::Going`] while another go of this process is under way, and
    /// [`ImageError::NotWhole`] if there are fewer bytes than that.
    pub async fn resume(&self, id: &SessionId, from: From) -> Result<Arrival, ImageError> {
        Ok(Arrival(match &self.0 {
            Place::Folder(folder) => {
                let (folder, id) = (Arc::clone(folder), id.clone());
                let file = blocking(move || Appender::open(&folder, &id, from.offset)).await?;
                Way::File(Box::new(file))
            }
            Place::Bucket(bucket) => Way::Pieces(Box::new(Pieces::begin(bucket, id, from)?)),
        }))
    }

    /// Gets an upload of which `bytes` are there ready to be an image; in a bucket that takes as
    /// long as bringing it in did, in a folder too if this process did not bring all of it in.
    ///
    /// # Errors
    ///
    /// [`ImageError::NotWhole`] if there are fewer bytes, [`ImageError::Going`] as in
    /// [`resume`](Self::resume).
    pub async fn gather(&self, id: &SessionId, bytes: u64) -> Result<Gathered, ImageError> {
        Ok(Gathered(match &self.0 {
            Place::Folder(folder) => {
                let (folder, id) = (Arc::clone(folder), id.clone());
                Whole::File(blocking(move || Appended::gather(&folder, &id, bytes)).await?)
            }
            Place::Bucket(bucket) => {
                Whole::Writer(Box::new(super::pieces::gather(bucket, id, bytes).await?))
            }
        }))
    }

    /// Throws an upload's bytes away; an image that was made of them stays.
    pub async fn discard(&self, id: &SessionId) -> Result<(), ImageError> {
        match &self.0 {
            Place::Folder(folder) => {
                let (folder, id) = (Arc::clone(folder), id.clone());
                blocking(move || super::append::discard(&folder, &id)).await
            }
            Place::Bucket(bucket) => super::pieces::discard(bucket, id).await,
        }
    }

    /// The uploads of which bytes are there, and when the last of them came.
    pub async fn sessions(&self) -> Result<Vec<(SessionId, SystemTime)>, ImageError> {
        match &self.0 {
            Place::Folder(folder) => {
                let folder = Arc::clone(folder);
                blocking(move || super::append::sessions(&folder)).await
            }
            Place::Bucket(bucket) => super::pieces::sessions(bucket).await,
        }
    }
}
