//! One upload in a folder: a file that grows, `ROOT/resumable/ID`, and its digests beside it in
//! memory.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use ring::digest::{Context, SHA256, SHA512};
use tokio::task::JoinHandle;

use super::folder::{Folder, files, held, remove};
use super::resumable::SessionId;
use super::{Finished, ImageError};
use crate::text::hex;

/// Uploads that come in several goes, below the root of the folder.
pub(super) const RESUMABLE: &str = "resumable";

/// How much is collected before a thread writes it. While it does, the next is collected.
const STEP: usize = 4 * 1024 * 1024;

/// How much may be written that the disk need not have yet.
const UNSYNCED: u64 = 16 * 1024 * 1024;

/// What a folder knows of uploads that are not whole.
#[derive(Debug, Default)]
pub(super) struct Appends {
    /// Those that somebody appends to or makes an image of right now.
    going: HashSet<SessionId>,
    /// The digests of what is there, of uploads that came from their beginning to this process.
    digests: HashMap<SessionId, Digests>,
}

/// Digests of so many bytes.
#[derive(Clone)]
struct Digests {
    bytes: u64,
    sha256: Context,
    sha512: Context,
}

impl Digests {
    fn of_nothing() -> Self {
        Self { bytes: 0, sha256: Context::new(&SHA256), sha512: Context::new(&SHA512) }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.sha512.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl fmt::Debug for Digests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Digests").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// Keeps everybody else away from one upload.
#[derive(Debug)]
struct Going {
    folder: Arc<Folder>,
    id: SessionId,
}

impl Going {
    fn begin(folder: &Arc<Folder>, id: &SessionId) -> Result<Self, ImageError> {
        folder.may_write()?;
        if !held(&folder.appends).going.insert(id.clone()) {
            return Err(ImageError::Going);
        }
        Ok(Self { folder: Arc::clone(folder), id: id.clone() })
    }

    fn path(&self) -> PathBuf {
        path(&self.folder, &self.id)
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        held(&self.folder.appends).going.remove(&self.id);
    }
}

fn path(folder: &Folder, id: &SessionId) -> PathBuf {
    folder.root().join(RESUMABLE).join(id.as_str())
}

/// Appends, a step at a time on a thread of its own.
#[derive(Debug)]
pub(super) struct Appender {
    collected: Vec<Bytes>,
    collected_bytes: usize,
    safe: u64,
    begin: u64,
    /// The digests as they were when this go began.
    before: Option<Digests>,
    file: Hand,
}

/// Who has the file.
#[derive(Debug)]
enum Hand {
    Here(Box<Open>),
    Thread(JoinHandle<Result<Box<Open>, ImageError>>),
    /// A step failed.
    Lost,
}

/// The file and what is in it.
#[derive(Debug)]
struct Open {
    file: File,
    end: u64,
    synced: u64,
    digests: Option<Digests>,
    going: Going,
}

impl Open {
    /// Blocks.
    fn append(
        mut self: Box<Self>,
        chunks: &[Bytes],
        secure: bool,
    ) -> Result<Box<Self>, ImageError> {
        let fail = |e| ImageError::io("write", &self.going.path(), e);
        for chunk in chunks {
            self.file.write_all_at(chunk, self.end).map_err(fail)?;
            if let Some(digests) = &mut self.digests {
                digests.take(chunk);
            }
            self.end += chunk.len() as u64;
        }
        if secure || self.end - self.synced >= UNSYNCED {
            self.file.sync_data().map_err(fail)?;
            self.synced = self.end;
        }
        Ok(self)
    }
}

impl Appender {
    /// Blocks.
    pub(super) fn open(
        folder: &Arc<Folder>,
        id: &SessionId,
        offset: u64,
    ) -> Result<Self, ImageError> {
        let going = Going::begin(folder, id)?;
        let path = going.path();
        let fail = |e| ImageError::io("open", &path, e);
        let file =
            File::options().read(true).write(true).create(offset == 0).truncate(false).open(&path);
        let file = match file {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(ImageError::NotWhole),
            file => file.map_err(fail)?,
        };
        if file.metadata().map_err(fail)?.len() < offset {
            return Err(ImageError::NotWhole);
        }
        // What was never acknowledged.
        file.set_len(offset).map_err(fail)?;
        if offset == 0 {
            // So that the name outlives a crash as the bytes do.
            let folder = folder.root().join(RESUMABLE);
            File::open(&folder).and_then(|folder| folder.sync_all()).map_err(fail)?;
        }
        let known = held(&folder.appends).digests.remove(id);
        let digests = match known {
            _ if offset == 0 => Some(Digests::of_nothing()),
            known => known.filter(|it| it.bytes == offset),
        };
        let before = digests.clone();
        let open = Open { file, end: offset, synced: offset, digests, going };
        Ok(Self {
            collected: Vec::new(),
            collected_bytes: 0,
            safe: offset,
            begin: offset,
            before,
            file: Hand::Here(Box::new(open)),
        })
    }

    pub(super) fn safe(&self) -> u64 {
        self.safe
    }

    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), ImageError> {
        self.collected_bytes += bytes.len();
        self.collected.push(bytes);
        if self.collected_bytes < STEP {
            return Ok(());
        }
        let open = self.hand().await?;
        let chunks = std::mem::take(&mut self.collected);
        self.collected_bytes = 0;
        let step = tokio::task::spawn_blocking(move || open.append(&chunks, false));
        self.file = Hand::Thread(step);
        Ok(())
    }

    pub(super) async fn secure(&mut self) -> Result<u64, ImageError> {
        let open = self.hand().await?;
        let chunks = std::mem::take(&mut self.collected);
        self.collected_bytes = 0;
        let open = super::blocking(move || open.append(&chunks, true)).await?;
        self.safe = open.synced;
        if let Some(digests) = &open.digests {
            let (id, digests) = (open.going.id.clone(), digests.clone());
            held(&open.going.folder.appends).digests.insert(id, digests);
        }
        self.file = Hand::Here(open);
        Ok(self.safe)
    }

    pub(super) async fn undo(mut self) -> Result<(), ImageError> {
        let (begin, before) = (self.begin, self.before.take());
        // What is behind the offset after a step that failed is cut off when it goes on.
        let Ok(open) = self.hand().await else { return Ok(()) };
        super::blocking(move || {
            let path = open.going.path();
            open.file.set_len(begin).map_err(|e| ImageError::io("shorten", &path, e))?;
            let mut appends = held(&open.going.folder.appends);
            match before {
                Some(before) => appends.digests.insert(open.going.id.clone(), before),
                None => appends.digests.remove(&open.going.id),
            };
            drop(appends);
            Ok(())
        })
        .await
    }

    /// The file, once the thread is done with it.
    async fn hand(&mut self) -> Result<Box<Open>, ImageError> {
        let open = match std::mem::replace(&mut self.file, Hand::Lost) {
            Hand::Here(open) => open,
            Hand::Thread(step) => super::joined(step.await)??,
            Hand::Lost => return Err(ImageError::NotWhole),
        };
        self.safe = open.synced;
        Ok(open)
    }
}

/// An upload of which every byte is on the disk.
#[derive(Debug)]
pub(super) struct Appended {
    going: Going,
    bytes: u64,
    sha256: String,
    sha512: String,
}

impl Appended {
    /// Blocks, and reads all of it if it did not come to this process alone.
    pub(super) fn gather(
        folder: &Arc<Folder>,
        id: &SessionId,
        bytes: u64,
    ) -> Result<Self, ImageError> {
        let going = Going::begin(folder, id)?;
        let path = going.path();
        let fail = |e| ImageError::io("read", &path, e);
        let file = match File::options().read(true).write(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(ImageError::NotWhole),
            file => file.map_err(fail)?,
        };
        if file.metadata().map_err(fail)?.len() < bytes {
            return Err(ImageError::NotWhole);
        }
        file.set_len(bytes).map_err(fail)?;
        file.sync_all().map_err(fail)?;
        let known = held(&folder.appends).digests.get(id).cloned();
        let digests = match known.filter(|known| known.bytes == bytes) {
            Some(known) => known,
            None => read(&file, bytes).map_err(fail)?,
        };
        Ok(Self {
            going,
            bytes,
            sha256: hex(digests.sha256.finish().as_ref()),
            sha512: hex(digests.sha512.finish().as_ref()),
        })
    }

