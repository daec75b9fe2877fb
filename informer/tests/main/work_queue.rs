//! The work queue, one promise at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt;
use informer::{Backoff, Priority, Shutdown, Taken, WorkQueue};
use tokio::task::JoinSet;
use tokio::time::{Instant, advance, sleep, timeout};

use crate::{HOUR, SECOND};

pub(crate) fn queue() -> WorkQueue<u32> {
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

/// The one that leaves was woken for a key, and kept the time: two others must take over.
#[tokio::test(start_paused = true)]
async fn who_gives_up_leaves_both_its_key_and_its_time_keeping_to_others() {
    let queue = queue();
    queue.add_after(1, 10 * SECOND);
    let mut takers = JoinSet::new();
    let mut handles = Vec::new();
    for _ in 0..3 {
        let queue = queue.clone();
        handles.push(takers.spawn(async move {
            let item = queue.take().await.unwrap();
            let key = *item.key();
            item.done();
            key
        }));
    }
    sleep(SECOND).await;

    queue.add(2);
    handles[0].abort();

    let mut keys = Vec::new();
    while let Some(ended) = timeout(HOUR, takers.join_next()).await.expect("nobody sleeps on") {
        keys.extend(ended); // the first one has left without a key
    }
    keys.sort_unstable();
    assert_eq!(keys, [1, 2]);
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
async fn success_resets_the_back_off_of_a_key_that_is_wanted_again() {
    let queue = queue();
    queue.add(1);
    queue.take().await.unwrap().retry();
    let item = queue.take().await.unwrap();
    queue.add(1);
    item.done();

    assert_eq!(queue.take().await.unwrap().failures(), 0);
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
