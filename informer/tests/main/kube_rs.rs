//! Two defects of kube-runtime 5.0.0 that must not be here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use informer::testing::ScriptedSource;
use informer::{
    Action, Context, Controller, Reconciler, SharedIndexInformer, Shutdown, SubscribeOptions,
};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::shutdown::{Busy, busy};
use crate::work_queue::queue;
use crate::{HOUR, SECOND, Thing, run, short};

/// `ReflectHandle::poll_next` answers `Pending` without a waker when the object of an event is
/// gone from the store by the time it looks; the subscriber then sleeps for ever. After
/// Apply(a), Delete(a), Apply(b), and later Apply(c), it has seen none of them.
#[tokio::test(start_paused = true)]
async fn lost_wake_up_after_a_delete() {
    let source = ScriptedSource::watching();
    let mut tasks = JoinSet::new();
    let handle = run(SharedIndexInformer::builder(source.clone()), &mut tasks);
    let mut events = handle.subscribe(SubscribeOptions::default());
    handle.synced(SECOND).await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    // A task of its own, which runs when it is woken and at no other time.
    tasks.spawn(async move {
        while let Some(event) = events.next().await {
            log.lock().push(short(&event));
        }
    });
    sleep(SECOND).await;

    source.set(Thing::new(1, 1));
    source.remove(&1);
    source.set(Thing::new(2, 1));
    sleep(SECOND).await;
    source.set(Thing::new(3, 1));
    sleep(SECOND).await;

    assert_eq!(*seen.lock(), ["+2=1", "+3=1"]);
}

/// The same, one step of the source at a time: the subscriber hears of the delete, too.
#[tokio::test(start_paused = true)]
async fn lost_wake_up_after_a_delete_that_was_seen() {
    let source = ScriptedSource::watching();
    let mut tasks = JoinSet::new();
    let handle = run(SharedIndexInformer::builder(source.clone()), &mut tasks);
    let mut events = handle.subscribe(SubscribeOptions::default());
    handle.synced(SECOND).await.unwrap();
    let (teller, mut listener) = tokio::sync::mpsc::channel(10);
    tasks.spawn(async move {
        while let Some(event) = events.next().await {
            teller.send(short(&event)).await.unwrap();
        }
    });

    let steps: [(&str, &dyn Fn()); 4] = [
        ("+1=1", &|| source.set(Thing::new(1, 1))),
        ("-1", &|| source.remove(&1)),
        ("+2=1", &|| source.set(Thing::new(2, 1))),
        ("+3=1", &|| source.set(Thing::new(3, 1))),
    ];
    for (expected, step) in steps {
        step();
        let heard = timeout(SECOND, listener.recv()).await;
        assert_eq!(heard, Ok(Some(expected.to_owned())));
    }
}

/// `applier` drops every queued request when its trigger stream ends, as it does at a graceful
/// shutdown: a million were queued, none was reconciled.
#[tokio::test(start_paused = true)]
async fn queued_requests_dropped_at_shutdown() {
    #[derive(Clone, Default)]
    struct Slow(Arc<AtomicU32>);

    impl Reconciler for Slow {
        type Key = u32;
        type Error = std::convert::Infallible;

        async fn reconcile(&self, _: Context<u32>) -> Result<Action, Self::Error> {
            sleep(SECOND).await;
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(Action::AwaitChange)
        }
    }

    let source = ScriptedSource::list_only();
    source.set(Thing::new(1, 1));
    let informer = SharedIndexInformer::builder(source).build();
    let handle = informer.handle();
    let slow = Slow::default();
    let controller = Controller::new(queue(), slow.clone())
        .workers(4)
        .trigger(handle.subscribe(SubscribeOptions::default()), |_, keys| keys.extend(0..1000));
    let mut tasks = JoinSet::new();
    // The informer stops, and with it the triggers; a moment later, so does the controller.
    tasks.spawn(informer.run(sleep(10 * SECOND)));

    let not_run = controller.run(sleep(20 * SECOND), Shutdown::Drain(HOUR)).await;

    assert!(not_run.is_empty(), "{} were not run", not_run.len());
    assert_eq!(slow.0.load(Ordering::Relaxed), 1000);
}

/// What cannot be run in time is named, not dropped.
#[tokio::test(start_paused = true)]
async fn queued_requests_that_there_is_no_time_for_are_returned() {
    let Busy { queue, done, workers: _workers } = busy();

    let left = queue.shutdown(Shutdown::Drain(100 * SECOND + Duration::from_millis(500))).await;

    let begun = 4 * 101;
    assert_eq!(left.len(), 1001 - begun);
    assert!(left.contains(&5000), "what waited for its time is returned too");
    assert_eq!(done.load(Ordering::Relaxed), 400, "the last four run on");
}
