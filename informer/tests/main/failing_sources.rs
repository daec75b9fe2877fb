//! A source that fails, hangs, panics or is slow: hours of it pass in milliseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use informer::testing::Fault;
use informer::{
    Backoff, Decision, ListDone, ListWatcher, Listing, Phase, SharedIndexInformer, SourceError,
    StartGate,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::{HOUR, SECOND, Thing, polled, run, source_with};

#[tokio::test(start_paused = true)]
async fn hours_of_failures_cost_few_attempts_and_one_good_answer_ends_them() {
    let source = source_with([Thing::new(1, 1)]);
    source.faults((0..500).map(|_| Fault::Error(SourceError::transient("no route"))));
    let mut tasks = JoinSet::new();
    let handle = run(polled(&source), &mut tasks);

    let waited = handle.synced(HOUR).await.unwrap_err();
    assert!((120..500).contains(&waited.attempts), "{waited:?}");
    assert_eq!(waited.last_error.unwrap().class(), "transient");

    handle.synced(3 * HOUR).await.unwrap();
    assert_eq!(handle.status().failures, 0);
    let before = source.lists();
    sleep(10 * SECOND).await;
    assert!(source.lists() - before >= 9, "back at the usual pace");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_says_when_to_come_back_is_left_alone_until_then() {
    let source = source_with([]);
    source.faults([Fault::Error(SourceError::throttled(Some(600 * SECOND), "busy"))]);
    let mut tasks = JoinSet::new();
    let handle = run(polled(&source), &mut tasks);

    assert!(handle.synced(599 * SECOND).await.is_err());
    assert_eq!(source.lists(), 1);
    handle.synced(200 * SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_fatal_error_is_retried_slowly_unless_the_hook_says_stop() {
    let source = source_with([]);
    source.faults((0..3).map(|_| Fault::Error(SourceError::fatal("token revoked"))));
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    let handle = run(polled(&source), &mut tasks);
    handle.synced(HOUR).await.unwrap();
    assert!(start.elapsed() > 80 * SECOND, "three pauses of about 30 s");

    source.faults([Fault::Error(SourceError::fatal("token revoked"))]);
    let builder = polled(&source).on_error(|error, _| match error {
        SourceError::Fatal { .. } => Decision::Stop,
        _ => Decision::Retry,
    });
    let handle = run(builder, &mut tasks);
    let stopped = handle.synced(HOUR).await.unwrap_err();
    assert!(stopped.stopped);
    assert_eq!(handle.status().phase, Phase::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_or_hangs_has_failed_like_any_other() {
    let source = source_with([Thing::new(1, 1)]);
    source.faults([Fault::Panic, Fault::Hang]);
    let mut tasks = JoinSet::new();
    let handle = run(polled(&source).list_timeout(30 * SECOND), &mut tasks);

    handle.synced(300 * SECOND).await.unwrap();

    assert_eq!(source.lists(), 3);
    assert_eq!(handle.store().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_good_answer_brings_the_first_pause_back() {
    let source = source_with([]);
    let fails = |times| (0..times).map(|_| Fault::Error(SourceError::transient("no")));
    source.faults(fails(8));
    let backoff = Backoff::new(SECOND, HOUR).without_jitter();
    let mut tasks = JoinSet::new();
    let handle = run(polled(&source).backoff(backoff), &mut tasks);
    handle.synced(256 * SECOND).await.unwrap();

    source.faults(fails(1));
    let failed = handle.status_until(|status| status.failures == 1).await;
    let again = handle.status_until(|status| status.failures == 0).await;

    assert_eq!(again.last_success.unwrap() - failed.last_error_at.unwrap(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn unchanged_is_a_good_answer_that_sweeps_nothing() {
    let source = source_with([Thing::new(1, 1)]);
    let mut tasks = JoinSet::new();
    let handle = run(polled(&source), &mut tasks);
    handle.synced(SECOND).await.unwrap();

    source.faults((0..100).map(|_| Fault::Unchanged));
    sleep(60 * SECOND).await;

    assert_eq!(handle.store().len(), 1);
    assert!(handle.store().age().unwrap() < 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_age_grows_while_the_source_does_not_answer() {
    let source = source_with([Thing::new(1, 1)]);
    let mut tasks = JoinSet::new();
    let handle = run(polled(&source), &mut tasks);
    handle.synced(SECOND).await.unwrap();

    source.faults([Fault::Hang]);
    sleep(HOUR).await;

    assert!(handle.store().age().unwrap() + 3 * SECOND > HOUR);
    assert!(handle.has_synced());
}

#[tokio::test(start_paused = true)]
async fn a_list_can_be_asked_for() {
    let source = source_with([]);
    let builder = SharedIndexInformer::builder(source.clone()).poll_every(HOUR);
    let mut tasks = JoinSet::new();
    let handle = run(builder, &mut tasks);
    handle.synced(SECOND).await.unwrap();
    sleep(SECOND).await;

    handle.relist();
    sleep(SECOND).await;

    assert_eq!(source.lists(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_start_gate_lets_few_lists_in_at_once() {
    struct Counting(Arc<(AtomicU32, AtomicU32)>);

    impl ListWatcher for Counting {
        type Object = Thing;

        async fn list(&self, _: &mut Listing<'_, Thing>) -> Result<ListDone, SourceError> {
            let now = self.0.0.fetch_add(1, Ordering::Relaxed) + 1;
            self.0.1.fetch_max(now, Ordering::Relaxed);
            sleep(SECOND).await;
            self.0.0.fetch_sub(1, Ordering::Relaxed);
            Ok(ListDone::complete())
        }
    }

    let gate = StartGate::new(3);
    let counts = Arc::new((AtomicU32::new(0), AtomicU32::new(0)));
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for _ in 0..12 {
        let source = Counting(counts.clone());
        let builder = SharedIndexInformer::builder(source).poll_every(HOUR);
        let handle = run(builder.start_gate(gate.clone()), &mut tasks);
        drop(handle);
    }
    while start.elapsed() < 10 * SECOND {
        sleep(SECOND).await;
    }

    assert_eq!(counts.1.load(Ordering::Relaxed), 3);
    assert_eq!(counts.0.load(Ordering::Relaxed), 0);
}
