//! One upload in a bucket: an object for each piece, `PREFIX/resumable/ID/OFFSET-EPOCH`.
//!
//! Of two pieces at one offset that of the later epoch counts: the earlier one was never
//! acknowledged, or nobody would have begun there again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt as _, PutPayload};
use tokio::task::JoinSet;

use super::bucket::Bucket;
use super::resumable::{From, SessionId};
use super::sink::Sink;
use super::{ImageError, ImageWriter};

pub(super) const RESUMABLE: &str = "resumable";

/// One is on its way while the next is collected.
const PIECE: usize = 16 * 1024 * 1024;

/// How many objects are deleted at once.
const AT_ONCE: usize = 8;

#[derive(Debug)]
pub(super) struct Pieces {
    bucket: Arc<Bucket>,
    id: SessionId,
    epoch: i64,
    collected: Vec<Bytes>,
    collected_bytes: usize,
    /// Where the piece begins that is being collected.
    offset: u64,
    safe: u64,
    /// At most one.
    on_its_way: JoinSet<object_store::Result<()>>,
    put: Vec<Path>,
    /// Whether a piece was lost, so that there can be none behind it.
    broken: bool,
}

impl Pieces {
    pub(super) fn begin(
        bucket: &Arc<Bucket>,
        id: &SessionId,
        from: From,
    ) -> Result<Self, ImageError> {
        bucket.may_write()?;
        Ok(Self {
            bucket: Arc::clone(bucket),
            id: id.clone(),
            epoch: from.epoch,
            collected: Vec::new(),
            collected_bytes: 0,
            offset: from.offset,
            safe: from.offset,
            on_its_way: JoinSet::new(),
            put: Vec::new(),
            broken: false,
        })
    }

    pub(super) fn safe(&self) -> u64 {
        self.safe
    }

    pub(super) async fn write(&mut self, mut bytes: Bytes) -> Result<(), ImageError> {
        while !bytes.is_empty() {
            let now = bytes.split_to(bytes.len().min(PIECE - self.collected_bytes));
            self.collected_bytes += now.len();
            self.collected.push(now);
            if self.collected_bytes == PIECE {
                self.send().await?;
            }
        }
        Ok(())
    }

    pub(super) async fn secure(&mut self) -> Result<u64, ImageError> {
        if self.collected_bytes > 0 {
            self.send().await?;
        }
        self.wait().await?;
        Ok(self.safe)
    }

    pub(super) async fn undo(mut self) -> Result<(), ImageError> {
        self.on_its_way.shutdown().await;
        remove(&self.bucket, std::mem::take(&mut self.put)).await
    }

    async fn send(&mut self) -> Result<(), ImageError> {
        self.wait().await?;
        let piece: PutPayload = std::mem::take(&mut self.collected).into_iter().collect();
        let name = format!("{:016x}-{:016x}", self.offset, self.epoch);
        let (bucket, key) = (Arc::clone(&self.bucket), folder(&self.bucket, &self.id).join(name));
        self.offset += self.collected_bytes as u64;
        self.collected_bytes = 0;
        self.put.push(key.clone());
        self.on_its_way.spawn(async move { bucket.s3.put(&key, piece).await.map(drop) });
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), ImageError> {
        while let Some(put) = self.on_its_way.join_next().await {
            if let Err(error) = super::joined(put)? {
                self.broken = true;
                return Err(self.bucket.error("upload to", &error));
            }
            self.safe = self.offset;
        }
        if self.broken { Err(ImageError::NotWhole) } else { Ok(()) }
    }
}

/// Writes all pieces into one object, which is not visible before it is finished.
///
/// Its name is the upload's, so that doing this twice leaves one object.
pub(super) async fn gather(
    bucket: &Arc<Bucket>,
    id: &SessionId,
    bytes: u64,
) -> Result<ImageWriter, ImageError> {
    let pieces = chain(&objects(bucket, Some(id)).await?, bytes).ok_or(ImageError::NotWhole)?;
    let parts = bucket.create_as(id.as_str().to_owned()).await?;
    let mut writer = ImageWriter::new(Sink::Parts(Box::new(parts)));
    for piece in pieces {
        let fail = |error| bucket.error("read", &error);
        let mut chunks = bucket.s3.get(&piece).await.map_err(fail)?.into_stream();
        while let Some(chunk) = chunks.try_next().await.map_err(fail)? {
            writer.write(chunk).await?;
        }
    }
    if writer.bytes() == bytes {
        return Ok(writer);
    }
    writer.abort().await;
    Err(ImageError::NotWhole)
}

