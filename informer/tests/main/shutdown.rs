//! The ways to end a queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use informer::{Shutdown, Taken, WorkQueue};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::work_queue::queue;
use crate::{HOUR, SECOND};

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

/// A queue with 1,000 keys that are ready and one that is due in an hour.
pub(crate) struct Busy {
    pub(crate) queue: WorkQueue<u32>,
    /// Keys that were done.
    pub(crate) done: Arc<AtomicU32>,
    /// Four, who need a second for a key.
    pub(crate) workers: JoinSet<()>,
}

pub(crate) fn busy() -> Busy {
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
    Busy { queue, done, workers }
}

#[tokio::test(start_paused = true)]
async fn drain_runs_what_is_ready_and_returns_what_waits() {
    let Busy { queue, done, mut workers } = busy();

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
