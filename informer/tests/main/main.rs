//! The contract of the crate, seen from outside: against models, and through bad times.

mod conformance;
mod controller;
mod convergence;
mod directory;
mod exposition;
mod failing_sources;
mod handler_model;
mod handlers;
mod indexes;
mod kube_rs;
mod lists;
mod model;
mod pace;
mod pages;
mod policies;
mod quarantine;
mod shutdown;
mod simulation;
mod takers;
mod verification;
mod waiting;
mod watches;
mod work_queue;
mod work_queue_model;

use std::future::pending;
use std::time::Duration;

use informer::testing::ScriptedSource;
use informer::{
    Event, InformerBuilder, InformerHandle, ListWatcher, Object, Scope, SharedIndexInformer,
};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Something to follow.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Thing {
    id: u8,
    value: u8,
    /// Differs between things that had the same id one after the other.
    life: u8,
    node: u8,
}

impl Thing {
    fn new(id: u8, value: u8) -> Self {
        Self { id, value, life: 0, node: 0 }
    }

    fn on(self, node: u8) -> Self {
        Self { node, ..self }
    }
}

impl Object for Thing {
    type Key = u8;

    fn key(&self) -> u8 {
        self.id
    }

    fn version(&self) -> u64 {
        informer::fingerprint(self)
    }

    fn incarnation(&self) -> u64 {
        u64::from(self.life)
    }

    fn scope(&self) -> Scope {
        Scope::of(self.node)
    }
}

/// Runs an informer until the test is over.
fn run<L: ListWatcher>(
    builder: InformerBuilder<L>,
    tasks: &mut JoinSet<()>,
) -> InformerHandle<L::Object> {
    let informer = builder.build();
    let handle = informer.handle();
    tasks.spawn(informer.run(pending()));
    handle
}

/// An event in short: `+1=5` added, `~1=6` modified, `-1` deleted and seen to be, `-1?` deleted
/// and found missing, `=1` resync.
fn short(event: &Event<Thing>) -> String {
    let Thing { id, value, .. } = **event.object();
    match event {
        Event::Added { .. } => format!("+{id}={value}"),
        Event::Modified { .. } => format!("~{id}={value}"),
        Event::Deleted { certainty: informer::Certainty::Observed, .. } => format!("-{id}"),
        Event::Deleted { .. } => format!("-{id}?"),
        Event::Resync(_) => format!("={id}"),
    }
}

/// What is in a store, by id.
fn plain(store: &informer::Store<Thing>) -> std::collections::BTreeMap<u8, Thing> {
    store.snapshot().iter().map(|thing| (thing.id, (**thing).clone())).collect()
}

/// Everything that there is to take now, in short and sorted.
fn drain(subscription: &mut informer::Subscription<Thing>) -> Vec<String> {
    let mut events: Vec<_> =
        std::iter::from_fn(|| subscription.try_next()).map(|event| short(&event)).collect();
    events.sort();
    events
}

type Source = ScriptedSource<Thing>;

fn source_with(things: impl IntoIterator<Item = Thing>) -> Source {
    let source = ScriptedSource::list_only();
    things.into_iter().for_each(|thing| source.set(thing));
    source
}

fn polled(source: &Source) -> informer::InformerBuilder<Source> {
    SharedIndexInformer::builder(source.clone()).poll_every(SECOND)
}

/// Waits for the end of a list that began after this was called.
async fn next_list(handle: &InformerHandle<Thing>) {
    for _ in 0..2 {
        let before = handle.status().last_success;
        handle.relist();
        handle.status_until(|status| status.last_success > before).await;
        sleep(Duration::from_millis(1)).await;
    }
}

const HOUR: Duration = Duration::from_hours(1);
const SECOND: Duration = Duration::from_secs(1);
