//! Waiting for a store to get somewhere.

use std::borrow::Borrow;
use std::error::Error;
use std::fmt;
use std::hash::Hash;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::Store;
use crate::list_watcher::Cursor;
use crate::object::Object;

/// The store did not get there in time. It may still.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NotYet {
    /// How long the caller was ready to wait.
    pub deadline: Duration,
    /// How far the store has come instead, if its source tells.
    pub cursor: Option<Cursor>,
    /// How long ago the source last confirmed the store; `None` if it never did.
    pub age: Option<Duration>,
}

impl fmt::Display for NotYet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store did not get there within {:?}; it was ", self.deadline)?;
        match self.age {
            Some(age) => write!(f, "last confirmed {age:?} ago"),
            None => f.write_str("never confirmed"),
        }
    }
}

impl Error for NotYet {}

impl<T: Object> Store<T> {
    /// Waits until `condition` holds, asking after every batch of changes and every answer of
    /// the source.
    ///
    /// Waits for ever if it never does; put a timeout around it. Dropping it is safe.
    pub async fn wait_until(&self, mut condition: impl FnMut(&Self) -> bool) {
        loop {
            // Armed before the condition is read, so that a change in between is not lost.
            let mut changed = pin!(self.inner.changed.notified());
            changed.as_mut().enable();
            if condition(self) {
                return;
            }
            changed.await;
        }
    }

    /// Waits until `condition` holds for what is under a key (`None`: nothing), and returns
    /// that.
    ///
    /// Reads your write: wait for the version that was written, or for the delete.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use informer::{NotYet, Object, Store};
    /// # struct Guest { vmid: u32, running: bool }
    /// # impl Object for Guest {
    /// #     type Key = u32;
    /// #     fn key(&self) -> u32 { self.vmid }
    /// #     fn version(&self) -> u64 { u64::from(self.running) }
    /// # }
    /// async fn until_it_runs(guests: &Store<Guest>, vmid: u32) -> Result<(), NotYet> {
    ///     let limit = Duration::from_secs(10);
    ///     guests.wait_for(&vmid, limit, |guest| guest.is_some_and(|g| g.running)).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`NotYet`] after `deadline`.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn wait_for<Q>(
        &self,
        key: &Q,
        deadline: Duration,
        mut condition: impl FnMut(Option<&Arc<T>>) -> bool,
    ) -> Result<Option<Arc<T>>, NotYet>
    where
        T::Key: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut found = None;
        let there = self.wait_until(|store| {
            found = store.get(key);
            condition(found.as_ref())
        });
        timeout(deadline, there).await.map_err(|_| self.not_yet(deadline))?;
        Ok(found)
    }

    /// Waits until the store shows the source as it was at `cursor` or later.
    ///
    /// That is so when the store has [reached](Cursor::reached) the cursor, or when a list of
    /// everything that began after this call is in it. Where cursors have no order only the
    /// second is certain for one that a watch may have passed:
    /// [`InformerHandle::refresh`](crate::InformerHandle::refresh) asks for that list.
    ///
    /// # Errors
    ///
    /// [`NotYet`] after `deadline`.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn ensure_at_least(&self, cursor: &Cursor, deadline: Duration) -> Result<(), NotYet> {
        let (begun, _) = self.lists();
        let there = self.wait_until(|store| {
            store.lists().1 > begun || store.cursor().is_some_and(|here| here.reached(cursor))
        });
        timeout(deadline, there).await.map_err(|_| self.not_yet(deadline))
    }

    fn not_yet(&self, deadline: Duration) -> NotYet {
        NotYet { deadline, cursor: self.cursor(), age: self.age() }
    }
}
