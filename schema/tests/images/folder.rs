//! Images in a folder.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::FutureExt as _;
use schema::images::{ImageError, ImageStore, ObjectName};
use tempfile::TempDir;

use crate::stores::{files_in, noise, read, started, upload};

fn url(folder: &Path) -> String {
    format!("file://{}", folder.display())
}

fn fresh() -> (TempDir, ImageStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = ImageStore::open(&url(folder.path())).unwrap();
    (folder, store)
}

async fn eventually_empty(folder: &Path) {
    let emptied = async {
        while !files_in(folder).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), emptied).await.expect("leftovers");
}

#[tokio::test]
async fn what_was_written_is_read_back_whole_and_in_part() {
    let (_folder, store) = fresh();
    let bytes = noise(3_000_000);

    let finished = upload(&store, &bytes).await;

    assert_eq!(finished.bytes, 3_000_000);
    assert_eq!(store.stat(&finished.object).await.unwrap(), Some(3_000_000));
    assert_eq!(read(&store, &finished.object, 0..3_000_000).await.unwrap(), bytes);
    let part = read(&store, &finished.object, 524_287..1_600_001).await.unwrap();
    assert_eq!(part, bytes.slice(524_287..1_600_001));
    assert_eq!(read(&store, &finished.object, 7..7).await.unwrap(), Bytes::new());
    assert_eq!(store.signed_url(&finished.object, Duration::from_mins(1)).await.unwrap(), None);
}

#[tokio::test]
async fn the_digests_are_those_of_the_bytes() {
    let (_folder, store) = fresh();

    let finished = upload(&store, &Bytes::from_static(b"abc")).await;

    // FIPS 180-2, appendices B.1 and C.1.
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(finished.sha256, sha256);
    assert_eq!(finished.object.sha256(), Some(sha256));
    assert_eq!(
        finished.sha512,
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
         2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
    );
}

#[tokio::test]
async fn nothing_is_visible_before_the_end() {
    let (folder, store) = fresh();

    let writer = started(&store, &noise(300_000)).await;
    let listed = store.list().await.unwrap();
    let finished = writer.finish(None).await.unwrap();

    assert_eq!(listed, []);
    assert_eq!(store.list().await.unwrap().len(), 1);
    assert_eq!(files_in(folder.path()), [finished.object.as_str()]);
}

#[tokio::test]
async fn the_same_content_twice_is_one_image() {
    let (folder, store) = fresh();
    let bytes = noise(10_000);

    let first = upload(&store, &bytes).await;
    let second = upload(&store, &bytes).await;

    assert_eq!(first, second);
    assert_eq!(files_in(folder.path()), [first.object.as_str()]);
}

#[tokio::test]
async fn what_is_dropped_or_aborted_leaves_nothing() {
    let (folder, store) = fresh();

    started(&store, &noise(300_000)).await.abort().await;
    let after_abort = files_in(folder.path());
    drop(started(&store, &noise(300_000)).await);

    assert!(after_abort.is_empty(), "{after_abort:?}");
    eventually_empty(folder.path()).await;
}

#[tokio::test]
async fn what_was_dropped_within_a_write_can_not_be_finished() {
    let (folder, store) = fresh();
    let mut writer = store.create().await.unwrap();

    // More than one poll takes, so it is left half-way.
    let half_way = writer.write(vec![7; 64 << 20].into()).now_or_never();
    let again = writer.write("more".into()).await;
    let finished = writer.finish(None).await;

    assert!(half_way.is_none());
    assert!(matches!(again, Err(ImageError::NotWhole)), "{again:?}");
    assert!(matches!(finished, Err(ImageError::NotWhole)), "{finished:?}");
    assert!(files_in(folder.path()).is_empty());
}

#[tokio::test]
async fn bytes_other_than_promised_never_become_visible() {
    let (folder, store) = fresh();
    let expected = "0".repeat(64);

    let error = started(&store, &noise(5_000)).await.finish(Some(&expected)).await.unwrap_err();

    assert!(matches!(&error, ImageError::Mismatch { .. }), "{error:?}");
    assert!(error.to_string().contains(&expected), "{error}");
    assert!(files_in(folder.path()).is_empty());
}

#[tokio::test]
async fn the_promised_digest_may_be_in_capitals() {
    let (_folder, store) = fresh();
    let promised = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD";

    let finished = started(&store, &Bytes::from_static(b"abc")).await.finish(Some(promised)).await;

    assert_eq!(finished.unwrap().bytes, 3);
}

#[tokio::test]
async fn uploads_side_by_side_do_not_mix() {
    let (_folder, store) = fresh();
    let (one, other) = (noise(1_000_000), noise(2_000_000).slice(1_000_000..));

    let (first, second) = tokio::join!(upload(&store, &one), upload(&store, &other));

    assert_eq!(read(&store, &first.object, 0..1_000_000).await.unwrap(), one);
    assert_eq!(read(&store, &second.object, 0..1_000_000).await.unwrap(), other);
}

