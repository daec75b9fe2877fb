//! Deletes images that no template refers to any more, and what crashed uploads left.
//!
//! It runs where images come in: a folder has one writer, and for a bucket any replica will do.
//!
//! Only images that a row of ours once named are deleted. One that no row knows is told of and
//! left: the folder may have been given another database, or the bucket may be shared by two
//! installations.

use std::time::{Duration, SystemTime};

use schema::images::{ImageError, ImageStore, Stored};
use schema::{Conn, Db, DbError, image_use, upload};

/// Between two rounds.
const EVERY: Duration = Duration::from_mins(10);

/// An image is in the store a moment before its row is in the tables.
const YOUNG: Duration = Duration::from_hours(1);

/// An upload of a bucket may be another replica's, and take long.
const ABANDONED: Duration = Duration::from_hours(24);

#[derive(Debug, thiserror::Error)]
enum CollectError {
    #[error(transparent)]
    Database(#[from] DbError),
    #[error(transparent)]
    Images(#[from] ImageError),
}

/// Collects for as long as it is polled. Dropping it is safe.
pub(crate) async fn run(db: Db, images: ImageStore) {
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(error) = round(&db, &images, SystemTime::now()).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "Images are collected later");
        }
    }
}

async fn round(db: &Db, images: &ImageStore, now: SystemTime) -> Result<(), CollectError> {
    let unfinished = images.sweep_unfinished(ABANDONED).await?;
    // In this order: an image that comes in meanwhile is not in the list.
    let stored = images.list().await?;
    let tables = async |conn: &mut Conn| {
        Ok((upload::images_in_use(conn).await?, image_use::forgotten(conn).await?))
    };
    let (used, forgotten) = db.read(tables).await?;
    let (gone, strangers) = unused(stored, &used, &forgotten, now);
    let mut deleted = 0_usize;
    for image in gone {
        deleted += usize::from(images.delete_unchanged(&image).await?);
    }
    if !strangers.is_empty() {
        let (images, first) = (strangers.len(), strangers[0].name.as_str());
        tracing::info!(images, first, "Images that no row ever named are left alone");
    }
    if deleted + unfinished > 0 {
        tracing::info!(deleted, unfinished, "Deleted images that nobody needs");
    }
    Ok(())
}

/// The images that may go, and those that are not ours to delete. Pure.
fn unused(
    stored: Vec<Stored>,
    used: &[String],
    forgotten: &[String],
    now: SystemTime,
) -> (Vec<Stored>, Vec<Stored>) {
    let old = |image: &Stored| now.duration_since(image.modified).is_ok_and(|age| age >= YOUNG);
    let among = |names: &[String], image: &Stored| names.iter().any(|it| it == image.name.as_str());
    stored
        .into_iter()
        .filter(|image| old(image) && !among(used, image))
        .partition(|image| among(forgotten, image))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(digit: char, age: Duration, now: SystemTime) -> Stored {
        let name = format!("sha256/{}", digit.to_string().repeat(64));
        Stored { name: name.parse().unwrap(), bytes: 1, modified: now - age }
    }

    #[test]
    fn only_what_is_old_and_was_ours_and_is_unreferenced_goes() {
        let now = SystemTime::now();
        let hours = Duration::from_hours(2);
        let (kept, young, gone, strangers) = (
            image('a', hours, now),
            image('b', Duration::from_mins(5), now),
            image('c', hours, now),
            image('d', hours, now),
        );
        let used = [kept.name.as_str().to_owned()];
        let forgotten = [&kept, &young, &gone].map(|image| image.name.as_str().to_owned());

        let all = vec![kept, young, gone.clone(), strangers.clone()];
        let found = unused(all, &used, &forgotten, now);

        assert_eq!(found, (vec![gone], vec![strangers]));
    }

    #[tokio::test]
    async fn a_deleted_templates_image_goes() {
        let database = schema::testing::TestDatabase::sqlite("collector").await;
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().join("images").display());
        let images = ImageStore::open(&url).unwrap();
        let mut writer = images.create().await.unwrap();
        writer.write(bytes::Bytes::from_static(b"bytes")).await.unwrap();
        let stored = writer.finish(None).await.unwrap();
        let sql = format!(
            "INSERT INTO template_upload (template_id, cluster_id, storage_id, storage_name, \
             file_name, file_path) VALUES (1, 1, 1, 'local', 'x.qcow2', '{}')",
            stored.object
        );
        database.db.conn().await.unwrap().execute_sql(&sql).await.unwrap();
        let mut writer = images.create().await.unwrap();
        writer.write(bytes::Bytes::from_static(b"another's")).await.unwrap();
        let strangers = writer.finish(None).await.unwrap();
        let later = SystemTime::now() + Duration::from_hours(2);

        round(&database.db, &images, later).await.unwrap();
        assert!(images.stat(&stored.object).await.unwrap().is_some(), "a template has it");

        let buried = "UPDATE template_upload SET deleted_id = id";
        database.db.conn().await.unwrap().execute_sql(buried).await.unwrap();
        round(&database.db, &images, later).await.unwrap();
        assert_eq!(images.stat(&stored.object).await.unwrap(), None);
        assert!(
            images.stat(&strangers.object).await.unwrap().is_some(),
            "nobody knows whose it is"
        );
    }
}
