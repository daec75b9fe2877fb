//! Images in a folder of this machine.
//!
//! ```text
//! ROOT/.lock              held by the one process that writes
//! ROOT/unfinished/ID      uploads that are under way
//! ROOT/resumable/ID       uploads that come in several goes
//! ROOT/sha256/DIGEST      images; a rename brings them here whole
//! ```
//!
//! Plain files, and not `object_store`'s: so an upload's bytes are handed to the disk without a
//! copy, are on the disk (fsync) before the name appears, and the same content twice is one file.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures::stream::{self, Stream};

use super::append::{Appends, RESUMABLE};
use super::name::{BY_CONTENT, random_id};
use super::{ImageError, ObjectName, Stored};

const UNFINISHED: &str = "unfinished";

/// How much one step of a read brings, and so how much memory a reader costs.
const STEP: usize = 512 * 1024;

#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// Held until the last clone of the store is gone; `None` when only reading.
    lock: Option<File>,
    /// Names in `unfinished` that somebody writes right now.
    live: Mutex<HashSet<String>>,
    pub(super) appends: Mutex<Appends>,
    /// Taken to bring an image in and to take one out, so that [`delete_unchanged`] never removes
    /// what was brought in again after it was listed.
    ///
    /// [`delete_unchanged`]: Folder::delete_unchanged
    turn: Mutex<()>,
}

/// All methods block.
impl Folder {
    pub(super) fn open(root: PathBuf) -> Result<Self, ImageError> {
        for folder in [BY_CONTENT, UNFINISHED, RESUMABLE] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder)
                .map_err(|e| ImageError::io("make the folder", &folder, e))?;
        }
        let path = root.join(".lock");
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| ImageError::io("open", &path, e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ImageError::InUse { folder: root }),
            Err(TryLockError::Error(e)) => return Err(ImageError::io("lock", &path, e)),
        }
        let folder = Self { lock: Some(lock), ..Self::open_read_only(root) };
        folder.check()?;
        Ok(folder)
    }

    pub(super) fn open_read_only(root: PathBuf) -> Self {
        Self {
            root,
            lock: None,
            live: Mutex::default(),
            appends: Mutex::default(),
            turn: Mutex::default(),
        }
    }

    /// Writes and removes a small file; when only reading, looks whether the folder is there.
    pub(super) fn check(&self) -> Result<(), ImageError> {
        if self.lock.is_none() {
            let path = self.root.join(BY_CONTENT);
            return fs::read_dir(&path).map(drop).map_err(|e| ImageError::io("read", &path, e));
        }
        let path = self.root.join(UNFINISHED).join(format!("check-{}", random_id()));
        let written = fs::write(&path, b"written to see whether the folder takes files\n");
        let removed = fs::remove_file(&path);
        written.map_err(|e| ImageError::io("write", &path, e))?;
        removed.map_err(|e| ImageError::io("remove", &path, e))
    }

    pub(super) fn create(self: &Arc<Self>) -> Result<Unfinished, ImageError> {
        self.may_write()?;
        let name = random_id();
        let path = self.root.join(UNFINISHED).join(&name);
        held(&self.live).insert(name.clone());
        let mut unfinished = Unfinished { folder: Arc::clone(self), name, path, file: None };
        let file = File::create_new(&unfinished.path)
            .map_err(|e| ImageError::io("make the file", &unfinished.path, e))?;
        unfinished.file = Some(file);
        Ok(unfinished)
    }

    pub(super) fn stat(&self, object: &ObjectName) -> Result<Option<u64>, ImageError> {
        let path = self.path(object);
        match fs::metadata(&path) {
            Ok(meta) => Ok(Some(meta.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(ImageError::io("look at", &path, e)),
        }
    }

    pub(super) fn open_image(&self, object: &ObjectName) -> Result<(Arc<File>, u64), ImageError> {
        let path = self.path(object);
        let file = File::open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => ImageError::NotFound { object: object.clone() },
            _ => ImageError::io("open", &path, e),
        })?;
        let bytes = file.metadata().map_err(|e| ImageError::io("look at", &path, e))?.len();
        Ok((Arc::new(file), bytes))
    }

    pub(super) fn delete(&self, object: &ObjectName) -> Result<(), ImageError> {
        self.may_write()?;
        let _turn = held(&self.turn);
        remove(&self.path(object))
    }

    /// Deletes an image unless it was brought in again since it was listed.
    pub(super) fn delete_unchanged(&self, seen: &Stored) -> Result<bool, ImageError> {
        self.may_write()?;
        let path = self.path(&seen.name);
        let _turn = held(&self.turn);
        match fs::metadata(&path).and_then(|meta| meta.modified()) {
            Ok(modified) if modified == seen.modified => remove(&path).map(|()| true),
            Ok(_) => Ok(false),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(e) => Err(ImageError::io("look at", &path, e)),
        }
    }

    pub(super) fn list(&self) -> Result<Vec<Stored>, ImageError> {
        let mut images = Vec::new();
        for (name, meta) in files(&self.root.join(BY_CONTENT))? {
            // Somebody else's files stay out of the list, and so are never collected.
            let Ok(name) = ObjectName::of_content(&name) else { continue };
            let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            images.push(Stored { name, bytes: meta.len(), modified });
        }
        Ok(images)
    }

    /// Removes uploads that nobody writes and that were last written longer than `age` ago.
    pub(super) fn sweep_unfinished(&self, age: Duration) -> Result<usize, ImageError> {
        self.may_write()?;
        let folder = self.root.join(UNFINISHED);
        let mut removed = 0;
        for (name, meta) in files(&folder)? {
            let old =
                meta.modified().is_ok_and(|at| at.elapsed().is_ok_and(|elapsed| elapsed >= age));
            if old && !held(&self.live).contains(&name) {
                remove(&folder.join(name))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Makes a file of ours visible under its digest. It keeps its own name too, so that this can be
    /// done again; where the file system has no hard links that takes a copy.
    pub(super) fn publish_copy(&self, path: &Path, sha256: &str) -> Result<ObjectName, ImageError> {
        let object = ObjectName::of_content(sha256)?;
        let target = self.path(&object);
        let fail = |e| ImageError::io("rename to", &target, e);
        let copy = self.root.join(UNFINISHED).join(random_id());
        let _turn = held(&self.turn);
        // Today's time tells the collector that somebody wants this content.
        File::open(path).and_then(|file| file.set_modified(SystemTime::now())).map_err(fail)?;
        match fs::hard_link(path, &copy) {
            Ok(()) => {
                fs::rename(&copy, &target).map_err(fail)?;
                // It stays where it is if both names are of this very file already.
                remove(&copy)?;
            }
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
                ) =>
            {
                fs::copy(path, &copy).and_then(|_| File::open(&copy)?.sync_all()).map_err(fail)?;
                fs::rename(&copy, &target).map_err(fail)?;
            }
            Err(e) => return Err(fail(e)),
        }
        let folder = self.root.join(BY_CONTENT);
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(fail)?;
        Ok(object)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn may_write(&self) -> Result<(), ImageError> {
        if self.lock.is_some() { Ok(()) } else { Err(ImageError::ReadOnly) }
    }

    fn path(&self, object: &ObjectName) -> PathBuf {
        self.root.join(object.as_str())
    }
}

pub(super) fn remove(path: &Path) -> Result<(), ImageError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(ImageError::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// The regular files of a folder. One that vanishes meanwhile is left out.
pub(super) fn files(folder: &Path) -> Result<Vec<(String, fs::Metadata)>, ImageError> {
    let fail = |e| ImageError::io("list", folder, e);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let meta = match entry.metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            meta => meta.map_err(fail)?,
        };
        if let (true, Ok(name)) = (meta.is_file(), entry.file_name().into_string()) {
            files.push((name, meta));
        }
    }
    Ok(files)
}

/// The bytes of `range`, a step at a time and never more than a step ahead of the reader.
pub(super) fn read(
    file: Arc<File>,
    object: ObjectName,
    range: Range<u64>,
) -> impl Stream<Item = Result<Bytes, ImageError>> + Send + 'static {
    stream::try_unfold(range, move |rest| {
        let (file, object) = (Arc::clone(&file), object.clone());
        async move {
            if rest.is_empty() {
                return Ok(None);
            }
            let step = usize::try_from(rest.end - rest.start).map_or(STEP, |left| left.min(STEP));
            let read = super::blocking(move || {
                let mut bytes = BytesMut::zeroed(step);
                file.read_exact_at(&mut bytes, rest.start)
                    .map_err(|e| ImageError::io("read", Path::new(object.as_str()), e))?;
                Ok(bytes.freeze())
            });
            Ok(Some((read.await?, rest.start + step as u64..rest.end)))
        }
    })
}

