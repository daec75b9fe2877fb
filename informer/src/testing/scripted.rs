//! A source with a history that does what its script says.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::list_watcher::{Cause, Cursor, ListDone, ListWatcher, SourceError, Verdict, WatchEvent};
use crate::listing::Listing;
use crate::object::{Object, Scope};

/// What goes wrong with one list, or with one watch. Each is used once, in the order given.
#[derive(Debug)]
#[non_exhaustive]
pub enum Fault {
    /// The list answers as it should.
    None,
    /// The list fails.
    Error(SourceError),
    /// The list pushes so many objects and then fails.
    Partial(usize, SourceError),
    /// The list pushes nothing and says that this is all.
    Empty,
    /// The list pushes all but these many, and says so: it is suspicious.
    Suspicious(usize, String),
    /// Only these scopes answer.
    Scopes(Vec<Scope>),
    /// The list says that nothing changed.
    Unchanged,
    /// The first so many objects cannot be read, except for their keys.
    Unreadable(usize),
    /// The first so many objects cannot be read at all.
    Nameless(usize),
    /// The list panics.
    Panic,
    /// The list comes in pages of so many objects with this pause after each, and is all the same
    /// of the moment at which it began.
    Paged(usize, Duration),
    /// The list takes this long.
    Slow(Duration),
    /// The list never ends.
    Hang,
}

/// What goes wrong with a watch. Each is used once, in the order given.
#[derive(Debug)]
#[non_exhaustive]
pub enum WatchFault {
    /// The next change is not sent; only another list can show it.
    Drop,
    /// The next change is sent twice.
    Duplicate,
    /// The next two changes are sent in the wrong order, if they are of two keys.
    Reorder,
    /// The next change cannot be read, except for the key.
    Unreadable,
    /// The watch fails instead of sending the next change.
    Error(SourceError),
    /// The watch ends instead of sending the next change.
    End,
}

struct World<T: Object> {
    objects: BTreeMap<T::Key, T>,
    /// Every change with its revision, from the oldest that is still known.
    log: VecDeque<(u64, T::Key, Option<T>)>,
    /// Cursors below this have expired.
    oldest: u64,
    faults: VecDeque<Fault>,
    watch_faults: VecDeque<WatchFault>,
    keep: HashSet<T::Key>,
    keep_all: bool,
    lists: u64,
    watches: u64,
    confirms: u64,
}

/// A source with a history: what is set and removed shows up in lists and watches, unless a
/// fault comes in between. Clones are the same source.
///
/// ```
/// # #[derive(Clone)] struct Guest(u32);
/// # impl informer::Object for Guest {
/// #     type Key = u32;
/// #     fn key(&self) -> u32 { self.0 }
/// #     fn version(&self) -> u64 { 0 }
/// # }
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// use std::time::Duration;
/// use informer::testing::{Fault, ScriptedSource};
/// use informer::{SharedIndexInformer, SourceError};
///
/// let source = ScriptedSource::list_only();
/// source.set(Guest(100));
/// source.faults([Fault::Error(SourceError::transient("no route to host"))]);
///
/// let informer = SharedIndexInformer::builder(source.clone()).build();
/// let handle = informer.handle();
/// let mut tasks = tokio::task::JoinSet::new();
/// tasks.spawn(informer.run(std::future::pending()));
///
/// handle.synced(Duration::from_secs(60)).await.unwrap();
/// assert_eq!(handle.store().len(), 1);
/// assert_eq!(source.lists(), 2);
/// # }
/// ```
pub struct ScriptedSource<T: Object> {
    world: Arc<Mutex<World<T>>>,
    revision: watch::Sender<u64>,
    watches: bool,
}

impl<T: Object + Clone> ScriptedSource<T> {
    /// A source that can only list.
    pub fn list_only() -> Self {
        Self::new(false)
    }

    /// A source that can list and watch.
    pub fn watching() -> Self {
        Self::new(true)
    }

    fn new(watches: bool) -> Self {
        let world = World {
            objects: BTreeMap::new(),
            log: VecDeque::new(),
            oldest: 0,
            faults: VecDeque::new(),
            watch_faults: VecDeque::new(),
            keep: HashSet::new(),
            keep_all: false,
            lists: 0,
            watches: 0,
            confirms: 0,
        };
        Self { world: Arc::new(Mutex::new(world)), revision: watch::Sender::new(0), watches }
    }

