//! The local copy of a collection: many readers, one writer.
//!
//! Objects live in shards, each under a lock of its own that is held for the copy of one
//! [`Arc`] and never while code of yours runs. A shard keeps its objects in numbered slots;
//! tables and indexes hold slot numbers of four bytes, so that a key is stored once.

mod ahead;
mod indexed;
mod overlay;
mod shard;
mod wait;
mod writer;

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::list_watcher::Cursor;
use crate::object::{Object, table_hash};
use crate::sync::{AtomicU64, AtomicUsize, Mutex, Notify, Ordering, RwLock};
pub(crate) use ahead::{Expected, LookAhead};
pub use overlay::{Overlay, Until, Writing};
use shard::Shard;
pub use wait::NotYet;
pub use writer::StoreWriter;
pub(crate) use writer::{Stamped, answered};

/// How many shards a store has unless told otherwise. Few under `interleavings`, where each lock
/// multiplies the schedules.
pub(crate) const SHARDS: usize = if cfg!(interleavings) { 2 } else { 16 };

/// The reading half of a store: the lister. Clones read the same store.
///
/// What it shows is a past state of the source; [`age`](Self::age) says how far past.
///
/// ```
/// use informer::{Object, Store};
///
/// # struct Guest { vmid: u32, node: &'static str }
/// # impl Object for Guest {
/// #     type Key = u32;
/// #     fn key(&self) -> u32 { self.vmid }
/// #     fn version(&self) -> u64 { informer::fingerprint(self.node) }
/// # }
/// let (store, mut writer) = Store::new();
/// let by_node = store.index(|guest: &Guest, out| out.push(guest.node));
///
/// writer.upsert(Guest { vmid: 100, node: "a" });
/// writer.upsert(Guest { vmid: 101, node: "b" });
/// writer.upsert(Guest { vmid: 101, node: "a" });
///
/// assert_eq!(store.len(), 2);
/// assert_eq!(store.by(&by_node, &"a").len(), 2);
/// assert_eq!(store.get(&100).unwrap().vmid, 100);
/// ```
#[doc(alias = "Indexer")]
#[doc(alias = "Lister")]
pub struct Store<T: Object> {
    inner: Arc<Inner<T>>,
}

struct Inner<T: Object> {
    id: u64,
    shards: Box<[RwLock<Shard<T>>]>,
    /// Counts changes; raised under the lock of the shard that changes.
    generation: AtomicU64,
    /// How many indexes there are. Held while one is added, so that positions agree.
    indexes: Mutex<usize>,
    /// Values of unique indexes that several objects claim.
    conflicts: Arc<AtomicUsize>,
    freshness: Mutex<Freshness>,
    changed: Notify,
}

#[derive(Default)]
struct Freshness {
    as_of: Option<Instant>,
    cursor: Option<Cursor>,
    /// Lists that have begun.
    begun: u64,
    /// Which of them was the last that brought all there is.
    listed: u64,
}

/// Where a walk through one shard has come to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    epoch: u32,
    slot: usize,
}

impl<T: Object> Store<T> {
    /// An empty store and its writer.
    pub fn new() -> (Self, StoreWriter<T>) {
        Self::with_shards(SHARDS)
    }

    /// Like [`new`](Self::new), with a number of shards, rounded up to a power of two. More let
    /// more readers in beside the writer; each costs about 200 bytes.
    pub fn with_shards(shards: usize) -> (Self, StoreWriter<T>) {
        static NEXT_ID: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let shards = shards.clamp(1, 1 << 12).next_power_of_two();
        let inner = Arc::new(Inner {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            shards: (0..shards).map(|_| RwLock::new(Shard::new())).collect(),
            generation: AtomicU64::new(0),
            indexes: Mutex::new(0),
            conflicts: Arc::default(),
            freshness: Mutex::default(),
            changed: Notify::new(),
        });
        (Self { inner: inner.clone() }, StoreWriter { inner })
    }

    /// The object with this key.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<Arc<T>>
    where
        T::Key: Borrow<Q>,
    {
        let hash = table_hash(key);
        let shard = self.inner.shard(hash).read();
        let slot = shard.find(hash, key)?;
        shard.entry(slot).map(|entry| entry.object.clone())
    }

    /// The object with this key, and its version.
    fn lookup(&self, key: &T::Key) -> Option<(Arc<T>, u64)> {
        let hash = table_hash(key);
        let shard = self.inner.shard(hash).read();
        let slot = shard.find(hash, key)?;
        shard.entry(slot).map(|entry| (entry.object.clone(), entry.version))
    }

    /// Whether there is an object with this key.
    pub fn contains<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        T::Key: Borrow<Q>,
    {
        let hash = table_hash(key);
        self.inner.shard(hash).read().find(hash, key).is_some()
    }

    /// Calls `f` with every object, in no particular order. No lock is held meanwhile, so `f`
    /// may take its time and may use the store; what changes meanwhile may or may not be seen.
    pub fn for_each(&self, mut f: impl FnMut(&Arc<T>)) {
        let mut objects = Vec::new();
        for shard in &self.inner.shards {
            objects.extend(shard.read().objects().cloned());
            objects.iter().for_each(&mut f);
            objects.clear();
        }
    }

