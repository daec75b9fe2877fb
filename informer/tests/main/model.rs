//! Random histories of the store and of the queue, against a plain map.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use informer::{Certainty, Change, DeltaFifo, Event, Store};
use proptest::prelude::*;

use crate::Thing;

/// Few ids, so that histories meet.
pub(crate) fn thing() -> impl Strategy<Value = Thing> {
    (0..6_u8, 0..4_u8, 0..2_u8, 0..3_u8).prop_map(|(id, value, life, node)| Thing {
        id,
        value,
        life,
        node,
    })
}

/// What a consumer knows, by the events that it got.
#[derive(Default, Debug)]
pub(crate) struct View(pub(crate) BTreeMap<u8, Arc<Thing>>);

impl View {
    /// Takes in an event; says if it could not happen to something that is as we know it.
    pub(crate) fn apply(&mut self, event: &Event<Thing>) -> Result<(), String> {
        let known = self.0.contains_key(&event.key());
        match event {
            Event::Added { object, .. } => self.0.insert(object.id, object.clone()),
            Event::Modified { object, .. } | Event::Resync(object) => {
                self.0.insert(object.id, object.clone())
            }
            Event::Deleted { last, .. } => self.0.remove(&last.id),
        };
        let possible = known != matches!(event, Event::Added { .. });
        if possible { Ok(()) } else { Err(format!("{event:?} although known is {known}")) }
    }

    pub(crate) fn plain(&self) -> BTreeMap<u8, Thing> {
        self.0.iter().map(|(id, thing)| (*id, (**thing).clone())).collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set(Thing),
    Remove(u8),
    /// A consumer takes so many events.
    Take(usize),
    /// A consumer takes one event and gives it back.
    GiveBack,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => thing().prop_map(Step::Set),
        2 => (0..6_u8).prop_map(Step::Remove),
        1 => (0..4_usize).prop_map(Step::Take),
        1 => Just(Step::GiveBack),
    ];
    prop::collection::vec(step, 0..60)
}

/// What one event must be, from what the consumer knew and what there is.
fn expected(known: Option<&Arc<Thing>>, now: Option<&Thing>) -> &'static str {
    match (known, now) {
        (None, Some(_)) => "added",
        (Some(a), Some(b)) if a.life == b.life => "modified",
        // Also if another thing came under the same key: the old one goes first.
        (Some(_), _) => "deleted",
        (None, None) => "nothing",
    }
}

proptest! {
    /// A store with indexes holds what a map holds, and finds what a scan finds.
    #[test]
    fn a_store_is_a_map_with_indexes(
        steps in steps(),
        index_at in 0..60_usize,
        shards in 1..5_usize,
    ) {
        let (store, mut writer) = Store::with_shards(shards);
        let by_node = store.index(|thing: &Thing, out| out.push(thing.node));
        let mut late = None;
        let mut model = BTreeMap::new();
        for (number, step) in steps.into_iter().enumerate() {
            if number == index_at {
                late = Some(store.index(|t: &Thing, out| out.extend([t.value, t.life, t.value])));
            }
            let before = store.generation();
            let changed = match step {
                Step::Set(thing) => {
                    let changed = writer.upsert(thing.clone()).is_some();
                    prop_assert_eq!(changed, model.insert(thing.id, thing.clone()) != Some(thing));
                    changed
                }
                Step::Remove(id) => {
                    let changed = writer.remove(&id, Certainty::Observed).is_some();
                    prop_assert_eq!(changed, model.remove(&id).is_some());
                    changed
                }
                _ => false,
            };
            prop_assert_eq!(store.generation() - before, u64::from(changed));
        }

        let plain: BTreeMap<u8, Thing> =
            store.snapshot().iter().map(|thing| (thing.id, (**thing).clone())).collect();
        prop_assert_eq!(&plain, &model);
        prop_assert_eq!(store.len(), model.len());
        prop_assert_eq!(
            store.keys().into_iter().collect::<BTreeSet<_>>(),
            model.keys().copied().collect()
        );
        for id in 0..6 {
            let found = store.get(&id);
            prop_assert_eq!(found.as_deref(), model.get(&id));
        }
        let ids = |things: Vec<Arc<Thing>>| {
            let ids: Vec<u8> = things.iter().map(|thing| thing.id).collect();
            let set: BTreeSet<u8> = ids.iter().copied().collect();
            assert_eq!(ids.len(), set.len(), "an index names an object twice");
            set
        };
        let scan = |holds: &dyn Fn(&Thing) -> bool| -> BTreeSet<u8> {
            model.values().filter(|thing| holds(thing)).map(|thing| thing.id).collect()
        };
        for value in 0..4_u8 {
            prop_assert_eq!(ids(store.by(&by_node, &value)), scan(&|t| t.node == value));
            if let Some(late) = late {
                let holds = |t: &Thing| t.value == value || t.life == value;
                prop_assert_eq!(ids(store.by(&late, &value)), scan(&holds));
            }
        }
        let nodes: BTreeSet<u8> = store.values(&by_node).into_iter().collect();
        prop_assert_eq!(nodes, model.values().map(|thing| thing.node).collect());
    }

    /// The queue holds one entry per key that differs from what the consumer knows, of the kind
    /// that leads from the one to the other, in order of first arrival.
    #[test]
    fn a_delta_fifo_holds_the_shortest_way(steps in steps(), old_objects: bool) {
        let mut fifo = if old_objects { DeltaFifo::with_old_objects() } else { DeltaFifo::new() };
        let (store, mut writer) = Store::new();
        let mut known = View::default();
        let mut arrival: Vec<u8> = Vec::new();
        for step in steps {
            let change = match step {
                Step::Set(thing) => writer.upsert(thing),
                Step::Remove(id) => writer.remove(&id, Certainty::Observed),
                Step::Take(times) => {
                    for _ in 0..times {
                        take_one(&mut fifo, &mut known, &mut arrival, &store, old_objects)?;
                    }
                    None
                }
                Step::GiveBack => None,
            };
            let Some(change) = change else { continue };
            let key = change.object().id;
            fifo.push(change);
            let waits = known.0.contains_key(&key) || store.contains(&key);
            arrival.retain(|other| *other != key || waits);
            if waits && !arrival.contains(&key) {
                arrival.push(key);
            }
            prop_assert_eq!(fifo.len(), arrival.len());
        }
        while !fifo.is_empty() {
            take_one(&mut fifo, &mut known, &mut arrival, &store, old_objects)?;
        }
        let now: BTreeMap<u8, Thing> =
            store.snapshot().iter().map(|thing| (thing.id, (**thing).clone())).collect();
        prop_assert_eq!(known.plain(), now);
    }

    /// A consumer that fails now and then and gives back ends up with what there is.
    #[test]
    fn what_is_given_back_is_not_lost(steps in steps()) {
        let mut fifo = DeltaFifo::new();
        let (store, mut writer) = Store::new();
        let mut known = View::default();
        for step in steps {
            match step {
                Step::Set(thing) => {
                    if let Some(change) = writer.upsert(thing) {
                        fifo.push(change);
                    }
                }
                Step::Remove(id) => {
                    if let Some(change) = writer.remove(&id, Certainty::Observed) {
                        fifo.push(change);
                    }
                }
                Step::Take(times) => {
                    for event in (0..times).filter_map(|_| fifo.pop()).collect::<Vec<_>>() {
                        let _impossible_but_harmless = known.apply(&event);
                    }
                }
                Step::GiveBack => {
                    if let Some(event) = fifo.pop() {
                        // It may have been done all the same.
                        if event.key().is_multiple_of(2) {
                            let _impossible_but_harmless = known.apply(&event);
                        }
                        fifo.give_back(event);
                    }
                }
            }
            prop_assert!(fifo.len() <= 6);
        }
        while let Some(event) = fifo.pop() {
            let _impossible_but_harmless = known.apply(&event);
        }
        let now: BTreeMap<u8, Thing> =
            store.snapshot().iter().map(|thing| (thing.id, (**thing).clone())).collect();
        prop_assert_eq!(known.plain(), now);
    }
}

