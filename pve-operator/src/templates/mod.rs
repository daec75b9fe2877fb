//! Makes templates of uploaded images, on every node where they are wanted, and takes them away.
//!
//! ```text
//! tables --list, watch--> TableSource -> Reflector -> DeltaFifo -> Indexer -> WorkQueue
//!                                                                                |
//!    status columns <--record-- act <--Step-- plan (pure) <--Seen-- look <-- Pass
//!                                |                                    |
//!                              Changer --------------> PVE <-------- Reader
//! ```
//!
//! - *instance*: a version of a template on one node; its row is the wish and the status.
//! - *staging*: where on the node the image lies until a disk is made of it.
//! - *marker*: the line in a guest's description by which it is known as ours.
//! - *act*: one change that PVE is asked for; in the row before it is asked.
//! - *leftover*: what an attempt left and what could not be removed yet.

mod act;
mod clones;
pub mod clusters;
mod collector;
mod judge;
mod look;
mod metrics;
pub mod names;
mod pass;
pub mod plan;
mod preflight;
mod privileges;
mod progress;
mod reconciler;
mod record;
mod sending;
pub mod settings;
pub mod slots;
mod staging;
mod steps;
mod table_source;
mod wanted;

use std::{sync::Arc, time::Duration};

use informer::{
    Backoff, Controller, InformerHandle, SharedIndexInformer, Shutdown, SubscribeOptions, WorkQueue,
};
use schema::{Db, image_url::ImageUrlKey, installation};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use clusters::{Caches, Cluster, Clusters};
use metrics::Metrics;
use reconciler::{Instances, Shared};
use sending::Sending;
pub use settings::{ImageAddress, Settings};
use slots::Slots;
use table_source::TableSource;
use wanted::{Clone as WantedClone, Instance};

/// Instances that are worked on at once; a pass takes a few requests, never a transfer.
const WORKERS: usize = 24;

/// Of one cluster.
const WORKERS_PER_CLUSTER: usize = 8;

/// Between two looks at the tables' counters.
const LOOK: Duration = Duration::from_millis(250);

/// Runs the template flow until told to stop. What PVE is doing then goes on, and is found again.
pub async fn run(
    db: Db,
    clusters: Clusters,
    settings: Settings,
    metrics: crate::metrics::Metrics,
    stop: CancellationToken,
) {
    let key = settings.image_address.as_ref().and_then(|address| address.key.clone());
    let Some((owner, key)) = installation(&db, key, &stop).await else { return };
    let metrics = match Metrics::new(metrics.registry()) {
        Ok(metrics) => metrics,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "No metrics of templates");
            return;
        }
    };
    let shared = Arc::new(Shared {
        db: db.clone(),
        clusters: clusters.clone(),
        owner,
        key,
        slots: Slots::new(settings.transfers),
        sending: Sending::default(),
        metrics,
        logs: parking_lot::Mutex::default(),
        settings,
    });
    let tasks = TaskTracker::new();

    let instances = SharedIndexInformer::builder(TableSource::<Instance>::new(db.clone(), LOOK))
        .name("template_instance")
        .build();
    let instance_queue = queue("template_instance", instances.handle(), |it| it.0.cluster_id.0);
    let controller = Controller::new(instance_queue.clone(), Instances(Arc::clone(&shared)))
        .workers(WORKERS)
        .on_failure(|id, failures, failure| log_failure("instance", *id, failures, failure))
        .trigger(instances.handle().subscribe(wishes()), {
            let handle = instances.handle();
            move |event, out| keys(&handle, event, out)
        });
    let wanted_clones = SharedIndexInformer::builder(TableSource::<WantedClone>::new(db, LOOK))
        .name("template_clone")
        .build();
    let clone_queue = queue("template_clone", wanted_clones.handle(), |it| it.0.cluster_id.0);
    let clone_controller =
        Controller::new(clone_queue.clone(), clones::Clones(Arc::clone(&shared)))
            .workers(WORKERS)
            .on_failure(|id, failures, failure| log_failure("clone", *id, failures, failure))
            .trigger(
                wanted_clones.handle().subscribe(SubscribeOptions::named("clones")),
                |event, out| out.push(event.key()),
            );

    tasks.spawn(wake_with_clusters(
        clusters,
        instances.handle(),
        instance_queue.clone(),
        wanted_clones.handle(),
        clone_queue.clone(),
        stop.clone(),
    ));
    tasks.spawn(collector::run(Arc::clone(&shared), instance_queue, clone_queue, stop.clone()));
    tasks.spawn(privileges::run(Arc::clone(&shared), stop.clone()));
    tasks.spawn(instances.run(stop.clone().cancelled_owned()));
    tasks.spawn(wanted_clones.run(stop.clone().cancelled_owned()));
    let drain = Shutdown::Drain(Duration::from_secs(10));
    let (stopped, clones_stopped) = (stop.clone(), stop.clone());
    tasks.spawn(async move {
        controller.run(stopped.cancelled_owned(), Shutdown::FinishRunning).await;
    });
    tasks.spawn(async move {
        clone_controller.run(clones_stopped.cancelled_owned(), drain).await;
    });
    stop.cancelled().await;
    tasks.close();
    tasks.wait().await;
    shared.sending.shutdown().await;
}

