//! The state of a work queue: one entry per key, and the arrows between its states.
//!
//! ```text
//!            add                take              done
//!   (none) -------> Ready ----------> Running ----------> (none)
//!      |              ^  ^ due          | |  \ done, added meanwhile
//!      |  add_after   |  |              | |   v
//!      +----------> Waiting <-----------+ |  Ready
//!                         failed; done_after
//! ```
//!
//! A failure count lives in its entry and goes with it, so nothing has to be forgotten.

use std::collections::BTreeSet;
use std::time::Duration;

use hashbrown::HashTable;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::object::{Key, table_hash};
use crate::ready::{Linked, Links, Priority, Ready};

/// A queue with room for more than this gives it back when it is empty, unless it has just used a
/// good part of it: bursts come again.
const KEPT_ENTRIES: usize = 4096;

#[derive(Clone, Copy, Debug)]
enum Place {
    Free,
    Ready,
    /// Until then; after a failure a plain add does not change that.
    Waiting {
        at: Instant,
        failed: bool,
    },
    /// `again` is what to do after it: it was added meanwhile.
    Running {
        again: Option<Again>,
    },
}

#[derive(Clone, Copy, Debug)]
enum Again {
    Now(Priority),
    At(Instant),
}

struct Entry<K> {
    key: Option<K>,
    /// Of the key, so that no table needs to look at keys when it grows or shrinks.
    hash: u64,
    place: Place,
    failures: u32,
    links: Links,
}

impl<K> Linked for Entry<K> {
    fn links(&self) -> &Links {
        &self.links
    }

    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// How a run of a key ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    Done,
    DoneAfter(Duration),
    Failed { pause: Option<Duration> },
}

/// What a caller must do after a call: wake somebody.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Wake {
    /// So many more keys can be taken.
    pub(crate) ready: usize,
    /// The earliest of those that wait changed.
    pub(crate) timer: bool,
}

/// Tells the time when asked.
pub(crate) type Clock = fn() -> Instant;

/// Names the group of a key.
pub(crate) type GroupOf<K> = Box<dyn Fn(&K) -> u64 + Send + Sync>;

pub(crate) struct Core<K> {
    table: HashTable<u32>,
    entries: Vec<Entry<K>>,
    free: Vec<u32>,
    ready: Ready,
    waiting: BTreeSet<(Instant, u32)>,
    running: usize,
    /// The most entries there were since it was empty.
    peak: usize,
    backoff: Backoff,
    group_of: Option<GroupOf<K>>,
}

impl<K: Key> Core<K> {
    pub(crate) fn new(backoff: Backoff, ready: Ready, group_of: Option<GroupOf<K>>) -> Self {
        Self {
            table: HashTable::new(),
            entries: Vec::new(),
            free: Vec::new(),
            ready,
            waiting: BTreeSet::new(),
            running: 0,
            peak: 0,
            backoff,
            group_of,
        }
    }

    /// Wants `key`, which has this [hash](table_hash), run now. The clock is asked only if it
    /// matters, here and below.
    pub(crate) fn add(&mut self, key: K, hash: u64, priority: Priority, clock: Clock) -> Wake {
        let at = self.entry(key, hash, clock);
        let entry = &mut self.entries[at as usize];
        match &mut entry.place {
            Place::Free => {
                entry.links.priority = priority;
                // The entry is new, and so is its time.
                self.enqueue(at)
            }
            Place::Ready => {
                if priority > entry.links.priority {
                    self.ready.unlink(&mut self.entries, at);
                    self.entries[at as usize].links.priority = priority;
                    self.ready.push(&mut self.entries, at);
                }
                Wake::default()
            }
            Place::Waiting { failed: true, .. } if priority < Priority::Urgent => {
                entry.links.priority = entry.links.priority.max(priority);
                Wake::default()
            }
            Place::Waiting { at: due, .. } => {
                self.waiting.remove(&(*due, at));
                entry.links.priority = entry.links.priority.max(priority);
                self.make_ready(at, clock())
            }
            Place::Running { again, .. } => {
                *again = Some(Again::Now(match *again {
                    Some(Again::Now(before)) => before.max(priority),
                    _ => priority,
                }));
                Wake::default()
            }
        }
    }

