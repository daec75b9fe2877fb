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

mod line;
mod pending;

use line::{Line, Seat};
use pending::{Extra, Kind, Pending};

/// How we know that an object is gone.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Certainty {
    /// The source said so.
    Observed,
    /// A list did not have it any more.
    Inferred,
}

/// Something that happened to one object of a store.
#[derive(Debug)]
pub enum Change<T> {
    /// It is new.
    Added(Arc<T>),
    /// It is the same thing and looks different.
    Modified {
        /// How it looked.
        old: Arc<T>,
        /// How it looks.
        new: Arc<T>,
    },
    /// It is another thing under the same key: the old one went and we did not see it go.
    Replaced {
        /// The one that went.
        old: Arc<T>,
        /// The one that came.
        new: Arc<T>,
    },
    /// It is gone.
    Deleted {
        /// How it looked last.
        last: Arc<T>,
        /// How we know.
        certainty: Certainty,
    },
}

impl<T: Object> Change<T> {
    /// The object it happened to, in its last known state.
    pub fn object(&self) -> &Arc<T> {
        match self {
            Self::Added(new) | Self::Modified { new, .. } | Self::Replaced { new, .. } => new,
            Self::Deleted { last, .. } => last,
        }
    }
}

impl<T> Clone for Change<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Added(new) => Self::Added(new.clone()),
            Self::Modified { old, new } => Self::Modified { old: old.clone(), new: new.clone() },
            Self::Replaced { old, new } => Self::Replaced { old: old.clone(), new: new.clone() },
            Self::Deleted { last, certainty } => {
                Self::Deleted { last: last.clone(), certainty: *certainty }
            }
        }
    }
}

/// What a handler is told. For one key, the events that one handler gets are always
/// `Added (Modified | Resync)* Deleted`, over and over.
///
/// ```
/// use informer::{Certainty, Event};
///
/// # #[derive(Debug)] struct Guest(u32);
/// # impl informer::Object for Guest {
/// #     type Key = u32;
/// #     fn key(&self) -> u32 { self.0 }
/// #     fn version(&self) -> u64 { 0 }
/// # }
/// fn say(event: &Event<Guest>) -> String {
///     match event {
///         Event::Added { object, initial: true } => format!("{} is there", object.0),
///         Event::Added { object, .. } => format!("{} came", object.0),
///         Event::Modified { object, .. } => format!("{} changed", object.0),
///         Event::Deleted { last, certainty: Certainty::Observed } => format!("{} went", last.0),
///         Event::Deleted { last, .. } => format!("{} is gone", last.0),
///         Event::Resync(object) => format!("{} is still there", object.0),
///     }
/// }
/// # let last = std::sync::Arc::new(Guest(100));
/// # assert_eq!(say(&Event::Deleted { last, certainty: Certainty::Inferred }), "100 is gone");
/// ```
#[derive(Debug)]
pub enum Event<T> {
    /// The object is new to this handler.
    Added {
        /// How it looks.
        object: Arc<T>,
        /// Whether it belongs to what was there when the handler began.
        initial: bool,
    },
    /// It changed since the handler was last told of it, perhaps several times.
    Modified {
        /// How it looked when the handler was last told, if the handler
        /// [asked for that](crate::SubscribeOptions::old_objects). What a handler said that it
        /// [does not care for](crate::SubscribeOptions::changed_by) may be newer than that.
        old: Option<Arc<T>>,
        /// How it looks.
        object: Arc<T>,
    },
    /// It is gone.
    Deleted {
        /// How it looked last.
        last: Arc<T>,
        /// How we know.
        certainty: Certainty,
    },
    /// Nothing happened: a periodic reminder that the handler
    /// [asked for](crate::SubscribeOptions::resync_every).
    Resync(Arc<T>),
}

impl<T> Event<T> {
    /// The object it is about, in its last known state.
    pub fn object(&self) -> &Arc<T> {
        match self {
            Self::Added { object, .. } | Self::Modified { object, .. } | Self::Resync(object) => {
                object
            }
            Self::Deleted { last, .. } => last,
        }
    }

    /// The object if it is there now, `None` if it was deleted.
    pub fn current(&self) -> Option<&Arc<T>> {
        match self {
            Self::Deleted { .. } => None,
            _ => Some(self.object()),
        }
    }

    /// One word for metrics: `added`, `modified`, `deleted` or `resync`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Added { .. } => "added",
            Self::Modified { .. } => "modified",
            Self::Deleted { .. } => "deleted",
            Self::Resync(_) => "resync",
        }
    }
}

impl<T: Object> Event<T> {
    /// The key of the object it is about.
    pub fn key(&self) -> T::Key {
        self.object().key()
    }
}

impl<T> Clone for Event<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Added { object, initial } => {
                Self::Added { object: object.clone(), initial: *initial }
            }
            Self::Modified { old, object } => {
                Self::Modified { old: old.clone(), object: object.clone() }
            }
            Self::Deleted { last, certainty } => {
                Self::Deleted { last: last.clone(), certainty: *certainty }
            }
            Self::Resync(object) => Self::Resync(object.clone()),
        }
    }
}

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
        if let Some(seat) = self.find(hash, &key) {
            self.merge(seat, |newer| Some(newer.after(event)));
        } else {
            self.insert(hash, Pending::again(event), false, Instant::now());
        }
    }

    pub(crate) fn push_at(&mut self, change: &Change<T>, hash: u64, initial: bool, now: Instant) {
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

    fn find(&self, hash: u64, key: &T::Key) -> Option<Seat> {
        let is_it =
            |seat: &Seat| self.line.get(*seat).is_some_and(|(object, _)| object.key() == *key);
        self.table.find(hash, is_it).copied()
    }

    fn insert(&mut self, hash: u64, pending: Pending<T>, initial: bool, now: Instant) {
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
        let line = &self.line;
        let hash_of = |seat: &Seat| line.get(*seat).map_or(0, |(o, _)| table_hash(&o.key()));
        if self.table.len() == self.table.capacity() {
            self.table.retain(|seat| line.get(*seat).is_some());
            if self.table.len() * 2 >= self.table.capacity() {
                self.table.reserve(self.table.len(), hash_of);
            }
        }
        self.table.insert_unique(hash, seat, hash_of);
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
        let few = self.line.len() + STALE;
        if self.table.len() > self.line.len() + few {
            self.table.retain(|seat| self.line.get(*seat).is_some());
        }
        if self.line.holes() > few {
            self.fill_holes();
        }
    }

    fn fill_holes(&mut self) {
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
    }
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
