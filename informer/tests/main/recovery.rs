//! Bad times, on a paused clock: hours pass in milliseconds.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt;
use informer::testing::{Fault, ScriptedSource, Violation, WatchFault, conformance};
use informer::{
    Backoff, Cursor, Decision, Event, InformerHandle, ListDone, ListWatcher, Listing, Phase,
    Replay, Retry, Scope, SharedIndexInformer, SourceError, StartGate, Step, SubscribeOptions,
};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::{HOUR, SECOND, Thing, drain, run, short};

type Source = ScriptedSource<Thing>;

fn source_with(things: impl IntoIterator<Item = Thing>) -> Source {
    let source = ScriptedSource::list_only();
    things.into_iter().for_each(|thing| source.set(thing));
    source
}

fn polled(source: &Source) -> informer::InformerBuilder<Source> {
    SharedIndexInformer::builder(source.clone()).poll_every(SECOND)
}

/// Waits for the end of a list that began after this was called.
async fn next_list(handle: &InformerHandle<Thing>) {
    for _ in 0..2 {
        let before = handle.status().last_success;
        handle.relist();
        handle.status_until(|status| status.last_success > before).await;
        sleep(Duration::from_millis(1)).await;
    }
}

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
async fn another_thing_under_the_same_key_is_a_delete_and_an_add() {
    let source = source_with([Thing::new(1, 1)]);
    let mut tasks = JoinSet::new();
    let handle = run(polled(&source), &mut tasks);
    let mut events = handle.subscribe(SubscribeOptions::default());
    handle.synced(SECOND).await.unwrap();
    assert_eq!(drain(&mut events), ["+1=1"]);

    source.set(Thing { life: 1, ..Thing::new(1, 2) });
    next_list(&handle).await;

    assert_eq!(events.next().await.map(|event| short(&event)).as_deref(), Some("-1?"));
    assert_eq!(events.next().await.map(|event| short(&event)).as_deref(), Some("+1=2"));
}

