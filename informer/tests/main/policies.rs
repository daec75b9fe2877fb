//! What becomes of handlers that are too slow, that panic, or that are given up on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use informer::testing::ScriptedSource;
use informer::{
    Backoff, Event, Handled, InformerHandle, ListDone, ListWatcher, Listing, Metrics, Object,
    PanicPolicy, Retry, SharedIndexInformer, SourceError, Step, SubscribeOptions, Subscription,
    SubscriptionMonitor,
};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::{HOUR, SECOND, Thing, drain, run, short};

type Source = ScriptedSource<Thing>;

fn source_with(ids: std::ops::Range<u8>) -> Source {
    let source = ScriptedSource::watching();
    ids.for_each(|id| source.set(Thing::new(id, 1)));
    source
}

async fn followed(source: &Source, tasks: &mut JoinSet<()>) -> InformerHandle<Thing> {
    let handle = run(SharedIndexInformer::builder(source.clone()), tasks);
    handle.synced(SECOND).await.unwrap();
    handle
}

#[derive(Default)]
struct Disconnections(Mutex<Vec<String>>);

impl Metrics for Disconnections {
    fn disconnected(&self, informer: &str, subscription: &str) {
        self.0.lock().push(format!("{informer}/{subscription}"));
    }
}

#[tokio::test(start_paused = true)]
async fn who_would_hold_too_many_keys_is_disconnected_and_nobody_else() {
    let source = source_with(0..20);
    let metrics = Arc::new(Disconnections::default());
    let builder = SharedIndexInformer::builder(source.clone()).metrics(metrics.clone());
    let informer = builder.build();
    let handle = informer.handle();
    // What is there at the start does not count, whether one was there before it or came after.
    let few = |name: &str| SubscribeOptions::named(name).disconnect_above(5);
    let mut early = handle.subscribe(few("early"));
    let mut tasks = JoinSet::new();
    tasks.spawn(informer.run(std::future::pending()));
    handle.synced(SECOND).await.unwrap();
    let mut late = handle.subscribe(few("late"));
    let mut patient = handle.subscribe(SubscribeOptions::named("patient"));
    assert_eq!([&mut early, &mut late, &mut patient].map(|events| drain(events).len()), [20; 3]);

    (0..5).for_each(|id| source.set(Thing::new(id, 2)));
    (0..5).for_each(|id| source.set(Thing::new(id, 3)));
    sleep(SECOND).await;
    assert!(!late.is_disconnected(), "five are not more than five");
    assert_eq!(drain(&mut late).len(), 5);
    source.set(Thing::new(5, 2));
    sleep(SECOND).await;

    assert!(early.monitor().is_disconnected());
    assert!(early.next().await.is_none());
    let lag = early.lag();
    assert!(lag.disconnected && lag.keys == 0, "{lag:?}");
    early.give_back([Event::Resync(Arc::new(Thing::new(1, 1)))]);
    assert!(early.try_next().is_none());
    assert_eq!(drain(&mut late), ["~5=2"]);
    assert_eq!(drain(&mut patient).len(), 6);
    assert_eq!(*metrics.0.lock(), ["informer/early"]);
    let mut anew = handle.subscribe(few("anew"));
    assert_eq!(drain(&mut anew).len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_push_style_handler_ends_when_it_is_disconnected() {
    let source = source_with(0..1);
    let mut tasks = JoinSet::new();
    let handle = followed(&source, &mut tasks).await;
    let slow = handle.subscribe(SubscribeOptions::named("slow").disconnect_above(3));
    let mut workers = JoinSet::new();
    workers.spawn(slow.for_each(Retry::default(), async |event: Event<Thing>| {
        if event.key() > 0 {
            sleep(60 * SECOND).await;
        }
        Ok::<_, std::io::Error>(())
    }));
    sleep(SECOND).await;

    (1..9).for_each(|id| source.set(Thing::new(id, 1)));

    let handled = timeout(HOUR, workers.join_next()).await.unwrap().unwrap().unwrap();
    assert!(handled.disconnected);
    assert!(handled.handled <= 2, "{}", handled.handled);
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_the_handler_where_it_is_asked_to_and_nobody_else() {
    let source = source_with(0..3);
    let mut tasks = JoinSet::new();
    let handle = followed(&source, &mut tasks).await;
    let mut other = handle.subscribe(SubscribeOptions::named("other"));
    let panicky = |policy| {
        let events = handle.subscribe(SubscribeOptions::named("panicky"));
        let retry = Retry::new(Backoff::new(SECOND, SECOND), 2).on_panic(policy);
        events.for_each(retry, |event| async move {
            if event.key() == 1 {
                std::panic::resume_unwind(Box::new("not this one"));
            }
            Ok::<_, std::io::Error>(())
        })
    };
    let mut aborting = JoinSet::new();
    aborting.spawn(panicky(PanicPolicy::Abort));
    let mut isolating = JoinSet::new();
    isolating.spawn(panicky(PanicPolicy::Isolate));

    let ended = aborting.join_next().await.unwrap().unwrap_err();

    assert_eq!(ended.into_panic().downcast_ref::<&str>(), Some(&"not this one"));
    sleep(HOUR).await;
    assert_eq!(drain(&mut other).len(), 3);
    assert_eq!(handle.lags().len(), 2, "the one that ended has left");
    tasks.shutdown().await;
    let handled = isolating.join_next().await.unwrap().unwrap();
    assert_eq!((handled.handled, handled.failures, handled.given_up), (2, 2, 1));
}

/// A handler that keeps what it is told, and refuses some keys.
#[derive(Clone, Default)]
struct Picky {
    refuses: Arc<Mutex<Vec<u8>>>,
    told: Arc<Mutex<Vec<String>>>,
}

impl Picky {
    fn spawn(
        &self,
        events: Subscription<Thing>,
        workers: &mut JoinSet<Handled<Thing>>,
    ) -> SubscriptionMonitor<Thing> {
        let monitor = events.monitor();
        let picky = self.clone();
        let retry = Retry::new(Backoff::new(SECOND, SECOND).without_jitter(), 3);
        workers.spawn(events.for_each(retry, move |event| {
            let refused = picky.refuses.lock().contains(&event.key());
            if !refused {
                picky.told.lock().push(short(&event));
            }
            async move { if refused { Err("not this one") } else { Ok(()) } }
        }));
        monitor
    }

    fn refuse(&self, keys: impl IntoIterator<Item = u8>) {
        *self.refuses.lock() = keys.into_iter().collect();
    }

    /// What it was told since it was asked last.
    fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock())
    }
}

fn keys(monitor: &SubscriptionMonitor<Thing>) -> Vec<u8> {
    monitor.parked().into_iter().map(|parked| parked.key).collect()
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_is_given_up_on_is_parked_where_one_sees_it() {
    let source = source_with(0..4);
    let mut tasks = JoinSet::new();
    let handle = followed(&source, &mut tasks).await;
    let picky = Picky::default();
    picky.refuse([1, 2, 3]);
    let mut workers = JoinSet::new();
    let monitor = picky.spawn(handle.subscribe(SubscribeOptions::named("picky")), &mut workers);
    sleep(60 * SECOND).await;

    assert_eq!(keys(&monitor), [1, 2, 3]);
    let parked = &monitor.parked()[0];
    assert_eq!((parked.failures, parked.error.to_string().as_str()), (3, "not this one"));
    assert_eq!(monitor.lag().parked, 3);
    assert_eq!(picky.told(), ["+0=1"]);

    // A later event brings what was parked with it, and nothing is out of order.
    picky.refuse([2, 3]);
    source.set(Thing::new(1, 2));
    source.set(Thing::new(1, 3));
    source.remove(&2);
    sleep(60 * SECOND).await;
    assert_eq!(picky.told(), ["+1=3"]);
    assert_eq!(keys(&monitor), [2, 3]);

    picky.refuse([]);
    sleep(HOUR).await;
    assert!(picky.told().is_empty(), "nobody asked");
    monitor.retry_parked();
    sleep(SECOND).await;
    let mut told = picky.told();
    told.sort();
    assert_eq!(told, ["+3=1", "-2"]);
    assert!(keys(&monitor).is_empty());
    assert_eq!(monitor.lag().parked, 0);

    picky.refuse([0]);
    source.set(Thing::new(0, 9));
    sleep(60 * SECOND).await;
    tasks.shutdown().await;
    let handled = workers.join_next().await.unwrap().unwrap();
    assert_eq!(handled.unhandled.iter().map(short).collect::<Vec<_>>(), ["~0=9"]);
    assert_eq!(handled.given_up, 5);
}

#[tokio::test(start_paused = true)]
async fn a_reminder_retries_what_is_parked() {
    let source = source_with(0..3);
    let mut tasks = JoinSet::new();
    let handle = followed(&source, &mut tasks).await;
    let picky = Picky::default();
    picky.refuse([1]);
    let mut workers = JoinSet::new();
    let options = SubscribeOptions::named("picky").resync_every(600 * SECOND);
    let monitor = picky.spawn(handle.subscribe(options), &mut workers);
    sleep(60 * SECOND).await;
    assert_eq!(keys(&monitor), [1]);
    picky.refuse([]);

    sleep(700 * SECOND).await;

    assert!(keys(&monitor).is_empty());
    assert!(picky.told().contains(&"+1=1".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_thing_that_was_replaced_is_parked_as_both() {
    let source = source_with(1..2);
    let mut tasks = JoinSet::new();
    let handle = followed(&source, &mut tasks).await;
    let picky = Picky::default();
    let mut workers = JoinSet::new();
    let monitor = picky.spawn(handle.subscribe(SubscribeOptions::named("picky")), &mut workers);
    sleep(SECOND).await;
    assert_eq!(picky.told(), ["+1=1"]);

    picky.refuse([1]);
    source.set(Thing { life: 1, ..Thing::new(1, 2) });
    sleep(60 * SECOND).await;
    assert_eq!(keys(&monitor), [1]);
    source.set(Thing { life: 1, ..Thing::new(1, 3) });
    sleep(60 * SECOND).await;
    assert_eq!(keys(&monitor), [1]);
    picky.refuse([]);
    monitor.retry_parked();
    sleep(SECOND).await;

    assert_eq!(picky.told(), ["-1?", "+1=3"]);
    assert!(keys(&monitor).is_empty());
}

/// However handlers fail and whenever they are asked to try again: they end up with what there
/// is, and never hear of an older state after a newer one.
#[tokio::test(start_paused = true)]
async fn parking_neither_loses_nor_reorders() {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    for seed in 0..100 {
        let mut random = SmallRng::seed_from_u64(seed);
        let source = source_with(0..4);
        let mut tasks = JoinSet::new();
        let handle = followed(&source, &mut tasks).await;
        let events = handle.subscribe(SubscribeOptions::named("random"));
        let monitor = events.monitor();
        let refuse: Arc<Mutex<Vec<u8>>> = Arc::default();
        let view: Arc<Mutex<BTreeMap<u8, u8>>> = Arc::default();
        let (refused, seen) = (refuse.clone(), view.clone());
        let retry = Retry::new(Backoff::new(SECOND, 2 * SECOND), 2);
        let mut workers = JoinSet::new();
        workers.spawn(events.for_each(retry, move |event| {
            let (refused, seen) = (refused.clone(), seen.clone());
            async move {
                sleep(Duration::from_millis(300)).await;
                if refused.lock().contains(&event.key()) {
                    return Err("not now");
                }
                let mut seen = seen.lock();
                match event.current() {
                    Some(thing) => {
                        let before = seen.insert(thing.id, thing.value);
                        assert!(before.is_none_or(|before| before <= thing.value), "seed {seed}");
                    }
                    None => {
                        seen.remove(&event.key());
                    }
                }
                Ok(())
            }
        }));
        for step in 2..60_u8 {
            let id = random.random_range(0..4);
            match random.random_range(0..5) {
                0 => *refuse.lock() = (0..4).filter(|_| random.random_bool(0.5)).collect(),
                1 => monitor.retry_parked(),
                2 => source.remove(&id),
                _ => source.set(Thing::new(id, step)),
            }
            sleep(Duration::from_millis(random.random_range(0..2000))).await;
        }
        refuse.lock().clear();
        sleep(60 * SECOND).await;
        monitor.retry_parked();
        sleep(60 * SECOND).await;

        let there: BTreeMap<u8, u8> =
            source.objects().into_values().map(|thing| (thing.id, thing.value)).collect();
        assert_eq!(*view.lock(), there, "seed {seed}");
        assert!(workers.try_join_next().is_none(), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_can_ask_for_changes_of_one_part() {
    let source = source_with(0..2);
    let mut tasks = JoinSet::new();
    let handle = followed(&source, &mut tasks).await;
    let options = SubscribeOptions::named("moves").on_change_of(|thing: &Thing| thing.node);
    let mut moves = handle.subscribe(options);
    assert_eq!(drain(&mut moves).len(), 2);

    source.set(Thing::new(0, 2));
    source.set(Thing::new(1, 1).on(7));
    sleep(SECOND).await;
    assert_eq!(drain(&mut moves), ["~1=1"]);
    source.remove(&0);
    sleep(SECOND).await;
    assert_eq!(drain(&mut moves), ["-0"]);
}

/// Looks at who was told of it when it goes.
struct Curious {
    id: u8,
    family: Family,
}

/// Who there is, whom they look at, and how often they did.
#[derive(Clone, Default)]
struct Family {
    ids: Arc<Mutex<Vec<u8>>>,
    monitor: Arc<Mutex<Option<SubscriptionMonitor<Curious>>>>,
    looks: Arc<AtomicU32>,
}

impl Object for Curious {
    type Key = u8;

    fn key(&self) -> u8 {
        self.id
    }

    fn version(&self) -> u64 {
        0
    }
}

impl Drop for Curious {
    fn drop(&mut self) {
        let monitor = self.family.monitor.lock().clone();
        if monitor.is_some_and(|monitor| monitor.lag().keys < 100) {
            self.family.looks.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl ListWatcher for Family {
    type Object = Curious;

    async fn list(&self, into: &mut Listing<'_, Curious>) -> Result<ListDone, SourceError> {
        for id in self.ids.lock().clone() {
            into.offer(&id, 0, || Curious { id, family: self.clone() });
        }
        Ok(ListDone::complete())
    }
}

/// A lock that is held meanwhile would hang this test.
#[tokio::test(start_paused = true)]
async fn objects_are_dropped_where_no_lock_is_held() {
    let family = Family::default();
    let informer = SharedIndexInformer::builder(family.clone()).poll_every(SECOND).build();
    let handle = informer.handle();
    let mut reflector = informer.into_reflector();
    let mut strict = handle.subscribe(SubscribeOptions::named("strict").disconnect_above(1));
    *family.monitor.lock() = Some(strict.monitor());
    let mut list = async |ids: &[u8]| {
        *family.ids.lock() = ids.to_vec();
        while reflector.step().await != Step::Listed {}
        family.looks.load(Ordering::Relaxed)
    };
    assert_eq!(list(&[0, 1, 2, 3]).await, 0);
    assert_eq!(std::iter::from_fn(|| strict.try_next()).count(), 4);

    assert_eq!(list(&[1, 2, 3]).await, 0, "a delete waits with the last state");
    assert_eq!(list(&[3]).await, 3, "disconnected");
    assert!(strict.is_disconnected());

    let mut plain = handle.subscribe(SubscribeOptions::named("plain"));
    *family.monitor.lock() = Some(plain.monitor());
    assert!(plain.try_next().is_some());
    assert_eq!(list(&[]).await, 3);
    drop(plain);
    assert_eq!(family.looks.load(Ordering::Relaxed), 4);
    family.monitor.lock().take();
}