/// Takes one event and compares it with what it must be.
fn take_one(
    fifo: &mut DeltaFifo<Thing>,
    known: &mut View,
    arrival: &mut Vec<u8>,
    store: &Store<Thing>,
    old_objects: bool,
) -> Result<(), TestCaseError> {
    let Some(event) = fifo.pop() else {
        prop_assert!(arrival.is_empty());
        return Ok(());
    };
    let key = event.key();
    prop_assert_eq!(key, arrival[0]);
    let now = store.get(&key);
    let kind = expected(known.0.get(&key), now.as_deref());
    prop_assert_eq!(event.kind(), kind, "{:?}", event);
    if let Event::Modified { old, object } = &event {
        prop_assert_eq!(Some(object), now.as_ref());
        if old_objects {
            prop_assert_eq!(old.as_ref(), known.0.get(&key));
        } else {
            prop_assert!(old.is_none());
        }
    }
    prop_assert!(known.apply(&event).is_ok());
    // A delete of a thing that was replaced leaves the add in front.
    if fifo.is_empty() || known.0.contains_key(&key) || now.is_none() {
        arrival.remove(0);
    }
    Ok(())
}

#[test]
fn the_table_of_the_queue_is_true() {
    let at = |value| Arc::new(Thing::new(1, value));
    let reborn = |value| Arc::new(Thing { life: 1, ..Thing::new(1, value) });
    let added = |new| Change::Added(new);
    let modified = |old, new| Change::Modified { old, new };
    let deleted = |last| Change::Deleted { last, certainty: Certainty::Observed };
    let after = |changes: Vec<Change<Thing>>| {
        let mut fifo = DeltaFifo::with_old_objects();
        for change in changes {
            fifo.push(change);
        }
        let events = std::iter::from_fn(move || fifo.pop());
        events.map(|event| crate::short(&event)).collect::<Vec<_>>()
    };

    assert_eq!(after(vec![added(at(1)), modified(at(1), at(2))]), ["+1=2"]);
    assert_eq!(after(vec![modified(at(1), at(2)), modified(at(2), at(3))]), ["~1=3"]);
    assert!(after(vec![added(at(1)), deleted(at(1))]).is_empty());
    assert_eq!(after(vec![modified(at(1), at(2)), deleted(at(2))]), ["-1"]);
    assert_eq!(after(vec![deleted(at(1)), added(at(2))]), ["~1=2"]);
    assert_eq!(after(vec![deleted(at(1)), added(reborn(2))]), ["-1", "+1=2"]);
    assert_eq!(after(vec![deleted(at(1)), added(reborn(2)), deleted(reborn(2))]), ["-1"]);
}

#[test]
fn a_handler_that_asks_for_old_objects_gets_the_first_one() {
    let at = |value| Arc::new(Thing::new(1, value));
    let mut fifo = DeltaFifo::with_old_objects();

    fifo.push(Change::Modified { old: at(1), new: at(2) });
    fifo.push(Change::Deleted { last: at(2), certainty: Certainty::Observed });
    fifo.push(Change::Added(at(3)));

    let Some(Event::Modified { old: Some(old), object }) = fifo.pop() else {
        panic!("a modification with an old object");
    };
    assert_eq!((old.value, object.value), (1, 3));
}
