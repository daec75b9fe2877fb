//! What a handler wants to hear of, and how.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::delta_fifo::{Change, Event};
use crate::list_watcher::Cause;
use crate::object::Object;

type Only<T> = Arc<dyn Fn(&T) -> bool + Send + Sync>;
type ChangedBy<T> = Arc<dyn Fn(&T, &T) -> bool + Send + Sync>;

type OnFailure<T> = Arc<dyn Fn(&Event<T>, u32, &Cause) + Send + Sync>;

/// What a handler wants to hear of, and how.
///
/// ```
/// use std::time::Duration;
/// use informer::SubscribeOptions;
///
/// # struct Guest { node: &'static str, name: String }
/// # impl informer::Object for Guest {
/// #     type Key = String;
/// #     fn key(&self) -> String { self.name.clone() }
/// #     fn version(&self) -> u64 { 0 }
/// # }
/// let options = SubscribeOptions::<Guest>::named("renames on a")
///     .only(|guest| guest.node == "a")
///     .changed_by(|old, new| old.name != new.name)
///     .old_objects();
/// ```
#[must_use]
pub struct SubscribeOptions<T> {
    pub(super) name: String,
    pub(super) keep_old: bool,
    pub(super) replay: Replay,
    only: Option<Only<T>>,
    changed_by: Option<ChangedBy<T>>,
    pub(super) resync: Option<Duration>,
    pub(super) most_keys: Option<usize>,
    pub(super) on_failure: Option<OnFailure<T>>,
}

/// What a new handler is told of objects that are there already.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Replay {
    /// Who subscribes before the first list is taken to know the seeded objects and hears only
    /// of what differs from them; who comes later hears of everything.
    #[default]
    UnlessSeeded,
    /// Everything that is there, seeded or not, as [`Event::Added`].
    All,
    /// Nothing; only changes from now on.
    Nothing,
}

impl<T: Object> SubscribeOptions<T> {
    /// Everything, without old objects, replaying the store to those who come late.
    ///
    /// The name shows up in metrics.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            keep_old: false,
            replay: Replay::default(),
            only: None,
            changed_by: None,
            resync: None,
            most_keys: None,
            on_failure: None,
        }
    }

    /// Keeps for each waiting [`Event::Modified`] how the object looked when the handler was
    /// last told of it. A handler that lags behind then holds up to one old object per key.
    pub fn old_objects(mut self) -> Self {
        self.keep_old = true;
        self
    }

    /// What to be told of objects that are there already.
    pub fn replay(mut self, replay: Replay) -> Self {
        self.replay = replay;
        self
    }

    /// Only objects for which this holds. One that comes to fulfil it is added, one that ceases
    /// to is deleted, whatever the store says.
    ///
    /// Must depend on the object alone; runs under a lock. A panic counts as `true`.
    pub fn only(mut self, holds: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        self.only = Some(Arc::new(holds));
        self
    }

    /// Of modifications only those for which `differs(old, new)`. Adds and deletes always come.
    ///
    /// Runs under a lock. A panic counts as `true`.
    pub fn changed_by(mut self, differs: impl Fn(&T, &T) -> bool + Send + Sync + 'static) -> Self {
        self.changed_by = Some(Arc::new(differs));
        self
    }

    /// Of modifications only those in which this differs: [`changed_by`](Self::changed_by) for
    /// one field or a tuple of some.
    pub fn on_change_of<V: PartialEq>(
        self,
        part: impl Fn(&T) -> V + Send + Sync + 'static,
    ) -> Self {
        self.changed_by(move |old, new| part(old) != part(new))
    }

    /// Ends the subscription when it would have to hold more than this many keys: for handlers
    /// that would rather start anew than catch up. Without this, it holds one entry per key at
    /// most, which is bounded by the collection.
    ///
    /// What was there when the handler began does not count, however slowly that is taken. A
    /// subscription that was ended gives everything it holds away at once; see
    /// [`Subscription::is_disconnected`](crate::Subscription::is_disconnected).
    pub fn disconnect_above(mut self, keys: usize) -> Self {
        self.most_keys = Some(keys);
        self
    }

    /// Reminds of every object once per period, evenly spread over it, as [`Event::Resync`].
    pub fn resync_every(mut self, period: Duration) -> Self {
        self.resync = Some(period);
        self
    }

    /// Called when a [push-style handler](crate::Subscription::for_each) fails on an event, with the
    /// number of failures in a row: the place to log.
    pub fn on_failure(
        mut self,
        hook: impl Fn(&Event<T>, u32, &Cause) + Send + Sync + 'static,
    ) -> Self {
        self.on_failure = Some(Arc::new(hook));
        self
    }

    /// What the handler is to make of a change; `None` if it is not worth an event.
    pub(super) fn view<'a>(&self, change: &'a Change<T>) -> View<'a, T> {
        let Some(holds) = &self.only else {
            return if self.same(change) { View::Refresh(change) } else { View::Event(change) };
        };
        let passes = |object: &T| catch_unwind(AssertUnwindSafe(|| holds(object))).unwrap_or(true);
        match change {
            Change::Added(new) if passes(new) => View::Event(change),
            Change::Deleted { last, .. } if passes(last) => View::Event(change),
            Change::Added(_) | Change::Deleted { .. } => View::Nothing,
            Change::Replaced { old, new } | Change::Modified { old, new } => {
                match (passes(old), passes(new)) {
                    (true, true) if self.same(change) => View::Refresh(change),
                    (true, true) => View::Event(change),
                    (false, true) => View::Another(Change::Added(new.clone())),
                    (true, false) => View::Another(Change::Deleted {
                        last: old.clone(),
                        certainty: crate::Certainty::Observed,
                    }),
                    (false, false) => View::Nothing,
                }
            }
        }
    }

    pub(super) fn same(&self, change: &Change<T>) -> bool {
        match (change, &self.changed_by) {
            (Change::Modified { old, new }, Some(differs)) => {
                !catch_unwind(AssertUnwindSafe(|| differs(old, new))).unwrap_or(true)
            }
            _ => false,
        }
    }
}

impl<T: Object> Default for SubscribeOptions<T> {
    fn default() -> Self {
        Self::named("default")
    }
}

impl<T> fmt::Debug for SubscribeOptions<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscribeOptions")
            .field("name", &self.name)
            .field("replay", &self.replay)
            .field("resync", &self.resync)
            .finish_non_exhaustive()
    }
}

pub(super) enum View<'a, T> {
    Event(&'a Change<T>),
    /// Not what the store says: the object came into view, or went out of it.
    Another(Change<T>),
    /// Not worth an event, but what waits should not be older than need be.
    Refresh(&'a Change<T>),
    Nothing,
}
