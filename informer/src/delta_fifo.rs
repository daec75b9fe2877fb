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

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashTable;
use tokio::time::Instant;

use crate::object::{Object, table_hash};

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
        /// [asked for that](crate::SubscribeOptions::old_objects).
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

/// What waits for one key.
///
/// `seen` is what the handler was last told, kept only for handlers that want old objects.
enum Pending<T> {
    Added(Arc<T>),
    /// An add that was given back: the handler may have done it, so a delete does not cancel it.
    AddedAgain(Arc<T>),
    Modified {
        seen: Option<Arc<T>>,
        new: Arc<T>,
    },
    Deleted {
        seen: Option<Arc<T>>,
        last: Arc<T>,
        certainty: Certainty,
    },
    Replaced {
        seen: Option<Arc<T>>,
        last: Arc<T>,
        certainty: Certainty,
        new: Arc<T>,
    },
    Resync(Arc<T>),
}

impl<T: Object> Pending<T> {
    fn first(change: Change<T>, keep_old: bool) -> Self {
        match change {
            Change::Added(new) => Self::Added(new),
            Change::Modified { old, new } => Self::Modified { seen: keep_old.then_some(old), new },
            Change::Replaced { old, new } => Self::Replaced {
                seen: keep_old.then(|| old.clone()),
                last: old,
                certainty: Certainty::Inferred,
                new,
            },
            Change::Deleted { last, certainty } => {
                Self::Deleted { seen: keep_old.then(|| last.clone()), last, certainty }
            }
        }
    }

    /// What waits after `change`; `None` if that is nothing.
    fn then(self, change: Change<T>, keep_old: bool) -> Option<Self> {
        use Certainty::Inferred;
        use Change as C;
        Some(match (self, change) {
            (Self::AddedAgain(_), C::Added(new) | C::Modified { new, .. }) => Self::AddedAgain(new),
            (Self::Resync(_) | Self::AddedAgain(_), change) => Self::first(change, keep_old),

            (Self::Added(_), C::Added(new) | C::Modified { new, .. } | C::Replaced { new, .. }) => {
                Self::Added(new)
            }
            (Self::Added(_), C::Deleted { .. }) => return None,

            (Self::Modified { seen, .. }, C::Added(new) | C::Modified { new, .. }) => {
                Self::Modified { seen, new }
            }
            (Self::Modified { seen, .. }, C::Replaced { old, new }) => {
                Self::Replaced { seen, last: old, certainty: Inferred, new }
            }
            (
                Self::Modified { seen, .. } | Self::Deleted { seen, .. },
                C::Deleted { last, certainty },
            ) => Self::Deleted { seen, last, certainty },

            // The handler knows `last` only; what came and went since then it need not know.
            (
                Self::Deleted { seen, last, certainty }
                | Self::Replaced { seen, last, certainty, .. },
                C::Added(new) | C::Modified { new, .. } | C::Replaced { new, .. },
            ) => {
                if last.incarnation() == new.incarnation() {
                    Self::Modified { seen, new }
                } else {
                    Self::Replaced { seen, last, certainty, new }
                }
            }
            (Self::Replaced { seen, last, certainty, .. }, C::Deleted { .. }) => {
                Self::Deleted { seen, last, certainty }
            }
        })
    }

    /// What waits when `event`, taken out before `self` came to wait, is given back.
    ///
    /// Nobody knows how much of it was done, so a delete is never cancelled out.
    fn after(self, event: Event<T>) -> Self {
        match (event, self) {
            (event, Self::Resync(_)) => Self::again(event),
            (
                Event::Added { .. },
                Self::Modified { new, .. } | Self::Added(new) | Self::AddedAgain(new),
            ) => Self::AddedAgain(new),
            (Event::Modified { old, .. }, Self::Modified { new, .. }) => {
                Self::Modified { seen: old, new }
            }
            (Event::Modified { old, .. }, Self::Deleted { last, certainty, .. }) => {
                Self::Deleted { seen: old, last, certainty }
            }
            (Event::Deleted { last, certainty }, Self::Added(new) | Self::Modified { new, .. }) => {
                if last.incarnation() == new.incarnation() {
                    Self::Modified { seen: Some(last), new }
                } else {
                    Self::Replaced { seen: None, last, certainty, new }
                }
            }
            (_, newer) => newer,
        }
    }

    /// An event that was taken out, as something that waits.
    fn again(event: Event<T>) -> Self {
        match event {
            Event::Added { object, .. } => Self::AddedAgain(object),
            Event::Modified { old, object } => Self::Modified { seen: old, new: object },
            Event::Deleted { last, certainty } => Self::Deleted { seen: None, last, certainty },
            Event::Resync(object) => Self::Resync(object),
        }
    }
}

const NIL: u32 = u32::MAX;

struct Node<T: Object> {
    pending: Option<Pending<T>>,
    key: Option<T::Key>,
    prev: u32,
    next: u32,
    /// Milliseconds after the queue was made.
    since: u32,
    initial: bool,
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
    table: HashTable<u32>,
    nodes: Vec<Node<T>>,
    free: u32,
    head: u32,
    tail: u32,
    keep_old: bool,
    coalesced: u64,
    initial: usize,
    epoch: Instant,
}

