//! Changes waiting to be delivered: at most one per key, in order of first arrival.
//!
//! | waiting | + added | + modified | + deleted |
//! | --- | --- | --- | --- |
//! | nothing | added | modified | deleted |
//! | added | | added, newest | nothing |
//! | modified | | modified, newest | deleted |
//! | deleted | modified, or deleted then added if the incarnation differs | | |
//!
//! So the memory is bounded by the number of keys, however long nobody looks.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::{HashMap, HashTable};
use tokio::time::Instant;

use crate::object::{Object, table_hash};

mod event;
mod line;
mod pending;

pub use event::{Certainty, Change, Event};
use line::{Line, Seat};
use pending::{Extra, Kind, Pending};

/// A queue that holds at most one entry per key, in order of first arrival.
///
/// Every handler of an informer has one. Alone it is useful wherever somebody produces changes
/// faster than somebody else takes them.
///
/// ```
/// use std::sync::Arc;
/// use informer::{Change, DeltaFifo, Event, Object};
///
/// # #[derive(Debug)] struct Guest(u32, &'static str);
/// # impl Object for Guest {
/// #     type Key = u32;
/// #     fn key(&self) -> u32 { self.0 }
/// #     fn version(&self) -> u64 { informer::fingerprint(self.1) }
/// # }
/// let (old, new) = (Arc::new(Guest(100, "stopped")), Arc::new(Guest(100, "running")));
/// let mut fifo = DeltaFifo::new();
///
/// fifo.push(Change::Added(old.clone()));
/// fifo.push(Change::Modified { old, new });
///
/// assert!(matches!(fifo.pop(), Some(Event::Added { object, .. }) if object.1 == "running"));
/// assert!(fifo.pop().is_none());
/// ```
pub struct DeltaFifo<T: Object> {
    /// What waits, by key. Seats that were left from the front are still in it, until they are
    /// as many as those that are taken.
    table: HashTable<Seat>,
    /// From here on, nobody is in the table: what is new is put in when somebody is looked for.
    unlisted: Seat,
    /// Something that was deleted, or was given back, may wait. Otherwise what is new to the
    /// store is new to the queue.
    returns: bool,
    line: Line<T, Mark>,
    /// Of those that wait, what few have: more objects than one.
    extras: HashMap<Seat, Extra<T>>,
    /// Seats from which on those that wait came so many milliseconds after the queue was made.
    since: VecDeque<(Seat, u32)>,
    keep_old: bool,
    coalesced: u64,
    initial: usize,
    epoch: Instant,
}

/// What waits besides the object that is in the line.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    kind: Kind,
    initial: bool,
}

/// Seats that nobody is in any more are thrown out of the table when there are this many more of
/// them than of others; holes are filled when there are.
const STALE: usize = 256;

/// A table with room for more is given back when nothing waits.
const KEPT: usize = 1024;

impl<T: Object> DeltaFifo<T> {
    /// An empty queue that does not keep old objects.
    pub fn new() -> Self {
        Self {
            table: HashTable::new(),
            unlisted: 0,
            returns: false,
            line: Line::new(),
            extras: HashMap::new(),
            since: VecDeque::new(),
            keep_old: false,
            coalesced: 0,
            initial: 0,
            epoch: Instant::now(),
        }
    }

    /// An empty queue whose [`Event::Modified`] carry the first old object; each costs the
    /// memory of that object for as long as the event waits.
    pub fn with_old_objects() -> Self {
        Self { keep_old: true, ..Self::new() }
    }

    /// Adds a change, or merges it into what waits for its key.
    #[expect(clippy::needless_pass_by_value, reason = "whoever pushes it is done with it")]
    pub fn push(&mut self, change: Change<T>) {
        let hash = table_hash(&change.object().key());
        self.push_at(&change, hash, false, Instant::now());
    }

    /// Adds a reminder, unless something waits for its key.
    pub fn push_resync(&mut self, object: Arc<T>) {
        let key = object.key();
        let hash = table_hash(&key);
        if self.find(hash, &key).is_none() {
            self.insert(hash, Pending::Resync(object), false, Instant::now());
        }
    }

    /// Puts an event back that was taken out and could not be dealt with, behind all others.
    ///
    /// If something newer waits for its key, the two are merged. Nobody knows how much of the
    /// event was done, so a delete is never lost; it may then be one of something that the
    /// handler does not have, and a change one of something that it has deleted.
    pub fn give_back(&mut self, event: Event<T>) {
        let key = event.key();
        let hash = table_hash(&key);
        self.returns = true;
        if let Some(seat) = self.find(hash, &key) {
            self.merge(seat, |newer| Some(newer.after(event)));
        } else {
            self.insert(hash, Pending::again(event), false, Instant::now());
        }
    }

