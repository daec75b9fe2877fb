//! Setting up an informer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{InformerHandle, SharedIndexInformer};
use crate::backoff::{Backoff, StartGate};
use crate::index::{Index, OrderedIndex, UniqueIndex};
use crate::list_watcher::{ListWatcher, SourceError};
use crate::metrics::{Metrics, NoMetrics};
use crate::object::Object;
use crate::quarantine::{OnReject, Quarantine, Quarantined, Refused};
use crate::reflector::{Decision, OnError, Pace, Reflector, ReflectorOptions};
use crate::store::{Store, StoreWriter};
use crate::subscription::Hub;
use crate::sync::Notify;

/// Sets up an informer; see [`SharedIndexInformer::builder`].
#[must_use = "a builder does nothing until it builds"]
pub struct InformerBuilder<L: ListWatcher> {
    source: L,
    store: Store<L::Object>,
    writer: StoreWriter<L::Object>,
    name: String,
    metrics: Arc<dyn Metrics>,
    on_reject: Option<OnReject<<L::Object as Object>::Key>>,
    /// Seeds that could not be taken.
    refused: Vec<Refused<<L::Object as Object>::Key>>,
    options: ReflectorOptions,
}

impl<L: ListWatcher> InformerBuilder<L> {
    pub(super) fn new(source: L) -> Self {
        let (store, writer) = Store::new();
        Self {
            source,
            store,
            writer,
            name: "informer".to_owned(),
            metrics: Arc::new(NoMetrics),
            on_reject: None,
            refused: Vec::new(),
            options: ReflectorOptions {
                pace: Pace::Every(Duration::from_secs(10)),
                relist_every: None,
                verify_every: None,
                backoff: Backoff::default(),
                gate: None,
                list_timeout: None,
                idle_timeout: None,
                on_error: None,
            },
        }
    }

    /// What it is called in metrics. Default: `informer`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Lists a source that cannot watch this often, from start to start, give or take a tenth
    /// so that many informers do not fall into step. Default: 10 s.
    pub fn poll_every(mut self, period: Duration) -> Self {
        self.options.pace = Pace::Every(period);
        self
    }

    /// Like [`poll_every`](Self::poll_every) with a period of its own: `least` after a list in
    /// which anything changed, and twice as long as before after each one in which nothing did,
    /// up to `most`. For collections that are busy now and at rest for hours.
    ///
    /// # Panics
    ///
    /// If `least` is more than `most`.
    pub fn poll_adaptively(mut self, least: Duration, most: Duration) -> Self {
        assert!(least <= most, "the least period is {least:?}, and the most {most:?}");
        self.options.pace = Pace::Adaptive { least, most };
        self
    }

    /// Lists again as soon as a list ended: the source itself waits, in
    /// [`list`](ListWatcher::list), until there is something to list.
    pub fn self_paced(mut self) -> Self {
        self.options.pace = Pace::SelfPaced;
        self
    }

    /// Breaks off a watch this often, give or take a tenth, to list everything again. It
    /// repairs whatever the watch missed. Default: never.
    pub fn relist_every(mut self, period: Duration) -> Self {
        self.options.relist_every = Some(period);
        self
    }

    /// Checks the store against a list of the source this often, give or take a tenth: whether a
    /// watch that seems well has kept something to itself. Default: never.
    ///
    /// The list is compared and not taken in, and the watch goes on from where it was; what the
    /// watch sends by the time it has come to where the list was is no difference. Anything that
    /// still differs then is counted in the [`Status`](crate::Status) with its key, and repaired by
    /// a list that is taken in. A check costs what a list in which nothing changed costs, and holds
    /// no copy.
    ///
    /// For a source that cannot watch every list is a check already; for one that
    /// [paces itself](Self::self_paced) it would wait until there is something to list.
    pub fn verify_every(mut self, period: Duration) -> Self {
        self.options.verify_every = Some(period);
        self
    }

