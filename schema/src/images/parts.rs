//! One upload on its way into a bucket, in parts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::multipart::{MultipartStore as _, PartId};
use object_store::{MultipartId, ObjectStoreExt as _, PutPayload};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::bucket::Bucket;
use super::{ImageError, ObjectName};

/// All parts but the last have this size, as some servers want it. One is on its way while the
/// next is collected, so an upload costs twice as much memory.
pub(super) const PART: usize = 16 * 1024 * 1024;

/// S3's own limit.
const MOST_PARTS: usize = 10_000;

/// How often a long upload says that it is alive, for the sweep.
const MARK_EVERY: Duration = Duration::from_mins(10);

/// Dropped, the upload is ended as soon as the bucket answers.
#[derive(Debug)]
pub(super) struct Parts {
    bucket: Arc<Bucket>,
    id: String,
    name: ObjectName,
    /// `None` once it is finished or ended.
    upload: Option<MultipartId>,
    collected: Vec<Bytes>,
    collected_bytes: usize,
    /// At most one.
    on_its_way: JoinSet<object_store::Result<PartId>>,
    started: usize,
    done: Vec<PartId>,
    marked: Instant,
}

impl Parts {
    pub(super) fn new(
        bucket: Arc<Bucket>,
        id: String,
        name: ObjectName,
        upload: MultipartId,
    ) -> Self {
        Self {
            bucket,
            id,
            name,
            upload: Some(upload),
            collected: Vec::new(),
            collected_bytes: 0,
            on_its_way: JoinSet::new(),
            started: 0,
            done: Vec::new(),
            marked: Instant::now(),
        }
    }

    /// Notes in the bucket that this upload is alive, and how to end it.
    pub(super) async fn mark(&mut self) -> Result<(), ImageError> {
        let Some(upload) = &self.upload else { return Err(ImageError::NotWhole) };
        let marker = self.bucket.marker(&self.id);
        let noted = self.bucket.s3.put(&marker, upload.clone().into()).await;
        noted.map_err(|error| self.bucket.error("start an upload in", &error))?;
        self.marked = Instant::now();
        Ok(())
    }

    pub(super) async fn take(&mut self, mut bytes: Bytes) -> Result<(), ImageError> {
        while !bytes.is_empty() {
            let now = bytes.split_to(bytes.len().min(PART - self.collected_bytes));
            self.collected_bytes += now.len();
            self.collected.push(now);
            if self.collected_bytes == PART {
                self.send().await?;
            }
        }
        Ok(())
    }

    /// Waits until the bucket has all parts. Nothing is visible yet.
    pub(super) async fn seal(&mut self) -> Result<(), ImageError> {
        // An object of no bytes has one part, of no bytes.
        if self.collected_bytes > 0 || self.started == 0 {
            self.send().await?;
        }
        self.wait().await
    }

    /// Makes the object visible.
    pub(super) async fn publish(mut self) -> Result<ObjectName, ImageError> {
        let Some(upload) = self.upload.clone() else { return Err(ImageError::NotWhole) };
        let (key, done) = (self.bucket.key(&self.name), std::mem::take(&mut self.done));
        let completed = self.bucket.s3.complete_multipart(&key, &upload, done).await;
        if let Err(error) = completed {
            // Perhaps only the answer was lost, and it was asked again for what is done.
            if !matches!(self.bucket.stat(&self.name).await, Ok(Some(_))) {
                return Err(self.bucket.error("finish an upload in", &error));
            }
        }
        self.upload = None;
        if let Err(error) = self.bucket.remove(&self.bucket.marker(&self.id)).await {
            // The sweep tries again; the image stays.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "A note of a finished upload stays"
            );
        }
        Ok(self.name.clone())
    }

    /// Waits until the bucket has thrown all parts away, or says that it stays.
    pub(super) async fn abort(mut self) {
        self.on_its_way.shutdown().await;
        if let Some(upload) = self.upload.take() {
            farewell(&self.bucket, &self.name, &self.id, upload).await;
        }
    }

    async fn send(&mut self) -> Result<(), ImageError> {
        let Some(upload) = self.upload.clone() else { return Err(ImageError::NotWhole) };
        if self.started == MOST_PARTS {
            return Err(ImageError::TooLarge { most: (PART * MOST_PARTS) as u64 });
        }
        self.wait().await?;
        if self.marked.elapsed() >= MARK_EVERY {
            self.mark().await?;
        }
        let part: PutPayload = std::mem::take(&mut self.collected).into_iter().collect();
        self.collected_bytes = 0;
        let (bucket, key, number) =
            (Arc::clone(&self.bucket), self.bucket.key(&self.name), self.started);
        self.started += 1;
        self.on_its_way.spawn(async move { bucket.s3.put_part(&key, &upload, number, part).await });
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), ImageError> {
        while let Some(part) = self.on_its_way.join_next().await {
            let part = super::joined(part)?;
            self.done.push(part.map_err(|error| self.bucket.error("upload to", &error))?);
        }
        Ok(())
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.bucket.forget(&self.id);
        let (Some(upload), Ok(runtime)) = (self.upload.take(), Handle::try_current()) else {
            return; // without a runtime the sweep does it
        };
        let mut on_its_way = std::mem::take(&mut self.on_its_way);
        let (bucket, name, id) = (Arc::clone(&self.bucket), self.name.clone(), self.id.clone());
        let ending = async move {
            on_its_way.shutdown().await;
            farewell(&bucket, &name, &id, upload).await;
        };
        drop(self.bucket.farewells.spawn_on(ending, &runtime));
    }
}

async fn farewell(bucket: &Bucket, name: &ObjectName, id: &str, upload: MultipartId) {
    if let Err(error) = bucket.end(name, id, upload).await {
        // The sweep tries again.
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "The parts of an upload that was given up stay"
        );
    }
}
