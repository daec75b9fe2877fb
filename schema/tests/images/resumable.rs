//! Uploads that come in several goes, in a folder and in a bucket alike.

use std::time::Duration;

use bytes::Bytes;
use schema::images::{From, ImageError, ImageStore, SessionId};

use crate::server::Server;
use crate::stores::{files_in, noise, read};

/// More than one piece of 16 MiB.
const SIZE: usize = 20 << 20;

/// Brings bytes in, in chunks of an odd size, and says how many are safe.
async fn go(store: &ImageStore, id: &SessionId, bytes: &Bytes, from: usize, epoch: i64) -> u64 {
    let offset = from as u64;
    let mut arrival = store.resume(id, From { offset, epoch }).await.unwrap();
    for start in (from..bytes.len()).step_by(100_003) {
        let end = bytes.len().min(start + 100_003);
        arrival.write(bytes.slice(start..end)).await.unwrap();
    }
    arrival.secure().await.unwrap()
}

/// A folder and a bucket, and how to open each once more as another process would.
struct Place {
    folder: tempfile::TempDir,
    server: Server,
}

impl Place {
    async fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), server: Server::start().await }
    }

    fn folder(&self) -> ImageStore {
        ImageStore::open(&format!("file://{}", self.folder.path().join("images").display()))
            .unwrap()
    }

    fn bucket(&self) -> ImageStore {
        self.server.store()
    }
}

