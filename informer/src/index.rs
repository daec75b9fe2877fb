//! Typed multi-value indexes: from a value to the objects that have it.

use std::any::Any;
use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use hashbrown::HashMap;

use crate::object::Object;

/// A handle on one index of one store; [`Store::by`](crate::Store::by) takes it.
pub struct Index<T, V> {
    pub(crate) position: usize,
    pub(crate) store: u64,
    types: PhantomData<fn(&T) -> V>,
}

impl<T, V> Index<T, V> {
    pub(crate) fn new(position: usize, store: u64) -> Self {
        Self { position, store, types: PhantomData }
    }
}

impl<T, V> Clone for Index<T, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, V> Copy for Index<T, V> {}

impl<T, V> fmt::Debug for Index<T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("position", &self.position).finish_non_exhaustive()
    }
}

/// Computes the values of one object. Must depend on the object alone.
pub(crate) type IndexFn<T, V> = Arc<dyn Fn(&T, &mut Vec<V>) + Send + Sync>;

/// One index of one shard, whatever its values are.
pub(crate) trait ShardIndex<T>: Send + Sync {
    fn insert(&mut self, slot: u32, object: &T);
    fn remove(&mut self, slot: u32, object: &T);
    fn replace(&mut self, slot: u32, old: &T, new: &T);
    fn as_any(&self) -> &dyn Any;
}

/// Makes the empty index that each shard starts with.
pub(crate) type NewShardIndex<T> = Arc<dyn Fn() -> Box<dyn ShardIndex<T>> + Send + Sync>;

/// The slots of one shard by value.
pub(crate) struct Postings<T, V> {
    values: IndexFn<T, V>,
    slots: HashMap<V, Posting>,
    before: Vec<V>,
    after: Vec<V>,
}

impl<T: Object, V: Hash + Eq + Clone + Send + Sync + 'static> Postings<T, V> {
    pub(crate) fn maker(values: IndexFn<T, V>) -> NewShardIndex<T> {
        Arc::new(move || {
            Box::new(Self {
                values: values.clone(),
                slots: HashMap::new(),
                before: Vec::new(),
                after: Vec::new(),
            })
        })
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, value: &Q) -> &[u32]
    where
        V: Borrow<Q>,
    {
        self.slots.get(value).map_or(&[], Posting::slots)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.slots.keys()
    }

    /// The values of `object`. A function that panics gives none, each time the same.
    fn compute(values: &IndexFn<T, V>, object: &T, into: &mut Vec<V>) {
        into.clear();
        if catch_unwind(AssertUnwindSafe(|| values(object, into))).is_err() {
            into.clear();
        }
    }

    fn post(&mut self, slot: u32, value: V) {
        self.slots.entry(value).or_insert(Posting::Many(Vec::new())).insert(slot);
    }

    fn unpost(&mut self, slot: u32, value: &V) {
        if let Some(posting) = self.slots.get_mut(value)
            && posting.remove(slot)
        {
            self.slots.remove(value);
        }
    }
}

impl<T: Object, V: Hash + Eq + Clone + Send + Sync + 'static> ShardIndex<T> for Postings<T, V> {
    fn insert(&mut self, slot: u32, object: &T) {
        let mut after = std::mem::take(&mut self.after);
        Self::compute(&self.values, object, &mut after);
        for value in after.drain(..) {
            self.post(slot, value);
        }
        self.after = after;
    }

    fn remove(&mut self, slot: u32, object: &T) {
        let mut before = std::mem::take(&mut self.before);
        Self::compute(&self.values, object, &mut before);
        for value in &before {
            self.unpost(slot, value);
        }
        before.clear();
        self.before = before;
    }

    fn replace(&mut self, slot: u32, old: &T, new: &T) {
        let mut before = std::mem::take(&mut self.before);
        let mut after = std::mem::take(&mut self.after);
        Self::compute(&self.values, old, &mut before);
        Self::compute(&self.values, new, &mut after);
        if before != after {
            for value in before.iter().filter(|value| !after.contains(value)) {
                self.unpost(slot, value);
            }
            for value in after.drain(..).filter(|value| !before.contains(value)) {
                self.post(slot, value);
            }
        }
        before.clear();
        after.clear();
        self.before = before;
        self.after = after;
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The slots that share a value, ascending; a single one costs no allocation.
enum Posting {
    One(u32),
    Many(Vec<u32>),
}

impl Posting {
    fn slots(&self) -> &[u32] {
        match self {
            Self::One(slot) => std::slice::from_ref(slot),
            Self::Many(slots) => slots,
        }
    }

    fn insert(&mut self, slot: u32) {
        match self {
            Self::Many(slots) if slots.is_empty() => *self = Self::One(slot),
            Self::Many(slots) => {
                if let Err(at) = slots.binary_search(&slot) {
                    slots.insert(at, slot);
                }
            }
            Self::One(only) if *only == slot => {}
            Self::One(only) => {
                *self = Self::Many(vec![slot.min(*only), slot.max(*only)]);
            }
        }
    }

    /// Takes `slot` out; answers whether nothing is left.
    fn remove(&mut self, slot: u32) -> bool {
        match self {
            Self::One(only) => *only == slot,
            Self::Many(slots) => {
                if let Ok(at) = slots.binary_search(&slot) {
                    slots.remove(at);
                    if slots.len() * 4 < slots.capacity() {
                        slots.shrink_to(slots.len() * 2);
                    }
                }
                slots.is_empty()
            }
        }
    }
}