    /// Makes or changes an object.
    pub fn set(&self, object: T) {
        let key = object.key();
        let mut world = self.world.lock();
        world.objects.insert(key.clone(), object.clone());
        self.log(&mut world, key, Some(object));
    }

    /// Takes an object away.
    pub fn remove(&self, key: &T::Key) {
        let mut world = self.world.lock();
        if world.objects.remove(key).is_some() {
            self.log(&mut world, key.clone(), None);
        }
    }

    /// What there is now, by key.
    pub fn objects(&self) -> BTreeMap<T::Key, T> {
        self.world.lock().objects.clone()
    }

    /// The number of the last change.
    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// What is to go wrong with the next lists.
    pub fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.world.lock().faults.extend(faults);
    }

    /// What is to go wrong with the next watched changes.
    pub fn watch_faults(&self, faults: impl IntoIterator<Item = WatchFault>) {
        self.world.lock().watch_faults.extend(faults);
    }

    /// Forgets the history: watches from before now have expired.
    pub fn compact(&self) {
        let mut world = self.world.lock();
        world.log.clear();
        world.oldest = *self.revision.borrow();
    }

    /// What to answer when asked whether objects are really gone.
    pub fn keep(&self, keys: impl IntoIterator<Item = T::Key>) {
        self.world.lock().keep = keys.into_iter().collect();
    }

    /// Whether to answer that nothing is certainly gone.
    pub fn keep_all(&self, keep: bool) {
        self.world.lock().keep_all = keep;
    }

    /// Lists so far.
    pub fn lists(&self) -> u64 {
        self.world.lock().lists
    }

    /// Watches so far.
    pub fn watches(&self) -> u64 {
        self.world.lock().watches
    }

    /// Times it was asked for a second opinion.
    pub fn confirms(&self) -> u64 {
        self.world.lock().confirms
    }

    fn log(&self, world: &mut World<T>, key: T::Key, object: Option<T>) {
        self.revision.send_modify(|revision| {
            *revision += 1;
            world.log.push_back((*revision, key, object));
        });
    }

    /// What a watch sends next after `since`, and where it is then; `None` if nothing yet.
    fn next(&self, since: u64) -> Option<Batch<T>> {
        let mut world = self.world.lock();
        if since < world.oldest {
            let expired = SourceError::expired(format!("revision {since} is compacted"));
            return Some(Batch { items: vec![Err(expired)], at: since, end: true });
        }
        let start = world.log.partition_point(|(revision, _, _)| *revision <= since);
        let (revision, key, object) = world.log.get(start)?.clone();
        let event = |key: T::Key, object: Option<T>| match object {
            Some(object) => Ok(WatchEvent::Upsert(object)),
            None => Ok(WatchEvent::Delete(key)),
        };
        let progress = |at: u64| Ok(WatchEvent::Progress(Cursor::from(at)));
        let batch = |items, at| Some(Batch { items, at, end: false });
        match world.watch_faults.pop_front() {
            None => batch(vec![event(key, object), progress(revision)], revision),
            Some(WatchFault::Drop) => batch(vec![progress(revision)], revision),
            Some(WatchFault::Duplicate) => {
                let twice = [event(key.clone(), object.clone()), event(key, object)];
                batch(twice.into_iter().chain([progress(revision)]).collect(), revision)
            }
            Some(WatchFault::Reorder) => match world.log.get(start + 1).cloned() {
                Some((later, other, newer)) if other != key => {
                    batch(vec![event(other, newer), event(key, object), progress(later)], later)
                }
                _ => batch(vec![event(key, object), progress(revision)], revision),
            },
            Some(WatchFault::Unreadable) => {
                let event = WatchEvent::Reject { key: Some(key), error: cause().into() };
                batch(vec![Ok(event), progress(revision)], revision)
            }
            Some(WatchFault::Error(error)) => {
                Some(Batch { items: vec![Err(error)], at: since, end: true })
            }
            Some(WatchFault::End) => Some(Batch { items: vec![], at: since, end: true }),
        }
    }
}