    /// All objects as they were at one moment, in no particular order.
    pub fn snapshot(&self) -> Vec<Arc<T>> {
        let shards: Vec<_> = self.inner.shards.iter().map(RwLock::read).collect();
        let mut objects = Vec::with_capacity(shards.iter().map(|shard| shard.table.len()).sum());
        for shard in &shards {
            objects.extend(shard.objects().cloned());
        }
        objects
    }

    /// The keys of all objects, in no particular order.
    pub fn keys(&self) -> Vec<T::Key> {
        let mut keys = Vec::with_capacity(self.len());
        for shard in &self.inner.shards {
            keys.extend(shard.read().slots.iter().flatten().map(|entry| entry.key.clone()));
        }
        keys
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.inner.shards.iter().map(|shard| shard.read().table.len()).sum()
    }

    /// Whether there are no objects.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// About how many bytes the store takes, without its indexes. `heap` says how many more bytes
    /// an object points to, for example the capacities of its strings; it is asked of every
    /// object, so do not ask often.
    ///
    /// ```
    /// # struct Guest { vmid: u32, name: String }
    /// # impl informer::Object for Guest {
    /// #     type Key = u32;
    /// #     fn key(&self) -> u32 { self.vmid }
    /// #     fn version(&self) -> u64 { 0 }
    /// # }
    /// # let (store, mut writer) = informer::Store::new();
    /// # writer.upsert(Guest { vmid: 100, name: "a".repeat(4000) });
    /// let bytes = store.bytes_estimate(|guest: &Guest| guest.name.capacity());
    /// assert!((4000..8000).contains(&bytes));
    /// ```
    pub fn bytes_estimate(&self, mut heap: impl FnMut(&T) -> usize) -> usize {
        let mut bytes = self.inner.shards.iter().map(|shard| shard.read().bytes()).sum();
        self.for_each(|object| bytes += heap(object));
        bytes
    }

    /// How long ago the source last confirmed what is in here; `None` if it never did.
    ///
    /// Grows without bound while the source does not answer.
    pub fn age(&self) -> Option<Duration> {
        self.inner.freshness.lock().as_of.map(|as_of| as_of.elapsed())
    }

    /// How far in the source's history the store has come, if the source tells.
    pub fn cursor(&self) -> Option<Cursor> {
        self.inner.freshness.lock().cursor.clone()
    }

    /// How many lists have begun, and the number of the last one that brought everything.
    pub(crate) fn lists(&self) -> (u64, u64) {
        let freshness = self.inner.freshness.lock();
        (freshness.begun, freshness.listed)
    }

    /// Counts the changes so far: equal generations mean equal contents.
    pub fn generation(&self) -> u64 {
        self.inner.generation.load(Ordering::Acquire)
    }

    /// Wakes those who wait for the contents to change.
    pub(crate) fn notify_waiters(&self) {
        self.inner.changed.notify_waiters();
    }

    pub(crate) fn shards(&self) -> usize {
        self.inner.shards.len()
    }

    /// The objects of one shard, and the generation up to which its changes are in them.
    pub(crate) fn replay(&self, shard: usize, mut f: impl FnMut(u64, &Arc<T>)) -> u64 {
        let shard = self.inner.shards[shard].read();
        let generation = self.generation();
        for entry in shard.slots.iter().flatten() {
            f(table_hash(&entry.key), &entry.object);
        }
        generation
    }

    /// Up to `max` objects of one shard from a place on, and the place to go on from, if any. If
    /// slots were numbered anew since, that is from the beginning.
    pub(crate) fn shard_page(
        &self,
        shard: usize,
        from: Place,
        max: usize,
        into: &mut Vec<Arc<T>>,
    ) -> Option<Place> {
        let shard = self.inner.shards[shard].read();
        let slot = if from.epoch == shard.epoch { from.slot } else { 0 };
        let end = shard.slots.len().min(slot.saturating_add(max));
        let page = shard.slots.get(slot..end).unwrap_or_default();
        into.extend(page.iter().flatten().map(|entry| entry.object.clone()));
        (end < shard.slots.len()).then_some(Place { epoch: shard.epoch, slot: end })
    }

    pub(crate) fn shard_len(&self, shard: usize) -> usize {
        self.inner.shards[shard].read().table.len()
    }
}

impl<T: Object> Inner<T> {
    fn shard_number(&self, hash: u64) -> usize {
        // The table uses the low bits for the bucket and the top seven for the tag.
        let bits = (hash >> 40) as usize;
        bits & (self.shards.len() - 1)
    }

    fn shard(&self, hash: u64) -> &RwLock<Shard<T>> {
        &self.shards[self.shard_number(hash)]
    }
}

impl<T: Object> Clone for Store<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<T: Object> fmt::Debug for Store<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("len", &self.len())
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}
