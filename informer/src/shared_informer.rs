//! One source, one store, any number of handlers that come and go.

mod builder;
mod handle;

use std::fmt;
use std::pin::pin;

use crate::list_watcher::ListWatcher;
use crate::reflector::{Reflector, Step};
use crate::store::Store;
use crate::subscription::{SubscribeOptions, Subscription};
pub use builder::InformerBuilder;
pub use handle::InformerHandle;

/// Follows one source, keeps its objects in an indexed store and tells handlers of changes.
///
/// ```
/// # use informer::{ListDone, ListWatcher, Listing, Object, SourceError};
/// # struct Guest(u32);
/// # impl Object for Guest {
/// #     type Key = u32;
/// #     fn key(&self) -> u32 { self.0 }
/// #     fn version(&self) -> u64 { 0 }
/// # }
/// # struct Guests;
/// # impl ListWatcher for Guests {
/// #     type Object = Guest;
/// #     async fn list(&self, into: &mut Listing<'_, Guest>) -> Result<ListDone, SourceError> {
/// #         (100..103).for_each(|vmid| { into.put(Guest(vmid)); });
/// #         Ok(ListDone::complete())
/// #     }
/// # }
/// use std::time::Duration;
/// use informer::{Event, SharedIndexInformer, SubscribeOptions};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), informer::NotSynced> {
/// let builder = SharedIndexInformer::builder(Guests).poll_every(Duration::from_secs(5));
/// let by_parity = builder.index(|guest, out| out.push(guest.0 % 2));
/// let informer = builder.build();
///
/// let handle = informer.handle();
/// let mut guests = handle.subscribe(SubscribeOptions::named("printer"));
/// let mut tasks = tokio::task::JoinSet::new();
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// tasks.spawn(informer.run(async { drop(stopped.await) }));
///
/// handle.synced(Duration::from_secs(10)).await?;
/// assert_eq!(handle.store().by(&by_parity, &0).len(), 2);
/// assert!(matches!(guests.next().await, Some(Event::Added { .. })));
/// drop(stop);
/// # Ok(())
/// # }
/// ```
#[must_use = "an informer does nothing until it is run"]
pub struct SharedIndexInformer<L: ListWatcher> {
    reflector: Reflector<L>,
    handle: InformerHandle<L::Object>,
}

impl<L: ListWatcher> SharedIndexInformer<L> {
    /// Starts building an informer of `source`.
    pub fn builder(source: L) -> InformerBuilder<L> {
        InformerBuilder::new(source)
    }

    /// What readers and handlers hold on to; clones are cheap and may outlive the informer.
    pub fn handle(&self) -> InformerHandle<L::Object> {
        self.handle.clone()
    }

    /// See [`InformerHandle::subscribe`].
    pub fn subscribe(&self, options: SubscribeOptions<L::Object>) -> Subscription<L::Object> {
        self.handle.subscribe(options)
    }

    /// See [`InformerHandle::store`].
    pub fn store(&self) -> &Store<L::Object> {
        self.handle.store()
    }

    /// Follows the source until `shutdown` is ready. Then handlers get what was published and
    /// after that the end; the store stays readable.
    ///
    /// # Cancellation
    ///
    /// Dropping it is the same as a shutdown.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => return,
                step = self.reflector.step() => if step == Step::Stopped { return },
            }
        }
    }

    /// Takes the reflector out, to be driven step by step.
    pub fn into_reflector(self) -> Reflector<L> {
        self.reflector
    }
}

impl<L: ListWatcher> fmt::Debug for SharedIndexInformer<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedIndexInformer").field(&self.reflector).finish()
    }
}
