//! Reading a store by the values of its indexes.

use std::borrow::Borrow;
use std::hash::Hash;
use std::ops::RangeBounds;
use std::sync::Arc;

use hashbrown::HashSet;

use super::shard::{Shard, slot_number};
use super::{Inner, Store};
use crate::index::{
    Claims, Conflict, Index, IndexFn, NewShardIndex, Ordered, OrderedIndex, Page, Position,
    Postings, ShardClaims, UniqueIndex, merge,
};
use crate::object::Object;
use crate::quarantine::caught;
use crate::sync::{Ordering, RwLock};

impl<T: Object> Store<T> {
    /// Adds an index, at any time; what is in the store already is indexed before this returns.
    ///
    /// `values` pushes the values of one object, none, one or several. It is called again with
    /// the old object when an object changes, so it must depend on the object alone. It runs
    /// under a lock and must not use the store.
    ///
    /// An object on which it panics is [put aside](crate::Quarantined); one that is in the store
    /// already has no values.
    pub fn index<V>(&self, values: impl Fn(&T, &mut Vec<V>) + Send + Sync + 'static) -> Index<T, V>
    where
        V: Hash + Eq + Clone + Send + Sync + 'static,
    {
        let values: IndexFn<T, V> = Arc::new(values);
        let position = self.inner.add_index(&Postings::maker(values));
        Index::new(position, self.inner.id)
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

    /// Whether an object, which need not be in the store, has this value in an index.
    pub(super) fn has<V, Q>(&self, index: &Index<T, V>, object: &T, value: &Q) -> bool
    where
        V: Borrow<Q> + Hash + Eq + Clone + Send + Sync + 'static,
        Q: Hash + Eq + ?Sized,
    {
        // Every shard has the same function.
        self.inner.postings(&self.inner.shards[0].read(), index).has(object, value)
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

    /// Adds an index that knows the order of its values, for [`range`](Self::range) and
    /// [`page`](Self::page). Otherwise like [`index`](Self::index).
    ///
    /// It costs the value and the key once more for each object, and more time than an index
    /// without order. Push `()` to have all objects in the order of their keys.
    ///
    /// ```
    /// # use informer::{Object, Store};
    /// # struct Guest { vmid: u32, name: &'static str }
    /// # impl Object for Guest {
    /// #     type Key = u32;
    /// #     fn key(&self) -> u32 { self.vmid }
    /// #     fn version(&self) -> u64 { informer::fingerprint(self.name) }
    /// # }
    /// let (store, mut writer) = Store::new();
    /// let by_name = store.ordered_index(|guest: &Guest, out| out.push(guest.name));
    /// for (vmid, name) in [(100, "web-2"), (101, "db"), (102, "web-1")] {
    ///     writer.upsert(Guest { vmid, name });
    /// }
    ///
    /// let webs = store.range(&by_name, "web".."wec");
    /// assert_eq!(webs.iter().map(|guest| guest.vmid).collect::<Vec<_>>(), [102, 100]);
    ///
    /// let first = store.page(&by_name, .., None, 2);
    /// assert_eq!(first.objects[1].name, "web-1");
    /// let second = store.page(&by_name, .., first.next.as_ref(), 2);
    /// assert_eq!(second.objects[0].name, "web-2");
    /// assert!(second.next.is_none());
    /// ```
    pub fn ordered_index<V>(
        &self,
        values: impl Fn(&T, &mut Vec<V>) + Send + Sync + 'static,
    ) -> OrderedIndex<T, V>
    where
        V: Ord + Clone + Send + Sync + 'static,
    {
        let values: IndexFn<T, V> = Arc::new(values);
        let position = self.inner.add_index(&Ordered::maker(values));
        OrderedIndex::new(position, self.inner.id)
    }

    /// The objects with values in `range`, by value and then by key, as they were at one moment.
    /// An object with several values in the range is there once for each.
    ///
    /// The writer waits meanwhile: take [pages](Self::page) of what may be long.
    ///
    /// # Panics
    ///
    /// If the index belongs to another store.
    pub fn range<V>(&self, index: &OrderedIndex<T, V>, range: impl RangeBounds<V>) -> Vec<Arc<T>>
    where
        V: Ord + Clone + Send + Sync + 'static,
    {
        self.page(index, range, None, usize::MAX).objects
    }

    /// Up to `limit` objects with values in `range`, by value and then by key, that come after a
    /// position: [`Page::next`] of the page before, or `None` for the first one.
    ///
    /// A page shows one moment. What comes, goes or moves between two pages is shown where it is
    /// then; everything that stays where it is is shown exactly once.
    ///
    /// # Panics
    ///
    /// If the index belongs to another store.
    pub fn page<V>(
        &self,
        index: &OrderedIndex<T, V>,
        range: impl RangeBounds<V>,
        after: Option<&Position<V, T::Key>>,
        limit: usize,
    ) -> Page<T, V>
    where
        V: Ord + Clone + Send + Sync + 'static,
    {
        assert_eq!(index.store, self.inner.id, "this index belongs to another store");
        let shards: Vec<_> = self.inner.shards.iter().map(RwLock::read).collect();
        let ranges = shards.iter().map(|shard| {
            let index: &Ordered<T, V> = shard.index(index.position);
            index.range(&range, after)
        });
        let mut objects = Vec::new();
        let mut last = None;
        let mut next = None;
        merge(ranges.collect(), |shard, value, key, slot| {
            if objects.len() == limit {
                next = last.map(|(value, key): (&V, &T::Key)| Position {
                    value: value.clone(),
                    key: key.clone(),
                });
                return false;
            }
            objects.extend(shards[shard].entry(slot).map(|entry| entry.object.clone()));
            last = Some((value, key));
            true
        });
        Page { objects, next }
    }

    /// Adds an index whose values should belong to one object each, such as an address or a
    /// serial number. Otherwise like [`index`](Self::index).
    ///
    /// If several objects claim a value, it belongs to the one that came first until that goes or
    /// gives the value up, and then to the next. All of them are in the store;
    /// [`conflicts`](Self::conflicts) shows who quarrels.
    ///
    /// ```
    /// # use informer::{Object, Store};
    /// # struct Guest { vmid: u32, mac: &'static str }
    /// # impl Object for Guest {
    /// #     type Key = u32;
    /// #     fn key(&self) -> u32 { self.vmid }
    /// #     fn version(&self) -> u64 { informer::fingerprint(self.mac) }
    /// # }
    /// let (store, mut writer) = Store::new();
    /// let by_mac = store.unique_index(|guest: &Guest, out| out.push(guest.mac));
    /// writer.upsert(Guest { vmid: 100, mac: "bc:24:11:00:00:01" });
    /// writer.upsert(Guest { vmid: 101, mac: "bc:24:11:00:00:01" });
    ///
    /// assert_eq!(store.owner(&by_mac, "bc:24:11:00:00:01").unwrap().vmid, 100);
    /// assert_eq!(store.conflicts(&by_mac)[0].rivals[0].vmid, 101);
    ///
    /// writer.upsert(Guest { vmid: 100, mac: "bc:24:11:00:00:02" });
    /// assert_eq!(store.owner(&by_mac, "bc:24:11:00:00:01").unwrap().vmid, 101);
    /// assert_eq!(store.conflict_count(), 0);
    /// ```
    pub fn unique_index<V>(
        &self,
        values: impl Fn(&T, &mut Vec<V>) + Send + Sync + 'static,
    ) -> UniqueIndex<T, V>
    where
        V: Hash + Eq + Clone + Send + Sync + 'static,
    {
        let values: IndexFn<T, V> = Arc::new(values);
        let claims = Claims::new(self.inner.conflicts.clone());
        self.inner.add_index(&ShardClaims::maker(values, claims.clone()));
        UniqueIndex { claims, store: self.inner.id }
    }

    /// The object that this value belongs to.
    ///
    /// # Panics
    ///
    /// If the index belongs to another store.
    pub fn owner<V, Q>(&self, index: &UniqueIndex<T, V>, value: &Q) -> Option<Arc<T>>
    where
        V: Borrow<Q> + Hash + Eq + Clone + Send + Sync + 'static,
        Q: Hash + Eq + ?Sized,
    {
        assert_eq!(index.store, self.inner.id, "this index belongs to another store");
        index.claims.owner(value)
    }

    /// The values that several objects claim, in no particular order. Looks at all values.
    ///
    /// # Panics
    ///
    /// If the index belongs to another store.
    pub fn conflicts<V>(&self, index: &UniqueIndex<T, V>) -> Vec<Conflict<T, V>>
    where
        V: Hash + Eq + Clone + Send + Sync + 'static,
    {
        assert_eq!(index.store, self.inner.id, "this index belongs to another store");
        index.claims.conflicts()
    }

    /// How many values several objects claim, over all unique indexes. Costs nothing to ask.
    pub fn conflict_count(&self) -> usize {
        self.inner.conflicts.load(Ordering::Relaxed)
    }
}

impl<T: Object> Inner<T> {
    fn add_index(&self, new: &NewShardIndex<T>) -> usize {
        let mut count = self.indexes.lock();
        for shard in &self.shards {
            let mut index = new();
            let mut shard = shard.write();
            for (slot, entry) in shard.slots.iter().enumerate() {
                if let Some(entry) = entry
                    && caught("an index", || index.prepare(&entry.object)).is_ok()
                {
                    index.insert(slot_number(slot), &entry.key, &entry.object);
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
        shard.index(index.position)
    }
}