    /// Wants `key` run at `due`, unless it is to run before that anyway.
    pub(crate) fn add_at(&mut self, key: K, due: Instant, failed: bool, now: Instant) -> Wake {
        let hash = table_hash(&key);
        let at = self.entry(key, hash, || now);
        let entry = &mut self.entries[at as usize];
        match &mut entry.place {
            Place::Free => self.make_wait(at, due, failed),
            Place::Waiting { at: before, failed: false } if due < *before => {
                self.waiting.remove(&(*before, at));
                self.make_wait(at, due, false)
            }
            Place::Ready | Place::Waiting { .. } => Wake::default(),
            Place::Running { again, .. } => {
                *again = Some(match *again {
                    Some(Again::At(before)) => Again::At(before.min(due)),
                    Some(now) => now,
                    None => Again::At(due),
                });
                Wake::default()
            }
        }
    }

    /// Wants `key` run after a back-off, as after a failure.
    pub(crate) fn add_failed(&mut self, key: K, now: Instant) -> Wake {
        let at = self.entry(key.clone(), table_hash(&key), || now);
        let entry = &mut self.entries[at as usize];
        if let Place::Ready | Place::Waiting { failed: true, .. } = entry.place {
            return Wake::default(); // it counts once per run
        }
        let pause = self.backoff.pause(entry.failures, None);
        entry.failures += 1;
        self.add_at(key, now + pause, true, now)
    }

    /// Lets those in whose time has come. Answers how many.
    pub(crate) fn promote(&mut self, now: Instant) -> usize {
        let mut promoted = 0;
        while let Some((due, at)) = self.waiting.first().copied()
            && due <= now
        {
            self.waiting.pop_first();
            self.make_ready(at, now);
            promoted += 1;
        }
        promoted
    }

    /// The next key to run, its failures so far, and since when it was ready.
    pub(crate) fn take(&mut self, now: Instant) -> Option<(u32, K, u32, Instant)> {
        let at = self.ready.pop(&mut self.entries)?;
        let entry = &mut self.entries[at as usize];
        entry.place = Place::Running { again: None };
        let since = std::mem::replace(&mut entry.links.since, now);
        self.running += 1;
        let key = entry.key.clone().expect("an entry that is ready has a key");
        Some((at, key, entry.failures, since))
    }

    /// Notes that a run of `at` has ended.
    pub(crate) fn finish(&mut self, at: u32, outcome: Outcome, clock: Clock) -> Wake {
        let entry = &mut self.entries[at as usize];
        let Place::Running { again, .. } = entry.place else { return Wake::default() };
        self.running -= 1;
        let group = entry.links.group;
        let others = self.ready.ended(group);
        let failures = entry.failures;
        let mut wake = match (outcome, again) {
            (Outcome::Failed { .. }, Some(Again::Now(priority @ Priority::Urgent))) => {
                entry.failures = failures.saturating_add(1);
                entry.links.priority = priority;
                self.make_ready(at, clock())
            }
            (Outcome::Failed { pause }, again) => {
                entry.failures = failures.saturating_add(1);
                if let Some(Again::Now(priority)) = again {
                    entry.links.priority = entry.links.priority.max(priority);
                }
                let pause = pause.unwrap_or_else(|| self.backoff.pause(failures, None));
                self.make_wait(at, clock() + pause, true)
            }
            (_, Some(Again::Now(priority))) => {
                entry.failures = 0;
                entry.links.priority = priority;
                self.make_ready(at, clock())
            }
            (Outcome::DoneAfter(pause), Some(Again::At(due))) => {
                self.rest(at, due.min(clock() + pause))
            }
            (Outcome::DoneAfter(pause), None) => self.rest(at, clock() + pause),
            (Outcome::Done, Some(Again::At(due))) => self.rest(at, due),
            (Outcome::Done, None) => {
                self.forget(at);
                Wake::default()
            }
        };
        wake.ready += usize::from(others);
        wake
    }

