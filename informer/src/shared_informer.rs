//! One source, one store, any number of handlers that come and go.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crate::backoff::{Backoff, StartGate};
use crate::index::{Index, OrderedIndex, UniqueIndex};
use crate::list_watcher::{ListWatcher, SourceError};
use crate::metrics::{Metrics, NoMetrics};
use crate::object::Object;
use crate::quarantine::{OnReject, Quarantine, Quarantined, Refused};
use crate::reflector::{Decision, OnError, Pace, Reflector, ReflectorOptions, Step};
use crate::status::{NotSynced, Status, wait_for_sync};
use crate::store::{Store, StoreWriter};
use crate::subscription::{Hub, Lag, SubscribeOptions, Subscription};
use crate::sync::Notify;

/// Follows one source, keeps its objects in an indexed store and tells handlers of changes.
///
/// ```
/// # use informer::{ListDone, ListWatcher, Listing, Object, SourceError};
/// # struct Guest(u32);
/// # impl Object for Guest {
/// #     type Key = u32;
/// #     fn key(&self) -> u32 { self.0 }
/// #     fn version(&self) -> u64 { 0 }
/// # }
/// # struct Guests;
/// # impl ListWatcher for Guests {
/// #     type Object = Guest;
/// #     async fn list(&self, into: &mut Listing<'_, Guest>) -> Result<ListDone, SourceError> {
/// #         (100..103).for_each(|vmid| { into.put(Guest(vmid)); });
/// #         Ok(ListDone::complete())
/// #     }
/// # }
/// use std::time::Duration;
/// use informer::{Event, SharedIndexInformer, SubscribeOptions};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), informer::NotSynced> {
/// let builder = SharedIndexInformer::builder(Guests).poll_every(Duration::from_secs(5));
/// let by_parity = builder.index(|guest, out| out.push(guest.0 % 2));
/// let informer = builder.build();
///
/// let handle = informer.handle();
/// let mut guests = handle.subscribe(SubscribeOptions::named("printer"));
/// let mut tasks = tokio::task::JoinSet::new();
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// tasks.spawn(informer.run(async { drop(stopped.await) }));
///
/// handle.synced(Duration::from_secs(10)).await?;
/// assert_eq!(handle.store().by(&by_parity, &0).len(), 2);
/// assert!(matches!(guests.next().await, Some(Event::Added { .. })));
/// drop(stop);
/// # Ok(())
/// # }
/// ```
#[must_use = "an informer does nothing until it is run"]
pub struct SharedIndexInformer<L: ListWatcher> {
    reflector: Reflector<L>,
    handle: InformerHandle<L::Object>,
}

impl<L: ListWatcher> SharedIndexInformer<L> {
    /// Starts building an informer of `source`.
    pub fn builder(source: L) -> InformerBuilder<L> {
        let (store, writer) = Store::new();
        InformerBuilder {
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

    /// What readers and handlers hold on to; clones are cheap and may outlive the informer.
    pub fn handle(&self) -> InformerHandle<L::Object> {
        self.handle.clone()
    }

    /// See [`InformerHandle::subscribe`].
    pub fn subscribe(&self, options: SubscribeOptions<L::Object>) -> Subscription<L::Object> {
        self.handle.subscribe(options)
    }

    /// See [`InformerHandle::store`].
    pub fn store(&self) -> &Store<L::Object> {
        self.handle.store()
    }

    /// Follows the source until `shutdown` is ready. Then handlers get what was published and
    /// after that the end; the store stays readable.
    ///
    /// # Cancellation
    ///
    /// Dropping it is the same as a shutdown.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => return,
                step = self.reflector.step() => if step == Step::Stopped { return },
            }
        }
    }

    /// Takes the reflector out, to be driven step by step.
    pub fn into_reflector(self) -> Reflector<L> {
        self.reflector
    }
}

