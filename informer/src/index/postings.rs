//! The multi-value index of one shard: from a value to the slots that have it.

use std::any::Any;
use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;

use hashbrown::HashMap;

use super::{IndexFn, NewShardIndex, ShardIndex, Values, compute};
use crate::object::Object;

/// The slots of one shard by value.
pub(crate) struct Postings<T, V> {
    values: Values<T, V>,
    slots: HashMap<V, Posting>,
}

impl<T: Object, V: Hash + Eq + Clone + Send + Sync + 'static> Postings<T, V> {
    pub(crate) fn maker(of: IndexFn<T, V>) -> NewShardIndex<T> {
        Box::new(move || Box::new(Self { values: Values::new(of.clone()), slots: HashMap::new() }))
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, value: &Q) -> &[u32]
    where
        V: Borrow<Q>,
    {
        self.slots.get(value).map_or(&[], Posting::slots)
    }

    /// Whether an object has this value, wherever it is.
    pub(crate) fn has<Q: Hash + Eq + ?Sized>(&self, object: &T, value: &Q) -> bool
    where
        V: Borrow<Q>,
    {
        let mut values = Vec::new();
        compute(&self.values.of, object, &mut values);
        values.iter().any(|other| other.borrow() == value)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.slots.keys()
    }
}

impl<T: Object, V: Hash + Eq + Clone + Send + Sync + 'static> ShardIndex<T> for Postings<T, V> {
    fn prepare(&mut self, new: &T) {
        self.values.prepare(new);
    }

    fn insert(&mut self, slot: u32, _: &T::Key, _: &Arc<T>) {
        for value in self.values.after.drain(..) {
            post(&mut self.slots, slot, value);
        }
    }

    fn remove(&mut self, slot: u32, _: &T::Key, last: &Arc<T>) {
        self.values.recall(last);
        for value in self.values.before.drain(..) {
            unpost(&mut self.slots, slot, &value);
        }
    }

    fn replace(&mut self, slot: u32, _: &T::Key, old: &Arc<T>, _: &Arc<T>) {
        self.values.recall(old);
        let Values { before, after, .. } = &mut self.values;
        if before != after {
            for value in before.iter().filter(|value| !after.contains(value)) {
                unpost(&mut self.slots, slot, value);
            }
            for value in after.drain(..).filter(|value| !before.contains(value)) {
                post(&mut self.slots, slot, value);
            }
        }
        before.clear();
        after.clear();
    }

    fn renumber(&mut self, moved: &[u32]) {
        self.slots.values_mut().for_each(|posting| posting.renumber(moved));
        self.slots.shrink_to_fit();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn post<V: Hash + Eq>(slots: &mut HashMap<V, Posting>, slot: u32, value: V) {
    slots.entry(value).or_insert(Posting::Many(Vec::new())).insert(slot);
}

fn unpost<V: Hash + Eq>(slots: &mut HashMap<V, Posting>, slot: u32, value: &V) {
    if let Some(posting) = slots.get_mut(value)
        && posting.remove(slot)
    {
        slots.remove(value);
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

    fn renumber(&mut self, moved: &[u32]) {
        let slots = match self {
            Self::One(slot) => std::slice::from_mut(slot),
            Self::Many(slots) => slots,
        };
        for slot in slots {
            *slot = moved[*slot as usize];
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
