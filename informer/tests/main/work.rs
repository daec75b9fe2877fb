//! The work queue and the controller.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt;
use informer::testing::ScriptedSource;
use informer::{
    Action, Backoff, Context, Controller, Priority, Reconciler, SharedIndexInformer, Shutdown,
    SubscribeOptions, Taken, WorkQueue,
};
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio::time::{Instant, advance, sleep, timeout};

use crate::{HOUR, SECOND, Thing, run};

fn queue() -> WorkQueue<u32> {
    let backoff = Backoff::new(SECOND, 60 * SECOND).without_jitter();
    WorkQueue::builder("test").backoff(backoff).ageing(10 * SECOND).build()
}

fn keys(queue: &WorkQueue<u32>) -> Vec<u32> {
    std::iter::from_fn(|| queue.try_take())
        .map(|item| {
            let key = *item.key();
            item.done();
            key
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_key_that_waits_is_not_queued_twice() {
    let queue = queue();
    for key in [1, 2, 1, 3, 2] {
        assert!(queue.add(key));
    }

    assert_eq!(keys(&queue), [1, 2, 3]);
    assert!(queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_key_added_while_it_runs_runs_again_afterwards_and_never_at_the_same_time() {
    let queue = queue();
    queue.add(1);
    let item = queue.take().await.unwrap();

    queue.add(1);
    assert!(queue.try_take().is_none());
    item.done();

    assert_eq!(keys(&queue), [1]);
    assert!(queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failing_key_backs_off_further_each_time_and_success_resets_it() {
    let queue = queue();
    queue.add(1);
    for (failures, seconds) in [(0, 1), (1, 2), (2, 4), (3, 8)] {
        let item = queue.take().await.unwrap();
        assert_eq!(item.failures(), failures);
        item.retry();
        let start = Instant::now();
        let again = queue.take().await.unwrap();
        assert_eq!(start.elapsed().as_secs(), seconds);
        // Its turn in the next round, with the failures that it has.
        again.retry_after(Duration::ZERO);
        let item = queue.take().await.unwrap();
        assert_eq!(item.failures(), failures + 2);
        item.done();
        // Success forgot them all: bring it to where the next round begins.
        queue.add(1);
        for _ in 0..=failures {
            queue.take().await.unwrap().retry_after(Duration::ZERO);
        }
    }
    queue.take().await.unwrap().done();
    queue.add(1);
    assert_eq!(queue.take().await.unwrap().failures(), 0);
}

#[tokio::test(start_paused = true)]
async fn adding_does_not_cut_a_back_off_short_unless_it_is_urgent() {
    let queue = queue();
    queue.add(1);
    queue.take().await.unwrap().retry();

    queue.add(1);
    assert!(queue.try_take().is_none());

    queue.add_with(1, Priority::Urgent);
    assert_eq!(queue.try_take().unwrap().failures(), 1);
}

#[tokio::test(start_paused = true)]
async fn of_several_delays_the_earliest_counts_and_now_is_the_earliest() {
    let queue = queue();
    let start = Instant::now();
    queue.add_after(1, 60 * SECOND);
    queue.add_after(1, 10 * SECOND);
    queue.add_after(1, 30 * SECOND);
    queue.add_after(2, 20 * SECOND);

    let first = queue.take().await.unwrap();
    assert_eq!((*first.key(), start.elapsed().as_secs()), (1, 10));
    first.done();
    queue.add(2);
    assert_eq!(*queue.take().await.unwrap().key(), 2);
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_shorter_delay_wakes_those_who_wait_for_a_longer_one() {
    let queue = queue();
    queue.add_after(1, HOUR);
    let mut takers = JoinSet::new();
    for _ in 0..3 {
        let queue = queue.clone();
        takers.spawn(async move {
            let item = queue.take().await.unwrap();
            let key = *item.key();
            item.done();
            key
        });
    }
    sleep(SECOND).await;
    let start = Instant::now();

    queue.add_after(2, SECOND);
    queue.add_after(3, 2 * SECOND);

    assert_eq!(takers.join_next().await.unwrap().unwrap(), 2);
    assert_eq!(takers.join_next().await.unwrap().unwrap(), 3);
    assert_eq!(start.elapsed().as_secs(), 2);
    assert_eq!(takers.join_next().await.unwrap().unwrap(), 1);
}

/// One taker keeps the time for all; when it leaves, another one must.
#[tokio::test(start_paused = true)]
async fn a_delay_is_kept_although_the_one_who_kept_it_has_gone() {
    let queue = queue();
    queue.add_after(1, 10 * SECOND);
    assert!(timeout(SECOND, queue.take()).await.is_err());
    let other = queue.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { *other.take().await.unwrap().key() });
    sleep(SECOND).await;

    let first = queue.take();
    let second = queue.take();
    let mut first = Box::pin(first);
    let mut second = Box::pin(second);
    assert!(first.as_mut().now_or_never().is_none());
    assert!(second.as_mut().now_or_never().is_none());
    drop(first);

    assert_eq!(timeout(20 * SECOND, tasks.join_next()).await.unwrap().unwrap().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_matters_more_comes_first_and_what_waits_long_enough_too() {
    let queue = queue();
    queue.add_with(1, Priority::Low);
    queue.add_with(2, Priority::Normal);
    queue.add_with(3, Priority::Low);
    queue.add_with(4, Priority::Urgent);
    queue.add_with(3, Priority::High);
    assert_eq!(keys(&queue), [4, 3, 2, 1]);

    queue.add_with(1, Priority::Low);
    advance(25 * SECOND).await;
    queue.add_with(2, Priority::Urgent);
    assert_eq!(keys(&queue), [2, 1], "it has not waited long enough");

    queue.add_with(1, Priority::Low);
    advance(31 * SECOND).await;
    queue.add_with(2, Priority::Urgent);
    queue.add_with(3, Priority::Normal);
    assert_eq!(keys(&queue), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn groups_take_turns_and_none_has_more_running_than_it_may() {
    let queue = WorkQueue::builder("test").groups(|key: &u32| key / 100, 2).build();
    for key in 0..50 {
        assert!(queue.add(key));
    }
    queue.add(100);
    queue.add(200);

    let running: Vec<_> = std::iter::from_fn(|| queue.try_take()).collect();
    let taken: Vec<u32> = running.iter().map(|item| *item.key()).collect();
    assert_eq!(taken, [0, 100, 200, 1]);

    let waiting = queue.take();
    let mut waiting = Box::pin(waiting);
    assert!(waiting.as_mut().now_or_never().is_none());
    running.into_iter().for_each(Taken::done);
    assert_eq!(*waiting.await.unwrap().key(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_leaves_a_failure_behind() {
    let queue = queue();
    queue.add(1);
    drop(queue.take().await.unwrap());

    assert!(queue.try_take().is_none());
    assert_eq!(queue.take().await.unwrap().failures(), 1);
}

#[tokio::test(start_paused = true)]
async fn now_returns_what_did_not_run() {
    let queue = queue();
    for key in 1..=4 {
        assert!(queue.add(key));
    }
    queue.add_after(5, HOUR);
    let running = queue.take().await.unwrap();
    queue.add(1);

    let mut left = queue.shutdown(Shutdown::Now).await;
    left.sort_unstable();

    assert_eq!(left, [1, 2, 3, 4, 5]);
    assert!(!queue.add(6));
    assert!(queue.take().await.is_none());
    running.done();
}

/// kube-rs 5.0.0 drops what is queued when the trigger stream ends.
#[tokio::test(start_paused = true)]
async fn drain_runs_what_is_ready_and_returns_what_waits() {
    let queue = queue();
    for key in 0..1000 {
        assert!(queue.add(key));
    }
    queue.add_after(5000, HOUR);
    let done = Arc::new(AtomicU32::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..4 {
        let (queue, done) = (queue.clone(), done.clone());
        workers.spawn(async move {
            while let Some(item) = queue.take().await {
                sleep(SECOND).await;
                done.fetch_add(1, Ordering::Relaxed);
                item.done();
            }
        });
    }

    let left = queue.shutdown(Shutdown::Drain(HOUR)).await;

    assert_eq!(left, [5000]);
    assert_eq!(done.load(Ordering::Relaxed), 1000);
    timeout(SECOND, async { while workers.join_next().await.is_some() {} }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn drain_runs_what_was_added_while_it_ran() {
    let queue = queue();
    queue.add(1);
    let running = queue.take().await.unwrap();
    queue.add(1);
    let worker = queue.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let again = worker.take().await;
        again.map(Taken::done)
    });
    tasks.spawn(async move {
        sleep(10 * SECOND).await;
        running.done();
        Some(())
    });

    assert!(queue.shutdown(Shutdown::Drain(HOUR)).await.is_empty());

    while let Some(ended) = tasks.join_next().await {
        assert_eq!(ended.unwrap(), Some(()));
    }
}

#[tokio::test(start_paused = true)]
async fn success_resets_the_back_off_of_a_key_that_is_wanted_again() {
    let queue = queue();
    queue.add(1);
    queue.take().await.unwrap().retry();
    let item = queue.take().await.unwrap();
    queue.add(1);
    item.done();

    assert_eq!(queue.take().await.unwrap().failures(), 0);
}

#[tokio::test(start_paused = true)]
async fn drain_ends_at_its_deadline() {
    let queue = queue();
    for key in [1, 2] {
        assert!(queue.add(key));
    }
    let stuck = queue.take().await.unwrap();
    let start = Instant::now();

    let left = queue.shutdown(Shutdown::Drain(30 * SECOND)).await;

    assert_eq!((left, start.elapsed().as_secs()), (vec![2], 30));
    drop(stuck);
}

#[tokio::test(start_paused = true)]
async fn finish_running_waits_for_those_who_work_and_no_more() {
    let queue = queue();
    for key in [1, 2] {
        assert!(queue.add(key));
    }
    let item = queue.take().await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        sleep(30 * SECOND).await;
        item.retry();
    });
    let start = Instant::now();

    let mut left = queue.shutdown(Shutdown::FinishRunning).await;
    left.sort_unstable();

    assert_eq!((left, start.elapsed().as_secs()), (vec![1, 2], 30));
}

#[derive(Clone, Debug)]
enum Act {
    Add(u32, u8),
    AddAfter(u32, u16),
    AddLimited(u32),
    Take,
    Finish(usize, u8),
    Pass(u16),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let key = 0..8_u32;
    let act = prop_oneof![
        4 => (key.clone(), 0..4_u8).prop_map(|(key, level)| Act::Add(key, level)),
        2 => (key.clone(), 0..5000_u16).prop_map(|(key, ms)| Act::AddAfter(key, ms)),
        1 => key.prop_map(Act::AddLimited),
        4 => Just(Act::Take),
        4 => (0..4_usize, 0..4_u8).prop_map(|(which, how)| Act::Finish(which, how)),
        2 => (0..3000_u16).prop_map(Act::Pass),
    ];
    prop::collection::vec(act, 0..120)
}

/// Runs a history, then works until nothing is left.
async fn history(acts: Vec<Act>, cap: usize) -> Result<(), TestCaseError> {
    let queue = WorkQueue::builder("model")
        .backoff(Backoff::new(SECOND, 60 * SECOND))
        .ageing(SECOND)
        .groups(|key: &u32| key % 2, cap)
        .build();
    let mut running: Vec<Taken<u32>> = Vec::new();
    // Keys of which somebody wants a run that has not begun.
    let mut wanted: BTreeSet<u32> = BTreeSet::new();
    for act in acts {
        match act {
            Act::Add(key, level) => {
                let levels = [Priority::Low, Priority::Normal, Priority::High, Priority::Urgent];
                queue.add_with(key, levels[usize::from(level)]);
                wanted.insert(key);
            }
            Act::AddAfter(key, ms) => {
                queue.add_after(key, Duration::from_millis(u64::from(ms)));
                wanted.insert(key);
            }
            Act::AddLimited(key) => {
                queue.add_rate_limited(key);
                wanted.insert(key);
            }
            Act::Take => {
                if let Some(item) = queue.try_take() {
                    let key = *item.key();
                    prop_assert!(wanted.remove(&key), "{key} was not wanted");
                    prop_assert!(running.iter().all(|other| *other.key() != key), "{key} twice");
                    running.push(item);
                    let mut groups = BTreeMap::new();
                    for item in &running {
                        *groups.entry(item.key() % 2).or_insert(0) += 1;
                    }
                    prop_assert!(groups.values().all(|count| *count <= cap), "{groups:?}");
                }
            }
            Act::Finish(which, how) if which < running.len() => {
                let item = running.swap_remove(which);
                let key = *item.key();
                match how {
                    0 | 1 => item.done(),
                    2 => {
                        item.done_after(SECOND);
                        wanted.insert(key);
                    }
                    _ => {
                        item.retry();
                        wanted.insert(key);
                    }
                }
            }
            Act::Finish(..) => {}
            Act::Pass(ms) => advance(Duration::from_millis(u64::from(ms))).await,
        }
        let known: BTreeSet<u32> =
            wanted.iter().copied().chain(running.iter().map(|item| *item.key())).collect();
        prop_assert_eq!(queue.len(), known.len());
        prop_assert_eq!(queue.running(), running.len());
    }
    running.into_iter().for_each(Taken::done);
    while !wanted.is_empty() {
        let Ok(Some(item)) = timeout(HOUR, queue.take()).await else {
            return Err(TestCaseError::fail(format!("{wanted:?} never come")));
        };
        prop_assert!(wanted.remove(item.key()), "{} was not wanted", item.key());
        item.done();
    }
    prop_assert!(queue.is_empty());
    Ok(())
}

proptest! {
    /// Every wanted key is run, none is run unasked or twice at once, no group exceeds its cap,
    /// and nothing is left behind.
    #[test]
    fn a_work_queue_runs_what_is_wanted(acts in acts(), cap in 1..4_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing");
        runtime.block_on(history(acts, cap))?;
    }
}

#[derive(Clone, Default)]
struct Recorder {
    runs: Arc<Mutex<Vec<(u8, u32)>>>,
}

impl Reconciler for Recorder {
    type Key = u8;
    type Error = &'static str;

    async fn reconcile(&self, context: Context<u8>) -> Result<Action, &'static str> {
        self.runs.lock().push((context.key, context.failures));
        match context.key {
            1 if context.failures < 2 => Err("not yet"),
            2 if context.failures < 1 => panic!("once"),
            3 if context.failures < 1 => std::future::pending().await,
            4 => Ok(Action::RequeueAfter(60 * SECOND)),
            _ => Ok(Action::AwaitChange),
        }
    }
}

impl Recorder {
    fn runs_of(&self, key: u8) -> usize {
        self.runs.lock().iter().filter(|(other, _)| *other == key).count()
    }
}

#[tokio::test(start_paused = true)]
async fn a_controller_retries_errors_panics_and_timeouts_and_goes_on() {
    let source = ScriptedSource::watching();
    (0..=5).for_each(|id| source.set(Thing::new(id, 1)));
    let mut tasks = JoinSet::new();
    let handle = run(SharedIndexInformer::builder(source.clone()), &mut tasks);
    let recorder = Recorder::default();
    let failures = Arc::new(Mutex::new(Vec::new()));
    let log = failures.clone();
    let queue = WorkQueue::builder("things").build();
    let controller = Controller::new(queue, recorder.clone())
        .workers(2)
        .timeout(30 * SECOND)
        .on_failure(move |key, _, failure| log.lock().push(format!("{key}: {failure}")))
        .trigger(handle.subscribe(SubscribeOptions::default()), |event, keys| {
            keys.push(event.key());
        });
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut controllers = JoinSet::new();
    controllers.spawn(controller.run(stopped.map(|_| ()), Shutdown::FinishRunning));

    sleep(HOUR).await;
    assert_eq!(recorder.runs_of(0), 1);
    assert_eq!(recorder.runs_of(1), 3);
    assert_eq!(recorder.runs_of(2), 2);
    assert_eq!(recorder.runs_of(3), 2);
    assert_eq!(recorder.runs_of(4), 60);
    source.remove(&5);
    sleep(SECOND).await;
    assert_eq!(recorder.runs_of(5), 2, "a delete is reconciled too");
    let failures = failures.lock().clone();
    assert!(failures.contains(&"2: the reconciler panicked: once".to_owned()), "{failures:?}");
    assert!(failures.contains(&"3: reconciling took longer than 30s".to_owned()), "{failures:?}");

    drop(stop);
    let not_run = controllers.join_next().await.unwrap().unwrap();
    assert_eq!(not_run, [4], "it wanted to come again");
}

/// Threads in earnest: a lost wake-up shows as a queue that never empties.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_workers_do_all_the_work_and_no_key_twice_at_once() {
    let queue = WorkQueue::builder("threads").build();
    let done = Arc::new(AtomicU32::new(0));
    let busy: Arc<Vec<AtomicU32>> = Arc::new((0..50).map(|_| AtomicU32::new(0)).collect());
    let mut workers = JoinSet::new();
    for _ in 0..8 {
        let (queue, done, busy) = (queue.clone(), done.clone(), busy.clone());
        workers.spawn(async move {
            while let Some(item) = queue.take().await {
                let slot: &AtomicU32 = &busy[*item.key()];
                assert_eq!(slot.fetch_add(1, Ordering::SeqCst), 0, "twice at once");
                tokio::task::yield_now().await;
                slot.fetch_sub(1, Ordering::SeqCst);
                done.fetch_add(1, Ordering::Relaxed);
                item.done();
            }
        });
    }

    for round in 0..200_u32 {
        for key in 0..50_usize {
            if key % 10 == 0 {
                queue.add_after(key, Duration::from_micros(u64::from(round) * 10));
            } else {
                queue.add(key);
            }
        }
        tokio::task::yield_now().await;
    }
    timeout(60 * SECOND, async {
        while !queue.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the queue empties");

    assert!(queue.shutdown(Shutdown::Drain(SECOND)).await.is_empty());
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
    assert!(done.load(Ordering::Relaxed) >= 50);
}
