//! The clusters that can be worked on: each pipeline puts itself here while it runs.

use std::{collections::HashMap, sync::Arc, time::Duration};

use informer::InformerHandle;
use parking_lot::{Mutex, RwLock};
use schema::{ClusterId, Db, DbError};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::plan;
use crate::{
    inventory::{
        guard::Quorum,
        objects::{Guest, Node, Storage},
        poll::Poll,
    },
    pve::{Changer, ErrorClass, PveError, Reader},
};

/// For how long an answer about quorum is believed, as long as nothing is changed.
const QUORUM_AGE: Duration = Duration::from_secs(2);

/// What is needed to work on one cluster.
#[derive(Debug)]
pub struct Cluster {
    pub id: ClusterId,
    pub name: String,
    /// Takes changes for as long as the cluster is ours.
    pub db: Db,
    pub reader: Reader,
    pub changer: Changer,
    pub nodes: InformerHandle<Node>,
    pub guests: InformerHandle<Guest>,
    pub storages: InformerHandle<Storage>,
    /// The last whole answer, from which the stores are filled.
    pub polls: watch::Receiver<Option<Arc<Poll>>>,
    quorum: Mutex<Option<(Instant, Quorum)>>,
    leaving: CancellationToken,
    gone: CancellationToken,
}

/// What is known of a cluster without asking it.
#[derive(Debug)]
pub struct Caches {
    pub nodes: InformerHandle<Node>,
    pub guests: InformerHandle<Guest>,
    pub storages: InformerHandle<Storage>,
    /// The last whole answer, from which the stores are filled.
    pub polls: watch::Receiver<Option<Arc<Poll>>>,
}

impl Cluster {
    pub fn new(id: ClusterId, name: String, db: Db, reader: Reader, caches: Caches) -> Self {
        let changer = Changer::new(&reader);
        let Caches { nodes, guests, storages, polls } = caches;
        Self {
            id,
            name,
            db,
            reader,
            changer,
            nodes,
            guests,
            storages,
            polls,
            quorum: Mutex::default(),
            leaving: CancellationToken::new(),
            gone: CancellationToken::new(),
        }
    }

    /// Makes sure by the database that nobody else has the cluster: before a change of PVE that no
    /// change of a row comes before.
    ///
    /// # Errors
    ///
    /// [`DbError::Fenced`] if somebody has.
    pub async fn still_ours(&self) -> Result<(), DbError> {
        self.db.write(async |_| Ok(())).await
    }

    /// Returns when the cluster can not be worked on any more: what takes long ends then.
    pub async fn leaving(&self) {
        self.leaving.cancelled().await;
    }

    /// Whether something may be begun on a node now. Asked of PVE, not only of the mirror, because
    /// without quorum PVE destroys disks and keeps guests (seen on PVE 9.2).
    pub async fn node(&self, name: &str) -> Result<plan::Node, PveError> {
        let known = self.nodes.store().get(name);
        if known.is_none_or(|node| &*node.status != "online") {
            return Ok(plan::Node::Away);
        }
        Ok(match self.quorum().await? {
            Quorum::Yes | Quorum::NotShown => plan::Node::Ready,
            Quorum::No => plan::Node::NoQuorum,
        })
    }

    /// The same, and quorum asked for anew: before anything is changed.
    pub async fn node_now(&self, name: &str) -> Result<plan::Node, PveError> {
        *self.quorum.lock() = None;
        self.node(name).await
    }

    async fn quorum(&self) -> Result<Quorum, PveError> {
        if let Some((at, quorum)) = *self.quorum.lock()
            && at.elapsed() < QUORUM_AGE
        {
            return Ok(quorum);
        }
        let quorum = match self.reader.cluster_status().await {
            Ok(status) => Quorum::from(&status),
            // Without Sys.Audit on / PVE does not tell; it refuses by itself what needs quorum, but
            // for deletes: those are asked for only of nodes that are online.
            Err(error) if error.class() == ErrorClass::Forbidden => Quorum::NotShown,
            Err(error) => return Err(error),
        };
        *self.quorum.lock() = Some((Instant::now(), quorum));
        Ok(quorum)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

/// The clusters whose pipeline runs. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Clusters {
    running: Arc<RwLock<HashMap<i64, Arc<Cluster>>>>,
    changed: Arc<Notify>,
}

impl Clusters {
    pub fn get(&self, id: ClusterId) -> Option<Arc<Cluster>> {
        self.running.read().get(&id.0).cloned()
    }

    /// For a look that takes no time: while the answer lives, none of them can be left.
    pub fn all(&self) -> Vec<Arc<Cluster>> {
        self.running.read().values().cloned().collect()
    }

    /// To work on one after the other, so that none is held up by the others.
    pub fn ids(&self) -> Vec<ClusterId> {
        self.running.read().values().map(|cluster| cluster.id).collect()
    }

    /// It can be worked on until the answer is dropped.
    #[must_use]
    pub fn enter(&self, cluster: Cluster) -> Entered {
        let cluster = Arc::new(cluster);
        self.running.write().insert(cluster.id.0, Arc::clone(&cluster));
        self.changed.notify_one();
        Entered { clusters: self.clone(), cluster }
    }

    /// Returns when a cluster came or went since the last time.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Entered {
    /// Takes the cluster away, and returns when nobody works on it any more.
    pub async fn left(self) {
        let gone = self.cluster.gone.clone();
        drop(self);
        gone.cancelled().await;
    }
}

/// A cluster that can be worked on.
#[derive(Debug)]
pub struct Entered {
    clusters: Clusters,
    cluster: Arc<Cluster>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut running = self.clusters.running.write();
        // Its successor may have come already.
        if running.get(&self.cluster.id.0).is_some_and(|it| Arc::ptr_eq(it, &self.cluster)) {
            running.remove(&self.cluster.id.0);
        }
        drop(running);
        self.cluster.leaving.cancel();
        self.clusters.changed.notify_one();
    }
}
