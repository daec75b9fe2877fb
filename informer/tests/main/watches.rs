//! Watches that end, skip, expire or go silent.

use std::sync::atomic::{AtomicU32, Ordering};

use informer::testing::{ScriptedSource, WatchFault};
use informer::{
    Cursor, ListDone, ListWatcher, Listing, SharedIndexInformer, SourceError, Step,
    SubscribeOptions,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::{HOUR, SECOND, Source, Thing, drain, run};

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_where_it_was_and_lists_again_only_when_it_must() {
    let source = ScriptedSource::watching();
    source.set(Thing::new(1, 1));
    let mut tasks = JoinSet::new();
    let handle = run(SharedIndexInformer::builder(source.clone()), &mut tasks);
    handle.synced(SECOND).await.unwrap();
    let mut events = handle.subscribe(SubscribeOptions::default());
    assert_eq!(drain(&mut events).len(), 1);

    source.watch_faults([
        WatchFault::Error(SourceError::transient("reset")),
        WatchFault::End,
        WatchFault::Duplicate,
    ]);
    source.set(Thing::new(1, 2));
    source.remove(&1);
    sleep(300 * SECOND).await;
    assert_eq!(drain(&mut events), ["-1"]);
    assert_eq!(source.lists(), 1);
    assert_eq!(handle.store().cursor(), Some(Cursor::from(3)));

    source.watch_faults([WatchFault::Error(SourceError::expired("compacted"))]);
    source.set(Thing::new(2, 1));
    sleep(300 * SECOND).await;
    assert_eq!(drain(&mut events), ["+2=1"]);
    assert_eq!(source.lists(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_watch_missed_is_repaired_by_the_next_full_list() {
    let source = ScriptedSource::watching();
    source.set(Thing::new(1, 1));
    let builder = SharedIndexInformer::builder(source.clone()).relist_every(300 * SECOND);
    let mut tasks = JoinSet::new();
    let handle = run(builder, &mut tasks);
    handle.synced(SECOND).await.unwrap();

    source.watch_faults([WatchFault::Drop, WatchFault::Drop]);
    source.remove(&1);
    source.set(Thing::new(2, 1));
    sleep(SECOND).await;
    assert_eq!(handle.store().keys(), [1]);
    sleep(400 * SECOND).await;

    assert_eq!(handle.store().keys(), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_expires_every_watch_is_not_listed_in_a_tight_loop() {
    struct Amnesiac(AtomicU32);

    impl ListWatcher for Amnesiac {
        type Object = Thing;

        async fn list(&self, into: &mut Listing<'_, Thing>) -> Result<ListDone, SourceError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            into.put(Thing::new(1, 1));
            Ok(ListDone::at(1))
        }

        fn watch(
            &self,
            _: &Cursor,
        ) -> impl futures::Stream<Item = Result<informer::WatchEvent<Thing>, SourceError>> + Send
        {
            futures::stream::iter([Err(SourceError::expired("always"))])
        }
    }

    let mut reflector =
        SharedIndexInformer::builder(Amnesiac(AtomicU32::new(0))).build().into_reflector();
    let start = Instant::now();
    while start.elapsed() < HOUR {
        assert_ne!(reflector.step().await, Step::Stopped);
    }

    let lists = reflector.source().0.load(Ordering::Relaxed);
    assert!((100..600).contains(&lists), "{lists} lists in an hour");
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_is_given_up() {
    let source = Source::watching();
    let builder = SharedIndexInformer::builder(source.clone()).idle_timeout(60 * SECOND);
    let mut tasks = JoinSet::new();
    let handle = run(builder, &mut tasks);
    handle.synced(SECOND).await.unwrap();

    sleep(HOUR).await;

    assert!(source.watches() >= 20, "{}", source.watches());
    assert_eq!(source.lists(), 1);
}
