//! What tests of the store share: bytes, uploads, and what is left on the disk.

use std::path::Path;

use bytes::Bytes;
use futures::TryStreamExt as _;
use schema::images::{Finished, ImageError, ImageStore, ImageWriter, ObjectName};

/// Bytes that no two offsets share for long, so that a chunk out of place is seen.
pub(crate) fn noise(bytes: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(bytes)
    .collect()
}

pub(crate) async fn upload(store: &ImageStore, bytes: &Bytes) -> Finished {
    started(store, bytes).await.finish(None).await.unwrap()
}

/// An upload that has taken all its bytes, in chunks of an odd size.
pub(crate) async fn started(store: &ImageStore, bytes: &Bytes) -> ImageWriter {
    let mut writer = store.create().await.unwrap();
    for start in (0..bytes.len()).step_by(100_003) {
        let end = bytes.len().min(start + 100_003);
        writer.write(bytes.slice(start..end)).await.unwrap();
    }
    writer
}

pub(crate) async fn read(
    store: &ImageStore,
    object: &ObjectName,
    range: std::ops::Range<u64>,
) -> Result<Bytes, ImageError> {
    let chunks: Vec<Bytes> = store.read(object, range).await?.try_collect().await?;
    Ok(chunks.concat().into())
}

/// The files below a folder, without the lock.
pub(crate) fn files_in(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            names.extend(files_in(&entry.path()).iter().map(|below| format!("{name}/{below}")));
        } else if name != ".lock" {
            names.push(name);
        }
    }
    names.sort();
    names
}
