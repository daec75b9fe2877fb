//! Makes room in the image store: what crashed uploads left, and the images of deleted templates.
//!
//! Only images that a row of ours once named are deleted. One that no row knows is told of and
//! left: it may belong to another installation that shares the bucket.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use schema::images::{ImageError, ImageStore};
use schema::{Conn, Db, image_use, upload};

use crate::error::ApiError;
use crate::read::read;

/// Looks once in a while, for ever. Drop it whenever you like.
pub async fn run(db: Db, store: ImageStore) {
    loop {
        match collect(&db, &store, SETTLED).await {
            Ok(0) => {}
            Ok(images) => tracing::info!(images, "Images of deleted templates were removed"),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "Images of deleted templates could not be removed");
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

const PERIOD: Duration = Duration::from_mins(10);

/// An image is in the store a while before its row is in the tables.
const SETTLED: Duration = Duration::from_hours(1);

/// Nobody sends for that long.
const UNFINISHED: Duration = Duration::from_hours(48);

/// Why nothing was collected; it is tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    #[error("ask the tables which images are in use")]
    Tables(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Store(#[from] ImageError),
}

/// Deletes once what can go and is older than `settled`, and says how many images did.
///
/// # Errors
///
/// [`CollectError`]; what was not deleted is left for the next time.
pub async fn collect(
    db: &Db,
    store: &ImageStore,
    settled: Duration,
) -> Result<usize, CollectError> {
    store.sweep_unfinished(UNFINISHED).await?;
    let stored = store.list().await?;
    let tables = read(db, async |conn: &mut Conn| {
        Ok((image_use::forgotten(conn).await?, upload::images_in_use(conn).await?))
    });
    let (forgotten, used) =
        tables.await.map_err(|error: ApiError| CollectError::Tables(error.into()))?;
    let (forgotten, used): (HashSet<_>, HashSet<_>) =
        (forgotten.into_iter().collect(), used.into_iter().collect());
    let before = SystemTime::now().checked_sub(settled);
    let (mut deleted, mut unknown) = (0, 0);
    for image in stored {
        let name = image.name.as_str();
        if used.contains(name) || before.is_none_or(|before| image.modified > before) {
            continue;
        }
        if !forgotten.contains(name) {
            unknown += 1;
        } else if store.delete_unchanged(&image).await? {
            deleted += 1;
        }
    }
    if unknown > 0 {
        tracing::info!(unknown, "Images in the store that no row knows are left alone");
    }
    Ok(deleted)
}
