//! One shard of a store: objects in numbered slots, and the table that finds them.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;

use hashbrown::HashTable;

use crate::index::ShardIndex;
use crate::object::{Object, table_hash};

/// Fewer free slots than this are not worth the moving.
const WORTHWHILE: usize = 64;

pub(super) struct Shard<T: Object> {
    pub(super) table: HashTable<u32>,
    pub(super) slots: Vec<Option<Entry<T>>>,
    pub(super) free: Vec<u32>,
    /// How often slots were numbered anew.
    pub(super) epoch: u32,
    pub(super) indexes: Vec<Box<dyn ShardIndex<T>>>,
}

pub(super) struct Entry<T: Object> {
    pub(super) object: Arc<T>,
    pub(super) version: u64,
    pub(super) key: T::Key,
    /// The last list that had it.
    pub(super) mark: u32,
}

impl<T: Object> Shard<T> {
    pub(super) fn new() -> Self {
        Self {
            table: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            epoch: 0,
            indexes: Vec::new(),
        }
    }

    pub(super) fn entry(&self, slot: u32) -> Option<&Entry<T>> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// Puts an object that was prepared and inserted into all indexes.
    pub(super) fn index_new(&mut self, slot: u32) {
        let Some(entry) = &self.slots[slot as usize] else { return };
        for index in &mut self.indexes {
            index.insert(slot, &entry.key, &entry.object);
        }
    }

    /// The index at this position, which has this type.
    pub(super) fn index<I: 'static>(&self, position: usize) -> &I {
        self.indexes[position]
            .as_any()
            .downcast_ref()
            .expect("an index handle of this store has the type of its index")
    }

    pub(super) fn objects(&self) -> impl Iterator<Item = &Arc<T>> {
        self.slots.iter().flatten().map(|entry| &entry.object)
    }

    pub(super) fn find<Q: Hash + Eq + ?Sized>(&self, hash: u64, key: &Q) -> Option<u32>
    where
        T::Key: Borrow<Q>,
    {
        let is_it = |slot: &u32| self.entry(*slot).is_some_and(|entry| entry.key.borrow() == key);
        self.table.find(hash, is_it).copied()
    }

    pub(super) fn insert(&mut self, hash: u64, entry: Entry<T>) -> u32 {
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

    pub(super) fn remove(&mut self, hash: u64, key: &T::Key) -> Option<(u32, Entry<T>)> {
        let slots = &self.slots;
        let is_it =
            |slot: &u32| slots[*slot as usize].as_ref().is_some_and(|entry| entry.key == *key);
        let (slot, _) = self.table.find_entry(hash, is_it).ok()?.remove();
        let entry = self.slots[slot as usize].take()?;
        self.free.push(slot);
        Some((slot, entry))
    }

    /// Gives memory back after a removal, when three quarters of the slots are free: what is left
    /// moves together and is numbered anew.
    pub(super) fn tidy(&mut self) {
        let left = self.table.len();
        if left > 0 && (self.free.len() < WORTHWHILE || self.free.len() < 3 * left) {
            return;
        }
        let mut moved = vec![u32::MAX; self.slots.len()];
        let mut slots = Vec::with_capacity(left + left / 4);
        for (old, entry) in std::mem::take(&mut self.slots).into_iter().enumerate() {
            if entry.is_some() {
                moved[old] = slot_number(slots.len());
                slots.push(entry);
            }
        }
        self.slots = slots;
        self.free = Vec::new();
        self.table.iter_mut().for_each(|slot| *slot = moved[*slot as usize]);
        let slots = &self.slots;
        self.table.shrink_to_fit(|slot| {
            slots[*slot as usize].as_ref().map_or(0, |entry| table_hash(&entry.key))
        });
        for index in &mut self.indexes {
            index.renumber(&moved);
        }
        self.epoch += 1;
    }

    /// About how many bytes it takes, without its indexes and without what objects point to.
    pub(super) fn bytes(&self) -> usize {
        // Two counts stand before what an `Arc` points to.
        let object = size_of::<T>() + 2 * size_of::<usize>();
        self.slots.capacity() * size_of::<Option<Entry<T>>>()
            + self.free.capacity() * size_of::<u32>()
            + self.table.allocation_size()
            + self.table.len() * object
    }
}

pub(super) fn slot_number(slot: usize) -> u32 {
    u32::try_from(slot).expect("a shard holds fewer than 2^32 objects")
}