async fn comes_in_goes(store: &ImageStore) {
    let (id, bytes) = (SessionId::random(), noise(SIZE));
    let cut = 17 << 20;

    assert_eq!(go(store, &id, &bytes.slice(..cut), 0, 1).await, cut as u64);
    assert_eq!(go(store, &id, &bytes, cut, 2).await, SIZE as u64);
    let finished = store.gather(&id, SIZE as u64).await.unwrap().finish(None).await.unwrap();

    assert_eq!(finished.bytes, SIZE as u64);
    assert!(read(store, &finished.object, 0..SIZE as u64).await.unwrap() == bytes);
    let whole = crate::stores::upload(store, &bytes).await;
    assert_eq!((&finished.sha256, &finished.sha512), (&whole.sha256, &whole.sha512));
    // All once more, as after a crash before the rows.
    let again = store.gather(&id, SIZE as u64).await.unwrap();
    assert_eq!(again.finish(Some(&whole.sha256)).await.unwrap(), finished);
    store.discard(&id).await.unwrap();
    assert_eq!(store.sessions().await.unwrap(), []);
    assert!(read(store, &finished.object, 0..SIZE as u64).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_in_several_goes_is_what_would_have_come_in_one() {
    let place = Place::new().await;
    comes_in_goes(&place.folder()).await;
    comes_in_goes(&place.bucket()).await;
}

/// A go that wrote more than was acknowledged, then another one from what was, by another process.
async fn goes_on_after_a_crash(before: ImageStore, after: impl Fn() -> ImageStore) {
    let (id, bytes) = (SessionId::random(), noise(SIZE));
    let safe = 17 << 20;
    go(&before, &id, &bytes.slice(..safe), 0, 1).await;
    // Stored, and never acknowledged: other bytes than those that come then.
    let lost = [&bytes[..safe], &noise(2 << 20)].concat().into();
    go(&before, &id, &lost, safe, 2).await;
    drop(before);

    let store = after();
    assert_eq!(go(&store, &id, &bytes, safe, 3).await, SIZE as u64);

    let finished = store.gather(&id, SIZE as u64).await.unwrap().finish(None).await.unwrap();
    assert!(read(&store, &finished.object, 0..SIZE as u64).await.unwrap() == bytes);
    let whole = crate::stores::upload(&store, &bytes).await;
    assert_eq!((finished.sha256, finished.sha512), (whole.sha256, whole.sha512));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_acknowledged_before_a_crash_does_not_count_after_it() {
    let place = Place::new().await;
    goes_on_after_a_crash(place.folder(), || place.folder()).await;
    goes_on_after_a_crash(place.bucket(), || place.bucket()).await;
}

#[tokio::test]
async fn a_go_that_is_undone_leaves_what_was_there_before() {
    let place = Place::new().await;
    for store in [place.folder(), place.bucket()] {
        let (id, bytes) = (SessionId::random(), noise(300_000));
        go(&store, &id, &bytes.slice(..100_000), 0, 1).await;
        let from = From { offset: 100_000, epoch: 2 };
        let mut arrival = store.resume(&id, from).await.unwrap();
        arrival.write(noise(50_000)).await.unwrap();
        arrival.secure().await.unwrap();

        arrival.undo().await.unwrap();

        assert!(matches!(store.gather(&id, 150_000).await, Err(ImageError::NotWhole)));
        go(&store, &id, &bytes, 100_000, 3).await;
        let gathered = store.gather(&id, 300_000).await.unwrap();
        let object = gathered.finish(None).await.unwrap().object;
        assert!(read(&store, &object, 0..300_000).await.unwrap() == bytes);
    }
}

#[tokio::test]
async fn a_wrong_digest_makes_no_image_and_what_is_discarded_is_gone() {
    let place = Place::new().await;
    for store in [place.folder(), place.bucket()] {
        let (id, bytes) = (SessionId::random(), noise(100_000));
        go(&store, &id, &bytes, 0, 1).await;

        let wrong = "0".repeat(64);
        let gathered = store.gather(&id, 100_000).await.unwrap();
        assert!(matches!(gathered.finish(Some(&wrong)).await, Err(ImageError::Mismatch { .. })));

        assert_eq!(store.list().await.unwrap(), []);
        let there = store.sessions().await.unwrap();
        assert!(there.len() == 1 && there[0].0 == id, "{there:?}");
        // Crashed uploads of the other kind are swept, these are not.
        store.sweep_unfinished(Duration::ZERO).await.unwrap();
        assert_eq!(store.sessions().await.unwrap().len(), 1);
        store.discard(&id).await.unwrap();
        store.discard(&id).await.unwrap();
        assert!(matches!(store.gather(&id, 100_000).await, Err(ImageError::NotWhole)));
    }
    assert_eq!(files_in(place.folder.path()), Vec::<String>::new());
    place.server.eventually_empty().await;
}

#[tokio::test]
async fn a_folder_has_one_go_at_a_time() {
    let place = Place::new().await;
    let (store, id) = (place.folder(), SessionId::random());
    let begin = From { offset: 0, epoch: 1 };
    let arrival = store.resume(&id, begin).await.unwrap();

    assert!(matches!(store.resume(&id, begin).await, Err(ImageError::Going)));
    assert!(matches!(store.gather(&id, 0).await, Err(ImageError::Going)));
    assert!(matches!(store.discard(&id).await, Err(ImageError::Going)));
    drop(arrival);
    drop(store.resume(&id, begin).await.unwrap());

    // Nothing is where the tables say that something is: somebody took it away.
    let further = From { offset: 1, epoch: 2 };
    assert!(matches!(store.resume(&id, further).await, Err(ImageError::NotWhole)));
}

#[tokio::test]
async fn the_same_content_twice_is_one_image() {
    let place = Place::new().await;
    let (store, bytes) = (place.folder(), noise(10_000));
    let mut objects = Vec::new();
    for _ in 0..2 {
        let id = SessionId::random();
        go(&store, &id, &bytes, 0, 1).await;
        let gathered = store.gather(&id, 10_000).await.unwrap();
        objects.push(gathered.finish(None).await.unwrap().object);
        store.discard(&id).await.unwrap();
    }

    assert_eq!(objects[0], objects[1]);
    assert_eq!(files_in(place.folder.path()), [format!("images/{}", objects[0])]);
}