fn cause() -> Cause {
    "the script says so".into()
}

struct Batch<T: Object> {
    items: Vec<Result<WatchEvent<T>, SourceError>>,
    at: u64,
    end: bool,
}

impl<T: Object + Clone> ListWatcher for ScriptedSource<T> {
    type Object = T;

    async fn list(&self, into: &mut Listing<'_, T>) -> Result<ListDone, SourceError> {
        let (objects, revision, fault) = {
            let mut world = self.world.lock();
            world.lists += 1;
            let fault = world.faults.pop_front().unwrap_or(Fault::None);
            let objects: Vec<T> = world.objects.values().cloned().collect();
            (objects, *self.revision.borrow(), fault)
        };
        let mut take = objects.len();
        let mut failure = None;
        let (mut unreadable, mut nameless) = (0, false);
        let (mut page, mut pause) = (usize::MAX, Duration::ZERO);
        match fault {
            Fault::None => {}
            Fault::Error(error) => return Err(error),
            Fault::Partial(some, error) => (take, failure) = (some, Some(error)),
            Fault::Empty => take = 0,
            Fault::Suspicious(without, why) => {
                take = take.saturating_sub(without);
                into.suspicious(why);
            }
            Fault::Scopes(scopes) => {
                let there = objects.into_iter().filter(|object| scopes.contains(&object.scope()));
                there.for_each(|object| {
                    into.put(object);
                });
                into.scopes(scopes);
                return Ok(ListDone::complete());
            }
            Fault::Unreadable(some) => unreadable = some,
            Fault::Nameless(some) => (unreadable, nameless) = (some, true),
            Fault::Unchanged => return Ok(ListDone::Unchanged),
            Fault::Panic => panic!("the script says so"),
            Fault::Paged(size, after_each) => (page, pause) = (size.max(1), after_each),
            Fault::Slow(pause) => tokio::time::sleep(pause).await,
            Fault::Hang => std::future::pending().await,
        }
        for (number, object) in objects.into_iter().take(take).enumerate() {
            if number > 0 && number.is_multiple_of(page) {
                into.flush();
                tokio::time::sleep(pause).await;
            }
            let (key, version) = (object.key(), object.version());
            if unreadable > 0 {
                unreadable -= 1;
                into.reject((!nameless).then_some(key), "the script says so");
                continue;
            }
            into.offer(&key, version, || object);
            tokio::task::consume_budget().await;
        }
        match failure {
            Some(error) => Err(error),
            None if self.watches => Ok(ListDone::at(revision)),
            None => Ok(ListDone::complete()),
        }
    }

    fn watch(
        &self,
        since: &Cursor,
    ) -> impl Stream<Item = Result<WatchEvent<T>, SourceError>> + Send {
        self.world.lock().watches += 1;
        let since = since.as_u64().unwrap_or(0);
        let changes = self.revision.subscribe();
        stream::unfold(Some((since, changes)), move |state| async move {
            let (at, mut changes) = state?;
            loop {
                changes.borrow_and_update();
                if let Some(batch) = self.next(at) {
                    let next = (!batch.end).then_some((batch.at, changes));
                    return Some((stream::iter(batch.items), next));
                }
                changes.changed().await.ok()?;
            }
        })
        .flatten()
    }

    async fn confirm_absent(&self, missing: &[Arc<T>]) -> Verdict<T::Key> {
        let mut world = self.world.lock();
        world.confirms += 1;
        if world.keep_all {
            return Verdict::KeepAll;
        }
        let kept = missing.iter().map(|object| object.key());
        Verdict::Keep(kept.filter(|key| world.keep.contains(key)).collect())
    }
}

impl<T: Object> Clone for ScriptedSource<T> {
    fn clone(&self) -> Self {
        Self { world: self.world.clone(), revision: self.revision.clone(), watches: self.watches }
    }
}

impl<T: Object> fmt::Debug for ScriptedSource<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedSource")
            .field("objects", &self.world.lock().objects.len())
            .field("revision", &*self.revision.borrow())
            .finish_non_exhaustive()
    }
}
