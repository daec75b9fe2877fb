//! What goes wrong in kube-rs 5.0.0 and must not here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::FutureExt;
use informer::testing::ScriptedSource;
use informer::{SharedIndexInformer, Shutdown, SubscribeOptions};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::work_queue::queue;
use crate::{HOUR, SECOND, Thing, run};

/// kube-rs 5.0.0 loses the wake-up of a subscriber when the object of an event is gone by the
/// time it looks.
#[tokio::test(start_paused = true)]
async fn an_object_that_came_and_went_does_not_swallow_the_next_wake_up() {
    let source = ScriptedSource::watching();
    let mut tasks = JoinSet::new();
    let handle = run(SharedIndexInformer::builder(source.clone()), &mut tasks);
    let mut events = handle.subscribe(SubscribeOptions::default());
    handle.synced(SECOND).await.unwrap();
    assert!(events.next().now_or_never().is_none());

    source.set(Thing::new(1, 1));
    source.remove(&1);
    source.set(Thing::new(2, 1));
    let event = timeout(SECOND, events.next()).await.unwrap().unwrap();
    assert_eq!(event.key(), 2);

    source.set(Thing::new(3, 1));
    let event = timeout(SECOND, events.next()).await.unwrap().unwrap();
    assert_eq!(event.key(), 3);
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
