//! What a list may take away, and what it leaves as it is.

use std::future::pending;
use std::sync::Arc;

use informer::testing::{Fault, ScriptedSource};
use informer::{Replay, Scope, SharedIndexInformer, SourceError, SubscribeOptions};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::{SECOND, Thing, drain, next_list, polled, run, short, source_with};

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

/// What changes while the pages come is in none of them; the watch goes on from where they began.
#[tokio::test(start_paused = true)]
async fn pages_are_readable_as_they_come_and_the_watch_brings_what_changed_meanwhile() {
    let source = ScriptedSource::watching();
    (0..6).for_each(|id| source.set(Thing::new(id, 1)));
    source.faults([Fault::Paged(2, 10 * SECOND)]);
    let mut tasks = JoinSet::new();
    let handle = run(SharedIndexInformer::builder(source.clone()), &mut tasks);
    let mut events = handle.subscribe(SubscribeOptions::default());

    sleep(5 * SECOND).await;
    assert_eq!(drain(&mut events), ["+0=1", "+1=1"]);
    source.remove(&0);
    source.set(Thing::new(5, 2));
    sleep(10 * SECOND).await;
    assert_eq!(drain(&mut events), ["+2=1", "+3=1"]);
    assert!(!handle.has_synced());

    sleep(10 * SECOND).await;
    assert_eq!(drain(&mut events), ["+4=1", "+5=2", "-0"]);
    assert!(handle.has_synced());
}
