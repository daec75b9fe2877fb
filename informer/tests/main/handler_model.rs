//! Random histories of handlers with filters, against what each was last told.

use std::collections::{BTreeMap, BTreeSet};

use informer::{Event, Object, Reflector, SharedIndexInformer, SubscribeOptions, Subscription};
use proptest::prelude::*;

use crate::model::thing;
use crate::{Source, Thing};

#[derive(Clone, Debug)]
enum Step {
    Set(Thing),
    Remove(u8),
    /// The source is listed.
    List,
    /// The handler takes so many events.
    Take(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => thing().prop_map(Step::Set),
        2 => (0..6_u8).prop_map(Step::Remove),
        3 => Just(Step::List),
        2 => (0..4_usize).prop_map(Step::Take),
    ];
    prop::collection::vec(step, 0..60)
}

#[derive(Clone, Copy, Debug)]
struct Wishes {
    only_small: bool,
    only_moves: bool,
    old_objects: bool,
}

impl Wishes {
    fn options(self) -> SubscribeOptions<Thing> {
        let mut options = SubscribeOptions::named("model");
        if self.only_small {
            options = options.only(|thing: &Thing| thing.value < 2);
        }
        if self.only_moves {
            options = options.changed_by(|old: &Thing, new| old.node != new.node);
        }
        if self.old_objects {
            options = options.old_objects();
        }
        options
    }

    fn passes(self, thing: &Thing) -> bool {
        !self.only_small || thing.value < 2
    }
}

struct Handler {
    wishes: Wishes,
    events: Subscription<Thing>,
    told: BTreeMap<u8, Thing>,
}

impl Handler {
    /// Takes an event and compares it with what it must be, from what was told before and what
    /// there is.
    fn take(&mut self, there: &BTreeMap<u8, Thing>) -> Result<bool, TestCaseError> {
        let Some(event) = self.events.try_next() else { return Ok(false) };
        let key = event.key();
        let told = self.told.get(&key);
        let now = there.get(&key).filter(|thing| self.wishes.passes(thing));
        let expected = match (told, now) {
            (None, Some(_)) => "added",
            (Some(told), Some(now)) if told.life == now.life => "modified",
            (Some(_), _) => "deleted",
            (None, None) => "nothing",
        };
        prop_assert_eq!(event.kind(), expected, "{:?} after {:?}", event, told);
        if let Some(current) = event.current() {
            prop_assert_eq!(Some(&**current), now, "the newest");
        }
        if let Event::Modified { old, .. } = &event {
            let asked = told.filter(|_| self.wishes.old_objects);
            if self.wishes.only_moves {
                // Of changes that it does not care for it was not told.
                let place = |thing: &Thing| (thing.id, thing.life, thing.node);
                prop_assert_eq!(old.as_deref().map(place), asked.map(place), "where it was");
            } else {
                prop_assert_eq!(old.as_deref(), asked, "what was told last");
            }
        }
        match event.current() {
            Some(thing) => self.told.insert(key, (**thing).clone()),
            None => self.told.remove(&key),
        };
        Ok(true)
    }

    /// Keys of which there is something to tell.
    fn news(&self, there: &BTreeMap<u8, Thing>) -> BTreeSet<u8> {
        let now: BTreeMap<u8, &Thing> = there
            .iter()
            .filter(|(_, thing)| self.wishes.passes(thing))
            .map(|(key, thing)| (*key, thing))
            .collect();
        let differs = |key: &u8| match (self.told.get(key), now.get(key)) {
            (Some(told), Some(now)) => {
                told.life != now.life
                    || told.node != now.node
                    || (!self.wishes.only_moves && told.version() != now.version())
            }
            (told, now) => told.is_some() != now.is_some(),
        };
        (0..6).filter(differs).collect()
    }
}

async fn history(steps: Vec<Step>, wishes: Wishes) -> Result<(), TestCaseError> {
    let source = Source::list_only();
    let informer = SharedIndexInformer::builder(source.clone()).build();
    let handle = informer.handle();
    let events = handle.subscribe(wishes.options());
    let mut handler = Handler { wishes, events, told: BTreeMap::new() };
    let mut reflector = informer.into_reflector();
    let mut there = BTreeMap::new();
    for step in steps.into_iter().chain([Step::List]) {
        match step {
            Step::Set(thing) => source.set(thing),
            Step::Remove(id) => source.remove(&id),
            Step::List => {
                list(&mut reflector).await;
                there = source.objects();
            }
            Step::Take(times) => {
                for _ in 0..times {
                    handler.take(&there)?;
                }
            }
        }
        let lag = handler.events.lag().keys;
        prop_assert!(lag >= handler.news(&there).len(), "{lag} wait");
        prop_assert!(lag <= 6, "more wait than there are keys");
    }
    while handler.take(&there)? {}
    prop_assert_eq!(handler.news(&there), BTreeSet::new());
    Ok(())
}

async fn list(reflector: &mut Reflector<Source>) {
    while reflector.step().await != informer::Step::Listed {}
}

proptest! {
    /// Whatever a handler wants to hear of, it is told the shortest way from what it knows to what
    /// there is, of every key that it wants to hear of, and of no other.
    #[test]
    fn a_handler_is_told_the_shortest_way(
        steps in steps(),
        only_small: bool,
        only_moves: bool,
        old_objects: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing");
        runtime.block_on(history(steps, Wishes { only_small, only_moves, old_objects }))?;
    }
}
