//! Looking ahead: what a batch of changes will read is fetched from memory before any of it is
//! changed.
//!
//! A large store is in no cache, so each change waits several times for memory, one after the
//! other: for its slot, for the key in there, for the old object. Lookups that do not depend on
//! each other wait at the same time. So a batch is looked up first, in short loops without locks
//! in between, and what follows finds everything at hand.

use std::hint::black_box;
use std::sync::Arc;

use crate::sync::RwLock;

use super::StoreWriter;
use crate::object::{Object, table_hash};
use crate::quarantine::caught;

/// Fewer are not worth it.
const WORTH_IT: usize = 8;

/// Locking more shards than this would cost more than it saves.
const MOST_SHARDS: usize = 64;

/// What most of a batch will turn out to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Expected {
    /// Then the old objects are needed, too.
    Changed,
    Unchanged,
}

/// Memory for the lookups of one batch after the other.
pub(crate) struct LookAhead<T: Object> {
    keys: Vec<(u64, T::Key)>,
    places: Vec<(usize, u32)>,
}

impl<T: Object> LookAhead<T> {
    pub(crate) fn new() -> Self {
        Self { keys: Vec::new(), places: Vec::new() }
    }

    /// Looks up what is there under the keys of these objects. Has no effect but on time.
    pub(crate) fn fetch<'a>(
        &mut self,
        store: &StoreWriter<T>,
        objects: impl ExactSizeIterator<Item = Option<&'a T>>,
        expected: Expected,
    ) {
        let shards = &store.inner.shards;
        if objects.len() < WORTH_IT || shards.len() > MOST_SHARDS {
            return;
        }
        self.keys.clear();
        self.places.clear();
        // One whose key panics is dealt with when it is put in.
        let hashed = |key| (table_hash(&key), key);
        if caught("the object", || self.keys.extend(objects.flatten().map(T::key).map(hashed)))
            .is_err()
        {
            return;
        }
        let shards: Vec<_> = shards.iter().map(RwLock::read).collect();
        for (hash, _) in &self.keys {
            let number = store.inner.shard_number(*hash);
            // The first that may be it; it hardly ever is another one.
            let slot = shards[number].table.find(*hash, |_| true);
            self.places.push((number, slot.copied().unwrap_or(u32::MAX)));
        }
        let entries = || self.places.iter().map(|(number, slot)| shards[*number].entry(*slot));
        if expected == Expected::Changed {
            let owners = entries().flatten().map(|entry| Arc::strong_count(&entry.object));
            black_box(owners.sum::<usize>());
        }
        let pairs = entries().zip(&self.keys);
        black_box(pairs.filter(|(e, (_, key))| e.is_some_and(|e| e.key == *key)).count());
    }
}
