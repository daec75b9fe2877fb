//! Handlers that join, lag, filter, fail and leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt;
use informer::testing::ScriptedSource;
use informer::{
    Backoff, Cursor, Event, ListDone, ListWatcher, Listing, Replay, Retry, SharedIndexInformer,
    SourceError, SubscribeOptions,
};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::{HOUR, SECOND, Source, Thing, drain, next_list, polled, run, short, source_with};

#[tokio::test(start_paused = true)]
async fn a_handler_that_sleeps_delays_nobody_and_holds_one_entry_per_key() {
    let source = ScriptedSource::watching();
    (0..10).for_each(|id| source.set(Thing::new(id, 0)));
    let mut tasks = JoinSet::new();
    let handle = run(SharedIndexInformer::builder(source.clone()), &mut tasks);
    let mut asleep = handle.subscribe(SubscribeOptions::named("asleep"));
    let mut awake = handle.subscribe(SubscribeOptions::named("awake"));
    handle.synced(SECOND).await.unwrap();
    assert_eq!(drain(&mut asleep).len() + drain(&mut awake).len(), 20);

    for round in 1..100_u8 {
        (0..10).for_each(|id| source.set(Thing::new(id, round)));
        handle.store().wait_until(|store| store.get(&9).is_some_and(|t| t.value == round)).await;
        while let Some(Some(event)) = awake.next().now_or_never() {
            assert_eq!(event.object().value, round);
        }
    }

    let lag = asleep.lag();
    assert_eq!(lag.keys, 10);
    assert_eq!(lag.coalesced, 98 * 10);
    assert_eq!(drain(&mut asleep).len(), 10);
}

#[tokio::test(start_paused = true)]
async fn who_joins_late_gets_the_store_and_who_leaves_is_forgotten() {
    let source = source_with((0..100).map(|id| Thing::new(id, 1)));
    let mut tasks = JoinSet::new();
    let handle = run(polled(&source), &mut tasks);
    handle.synced(SECOND).await.unwrap();

    let mut late = handle.subscribe(SubscribeOptions::named("late"));
    let monitor = late.monitor();
    assert!(!monitor.has_synced());
    assert_eq!(late.lag().keys, 100);
    assert!(matches!(late.try_next(), Some(Event::Added { initial: true, .. })));
    source.set(Thing::new(50, 2));
    source.remove(&51);
    next_list(&handle).await;
    assert!(drain(&mut late).len() >= 98);
    monitor.synced(SECOND).await.unwrap();

    let leavers: Vec<_> =
        (0..5).map(|_| handle.subscribe(SubscribeOptions::named("leaver"))).collect();
    assert_eq!(handle.lags().len(), 6);
    drop(leavers);
    assert_eq!(handle.lags().len(), 1);
}

/// Puts one thing and takes its time before it ends.
struct Lingering;

impl ListWatcher for Lingering {
    type Object = Thing;

    async fn list(&self, into: &mut Listing<'_, Thing>) -> Result<ListDone, SourceError> {
        into.put(Thing::new(1, 1));
        sleep(10 * SECOND).await;
        into.put(Thing::new(2, 1));
        into.flush();
        sleep(10 * SECOND).await;
        Ok(ListDone::complete())
    }
}

