//! What you wrote to the source yourself, shown until the source shows it.

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use tokio::time::Instant;

use super::Store;
use crate::index::Index;
use crate::list_watcher::Cursor;
use crate::object::Object;
use crate::sync::Mutex;

/// How many of your earlier writes to one key are remembered.
const EARLIER: usize = 8;

/// Answers whether what the source shows is at least as new as what was written.
type AtLeast<T> = Arc<dyn Fn(&T, &T) -> bool + Send + Sync>;

/// A view of a store that shows your own writes before the source does.
///
/// The store itself stays as the source has it: who wants to read your writes reads through the
/// overlay, everybody else reads the store. Clones are the same overlay; an overlay that is
/// empty costs one lock per read, and a store without one costs nothing.
///
/// A write is shown until the source has it or has something fresher, and no longer than the
/// time to live. What "fresher" means is said by [`Until`], or by an order of your objects if
/// they have one: see [`ordered`](Self::ordered).
///
/// ```
/// use std::time::Duration;
/// use informer::{Object, Store, Until};
///
/// #[derive(Clone, Copy, Debug, PartialEq)]
/// struct Guest { vmid: u32, cores: u32 }
///
/// impl Object for Guest {
///     type Key = u32;
///     fn key(&self) -> u32 { self.vmid }
///     fn version(&self) -> u64 { u64::from(self.cores) }
/// }
///
/// let (store, mut writer) = Store::new();
/// writer.upsert(Guest { vmid: 100, cores: 1 });
/// let overlay = store.overlay(Duration::from_secs(30));
///
/// let write = overlay.begin(&100);
/// // Here the request goes out, and its answer says what the guest looks like now.
/// write.wrote(Guest { vmid: 100, cores: 2 }, Until::Changed);
///
/// assert_eq!(overlay.get(&100).unwrap().cores, 2);
/// assert_eq!(store.get(&100).unwrap().cores, 1);
///
/// writer.upsert(Guest { vmid: 100, cores: 4 }); // somebody else was faster
/// assert_eq!(overlay.get(&100).unwrap().cores, 4);
/// ```
pub struct Overlay<T: Object> {
    shared: Arc<Shared<T>>,
}

struct Shared<T: Object> {
    store: Store<T>,
    ttl: Duration,
    at_least: Option<AtLeast<T>>,
    writes: Mutex<Writes<T>>,
}

struct Writes<T: Object> {
    by_key: HashMap<T::Key, Write<T>>,
    /// By when they end, which is the order of arrival.
    ends: VecDeque<(Instant, T::Key)>,
}

struct Write<T> {
    /// `None` if it was deleted.
    object: Option<Arc<T>>,
    version: Option<u64>,
    /// What the store had when the write began.
    base: Option<Arc<T>>,
    /// Versions of earlier writes that the source may still come to show.
    earlier: Vec<u64>,
    until: Until,
    ends: Instant,
}

/// When a write need not be shown any more, besides the time to live of its overlay.
///
/// Whatever is chosen, a write is over when the store shows the very version that was written.
/// A delete by the source ends it too, except under [`Until::Cursor`], which knows better.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Until {
    /// When the store shows anything else than what it showed as the write began (earlier
    /// writes of yours do not count).
    ///
    /// Right for objects without any order. If somebody else's older change is still on its way,
    /// that is shown until your own arrives.
    Changed,
    /// When the store shows this version: for sources that say which version they made of it.
    /// Other versions do not end it, as nobody knows whether they are older or newer.
    Version(u64),
    /// When the store has [reached](Cursor::reached) this cursor: for sources that say where in
    /// their history the write is. What the store shows then is at least as new.
    Cursor(Cursor),
}

impl<T: Object> Store<T> {
    /// A view that shows your own writes, each for at most `ttl`. See [`Overlay`].
    pub fn overlay(&self, ttl: Duration) -> Overlay<T> {
        let writes = Mutex::new(Writes { by_key: HashMap::new(), ends: VecDeque::new() });
        let store = self.clone();
        Overlay { shared: Arc::new(Shared { store, ttl, at_least: None, writes }) }
    }
}

