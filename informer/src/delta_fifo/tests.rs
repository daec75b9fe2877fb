//! Histories that are long enough for what is done seldom.

use std::collections::BTreeMap;

use super::*;

#[derive(Debug, Eq, PartialEq)]
struct Thing(u32, u64);

impl Object for Thing {
    type Key = u32;

    fn key(&self) -> u32 {
        self.0
    }

    fn version(&self) -> u64 {
        self.1
    }
}

/// A store, a queue and a consumer, and a history of many keys: long enough for the queue to
/// throw out what is stale and to fill its holes.
struct World {
    fifo: DeltaFifo<Thing>,
    store: BTreeMap<u32, Arc<Thing>>,
    known: BTreeMap<u32, u64>,
    random: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let (store, known) = (BTreeMap::new(), BTreeMap::new());
        Self { fifo: DeltaFifo::new(), store, known, random: seed * 2 + 1 }
    }

    fn draw(&mut self, below: u32) -> u32 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        u32::try_from(self.random >> 33).unwrap() % below
    }

    fn change(&mut self, key: u32, version: u64) {
        let change = if self.draw(3) == 0 {
            let Some(last) = self.store.remove(&key) else { return };
            Change::Deleted { last, certainty: Certainty::Observed }
        } else {
            let new = Arc::new(Thing(key, version));
            match self.store.insert(key, new.clone()) {
                None => Change::Added(new),
                Some(old) => Change::Modified { old, new },
            }
        };
        self.fifo.push_stored(&change, table_hash(&key), false, Instant::now());
    }

    fn take(&mut self) {
        let Some(event) = self.fifo.pop() else { return };
        if self.draw(20) == 0 {
            self.fifo.give_back(event);
            return;
        }
        match event {
            Event::Deleted { last, .. } => self.known.remove(&last.0),
            other => self.known.insert(other.object().0, other.object().1),
        };
    }
}

#[test]
fn a_consumer_that_lags_and_catches_up_ends_with_what_there_is() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        for version in 0..20_000 {
            let key = world.draw(700);
            world.change(key, version);
            // Behind most of the time, and all done now and then.
            let times = if world.draw(500) == 0 { 1000 } else { world.draw(2) };
            (0..times).for_each(|_| world.take());

            assert!(world.fifo.len() <= 700, "seed {seed}");
            assert!(world.fifo.line.holes() <= world.fifo.len() + STALE, "seed {seed}");
        }
        while !world.fifo.is_empty() {
            world.take();
        }

        let there: BTreeMap<_, _> = world.store.values().map(|thing| (thing.0, thing.1)).collect();
        assert_eq!(world.known, there, "seed {seed}");
    }
}

/// The first in the queue stays, and everything behind it comes and goes.
#[test]
fn a_stuck_consumer_costs_no_more_than_there_are_keys() {
    let mut fifo = DeltaFifo::new();
    fifo.push(Change::Added(Arc::new(Thing(0, 0))));
    for version in 0..100_000 {
        let thing = Arc::new(Thing(1, version));
        fifo.push(Change::Added(thing.clone()));
        fifo.push(Change::Deleted { last: thing, certainty: Certainty::Observed });
    }

    assert_eq!(fifo.len(), 1);
    assert!(fifo.line.holes() <= 1 + STALE);
    assert!(fifo.table.len() <= 2 + STALE);
    assert!(matches!(fifo.pop(), Some(Event::Added { object, .. }) if object.0 == 0));
}
