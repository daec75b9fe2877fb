//! What readers and handlers of an informer hold on to.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::object::Object;
use crate::quarantine::Quarantined;
use crate::status::{NotSynced, Status, wait_for_sync};
use crate::store::Store;
use crate::subscription::{Hub, Lag, SubscribeOptions, Subscription};
use crate::sync::Notify;

/// What readers and handlers hold on to. Clones are cheap.
pub struct InformerHandle<T: Object> {
    pub(super) hub: Arc<Hub<T>>,
    pub(super) poke: Arc<Notify>,
}

impl<T: Object> InformerHandle<T> {
    /// A new handler, at any time. One that comes late is told of what is there first, straight
    /// from the store, bit by bit as it takes it.
    pub fn subscribe(&self, options: SubscribeOptions<T>) -> Subscription<T> {
        self.hub.subscribe(options)
    }

    /// The store; readable at any time, also after the informer has stopped.
    pub fn store(&self) -> &Store<T> {
        &self.hub.store
    }

    /// Whether there ever was a complete list that was not suspicious.
    pub fn has_synced(&self) -> bool {
        self.hub.status.borrow().synced
    }

    /// Waits until [`has_synced`](Self::has_synced).
    ///
    /// # Errors
    ///
    /// [`NotSynced`] after `deadline` or when the informer stopped, with the last error of the
    /// source.
    pub async fn synced(&self, deadline: Duration) -> Result<(), NotSynced> {
        wait_for_sync(&self.hub.status, deadline).await
    }

    /// Asks for a list and waits until it is in the store: what it shows then is at least as new
    /// as the source was when this was called. Reads your writes where the source has no cursor.
    ///
    /// A list that only some [scopes](crate::Listing::scope) answered does not do.
    ///
    /// # Errors
    ///
    /// [`NotSynced`] after `deadline` or when the informer stopped, with the last error of the
    /// source.
    ///
    /// # Cancellation
    ///
    /// Safe; the list is made all the same.
    pub async fn refresh(&self, deadline: Duration) -> Result<(), NotSynced> {
        let store = self.store();
        let (begun, _) = store.lists();
        self.relist();
        let listed = store.wait_until(|store| store.lists().1 > begun);
        let done = tokio::select! {
            biased;
            () = listed => true,
            _ = self.status_until(Status::stopped) => false,
            () = tokio::time::sleep(deadline) => false,
        };
        if done { Ok(()) } else { Err(NotSynced::new(deadline, &self.hub.status.borrow())) }
    }

    /// The objects that could not be taken and were not taken since, by key; those without a key
    /// last, and of these the first hundred only.
    pub fn quarantine(&self) -> Vec<Quarantined<T::Key>> {
        self.hub.quarantine.all()
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        self.hub.status.borrow().clone()
    }

    /// Waits until the status fulfils a condition, and returns it. Waits for ever if it never
    /// does.
    pub async fn status_until(&self, condition: impl FnMut(&Status) -> bool) -> Status {
        let mut changes = self.hub.status.subscribe();
        match changes.wait_for(condition).await {
            Ok(status) => status.clone(),
            // The sender lives in the hub that we hold.
            Err(_) => self.status(),
        }
    }

    /// How far behind each subscription is, by its name.
    pub fn lags(&self) -> Vec<(String, Lag)> {
        self.hub.lags()
    }

    /// The name that was given to the builder.
    pub fn name(&self) -> &str {
        &self.hub.name
    }

    #[cfg(feature = "prometheus")]
    pub(crate) fn hub(&self) -> &Arc<Hub<T>> {
        &self.hub
    }

    /// Lists as soon as possible: ends a pause or breaks off a watch. No effect on a list that
    /// runs, except that another one follows it.
    pub fn relist(&self) {
        self.poke.notify_one();
    }
}

impl<T: Object> Clone for InformerHandle<T> {
    fn clone(&self) -> Self {
        Self { hub: self.hub.clone(), poke: self.poke.clone() }
    }
}

impl<T: Object> fmt::Debug for InformerHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InformerHandle")
            .field("name", &self.hub.name)
            .field("store", &self.hub.store)
            .finish_non_exhaustive()
    }
}