#[tokio::test]
async fn a_range_beyond_the_end_is_refused() {
    let (_folder, store) = fresh();
    let object = upload(&store, &noise(100)).await.object;

    for range in [0..101, 100..101, u64::MAX - 1..u64::MAX] {
        let error = read(&store, &object, range).await.unwrap_err();
        assert!(matches!(error, ImageError::Range { bytes: 100, .. }), "{error:?}");
    }
}

#[tokio::test]
async fn an_absent_image_is_not_found_and_deleting_it_is_fine() {
    let (_folder, store) = fresh();
    let absent: ObjectName = format!("sha256/{}", "a".repeat(64)).parse().unwrap();

    assert_eq!(store.stat(&absent).await.unwrap(), None);
    assert!(matches!(read(&store, &absent, 0..1).await, Err(ImageError::NotFound { .. })));
    store.delete(&absent).await.unwrap();
}

#[tokio::test]
async fn a_deleted_image_is_gone_but_not_for_whoever_reads_it() {
    let (folder, store) = fresh();
    let bytes = noise(2_000_000);
    let object = upload(&store, &bytes).await.object;

    let reader = store.read(&object, 0..2_000_000).await.unwrap();
    store.delete(&object).await.unwrap();

    assert!(files_in(folder.path()).is_empty());
    let chunks: Vec<Bytes> = futures::TryStreamExt::try_collect(reader).await.unwrap();
    assert_eq!(Bytes::from(chunks.concat()), bytes);
}

#[tokio::test]
async fn what_came_again_after_it_was_listed_is_not_collected() {
    let (folder, store) = fresh();
    let bytes = noise(1_000);
    let object = upload(&store, &bytes).await.object;

    let file = fs::File::open(folder.path().join(object.as_str())).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_hours(1)).unwrap();
    let seen = store.list().await.unwrap();
    upload(&store, &bytes).await;
    let spared = !store.delete_unchanged(&seen[0]).await.unwrap();
    let seen = store.list().await.unwrap();
    let collected = store.delete_unchanged(&seen[0]).await.unwrap();

    assert!(spared && collected);
    assert_eq!(store.stat(&object).await.unwrap(), None);
}

#[tokio::test]
async fn the_sweep_removes_what_a_crash_left_and_no_upload_that_is_alive() {
    let (folder, store) = fresh();
    fs::write(folder.path().join("unfinished/left-by-a-crash"), b"half").unwrap();

    let writer = started(&store, &noise(10_000)).await;
    let too_young = store.sweep_unfinished(Duration::from_hours(1)).await.unwrap();
    let removed = store.sweep_unfinished(Duration::ZERO).await.unwrap();
    let finished = writer.finish(None).await.unwrap();

    assert_eq!((too_young, removed), (0, 1));
    assert_eq!(files_in(folder.path()), [finished.object.as_str()]);
}

#[tokio::test]
async fn strangers_in_the_folder_are_left_alone() {
    let (folder, store) = fresh();
    fs::write(folder.path().join("sha256/README"), b"not ours").unwrap();

    assert_eq!(store.list().await.unwrap(), []);
}

#[tokio::test]
async fn one_process_writes_and_others_read() {
    let (folder, store) = fresh();
    let url = url(folder.path());
    let object = upload(&store, &noise(10)).await.object;

    let second = ImageStore::open(&url).unwrap_err();
    let reader = ImageStore::open_read_only(&url).unwrap();

    assert!(matches!(second, ImageError::InUse { .. }), "{second:?}");
    assert!(second.to_string().contains("stop the other one"), "{second}");
    reader.check().await.unwrap();
    assert_eq!(read(&reader, &object, 0..10).await.unwrap(), noise(10));
    assert!(matches!(reader.create().await, Err(ImageError::ReadOnly)));
    assert!(matches!(reader.delete(&object).await, Err(ImageError::ReadOnly)));
    assert!(matches!(reader.sweep_unfinished(Duration::ZERO).await, Err(ImageError::ReadOnly)));

    drop(store);
    ImageStore::open(&url).unwrap();
}

#[tokio::test]
async fn a_missing_folder_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("var/lib/images");

    let store = ImageStore::open(&url(&deep)).unwrap();

    store.check().await.unwrap();
    assert!(files_in(&deep).is_empty());
}

#[tokio::test]
async fn a_folder_that_can_not_be_one_is_said_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();

    let error = ImageStore::open(&url(&file.join("images"))).unwrap_err();

    assert!(error.to_string().contains("file/images"), "{error}");
}

#[tokio::test]
async fn a_store_that_lost_its_folder_is_not_ready_and_takes_nothing() {
    let (folder, store) = fresh();
    fs::remove_dir_all(folder.path()).unwrap();

    assert!(matches!(store.check().await, Err(ImageError::Unavailable { .. })));
    assert!(matches!(store.create().await, Err(ImageError::Unavailable { .. })));
}