impl<L: ListWatcher> fmt::Debug for SharedIndexInformer<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedIndexInformer").field(&self.reflector).finish()
    }
}

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
    /// still differs then is counted in the [`Status`] with its key, and repaired by a list that
    /// is taken in. A check costs what a list in which nothing changed costs, and holds no copy.
    ///
    /// For a source that cannot watch every list is a check already.
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
    /// to log, and to decide otherwise than by default.
    pub fn on_error(
        mut self,
        hook: impl Fn(&SourceError, u32) -> Decision + Send + Sync + 'static,
    ) -> Self {
        let hook: OnError = Arc::new(hook);
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

/// What readers and handlers hold on to. Clones are cheap.
pub struct InformerHandle<T: Object> {
    hub: Arc<Hub<T>>,
    poke: Arc<Notify>,
}

impl<T: Object> InformerHandle<T> {
    /// A new handler, at any time. One that comes late is told of what is there first, straight
    /// from the store, bit by bit as it takes it.
    pub fn subscribe(&self, options: SubscribeOptions<T>) -> Subscription<T> {
        self.hub.subscribe(options)
    }

    /// The store; readable at any time, also after the informer has stopped.
    pub fn store(&self) -> &Store<T> {
        &self.hub.store
    }

    /// Whether there ever was a complete list that was not suspicious.
    pub fn has_synced(&self) -> bool {
        self.hub.status.borrow().synced
    }

    /// Waits until [`has_synced`](Self::has_synced).
    ///
    /// # Errors
    ///
    /// [`NotSynced`] after `deadline` or when the informer stopped, with the last error of the
    /// source.
    pub async fn synced(&self, deadline: Duration) -> Result<(), NotSynced> {
        wait_for_sync(&self.hub.status, deadline).await
    }

    /// Asks for a list and waits until it is in the store: what it shows then is at least as new
    /// as the source was when this was called. Reads your writes where the source has no cursor.
    ///
    /// A list that only some [scopes](crate::Listing::scope) answered does not do.
    ///
    /// # Errors
    ///
    /// [`NotSynced`] after `deadline` or when the informer stopped, with the last error of the
    /// source.
    ///
    /// # Cancellation
    ///
    /// Safe; the list is made all the same.
    pub async fn refresh(&self, deadline: Duration) -> Result<(), NotSynced> {
        let store = self.store();
        let (begun, _) = store.lists();
        self.relist();
        let listed = store.wait_until(|store| store.lists().1 > begun);
        let done = tokio::select! {
            biased;
            () = listed => true,
            _ = self.status_until(Status::stopped) => false,
            () = tokio::time::sleep(deadline) => false,
        };
        if done { Ok(()) } else { Err(NotSynced::new(deadline, &self.hub.status.borrow())) }
    }

    /// The objects that could not be taken and were not taken since, by key; those without a key
    /// last, and of these the first hundred only.
    pub fn quarantine(&self) -> Vec<Quarantined<T::Key>> {
        self.hub.quarantine.all()
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        self.hub.status.borrow().clone()
    }

    /// Waits until the status fulfils a condition, and returns it. Waits for ever if it never
    /// does.
    pub async fn status_until(&self, condition: impl FnMut(&Status) -> bool) -> Status {
        let mut changes = self.hub.status.subscribe();
        match changes.wait_for(condition).await {
            Ok(status) => status.clone(),
            // The sender lives in the hub that we hold.
            Err(_) => self.status(),
        }
    }

    /// How far behind each subscription is, by its name.
    pub fn lags(&self) -> Vec<(String, Lag)> {
        self.hub.lags()
    }

    /// The name that was given to the builder.
    pub fn name(&self) -> &str {
        &self.hub.name
    }

    #[cfg(feature = "prometheus")]
    pub(crate) fn hub(&self) -> &Arc<Hub<T>> {
        &self.hub
    }

    /// Lists as soon as possible: ends a pause or breaks off a watch. No effect on a list that
    /// runs, except that another one follows it.
    pub fn relist(&self) {
        self.poke.notify_one();
    }
}

impl<T: Object> Clone for InformerHandle<T> {
    fn clone(&self) -> Self {
        Self { hub: self.hub.clone(), poke: self.poke.clone() }
    }
}

impl<T: Object> fmt::Debug for InformerHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InformerHandle")
            .field("name", &self.hub.name)
            .field("store", &self.hub.store)
            .finish_non_exhaustive()
    }
}
