//! The local copy of a collection: many readers, one writer.
//!
//! Objects live in shards, each under a lock of its own that is held for the copy of one
//! [`Arc`] and never while code of yours runs. A shard keeps its objects in numbered slots;
//! tables and indexes hold slot numbers of four bytes, so that a key is stored once.

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hashbrown::{HashSet, HashTable};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::delta_fifo::{Certainty, Change};
use crate::index::{Index, IndexFn, NewShardIndex, Postings, ShardIndex};
use crate::list_watcher::Cursor;
use crate::object::{Object, Scope, table_hash};

/// How many shards a store has unless told otherwise.
pub(crate) const SHARDS: usize = 16;

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

/// The writing half of a store. There is one, and it cannot be cloned.
pub struct StoreWriter<T: Object> {
    inner: Arc<Inner<T>>,
}

struct Inner<T: Object> {
    id: u64,
    shards: Box<[RwLock<Shard<T>>]>,
    /// Counts changes; raised under the lock of the shard that changes.
    generation: AtomicU64,
    /// How many indexes there are. Held while one is added, so that positions agree.
    indexes: Mutex<usize>,
    freshness: Mutex<Freshness>,
    changed: Notify,
}

#[derive(Default)]
struct Freshness {
    as_of: Option<Instant>,
    cursor: Option<Cursor>,
}

struct Shard<T: Object> {
    table: HashTable<u32>,
    slots: Vec<Option<Entry<T>>>,
    free: Vec<u32>,
    indexes: Vec<Box<dyn ShardIndex<T>>>,
}

struct Entry<T: Object> {
    object: Arc<T>,
    version: u64,
    key: T::Key,
    /// The last list that had it.
    mark: u32,
}

/// A change with its place in the history of the store.
pub(crate) struct Stamped<T: Object> {
    pub(crate) change: Change<T>,
    pub(crate) hash: u64,
    pub(crate) shard: usize,
    pub(crate) generation: u64,
}

impl<T: Object> Store<T> {
    /// An empty store and its writer.
    pub fn new() -> (Self, StoreWriter<T>) {
        Self::with_shards(SHARDS)
    }

