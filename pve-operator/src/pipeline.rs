//! Everything that follows one cluster: made from its row, stopped and joined as a whole.

use std::{sync::Arc, time::Duration};

use informer::{Backoff, InformerHandle, SharedIndexInformer, SubscribeOptions};
use schema::{
    ClusterId, Db, DbError, cluster::Cluster, cluster_status, guest, node, secret::Secret, storage,
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    inventory::{
        details,
        evidence::Desk,
        health::{Board, Connection},
        interner::Interner,
        objects::{Guest, Node, Storage},
        poll::{Feed, Publish},
        poller::Poller,
        rows,
        sources::{Mirrored, Source},
        status::{self, Counts},
        trust, usage,
        writer::{Changes, Writer},
    },
    lease::Lease,
    metrics::{ClusterMetrics, Metrics},
    pve::{ApiToken, ClientConfig, Fingerprint, FirstUse, PveError, Reader, Trust},
    templates::{self, Clusters},
};

/// A source waits for the poller, which has deadlines of its own.
const FOREVER: Duration = Duration::from_hours(365 * 24);

/// How long requests that are under way at the end have for their answers.
const LAST_REQUESTS: Duration = Duration::from_secs(6);

/// How often things happen; the same for every cluster.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub poll: Duration,
    pub full_sync: Duration,
    pub details: Duration,
    pub usage: Duration,
}

/// The part of a cluster's row that a pipeline is made from. If it changes, so does the pipeline.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wanted {
    pub id: ClusterId,
    pub name: String,
    env: Option<String>,
    api_url: String,
    user_id: String,
    /// Opened, if it was sealed.
    user_token: Secret,
    tls_fingerprint: Option<String>,
    tls_ca: Option<String>,
    tls_insecure: bool,
}

impl Wanted {
    /// `user_token` is the plain one, whatever the row holds.
    pub fn new(row: &Cluster, user_token: Secret) -> Self {
        Self {
            id: row.id,
            name: row.cluster_name.clone(),
            env: row.env.clone(),
            api_url: row.api_url.clone(),
            user_id: row.user_id.clone(),
            user_token,
            tls_fingerprint: row.tls_fingerprint.clone(),
            tls_ca: row.tls_ca.clone(),
            tls_insecure: row.tls_insecure.into(),
        }
    }

    fn client(&self, first_use: FirstUse) -> Result<ClientConfig, PveError> {
        let token = ApiToken::parse(&self.user_id, self.user_token.expose())?;
        ClientConfig::new(&self.api_url, token, self.trust(first_use)?)
    }

    fn trust(&self, first_use: FirstUse) -> Result<Trust, PveError> {
        Trust::parse(
            self.tls_fingerprint.as_deref(),
            self.tls_ca.as_deref(),
            self.tls_insecure,
            first_use,
        )
    }
}

/// What all pipelines share.
#[derive(Clone, Debug)]
pub struct Shared {
    pub db: Db,
    pub metrics: Metrics,
    pub pace: Pace,
    pub first_use: FirstUse,
    /// Where a pipeline says that its cluster can be worked on.
    pub clusters: Clusters,
}

/// A running pipeline.
#[derive(Debug)]
pub struct Pipeline {
    pub wanted: Wanted,
    /// Under which it works; it stops by itself once that is over.
    pub lease: Lease,
    pub board: Board,
    stop: CancellationToken,
    done: JoinHandle<()>,
}

impl Pipeline {
    pub fn start(mut shared: Shared, wanted: Wanted, lease: Lease, tasks: &TaskTracker) -> Self {
        let (stop, board) = (CancellationToken::new(), Board::default());
        let span = tracing::info_span!("cluster", id = wanted.id.0, name = wanted.name);
        shared.db = shared.db.fenced(lease.fence().clone());
        let run = run(shared, wanted.clone(), lease.clone(), board.clone(), stop.clone());
        let done = tasks.spawn(tracing::Instrument::instrument(run, span));
        Self { wanted, lease, board, stop, done }
    }

    /// Tells it to stop; [`stopped`](Self::stopped) waits for that.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether the last poll failed, or the row makes no sense.
    pub fn is_failing(&self) -> bool {
        let facts = self.board.facts();
        facts.mistake.is_some() || matches!(facts.connection, Connection::Failing(_))
    }