impl<T: Object> DeltaFifo<T> {
    /// An empty queue that does not keep old objects.
    pub fn new() -> Self {
        Self {
            table: HashTable::new(),
            nodes: Vec::new(),
            free: NIL,
            head: NIL,
            tail: NIL,
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
    pub fn push(&mut self, change: Change<T>) {
        let hash = table_hash(&change.object().key());
        self.push_at(change, hash, false, Instant::now());
    }

    /// Adds a reminder, unless something waits for its key.
    pub fn push_resync(&mut self, object: Arc<T>) {
        let key = object.key();
        let hash = table_hash(&key);
        if self.find(hash, &key).is_none() {
            self.insert(hash, key, Pending::Resync(object), false, Instant::now());
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
        if let Some(at) = self.find(hash, &key) {
            let node = &mut self.nodes[at as usize];
            node.pending = node.pending.take().map(|newer| newer.after(event));
        } else {
            self.insert(hash, key, Pending::again(event), false, Instant::now());
        }
    }

    pub(crate) fn push_at(&mut self, change: Change<T>, hash: u64, initial: bool, now: Instant) {
        let key = change.object().key();
        let Some(at) = self.find(hash, &key) else {
            let pending = Pending::first(change, self.keep_old);
            self.insert(hash, key, pending, initial, now);
            return;
        };
        self.coalesced += 1;
        let node = &mut self.nodes[at as usize];
        node.pending = node.pending.take().and_then(|p| p.then(change, self.keep_old));
        if node.pending.is_none() {
            self.remove(hash, at);
        }
    }

    /// Brings what waits for this key up to date, if anything does: for changes that are not
    /// worth an event of their own.
    pub(crate) fn refresh_at(&mut self, change: Change<T>, hash: u64, now: Instant) {
        if self.find(hash, &change.object().key()).is_some() {
            self.push_at(change, hash, false, now);
        }
    }

    /// Takes out the event that has waited longest.
    pub fn pop(&mut self) -> Option<Event<T>> {
        self.take_at(self.head)
    }

    /// Takes out the event of one key.
    pub fn take(&mut self, key: &T::Key) -> Option<Event<T>> {
        let at = self.find(table_hash(key), key)?;
        self.take_at(at)
    }

    fn take_at(&mut self, at: u32) -> Option<Event<T>> {
        let node = self.nodes.get_mut(at as usize)?;
        let initial = node.initial;
        let event = match node.pending.take()? {
            Pending::Added(object) | Pending::AddedAgain(object) => {
                Event::Added { object, initial }
            }
            Pending::Modified { seen, new } => Event::Modified { old: seen, object: new },
            Pending::Deleted { last, certainty, .. } => Event::Deleted { last, certainty },
            Pending::Resync(object) => Event::Resync(object),
            Pending::Replaced { last, certainty, new, .. } => {
                // The delete first; the add stays where it is and is next.
                node.pending = Some(Pending::Added(new));
                return Some(Event::Deleted { last, certainty });
            }
        };
        let hash = node.key.as_ref().map_or(0, table_hash);
        self.remove(hash, at);
        Some(event)
    }

    /// How many keys wait.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// How many changes were merged into others so far.
    pub fn coalesced(&self) -> u64 {
        self.coalesced
    }

    /// How long the first in the queue has waited.
    pub fn oldest(&self) -> Option<Duration> {
        let head = self.nodes.get(self.head as usize)?;
        let since = self.epoch + Duration::from_millis(u64::from(head.since));
        Some(Instant::now().saturating_duration_since(since))
    }

    /// How many of those that wait were pushed as initial.
    pub(crate) fn initial(&self) -> usize {
        self.initial
    }

    fn find(&self, hash: u64, key: &T::Key) -> Option<u32> {
        let is_it = |at: &u32| self.nodes[*at as usize].key.as_ref() == Some(key);
        self.table.find(hash, is_it).copied()
    }

    fn insert(&mut self, hash: u64, key: T::Key, pending: Pending<T>, initial: bool, now: Instant) {
        let since = now.saturating_duration_since(self.epoch).as_millis();
        let node = Node {
            pending: Some(pending),
            key: Some(key),
            prev: self.tail,
            next: NIL,
            since: u32::try_from(since).unwrap_or(u32::MAX),
            initial,
        };
        let at = if self.free == NIL {
            self.nodes.push(node);
            u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 keys")
        } else {
            let at = self.free;
            self.free = self.nodes[at as usize].next;
            self.nodes[at as usize] = node;
            at
        };
        if self.tail == NIL {
            self.head = at;
        } else {
            self.nodes[self.tail as usize].next = at;
        }
        self.tail = at;
        self.initial += usize::from(initial);
        let nodes = &self.nodes;
        self.table
            .insert_unique(hash, at, |at| nodes[*at as usize].key.as_ref().map_or(0, table_hash));
    }

    fn remove(&mut self, hash: u64, at: u32) {
        if let Ok(entry) = self.table.find_entry(hash, |other| *other == at) {
            entry.remove();
        }
        let node = &mut self.nodes[at as usize];
        node.key = None;
        node.pending = None;
        self.initial -= usize::from(node.initial);
        let (prev, next) = (node.prev, node.next);
        node.next = self.free;
        self.free = at;
        if prev == NIL {
            self.head = next;
        } else {
            self.nodes[prev as usize].next = next;
        }
        if next == NIL {
            self.tail = prev;
        } else {
            self.nodes[next as usize].prev = prev;
        }
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
