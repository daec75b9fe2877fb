//! Images in a bucket: against an S3 server of its own in each test.

use std::time::Duration;

use bytes::Bytes;
use schema::image_format::{Format, inspect};
use schema::images::{ImageError, ImageStore, ObjectName};

use crate::server::{KEY, SECRET, Server};
use crate::stores::{files_in, noise, read, started, upload};

impl Server {
    pub(crate) fn store(&self) -> ImageStore {
        open(&self.url(), SECRET)
    }

    /// What the server keeps in the bucket, and parts of unfinished uploads beside it.
    fn objects(&self) -> Vec<String> {
        let mut names = files_in(self.root());
        // The server's own notes about objects.
        names.retain(|name| !name.contains(".json"));
        names
    }

    pub(crate) async fn eventually_empty(&self) {
        let emptied = async {
            while !self.objects().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let emptied = tokio::time::timeout(Duration::from_secs(30), emptied).await;
        emptied.unwrap_or_else(|_| panic!("leftovers: {:?}", self.objects()));
    }
}

fn open(url: &str, secret: &str) -> ImageStore {
    let env = |name: &str| match name {
        "AWS_ACCESS_KEY_ID" => Some(KEY.to_owned()),
        "AWS_SECRET_ACCESS_KEY" => Some(secret.to_owned()),
        _ => None,
    };
    ImageStore::open_with(url, env).unwrap()
}

/// More than one part of 16 MiB.
const LARGE: usize = 17 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_of_several_parts_is_read_back_whole_and_in_part() {
    let server = Server::start().await;
    let store = server.store();
    let bytes = noise(LARGE);

    let finished = upload(&store, &bytes).await;

    let object = &finished.object;
    assert_eq!(finished.bytes, LARGE as u64);
    assert_eq!(store.stat(object).await.unwrap(), Some(LARGE as u64));
    assert!(read(&store, object, 0..LARGE as u64).await.unwrap() == bytes);
    let part = read(&store, object, 16_777_000..16_778_000).await.unwrap();
    assert!(part == bytes.slice(16_777_000..16_778_000));
    assert_eq!(server.objects(), [format!("images/lab/pve/{object}")]);
}

#[tokio::test]
async fn the_digests_are_those_of_the_bytes() {
    let server = Server::start().await;

    let finished = upload(&server.store(), &Bytes::from_static(b"abc")).await;

    // FIPS 180-2, appendix B.1.
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(finished.sha256, sha256);
    assert_eq!(finished.object.sha256(), None);
}

#[tokio::test]
async fn a_signed_url_serves_ranges_to_a_plain_client_and_nobody_else() {
    let server = Server::start().await;
    let store = server.store();
    let object = upload(&store, &noise(1000)).await.object;

    let url = store.signed_url(&object, Duration::from_hours(24 * 30)).await.unwrap().unwrap();
    let client = reqwest::Client::new();
    let ranged = client.get(url.clone()).header("range", "bytes=100-299").send().await.unwrap();
    let mut unsigned = url;
    unsigned.set_query(None);
    let refused = client.get(unsigned).send().await.unwrap();

    assert_eq!(ranged.status(), 206);
    assert_eq!(ranged.bytes().await.unwrap(), noise(1000).slice(100..300));
    assert_eq!(refused.status(), 403);
}

#[tokio::test]
async fn nothing_is_visible_before_the_end() {
    let server = Server::start().await;
    let store = server.store();

    let writer = started(&store, &noise(300_000)).await;
    let listed = store.list().await.unwrap();
    let finished = writer.finish(None).await.unwrap();

    assert_eq!(listed, []);
    let listed = store.list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].name, listed[0].bytes), (&finished.object, 300_000));
}

