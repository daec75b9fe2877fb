//! Typed indexes: from a value to the objects that have it, in any order, in ascending order, or
//! to the one that it belongs to.

mod ordered;
mod postings;
mod unique;

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::object::Object;
pub(crate) use ordered::{Ordered, merge};
pub use ordered::{Page, Position};
pub(crate) use postings::Postings;
pub use unique::Conflict;
pub(crate) use unique::{Claims, ShardClaims};

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

/// A handle on one ordered index of one store; [`Store::range`](crate::Store::range) and
/// [`Store::page`](crate::Store::page) take it.
pub struct OrderedIndex<T, V> {
    pub(crate) position: usize,
    pub(crate) store: u64,
    types: PhantomData<fn(&T) -> V>,
}

impl<T, V> OrderedIndex<T, V> {
    pub(crate) fn new(position: usize, store: u64) -> Self {
        Self { position, store, types: PhantomData }
    }
}

impl<T, V> Clone for OrderedIndex<T, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, V> Copy for OrderedIndex<T, V> {}

impl<T, V> fmt::Debug for OrderedIndex<T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrderedIndex").field("position", &self.position).finish_non_exhaustive()
    }
}

/// A handle on one unique index of one store; [`Store::owner`](crate::Store::owner) and
/// [`Store::conflicts`](crate::Store::conflicts) take it.
pub struct UniqueIndex<T, V> {
    pub(crate) claims: Arc<Claims<T, V>>,
    pub(crate) store: u64,
}

impl<T, V> Clone for UniqueIndex<T, V> {
    fn clone(&self) -> Self {
        Self { claims: self.claims.clone(), store: self.store }
    }
}

impl<T, V> fmt::Debug for UniqueIndex<T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UniqueIndex").finish_non_exhaustive()
    }
}

/// Computes the values of one object. Must depend on the object alone.
pub(crate) type IndexFn<T, V> = Arc<dyn Fn(&T, &mut Vec<V>) + Send + Sync>;

/// One index of one shard, whatever its values are.
pub(crate) trait ShardIndex<T: Object>: Send + Sync {
    /// Computes the values of the object that is to be inserted, or to replace another, next.
    /// Panics if the function of the index does; then nothing has changed.
    fn prepare(&mut self, new: &T);
    /// Takes in what was prepared.
    fn insert(&mut self, slot: u32, key: &T::Key, new: &Arc<T>);
    /// Takes in what was prepared, in the place of `old`.
    fn replace(&mut self, slot: u32, key: &T::Key, old: &Arc<T>, new: &Arc<T>);
    fn remove(&mut self, slot: u32, key: &T::Key, last: &Arc<T>);
    /// Slots were numbered anew, in the same order: `moved[old]` is the new number.
    fn renumber(&mut self, moved: &[u32]);
    fn as_any(&self) -> &dyn Any;
}

/// Makes the empty index that each shard starts with.
pub(crate) type NewShardIndex<T> = Box<dyn Fn() -> Box<dyn ShardIndex<T>>>;

/// The values of the objects that are just being dealt with, in buffers that are used again.
struct Values<T, V> {
    of: IndexFn<T, V>,
    before: Vec<V>,
    after: Vec<V>,
}

impl<T, V> Values<T, V> {
    fn new(of: IndexFn<T, V>) -> Self {
        Self { of, before: Vec::new(), after: Vec::new() }
    }

    fn prepare(&mut self, new: &T) {
        self.after.clear();
        (self.of)(new, &mut self.after);
    }

    /// The values of an object that is in the index. None if the function panics on it now, as
    /// it did when the index was added.
    fn recall(&mut self, old: &T) {
        compute(&self.of, old, &mut self.before);
    }
}

/// The values of `object`; a function that panics gives none.
fn compute<T, V>(of: &IndexFn<T, V>, object: &T, into: &mut Vec<V>) {
    into.clear();
    if catch_unwind(AssertUnwindSafe(|| of(object, into))).is_err() {
        into.clear();
    }
}