#[tokio::test(start_paused = true)]
async fn a_list_that_breaks_off_deletes_nothing() {
    let source = source_with((0..10).map(|id| Thing::new(id, 1)));
    let mut tasks = JoinSet::new();
    let handle = run(polled(&source), &mut tasks);
    handle.synced(SECOND).await.unwrap();

    source.faults((0..20).map(|_| Fault::Partial(3, SourceError::transient("reset"))));
    sleep(30 * SECOND).await;

    assert_eq!(handle.store().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn unchanged_objects_keep_their_arc_and_fire_no_event() {
    let source = source_with((0..10).map(|id| Thing::new(id, 1)));
    let mut tasks = JoinSet::new();
    let handle = run(polled(&source), &mut tasks);
    let mut events = handle.subscribe(SubscribeOptions::default());
    handle.synced(SECOND).await.unwrap();
    assert_eq!(drain(&mut events).len(), 10);
    let before = handle.store().get(&5).unwrap();
    let generation = handle.store().generation();

    source.set(Thing::new(3, 2));
    next_list(&handle).await;

    assert_eq!(drain(&mut events), ["~3=2"]);
    assert!(Arc::ptr_eq(&before, &handle.store().get(&5).unwrap()));
    assert_eq!(handle.store().generation(), generation + 1);
}

#[tokio::test(start_paused = true)]
async fn a_suspicious_list_deletes_nothing_and_does_not_count_as_synced() {
    let source = source_with((0..10).map(|id| Thing::new(id, 1)));
    source.faults((0..100).map(|_| Fault::Suspicious(4, "audit is missing".to_owned())));
    let mut tasks = JoinSet::new();
    let seeds = (0..10).map(|id| Thing::new(id, 1));
    let handle = run(polled(&source).seed(seeds), &mut tasks);

    let waiting = handle.synced(30 * SECOND).await.unwrap_err();

    assert_eq!(waiting.suspicious.as_deref(), Some("audit is missing"));
    assert!(waiting.to_string().contains("audit is missing"));
    assert_eq!(handle.store().len(), 10);
    assert_eq!(source.confirms(), 0);
    handle.synced(200 * SECOND).await.unwrap();
    assert_eq!(handle.status().suspicious, None);
}

#[tokio::test(start_paused = true)]
async fn only_scopes_that_answered_are_swept() {
    let source = source_with([Thing::new(1, 1).on(1), Thing::new(2, 1).on(2)]);
    let mut tasks = JoinSet::new();
    let handle = run(polled(&source), &mut tasks);
    handle.synced(SECOND).await.unwrap();
    let mut events = handle.subscribe(SubscribeOptions::default().replay(Replay::Nothing));
    source.remove(&1);
    source.remove(&2);

    source.faults((0..4).map(|_| Fault::Scopes(vec![Scope::of(2_u8)])));
    sleep(3 * SECOND).await;
    assert_eq!(drain(&mut events), ["-2?"]);

    source.faults([Fault::Scopes(vec![]), Fault::Scopes(vec![])]);
    sleep(10 * SECOND).await;
    assert_eq!(drain(&mut events), ["-1?"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_second_opinion_keeps_stays_and_is_asked_about_again() {
    let source = source_with((1..=3).map(|id| Thing::new(id, 1)));
    let mut tasks = JoinSet::new();
    let handle = run(polled(&source), &mut tasks);
    handle.synced(SECOND).await.unwrap();
    let mut events = handle.subscribe(SubscribeOptions::default().replay(Replay::Nothing));
    source.keep([1]);
    (1..=2).for_each(|id| source.remove(&id));

    next_list(&handle).await;
    assert_eq!(drain(&mut events), ["-2?"]);
    assert_eq!(handle.status().last_list.kept, 1);
    assert!(source.confirms() >= 1);

    source.keep_all(true);
    source.remove(&3);
    next_list(&handle).await;
    assert!(drain(&mut events).is_empty());

    source.keep_all(false);
    source.keep([]);
    next_list(&handle).await;
    assert_eq!(drain(&mut events), ["-1?", "-3?"]);
}

#[tokio::test(start_paused = true)]
async fn seeds_are_silent_until_the_first_list_differs_from_them() {
    let source = source_with([Thing::new(1, 1), Thing::new(2, 2), Thing::new(4, 1)]);
    source.faults([Fault::Error(SourceError::transient("not yet"))]);
    let informer = polled(&source).seed((1..=3).map(|id| Thing::new(id, 1))).build();
    let handle = informer.handle();
    let mut knows = handle.subscribe(SubscribeOptions::named("knows the seeds"));
    let mut wants_all = handle.subscribe(SubscribeOptions::default().replay(Replay::All));
    let mut tasks = JoinSet::new();
    tasks.spawn(informer.run(pending()));

    assert_eq!(handle.store().len(), 3);
    assert_eq!(handle.store().age(), None);
    assert!(!handle.has_synced());
    assert!(drain(&mut knows).is_empty());
    assert_eq!(drain(&mut wants_all), ["+1=1", "+2=1", "+3=1"]);

    handle.synced(10 * SECOND).await.unwrap();
    assert_eq!(drain(&mut knows), ["+4=1", "-3?", "~2=2"]);
    assert_eq!(drain(&mut wants_all), ["+4=1", "-3?", "~2=2"]);
    let mut late = handle.subscribe(SubscribeOptions::named("late"));
    assert_eq!(drain(&mut late), ["+1=1", "+2=2", "+4=1"]);
}

#[tokio::test(start_paused = true)]
async fn a_seed_that_the_first_list_lacks_is_kept_if_the_source_is_not_sure() {
    let source = source_with([]);
    source.keep([1]);
    let mut tasks = JoinSet::new();
    let handle = run(polled(&source).seed([Thing::new(1, 1), Thing::new(2, 1)]), &mut tasks);

    handle.synced(10 * SECOND).await.unwrap();

    assert_eq!(handle.store().keys(), [1]);
}

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

#[tokio::test(start_paused = true)]
async fn a_subscription_that_nobody_takes_from_is_not_synced() {
    let source = source_with([Thing::new(1, 1)]);
    let mut tasks = JoinSet::new();
    let handle = run(polled(&source), &mut tasks);
    let events = handle.subscribe(SubscribeOptions::default());

    assert!(events.monitor().synced(60 * SECOND).await.is_err());
    assert!(handle.has_synced());
}

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
async fn a_watch_goes_on_where_it_was_and_lists_again_only_when_it_must() {
    let source = ScriptedSource::watching();
    source.set(Thing::new(1, 1));
    let mut tasks = JoinSet::new();
    let handle = run(SharedIndexInformer::builder(source.clone()), &mut tasks);
    handle.synced(SECOND).await.unwrap();
    let mut events = handle.subscribe(SubscribeOptions::default());
    assert_eq!(drain(&mut events).len(), 1);

    source.watch_faults([
        WatchFault::Error(SourceError::transient("reset")),
        WatchFault::End,
        WatchFault::Duplicate,
    ]);
    source.set(Thing::new(1, 2));
    source.remove(&1);
    sleep(300 * SECOND).await;
    assert_eq!(drain(&mut events), ["-1"]);
    assert_eq!(source.lists(), 1);
    assert_eq!(handle.store().cursor(), Some(Cursor::from(3)));

    source.watch_faults([WatchFault::Error(SourceError::expired("compacted"))]);
    source.set(Thing::new(2, 1));
    sleep(300 * SECOND).await;
    assert_eq!(drain(&mut events), ["+2=1"]);
    assert_eq!(source.lists(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_watch_missed_is_repaired_by_the_next_full_list() {
    let source = ScriptedSource::watching();
    source.set(Thing::new(1, 1));
    let builder = SharedIndexInformer::builder(source.clone()).relist_every(300 * SECOND);
    let mut tasks = JoinSet::new();
    let handle = run(builder, &mut tasks);
    handle.synced(SECOND).await.unwrap();

    source.watch_faults([WatchFault::Drop, WatchFault::Drop]);
    source.remove(&1);
    source.set(Thing::new(2, 1));
    sleep(SECOND).await;
    assert_eq!(handle.store().keys(), [1]);
    sleep(400 * SECOND).await;

    assert_eq!(handle.store().keys(), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_expires_every_watch_is_not_listed_in_a_tight_loop() {
    struct Amnesiac(AtomicU32);

    impl ListWatcher for Amnesiac {
        type Object = Thing;

        async fn list(&self, into: &mut Listing<'_, Thing>) -> Result<ListDone, SourceError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            into.put(Thing::new(1, 1));
            Ok(ListDone::at(1))
        }

        fn watch(
            &self,
            _: &Cursor,
        ) -> impl futures::Stream<Item = Result<informer::WatchEvent<Thing>, SourceError>> + Send
        {
            futures::stream::iter([Err(SourceError::expired("always"))])
        }
    }

    let mut reflector =
        SharedIndexInformer::builder(Amnesiac(AtomicU32::new(0))).build().into_reflector();
    let start = Instant::now();
    while start.elapsed() < HOUR {
        assert_ne!(reflector.step().await, Step::Stopped);
    }

    let lists = reflector.source().0.load(Ordering::Relaxed);
    assert!((100..600).contains(&lists), "{lists} lists in an hour");
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_is_given_up() {
    let source = Source::watching();
    let builder = SharedIndexInformer::builder(source.clone()).idle_timeout(60 * SECOND);
    let mut tasks = JoinSet::new();
    let handle = run(builder, &mut tasks);
    handle.synced(SECOND).await.unwrap();

    sleep(HOUR).await;

    assert!(source.watches() >= 20, "{}", source.watches());
    assert_eq!(source.lists(), 1);
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

/// Pushes one thing twice.
struct Twice;

impl ListWatcher for Twice {
    type Object = Thing;

    async fn list(&self, into: &mut Listing<'_, Thing>) -> Result<ListDone, SourceError> {
        into.put(Thing::new(1, 1));
        into.put(Thing::new(1, 1));
        Ok(ListDone::complete())
    }
}

/// Shows another thing each time.
struct Restless(AtomicU32);

impl ListWatcher for Restless {
    type Object = Thing;

    async fn list(&self, into: &mut Listing<'_, Thing>) -> Result<ListDone, SourceError> {
        let value = self.0.fetch_add(1, Ordering::Relaxed).to_le_bytes()[0];
        into.put(Thing::new(1, value));
        Ok(ListDone::complete())
    }
}

#[tokio::test(start_paused = true)]
async fn conformance_tells_good_sources_from_bad_ones() {
    conformance(&source_with([Thing::new(1, 1)])).await.unwrap();
    let watching = Source::watching();
    watching.set(Thing::new(1, 1));
    conformance(&watching).await.unwrap();

    assert!(matches!(conformance(&Twice).await, Err(Violation::Twice(2, 1))));
    let restless = Restless(AtomicU32::new(0));
    assert!(matches!(conformance(&restless).await, Err(Violation::Restless(_))));
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
