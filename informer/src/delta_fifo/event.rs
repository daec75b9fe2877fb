//! What happens to objects, and what handlers are told of it.

use std::sync::Arc;

use crate::object::Object;

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
