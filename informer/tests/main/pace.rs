//! How often a source is asked, and who is asked what to do when it fails.

use std::sync::Arc;

use informer::testing::{Fault, ScriptedSource};
use informer::{Backoff, Decision, SharedIndexInformer, SourceError};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::{HOUR, SECOND, Thing, run};

#[tokio::test(start_paused = true)]
async fn a_quiet_source_is_asked_ever_more_rarely_and_a_busy_one_often() {
    let source = ScriptedSource::list_only();
    source.set(Thing::new(1, 0));
    let builder = SharedIndexInformer::builder(source.clone());
    let mut tasks = JoinSet::new();
    let handle = run(builder.poll_adaptively(SECOND, 64 * SECOND), &mut tasks);
    handle.synced(SECOND).await.unwrap();

    sleep(HOUR).await;
    // Pauses of 1, 2, 4, 8, 16, 32 s and then 64 s, give or take a tenth.
    let quiet = source.lists();
    assert!((55..72).contains(&quiet), "{quiet} lists in an hour");

    for value in 1..=100 {
        source.set(Thing::new(1, value));
        let before = source.lists();
        while source.lists() == before {
            sleep(SECOND / 10).await;
        }
    }
    let busy = source.lists() - quiet;
    assert!(busy <= 100 + 8, "{busy}");
    source.remove(&1);
    let gone = handle.store().wait_for(&1, 2 * SECOND, |thing| thing.is_none());
    gone.await.unwrap();
    let before = source.lists();
    sleep(5 * SECOND).await;
    assert!((2..=4).contains(&(source.lists() - before)), "a delete is a change, too");
}

#[tokio::test(start_paused = true)]
async fn saying_that_nothing_changed_is_quiet_too() {
    let source: ScriptedSource<Thing> = ScriptedSource::list_only();
    source.faults((0..1000).map(|number| if number == 0 { Fault::None } else { Fault::Unchanged }));
    let builder = SharedIndexInformer::builder(source.clone());
    let mut tasks = JoinSet::new();
    run(builder.poll_adaptively(SECOND, 64 * SECOND), &mut tasks).synced(SECOND).await.unwrap();

    sleep(HOUR).await;

    assert!((55..72).contains(&source.lists()), "{}", source.lists());
}

#[tokio::test(start_paused = true)]
async fn who_is_told_of_failures_decides_when_to_go_on() {
    let source: ScriptedSource<Thing> = ScriptedSource::list_only();
    source.faults((0..3).map(|_| Fault::Error(SourceError::transient("no route"))));
    let told: Arc<Mutex<Vec<(String, u32)>>> = Arc::default();
    let telling = told.clone();
    let builder = SharedIndexInformer::builder(source.clone())
        .backoff(Backoff::new(HOUR, HOUR).without_jitter())
        .on_error(move |error, failures| {
            telling.lock().push((error.class().to_owned(), failures));
            if failures < 3 { Decision::RetryAfter(7 * SECOND) } else { Decision::Retry }
        });
    let mut tasks = JoinSet::new();
    let handle = run(builder, &mut tasks);

    sleep(15 * SECOND).await;
    assert_eq!(source.lists(), 3);
    assert!(!handle.has_synced());
    handle.synced(HOUR).await.unwrap();

    let expected: Vec<_> = (1..=3).map(|failures| ("transient".to_owned(), failures)).collect();
    assert_eq!(*told.lock(), expected);
}