/// The id of this installation and the key that signs addresses, however long the database is away.
async fn installation(
    db: &Db,
    key: Option<ImageUrlKey>,
    stop: &CancellationToken,
) -> Option<(String, ImageUrlKey)> {
    let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
    let mut failures = 0;
    loop {
        let read = db.write(async |conn| {
            let key = match &key {
                Some(key) => key.clone(),
                None => ImageUrlKey::of_installation(conn, None).await?,
            };
            Ok((installation::id(conn).await?, key))
        });
        tokio::select! {
            () = stop.cancelled() => return None,
            known = read => match known {
                Ok(known) => return Some(known),
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "No installation id");
                }
            },
        }
        tokio::time::sleep(backoff.pause(failures, None)).await;
        failures += 1;
    }
}

/// What people change of an instance; what we write ourselves needs no pass.
fn wishes() -> SubscribeOptions<Instance> {
    SubscribeOptions::named("reconciler").on_change_of(|it: &Instance| {
        let row = &it.0;
        // Those that follow another instance must see what becomes of it.
        (row.desired, row.generation, row.is_shared.0.then(|| row.told.clone()))
    })
}

/// An instance, and on shared storage all of its upload: they follow one another.
fn keys(handle: &InformerHandle<Instance>, event: &informer::Event<Instance>, out: &mut Vec<i64>) {
    out.push(event.key());
    let changed = event.object();
    if changed.0.is_shared.0 && changed.0.is_primary.0 {
        handle.store().for_each(|it| {
            if it.0.upload_id == changed.0.upload_id {
                out.push(it.0.id.0);
            }
        });
    }
}

fn queue<T: informer::Object<Key = i64>>(
    name: &str,
    handle: InformerHandle<T>,
    cluster: impl Fn(&T) -> i64 + Send + Sync + 'static,
) -> WorkQueue<i64> {
    WorkQueue::builder(name)
        .backoff(Backoff::new(Duration::from_secs(1), Duration::from_secs(30)))
        .groups(move |id| handle.store().get(id).map_or(0, |it| cluster(&it)), WORKERS_PER_CLUSTER)
        .build()
}

/// Queues what was left alone while a cluster's pipeline did not run, and what is to be left alone now.
async fn wake_with_clusters(
    clusters: Clusters,
    instances: InformerHandle<Instance>,
    queue: WorkQueue<i64>,
    clones: InformerHandle<WantedClone>,
    clone_queue: WorkQueue<i64>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = clusters.changed() => {}
        }
        for id in instances.store().keys() {
            queue.add(id);
        }
        for id in clones.store().keys() {
            clone_queue.add(id);
        }
    }
}

fn log_failure(what: &str, id: i64, failures: u32, failure: &informer::Failure) {
    // The first one may be chance, and the hundredth says nothing new.
    if failures.is_power_of_two() && failures > 1 {
        let error = failure as &dyn std::error::Error;
        tracing::warn!(what, id, failures, error, "Cannot go on yet");
    }
}
