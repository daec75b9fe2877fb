//! Handlers on threads of their own: joining, waiting and leaving while the source changes.

use std::collections::BTreeMap;

use interleavings::testing::ScriptedSource;
use interleavings::{Event, InformerHandle, Reflector, SharedIndexInformer, SubscribeOptions};

use crate::{Thing, block_on, every_schedule, spawn};

type Source = ScriptedSource<Thing>;

fn informer(source: &Source) -> (Reflector<Source>, InformerHandle<Thing>) {
    let informer = SharedIndexInformer::builder(source.clone()).build();
    let handle = informer.handle();
    (informer.into_reflector(), handle)
}

/// Subscribes, and follows until the end.
fn follow(handle: &InformerHandle<Thing>) -> BTreeMap<u8, u8> {
    let mut events = handle.subscribe(SubscribeOptions::default());
    let mut view = BTreeMap::new();
    while let Some(event) = block_on(events.next()) {
        let known = view.contains_key(&event.key());
        assert_eq!(known, !matches!(event, Event::Added { .. }), "{event:?}");
        match event.current() {
            Some(thing) => view.insert(thing.0, thing.1),
            None => view.remove(&event.key()),
        };
    }
    view
}

#[test]
fn who_joins_at_any_moment_of_a_list_ends_with_what_was_listed() {
    every_schedule(3, || {
        let source = Source::list_only();
        source.set(Thing(1, 1));
        source.set(Thing(2, 1));
        let (mut reflector, handle) = informer(&source);
        let joining = spawn(move || follow(&handle));

        block_on(reflector.step());
        drop(reflector);

        assert_eq!(joining.join().unwrap(), BTreeMap::from([(1, 1), (2, 1)]));
    });
}

/// kube-rs 5.0.0 leaves a subscriber asleep for ever if the object of an event is gone by the
/// time it looks.
#[test]
fn an_object_that_comes_and_goes_puts_nobody_to_sleep_for_ever() {
    every_schedule(2, || {
        let source = Source::list_only();
        let (mut reflector, handle) = informer(&source);
        let asking = handle.clone();
        let sleeping = spawn(move || follow(&handle));

        source.set(Thing(1, 1));
        block_on(reflector.step());
        source.remove(&1);
        source.set(Thing(2, 1));
        // Time stands still here, so no poll is ever due: this one is asked for.
        asking.relist();
        block_on(reflector.step());
        block_on(reflector.step());
        drop(reflector);

        assert_eq!(sleeping.join().unwrap(), BTreeMap::from([(2, 1)]));
    });
}

#[test]
fn who_leaves_in_the_middle_disturbs_nobody() {
    every_schedule(4, || {
        let source = Source::list_only();
        source.set(Thing(1, 1));
        let (mut reflector, handle) = informer(&source);
        let leaving = handle.clone();
        let stays = handle.subscribe(SubscribeOptions::default());
        let leaver = spawn(move || {
            let mut events = leaving.subscribe(SubscribeOptions::default());
            events.try_next().map(|event| event.key())
        });

        block_on(reflector.step());
        drop(reflector);

        assert!(leaver.join().unwrap().is_none_or(|key| key == 1));
        let mut stays = stays;
        assert!(matches!(block_on(stays.next()), Some(Event::Added { .. })));
        assert!(block_on(stays.next()).is_none());
        assert_eq!(handle.lags().len(), 1);
    });
}
