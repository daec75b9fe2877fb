//! Where a source pushes what it lists, and the other end of it in the store.

use std::convert::Infallible;
use std::fmt;

use hashbrown::HashSet;

use crate::list_watcher::Cause;
use crate::object::{Object, Scope};
use crate::quarantine::{Refused, caught};
use crate::store::{Expected, LookAhead, Stamped, StoreWriter};
use crate::subscription::Publisher;

/// How many changes are collected before handlers hear of them.
const BATCH: usize = 64;

/// How many objects of a page are looked up ahead.
const AHEAD: usize = 128;

/// The receiving end of one list. Objects go straight into the store as they are pushed, so that
/// no second copy of the list is ever held; what the list lacks is taken out after it is complete.
///
/// A source whose nodes answer one by one says which of them did; guests of the others stay:
///
/// ```
/// use informer::{ListDone, ListWatcher, Listing, Object, Scope, SourceError};
///
/// struct Guest { vmid: u32, node: &'static str }
///
/// impl Object for Guest {
///     type Key = u32;
///     fn key(&self) -> u32 { self.vmid }
///     fn version(&self) -> u64 { 0 }
///     fn scope(&self) -> Scope { Scope::of(self.node) }
/// }
///
/// struct Cluster(Vec<&'static str>);
///
/// impl ListWatcher for Cluster {
///     type Object = Guest;
///
///     async fn list(&self, into: &mut Listing<'_, Guest>) -> Result<ListDone, SourceError> {
///         into.scopes([]); // nothing is gone, as far as we know yet
///         for node in &self.0 {
///             if let Ok(guests) = ask(node).await {
///                 guests.into_iter().for_each(|vmid| _ = into.put(Guest { vmid, node }));
///                 into.scope(Scope::of(node));
///             }
///         }
///         Ok(ListDone::complete())
///     }
/// }
/// # async fn ask(node: &str) -> Result<Vec<u32>, ()> { if node == "a" { Ok(vec![100]) } else { Err(()) } }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() { informer::testing::conformance(&Cluster(vec!["a", "b"])).await.unwrap(); }
/// ```
pub struct Listing<'a, T: Object> {
    writer: &'a mut StoreWriter<T>,
    publisher: &'a mut Publisher<T>,
    list: u32,
    scopes: Option<HashSet<Scope>>,
    suspicious: Option<String>,
    nameless: bool,
    /// In a check nothing is taken in; what differs is noted here.
    suspects: Option<HashSet<T::Key>>,
    pub(crate) counts: ListCounts,
}

/// What one list brought.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct ListCounts {
    /// Objects that were pushed.
    pub items: u64,
    /// Of these, the ones that were in the store already in this version.
    pub unchanged: u64,
    /// Objects that could not be taken.
    pub rejected: u64,
    /// Objects that the list lacked and that were deleted.
    pub deleted: u64,
    /// Objects that the list lacked and that were kept.
    pub kept: u64,
}

impl ListCounts {
    /// Whether nothing came, changed or went.
    pub(crate) fn is_quiet(&self) -> bool {
        self.items == self.unchanged && self.deleted == 0
    }
}

/// What a list asks of the sweep that follows it.
pub(crate) struct Sweep {
    pub(crate) scopes: Option<HashSet<Scope>>,
    pub(crate) suspicious: Option<String>,
    /// Some object is there of which nobody knows which.
    pub(crate) nameless: bool,
    pub(crate) counts: ListCounts,
}

/// What pushing one object came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Offered {
    /// It is new or has another version than the one in the store.
    Changed,
    /// It is in the store already in this version.
    Unchanged,
    /// It could not be taken, and is shown in [quarantine](crate::Quarantined).
    Rejected,
}

impl<'a, T: Object> Listing<'a, T> {
    pub(crate) fn new(
        writer: &'a mut StoreWriter<T>,
        publisher: &'a mut Publisher<T>,
        list: u32,
    ) -> Self {
        let counts = ListCounts::default();
        Self {
            writer,
            publisher,
            list,
            scopes: None,
            suspicious: None,
            nameless: false,
            suspects: None,
            counts,
        }
    }

    /// A list that is only compared with the store.
    pub(crate) fn checking(
        writer: &'a mut StoreWriter<T>,
        publisher: &'a mut Publisher<T>,
        list: u32,
    ) -> Self {
        Self { suspects: Some(HashSet::new()), ..Self::new(writer, publisher, list) }
    }

    /// Pushes one object without making it: `make` is called only if `key` is new or its version
    /// differs from `version`. An unchanged object costs a lookup and no allocation.
    ///
    /// `make` must make an object with this key and this version. If it panics, this object
    /// alone is rejected.
    pub fn offer(&mut self, key: &T::Key, version: u64, make: impl FnOnce() -> T) -> Offered {
        self.try_offer(key, version, || Ok::<T, Infallible>(make()))
    }