    /// Keys that are ready, wait or run.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    pub(crate) fn running(&self) -> usize {
        self.running
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.waiting.first().map(|(due, _)| *due)
    }

    /// How long those that run have been running.
    pub(crate) fn ages(&self, now: Instant) -> impl Iterator<Item = Duration> {
        self.entries.iter().filter_map(move |entry| match entry.place {
            Place::Running { .. } => Some(now.saturating_duration_since(entry.links.since)),
            _ => None,
        })
    }

    /// Takes out everything that has not begun to run.
    pub(crate) fn drain(&mut self) -> Vec<K> {
        let mut keys = Vec::new();
        // From the back, so that memory that is given up on the way is not looked at again.
        for at in (0..u32::try_from(self.entries.len()).unwrap_or(u32::MAX)).rev() {
            let Some(entry) = self.entries.get_mut(at as usize) else { continue };
            match &mut entry.place {
                Place::Free => {}
                Place::Running { again, .. } => {
                    if again.take().is_some() {
                        keys.extend(entry.key.clone());
                    }
                }
                Place::Ready => {
                    keys.extend(entry.key.clone());
                    self.ready.unlink(&mut self.entries, at);
                    self.forget(at);
                }
                Place::Waiting { .. } => {
                    keys.extend(entry.key.clone());
                    self.forget(at);
                }
            }
        }
        self.waiting.clear();
        keys
    }

    fn rest(&mut self, at: u32, due: Instant) -> Wake {
        self.entries[at as usize].failures = 0;
        self.make_wait(at, due, false)
    }

    fn make_ready(&mut self, at: u32, now: Instant) -> Wake {
        self.entries[at as usize].links.since = now;
        self.enqueue(at)
    }

    fn enqueue(&mut self, at: u32) -> Wake {
        self.entries[at as usize].place = Place::Ready;
        self.ready.push(&mut self.entries, at);
        Wake { ready: 1, timer: false }
    }

    fn make_wait(&mut self, at: u32, due: Instant, failed: bool) -> Wake {
        self.entries[at as usize].place = Place::Waiting { at: due, failed };
        self.waiting.insert((due, at));
        Wake { ready: 0, timer: self.waiting.first() == Some(&(due, at)) }
    }

    /// The entry of `key`, made if there is none.
    fn entry(&mut self, key: K, hash: u64, clock: impl FnOnce() -> Instant) -> u32 {
        let entries = &self.entries;
        let is_it = |at: &u32| {
            let entry = &entries[*at as usize];
            entry.hash == hash && entry.key.as_ref() == Some(&key)
        };
        if let Some(at) = self.table.find(hash, is_it) {
            return *at;
        }
        let group = match &self.group_of {
            None => self.ready.join_sole(),
            Some(group_of) => self.ready.join(group_of(&key)),
        };
        let links = Links::new(group, clock());
        let entry = Entry { key: Some(key), hash, place: Place::Free, failures: 0, links };
        let at = if let Some(at) = self.free.pop() {
            self.entries[at as usize] = entry;
            at
        } else {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 keys")
        };
        let entries = &self.entries;
        self.table.insert_unique(hash, at, |at| entries[*at as usize].hash);
        self.peak = self.peak.max(self.table.len());
        at
    }

    fn forget(&mut self, at: u32) {
        let entry = &mut self.entries[at as usize];
        entry.place = Place::Free;
        entry.key = None;
        if let Ok(found) = self.table.find_entry(entry.hash, |other| *other == at) {
            found.remove();
        }
        let group = entry.links.group;
        self.free.push(at);
        self.ready.leave(group);
        if self.table.is_empty() {
            if self.entries.len() > KEPT_ENTRIES && self.peak < self.entries.len() / 4 {
                self.entries = Vec::new();
                self.free = Vec::new();
                self.table = HashTable::new();
            }
            self.peak = 0;
        }
    }
}