/// A file that is being written. Dropped, it is gone.
#[derive(Debug)]
pub(super) struct Unfinished {
    folder: Arc<Folder>,
    name: String,
    path: PathBuf,
    /// Taken out once the file is published; empty too if it was never made.
    file: Option<File>,
}

/// All methods block.
impl Unfinished {
    #[cfg(test)]
    pub(super) fn written_to(mut self, device: File) -> Self {
        self.file = Some(device);
        self
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        use io::Write as _;
        let Some(file) = &mut self.file else { return Err(ImageError::NotWhole) };
        file.write_all(bytes).map_err(|e| ImageError::io("write", &self.path, e))
    }

    /// Waits until the disk has all of it.
    pub(super) fn sync(&mut self) -> Result<(), ImageError> {
        let Some(file) = &mut self.file else { return Err(ImageError::NotWhole) };
        file.sync_all().map_err(|e| ImageError::io("write", &self.path, e))
    }

    /// Makes the file visible under its digest, in place of an older one of the same content.
    pub(super) fn publish(mut self, sha256: &str) -> Result<ObjectName, ImageError> {
        let object = ObjectName::of_content(sha256)?;
        let target = self.folder.path(&object);
        let _turn = held(&self.folder.turn);
        // Readers of the older file keep it until they are done. The new one's time is today's,
        // which tells the collector that somebody wants this content again.
        fs::rename(&self.path, &target).map_err(|e| ImageError::io("rename to", &target, e))?;
        self.file = None;
        let folder = self.folder.root.join(BY_CONTENT);
        File::open(&folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|e| ImageError::io("write", &folder, e))?;
        Ok(object)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.file.take().is_some()
            && let Err(error) = fs::remove_file(&self.path)
        {
            // The sweep tries again.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "An unfinished upload stays as {}",
                self.path.display()
            );
        }
        held(&self.folder.live).remove(&self.name);
    }
}

/// What these locks guard is whole between any two statements, so a panic elsewhere spoils nothing.
pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