    /// Blocks.
    pub(super) fn finish(self, expected_sha256: Option<&str>) -> Result<Finished, ImageError> {
        if let Some(expected) = expected_sha256
            && !expected.eq_ignore_ascii_case(&self.sha256)
        {
            let expected = expected.chars().take(64).collect();
            return Err(ImageError::Mismatch { expected, actual: self.sha256 });
        }
        let object = self.going.folder.publish_copy(&self.going.path(), &self.sha256)?;
        Ok(Finished { object, bytes: self.bytes, sha256: self.sha256, sha512: self.sha512 })
    }
}

fn read(file: &File, bytes: u64) -> io::Result<Digests> {
    let mut digests = Digests::of_nothing();
    let mut step = vec![0; 1024 * 1024];
    while digests.bytes < bytes {
        let left = bytes - digests.bytes;
        let length = usize::try_from(left).map_or(step.len(), |left| left.min(step.len()));
        file.read_exact_at(&mut step[..length], digests.bytes)?;
        digests.take(&step[..length]);
    }
    Ok(digests)
}

/// Blocks.
pub(super) fn discard(folder: &Arc<Folder>, id: &SessionId) -> Result<(), ImageError> {
    let going = Going::begin(folder, id)?;
    held(&folder.appends).digests.remove(id);
    remove(&going.path())
}

/// Blocks.
pub(super) fn sessions(folder: &Folder) -> Result<Vec<(SessionId, SystemTime)>, ImageError> {
    let mut found = Vec::new();
    for (name, meta) in files(&folder.root().join(RESUMABLE))? {
        // Somebody else's files are left alone.
        let Ok(id) = name.parse() else { continue };
        found.push((id, meta.modified().unwrap_or(SystemTime::now())));
    }
    Ok(found)
}