    /// How long to wait after failures. Default: [`Backoff::default`].
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.options.backoff = backoff;
        self
    }

    /// Shares a limit of concurrent lists with other informers.
    pub fn start_gate(mut self, gate: StartGate) -> Self {
        self.options.gate = Some(gate);
        self
    }

    /// Gives up on a list, or on a second opinion, after this long. Default: never.
    pub fn list_timeout(mut self, limit: Duration) -> Self {
        self.options.list_timeout = Some(limit);
        self
    }

    /// Gives up on a watch that brought nothing, no progress either, for this long.
    /// Default: never.
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.options.idle_timeout = Some(limit);
        self
    }

    /// Called after every failure of the source with the number of failures in a row: the place
    /// to log, and to decide otherwise than by default. One that answers nothing decides nothing.
    ///
    /// Without it failures show in the [`Status`](crate::Status) and in metrics only.
    pub fn on_error<D: Into<Decision>>(
        mut self,
        hook: impl Fn(&SourceError, u32) -> D + Send + Sync + 'static,
    ) -> Self {
        let hook: OnError = Arc::new(move |error, failures| hook(error, failures).into());
        self.options.on_error = Some(hook);
        self
    }

    /// Called for every object that cannot be taken, each time that is tried: the place to log.
    pub fn on_reject(
        mut self,
        hook: impl Fn(&Quarantined<<L::Object as Object>::Key>) + Send + Sync + 'static,
    ) -> Self {
        self.on_reject = Some(Box::new(hook));
        self
    }

    /// Where to count.
    pub fn metrics(mut self, metrics: Arc<dyn Metrics>) -> Self {
        self.metrics = metrics;
        self
    }

    /// Adds an index; see [`Store::index`].
    pub fn index<V>(
        &self,
        values: impl Fn(&L::Object, &mut Vec<V>) + Send + Sync + 'static,
    ) -> Index<L::Object, V>
    where
        V: std::hash::Hash + Eq + Clone + Send + Sync + 'static,
    {
        self.store.index(values)
    }

    /// Adds an index that knows the order of its values; see [`Store::ordered_index`].
    pub fn ordered_index<V>(
        &self,
        values: impl Fn(&L::Object, &mut Vec<V>) + Send + Sync + 'static,
    ) -> OrderedIndex<L::Object, V>
    where
        V: Ord + Clone + Send + Sync + 'static,
    {
        self.store.ordered_index(values)
    }

    /// Adds an index whose values should belong to one object each; see
    /// [`Store::unique_index`].
    pub fn unique_index<V>(
        &self,
        values: impl Fn(&L::Object, &mut Vec<V>) + Send + Sync + 'static,
    ) -> UniqueIndex<L::Object, V>
    where
        V: std::hash::Hash + Eq + Clone + Send + Sync + 'static,
    {
        self.store.unique_index(values)
    }

    /// Starts the store with objects that were loaded from elsewhere, for example from the
    /// database that a handler writes to.
    ///
    /// Handlers that [know them](crate::Replay) get no event for them until the first list
    /// differs: [`Modified`](crate::Event::Modified) for one that has another version,
    /// [`Deleted`](crate::Event::Deleted) for one that a complete list lacks and
    /// [`confirm_absent`](ListWatcher::confirm_absent) does not keep. The informer has not
    /// synced before the first good list all the same.
    pub fn seed(mut self, objects: impl IntoIterator<Item = L::Object>) -> Self {
        for object in objects {
            self.refused.extend(self.writer.put(object, None).err());
        }
        self
    }

    /// The informer, ready to run.
    pub fn build(self) -> SharedIndexInformer<L> {
        let quarantine = Quarantine::new(self.on_reject);
        let hub = Arc::new(Hub::new(self.name, self.store, self.metrics, quarantine));
        self.refused.into_iter().for_each(|refused| hub.reject(refused, 0));
        hub.status.send_modify(|status| status.quarantined = hub.quarantine.len());
        let poke = Arc::new(Notify::new());
        let handle = InformerHandle { hub: hub.clone(), poke: poke.clone() };
        let reflector = Reflector::new(self.source, self.writer, hub, poke, self.options);
        SharedIndexInformer { reflector, handle }
    }
}

impl<L: ListWatcher> fmt::Debug for InformerBuilder<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InformerBuilder")
            .field("name", &self.name)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}
