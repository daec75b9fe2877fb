//! Ordered and unique indexes, against a plain map.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use informer::testing::ScriptedSource;
use informer::{
    Certainty, Event, Object, OrderedIndex, Position, SharedIndexInformer, Store, SubscribeOptions,
    UniqueIndex,
};
use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::{SECOND, Thing, run};

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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    /// A store that shrinks gives its memory back, and finds everything that is left.
    #[test]
    fn what_is_left_is_found_after_the_rest_has_gone(
        left in prop::collection::btree_set(any::<u8>(), 0..40),
        again in prop::collection::btree_set(any::<u8>(), 0..40),
        shards in 1..3_usize,
    ) {
        let (store, mut writer) = Store::with_shards(shards);
        let by_node = store.index(|thing: &Thing, out| out.push(thing.node));
        let by_value = store.ordered_index(|thing: &Thing, out| out.push(thing.value));
        let unique = store.unique_index(|thing: &Thing, out| out.push(thing.value));
        let thing = |id: u8| Thing::new(id, id / 2).on(id % 7);
        (0..=255).for_each(|id| drop(writer.upsert(thing(id))));
        let full = store.bytes_estimate(|_| 0);
        for id in (0..=255).filter(|id| !left.contains(id)) {
            drop(writer.remove(&id, Certainty::Observed));
        }
        let little = store.bytes_estimate(|_| 0);
        prop_assert!(little * 2 < full, "{little} of {full} bytes");
        for id in &again {
            drop(writer.upsert(thing(*id)));
        }

        let expected: Model = left.union(&again).map(|id| (*id, thing(*id))).collect();
        let found: Model =
            store.snapshot().iter().map(|thing| (thing.id, (**thing).clone())).collect();
        prop_assert_eq!(&found, &expected);
        for id in 0..=255 {
            prop_assert_eq!(store.contains(&id), expected.contains_key(&id));
        }
        for node in 0..7 {
            let mut found: Vec<u8> =
                store.by(&by_node, &node).iter().map(|thing| thing.id).collect();
            found.sort_unstable();
            let scan: Vec<u8> = expected.keys().copied().filter(|id| id % 7 == node).collect();
            prop_assert_eq!(found, scan);
        }
        let ordered: Vec<u8> = store.range(&by_value, ..).iter().map(|thing| thing.id).collect();
        prop_assert_eq!(ordered, expected.keys().copied().collect::<Vec<_>>());
        for value in 0..128 {
            let claimed = expected.values().any(|thing| thing.value == value);
            prop_assert_eq!(store.owner(&unique, &value).is_some(), claimed);
        }
    }
}

/// One of many: a shard has to be of some size to be worth shrinking.
#[derive(Clone)]
struct Grain(u32);

impl Object for Grain {
    type Key = u32;

    fn key(&self) -> u32 {
        self.0
    }

    fn version(&self) -> u64 {
        0
    }
}

#[tokio::test(start_paused = true)]
async fn reminders_forget_nobody_when_a_store_shrinks() {
    // In different parts of a shard, as nobody knows where one begins.
    for before in [250, 260, 270, 280, 290] {
        let source = ScriptedSource::watching();
        (0..4096).for_each(|id| source.set(Grain(id)));
        let mut tasks = JoinSet::new();
        let handle = run(SharedIndexInformer::builder(source.clone()), &mut tasks);
        handle.synced(SECOND).await.unwrap();
        let mut events = handle.subscribe(SubscribeOptions::default().resync_every(600 * SECOND));
        assert_eq!(std::iter::from_fn(|| events.try_next()).count(), 4096);
        let mut reminders = || {
            let all = std::iter::from_fn(|| events.try_next());
            let reminders = all.filter(|event| matches!(event, Event::Resync(_)));
            reminders.map(|event| event.key()).collect::<BTreeSet<u32>>()
        };
        sleep(SECOND * before).await;
        let mut reminded = reminders();
        assert!((1600..2100).contains(&reminded.len()), "{}", reminded.len());

        (0..4096).filter(|id| id % 32 != 0).for_each(|id| source.remove(&id));
        for pause in [599 - before, 2] {
            sleep(SECOND * pause).await;
            reminded.extend(reminders());
        }

        let forgotten: Vec<u32> =
            handle.store().keys().into_iter().filter(|id| !reminded.contains(id)).collect();
        assert!(forgotten.is_empty(), "{forgotten:?}");
    }
}
