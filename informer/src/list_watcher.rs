//! What a source of objects must offer: a [`ListWatcher`], and the words it answers in.

use std::error::Error;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use hashbrown::HashSet;

use crate::listing::Listing;
use crate::object::Object;
use crate::quarantine::caught;

/// A collection that can be read whole and, where the source can, followed.
///
/// Implementations neither retry nor cache nor compare: the
/// [`Reflector`](crate::Reflector) does all three. A source that can only list implements only
/// [`list`](Self::list).
///
/// ```
/// use informer::{ListDone, ListWatcher, Listing, Object, SourceError};
///
/// struct File(String);
///
/// impl Object for File {
///     type Key = String;
///     fn key(&self) -> String {
///         self.0.clone()
///     }
///     fn version(&self) -> u64 {
///         0
///     }
/// }
///
/// struct Directory(std::path::PathBuf);
///
/// impl ListWatcher for Directory {
///     type Object = File;
///
///     async fn list(&self, into: &mut Listing<'_, File>) -> Result<ListDone, SourceError> {
///         for entry in std::fs::read_dir(&self.0).map_err(SourceError::transient)? {
///             let entry = entry.map_err(SourceError::transient)?;
///             into.put(File(entry.file_name().to_string_lossy().into_owned()));
///         }
///         Ok(ListDone::complete())
///     }
/// }
/// ```
pub trait ListWatcher: Send + Sync + 'static {
    /// What the collection holds.
    type Object: Object;

    /// Reads the whole collection and pushes it into `into` object by object, in any order,
    /// each key once.
    ///
    /// Keys that were not pushed are taken to be gone when this returns
    /// [`ListDone::Complete`], unless the listing was restricted to [scopes](Listing::scope) or
    /// marked [suspicious](Listing::suspicious), and after
    /// [`confirm_absent`](Self::confirm_absent) had its say. So an answer of which a part could
    /// not be read must be an `Err`, a restricted listing or a suspicious one.
    ///
    /// A source that paces itself waits in here until there is something new to list.
    ///
    /// # Errors
    ///
    /// Whatever was pushed before the error stays pushed; nothing is deleted. The reflector
    /// lists again after a back-off.
    ///
    /// # Cancellation
    ///
    /// Must be safe: the future is dropped at shutdown and after the list timeout.
    fn list(
        &self,
        into: &mut Listing<'_, Self::Object>,
    ) -> impl Future<Output = Result<ListDone, SourceError>> + Send;

    /// Yields what changed after `since`, oldest first, until the source hangs up.
    ///
    /// Only called when [`list`](Self::list) returned a cursor. Several changes of one object
    /// may arrive as the latest one, and a change may arrive twice. The end of the stream is
    /// normal: the reflector watches again from the last [`WatchEvent::Progress`], at once if
    /// anything had arrived, else after a pause.
    ///
    /// # Errors
    ///
    /// [`SourceError::Expired`] if `since` is too far back: the reflector lists again. After
    /// any other error it watches again from the last progress, after a back-off.
    fn watch(
        &self,
        since: &Cursor,
    ) -> impl Stream<Item = Result<WatchEvent<Self::Object>, SourceError>> + Send {
        let _ = since;
        futures::stream::empty()
    }

    /// Asks for a second opinion on objects that a complete list lacked, before they are
    /// deleted. Never called with an empty slice.
    ///
    /// Kept objects stay as they are, and are asked about again after the next list that lacks
    /// them. If this panics or takes longer than the list timeout, all of them are kept.
    fn confirm_absent(
        &self,
        missing: &[Arc<Self::Object>],
    ) -> impl Future<Output = Verdict<<Self::Object as Object>::Key>> + Send {
        let _ = missing;
        async { Verdict::AllGone }
    }
}

/// How a list ended that did not fail.
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use]
pub enum ListDone {
    /// All there is was pushed (all of the named scopes, if there were any).
    Complete {
        /// Where a watch goes on from; `None` from a source that can only list.
        cursor: Option<Cursor>,
    },
    /// Nothing changed since the last complete list that was not a
    /// [check](Listing::is_check), and nothing needed to be pushed.
    Unchanged,
}

