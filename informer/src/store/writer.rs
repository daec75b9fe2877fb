//! The writing half of a store.

use std::fmt;
use std::sync::Arc;

use hashbrown::HashSet;
use tokio::time::Instant;

use super::shard::Entry;
use super::{Inner, Store};
use crate::delta_fifo::{Certainty, Change};
use crate::index::ShardIndex;
use crate::list_watcher::{Cause, Cursor};
use crate::object::{Object, Scope, table_hash};
use crate::quarantine::{Refused, caught};
use crate::sync::Ordering;

/// The writing half of a store. There is one, and it cannot be cloned.
pub struct StoreWriter<T: Object> {
    pub(super) inner: Arc<Inner<T>>,
}

/// A change with its place in the history of the store.
pub(crate) struct Stamped<T: Object> {
    pub(crate) change: Change<T>,
    pub(crate) hash: u64,
    pub(crate) shard: usize,
    pub(crate) generation: u64,
}

impl<T: Object> StoreWriter<T> {
    /// A reading half.
    pub fn reader(&self) -> Store<T> {
        Store { inner: self.inner.clone() }
    }

    /// Puts an object in. `None` if one with the same version was there: then the old `Arc`
    /// stays and the new object is dropped.
    ///
    /// # Panics
    ///
    /// If the object or the function of an index does. The store is then as it was.
    pub fn upsert(&mut self, object: T) -> Option<Change<T>> {
        match self.put(object, None) {
            Ok(stamped) => stamped.map(|stamped| stamped.change),
            Err(refused) => panic!("{}", refused.error),
        }
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

    /// Marks what is under this key, if anything, as seen by `list`.
    pub(crate) fn spare(&mut self, key: &T::Key, list: u32) {
        let hash = table_hash(key);
        let mut shard = self.inner.shard(hash).write();
        let Some(slot) = shard.find(hash, key) else { return };
        if let Some(entry) = &mut shard.slots[slot as usize] {
            entry.mark = list;
        }
    }

    /// Like [`upsert`](Self::upsert); `list` marks it as seen by that list.
    ///
    /// Code that is not ours runs before anything is changed, so that an object on which it
    /// panics leaves no trace.
    pub(crate) fn put(
        &mut self,
        object: T,
        list: Option<u32>,
    ) -> Result<Option<Stamped<T>>, Refused<T::Key>> {
        let mut known = None;
        let version = caught("the object", || {
            known = Some(object.key());
            object.version()
        });
        let (key, version) = match (known, version) {
            (Some(key), Ok(version)) => (key, version),
            (key, Err(cause)) => return Err(Refused::new(key, cause)),
            (None, Ok(_)) => unreachable!("the key comes before the version"),
        };
        let hash = table_hash(&key);
        let number = self.inner.shard_number(hash);
        let mut guard = self.inner.shards[number].write();
        let shard = &mut *guard;
        let change = if let Some(slot) = shard.find(hash, &key) {
            let Some(entry) = shard.slots[slot as usize].as_mut() else { return Ok(None) };
            if let Some(list) = list {
                entry.mark = list;
            }
            if entry.version == version {
                drop(guard); // so that the object is not dropped under the lock
                return Ok(None);
            }
            let new = Arc::new(object);
            let replaced = prepare(&mut shard.indexes, &new, Some(&entry.object));
            let replaced = replaced.map_err(|cause| Refused::new(Some(key.clone()), cause))?;
            let old = std::mem::replace(&mut entry.object, new.clone());
            entry.version = version;
            for index in &mut shard.indexes {
                index.replace(slot, &key, &old, &new);
            }
            if replaced { Change::Replaced { old, new } } else { Change::Modified { old, new } }
        } else {
            let object = Arc::new(object);
            prepare(&mut shard.indexes, &object, None)
                .map_err(|cause| Refused::new(Some(key.clone()), cause))?;
            let entry = Entry { object: object.clone(), version, key, mark: list.unwrap_or(0) };
            let slot = shard.insert(hash, entry);
            shard.index_new(slot);
            Change::Added(object)
        };
        let generation = self.inner.generation.fetch_add(1, Ordering::AcqRel) + 1;
        Ok(Some(Stamped { change, hash, shard: number, generation }))
    }

    pub(crate) fn delete(&mut self, key: &T::Key, certainty: Certainty) -> Option<Stamped<T>> {
        let hash = table_hash(key);
        let number = self.inner.shard_number(hash);
        let mut shard = self.inner.shards[number].write();
        let (slot, entry) = shard.remove(hash, key)?;
        for index in &mut shard.indexes {
            index.remove(slot, key, &entry.object);
        }
        shard.tidy();
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
                    .filter(|entry| scopes.is_none_or(|s| answered(s, &*entry.object)))
                    .map(|entry| entry.object.clone()),
            );
        }
        missing
    }

    /// Notes that a list begins.
    pub(crate) fn begin_list(&mut self) {
        self.inner.freshness.lock().begun += 1;
    }

    /// Notes that the source confirmed the contents as of `as_of`; `whole` if by a list of all
    /// there is.
    pub(crate) fn confirm(&mut self, as_of: Instant, cursor: Option<Cursor>, whole: bool) {
        let mut freshness = self.inner.freshness.lock();
        freshness.as_of = Some(as_of);
        if cursor.is_some() {
            freshness.cursor = cursor;
        }
        if whole {
            freshness.listed = freshness.begun;
        }
        drop(freshness);
        self.inner.changed.notify_waiters();
    }
}

/// Runs what is to be run of an object before it comes in; answers whether it is another thing
/// than `old`.
fn prepare<T: Object>(
    indexes: &mut [Box<dyn ShardIndex<T>>],
    new: &T,
    old: Option<&Arc<T>>,
) -> Result<bool, Cause> {
    caught("the object or an index", || {
        for index in indexes {
            index.prepare(new);
        }
        let incarnation = new.incarnation();
        old.is_some_and(|old| old.incarnation() != incarnation)
    })
}

/// Whether the scope of an object is among these; one that panics is not.
pub(crate) fn answered<T: Object>(scopes: &HashSet<Scope>, object: &T) -> bool {
    caught("the scope", || object.scope()).is_ok_and(|scope| scopes.contains(&scope))
}

impl<T: Object> fmt::Debug for StoreWriter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StoreWriter").field(&self.reader()).finish()
    }
}
