//! Images on their way from us to a node that cannot fetch them by itself.
//!
//! Such a transfer lives in this process only: when it ends, PVE throws away what it has, and the
//! next pass finds no file and begins again.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use schema::images::{ImageStore, ObjectName};
use schema::lease::Fence;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{clusters::Cluster, progress::Amount};
use crate::pve::{NodeName, PveError, StorageName, Upid, UploadFile};

/// The transfers of this process, by instance.
#[derive(Debug, Default)]
pub(super) struct Sending {
    under_way: Mutex<HashMap<i64, Arc<Transfer>>>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Transfer {
    /// Under which it was begun. After another operator had the cluster, it says nothing any more.
    fence: Option<Fence>,
    sent: AtomicU64,
    total: u64,
    stop: CancellationToken,
    outcome: Mutex<Option<Result<Upid, SendError>>>,
}

/// Why an image did not arrive.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("the image cannot be read")]
    Image(#[from] schema::images::ImageError),
    #[error(transparent)]
    Pve(#[from] PveError),
    #[error("stopped")]
    Stopped,
}

/// What is sent where.
#[derive(Debug)]
pub(super) struct Parcel {
    pub node: NodeName,
    pub storage: StorageName,
    pub file: UploadFile,
    pub image: ObjectName,
}

/// How a transfer is.
#[derive(Debug)]
pub(super) enum State {
    None,
    UnderWay(Amount),
    Over(Result<Upid, SendError>),
}

impl Sending {
    /// Begins a transfer, unless one is under way.
    pub(super) fn begin(&self, id: i64, cluster: Arc<Cluster>, images: ImageStore, parcel: Parcel) {
        let transfer = Arc::new(Transfer {
            fence: cluster.db.fence().cloned(),
            sent: AtomicU64::new(0),
            total: parcel.file.bytes,
            stop: CancellationToken::new(),
            outcome: Mutex::new(None),
        });
        let mut under_way = self.under_way.lock();
        if under_way.contains_key(&id) {
            return;
        }
        under_way.insert(id, Arc::clone(&transfer));
        self.tasks.spawn(async move {
            let sent = tokio::select! {
                sent = send(&cluster, &images, parcel, Arc::clone(&transfer)) => sent,
                () = transfer.stop.cancelled() => Err(SendError::Stopped),
                () = cluster.leaving() => Err(SendError::Stopped),
            };
            drop(cluster);
            *transfer.outcome.lock() = Some(sent);
        });
    }

    /// How it is; one that is over is told once.
    pub(super) fn state(&self, id: i64, cluster: &Cluster) -> State {
        let mut under_way = self.under_way.lock();
        let Some(transfer) = under_way.get(&id) else { return State::None };
        if transfer.fence.as_ref() != cluster.db.fence() {
            transfer.stop.cancel();
            under_way.remove(&id);
            return State::None;
        }
        let outcome = transfer.outcome.lock().take();
        if let Some(outcome) = outcome {
            under_way.remove(&id);
            return State::Over(outcome);
        }
        let done = transfer.sent.load(Ordering::Relaxed);
        State::UnderWay(Amount { done, total: transfer.total })
    }

    /// Forgets it: somebody else may have begun another one since.
    pub(super) fn forget(&self, id: i64) {
        if let Some(transfer) = self.under_way.lock().remove(&id) {
            transfer.stop.cancel();
        }
    }

    /// Stops it; how it ended is told by [`state`](Self::state).
    pub(super) fn stop(&self, id: i64) {
        if let Some(transfer) = self.under_way.lock().get(&id) {
            transfer.stop.cancel();
        }
    }

    /// Stops all of them and waits for that.
    pub(super) async fn shutdown(&self) {
        for transfer in self.under_way.lock().values() {
            transfer.stop.cancel();
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn send(
    cluster: &Cluster,
    images: &ImageStore,
    parcel: Parcel,
    transfer: Arc<Transfer>,
) -> Result<Upid, SendError> {
    let body = images.read(&parcel.image, 0..parcel.file.bytes).await?;
    let told = move |bytes| transfer.sent.store(bytes, Ordering::Relaxed);
    let Parcel { node, storage, file, .. } = parcel;
    Ok(cluster.changer.upload(&node, &storage, &file, body, told).await?)
}
