//! Reading your own writes: waiting until the store has them, and laying them over it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use informer::testing::{Fault, ScriptedSource};
use informer::{
    Certainty, Cursor, Object, Scope, SharedIndexInformer, SourceError, Store, StoreWriter, Until,
};
use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::{HOUR, SECOND, Thing, run};

#[tokio::test(start_paused = true)]
async fn one_waits_for_what_one_wrote_and_for_its_end() {
    let source = ScriptedSource::watching();
    let mut tasks = JoinSet::new();
    let handle = run(SharedIndexInformer::builder(source.clone()), &mut tasks);
    let store = handle.store().clone();
    let writer = source.clone();
    tasks.spawn(async move {
        sleep(10 * SECOND).await;
        writer.set(Thing::new(1, 5));
        sleep(10 * SECOND).await;
        writer.remove(&1);
    });

    let is_five = |thing: Option<&Arc<Thing>>| thing.is_some_and(|thing| thing.value == 5);
    let late = store.wait_for(&1, SECOND, is_five).await.unwrap_err();
    assert_eq!(late.cursor, Some(Cursor::from(0)));
    let found = store.wait_for(&1, HOUR, is_five).await.unwrap();
    assert_eq!(found.unwrap().value, 5);
    assert_eq!(store.wait_for(&1, HOUR, |thing| thing.is_none()).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_store_gets_at_least_as_far_as_a_cursor() {
    let source = ScriptedSource::watching();
    let mut tasks = JoinSet::new();
    let handle = run(SharedIndexInformer::builder(source.clone()), &mut tasks);
    handle.synced(SECOND).await.unwrap();
    let store = handle.store();

    (1..=3).for_each(|id| source.set(Thing::new(id, 1)));
    store.ensure_at_least(&Cursor::from(2), SECOND).await.unwrap();
    assert!(store.len() >= 2);
    store.ensure_at_least(&Cursor::from(1), Duration::ZERO).await.unwrap();
    assert!(store.ensure_at_least(&Cursor::from(4), HOUR).await.is_err());

    // A text has no order, so only a list that begins from now on is certain to be far enough.
    let text = Cursor::from("somewhere behind us");
    assert!(store.ensure_at_least(&text, HOUR).await.is_err());
    let other = handle.clone();
    tasks.spawn(async move {
        sleep(SECOND).await;
        other.relist();
    });
    store.ensure_at_least(&text, 10 * SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refresh_shows_what_was_written_before_it() {
    let source = ScriptedSource::list_only();
    let builder = SharedIndexInformer::builder(source.clone()).poll_every(HOUR);
    let mut tasks = JoinSet::new();
    let handle = run(builder, &mut tasks);
    handle.synced(SECOND).await.unwrap();
    sleep(SECOND).await;

    // A list that has begun already may not have it: another one must follow.
    source.faults([Fault::Slow(10 * SECOND)]);
    handle.relist();
    sleep(SECOND).await;
    source.set(Thing::new(1, 1));
    handle.refresh(60 * SECOND).await.unwrap();
    assert_eq!(handle.store().keys(), [1]);
    assert_eq!(source.lists(), 3);

    // Nor will one do of which a part failed.
    source.faults([
        Fault::Scopes(vec![Scope::of(0_u8)]),
        Fault::Error(SourceError::transient("no route")),
        Fault::Hang,
    ]);
    let waited = handle.refresh(60 * SECOND).await.unwrap_err();
    assert!(!waited.stopped);

    tasks.shutdown().await;
    assert!(handle.refresh(HOUR).await.unwrap_err().stopped);
}

fn store_with(things: impl IntoIterator<Item = Thing>) -> (Store<Thing>, StoreWriter<Thing>) {
    let (store, mut writer) = Store::new();
    for thing in things {
        drop(writer.upsert(thing));
    }
    (store, writer)
}

#[tokio::test(start_paused = true)]
async fn a_write_is_shown_until_the_source_shows_anything_new_or_its_time_is_over() {
    let (store, mut writer) = store_with((0..4).map(|id| Thing::new(id, 1)));
    let overlay = store.overlay(30 * SECOND);
    let value = |id: u8| overlay.get(&id).map(|thing| thing.value);

    (0..4).for_each(|id| overlay.put(Thing::new(id, 2), Until::Changed));
    overlay.put(Thing::new(9, 2), Until::Changed);
    drop(writer.upsert(Thing::new(1, 2))); // ours arrived
    drop(writer.upsert(Thing::new(2, 3))); // somebody else's did
    drop(writer.remove(&3, Certainty::Observed));

    assert_eq!([0, 1, 2, 3, 9].map(value), [Some(2), Some(2), Some(3), None, Some(2)]);
    assert_eq!(overlay.pending(), 2);
    assert_eq!(store.get(&0).unwrap().value, 1, "the store stays as the source has it");
    drop(writer.upsert(Thing::new(0, 1).on(1)));
    assert_eq!(value(0), Some(1), "back to the old value is a change, too");
    sleep(30 * SECOND).await;
    assert_eq!(value(9), None);
    assert_eq!(overlay.pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_came_while_the_request_was_out_is_not_hidden() {
    let (store, mut writer) = store_with([Thing::new(1, 1)]);
    let overlay = store.overlay(HOUR);

    let write = overlay.begin(&1);
    drop(writer.upsert(Thing::new(1, 9)));
    write.wrote(Thing::new(1, 2), Until::Changed);

    assert_eq!(overlay.get(&1).unwrap().value, 9);
    drop(overlay.begin(&1));
    assert_eq!(overlay.pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn ones_own_earlier_writes_are_nothing_new() {
    let (store, mut writer) = store_with([Thing::new(1, 1)]);
    let overlay = store.overlay(HOUR);
    (2..5).for_each(|value| overlay.put(Thing::new(1, value), Until::Changed));

    for value in 2..4 {
        drop(writer.upsert(Thing::new(1, value)));
        assert_eq!(overlay.get(&1).unwrap().value, 4);
    }

    drop(writer.upsert(Thing::new(1, 7)));
    assert_eq!(overlay.get(&1).unwrap().value, 7);
}

#[tokio::test(start_paused = true)]
async fn a_delete_is_laid_over_like_any_other_write() {
    let (store, mut writer) = store_with((0..3).map(|id| Thing::new(id, 1)));
    let by_value = store.index(|thing: &Thing, out| out.push(thing.value));
    let overlay = store.overlay(HOUR);

    overlay.delete(&0, Until::Changed);
    overlay.delete(&1, Until::Changed);
    overlay.put(Thing::new(2, 7), Until::Changed);
    overlay.put(Thing::new(8, 1), Until::Changed);
    drop(writer.upsert(Thing::new(1, 1).on(3))); // it is back, or was never gone

    let ids = |things: Vec<Arc<Thing>>| things.iter().map(|t| t.id).collect::<BTreeSet<_>>();
    assert_eq!(overlay.get(&0), None);
    assert_eq!(ids(overlay.snapshot()), BTreeSet::from([1, 2, 8]));
    assert_eq!(ids(overlay.by(&by_value, &1)), BTreeSet::from([1, 8]));
    assert_eq!(ids(overlay.by(&by_value, &7)), BTreeSet::from([2]));
    drop(writer.remove(&0, Certainty::Observed));
    drop(writer.upsert(Thing::new(0, 5)));
    assert_eq!(overlay.get(&0).unwrap().value, 5);
    overlay.forget(&8);
    assert_eq!(overlay.get(&8), None);
}

#[tokio::test(start_paused = true)]
async fn a_version_or_a_cursor_says_exactly_when_the_source_has_it() {
    let source = ScriptedSource::watching();
    source.set(Thing::new(1, 1));
    source.set(Thing::new(2, 1));
    let mut tasks = JoinSet::new();
    let handle = run(SharedIndexInformer::builder(source.clone()), &mut tasks);
    handle.synced(SECOND).await.unwrap();
    let overlay = handle.store().overlay(HOUR);

    overlay.put(Thing::new(1, 5), Until::Version(Thing::new(1, 6).version()));
    overlay.put(Thing::new(2, 5), Until::Cursor(Cursor::from(6)));
    overlay.delete(&3, Until::Cursor(Cursor::from(6)));
    source.set(Thing::new(1, 2));
    source.set(Thing::new(2, 2));
    source.set(Thing::new(3, 2));
    sleep(SECOND).await;
    let shown = || [1, 2, 3].map(|id| overlay.get(&id).map(|thing| thing.value));
    assert_eq!(shown(), [Some(5), Some(5), None], "older changes are on their way");

    source.set(Thing::new(1, 6));
    sleep(SECOND).await;
    assert_eq!(shown(), [Some(6), Some(2), Some(2)]);
}

proptest! {
    /// With an order, and a store that lags behind the source by any number of changes: nobody
    /// who reads through the overlay sees less than what they wrote, nor less than the store.
    #[test]
    fn in_order_nothing_older_is_shown_and_nothing_newer_hidden(
        acts in prop::collection::vec((0..3_u8, any::<bool>()), 1..40),
    ) {
        let (store, mut writer) = Store::new();
        let overlay = store.overlay(HOUR).ordered(|seen: &Thing, written| seen.value >= written.value);
        let mut pipeline = std::collections::VecDeque::new();
        let (mut revision, mut mine) = (0, 0);
        for (act, begins_early) in acts {
            let write = begins_early.then(|| overlay.begin(&1));
            match act {
                0 => {
                    revision += 1;
                    pipeline.push_back(revision);
                }
                1 => if let Some(next) = pipeline.pop_front() {
                    drop(writer.upsert(Thing::new(1, next)));
                },
                _ => {
                    revision += 1;
                    pipeline.push_back(revision);
                    mine = revision;
                    match write {
                        Some(write) => write.wrote(Thing::new(1, mine), Until::Changed),
                        None => overlay.put(Thing::new(1, mine), Until::Changed),
                    }
                }
            }
            let seen = store.get(&1).map_or(0, |thing| thing.value);
            let shown = overlay.get(&1).map_or(0, |thing| thing.value);
            prop_assert_eq!(shown, seen.max(mine));
            let all: Vec<u8> = overlay.snapshot().iter().map(|thing| thing.value).collect();
            prop_assert_eq!(all, if shown == 0 { vec![] } else { vec![shown] });
        }
    }
}

/// At one moment, nothing is more than one round ahead of anything else.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_snapshot_and_a_range_are_of_one_moment() {
    let (store, mut writer) = store_with((0..=200).map(|id| Thing::new(id, 0)));
    let by_key = store.ordered_index(|_: &Thing, out| out.push(()));
    let by_id = store.unique_index(|thing: &Thing, out| out.push(thing.id));
    let mut readers = JoinSet::new();
    for ranges in [false, true] {
        let (store, by_id) = (store.clone(), by_id.clone());
        readers.spawn_blocking(move || {
            let (mut last, mut looks) = (0, 0_u32);
            while last < 200 {
                let all = if ranges { store.range(&by_key, ..) } else { store.snapshot() };
                let mut values = [0; 201];
                for thing in &all {
                    values[usize::from(thing.id)] = thing.value;
                }
                // The writer goes through the ids in order: those behind it are one round ahead
                // of those before it.
                let rounds = values.windows(2).filter(|pair| pair[0] != pair[1]).count();
                assert!(all.len() == 201 && rounds <= 1, "two moments in one: {values:?}");
                assert!((0..=200).all(|id| store.owner(&by_id, &id).is_some()), "nobody's value");
                last = values[200];
                looks += 1;
            }
            looks
        });
    }

    for round in 1..=200 {
        for id in 0..=200 {
            drop(writer.upsert(Thing::new(id, round)));
        }
    }

    while let Some(looks) = readers.join_next().await {
        assert!(looks.unwrap() > 0);
    }
}
