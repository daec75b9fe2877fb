//! Who is woken in the work queue, and who keeps the time.

use std::collections::BTreeSet;

use futures::FutureExt;
use informer::WorkQueue;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::SECOND;
use crate::work_queue::queue;

/// One key wakes one taker; if that one gives up before it looks, another one must.
#[tokio::test(start_paused = true)]
async fn a_key_is_not_forgotten_with_the_taker_that_was_woken_for_it() {
    let queue = queue();
    let mut first = Box::pin(queue.take());
    assert!(first.as_mut().now_or_never().is_none());
    let mut tasks = JoinSet::new();
    let second = queue.clone();
    tasks.spawn(async move { *second.take().await.unwrap().key() });
    sleep(SECOND).await;

    queue.add(1);
    drop(first);

    assert_eq!(timeout(SECOND, tasks.join_next()).await.unwrap().unwrap().unwrap(), 1);
}

/// Whoever is woken for one key may find two; the other one is for somebody else.
#[tokio::test(start_paused = true)]
async fn a_key_that_is_due_when_another_one_comes_has_a_taker_of_its_own() {
    let queue = queue();
    queue.add_after(1, 10 * SECOND);
    let mut keeper = Box::pin(queue.take());
    assert!(keeper.as_mut().now_or_never().is_none());
    let mut tasks = JoinSet::new();
    let other = queue.clone();
    tasks.spawn(async move { *other.take().await.unwrap().key() });
    sleep(10 * SECOND).await;

    queue.add(2);
    let first = keeper.as_mut().now_or_never().unwrap().unwrap();
    let second = timeout(SECOND, tasks.join_next()).await.unwrap().unwrap().unwrap();

    assert_eq!(BTreeSet::from([*first.key(), second]), BTreeSet::from([1, 2]));
}

/// A taker that waits by itself, for a test that drops it or lets it go on; it keeps the time.
async fn beside_a_keeper(queue: &WorkQueue<u32>, tasks: &mut JoinSet<u32>) {
    let other = queue.clone();
    tasks.spawn(async move { *other.take().await.unwrap().key() });
    sleep(SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn when_the_keeper_of_the_time_gives_up_another_one_keeps_it() {
    let queue = queue();
    queue.add_after(1, 10 * SECOND);
    let mut keeper = Box::pin(queue.take());
    assert!(keeper.as_mut().now_or_never().is_none());
    let mut tasks = JoinSet::new();
    beside_a_keeper(&queue, &mut tasks).await;

    drop(keeper);

    assert_eq!(timeout(20 * SECOND, tasks.join_next()).await.unwrap().unwrap().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn when_the_keeper_of_the_time_gets_a_key_another_one_keeps_it() {
    let queue = queue();
    queue.add_after(1, 10 * SECOND);
    let mut keeper = Box::pin(queue.take());
    assert!(keeper.as_mut().now_or_never().is_none());
    let mut tasks = JoinSet::new();
    beside_a_keeper(&queue, &mut tasks).await;

    queue.add(2);
    let busy = keeper.await.unwrap();

    assert_eq!(*busy.key(), 2);
    assert_eq!(timeout(20 * SECOND, tasks.join_next()).await.unwrap().unwrap().unwrap(), 1);
}

/// The one that was woken to keep the time gives up before it looks.
#[tokio::test(start_paused = true)]
async fn time_is_kept_although_two_gave_up_keeping_it() {
    let queue = queue();
    queue.add_after(1, 10 * SECOND);
    let (mut first, mut second) = (Box::pin(queue.take()), Box::pin(queue.take()));
    assert!(first.as_mut().now_or_never().is_none());
    assert!(second.as_mut().now_or_never().is_none());
    let mut tasks = JoinSet::new();
    beside_a_keeper(&queue, &mut tasks).await;

    drop(first);
    drop(second);

    assert_eq!(timeout(20 * SECOND, tasks.join_next()).await.unwrap().unwrap().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_becomes_due_together_wakes_as_many_takers() {
    let queue = queue();
    (1..=3).for_each(|key| assert!(queue.add_after(key, 10 * SECOND)));
    let mut takers = JoinSet::new();
    for _ in 0..3 {
        let queue = queue.clone();
        takers.spawn(async move { queue.take().await.unwrap() });
    }

    let busy = timeout(20 * SECOND, takers.join_all()).await.unwrap();

    assert_eq!(busy.len(), 3);
}
