//! The contract of the crate, seen from outside: against models, and through bad times.

mod indexes;
mod model;
mod quarantine;
mod recovery;
mod verification;
mod waiting;
mod work;

use std::future::pending;
use std::time::Duration;

use informer::{Event, InformerBuilder, InformerHandle, ListWatcher, Object, Scope};
use tokio::task::JoinSet;

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

/// Everything that there is to take now, in short and sorted.
fn drain(subscription: &mut informer::Subscription<Thing>) -> Vec<String> {
    let mut events: Vec<_> =
        std::iter::from_fn(|| subscription.try_next()).map(|event| short(&event)).collect();
    events.sort();
    events
}

const HOUR: Duration = Duration::from_hours(1);
const SECOND: Duration = Duration::from_secs(1);
