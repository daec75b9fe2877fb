//! The unique index of a store: from a value to the object that it belongs to.
//!
//! It is one table for all shards, as two objects that claim one value may be in any two.

use std::any::Any;
use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::{IndexFn, NewShardIndex, ShardIndex, Values};
use crate::object::Object;
use crate::sync::{AtomicUsize, Ordering, RwLock};

/// A value that should belong to one object and is claimed by several.
pub struct Conflict<T, V> {
    /// What they claim.
    pub value: V,
    /// Who came first: the value belongs to it until it goes or gives the value up.
    pub owner: Arc<T>,
    /// Who came later, in this order. They are in the store like any other object.
    pub rivals: Vec<Arc<T>>,
}

impl<T: Object, V: fmt::Debug> fmt::Debug for Conflict<T, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rivals: Vec<T::Key> = self.rivals.iter().map(|rival| rival.key()).collect();
        f.debug_struct("Conflict")
            .field("value", &self.value)
            .field("owner", &self.owner.key())
            .field("rivals", &rivals)
            .finish()
    }
}

/// Who claims which value.
pub(crate) struct Claims<T, V> {
    by_value: RwLock<HashMap<V, Claimants<T>>>,
    /// How many values are claimed by several, over all unique indexes of the store.
    conflicts: Arc<AtomicUsize>,
}

/// The objects that claim one value, by arrival. Never empty.
enum Claimants<T> {
    One(Arc<T>),
    Many(Vec<Arc<T>>),
}

impl<T: Object, V: Hash + Eq + Clone + Send + Sync + 'static> Claims<T, V> {
    pub(crate) fn new(conflicts: Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self { by_value: RwLock::new(HashMap::new()), conflicts })
    }

    pub(crate) fn owner<Q: Hash + Eq + ?Sized>(&self, value: &Q) -> Option<Arc<T>>
    where
        V: Borrow<Q>,
    {
        Some(match self.by_value.read().get(value)? {
            Claimants::One(owner) => owner.clone(),
            Claimants::Many(all) => all.first()?.clone(),
        })
    }

    pub(crate) fn conflicts(&self) -> Vec<Conflict<T, V>> {
        let by_value = self.by_value.read();
        let conflict = |(value, claimants): (&V, &Claimants<T>)| match claimants {
            Claimants::One(_) => None,
            Claimants::Many(all) => {
                let (owner, rivals) = all.split_first()?;
                let (owner, rivals) = (owner.clone(), rivals.to_vec());
                Some(Conflict { value: value.clone(), owner, rivals })
            }
        };
        by_value.iter().filter_map(conflict).collect()
    }

    fn claim(&self, by_value: &mut HashMap<V, Claimants<T>>, value: V, object: &Arc<T>) {
        match by_value.entry(value) {
            Entry::Vacant(free) => {
                free.insert(Claimants::One(object.clone()));
            }
            Entry::Occupied(mut taken) => match taken.get_mut() {
                Claimants::One(owner) if Arc::ptr_eq(owner, object) => {}
                Claimants::One(owner) => {
                    let both = vec![owner.clone(), object.clone()];
                    *taken.get_mut() = Claimants::Many(both);
                    self.conflicts.fetch_add(1, Ordering::Relaxed);
                }
                Claimants::Many(all) if all.iter().any(|other| Arc::ptr_eq(other, object)) => {}
                Claimants::Many(all) => all.push(object.clone()),
            },
        }
    }

    fn give_up(&self, by_value: &mut HashMap<V, Claimants<T>>, value: &V, object: &Arc<T>) {
        match by_value.get_mut(value) {
            Some(Claimants::One(owner)) if Arc::ptr_eq(owner, object) => {
                by_value.remove(value);
            }
            Some(claimants @ Claimants::Many(_)) => {
                let Claimants::Many(all) = claimants else { return };
                all.retain(|other| !Arc::ptr_eq(other, object));
                if let [last] = all.as_slice() {
                    *claimants = Claimants::One(last.clone());
                    self.conflicts.fetch_sub(1, Ordering::Relaxed);
                }
            }
            Some(Claimants::One(_)) | None => {}
        }
    }
}

/// The part of one shard in the claims of its store.
pub(crate) struct ShardClaims<T, V> {
    values: Values<T, V>,
    claims: Arc<Claims<T, V>>,
}

impl<T: Object, V: Hash + Eq + Clone + Send + Sync + 'static> ShardClaims<T, V> {
    pub(crate) fn maker(of: IndexFn<T, V>, claims: Arc<Claims<T, V>>) -> NewShardIndex<T> {
        Box::new(move || Box::new(Self { values: Values::new(of.clone()), claims: claims.clone() }))
    }
}

impl<T: Object, V: Hash + Eq + Clone + Send + Sync + 'static> ShardIndex<T> for ShardClaims<T, V> {
    fn prepare(&mut self, new: &T) {
        self.values.prepare(new);
    }

    fn insert(&mut self, _: u32, _: &T::Key, new: &Arc<T>) {
        let mut by_value = self.claims.by_value.write();
        for value in self.values.after.drain(..) {
            self.claims.claim(&mut by_value, value, new);
        }
    }

    fn remove(&mut self, _: u32, _: &T::Key, last: &Arc<T>) {
        self.values.recall(last);
        let mut by_value = self.claims.by_value.write();
        for value in self.values.before.drain(..) {
            self.claims.give_up(&mut by_value, &value, last);
        }
    }

    fn replace(&mut self, _: u32, _: &T::Key, old: &Arc<T>, new: &Arc<T>) {
        self.values.recall(old);
        let Values { before, after, .. } = &mut self.values;
        let mut by_value = self.claims.by_value.write();
        for value in before.drain(..) {
            match by_value.get_mut(&value) {
                // The claim is as old as it was; only the object is another.
                Some(claimants) if after.contains(&value) => claimants.renew(old, new),
                _ => self.claims.give_up(&mut by_value, &value, old),
            }
        }
        for value in after.drain(..) {
            self.claims.claim(&mut by_value, value, new);
        }
    }

    fn renumber(&mut self, _: &[u32]) {
        // Claims know objects and no slots.
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl<T> Claimants<T> {
    fn renew(&mut self, old: &Arc<T>, new: &Arc<T>) {
        let all = match self {
            Self::One(owner) => std::slice::from_mut(owner),
            Self::Many(all) => all,
        };
        if let Some(claim) = all.iter_mut().find(|claim| Arc::ptr_eq(claim, old)) {
            *claim = new.clone();
        }
    }
}
