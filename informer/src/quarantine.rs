//! Objects that could not be taken: which, why, and since when.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::time::Instant;

use crate::list_watcher::Cause;
use crate::object::Key;
use crate::reflector::panic_text;
use crate::sync::{AtomicUsize, Mutex, Ordering};

/// How many objects without a key are listed; more are counted only.
const NAMELESS: usize = 100;

/// An object that could not be taken: it could not be decoded, or code of yours panicked on it
/// (its key, its version, a function of an index).
///
/// Nobody else suffers: other objects come and go as ever, and what was under its key before
/// stays there as it was.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Quarantined<K> {
    /// Its key, if that much is known of it.
    pub key: Option<K>,
    /// Why it could not be taken the last time.
    pub error: Arc<dyn Error + Send + Sync>,
    /// Since when.
    pub since: Instant,
    /// How often that was tried.
    pub times: u64,
}

/// Why an object could not be taken now.
pub(crate) struct Refused<K> {
    pub(crate) key: Option<K>,
    pub(crate) error: Arc<dyn Error + Send + Sync>,
}

impl<K> Refused<K> {
    pub(crate) fn new(key: Option<K>, error: impl Into<Cause>) -> Self {
        Self { key, error: error.into().into() }
    }
}

/// Runs code that is not ours on an object; a panic is the reason why it cannot be taken.
pub(crate) fn caught<R>(what: &str, work: impl FnOnce() -> R) -> Result<R, Cause> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|panic| format!("{what} panicked: {}", panic_text(panic.as_ref())).into())
}

pub(crate) type OnReject<K> = Box<dyn Fn(&Quarantined<K>) + Send + Sync>;

/// All objects of one informer that could not be taken and were not taken since.
pub(crate) struct Quarantine<K> {
    on_reject: Option<OnReject<K>>,
    /// So that nobody who has no such objects ever takes the lock.
    len: AtomicUsize,
    ward: Mutex<Ward<K>>,
}

struct Ward<K> {
    by_key: BTreeMap<K, Case<K>>,
    nameless: Vec<Case<K>>,
    /// Nameless ones of a list that are not listed here.
    more: (u32, usize),
}

struct Case<K> {
    what: Quarantined<K>,
    /// The list that had it last.
    list: u32,
}

impl<K: Key> Quarantine<K> {
    pub(crate) fn new(on_reject: Option<OnReject<K>>) -> Self {
        let ward = Ward { by_key: BTreeMap::new(), nameless: Vec::new(), more: (0, 0) };
        Self { on_reject, len: AtomicUsize::new(0), ward: Mutex::new(ward) }
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub(crate) fn all(&self) -> Vec<Quarantined<K>> {
        let ward = self.ward.lock();
        ward.by_key.values().chain(&ward.nameless).map(|case| case.what.clone()).collect()
    }

    pub(crate) fn add(&self, refused: Refused<K>, list: u32) {
        let Refused { key, error } = refused;
        let new = || Quarantined {
            key: key.clone(),
            error: error.clone(),
            since: Instant::now(),
            times: 0,
        };
        let mut ward = self.ward.lock();
        let told = if let Some(key) = &key {
            let case = ward.by_key.entry(key.clone());
            let case = case.or_insert_with(|| Case { what: new(), list });
            case.list = list;
            case.what.times += 1;
            case.what.error = error.clone();
            case.what.clone()
        } else {
            ward.add_nameless(Case { what: Quarantined { times: 1, ..new() }, list })
        };
        self.count(&ward);
        drop(ward);
        if let Some(hook) = &self.on_reject {
            // A hook that panics has told nobody; that is all there is to lose.
            drop(catch_unwind(AssertUnwindSafe(|| hook(&told))));
        }
    }

    /// Notes that what is under this key was taken, or is gone.
    pub(crate) fn release(&self, key: &K) {
        if self.len() == 0 {
            return;
        }
        let mut ward = self.ward.lock();
        ward.by_key.remove(key);
        self.count(&ward);
    }

    /// Notes that a list is complete: what it did not bring again is over, unless `absent` says
    /// that its part of the collection did not answer.
    pub(crate) fn end_list(&self, list: u32, absent: impl Fn(&K) -> bool) {
        if self.len() == 0 {
            return;
        }
        let mut ward = self.ward.lock();
        ward.by_key.retain(|key, case| case.list == list || absent(key));
        ward.nameless.retain(|case| case.list == list);
        if ward.more.0 != list {
            ward.more = (list, 0);
        }
        self.count(&ward);
    }

    fn count(&self, ward: &Ward<K>) {
        let len = ward.by_key.len() + ward.nameless.len() + ward.more.1;
        self.len.store(len, Ordering::Relaxed);
    }
}

impl<K: Key> Ward<K> {
    fn add_nameless(&mut self, case: Case<K>) -> Quarantined<K> {
        let told = case.what.clone();
        if self.more.0 != case.list {
            // Whether it is one of those that an earlier list had, nobody knows.
            self.nameless.clear();
            self.more = (case.list, 0);
        }
        if self.nameless.len() < NAMELESS {
            self.nameless.push(case);
        } else {
            self.more.1 += 1;
        }
        told
    }
}

impl<K> fmt::Debug for Quarantine<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quarantine").field("len", &self.len).finish_non_exhaustive()
    }
}
