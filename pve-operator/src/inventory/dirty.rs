//! Which rows are behind the cache, remembered until the database took them.
//!
//! Holds keys only, never objects: what is written is what the cache holds at that moment.
//! So however long the database is away, memory is bounded by the number of keys.

use std::{collections::HashMap, hash::Hash};

use tokio::time::Instant;

/// The keys of one kind whose rows may differ from the cache.
#[derive(Debug)]
pub struct Dirty<K> {
    /// Rows to delete, before anything is written under the same key.
    gone: HashMap<K, Instant>,
    /// Rows to insert or update.
    changed: HashMap<K, Instant>,
}

impl<K> Default for Dirty<K> {
    fn default() -> Self {
        Self { gone: HashMap::new(), changed: HashMap::new() }
    }
}

/// Some of the keys, taken out to be written.
#[derive(Debug)]
pub struct Taken<K> {
    pub gone: Vec<(K, Instant)>,
    pub changed: Vec<(K, Instant)>,
}

impl<K: Clone + Eq + Hash> Dirty<K> {
    pub fn changed(&mut self, key: K) {
        self.changed.entry(key).or_insert_with(Instant::now);
    }

    /// A row that was to be deleted stays so: its key may be used by another guest by now.
    pub fn gone(&mut self, key: K) {
        self.changed.remove(&key);
        self.gone.entry(key).or_insert_with(Instant::now);
    }

    pub fn len(&self) -> usize {
        self.gone.len() + self.changed.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When the change that waits longest was seen.
    pub fn oldest(&self) -> Option<Instant> {
        self.gone.values().chain(self.changed.values()).min().copied()
    }

    /// Takes up to `max` keys out; a key's delete never comes after its write.
    pub fn take(&mut self, max: usize) -> Taken<K> {
        let gone = take(&mut self.gone, max, |_| true);
        let room = max - gone.len();
        let still_gone = &self.gone;
        let changed = take(&mut self.changed, room, |key| !still_gone.contains_key(key));
        Taken { gone, changed }
    }

    /// Puts back what could not be written. What was noted meanwhile wins.
    pub fn put_back(&mut self, taken: Taken<K>) {
        for (key, since) in taken.changed {
            if self.gone.contains_key(&key) {
                continue; // deleted meanwhile: nothing to write before that
            }
            let entry = self.changed.entry(key).or_insert(since);
            *entry = since.min(*entry);
        }
        for (key, since) in taken.gone {
            let entry = self.gone.entry(key).or_insert(since);
            *entry = since.min(*entry);
        }
    }
}

fn take<K: Clone + Eq + Hash>(
    keys: &mut HashMap<K, Instant>,
    max: usize,
    may: impl Fn(&K) -> bool,
) -> Vec<(K, Instant)> {
    let some: Vec<K> = keys.keys().filter(|key| may(key)).take(max).cloned().collect();
    some.into_iter().filter_map(|key| keys.remove_entry(&key)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn keys(taken: &[(u32, Instant)]) -> Vec<u32> {
        taken.iter().map(|(key, _)| *key).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_before_a_delete_is_not_written() {
        let mut dirty = Dirty::default();
        dirty.changed(1);
        dirty.gone(1);

        let taken = dirty.take(10);

        assert_eq!((keys(&taken.gone), keys(&taken.changed)), (vec![1], vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_took_a_deleted_ones_number_is_written_after_the_delete() {
        let mut dirty = Dirty::default();
        dirty.gone(1);
        dirty.changed(1);

        let taken = dirty.take(10);

        assert_eq!((keys(&taken.gone), keys(&taken.changed)), (vec![1], vec![1]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_written_keeps_its_age() {
        let mut dirty = Dirty::default();
        let then = Instant::now();
        dirty.changed(1);
        let taken = dirty.take(10);
        tokio::time::advance(std::time::Duration::from_secs(30)).await;
        dirty.changed(1);

        dirty.put_back(taken);

        assert_eq!((dirty.oldest(), dirty.len()), (Some(then), 1));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add(u32),
        Delete(u32),
        Write { works: bool, max: usize },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..5_u32).prop_map(Step::Add),
            (0..5_u32).prop_map(Step::Delete),
            (any::<bool>(), 1..4_usize).prop_map(|(works, max)| Step::Write { works, max }),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        /// Whatever fails in between, once everything is written the table equals the cache,
        /// and a key that was deleted and used again has a new row.
        #[test]
        fn the_table_ends_equal_to_the_cache(steps in steps()) {
            let mut cache = BTreeSet::new();
            let mut table = BTreeSet::new();
            let mut dirty = Dirty::default();
            let write = |dirty: &mut Dirty<u32>, table: &mut BTreeSet<u32>, cache: &BTreeSet<u32>, works, max| {
                let taken = dirty.take(max);
                if works {
                    for key in keys(&taken.gone) { table.remove(&key); }
                    for key in keys(&taken.changed) {
                        if cache.contains(&key) { table.insert(key); }
                    }
                } else {
                    dirty.put_back(taken);
                }
            };
            for step in steps {
                match step {
                    Step::Add(key) => { cache.insert(key); dirty.changed(key); }
                    Step::Delete(key) => if cache.remove(&key) { dirty.gone(key) },
                    Step::Write { works, max } => write(&mut dirty, &mut table, &cache, works, max),
                }
            }
            while !dirty.is_empty() {
                write(&mut dirty, &mut table, &cache, true, 2);
            }
            prop_assert_eq!(table, cache);
        }
    }
}