impl<T: Object> Overlay<T> {
    /// An empty overlay of the same store that knows which of two states of one object is newer:
    /// `at_least(seen, written)` answers whether what the source shows is at least as new as
    /// what was written. Then nothing older is ever shown, and nothing newer is ever hidden.
    ///
    /// Must depend on the two objects alone; runs under a lock and must not use the overlay.
    #[must_use]
    pub fn ordered(&self, at_least: impl Fn(&T, &T) -> bool + Send + Sync + 'static) -> Self {
        let Shared { store, ttl, .. } = &*self.shared;
        let at_least: Option<AtLeast<T>> = Some(Arc::new(at_least));
        let writes = Mutex::new(Writes { by_key: HashMap::new(), ends: VecDeque::new() });
        Self { shared: Arc::new(Shared { store: store.clone(), ttl: *ttl, at_least, writes }) }
    }

    /// Call this before the request is sent: what the source shows from now on may be newer
    /// than the write.
    pub fn begin(&self, key: &T::Key) -> Writing<T> {
        Writing { overlay: self.clone(), key: key.clone(), base: self.shared.store.get(key) }
    }

    /// Shows this object: [`begin`](Self::begin) and [`Writing::wrote`] in one, for writes that
    /// are told of afterwards. If the source was faster than you, it is hidden until it changes
    /// again.
    pub fn put(&self, object: T, until: Until) {
        self.begin(&object.key()).wrote(object, until);
    }

    /// Hides this object: [`begin`](Self::begin) and [`Writing::deleted`] in one.
    pub fn delete(&self, key: &T::Key, until: Until) {
        self.begin(key).deleted(until);
    }

    /// Forgets what was written to this key: the store is shown again.
    pub fn forget(&self, key: &T::Key) {
        self.shared.writes.lock().by_key.remove(key);
    }

    /// The object with this key: as written, or as the source has it.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<Arc<T>>
    where
        T::Key: Borrow<Q>,
    {
        let mut writes = self.shared.writes.lock();
        let Some((key, write)) = writes.by_key.get_key_value(key) else {
            drop(writes);
            return self.shared.store.get(key);
        };
        let seen = self.shared.store.lookup(key);
        if self.shared.holds(write, seen.as_ref(), Instant::now()) {
            return write.object.clone();
        }
        let key = key.clone();
        writes.by_key.remove(&key);
        seen.map(|(object, _)| object)
    }

    /// All objects, with your writes, in no particular order.
    pub fn snapshot(&self) -> Vec<Arc<T>> {
        self.laid_over(Store::snapshot, |_| true)
    }

    /// The objects that have this value in an index, with your writes, in no particular order.
    ///
    /// # Panics
    ///
    /// If the index belongs to another store.
    pub fn by<V, Q>(&self, index: &Index<T, V>, value: &Q) -> Vec<Arc<T>>
    where
        V: Borrow<Q> + Hash + Eq + Clone + Send + Sync + 'static,
        Q: Hash + Eq + ?Sized,
    {
        let store = &self.shared.store;
        self.laid_over(|store| store.by(index, value), |object| store.has(index, object, value))
    }

    /// How many writes the source does not show yet.
    pub fn pending(&self) -> usize {
        self.pending_keys().len()
    }

    /// The store beneath.
    pub fn store(&self) -> &Store<T> {
        &self.shared.store
    }

    /// What `read` finds in the store, with the writes that `shows` lets in.
    fn laid_over(
        &self,
        read: impl FnOnce(&Store<T>) -> Vec<Arc<T>>,
        shows: impl Fn(&T) -> bool,
    ) -> Vec<Arc<T>> {
        // The keys first and what is under them last: a write that the source comes to show
        // meanwhile is then shown by one or the other, and never an older state than that.
        let keys = self.pending_keys();
        let mut objects = read(&self.shared.store);
        if !keys.is_empty() {
            objects.retain(|object| !keys.contains(&object.key()));
            let written = keys.iter().filter_map(|key| self.get(key));
            objects.extend(written.filter(|object| shows(object)));
        }
        objects
    }

