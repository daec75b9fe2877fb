//! What waits for one key, and what becomes of it when something else happens to that key.

use std::sync::Arc;

use super::{Certainty, Change, Event};
use crate::object::Object;

/// What waits for one key.
///
/// `seen` is what the handler was last told, kept only for handlers that want old objects.
pub(super) enum Pending<T> {
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
    /// What waits after a change when nothing did. Clones only what waits.
    pub(super) fn first(change: &Change<T>, keep_old: bool) -> Self {
        let seen = |old: &Arc<T>| keep_old.then(|| old.clone());
        match change {
            Change::Added(new) => Self::Added(new.clone()),
            Change::Modified { old, new } => Self::Modified { seen: seen(old), new: new.clone() },
            Change::Replaced { old, new } => Self::Replaced {
                seen: seen(old),
                last: old.clone(),
                certainty: Certainty::Inferred,
                new: new.clone(),
            },
            Change::Deleted { last, certainty } => {
                Self::Deleted { seen: seen(last), last: last.clone(), certainty: *certainty }
            }
        }
    }

    /// What waits after `change`; `None` if that is nothing.
    pub(super) fn then(self, change: &Change<T>, keep_old: bool) -> Option<Self> {
        use Certainty::Inferred;
        use Change as C;
        Some(match (self, change) {
            (Self::AddedAgain(_), C::Added(new) | C::Modified { new, .. }) => {
                Self::AddedAgain(new.clone())
            }
            (Self::Resync(_) | Self::AddedAgain(_), change) => Self::first(change, keep_old),

            (Self::Added(_), C::Added(new) | C::Modified { new, .. } | C::Replaced { new, .. }) => {
                Self::Added(new.clone())
            }
            (Self::Added(_), C::Deleted { .. }) => return None,

            (Self::Modified { seen, .. }, C::Added(new) | C::Modified { new, .. }) => {
                Self::Modified { seen, new: new.clone() }
            }
            (Self::Modified { seen, .. }, C::Replaced { old, new }) => {
                Self::Replaced { seen, last: old.clone(), certainty: Inferred, new: new.clone() }
            }
            (
                Self::Modified { seen, .. } | Self::Deleted { seen, .. },
                C::Deleted { last, certainty },
            ) => Self::Deleted { seen, last: last.clone(), certainty: *certainty },

            // The handler knows `last` only; what came and went since then it need not know.
            (
                Self::Deleted { seen, last, certainty }
                | Self::Replaced { seen, last, certainty, .. },
                C::Added(new) | C::Modified { new, .. } | C::Replaced { new, .. },
            ) => {
                if last.incarnation() == new.incarnation() {
                    Self::Modified { seen, new: new.clone() }
                } else {
                    Self::Replaced { seen, last, certainty, new: new.clone() }
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
    pub(super) fn after(self, event: Event<T>) -> Self {
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
            (
                Event::Deleted { last, certainty },
                Self::Added(new) | Self::AddedAgain(new) | Self::Modified { new, .. },
            ) => {
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
    pub(super) fn again(event: Event<T>) -> Self {
        match event {
            Event::Added { object, .. } => Self::AddedAgain(object),
            Event::Modified { old, object } => Self::Modified { seen: old, new: object },
            Event::Deleted { last, certainty } => Self::Deleted { seen: None, last, certainty },
            Event::Resync(object) => Self::Resync(object),
        }
    }
}

/// A [`Pending`] without its objects.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Kind {
    #[default]
    Added,
    AddedAgain,
    Modified,
    Deleted(Certainty),
    Replaced(Certainty),
    Resync,
}

/// What few that wait have: more objects than one. See [`Pending`].
pub(super) struct Extra<T> {
    seen: Option<Arc<T>>,
    /// Of what was replaced.
    last: Option<Arc<T>>,
}

impl<T> Pending<T> {
    /// The object that is the newest, what is made of it, and what else there is.
    pub(super) fn apart(self) -> (Arc<T>, Kind, Option<Extra<T>>) {
        let extra = |seen: Option<Arc<T>>| seen.map(|seen| Extra { seen: Some(seen), last: None });
        match self {
            Self::Added(new) => (new, Kind::Added, None),
            Self::AddedAgain(new) => (new, Kind::AddedAgain, None),
            Self::Modified { seen, new } => (new, Kind::Modified, extra(seen)),
            Self::Deleted { seen, last, certainty } => {
                (last, Kind::Deleted(certainty), extra(seen))
            }
            Self::Replaced { seen, last, certainty, new } => {
                (new, Kind::Replaced(certainty), Some(Extra { seen, last: Some(last) }))
            }
            Self::Resync(object) => (object, Kind::Resync, None),
        }
    }

    /// The contrary of [`apart`](Self::apart).
    pub(super) fn whole(object: Arc<T>, kind: Kind, extra: Option<Extra<T>>) -> Self {
        let Extra { seen, last } = extra.unwrap_or(Extra { seen: None, last: None });
        match kind {
            Kind::Added => Self::Added(object),
            Kind::AddedAgain => Self::AddedAgain(object),
            Kind::Modified => Self::Modified { seen, new: object },
            Kind::Deleted(certainty) => Self::Deleted { seen, last: object, certainty },
            Kind::Replaced(certainty) => {
                let last = last.unwrap_or_else(|| object.clone());
                Self::Replaced { seen, last, certainty, new: object }
            }
            Kind::Resync => Self::Resync(object),
        }
    }
}