impl ListDone {
    /// A complete list of a source that cannot watch.
    pub fn complete() -> Self {
        Self::Complete { cursor: None }
    }

    /// A complete list that can be followed from `cursor` on.
    pub fn at(cursor: impl Into<Cursor>) -> Self {
        Self::Complete { cursor: Some(cursor.into()) }
    }
}

/// What became of objects that a list lacked.
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use]
pub enum Verdict<K> {
    /// All of them are gone.
    AllGone,
    /// These are not, or not certainly; the others are gone.
    Keep(Vec<K>),
    /// None of them is certainly gone.
    KeepAll,
}

impl<K: crate::Key> Verdict<K> {
    /// Takes the kept ones out of `missing`; answers what is gone and how many were kept.
    pub(crate) fn split<T: Object<Key = K>>(
        self,
        mut missing: Vec<Arc<T>>,
    ) -> (Vec<Arc<T>>, usize) {
        let all = missing.len();
        match self {
            Self::AllGone => {}
            Self::KeepAll => missing.clear(),
            Self::Keep(keys) => {
                let keys: HashSet<K> = keys.into_iter().collect();
                missing.retain(|object| !keys.contains(&object.key()));
            }
        }
        let kept = all - missing.len();
        (missing, kept)
    }
}

/// One item of a watch.
///
/// ```
/// use futures::{Stream, stream};
/// use informer::{Cursor, ListDone, ListWatcher, Listing, SourceError, WatchEvent};
/// # struct Guest(u32);
/// # impl informer::Object for Guest {
/// #     type Key = u32;
/// #     fn key(&self) -> u32 { self.0 }
/// #     fn version(&self) -> u64 { 0 }
/// # }
///
/// /// Remembers ten changes.
/// struct Log;
///
/// impl ListWatcher for Log {
///     type Object = Guest;
///
///     async fn list(&self, into: &mut Listing<'_, Guest>) -> Result<ListDone, SourceError> {
///         into.put(Guest(100));
///         Ok(ListDone::at(41))
///     }
///
///     fn watch(
///         &self,
///         since: &Cursor,
///     ) -> impl Stream<Item = Result<WatchEvent<Guest>, SourceError>> + Send {
///         if since.as_u64().is_none_or(|revision| revision < 31) {
///             return stream::iter(vec![Err(SourceError::expired("forgotten"))]);
///         }
///         stream::iter(vec![Ok(WatchEvent::Upsert(Guest(101))), Ok(WatchEvent::Progress(42.into()))])
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub enum WatchEvent<T: Object> {
    /// The object is there and looks like this now.
    Upsert(T),
    /// The object is gone.
    Delete(T::Key),
    /// Something happened that cannot be read; see [`Listing::reject`].
    Reject {
        /// Which object it happened to, if that much is known.
        key: Option<T::Key>,
        /// Why it cannot be read. Shared, as an event may be sent twice.
        error: Arc<dyn Error + Send + Sync>,
    },
    /// Everything up to here was sent: a watch may go on from this cursor. Also a sign of life.
    Progress(Cursor),
}

impl<T: Object> WatchEvent<T> {
    /// Which object it is about, if it is about one and that is known.
    pub(crate) fn key(&self) -> Option<T::Key> {
        match self {
            Self::Upsert(object) => caught("the object", || object.key()).ok(),
            Self::Delete(key) => Some(key.clone()),
            Self::Reject { key, .. } => key.clone(),
            Self::Progress(_) => None,
        }
    }
}

/// A place in the history of a collection: opaque to the crate, compared for equality only,
/// except that one made from a number is further than one made from a smaller number.
#[derive(Clone, Debug)]
pub struct Cursor {
    text: Arc<str>,
    /// Only if it was made from one: digits in a text promise no order.
    number: Option<u64>,
}

impl Cursor {
    /// The text that the source made it from.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The number that the source made it from, if it was one.
    pub fn as_u64(&self) -> Option<u64> {
        self.number.or_else(|| self.text.parse().ok())
    }