    fn pending_keys(&self) -> HashSet<T::Key> {
        let now = Instant::now();
        let mut writes = self.shared.writes.lock();
        writes.by_key.retain(|key, write| {
            self.shared.holds(write, self.shared.store.lookup(key).as_ref(), now)
        });
        writes.by_key.keys().cloned().collect()
    }

    fn add(&self, key: T::Key, base: Option<Arc<T>>, object: Option<Arc<T>>, until: Until) {
        let now = Instant::now();
        let ends = now + self.shared.ttl;
        let version = object.as_ref().map(|object| object.version());
        let mut writes = self.shared.writes.lock();
        writes.end(now);
        let mut earlier = Vec::new();
        if let Some(before) = writes.by_key.remove(&key) {
            earlier = before.earlier;
            earlier.extend(before.version);
            if earlier.len() > EARLIER {
                earlier.remove(0);
            }
        }
        writes.ends.push_back((ends, key.clone()));
        writes.by_key.insert(key, Write { object, version, base, earlier, until, ends });
    }
}

impl<T: Object> Shared<T> {
    /// Whether a write is to be shown, seeing what the store has.
    fn holds(&self, write: &Write<T>, seen: Option<&(Arc<T>, u64)>, now: Instant) -> bool {
        if now >= write.ends || write.version.is_some() && write.version == seen.map(|s| s.1) {
            return false;
        }
        if let (Some(at_least), Some((seen, _)), Some(object)) =
            (&self.at_least, seen, &write.object)
        {
            return !at_least(seen, object);
        }
        let gone = seen.is_none() && write.base.is_some();
        match (&write.until, seen) {
            (Until::Cursor(cursor), _) => {
                self.store.cursor().is_none_or(|here| !here.reached(cursor))
            }
            (Until::Version(version), Some((_, seen))) if write.object.is_some() => seen != version,
            (Until::Changed | Until::Version(_), Some((seen, version))) => {
                write.base.as_ref().is_some_and(|base| Arc::ptr_eq(base, seen))
                    || write.earlier.contains(version)
            }
            (Until::Changed | Until::Version(_), None) => !gone,
        }
    }
}

impl<T: Object> Writes<T> {
    /// Drops what has ended.
    fn end(&mut self, now: Instant) {
        while let Some((ends, key)) = self.ends.pop_front() {
            if ends > now {
                self.ends.push_front((ends, key));
                return;
            }
            if self.by_key.get(&key).is_some_and(|write| write.ends == ends) {
                self.by_key.remove(&key);
            }
        }
    }
}

/// A write that has begun; see [`Overlay::begin`]. Dropping it shows nothing.
#[must_use = "say what was written, or nothing is shown"]
pub struct Writing<T: Object> {
    overlay: Overlay<T>,
    key: T::Key,
    base: Option<Arc<T>>,
}

impl<T: Object> Writing<T> {
    /// The source took this object. It must have the key that the write began with.
    pub fn wrote(self, object: T, until: Until) {
        debug_assert!(object.key() == self.key, "{:?} was begun as {:?}", object.key(), self.key);
        self.overlay.add(self.key, self.base, Some(Arc::new(object)), until);
    }

    /// The source deleted the object. [`Until::Version`] then means [`Until::Changed`].
    pub fn deleted(self, until: Until) {
        self.overlay.add(self.key, self.base, None, until);
    }
}

impl<T: Object> Clone for Overlay<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<T: Object> fmt::Debug for Overlay<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overlay")
            .field("writes", &self.shared.writes.lock().by_key.len())
            .finish_non_exhaustive()
    }
}

impl<T: Object> fmt::Debug for Writing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writing").field("key", &self.key).finish_non_exhaustive()
    }
}