#[tokio::test(start_paused = true)]
async fn who_joins_between_a_change_and_its_announcement_hears_of_it_once() {
    let mut tasks = JoinSet::new();
    let handle = run(SharedIndexInformer::builder(Lingering).poll_every(HOUR), &mut tasks);
    sleep(5 * SECOND).await;
    let mut replayed = handle.subscribe(SubscribeOptions::named("replayed"));
    let mut from_now = handle.subscribe(SubscribeOptions::default().replay(Replay::Nothing));
    assert_eq!(drain(&mut replayed), ["+1=1"]);

    sleep(6 * SECOND).await;

    assert_eq!(drain(&mut replayed), ["+2=1"]);
    assert_eq!(drain(&mut from_now), ["+2=1"]);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_nobody_takes_from_is_not_synced() {
    let source = source_with([Thing::new(1, 1)]);
    let mut tasks = JoinSet::new();
    let handle = run(polled(&source), &mut tasks);
    let events = handle.subscribe(SubscribeOptions::default());

    assert!(events.monitor().synced(60 * SECOND).await.is_err());
    assert!(handle.has_synced());
}

#[tokio::test(start_paused = true)]
async fn a_filter_sees_things_come_and_go() {
    let source = source_with([Thing::new(1, 1), Thing::new(2, 9)]);
    let mut tasks = JoinSet::new();
    let handle = run(polled(&source), &mut tasks);
    handle.synced(SECOND).await.unwrap();
    let small = SubscribeOptions::named("small").only(|thing: &Thing| thing.value < 5);
    let mut small = handle.subscribe(small);
    let moved = SubscribeOptions::named("moved").changed_by(|a: &Thing, b| a.node != b.node);
    let mut moved = handle.subscribe(moved);
    assert_eq!(drain(&mut small), ["+1=1"]);
    assert_eq!(drain(&mut moved).len(), 2);

    source.set(Thing::new(1, 9));
    source.set(Thing::new(2, 1));
    next_list(&handle).await;
    assert_eq!(drain(&mut small), ["+2=1", "-1"]);
    assert!(drain(&mut moved).is_empty());

    source.set(Thing::new(1, 9).on(1));
    source.remove(&2);
    next_list(&handle).await;
    assert_eq!(drain(&mut small), ["-2?"]);
    assert_eq!(drain(&mut moved), ["-2?", "~1=9"]);
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_brought_up_to_date_by_changes_that_are_no_event() {
    let source = ScriptedSource::watching();
    let mut tasks = JoinSet::new();
    let handle = run(SharedIndexInformer::builder(source.clone()), &mut tasks);
    let moved = SubscribeOptions::named("moved").changed_by(|a: &Thing, b| a.node != b.node);
    let mut moved = handle.subscribe(moved);
    handle.synced(SECOND).await.unwrap();

    source.set(Thing::new(1, 1));
    handle.store().wait_until(|store| store.len() == 1).await;
    source.set(Thing::new(1, 2));
    sleep(SECOND).await;
    assert_eq!(drain(&mut moved), ["+1=2"]);

    source.set(Thing::new(1, 3));
    sleep(SECOND).await;
    assert!(drain(&mut moved).is_empty());
}

#[tokio::test(start_paused = true)]
async fn resync_reminds_of_everything_once_per_period_and_spreads_it() {
    let source = source_with((0..60).map(|id| Thing::new(id, 1)));
    let mut tasks = JoinSet::new();
    let handle = run(polled(&source), &mut tasks);
    handle.synced(SECOND).await.unwrap();
    let mut events = handle.subscribe(SubscribeOptions::default().resync_every(600 * SECOND));
    while !events.has_synced() {
        events.next().await;
    }

    let mut quarters = [0; 4];
    let mut reminded = std::collections::BTreeSet::new();
    let start = Instant::now();
    while reminded.len() < 60 {
        let event = timeout(SECOND * 20, events.next()).await.unwrap().unwrap();
        assert!(matches!(event, Event::Resync(_)), "{event:?}");
        assert!(reminded.insert(event.key()), "twice in one period");
        // The last one comes at the very end.
        let quarter = (start.elapsed().as_millis() - 1) / 150_001;
        quarters[usize::try_from(quarter).unwrap()] += 1;
    }

    assert!(quarters.iter().all(|count| (13..=17).contains(count)), "{quarters:?}");
}

#[tokio::test(start_paused = true)]
async fn batches_linger_for_more_and_give_back_what_could_not_be_written() {
    let source = ScriptedSource::watching();
    let mut tasks = JoinSet::new();
    let handle = run(SharedIndexInformer::builder(source.clone()), &mut tasks);
    let mut events = handle.subscribe(SubscribeOptions::default());
    handle.synced(SECOND).await.unwrap();
    let writer = source.clone();
    tasks.spawn(async move {
        for id in 0..8 {
            writer.set(Thing::new(id, 1));
            sleep(Duration::from_millis(20)).await;
        }
    });

    let batch = events.next_batch(100, Duration::from_millis(50)).await.unwrap();
    assert!((2..=4).contains(&batch.len()), "{}", batch.len());
    let taken = batch.len();
    source.set(Thing::new(0, 7));
    source.remove(&1);
    events.give_back(batch);
    sleep(SECOND).await;

    let batch = events.next_batch(5, SECOND).await.unwrap();
    assert_eq!(batch.len(), 5);
    let mut all: Vec<String> = batch.iter().map(short).collect();
    all.extend(drain(&mut events));
    assert_eq!(all.len(), 8, "{taken} were given back: {all:?}");
    assert!(all.contains(&"+0=7".to_owned()), "{all:?}");
    assert!(all.contains(&"-1".to_owned()), "a delete is not lost: {all:?}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_dropped_while_it_lingers_is_given_back() {
    let source = source_with([Thing::new(1, 1)]);
    let mut tasks = JoinSet::new();
    let handle = run(polled(&source), &mut tasks);
    let mut events = handle.subscribe(SubscribeOptions::default());
    handle.synced(SECOND).await.unwrap();

    assert!(timeout(SECOND, events.next_batch(5, HOUR)).await.is_err());

    assert_eq!(drain(&mut events), ["+1=1"]);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_fails_or_panics_is_retried_alone() {
    let source = source_with((0..5).map(|id| Thing::new(id, 1)));
    let mut tasks = JoinSet::new();
    let handle = run(polled(&source), &mut tasks);
    let told = Arc::new(AtomicU32::new(0));
    let telling = told.clone();
    let options = SubscribeOptions::named("fragile").on_failure(move |_, _, _| {
        telling.fetch_add(1, Ordering::Relaxed);
    });
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let mut attempts = 0;
    let retry = Retry::new(Backoff::new(SECOND, 10 * SECOND).without_jitter(), 4);
    let fragile = handle.subscribe(options).for_each(retry, move |event| {
        let log = log.clone();
        attempts += u32::from(event.key() == 1);
        let attempt = attempts;
        async move {
            match event.key() {
                1 if attempt < 3 => return Err("not yet"),
                2 => panic!("never"),
                _ => log.lock().push(short(&event)),
            }
            Ok(())
        }
    });
    let mut workers = JoinSet::new();
    workers.spawn(fragile);
    let mut other = handle.subscribe(SubscribeOptions::named("other"));

    handle.synced(SECOND).await.unwrap();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(drain(&mut other).len(), 5);
    assert_eq!(seen.lock().len(), 3, "others go on");
    source.set(Thing::new(1, 2));
    sleep(HOUR).await;
    assert!(seen.lock().contains(&"+1=2".to_owned()), "merged and retried: {:?}", seen.lock());
    assert_eq!(told.load(Ordering::Relaxed), 2 + 4);

    tasks.shutdown().await;
    let handled = workers.join_next().await.unwrap().unwrap();
    assert_eq!((handled.handled, handled.failures, handled.given_up), (4, 6, 1));
}

#[tokio::test(start_paused = true)]
async fn at_shutdown_handlers_get_what_was_published_and_then_the_end() {
    let source = source_with([Thing::new(1, 1)]);
    let informer = polled(&source).build();
    let handle = informer.handle();
    let mut events = handle.subscribe(SubscribeOptions::default());
    let mut tasks = JoinSet::new();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    tasks.spawn(informer.run(stopped.map(|_| ())));
    handle.synced(SECOND).await.unwrap();

    drop(stop);
    tasks.join_next().await.unwrap().unwrap();

    assert_eq!(events.next().await.map(|event| short(&event)).as_deref(), Some("+1=1"));
    assert!(events.next().await.is_none());
    assert_eq!(handle.store().len(), 1);
    let mut late = handle.subscribe(SubscribeOptions::default());
    assert!(late.next().await.is_some());
    assert!(late.next().await.is_none());
}

/// Threads in earnest: a lost wake-up shows as a handler that never hears of the last change.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn handlers_on_other_threads_hear_of_everything() {
    let source = Source::watching();
    let mut tasks = JoinSet::new();
    let handle = run(SharedIndexInformer::builder(source.clone()), &mut tasks);
    handle.synced(60 * SECOND).await.unwrap();
    let mut views = JoinSet::new();
    for _ in 0..8 {
        let handle = handle.clone();
        views.spawn(async move {
            let mut events = handle.subscribe(SubscribeOptions::named("thread"));
            let mut view = std::collections::BTreeMap::new();
            loop {
                let event = events.next().await.unwrap();
                match event.current() {
                    Some(thing) => view.insert(thing.id, thing.value),
                    None => view.remove(&event.key()),
                };
                if event.key() == 255 {
                    return view;
                }
                tokio::task::yield_now().await;
            }
        });
    }

    for round in 0..200_u8 {
        for id in 0..20_u8 {
            if (id ^ round) % 7 == 0 {
                source.remove(&id);
            } else {
                source.set(Thing::new(id, round));
            }
        }
        tokio::task::yield_now().await;
    }
    // Everything before this is merged into what comes before it in the queue.
    handle
        .store()
        .wait_until(|store| store.cursor() == Some(Cursor::from(source.revision())))
        .await;
    source.set(Thing::new(255, 0));

    let there: std::collections::BTreeMap<u8, u8> =
        source.objects().into_values().map(|thing| (thing.id, thing.value)).collect();
    while let Some(view) = timeout(60 * SECOND, views.join_next()).await.unwrap() {
        assert_eq!(view.unwrap(), there);
    }
}
