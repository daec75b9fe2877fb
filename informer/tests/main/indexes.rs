//! Ordered and unique indexes, against a plain map.

use std::collections::BTreeMap;
use std::ops::Bound;

use informer::{Certainty, OrderedIndex, Position, Store, UniqueIndex};
use proptest::prelude::*;

use crate::Thing;

type Model = BTreeMap<u8, Thing>;

#[derive(Clone, Debug)]
enum Step {
    Set(Thing),
    Remove(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let thing = (0..12_u8, 0..6_u8, 0..6_u8).prop_map(|(id, value, node)| Thing {
        id,
        value,
        life: 0,
        node,
    });
    let step = prop_oneof![
        3 => thing.prop_map(Step::Set),
        1 => (0..12_u8).prop_map(Step::Remove),
    ];
    prop::collection::vec(step, 0..80)
}

/// Two values each, which may be the same.
fn values(thing: &Thing, out: &mut Vec<u8>) {
    out.extend([thing.value, thing.node]);
}

fn bound() -> impl Strategy<Value = Bound<u8>> {
    prop_oneof![
        (0..7_u8).prop_map(Bound::Included),
        (0..7_u8).prop_map(Bound::Excluded),
        Just(Bound::Unbounded),
    ]
}

/// What lies in a range, by value and then by key.
fn scan(model: &Model, range: (Bound<u8>, Bound<u8>)) -> Vec<(u8, u8)> {
    use std::ops::RangeBounds;
    let mut all: Vec<(u8, u8)> = model
        .values()
        .flat_map(|thing| [(thing.value, thing.id), (thing.node, thing.id)])
        .filter(|(value, _)| range.contains(value))
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn pages(
    store: &Store<Thing>,
    index: &OrderedIndex<Thing, u8>,
    range: (Bound<u8>, Bound<u8>),
    limit: usize,
) -> Vec<u8> {
    let mut ids = Vec::new();
    let mut after: Option<Position<u8, u8>> = None;
    loop {
        let page = store.page(index, range, after.as_ref(), limit);
        assert!(page.objects.len() <= limit);
        ids.extend(page.objects.iter().map(|thing| thing.id));
        match page.next {
            Some(next) => {
                assert_eq!(page.objects.len(), limit);
                after = Some(next);
            }
            None => return ids,
        }
    }
}

proptest! {
    /// A range, in one piece or in pages, is what a sorted scan finds, however many shards there
    /// are and whether the index was there from the start.
    #[test]
    fn an_ordered_index_is_a_sorted_map(
        steps in steps(),
        shards in 1..9_usize,
        index_at in 0..80_usize,
        range in (bound(), bound()),
        limit in 1..5_usize,
    ) {
        let (store, mut writer) = Store::with_shards(shards);
        let mut index = None;
        let mut model = Model::new();
        for (number, step) in steps.into_iter().enumerate() {
            if number == index_at {
                index = Some(store.ordered_index(values));
            }
            match step {
                Step::Set(thing) => {
                    drop(writer.upsert(thing.clone()));
                    model.insert(thing.id, thing);
                }
                Step::Remove(id) => {
                    drop(writer.remove(&id, Certainty::Observed));
                    model.remove(&id);
                }
            }
        }
        let index = index.unwrap_or_else(|| store.ordered_index(values));

        let expected: Vec<u8> = scan(&model, range).into_iter().map(|(_, id)| id).collect();
        let found: Vec<u8> = store.range(&index, range).iter().map(|thing| thing.id).collect();
        prop_assert_eq!(&found, &expected);
        prop_assert_eq!(pages(&store, &index, range, limit), expected);
    }

    /// The first to claim a value has it until it goes or gives it up; nobody is ever lost.
    #[test]
    fn a_unique_index_knows_who_came_first(steps in steps(), shards in 1..9_usize) {
        let (store, mut writer) = Store::with_shards(shards);
        let index: UniqueIndex<Thing, u8> = store.unique_index(values);
        let mut model = Model::new();
        let mut claims: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        for step in steps {
            let (id, now) = match step {
                Step::Set(thing) => {
                    drop(writer.upsert(thing.clone()));
                    model.insert(thing.id, thing.clone());
                    (thing.id, vec![thing.value, thing.node])
                }
                Step::Remove(id) => {
                    drop(writer.remove(&id, Certainty::Observed));
                    model.remove(&id);
                    (id, vec![])
                }
            };
            for (value, claimants) in &mut claims {
                claimants.retain(|other| *other != id || now.contains(value));
            }
            for value in now {
                let claimants = claims.entry(value).or_default();
                if !claimants.contains(&id) {
                    claimants.push(id);
                }
            }
        }

        prop_assert_eq!(store.len(), model.len());
        for value in 0..6_u8 {
            let claimants = claims.get(&value).map_or(&[][..], Vec::as_slice);
            let owner = store.owner(&index, &value);
            prop_assert_eq!(owner.as_ref().map(|thing| thing.id), claimants.first().copied());
            // What the index shows is what the store shows.
            prop_assert_eq!(owner.as_deref(), claimants.first().and_then(|id| model.get(id)));
        }
        let mut quarrels: Vec<(u8, Vec<u8>)> = store
            .conflicts(&index)
            .into_iter()
            .map(|conflict| {
                let all = [conflict.owner].into_iter().chain(conflict.rivals);
                (conflict.value, all.map(|thing| thing.id).collect())
            })
            .collect();
        quarrels.sort_unstable();
        let expected: Vec<_> = claims.into_iter().filter(|(_, all)| all.len() > 1).collect();
        prop_assert_eq!(store.conflict_count(), expected.len());
        prop_assert_eq!(quarrels, expected);
    }
}

#[test]
fn pages_show_what_stays_exactly_once_whatever_comes_and_goes() {
    let (store, mut writer) = Store::new();
    let by_value = store.ordered_index(|thing: &Thing, out| out.push(thing.value));
    for id in 0..10 {
        drop(writer.upsert(Thing::new(id, id * 10)));
    }
    let first = store.page(&by_value, .., None, 4);
    let ids: Vec<u8> = first.objects.iter().map(|thing| thing.id).collect();
    assert_eq!(ids, [0, 1, 2, 3]);

    drop(writer.remove(&3, Certainty::Observed)); // the one that the next page goes on from
    drop(writer.upsert(Thing::new(20, 5))); // behind us
    drop(writer.upsert(Thing::new(21, 45))); // before us

    let later = store.page(&by_value, 80.., first.next.as_ref(), 100);
    assert_eq!(later.objects.len(), 2, "a position before the range adds nothing to it");
    let rest = store.page(&by_value, .., first.next.as_ref(), 100);
    let ids: Vec<u8> = rest.objects.iter().map(|thing| thing.id).collect();
    assert_eq!(ids, [4, 21, 5, 6, 7, 8, 9]);
    assert!(rest.next.is_none());
}

#[test]
fn all_objects_come_in_the_order_of_their_keys() {
    let (store, mut writer) = Store::new();
    for id in [7, 3, 200, 0] {
        drop(writer.upsert(Thing::new(id, 255 - id)));
    }

    let by_key = store.ordered_index(|_: &Thing, out| out.push(()));

    let ids: Vec<u8> = store.range(&by_key, ..).iter().map(|thing| thing.id).collect();
    assert_eq!(ids, [0, 3, 7, 200]);
    let after = Position { value: (), key: 3 };
    let page = store.page(&by_key, .., Some(&after), 1);
    assert_eq!((page.objects[0].id, page.next.map(|next| next.key)), (7, Some(7)));
}