    /// Adds a change as the store tells it: what it says to be new was not in it before.
    pub(crate) fn push_stored(
        &mut self,
        change: &Change<T>,
        hash: u64,
        initial: bool,
        now: Instant,
    ) {
        match change {
            // Most of a first list is taken before anything else happens to it.
            Change::Added(new) if !self.returns => {
                self.append(Pending::Added(new.clone()), initial, now);
            }
            _ => self.push_at(change, hash, initial, now),
        }
    }

    pub(crate) fn push_at(&mut self, change: &Change<T>, hash: u64, initial: bool, now: Instant) {
        self.returns |= matches!(change, Change::Deleted { .. } | Change::Replaced { .. });
        let Some(seat) = self.find(hash, &change.object().key()) else {
            let pending = Pending::first(change, self.keep_old);
            self.insert(hash, pending, initial, now);
            return;
        };
        self.coalesced += 1;
        let keep_old = self.keep_old;
        if !self.merge(seat, |waiting| waiting.then(change, keep_old)) {
            if let Ok(entry) = self.table.find_entry(hash, |other| *other == seat) {
                entry.remove();
            }
            self.tidy();
        }
    }

    /// Brings what waits for this key up to date, if anything does: for changes that are not
    /// worth an event of their own.
    pub(crate) fn refresh_at(&mut self, change: &Change<T>, hash: u64, now: Instant) {
        if self.find(hash, &change.object().key()).is_some() {
            self.push_at(change, hash, false, now);
        }
    }

    /// Takes out the event that has waited longest.
    pub fn pop(&mut self) -> Option<Event<T>> {
        let event = self.take_at(self.line.front()?);
        self.tidy();
        event
    }

    /// Takes out the event of one key.
    pub fn take(&mut self, key: &T::Key) -> Option<Event<T>> {
        let hash = table_hash(key);
        let seat = self.find(hash, key)?;
        let event = self.take_at(seat);
        if self.line.get(seat).is_none()
            && let Ok(entry) = self.table.find_entry(hash, |other| *other == seat)
        {
            entry.remove();
        }
        self.tidy();
        event
    }

    fn take_at(&mut self, seat: Seat) -> Option<Event<T>> {
        let (pending, initial) = self.take_out(seat)?;
        Some(match pending {
            Pending::Added(object) | Pending::AddedAgain(object) => {
                Event::Added { object, initial }
            }
            Pending::Modified { seen, new } => Event::Modified { old: seen, object: new },
            Pending::Deleted { last, certainty, .. }
            | Pending::Replaced { last, certainty, .. } => Event::Deleted { last, certainty },
            Pending::Resync(object) => Event::Resync(object),
        })
    }

    /// How many keys wait.
    pub fn len(&self) -> usize {
        self.line.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.line.len() == 0
    }

    /// How many changes were merged into others so far.
    pub fn coalesced(&self) -> u64 {
        self.coalesced
    }

    /// How long the first in the queue has waited.
    pub fn oldest(&self) -> Option<Duration> {
        self.line.front()?;
        let (_, since) = self.since.front()?;
        let since = self.epoch + Duration::from_millis(u64::from(*since));
        Some(Instant::now().saturating_duration_since(since))
    }

    /// How many of those that wait were pushed as initial.
    pub(crate) fn initial(&self) -> usize {
        self.initial
    }

    fn find(&mut self, hash: u64, key: &T::Key) -> Option<Seat> {
        self.list();
        let is_it =
            |seat: &Seat| self.line.get(*seat).is_some_and(|(object, _)| object.key() == *key);
        self.table.find(hash, is_it).copied()
    }

    /// Adds what nothing waits for; that was just looked for, so all others are in the table.
    fn insert(&mut self, hash: u64, pending: Pending<T>, initial: bool, now: Instant) {
        let seat = self.append(pending, initial, now);
        let line = &self.line;
        if self.table.len() == self.table.capacity() {
            self.table.retain(|seat| line.get(*seat).is_some());
            if self.table.len() * 2 >= self.table.capacity() {
                self.table.reserve(self.table.len(), |seat| hash_in(line, *seat));
            }
        }
        self.table.insert_unique(hash, seat, |seat| hash_in(line, *seat));
        self.unlisted = line.end();
    }

    /// Adds to the line alone.
    fn append(&mut self, pending: Pending<T>, initial: bool, now: Instant) -> Seat {
        let since = now.saturating_duration_since(self.epoch).as_millis();
        let since = u32::try_from(since).unwrap_or(u32::MAX);
        let (object, kind, extra) = pending.apart();
        let seat = self.line.push(object, Mark { kind, initial });
        if let Some(extra) = extra {
            self.extras.insert(seat, extra);
        }
        if self.since.back().is_none_or(|(_, last)| *last != since) {
            self.since.push_back((seat, since));
        }
        self.initial += usize::from(initial);
        seat
    }

