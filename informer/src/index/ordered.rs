//! The ordered index of one shard, and the merging of shards into one ascending sequence.

use std::any::Any;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, btree_map};
use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use super::{IndexFn, NewShardIndex, ShardIndex, Values};
use crate::object::Object;

/// Where an object stands in an ordered index: by value, then by key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Position<V, K> {
    /// The value by which it was found.
    pub value: V,
    /// Its key, which tells objects of one value apart.
    pub key: K,
}

/// Some objects of an ordered index, ascending.
pub struct Page<T: Object, V> {
    /// The objects, by value and then by key. One with several values in the range is there once
    /// for each.
    pub objects: Vec<Arc<T>>,
    /// The position of the last object, if there are more after it: what the next page is asked
    /// for with.
    pub next: Option<Position<V, T::Key>>,
}

impl<T: Object, V: fmt::Debug> fmt::Debug for Page<T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page")
            .field("objects", &self.objects.len())
            .field("next", &self.next)
            .finish()
    }
}

/// A value, and before, at or after which of its keys.
type Place<V, K> = (V, Edge<K>);

/// Only `At` is ever stored; the others bound a search.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) enum Edge<K> {
    Before,
    At(K),
    After,
}

/// The slots of one shard, by value and key.
pub(crate) struct Ordered<T: Object, V> {
    values: Values<T, V>,
    slots: BTreeMap<Place<V, T::Key>, u32>,
}

impl<T: Object, V: Ord + Clone + Send + Sync + 'static> Ordered<T, V> {
    pub(crate) fn maker(of: IndexFn<T, V>) -> NewShardIndex<T> {
        Box::new(move || Box::new(Self { values: Values::new(of.clone()), slots: BTreeMap::new() }))
    }

    /// What lies in `range` and after `after`, ascending.
    pub(crate) fn range(
        &self,
        range: &impl RangeBounds<V>,
        after: Option<&Position<V, T::Key>>,
    ) -> btree_map::Range<'_, Place<V, T::Key>, u32> {
        let mut start = match range.start_bound() {
            Bound::Included(value) => Bound::Excluded((value.clone(), Edge::Before)),
            Bound::Excluded(value) => Bound::Excluded((value.clone(), Edge::After)),
            Bound::Unbounded => Bound::Unbounded,
        };
        if let Some(Position { value, key }) = after {
            let after = (value.clone(), Edge::At(key.clone()));
            if !matches!(&start, Bound::Excluded(start) if *start >= after) {
                start = Bound::Excluded(after);
            }
        }
        let end = match range.end_bound() {
            Bound::Included(value) => Bound::Included((value.clone(), Edge::After)),
            Bound::Excluded(value) => Bound::Included((value.clone(), Edge::Before)),
            Bound::Unbounded => Bound::Unbounded,
        };
        match (&start, &end) {
            // A map panics at a range that ends before it begins; here it is merely empty.
            (Bound::Excluded(start), Bound::Included(end)) if start >= end => {
                btree_map::Range::default()
            }
            _ => self.slots.range((start, end)),
        }
    }
}

impl<T: Object, V: Ord + Clone + Send + Sync + 'static> ShardIndex<T> for Ordered<T, V> {
    fn prepare(&mut self, new: &T) {
        self.values.prepare(new);
    }

    fn insert(&mut self, slot: u32, key: &T::Key, _: &Arc<T>) {
        for value in self.values.after.drain(..) {
            self.slots.insert((value, Edge::At(key.clone())), slot);
        }
    }

    fn remove(&mut self, _: u32, key: &T::Key, last: &Arc<T>) {
        self.values.recall(last);
        for value in self.values.before.drain(..) {
            self.slots.remove(&(value, Edge::At(key.clone())));
        }
    }

    fn replace(&mut self, slot: u32, key: &T::Key, old: &Arc<T>, _: &Arc<T>) {
        self.values.recall(old);
        let Values { before, after, .. } = &mut self.values;
        if before != after {
            for value in before.drain(..).filter(|value| !after.contains(value)) {
                self.slots.remove(&(value, Edge::At(key.clone())));
            }
            for value in after.drain(..) {
                self.slots.insert((value, Edge::At(key.clone())), slot);
            }
        }
        before.clear();
        after.clear();
    }

    fn renumber(&mut self, moved: &[u32]) {
        self.slots.values_mut().for_each(|slot| *slot = moved[*slot as usize]);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Calls `take` with the shard, the value, the key and the slot of everything in `ranges`,
/// ascending, until it answers no.
pub(crate) fn merge<'a, V: Ord + 'a, K: Ord + 'a>(
    mut ranges: Vec<btree_map::Range<'a, Place<V, K>, u32>>,
    mut take: impl FnMut(usize, &'a V, &'a K, u32) -> bool,
) {
    let mut heads = BinaryHeap::with_capacity(ranges.len());
    for (shard, range) in ranges.iter_mut().enumerate() {
        heads.extend(range.next().map(|(place, slot)| Reverse((place, shard, *slot))));
    }
    while let Some(Reverse(((value, edge), shard, slot))) = heads.pop() {
        if let Edge::At(key) = edge
            && !take(shard, value, key, slot)
        {
            return;
        }
        heads.extend(ranges[shard].next().map(|(place, slot)| Reverse((place, shard, *slot))));
    }
}