    /// Like [`new`](Self::new), with a number of shards, rounded up to a power of two. More let
    /// more readers in beside the writer; each costs about 200 bytes.
    pub fn with_shards(shards: usize) -> (Self, StoreWriter<T>) {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let shards = shards.clamp(1, 1 << 12).next_power_of_two();
        let inner = Arc::new(Inner {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            shards: (0..shards).map(|_| RwLock::new(Shard::new())).collect(),
            generation: AtomicU64::new(0),
            indexes: Mutex::new(0),
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

    /// Whether there is an object with this key.
    pub fn contains<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        T::Key: Borrow<Q>,
    {
        let hash = table_hash(key);
        self.inner.shard(hash).read().find(hash, key).is_some()
    }

    /// The objects that have this value in an index, in no particular order.
    ///
    /// # Panics
    ///
    /// If the index belongs to another store.
    pub fn by<V, Q>(&self, index: &Index<T, V>, value: &Q) -> Vec<Arc<T>>
    where
        V: Borrow<Q> + Hash + Eq + Clone + Send + Sync + 'static,
        Q: Hash + Eq + ?Sized,
    {
        let mut found = Vec::new();
        for shard in &self.inner.shards {
            let shard = shard.read();
            let slots = self.inner.postings(&shard, index).get(value);
            found.extend(
                slots.iter().filter_map(|slot| shard.entry(*slot)).map(|e| e.object.clone()),
            );
        }
        found
    }

    /// The values that an index knows, in no particular order, each once.
    ///
    /// # Panics
    ///
    /// If the index belongs to another store.
    pub fn values<V>(&self, index: &Index<T, V>) -> HashSet<V>
    where
        V: Hash + Eq + Clone + Send + Sync + 'static,
    {
        let mut values = HashSet::new();
        for shard in &self.inner.shards {
            let shard = shard.read();
            values.extend(self.inner.postings(&shard, index).values().cloned());
        }
        values
    }

    /// Adds an index, at any time; what is in the store already is indexed before this returns.
    ///
    /// `values` pushes the values of one object, none, one or several. It is called again with
    /// the old object when an object changes, so it must depend on the object alone. It runs
    /// under a lock and must not use the store. If it panics, the object has no values.
    pub fn index<V>(&self, values: impl Fn(&T, &mut Vec<V>) + Send + Sync + 'static) -> Index<T, V>
    where
        V: Hash + Eq + Clone + Send + Sync + 'static,
    {
        let values: IndexFn<T, V> = Arc::new(values);
        let position = self.inner.add_index(&Postings::maker(values));
        Index::new(position, self.inner.id)
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

    /// Counts the changes so far: equal generations mean equal contents.
    pub fn generation(&self) -> u64 {
        self.inner.generation.load(Ordering::Acquire)
    }

    /// Waits until `condition` holds, asking after every batch of changes and every answer of
    /// the source. Read-your-writes: wait for the version that was written.
    ///
    /// Waits for ever if it never does; put a timeout around it. Dropping it is safe.
    pub async fn wait_until(&self, mut condition: impl FnMut(&Self) -> bool) {
        loop {
            // Armed before the condition is read, so that a change in between is not lost.
            let mut changed = std::pin::pin!(self.inner.changed.notified());
            changed.as_mut().enable();
            if condition(self) {
                return;
            }
            changed.await;
        }
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

    /// Up to `max` objects of one shard from a slot on, and the slot to go on from, if any.
    pub(crate) fn page(
        &self,
        shard: usize,
        from: usize,
        max: usize,
        into: &mut Vec<Arc<T>>,
    ) -> Option<usize> {
        let shard = self.inner.shards[shard].read();
        let end = shard.slots.len().min(from.saturating_add(max));
        let page = shard.slots.get(from..end).unwrap_or_default();
        into.extend(page.iter().flatten().map(|entry| entry.object.clone()));
        (end < shard.slots.len()).then_some(end)
    }

    pub(crate) fn shard_len(&self, shard: usize) -> usize {
        self.inner.shards[shard].read().table.len()
    }
}

impl<T: Object> StoreWriter<T> {
    /// A reading half.
    pub fn reader(&self) -> Store<T> {
        Store { inner: self.inner.clone() }
    }

    /// Puts an object in. `None` if one with the same version was there: then the old `Arc`
    /// stays and the new object is dropped.
    pub fn upsert(&mut self, object: T) -> Option<Change<T>> {
        self.put(object, None).map(|stamped| stamped.change)
    }

    /// Takes an object out. `None` if there was none.
    pub fn remove(&mut self, key: &T::Key, certainty: Certainty) -> Option<Change<T>> {
        self.delete(key, certainty).map(|stamped| stamped.change)
    }

    /// Whether the object is there in this version; if so, it is marked as seen by `list`.
    pub(crate) fn keep(&mut self, key: &T::Key, version: u64, list: u32) -> bool {
        let hash = table_hash(key);
        let mut shard = self.inner.shard(hash).write();
        let Some(slot) = shard.find(hash, key) else { return false };
        match &mut shard.slots[slot as usize] {
            Some(entry) if entry.version == version => {
                entry.mark = list;
                true
            }
            _ => false,
        }
    }

    /// Like [`upsert`](Self::upsert); `list` marks it as seen by that list.
    pub(crate) fn put(&mut self, object: T, list: Option<u32>) -> Option<Stamped<T>> {
        let (key, version) = (object.key(), object.version());
        let hash = table_hash(&key);
        let number = self.inner.shard_number(hash);
        let mut guard = self.inner.shards[number].write();
        let shard = &mut *guard;
        let change = if let Some(slot) = shard.find(hash, &key) {
            let entry = shard.slots[slot as usize].as_mut()?;
            if let Some(list) = list {
                entry.mark = list;
            }
            if entry.version == version {
                drop(guard); // so that the object is not dropped under the lock
                return None;
            }
            let new = Arc::new(object);
            let old = std::mem::replace(&mut entry.object, new.clone());
            entry.version = version;
            for index in &mut shard.indexes {
                index.replace(slot, &old, &new);
            }
            Change::modified(old, new)
        } else {
            let object = Arc::new(object);
            let entry = Entry { object: object.clone(), version, key, mark: list.unwrap_or(0) };
            let slot = shard.insert(hash, entry);
            for index in &mut shard.indexes {
                index.insert(slot, &object);
            }
            Change::Added(object)
        };
        let generation = self.inner.generation.fetch_add(1, Ordering::AcqRel) + 1;
        Some(Stamped { change, hash, shard: number, generation })
    }

    pub(crate) fn delete(&mut self, key: &T::Key, certainty: Certainty) -> Option<Stamped<T>> {
        let hash = table_hash(key);
        let number = self.inner.shard_number(hash);
        let mut shard = self.inner.shards[number].write();
        let (slot, entry) = shard.remove(hash, key)?;
        for index in &mut shard.indexes {
            index.remove(slot, &entry.object);
        }
        let generation = self.inner.generation.fetch_add(1, Ordering::AcqRel) + 1;
        let change = Change::Deleted { last: entry.object, certainty };
        Some(Stamped { change, hash, shard: number, generation })
    }

    /// What list number `list` did not have, of the scopes that answered whole (`None`: all).
    pub(crate) fn missing(&self, list: u32, scopes: Option<&HashSet<Scope>>) -> Vec<Arc<T>> {
        let mut missing = Vec::new();
        for shard in &self.inner.shards {
            let shard = shard.read();
            missing.extend(
                shard
                    .slots
                    .iter()
                    .flatten()
                    .filter(|entry| entry.mark != list)
                    .filter(|entry| scopes.is_none_or(|s| s.contains(&entry.object.scope())))
                    .map(|entry| entry.object.clone()),
            );
        }
        missing
    }

    /// Notes that the source confirmed the contents as of `as_of`.
    pub(crate) fn confirm(&mut self, as_of: Instant, cursor: Option<Cursor>) {
        let mut freshness = self.inner.freshness.lock();
        freshness.as_of = Some(as_of);
        if cursor.is_some() {
            freshness.cursor = cursor;
        }
        drop(freshness);
        self.inner.changed.notify_waiters();
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

    fn add_index(&self, new: &NewShardIndex<T>) -> usize {
        let mut count = self.indexes.lock();
        for shard in &self.shards {
            let mut index = new();
            let mut shard = shard.write();
            for (slot, entry) in shard.slots.iter().enumerate() {
                if let Some(entry) = entry {
                    index.insert(slot_number(slot), &entry.object);
                }
            }
            shard.indexes.push(index);
        }
        *count += 1;
        *count - 1
    }

    fn postings<'a, V>(&self, shard: &'a Shard<T>, index: &Index<T, V>) -> &'a Postings<T, V>
    where
        V: Hash + Eq + Clone + Send + Sync + 'static,
    {
        assert_eq!(index.store, self.id, "this index belongs to another store");
        shard.indexes[index.position]
            .as_any()
            .downcast_ref()
            .expect("an index handle of this store has the type of its index")
    }
}

impl<T: Object> Shard<T> {
    fn new() -> Self {
        Self { table: HashTable::new(), slots: Vec::new(), free: Vec::new(), indexes: Vec::new() }
    }

    fn entry(&self, slot: u32) -> Option<&Entry<T>> {
        self.slots.get(slot as usize)?.as_ref()
    }

    fn objects(&self) -> impl Iterator<Item = &Arc<T>> {
        self.slots.iter().flatten().map(|entry| &entry.object)
    }

    fn find<Q: Hash + Eq + ?Sized>(&self, hash: u64, key: &Q) -> Option<u32>
    where
        T::Key: Borrow<Q>,
    {
        let is_it = |slot: &u32| self.entry(*slot).is_some_and(|entry| entry.key.borrow() == key);
        self.table.find(hash, is_it).copied()
    }

    fn insert(&mut self, hash: u64, entry: Entry<T>) -> u32 {
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(entry);
            slot
        } else {
            if self.slots.len() == self.slots.capacity() {
                // By a quarter: what doubling leaves unused counts for more than the copying.
                self.slots.reserve_exact((self.slots.len() / 4).max(4));
            }
            self.slots.push(Some(entry));
            slot_number(self.slots.len() - 1)
        };
        let slots = &self.slots;
        self.table.insert_unique(hash, slot, |slot| {
            slots[*slot as usize].as_ref().map_or(0, |entry| table_hash(&entry.key))
        });
        slot
    }

    fn remove(&mut self, hash: u64, key: &T::Key) -> Option<(u32, Entry<T>)> {
        let slots = &self.slots;
        let is_it =
            |slot: &u32| slots[*slot as usize].as_ref().is_some_and(|entry| entry.key == *key);
        let (slot, _) = self.table.find_entry(hash, is_it).ok()?.remove();
        let entry = self.slots[slot as usize].take()?;
        self.free.push(slot);
        if self.table.is_empty() {
            // A collection that emptied gives its memory back; slots may be renumbered now.
            self.slots = Vec::new();
            self.free = Vec::new();
            self.table = HashTable::new();
        }
        Some((slot, entry))
    }
}

fn slot_number(slot: usize) -> u32 {
    u32::try_from(slot).expect("a shard holds fewer than 2^32 objects")
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

impl<T: Object> fmt::Debug for StoreWriter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StoreWriter").field(&self.reader()).finish()
    }
}