/// The pieces that make up the first `bytes`, if they are all there. Pure.
fn chain(objects: &[ObjectMeta], bytes: u64) -> Option<Vec<Path>> {
    let mut at: BTreeMap<u64, (u64, &ObjectMeta)> = BTreeMap::new();
    for object in objects {
        let Some((offset, epoch)) = object.location.filename().and_then(place) else { continue };
        let there = at.entry(offset).or_insert((epoch, object));
        if there.0 < epoch {
            *there = (epoch, object);
        }
    }
    let (mut pieces, mut end) = (Vec::new(), 0);
    while end < bytes {
        let (_, object) = at.get(&end).filter(|(_, object)| object.size > 0)?;
        pieces.push(object.location.clone());
        end += object.size;
    }
    (end == bytes).then_some(pieces)
}

/// Offset and epoch of a piece's name.
fn place(name: &str) -> Option<(u64, u64)> {
    let (offset, epoch) = name.split_once('-')?;
    Some((u64::from_str_radix(offset, 16).ok()?, u64::from_str_radix(epoch, 16).ok()?))
}

pub(super) async fn discard(bucket: &Arc<Bucket>, id: &SessionId) -> Result<(), ImageError> {
    bucket.may_write()?;
    let objects = objects(bucket, Some(id)).await?;
    remove(bucket, objects.into_iter().map(|object| object.location).collect()).await
}

pub(super) async fn sessions(bucket: &Bucket) -> Result<Vec<(SessionId, SystemTime)>, ImageError> {
    let mut last: HashMap<SessionId, SystemTime> = HashMap::new();
    for object in objects(bucket, None).await? {
        let mut names: Vec<_> = object.location.parts().collect();
        names.pop();
        // Somebody else's objects are left alone.
        let Some(Ok(id)) = names.pop().map(|name| name.as_ref().parse()) else { continue };
        let at = SystemTime::from(object.last_modified);
        last.entry(id).and_modify(|last| *last = at.max(*last)).or_insert(at);
    }
    Ok(last.into_iter().collect())
}

async fn remove(bucket: &Bucket, keys: Vec<Path>) -> Result<(), ImageError> {
    stream::iter(keys)
        .map(|key| async move { bucket.remove(&key).await })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

fn folder(bucket: &Bucket, id: &SessionId) -> Path {
    bucket.folder(RESUMABLE).join(id.as_str())
}

/// The pieces of one upload, or of all.
async fn objects(bucket: &Bucket, id: Option<&SessionId>) -> Result<Vec<ObjectMeta>, ImageError> {
    let below = id.map_or_else(|| bucket.folder(RESUMABLE), |id| folder(bucket, id));
    bucket.objects(&below).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, size: u64) -> ObjectMeta {
        let location = Path::from(format!("resumable/x/{name}"));
        let last_modified = chrono::Utc::now();
        ObjectMeta { location, last_modified, size, e_tag: None, version: None }
    }

    fn found(objects: &[(&str, u64)], bytes: u64) -> Option<Vec<String>> {
        let objects: Vec<_> = objects.iter().map(|(name, size)| object(name, *size)).collect();
        let name = |path: Path| path.filename().unwrap().to_owned();
        chain(&objects, bytes).map(|pieces| pieces.into_iter().map(name).collect())
    }

    #[test]
    fn pieces_are_taken_in_order_and_later_epochs_count() {
        // Epoch 1 stored 4 bytes, and 3 more that were never acknowledged; 2 began at 4 again.
        let objects = [("4-1", 3), ("0-1", 4), ("4-2", 2), ("6-2", 2), ("7-1", 9), ("odd", 1)];

        assert_eq!(found(&objects, 8).unwrap(), ["0-1", "4-2", "6-2"]);
    }

    #[test]
    fn what_is_missing_or_too_much_is_not_whole() {
        assert_eq!(found(&[("0-1", 4), ("5-1", 3)], 8), None);
        assert_eq!(found(&[("0-1", 4)], 3), None);
        assert_eq!(found(&[("0-1", 4), ("4-1", 0)], 8), None);
        assert_eq!(found(&[], 1), None);
    }
}