    /// Whether it has ended, told to or not.
    pub fn has_ended(&self) -> bool {
        self.done.is_finished()
    }

    /// Returns when nothing of it runs any more: it asks and writes nothing from then on.
    pub async fn stopped(self) {
        self.stop.cancel();
        if let Err(error) = self.done.await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                cluster = self.wanted.name,
                "A pipeline ended badly"
            );
        }
    }
}

async fn run(shared: Shared, wanted: Wanted, lease: Lease, board: Board, stop: CancellationToken) {
    let reporter = Arc::new(shared.metrics.cluster(&wanted.name));
    let (tasks, cut) = (TaskTracker::new(), CancellationToken::new());
    match wanted.client(shared.first_use) {
        Ok(mut config) => {
            config.lease = Some(lease.clone());
            config.cut = cut.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = lease.over() => stop.cancel(),
                stored = load(&shared.db, wanted.id) => {
                    follow(&shared, &wanted, &board, config, reporter, stored, &stop, &tasks);
                }
            }
        }
        // Nothing is asked of PVE until the row changes; then this pipeline is replaced.
        Err(mistake) => {
            board.note(|facts| facts.mistake = Some(mistake.report()));
            let pace = shared.pace.usage;
            tasks.spawn(status::run(
                shared.db.clone(),
                wanted.id,
                board.clone(),
                Nothing,
                pace,
                stop.clone(),
            ));
        }
    }
    tokio::select! {
        () = stop.cancelled() => {}
        () = lease.over() => stop.cancel(),
    }
    tasks.close();
    if timeout(LAST_REQUESTS, tasks.wait()).await.is_err() {
        cut.cancel();
        tasks.wait().await;
    }
}

/// What the tables held when the pipeline started.
struct Stored {
    nodes: Vec<node::NodeRow>,
    guests: Vec<guest::GuestRow>,
    storages: Vec<storage::StorageRow>,
    status: Option<cluster_status::ClusterStatus>,
}

/// Reads the tables, for as long as it takes.
async fn load(db: &Db, cluster: ClusterId) -> Stored {
    let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
    let mut failures = 0;
    loop {
        match try_load(db, cluster).await {
            Ok(stored) => return stored,
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "Tables cannot be read yet"
                    );
                }
                tokio::time::sleep(backoff.pause(failures, None)).await;
                failures += 1;
            }
        }
    }
}

async fn try_load(db: &Db, cluster: ClusterId) -> Result<Stored, DbError> {
    let mut conn = db.conn().await?;
    Ok(Stored {
        nodes: node::load(&mut conn, cluster).await?,
        guests: guest::load(&mut conn, cluster).await?,
        storages: storage::load(&mut conn, cluster).await?,
        status: cluster_status::get(&mut conn, cluster).await?,
    })
}