    /// Puts into the table whoever is not in it yet.
    fn list(&mut self) {
        let count = self.line.end().wrapping_sub(self.unlisted);
        if count == 0 {
            return;
        }
        let line = &self.line;
        self.table.reserve(count as usize, |seat| hash_in(line, *seat));
        while self.unlisted != line.end() {
            if line.get(self.unlisted).is_some() {
                let hash = hash_in(line, self.unlisted);
                self.table.insert_unique(hash, self.unlisted, |seat| hash_in(line, *seat));
            }
            self.unlisted = self.unlisted.wrapping_add(1);
        }
    }

    /// Makes something else of what waits in a seat. Answers whether something still does; if
    /// not, it is for the caller to take the seat out of the table.
    fn merge(&mut self, seat: Seat, f: impl FnOnce(Pending<T>) -> Option<Pending<T>>) -> bool {
        let Some((object, Mark { kind, initial })) = self.line.get(seat) else { return false };
        let extra = if self.extras.is_empty() { None } else { self.extras.remove(&seat) };
        let Some(pending) = f(Pending::whole(object.clone(), kind, extra)) else {
            self.line.take(seat);
            self.initial -= usize::from(initial);
            return false;
        };
        let (object, kind, extra) = pending.apart();
        self.line.swap(seat, object, Mark { kind, initial });
        if let Some(extra) = extra {
            self.extras.insert(seat, extra);
        }
        true
    }

    /// What waits in a seat. Of something that was replaced, what came stays there as new.
    fn take_out(&mut self, seat: Seat) -> Option<(Pending<T>, bool)> {
        let extra = if self.extras.is_empty() { None } else { self.extras.remove(&seat) };
        let (object, Mark { kind, initial }) = self.line.get(seat)?;
        if let Kind::Replaced(_) = kind {
            let new = object.clone();
            let pending = Pending::whole(new.clone(), kind, extra);
            self.line.swap(seat, new, Mark { kind: Kind::Added, initial });
            return Some((pending, initial));
        }
        let (object, _) = self.line.take(seat)?;
        self.initial -= usize::from(initial);
        Some((Pending::whole(object, kind, extra), initial))
    }

    /// Gives back what is held for those that have left.
    fn tidy(&mut self) {
        let Some(front) = self.line.front() else {
            self.since.clear();
            self.unlisted = self.line.end();
            self.returns = false;
            if self.table.capacity() > KEPT {
                self.table = HashTable::new();
                self.since = VecDeque::new();
                self.extras = HashMap::new();
            } else {
                self.table.clear();
            }
            return;
        };
        // The second of two entries that begin at or before the front is the one that counts.
        while let Some((seat, _)) = self.since.get(1)
            && Line::<T, Mark>::is_before(*seat, front.wrapping_add(1))
        {
            self.since.pop_front();
        }
        if Line::<T, Mark>::is_before(self.unlisted, front) {
            self.unlisted = front;
        }
        let few = self.line.len() + STALE;
        if self.table.len() > self.line.len() + few {
            self.table.retain(|seat| self.line.get(*seat).is_some());
        }
        if self.line.holes() > few {
            self.fill_holes();
        }
    }

    fn fill_holes(&mut self) {
        self.list();
        self.table.retain(|seat| self.line.get(*seat).is_some());
        let moved = self.line.compact();
        let first = self.line.front().unwrap_or_default();
        // Whoever comes from `seat`, or after it if nobody does, is here now.
        let now_at = |seat: Seat| {
            let before = moved.partition_point(|other| Line::<T, Mark>::is_before(*other, seat));
            first.wrapping_add(Seat::try_from(before).unwrap_or(Seat::MAX))
        };
        self.table.iter_mut().for_each(|seat| *seat = now_at(*seat));
        self.since.iter_mut().for_each(|(seat, _)| *seat = now_at(*seat));
        let extras = std::mem::take(&mut self.extras);
        self.extras = extras.into_iter().map(|(seat, extra)| (now_at(seat), extra)).collect();
        self.unlisted = self.line.end();
    }
}

/// The hash of the key of whoever is in a seat.
fn hash_in<T: Object>(line: &Line<T, Mark>, seat: Seat) -> u64 {
    line.get(seat).map_or(0, |(object, _)| table_hash(&object.key()))
}

impl<T: Object> Default for DeltaFifo<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Object> fmt::Debug for DeltaFifo<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeltaFifo")
            .field("len", &self.len())
            .field("coalesced", &self.coalesced)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
