//! Objects that cannot be taken: they are put aside, and nobody else suffers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use informer::testing::{Fault, ScriptedSource, WatchFault};
use informer::{
    Certainty, InformerHandle, ListDone, ListWatcher, Listing, Object, Offered, Scope,
    SharedIndexInformer, SourceError, Store, SubscribeOptions,
};
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::{HOUR, SECOND, Thing, drain, run};

fn aside(handle: &InformerHandle<Thing>) -> Vec<Option<u8>> {
    handle.quarantine().into_iter().map(|case| case.key).collect()
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_keeps_its_old_state_and_blocks_nobody() {
    let source = ScriptedSource::list_only();
    (1..=4).for_each(|id| source.set(Thing::new(id, 1)));
    let told = Arc::new(AtomicU32::new(0));
    let telling = told.clone();
    let builder =
        SharedIndexInformer::builder(source.clone()).poll_every(HOUR).on_reject(move |case| {
            assert_eq!(case.error.to_string(), "the script says so");
            telling.fetch_add(1, Ordering::Relaxed);
        });
    let mut tasks = JoinSet::new();
    let handle = run(builder, &mut tasks);
    handle.synced(SECOND).await.unwrap();
    let mut events = handle.subscribe(SubscribeOptions::default());
    assert_eq!(drain(&mut events).len(), 4);

    (1..=3).for_each(|id| source.set(Thing::new(id, 2)));
    source.remove(&4);
    for times in 1..=2 {
        source.faults([Fault::Unreadable(2)]);
        handle.refresh(SECOND).await.unwrap();
        assert_eq!(aside(&handle), [Some(1), Some(2)]);
        assert_eq!(handle.quarantine()[0].times, times);
        assert_eq!(handle.status().quarantined, 2);
        assert_eq!(handle.status().last_list.rejected, 2);
    }
    assert_eq!(drain(&mut events), ["-4?", "~3=2"], "the others come and go");
    assert_eq!(handle.store().get(&1).unwrap().value, 1, "as it was");
    assert_eq!(told.load(Ordering::Relaxed), 4);

    source.remove(&2);
    handle.refresh(SECOND).await.unwrap();
    assert_eq!(drain(&mut events), ["-2?", "~1=2"]);
    assert!(handle.quarantine().is_empty());
    assert_eq!(handle.status().quarantined, 0);
}

#[tokio::test(start_paused = true)]
async fn while_something_has_no_name_nothing_is_taken_out() {
    let source = ScriptedSource::list_only();
    (0..150).for_each(|id| source.set(Thing::new(id, 1)));
    let builder = SharedIndexInformer::builder(source.clone()).poll_every(HOUR);
    let mut tasks = JoinSet::new();
    let handle = run(builder, &mut tasks);
    handle.synced(SECOND).await.unwrap();
    source.remove(&149);

    for _ in 0..2 {
        source.faults([Fault::Nameless(120)]);
        handle.refresh(SECOND).await.unwrap();
        assert_eq!(handle.store().len(), 150);
        assert_eq!(handle.status().quarantined, 120);
        assert_eq!(handle.quarantine().len(), 100, "the rest is counted");
        assert!(handle.has_synced());
    }

    handle.refresh(SECOND).await.unwrap();
    assert_eq!(handle.store().len(), 149);
    assert_eq!(handle.status().quarantined, 0);
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_change_is_over_with_the_next_readable_one() {
    let source = ScriptedSource::watching();
    (1..=2).for_each(|id| source.set(Thing::new(id, 1)));
    let mut tasks = JoinSet::new();
    let handle = run(SharedIndexInformer::builder(source.clone()), &mut tasks);
    handle.synced(SECOND).await.unwrap();

    source.watch_faults((0..3).map(|_| WatchFault::Unreadable));
    (1..=4).for_each(|id| source.set(Thing::new(id, 2)));
    sleep(SECOND).await;
    assert_eq!(aside(&handle), [Some(1), Some(2), Some(3)]);
    assert_eq!(handle.store().get(&1).unwrap().value, 1);
    assert_eq!(handle.store().get(&4).unwrap().value, 2);

    source.set(Thing::new(1, 3));
    source.remove(&2);
    source.remove(&3);
    sleep(SECOND).await;
    assert!(aside(&handle).is_empty());
    assert_eq!(handle.status().quarantined, 0);
    assert_eq!(source.lists(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_is_aside_stays_there_while_its_scope_does_not_answer() {
    let source = ScriptedSource::list_only();
    source.set(Thing::new(1, 1).on(1));
    source.set(Thing::new(2, 1).on(2));
    let builder = SharedIndexInformer::builder(source.clone()).poll_every(SECOND);
    let mut tasks = JoinSet::new();
    let handle = run(builder, &mut tasks);
    handle.synced(SECOND).await.unwrap();

    source.faults([Fault::Unreadable(2)].into_iter().chain(
        // Which of them answers makes all the difference.
        (0..2).map(|_| Fault::Scopes(vec![Scope::of(2_u8)])),
    ));
    let changes = async {
        handle.status_until(|status| status.quarantined == 2).await;
        handle.status_until(|status| status.quarantined != 2).await;
    };
    timeout(HOUR, changes).await.unwrap();

    assert_eq!(aside(&handle), [Some(1)]);
}

/// Panics wherever it is told to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Mine {
    id: u8,
    value: u8,
    panics: Option<&'static str>,
}

impl Mine {
    fn new(id: u8, value: u8, panics: impl Into<Option<&'static str>>) -> Self {
        Self { id, value, panics: panics.into() }
    }

    fn step_on(&self, what: &str) {
        if self.panics == Some(what) {
            // Like a panic, but without a word on standard error.
            std::panic::resume_unwind(Box::new("boom"));
        }
    }
}

impl Object for Mine {
    type Key = u8;

    fn key(&self) -> u8 {
        self.step_on("key");
        self.id
    }

    fn version(&self) -> u64 {
        self.step_on("version");
        u64::from(self.value)
    }

    fn incarnation(&self) -> u64 {
        self.step_on("incarnation");
        0
    }

    fn scope(&self) -> Scope {
        self.step_on("scope");
        Scope::of(0)
    }
}

/// Lists whatever it holds at the moment.
#[derive(Clone, Default)]
struct Field {
    mines: Arc<Mutex<Vec<Mine>>>,
    /// Makes objects only when they are asked for.
    offers: bool,
    scoped: bool,
}

impl ListWatcher for Field {
    type Object = Mine;

    async fn list(&self, into: &mut Listing<'_, Mine>) -> Result<ListDone, SourceError> {
        let mines = self.mines.lock().clone();
        if self.scoped {
            into.scope(Scope::of(0));
        }
        for mine in mines {
            if self.offers {
                into.try_offer(&mine.id, u64::from(mine.value), || {
                    mine.step_on("making");
                    if mine.panics == Some("reading") { Err("unreadable") } else { Ok(mine) }
                });
            } else {
                into.put(mine);
            }
        }
        Ok(ListDone::complete())
    }
}

#[tokio::test(start_paused = true)]
async fn code_that_panics_on_one_object_hurts_that_one_alone() {
    let cases = [("key", false), ("version", false), ("incarnation", false), ("index", false)];
    let cases = cases.into_iter().chain([("making", true), ("reading", true)]);
    for (what, offers) in cases {
        let field = Field { offers, ..Field::default() };
        *field.mines.lock() = vec![Mine::new(1, 1, None), Mine::new(2, 1, None)];
        let builder = SharedIndexInformer::builder(field.clone()).poll_every(HOUR);
        let by_value = builder.index(|mine: &Mine, out| {
            out.push(mine.value);
            mine.step_on("index");
        });
        let by_order = builder.ordered_index(|mine: &Mine, out| out.push(mine.value));
        let mut tasks = JoinSet::new();
        let handle = run(builder, &mut tasks);
        handle.synced(SECOND).await.unwrap();

        *field.mines.lock() =
            vec![Mine::new(1, 2, what), Mine::new(2, 2, None), Mine::new(3, 2, what)];
        handle.refresh(SECOND).await.unwrap();

        let known = if what == "key" { [None, None] } else { [Some(1), Some(3)] };
        let aside: Vec<_> = handle.quarantine().into_iter().map(|case| case.key).collect();
        assert_eq!(aside, known, "{what}");
        let why = handle.quarantine()[0].error.to_string();
        assert!(why.contains("boom") || why == "unreadable", "{what}: {why}");
        let values = |id: u8| handle.store().get(&id).map(|mine| mine.value);
        assert_eq!([1, 2, 3].map(values), [Some(1), Some(2), None], "{what}");
        for value in 1..=2 {
            assert_eq!(handle.store().by(&by_value, &value).len(), 1, "{what}");
            assert_eq!(handle.store().range(&by_order, value..=value).len(), 1, "{what}");
        }

        *field.mines.lock() = vec![Mine::new(2, 2, None), Mine::new(3, 3, None)];
        handle.refresh(SECOND).await.unwrap();
        assert!(handle.quarantine().is_empty(), "{what}");
        assert_eq!([1, 2, 3].map(values), [None, Some(2), Some(3)], "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_no_scope_to_tell_is_not_taken_out() {
    let field = Field { scoped: true, ..Field::default() };
    *field.mines.lock() = vec![Mine::new(1, 1, "scope"), Mine::new(2, 1, None)];
    let mut tasks = JoinSet::new();
    let handle = run(SharedIndexInformer::builder(field.clone()).poll_every(SECOND), &mut tasks);
    handle.synced(SECOND).await.unwrap();

    field.mines.lock().clear();
    handle.store().wait_for(&2, HOUR, |mine| mine.is_none()).await.unwrap();

    assert_eq!(handle.store().keys(), [1]);
}

#[tokio::test(start_paused = true)]
async fn seeds_that_cannot_be_taken_are_shown_and_left_out() {
    let seeds = [Mine::new(1, 1, "index"), Mine::new(2, 1, None)];
    let builder = SharedIndexInformer::builder(Field::default());
    let by_value = builder.index(|mine: &Mine, out| {
        mine.step_on("index");
        out.push(mine.value);
    });

    let informer = builder.seed(seeds).build();

    let handle = informer.handle();
    assert_eq!(handle.store().by(&by_value, &1).len(), 1);
    assert_eq!(handle.quarantine()[0].key, Some(1));
    assert_eq!(handle.status().quarantined, 1);
}

#[test]
fn an_index_that_is_added_later_leaves_out_what_it_panics_on() {
    let (store, mut writer) = Store::new();
    drop(writer.upsert(Mine::new(1, 1, "index")));
    drop(writer.upsert(Mine::new(2, 1, None)));

    let by_value = store.index(|mine: &Mine, out| {
        out.push(mine.value);
        mine.step_on("index");
    });

    assert_eq!(store.by(&by_value, &1).len(), 1);
    drop(writer.upsert(Mine::new(1, 2, None)));
    assert_eq!(store.by(&by_value, &2).len(), 1);
    drop(writer.remove(&1, Certainty::Observed));
    assert_eq!(store.values(&by_value).into_iter().collect::<Vec<_>>(), [1]);
}

/// Pushes what its list says and notes the answers.
struct Answers(Mutex<Vec<Offered>>);

impl ListWatcher for Answers {
    type Object = Thing;

    async fn list(&self, into: &mut Listing<'_, Thing>) -> Result<ListDone, SourceError> {
        let version = Thing::new(1, 1).version();
        let answers = [
            into.offer(&1, version, || Thing::new(1, 1)),
            into.offer(&1, version, || unreachable!("it is there")),
            into.try_offer(&2, 0, || Err("unreadable")),
            into.reject(None, "unreadable"),
        ];
        self.0.lock().extend(answers);
        Ok(ListDone::complete())
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_hears_what_became_of_what_it_pushed() {
    let mut reflector =
        SharedIndexInformer::builder(Answers(Mutex::default())).build().into_reflector();

    reflector.step().await;

    let answers = reflector.source().0.lock().clone();
    let rejected = Offered::Rejected;
    assert_eq!(answers, [Offered::Changed, Offered::Unchanged, rejected, rejected]);
}

proptest! {
    /// Whatever panics, store and indexes show the last state of each object that could be
    /// taken, and nothing else.
    #[test]
    fn panics_leave_no_trace(
        steps in prop::collection::vec(
            (0..6_u8, 0..20_u8, prop::option::of(prop::sample::select(vec!["key", "version", "index", "late"]))),
            1..40,
        ),
    ) {
        let field = Field::default();
        let builder = SharedIndexInformer::builder(field.clone());
        let index = |what: &'static str| move |mine: &Mine, out: &mut Vec<u8>| {
            out.push(mine.value);
            mine.step_on(what);
        };
        let (first, last) = (builder.index(index("index")), builder.ordered_index(index("late")));
        let unique = builder.unique_index(|mine: &Mine, out| out.push(mine.value));
        let informer = builder.build();
        let store = informer.store().clone();
        let mut reflector = informer.into_reflector();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing");
        let mut model = BTreeMap::new();
        let mut listed = BTreeMap::new();
        for (id, value, panics) in steps {
            let mine = Mine { id, value, panics };
            listed.insert(id, mine);
            if panics.is_none() {
                model.insert(id, mine);
            }
            *field.mines.lock() = listed.values().copied().collect();
            runtime.block_on(async {
                while reflector.step().await != informer::Step::Listed {}
            });
            let now: BTreeMap<u8, Mine> =
                store.snapshot().iter().map(|mine| (mine.id, **mine)).collect();
            // An object that cannot be taken in another version may be in the store in this one.
            let same = |id: &u8| now.get(id).map(|mine| mine.value);
            for (id, mine) in &model {
                prop_assert_eq!(same(id), Some(mine.value));
            }
            prop_assert_eq!(now.len(), model.len());
            for value in 0..20 {
                let scan: Vec<u8> =
                    now.values().filter(|m| m.value == value).map(|m| m.id).collect();
                let mut found: Vec<u8> =
                    store.by(&first, &value).iter().map(|mine| mine.id).collect();
                found.sort_unstable();
                prop_assert_eq!(&found, &scan);
                let found: Vec<u8> =
                    store.range(&last, value..=value).iter().map(|mine| mine.id).collect();
                prop_assert_eq!(&found, &scan);
                prop_assert_eq!(store.owner(&unique, &value).is_some(), !scan.is_empty());
            }
        }
    }
}
