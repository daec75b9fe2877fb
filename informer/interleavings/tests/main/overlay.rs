//! Reading one's own writes while the source catches up with them.

use std::time::Duration;

use interleavings::{Certainty, Store, Until};

use crate::{Thing, every_schedule, spawn};

const TTL: Duration = Duration::from_mins(1);

/// Somebody else's older state, then ours, then a newer one arrive while we read.
#[test]
fn who_wrote_never_sees_an_older_state_nor_one_twice() {
    every_schedule(5, || {
        let (store, mut writer) = Store::with_shards(1);
        drop(writer.upsert(Thing(1, 0)));
        let overlay = store.overlay(TTL).ordered(|seen, written| seen.1 >= written.1);
        overlay.put(Thing(1, 2), Until::Changed);
        let source = spawn(move || {
            for value in 1..=3 {
                drop(writer.upsert(Thing(1, value)));
            }
        });

        let first = overlay.get(&1).map(|thing| thing.1);
        let all: Vec<u8> = overlay.snapshot().iter().map(|thing| thing.1).collect();
        let last = overlay.get(&1).map(|thing| thing.1);

        let [middle] = all[..] else { panic!("{all:?} in one snapshot of one object") };
        let seen = [first, Some(middle), last];
        assert!(first >= Some(2) && seen.is_sorted(), "{seen:?}");
        source.join().unwrap();
        assert_eq!(overlay.get(&1).map(|thing| thing.1), Some(3));
    });
}

#[test]
fn what_was_deleted_stays_away_until_the_source_has_something_new() {
    every_schedule(5, || {
        let (store, mut writer) = Store::with_shards(1);
        drop(writer.upsert(Thing(1, 0)));
        let overlay = store.overlay(TTL);
        overlay.delete(&1, Until::Changed);
        let source = spawn(move || {
            drop(writer.remove(&1, Certainty::Observed));
        });

        let seen = [overlay.get(&1).is_some(), !overlay.snapshot().is_empty()];

        assert_eq!(seen, [false, false]);
        source.join().unwrap();
        assert!(overlay.get(&1).is_none() && overlay.snapshot().is_empty());
    });
}
