//! Checks of a store against its source: they find what a watch kept to itself, and nothing else.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use informer::testing::{Fault, ScriptedSource, WatchFault};
use informer::{
    Cursor, InformerBuilder, ListDone, ListWatcher, Listing, Phase, SharedIndexInformer,
    SourceError, Status, SubscribeOptions, Verification, WatchEvent,
};
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::{HOUR, SECOND, Thing, drain, run};

type Source = ScriptedSource<Thing>;

fn checked<L: ListWatcher>(source: L) -> InformerBuilder<L> {
    SharedIndexInformer::builder(source).verify_every(60 * SECOND)
}

/// What the next check comes to.
async fn next_check(handle: &informer::InformerHandle<Thing>) -> Verification {
    let at = |status: &Status| status.verified.as_ref().map(|verified| verified.at);
    let before = at(&handle.status());
    let next = handle.status_until(|status| at(status) != before);
    timeout(HOUR, next).await.unwrap().verified.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_check_finds_and_repairs_what_a_watch_kept_to_itself() {
    let source = ScriptedSource::watching();
    (1..=5).for_each(|id| source.set(Thing::new(id, 1)));
    let mut tasks = JoinSet::new();
    let handle = run(checked(source.clone()), &mut tasks);
    handle.synced(SECOND).await.unwrap();
    let mut events = handle.subscribe(SubscribeOptions::default());
    assert_eq!(drain(&mut events).len(), 5);

    source.watch_faults((0..3).map(|_| WatchFault::Drop));
    source.set(Thing::new(1, 2));
    source.remove(&2);
    source.set(Thing::new(9, 1));
    source.set(Thing::new(3, 2));
    sleep(SECOND).await;
    assert_eq!(drain(&mut events), ["~3=2"]);

    let found = next_check(&handle).await;
    assert_eq!((found.objects, found.differences), (5, 3));
    assert_eq!(found.keys, ["1", "2", "9"]);
    sleep(SECOND).await;
    assert_eq!(drain(&mut events), ["+9=1", "-2?", "~1=2"]);
    let clean = next_check(&handle).await;
    assert_eq!(clean.differences, 0);
    assert_eq!(handle.status().differences, 3);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_well_is_listed_and_otherwise_left_alone() {
    let source = ScriptedSource::watching();
    (1..=5).for_each(|id| source.set(Thing::new(id, 1)));
    let mut tasks = JoinSet::new();
    let handle = run(checked(source.clone()), &mut tasks);
    handle.synced(SECOND).await.unwrap();
    let before = handle.store().generation();

    sleep(10 * 60 * SECOND).await;

    assert!((9..=11).contains(&source.lists()), "{}", source.lists());
    assert!(source.watches() <= source.lists());
    assert_eq!(handle.store().generation(), before);
    assert_eq!(handle.status().differences, 0);
    assert_eq!(handle.status().failures, 0);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_fails_or_is_not_to_be_trusted_harms_nobody() {
    let source = ScriptedSource::watching();
    (1..=5).for_each(|id| source.set(Thing::new(id, 1)));
    let mut tasks = JoinSet::new();
    let handle = run(checked(source.clone()).list_timeout(10 * SECOND), &mut tasks);
    handle.synced(SECOND).await.unwrap();
    source.faults([
        Fault::Error(SourceError::transient("no route")),
        Fault::Hang,
        Fault::Panic,
        Fault::Suspicious(2, "two are missing".to_owned()),
        Fault::Nameless(2),
        Fault::Unreadable(2),
        Fault::Unchanged,
    ]);

    for minute in 0..10_u8 {
        source.set(Thing::new(7, minute));
        let heard = |thing: Option<&Arc<Thing>>| thing.is_some_and(|t| t.value == minute);
        handle.store().wait_for(&7, 11 * SECOND, heard).await.unwrap();
        sleep(60 * SECOND).await;
    }

    assert_eq!(handle.status().differences, 0);
    assert_eq!(handle.status().quarantined, 0);
    assert_eq!(handle.status().last_error.unwrap().class(), "transient");
    assert_eq!(handle.store().len(), 6);
}

/// Looks at the world only when its list is about to end, and can be behind or vague about it.
#[derive(Clone)]
struct Late {
    source: Source,
    pause: Arc<Mutex<Duration>>,
    /// Says that its lists are of this moment.
    pretends: Arc<Mutex<Option<u64>>>,
    /// Gives cursors without an order, and progress at even ones only.
    vague: bool,
}

impl Late {
    fn new(source: &Source, vague: bool) -> Self {
        let pause = Arc::new(Mutex::new(Duration::ZERO));
        Self { source: source.clone(), pause, pretends: Arc::default(), vague }
    }

    fn cursor(&self, number: u64) -> Cursor {
        if self.vague { Cursor::from(format!("{number}")) } else { Cursor::from(number) }
    }
}

impl ListWatcher for Late {
    type Object = Thing;

    async fn list(&self, into: &mut Listing<'_, Thing>) -> Result<ListDone, SourceError> {
        let pause = *self.pause.lock();
        sleep(pause).await;
        let done = self.source.list(into).await?;
        let ListDone::Complete { cursor } = done else { return Ok(done) };
        let at = self.pretends.lock().or(cursor.and_then(|cursor| cursor.as_u64())).unwrap_or(0);
        Ok(ListDone::at(self.cursor(at)))
    }

    fn watch(
        &self,
        since: &Cursor,
    ) -> impl Stream<Item = Result<WatchEvent<Thing>, SourceError>> + Send {
        self.source.watch(since).filter_map(|item| {
            ready(match item {
                Ok(WatchEvent::Progress(at)) => {
                    let at = at.as_u64().unwrap_or(0);
                    let said = !self.vague || at % 2 == 0;
                    said.then(|| Ok(WatchEvent::Progress(self.cursor(at))))
                }
                other => Some(other),
            })
        })
    }
}

#[tokio::test(start_paused = true)]
async fn what_had_merely_not_arrived_is_no_difference() {
    for vague in [false, true] {
        let source = ScriptedSource::watching();
        (1..=4).for_each(|id| source.set(Thing::new(id, 1)));
        let late = Late::new(&source, vague);
        let mut tasks = JoinSet::new();
        let handle = run(checked(late.clone()), &mut tasks);
        handle.synced(SECOND).await.unwrap();
        let mut events = handle.subscribe(SubscribeOptions::default());
        assert_eq!(drain(&mut events).len(), 4);

        // The watch is broken off, the world goes on, and then the list looks at it.
        *late.pause.lock() = 30 * SECOND;
        for phase in [Phase::Watching, Phase::Listing] {
            handle.status_until(|status| status.phase == phase).await;
        }
        source.watch_faults([WatchFault::Drop]);
        source.set(Thing::new(4, 2));
        (1..=2).for_each(|id| source.set(Thing::new(id, 2)));
        source.remove(&3);
        source.set(Thing::new(5, 1));
        *late.pause.lock() = Duration::ZERO;

        let found = next_check(&handle).await;
        assert_eq!((found.differences, &*found.keys), (1, &["4".to_owned()][..]), "{vague}");
        sleep(SECOND).await;
        assert_eq!(drain(&mut events), ["+5=1", "-3", "~1=2", "~2=2", "~4=2"], "{vague}");
        assert_eq!(next_check(&handle).await.differences, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_older_than_the_store_proves_nothing() {
    let source = ScriptedSource::watching();
    source.set(Thing::new(1, 1));
    let late = Late::new(&source, false);
    let mut tasks = JoinSet::new();
    let handle = run(checked(late.clone()), &mut tasks);
    handle.synced(SECOND).await.unwrap();
    *late.pretends.lock() = Some(1);
    source.watch_faults([WatchFault::Drop]);
    source.set(Thing::new(1, 2));

    sleep(10 * 60 * SECOND).await;

    assert!(handle.status().verified.is_none());
    assert!(source.lists() > 5);
    *late.pretends.lock() = None;
    assert_eq!(next_check(&handle).await.differences, 1);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_only_listed_is_not_checked_besides() {
    let source = ScriptedSource::list_only();
    source.set(Thing::new(1, 1));
    let mut tasks = JoinSet::new();
    let handle = run(checked(source.clone()).poll_every(SECOND), &mut tasks);
    handle.synced(SECOND).await.unwrap();

    sleep(600 * SECOND).await;

    assert!((500..700).contains(&source.lists()));
    assert!(handle.status().verified.is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Checks find something if, and only if, something was kept from the store that no later
    /// change has told it all the same; and then the store equals the source.
    #[test]
    fn checks_find_what_was_dropped_and_nothing_else(
        acts in prop::collection::vec((0..5_u8, 0..9_u8, any::<bool>(), 0..50_u64), 1..30),
        lists_take in 0..50_u64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing");
        runtime.block_on(async {
            let source = Source::watching();
            let late = Late::new(&source, false);
            let mut tasks = JoinSet::new();
            let handle = run(checked(late.clone()), &mut tasks);
            handle.synced(SECOND).await.unwrap();
            *late.pause.lock() = Duration::from_secs(lists_take);
            let mut drops = false;
            for (id, value, dropped, pause) in acts {
                sleep(Duration::from_secs(pause)).await;
                let changes = value != 0 || source.objects().contains_key(&id);
                if dropped && changes {
                    source.watch_faults([WatchFault::Drop]);
                    drops = true;
                }
                if value == 0 { source.remove(&id) } else { source.set(Thing::new(id, value)) }
            }
            sleep(HOUR).await;
            let there: Vec<Thing> = source.objects().into_values().collect();
            let mut ours: Vec<Thing> =
                handle.store().snapshot().iter().map(|thing| (**thing).clone()).collect();
            ours.sort_unstable_by_key(|thing| thing.id);
            prop_assert_eq!(ours, there);
            prop_assert!(drops || handle.status().differences == 0);
            Ok(())
        })?;
    }
}