    /// Whether who has come here has certainly come to `goal`: it is the same place, or both
    /// were made from numbers and this one is not smaller.
    ///
    /// ```
    /// use informer::Cursor;
    ///
    /// assert!(Cursor::from(10).reached(&Cursor::from(9)));
    /// assert!(!Cursor::from("10").reached(&Cursor::from("9")));
    /// assert!(Cursor::from("ten").reached(&Cursor::from("ten")));
    /// ```
    pub fn reached(&self, goal: &Self) -> bool {
        match (self.number, goal.number) {
            (Some(here), Some(goal)) => here >= goal,
            _ => self == goal,
        }
    }
}

impl PartialEq for Cursor {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Cursor {}

impl Hash for Cursor {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl From<u64> for Cursor {
    fn from(revision: u64) -> Self {
        Self { text: revision.to_string().into(), number: Some(revision) }
    }
}

impl From<&str> for Cursor {
    fn from(text: &str) -> Self {
        Self { text: text.into(), number: None }
    }
}

impl From<String> for Cursor {
    fn from(text: String) -> Self {
        Self { text: text.into(), number: None }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What lies beneath an error.
pub type Cause = Box<dyn Error + Send + Sync + 'static>;

/// Why a source gave no usable answer, by what should be done about it.
///
/// `Display` says what kind of failure it was; what happened is in
/// [`source`](Error::source). Print the chain where the error is handled.
#[derive(Debug)]
#[non_exhaustive]
pub enum SourceError {
    /// The cursor is too far back: list again, at once.
    Expired {
        /// What the source said.
        source: Cause,
    },
    /// It may go away by itself: try again after a back-off.
    Transient {
        /// The source asked to be left alone for at least this long.
        retry_after: Option<Duration>,
        /// What happened.
        source: Cause,
    },
    /// The source asked us to slow down.
    Throttled {
        /// For at least this long, if it said so.
        retry_after: Option<Duration>,
        /// What the source said.
        source: Cause,
    },
    /// Somebody must do something (a revoked token, a wrong address). Tried again all the same,
    /// at the slowest pace, so that nobody needs to restart us afterwards.
    Fatal {
        /// What is wrong.
        source: Cause,
    },
}

impl SourceError {
    /// See [`SourceError::Expired`].
    pub fn expired(cause: impl Into<Cause>) -> Self {
        Self::Expired { source: cause.into() }
    }

    /// See [`SourceError::Transient`].
    pub fn transient(cause: impl Into<Cause>) -> Self {
        Self::Transient { retry_after: None, source: cause.into() }
    }

    /// See [`SourceError::Throttled`].
    pub fn throttled(retry_after: Option<Duration>, cause: impl Into<Cause>) -> Self {
        Self::Throttled { retry_after, source: cause.into() }
    }

    /// See [`SourceError::Fatal`].
    pub fn fatal(cause: impl Into<Cause>) -> Self {
        Self::Fatal { source: cause.into() }
    }

    /// Sets the least pause before the next attempt; no effect on `Expired` and `Fatal`.
    #[must_use]
    pub fn with_retry_after(mut self, pause: Duration) -> Self {
        if let Self::Transient { retry_after, .. } | Self::Throttled { retry_after, .. } = &mut self
        {
            *retry_after = Some(pause);
        }
        self
    }

    /// The least pause that the source asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Transient { retry_after, .. } | Self::Throttled { retry_after, .. } => {
                *retry_after
            }
            Self::Expired { .. } | Self::Fatal { .. } => None,
        }
    }

    /// One word for metrics: `expired`, `transient`, `throttled` or `fatal`.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Expired { .. } => "expired",
            Self::Transient { .. } => "transient",
            Self::Throttled { .. } => "throttled",
            Self::Fatal { .. } => "fatal",
        }
    }

    /// What the source said.
    pub fn cause(&self) -> &Cause {
        match self {
            Self::Expired { source }
            | Self::Transient { source, .. }
            | Self::Throttled { source, .. }
            | Self::Fatal { source } => source,
        }
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired { .. } => "the cursor has expired",
            Self::Transient { .. } => "the source did not answer",
            Self::Throttled { .. } => "the source asked us to slow down",
            Self::Fatal { .. } => "the source will not answer until somebody acts",
        })
    }
}

impl Error for SourceError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.cause().as_ref())
    }
}
