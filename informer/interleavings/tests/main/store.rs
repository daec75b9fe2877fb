//! The store: one writer, readers beside it.

use interleavings::testing::ScriptedSource;
use interleavings::{Certainty, SharedIndexInformer, Step, Store};

use crate::{Thing, block_on, every_schedule, spawn};

/// If the later of two writes is in a snapshot, the earlier one is too.
#[test]
fn a_snapshot_is_of_one_moment() {
    every_schedule(5, || {
        let (store, mut writer) = Store::with_shards(2);
        let writing = spawn(move || {
            for key in 1..=4 {
                drop(writer.upsert(Thing(key, 0)));
            }
        });

        let mut keys: Vec<u8> = store.snapshot().iter().map(|thing| thing.0).collect();

        keys.sort_unstable();
        let expected: Vec<u8> = (1..).take(keys.len()).collect();
        assert_eq!(keys, expected);
        writing.join().unwrap();
    });
}

#[test]
fn an_index_added_while_the_writer_writes_finds_what_a_scan_finds() {
    every_schedule(5, || {
        let (store, mut writer) = Store::with_shards(2);
        drop(writer.upsert(Thing(1, 0)));
        let writing = spawn(move || {
            drop(writer.upsert(Thing(1, 1)));
            drop(writer.upsert(Thing(2, 1)));
            drop(writer.upsert(Thing(3, 1)));
            drop(writer.remove(&3, Certainty::Observed));
        });

        let by_value = store.index(|thing: &Thing, out| out.push(thing.1));
        writing.join().unwrap();

        let mut found: Vec<u8> = store.by(&by_value, &1).iter().map(|thing| thing.0).collect();
        found.sort_unstable();
        assert_eq!(found, [1, 2]);
        assert!(store.by(&by_value, &0).is_empty());
    });
}

/// Readers see the old one or the new one, never neither.
#[test]
fn an_object_that_changes_is_never_gone() {
    every_schedule(5, || {
        let (store, mut writer) = Store::with_shards(1);
        drop(writer.upsert(Thing(1, 0)));
        let writing = spawn(move || {
            drop(writer.upsert(Thing(1, 1)));
            drop(writer.upsert(Thing(1, 2)));
        });

        let first = store.get(&1).map(|thing| thing.1);
        let second = store.get(&1).map(|thing| thing.1);

        assert!(first.is_some() && first <= second, "{first:?} then {second:?}");
        writing.join().unwrap();
    });
}

/// Read your write: who waits for a version wakes up when it is in the store.
#[test]
fn who_waits_for_a_condition_wakes_up_when_it_holds() {
    every_schedule(5, || {
        let source = ScriptedSource::list_only();
        source.set(Thing(1, 1));
        let informer = SharedIndexInformer::builder(source).build();
        let store = informer.store().clone();
        let mut reflector = informer.into_reflector();
        let listing = spawn(move || assert_eq!(block_on(reflector.step()), Step::Listed));

        block_on(store.wait_until(|store| store.contains(&1)));

        listing.join().unwrap();
    });
}