    /// Like [`offer`](Self::offer) for objects that may turn out to be unreadable: an error of
    /// `make` [rejects](Self::reject) this object alone.
    pub fn try_offer<E: Into<Cause>>(
        &mut self,
        key: &T::Key,
        version: u64,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Offered {
        if self.writer.keep(key, version, self.list) {
            self.counts.items += 1;
            self.counts.unchanged += 1;
            if !self.is_check() {
                self.publisher.hub().quarantine.release(key);
            }
            return Offered::Unchanged;
        }
        if let Some(suspects) = &mut self.suspects {
            self.counts.items += 1;
            suspects.insert(key.clone());
            return Offered::Changed;
        }
        let object = caught("making the object", || make().map_err(Into::into));
        let object = match object {
            Ok(Ok(object)) => object,
            Ok(Err(cause)) | Err(cause) => return self.reject(Some(key.clone()), cause),
        };
        debug_assert!(object.key() == *key, "{:?} was offered as {key:?}", object.key());
        debug_assert_eq!(object.version(), version, "version of {key:?}");
        self.put(object)
    }

    /// Pushes one object that was made already.
    pub fn put(&mut self, object: T) -> Offered {
        if self.suspects.is_some() {
            return match caught("the object", || (object.key(), object.version())) {
                Ok((key, version)) => self.offer(&key, version, || object),
                Err(cause) => self.reject(None, cause),
            };
        }
        match self.writer.put(object, Some(self.list)) {
            Ok(Some(change)) => {
                self.counts.items += 1;
                self.publish(change);
                Offered::Changed
            }
            Ok(None) => {
                self.counts.items += 1;
                self.counts.unchanged += 1;
                Offered::Unchanged
            }
            Err(refused) => self.refuse(refused),
        }
    }

    /// Pushes many objects that were made already, for example a page: the same as
    /// [`put`](Self::put) for each, in less time, as what the store has of them is looked up for
    /// many at once.
    pub fn put_all(&mut self, objects: impl IntoIterator<Item = T>) {
        let mut objects = objects.into_iter();
        let mut next = Vec::with_capacity(objects.size_hint().0.min(AHEAD));
        let mut ahead = LookAhead::new();
        loop {
            next.extend(objects.by_ref().take(AHEAD));
            if next.is_empty() {
                return;
            }
            ahead.fetch(self.writer, next.iter().map(Some), Expected::Unchanged);
            for object in next.drain(..) {
                self.put(object);
            }
        }
    }

    /// Says that an object is there and cannot be read. It is counted, and shown with the error
    /// [in quarantine](crate::InformerHandle::quarantine) until a list is complete without it.
    ///
    /// With a key, what the store has under it stays as it is. Without one nobody knows which
    /// object it is, so that this list takes nothing out at all: find at least the key if you
    /// can.
    ///
    /// Always answers [`Offered::Rejected`].
    pub fn reject(&mut self, key: Option<T::Key>, error: impl Into<Cause>) -> Offered {
        self.refuse(Refused::new(key, error))
    }

    fn refuse(&mut self, refused: Refused<T::Key>) -> Offered {
        self.counts.rejected += 1;
        match &refused.key {
            Some(key) => self.writer.spare(key, self.list),
            None => self.nameless = true,
        }
        // A check takes nothing in, so there is nothing that it could not take either.
        if !self.is_check() {
            self.publisher.hub().reject(refused, self.list);
        }
        Offered::Rejected
    }

    /// Whether this list is only compared with the store, as
    /// [`verify_every`](crate::InformerBuilder::verify_every) asks for. A source that answers
    /// [`ListDone::Unchanged`](crate::ListDone::Unchanged) must not remember such a list as the
    /// last complete one, because nothing of it is taken in. All others need not care.
    pub fn is_check(&self) -> bool {
        self.suspects.is_some()
    }

    /// Restricts this list to scopes, and names one that answered whole. Objects of scopes that
    /// no call names stay, whatever the list lacks.
    ///
    /// An object is judged by the scope that it had when it was last seen. Where objects move
    /// between scopes, a move into one that did not answer looks like a delete; let
    /// [`confirm_absent`](crate::ListWatcher::confirm_absent) tell them apart.
    pub fn scope(&mut self, answered: Scope) {
        self.scopes([answered]);
    }

    /// Like [`scope`](Self::scope) for several; none at all means that nothing is taken out.
    pub fn scopes(&mut self, answered: impl IntoIterator<Item = Scope>) {
        self.scopes.get_or_insert_default().extend(answered);
    }

    /// Marks this list as not to be trusted: what it has is taken, nothing is taken out, and it
    /// does not make the informer synced.
    ///
    /// `why` is shown in the [`Status`](crate::Status).
    pub fn suspicious(&mut self, why: impl Into<String>) {
        self.suspicious = Some(why.into());
    }

    /// Tells handlers of everything that was pushed so far. Happens by itself after every few
    /// changes and at the end; call it before a long wait in the middle.
    pub fn flush(&mut self) {
        self.publisher.flush();
    }

    pub(crate) fn finish(self) -> Sweep {
        self.publisher.flush();
        let Self { scopes, suspicious, nameless, counts, .. } = self;
        Sweep { scopes, suspicious, nameless, counts }
    }

    pub(crate) fn finish_check(mut self) -> (Sweep, HashSet<T::Key>) {
        let suspects = self.suspects.take().unwrap_or_default();
        (self.finish(), suspects)
    }

    fn publish(&mut self, change: Stamped<T>) {
        if self.publisher.add(change) >= BATCH {
            self.publisher.flush();
        }
    }
}

impl<T: Object> fmt::Debug for Listing<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listing")
            .field("counts", &self.counts)
            .field("suspicious", &self.suspicious)
            .finish_non_exhaustive()
    }
}
