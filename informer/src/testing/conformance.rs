//! Whether a source keeps the promises of [`ListWatcher`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use crate::list_watcher::{Cursor, ListDone, ListWatcher, SourceError, WatchEvent};
use crate::listing::Listing;
use crate::metrics::NoMetrics;
use crate::object::Object;
use crate::quarantine::Quarantine;
use crate::store::Store;
use crate::subscription::{Hub, Publisher};

/// What a source does that it must not do.
#[derive(Debug)]
#[non_exhaustive]
pub enum Violation {
    /// A list of a source that should be well failed.
    Failed(SourceError),
    /// The first list of all said that nothing changed since the one before.
    UnchangedAtFirst,
    /// A key was pushed more than once in one list: so many pushes, so many keys.
    Twice(u64, usize),
    /// Two lists of a source at rest differ; these keys changed, came or went.
    Restless(String),
    /// A list that was dropped half-way changed what the next one brings.
    NotCancelSafe,
    /// A watch from the cursor of a list sent something although nothing had happened, or ended
    /// with an error.
    WatchNotQuiet(String),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => write!(f, "the list failed: {error}"),
            Self::UnchangedAtFirst => f.write_str("the first list cannot be unchanged"),
            Self::Twice(pushes, keys) => write!(f, "{pushes} pushes of {keys} keys in one list"),
            Self::Restless(keys) => write!(f, "lists of a source at rest differ: {keys}"),
            Self::NotCancelSafe => f.write_str("dropping a list spoilt the next one"),
            Self::WatchNotQuiet(what) => write!(f, "a watch of a source at rest brought {what}"),
        }
    }
}

impl std::error::Error for Violation {}

/// Checks that a source which is well and at rest keeps the promises of [`ListWatcher`].
///
/// For a source that paces itself, give one that answers at once.
///
/// # Errors
///
/// The first promise that is not kept.
///
/// ```
/// # #[derive(Clone)] struct Guest(u32);
/// # impl informer::Object for Guest {
/// #     type Key = u32;
/// #     fn key(&self) -> u32 { self.0 }
/// #     fn version(&self) -> u64 { 0 }
/// # }
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// use informer::testing::{ScriptedSource, conformance};
///
/// let source = ScriptedSource::watching(); // yours, in a state in which it does not change
/// source.set(Guest(100));
///
/// conformance(&source).await.unwrap();
/// # }
/// ```
pub async fn conformance<L: ListWatcher>(source: &L) -> Result<(), Violation> {
    let first = list_once(source).await?.ok_or(Violation::UnchangedAtFirst)?;
    // Saying that nothing changed is as good as showing it.
    if let Some(second) = list_once(source).await? {
        same(&first.versions, &second.versions)?;
    }
    drop_half_way(source).await;
    if let Some(third) = list_once(source).await? {
        same(&first.versions, &third.versions).map_err(|_| Violation::NotCancelSafe)?;
    }
    match &first.cursor {
        Some(cursor) => quiet(source, cursor, &first.versions).await,
        None => Ok(()),
    }
}

struct Listed<K> {
    versions: BTreeMap<K, u64>,
    cursor: Option<Cursor>,
}

type KeyOf<L> = <<L as ListWatcher>::Object as Object>::Key;

/// One list into an empty store; `None` if it said that nothing changed.
async fn list_once<L: ListWatcher>(source: &L) -> Result<Option<Listed<KeyOf<L>>>, Violation> {
    let (store, mut writer) = Store::new();
    let hub = Arc::new(Hub::new(
        "conformance".to_owned(),
        store.clone(),
        Arc::new(NoMetrics),
        Quarantine::new(None),
    ));
    let mut publisher = Publisher::new(hub);
    let mut listing = Listing::new(&mut writer, &mut publisher, 1);
    let done = source.list(&mut listing).await.map_err(Violation::Failed)?;
    let items = listing.finish().counts.items;
    let ListDone::Complete { cursor } = done else { return Ok(None) };
    if items != store.len() as u64 {
        return Err(Violation::Twice(items, store.len()));
    }
    let versions = store.snapshot().iter().map(|object| (object.key(), object.version())).collect();
    Ok(Some(Listed { versions, cursor }))
}

async fn drop_half_way<L: ListWatcher>(source: &L) {
    let (store, mut writer) = Store::new();
    let hub = Arc::new(Hub::new(
        "conformance".to_owned(),
        store,
        Arc::new(NoMetrics),
        Quarantine::new(None),
    ));
    let mut publisher = Publisher::new(hub);
    let mut listing = Listing::new(&mut writer, &mut publisher, 1);
    let mut list = std::pin::pin!(source.list(&mut listing));
    // One poll: some sources are half-way then, others are done, which is fine too.
    if let std::task::Poll::Ready(done) = futures::poll!(list.as_mut()) {
        drop(done);
    }
}

fn same<K: crate::Key>(a: &BTreeMap<K, u64>, b: &BTreeMap<K, u64>) -> Result<(), Violation> {
    let differs = |(key, _): &(&K, &u64)| a.get(*key) != b.get(*key);
    let keys: Vec<_> = a.iter().chain(b).filter(differs).map(|(key, _)| key).take(5).collect();
    if keys.is_empty() { Ok(()) } else { Err(Violation::Restless(format!("{keys:?}"))) }
}

async fn quiet<L: ListWatcher>(
    source: &L,
    cursor: &Cursor,
    versions: &BTreeMap<KeyOf<L>, u64>,
) -> Result<(), Violation> {
    let mut watch = std::pin::pin!(source.watch(cursor));
    let until = tokio::time::Instant::now() + Duration::from_millis(200);
    while let Ok(Some(item)) = tokio::time::timeout_at(until, watch.next()).await {
        match item {
            Ok(WatchEvent::Progress(_)) => {}
            Ok(WatchEvent::Upsert(object)) => {
                if versions.get(&object.key()) != Some(&object.version()) {
                    return Err(Violation::WatchNotQuiet(format!("{:?}", object.key())));
                }
            }
            Ok(WatchEvent::Delete(key)) => {
                if versions.contains_key(&key) {
                    return Err(Violation::WatchNotQuiet(format!("a delete of {key:?}")));
                }
            }
            Ok(WatchEvent::Reject { error, .. }) => {
                return Err(Violation::WatchNotQuiet(format!("something unreadable: {error}")));
            }
            Err(error) => return Err(Violation::WatchNotQuiet(format!("an error: {error}"))),
        }
    }
    Ok(())
}
