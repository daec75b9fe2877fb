//! Disks and addresses of guests, read one guest at a time on a budget of their own.
//!
//! A guest is read when it appears or changes, and again every `period`. Agents are asked one at
//! a time per node, because each call blocks one of the node's few API workers for seconds
//! (qemu-server: src/PVE/QMPClient.pm:168).

use std::{sync::Arc, time::Duration};

use informer::{Backoff, InformerHandle, Replay, SubscribeOptions, Taken, WorkQueue};
use schema::{ClusterId, Db, guest_details::GuestRead};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    details_of::{addresses, details},
    details_writer::DetailsWriter,
    objects::Guest,
    project::UNKNOWN,
};
use crate::{
    metrics::ClusterMetrics,
    pve::{GuestKind, Interfaces, NodeName, PveError, Reader, Vmid},
};

/// Guests that are read at once, over all nodes.
const WORKERS: usize = 4;

/// Bounds of the pause between two guests; in between, half a period is enough for all of them.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// One cluster's details.
struct Details {
    reader: Reader,
    guests: InformerHandle<Guest>,
    metrics: Arc<ClusterMetrics>,
    queue: WorkQueue<u32>,
    writer: mpsc::Sender<GuestRead>,
    period: Duration,
    next_start: tokio::sync::Mutex<Instant>,
}

/// Reads details until told to stop.
pub async fn run(
    db: Db,
    cluster: ClusterId,
    reader: Reader,
    guests: InformerHandle<Guest>,
    metrics: Arc<ClusterMetrics>,
    period: Duration,
    stop: CancellationToken,
) {
    let store = guests.store().clone();
    let queue = WorkQueue::builder("details")
        .backoff(Backoff::new(Duration::from_secs(2), period.max(Duration::from_secs(2))))
        .groups(move |vmid: &u32| store.get(vmid).map(|guest| Arc::clone(&guest.node)), 1)
        .build();
    let mut changes = guests.subscribe(SubscribeOptions::named("details").replay(Replay::All));
    let next_start = tokio::sync::Mutex::new(Instant::now());
    // Short: while the database takes nothing, PVE is not asked.
    let (writer, read) = mpsc::channel(WORKERS);
    let details = Arc::new(Details {
        reader,
        guests,
        metrics: Arc::clone(&metrics),
        queue: queue.clone(),
        writer,
        period,
        next_start,
    });
    let workers = TaskTracker::new();
    workers.spawn(DetailsWriter::new(db, cluster, queue.clone(), read).run(stop.clone()));
    for _ in 0..WORKERS {
        workers.spawn(Arc::clone(&details).work(stop.clone()));
    }
    workers.close();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            event = changes.next() => match event {
                Some(event) => if let Some(guest) = event.current() {
                    queue.add(guest.vmid);
                },
                None => break,
            },
        }
        metrics.set_details_pending(queue.ready());
    }
    workers.wait().await;
}

impl Details {
    async fn work(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let taken = tokio::select! {
                () = stop.cancelled() => return,
                taken = self.queue.take() => taken,
            };
            let Some(taken) = taken else { return };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.one(taken) => {}
            }
            self.metrics.set_details_pending(self.queue.ready());
        }
    }

    async fn one(&self, taken: Taken<u32>) {
        let Some(guest) = self.guests.store().get(taken.key()) else { return taken.done() };
        self.wait_for_budget().await;
        match self.read(&guest).await {
            Ok(read) => {
                if let Some(read) = read {
                    // The writer ends only when everything does.
                    let _ended = self.writer.send(read).await;
                }
                taken.done_after(self.period);
            }
            Err(error) => {
                tracing::debug!(
                    vmid = guest.vmid,
                    error = &error as &dyn std::error::Error,
                    "Details are not read this time"
                );
                taken.retry();
            }
        }
    }

    /// Spreads the reads over half a period.
    async fn wait_for_budget(&self) {
        let guests = u32::try_from(self.guests.store().len()).unwrap_or(u32::MAX).max(1);
        let pause = (self.period / 2 / guests).clamp(PAUSE.0, PAUSE.1);
        let at = {
            let mut next = self.next_start.lock().await;
            let at = (*next).max(Instant::now());
            *next = at + pause;
            at
        };
        sleep_until(at).await;
    }

    /// None if there is nobody to ask at the moment.
    async fn read(&self, guest: &Guest) -> Result<Option<GuestRead>, PveError> {
        if &*guest.status == UNKNOWN || guest.lock.is_some() {
            return Ok(None); // a change of either comes back here
        }
        let (node, vmid) = (NodeName::new(&guest.node)?, Vmid::new(guest.vmid)?);
        let config = match self.reader.guest_config(guest.kind, &node, vmid).await {
            Ok(config) => config,
            // It moved or went, and the next poll will say so; or this token may not see it.
            Err(PveError::Forbidden { .. } | PveError::Refused { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let askable =
            &*guest.status == "running" && (guest.kind == GuestKind::Lxc || config.agent_enabled());
        let interfaces = if askable {
            match self.reader.guest_interfaces(guest.kind, &node, vmid).await {
                Ok(interfaces) => interfaces,
                Err(PveError::Forbidden { message, .. }) => Interfaces::Silent(message),
                Err(error) => return Err(error),
            }
        } else {
            Interfaces::Silent("not running, or without agent".to_owned())
        };
        Ok(Some(GuestRead {
            vmid: i64::from(guest.vmid),
            details: details(&config),
            addresses: match &interfaces {
                Interfaces::Known(interfaces) => Some(addresses(interfaces, &config)),
                Interfaces::Silent(_) => None,
            },
        }))
    }
}
