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

/// A queue that was longer than this gives its memory back when it is empty.
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
        since: Instant,
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
    /// A key became ready.
    pub(crate) ready: bool,
    /// The earliest of those that wait changed.
    pub(crate) timer: bool,
}

/// Names the group of a key.
pub(crate) type GroupOf<K> = Box<dyn Fn(&K) -> u64 + Send + Sync>;

pub(crate) struct Core<K> {
    table: HashTable<u32>,
    entries: Vec<Entry<K>>,
    free: Vec<u32>,
    ready: Ready,
    waiting: BTreeSet<(Instant, u32)>,
    running: usize,
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
            backoff,
            group_of,
        }
    }

    /// Wants `key` run now.
    pub(crate) fn add(&mut self, key: K, priority: Priority, now: Instant) -> Wake {
        let at = self.entry(key, now);
        let entry = &mut self.entries[at as usize];
        match &mut entry.place {
            Place::Free => {
                entry.links.priority = priority;
                self.make_ready(at, now)
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
                self.make_ready(at, now)
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
        let at = self.entry(key, now);
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
        let at = self.entry(key.clone(), now);
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
        entry.place = Place::Running { since: now, again: None };
        self.running += 1;
        let key = entry.key.clone().expect("an entry that is ready has a key");
        Some((at, key, entry.failures, entry.links.since))
    }

    /// Notes that a run of `at` has ended.
    pub(crate) fn finish(&mut self, at: u32, outcome: Outcome, now: Instant) -> Wake {
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
                self.make_ready(at, now)
            }
            (Outcome::Failed { pause }, again) => {
                entry.failures = failures.saturating_add(1);
                if let Some(Again::Now(priority)) = again {
                    entry.links.priority = entry.links.priority.max(priority);
                }
                let pause = pause.unwrap_or_else(|| self.backoff.pause(failures, None));
                self.make_wait(at, now + pause, true)
            }
            (_, Some(Again::Now(priority))) => {
                entry.failures = 0;
                entry.links.priority = priority;
                self.make_ready(at, now)
            }
            (Outcome::DoneAfter(pause), Some(Again::At(due))) => {
                self.rest(at, due.min(now + pause))
            }
            (Outcome::DoneAfter(pause), None) => self.rest(at, now + pause),
            (Outcome::Done, Some(Again::At(due))) => self.rest(at, due),
            (Outcome::Done, None) => {
                self.forget(at);
                Wake::default()
            }
        };
        wake.ready |= others;
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
            Place::Running { since, .. } => Some(now.saturating_duration_since(since)),
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
        let entry = &mut self.entries[at as usize];
        entry.place = Place::Ready;
        entry.links.since = now;
        self.ready.push(&mut self.entries, at);
        Wake { ready: true, timer: false }
    }

    fn make_wait(&mut self, at: u32, due: Instant, failed: bool) -> Wake {
        self.entries[at as usize].place = Place::Waiting { at: due, failed };
        self.waiting.insert((due, at));
        Wake { ready: false, timer: self.waiting.first() == Some(&(due, at)) }
    }

    fn entry(&mut self, key: K, now: Instant) -> u32 {
        let hash = table_hash(&key);
        let entries = &self.entries;
        let is_it = |at: &u32| entries[*at as usize].key.as_ref() == Some(&key);
        if let Some(at) = self.table.find(hash, is_it) {
            return *at;
        }
        let name = self.group_of.as_ref().map_or(0, |group_of| group_of(&key));
        let links = Links::new(self.ready.join(name), now);
        let entry = Entry { key: Some(key), place: Place::Free, failures: 0, links };
        let at = if let Some(at) = self.free.pop() {
            self.entries[at as usize] = entry;
            at
        } else {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 keys")
        };
        let entries = &self.entries;
        self.table.insert_unique(hash, at, |at| {
            entries[*at as usize].key.as_ref().map_or(0, |key| table_hash(key))
        });
        at
    }

    fn forget(&mut self, at: u32) {
        let entry = &mut self.entries[at as usize];
        entry.place = Place::Free;
        if let Some(key) = entry.key.take()
            && let Ok(found) = self.table.find_entry(table_hash(&key), |other| *other == at)
        {
            found.remove();
        }
        let group = entry.links.group;
        self.free.push(at);
        self.ready.leave(group);
        if self.table.is_empty() && self.entries.len() > KEPT_ENTRIES {
            self.entries = Vec::new();
            self.free = Vec::new();
            self.table = HashTable::new();
        }
    }
}