/// Starts the tasks of a cluster whose row makes sense.
#[expect(clippy::too_many_arguments, reason = "the one place where everything meets")]
fn follow(
    shared: &Shared,
    wanted: &Wanted,
    board: &Board,
    mut config: ClientConfig,
    metrics: Arc<ClusterMetrics>,
    stored: Stored,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) {
    config.observer = Some(metrics.clone());
    let identity = match wanted.trust(shared.first_use) {
        Ok(trust) => {
            board.note(|facts| facts.insecure = trust.is_insecure());
            trust.identity()
        }
        Err(mistake) => return board.note(|facts| facts.mistake = Some(mistake.report())),
    };
    let reader = match Reader::new(config) {
        Ok(reader) => reader,
        Err(mistake) => return board.note(|facts| facts.mistake = Some(mistake.report())),
    };
    if let Some(status) = &stored.status {
        trust::restore(&reader, identity, status);
    }

    let words = Interner::default();
    let (publish, polls) = watch::channel(None);
    let desk = Arc::new(Desk::new(reader.clone()));
    let parts = Parts { publish: &publish, desk: &desk, board, metrics: &metrics, words: &words };
    let nodes = parts.informer(stored.nodes.iter().filter_map(|row| rows::to_node(row, &words)));
    let guests = parts.informer(stored.guests.iter().filter_map(|row| rows::to_guest(row, &words)));
    let storages = parts.informer(stored.storages.iter().map(|row| rows::to_storage(row, &words)));
    drop(stored);

    let changes = Changes {
        nodes: nodes.handle().subscribe(SubscribeOptions::named("writer")),
        guests: guests.handle().subscribe(SubscribeOptions::named("writer")),
        storages: storages.handle().subscribe(SubscribeOptions::named("writer")),
    };
    let mirror = Mirror {
        nodes: nodes.handle(),
        guests: guests.handle(),
        storages: storages.handle(),
        reader: reader.clone(),
        identity,
    };
    let (db, id, pace) = (&shared.db, wanted.id, shared.pace);
    let entered = shared.clusters.enter(templates::Cluster::new(
        id,
        wanted.name.clone(),
        db.clone(),
        reader.clone(),
        templates::Caches {
            nodes: nodes.handle(),
            guests: guests.handle(),
            storages: storages.handle(),
            polls: polls.clone(),
        },
    ));
    let stopped = stop.clone();
    tasks.spawn(async move {
        stopped.cancelled().await;
        entered.left().await;
    });
    let writer = Writer::new(
        db.clone(),
        id,
        wanted.env.clone(),
        Arc::clone(&metrics),
        polls.clone(),
        changes,
    );
    let poller = Poller::new(reader.clone(), publish, board.clone(), Arc::clone(&metrics));
    tasks.spawn(details::run(
        db.clone(),
        id,
        reader,
        guests.handle(),
        metrics,
        pace.details,
        stop.clone(),
    ));
    tasks.spawn(nodes.run(stop.clone().cancelled_owned()));
    tasks.spawn(guests.run(stop.clone().cancelled_owned()));
    tasks.spawn(storages.run(stop.clone().cancelled_owned()));
    tasks.spawn(writer.run(pace.full_sync, stop.clone()));
    tasks.spawn(usage::run(db.clone(), id, polls, pace.usage, stop.clone()));
    tasks.spawn(status::run(db.clone(), id, board.clone(), mirror, pace.usage, stop.clone()));
    tasks.spawn(poller.run(pace.poll, stop.clone()));
}

/// What every kind's informer is made with.
struct Parts<'a> {
    publish: &'a Publish,
    desk: &'a Arc<Desk>,
    board: &'a Board,
    metrics: &'a Arc<ClusterMetrics>,
    words: &'a Interner,
}

impl Parts<'_> {
    fn informer<T: Mirrored>(
        &self,
        seed: impl Iterator<Item = T>,
    ) -> SharedIndexInformer<Source<T>> {
        let source = Source::new(
            Feed::new(self.publish),
            Arc::clone(self.desk),
            self.board.clone(),
            Arc::clone(self.metrics),
            self.words.clone(),
        );
        let known = source.known();
        let informer = SharedIndexInformer::builder(source)
            .name(T::KIND.label())
            .self_paced()
            .list_timeout(FOREVER)
            .seed(seed)
            .build();
        known.get_or_init(|| informer.handle().store().clone());
        informer
    }
}

/// What the status tells of the mirror.
struct Mirror {
    nodes: InformerHandle<Node>,
    guests: InformerHandle<Guest>,
    storages: InformerHandle<Storage>,
    reader: Reader,
    identity: Fingerprint,
}

impl status::Source for Mirror {
    fn counts(&self) -> Counts {
        let mut online_nodes = 0;
        self.nodes.store().for_each(|node| online_nodes += usize::from(&*node.status == "online"));
        Counts {
            nodes: self.nodes.store().len(),
            online_nodes,
            guests: self.guests.store().len(),
            storages: self.storages.store().len(),
        }
    }

    fn learned(&self) -> status::Learned {
        trust::columns(&self.reader, self.identity)
    }
}

/// A cluster whose row makes no sense.
struct Nothing;

impl status::Source for Nothing {
    fn counts(&self) -> Counts {
        Counts::default()
    }

    fn learned(&self) -> status::Learned {
        status::Learned::default()
    }
}