#[tokio::test]
async fn an_aborted_upload_leaves_nothing() {
    let server = Server::start().await;
    let store = server.store();

    let writer = started(&store, &noise(300_000)).await;
    let meanwhile = server.objects();
    writer.abort().await;

    assert!(!meanwhile.is_empty());
    assert!(server.objects().is_empty(), "{:?}", server.objects());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_upload_takes_its_parts_with_it() {
    let server = Server::start().await;

    drop(started(&server.store(), &noise(LARGE)).await);

    server.eventually_empty().await;
}

#[tokio::test]
async fn bytes_other_than_promised_never_become_visible() {
    let server = Server::start().await;
    let writer = started(&server.store(), &noise(5_000)).await;

    let error = writer.finish(Some(&"0".repeat(64))).await.unwrap_err();

    assert!(matches!(&error, ImageError::Mismatch { .. }), "{error:?}");
    assert!(server.objects().is_empty(), "{:?}", server.objects());
}

#[tokio::test]
async fn an_image_of_no_bytes_can_be_kept() {
    let server = Server::start().await;
    let store = server.store();

    let finished = upload(&store, &Bytes::new()).await;

    assert_eq!(store.stat(&finished.object).await.unwrap(), Some(0));
    assert_eq!(read(&store, &finished.object, 0..0).await.unwrap(), Bytes::new());
}

#[tokio::test]
async fn ranges_beyond_the_end_and_absent_images_are_told_apart() {
    let server = Server::start().await;
    let store = server.store();
    let object = upload(&store, &noise(100)).await.object;
    let absent: ObjectName = format!("uploads/{}", "a".repeat(32)).parse().unwrap();

    for range in [0..101, 200..300, 101..101] {
        let error = read(&store, &object, range).await.unwrap_err();
        assert!(matches!(error, ImageError::Range { bytes: 100, .. }), "{error:?}");
    }
    for range in [0..1, 0..0] {
        let error = read(&store, &absent, range).await.unwrap_err();
        assert!(matches!(error, ImageError::NotFound { .. }), "{error:?}");
    }
    assert_eq!(store.stat(&absent).await.unwrap(), None);
    store.delete(&absent).await.unwrap();
}

#[tokio::test]
async fn what_is_deleted_or_collected_is_gone() {
    let server = Server::start().await;
    let store = server.store();
    let first = upload(&store, &noise(10)).await.object;
    let second = upload(&store, &noise(10)).await.object;

    store.delete(&first).await.unwrap();
    let left = store.list().await.unwrap();
    let collected = store.delete_unchanged(&left[0]).await.unwrap();

    assert_ne!(first, second);
    assert_eq!(left[0].name, second);
    assert!(collected && server.objects().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sweep_ends_uploads_of_processes_that_died() {
    let server = Server::start().await;
    let store = server.store();
    let url = server.url();
    // Without a runtime to say farewell in, dropping it is what a crash is.
    let crashed = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let writer = runtime.block_on(async { started(&open(&url, SECRET), &noise(LARGE)).await });
        runtime.shutdown_background();
        drop(writer);
    });
    tokio::task::spawn_blocking(|| crashed.join().unwrap()).await.unwrap();

    let alive = started(&store, &noise(1_000)).await;
    let too_young = store.sweep_unfinished(Duration::from_hours(1)).await.unwrap();
    let ended = store.sweep_unfinished(Duration::ZERO).await.unwrap();
    let finished = alive.finish(None).await.unwrap();

    assert_eq!((too_young, ended), (0, 1));
    assert_eq!(server.objects(), [format!("images/lab/pve/{}", finished.object)]);
}

#[tokio::test]
async fn an_image_in_a_bucket_is_looked_at_where_it_is() {
    let server = Server::start().await;
    let store = server.store();
    let object = upload(&store, &noise(1024)).await.object;

    let image = inspect(&store, &object, "disk.raw").await.unwrap();

    assert_eq!((image.format, image.virtual_size), (Format::Raw, 1024));
}

#[tokio::test]
async fn a_bucket_that_takes_objects_is_ready() {
    let server = Server::start().await;

    server.store().check().await.unwrap();
    let listed = server.store().list().await.unwrap();

    assert_eq!(listed, []);
    assert_eq!(server.objects(), ["images/lab/pve/check"]);
}

#[tokio::test]
async fn wrong_credentials_are_said_and_not_repeated() {
    let server = Server::start().await;
    let store = open(&server.url(), "another-secret");

    for error in [store.check().await.unwrap_err(), store.create().await.unwrap_err()] {
        let said = format!("{error:?} {error}");
        assert!(matches!(error, ImageError::Denied { .. }), "{said}");
        assert!(said.contains("credentials") && said.contains("s3://images/lab/pve"), "{said}");
        assert!(!said.contains("another-secret"), "{said}");
    }
}

#[tokio::test]
async fn a_missing_bucket_is_said_by_name() {
    let server = Server::start().await;
    let store = open(&server.url().replace("images", "imagse"), SECRET);

    let error = store.list().await.unwrap_err();

    assert!(error.to_string().contains("s3://imagse/lab/pve"), "{error}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("NoSuchBucket"), "{cause}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_gone_is_not_available() {
    let url = "s3://images/lab/pve?endpoint=http://127.0.0.1:1&region=lab";

    let error = open(url, SECRET).check().await.unwrap_err();

    assert!(matches!(error, ImageError::Unavailable { .. }), "{error:?}");
}
