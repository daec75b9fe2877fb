//! The three sources, fed by a poller, keep the promises that informers rely on.

use std::sync::Arc;
use std::time::Duration;

use informer::testing::conformance;
use pve_operator::inventory::{
    evidence::Desk,
    health::Board,
    interner::Interner,
    objects::{Guest, Node, Storage},
    poll::{Feed, Publish},
    poller::Poller,
    sources::{Mirrored, Source},
};
use pve_operator::metrics::{ClusterMetrics, Metrics};
use pve_operator::pve::Reader;
use pve_sim::{Config, Sim};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::simulated::reader;

/// Often: each list waits for a poll that it has not had.
const PERIOD: Duration = Duration::from_millis(10);

fn source<T: Mirrored>(
    reader: &Reader,
    publish: &Publish,
    metrics: &Arc<ClusterMetrics>,
) -> Source<T> {
    let desk = Arc::new(Desk::new(reader.clone()));
    let (board, words) = (Board::default(), Interner::default());
    Source::new(Feed::new(publish), desk, board, metrics.clone(), words)
}

#[tokio::test]
async fn nodes_guests_and_storages_keep_the_promises_of_a_source() {
    let sim = Sim::start(Config::quick().nodes(3).guests(40).seed(7)).unwrap();
    let reader = reader(&sim);
    let metrics = Arc::new(Metrics::new().cluster("conformance"));
    let publish = Publish::new(None);
    let nodes = source::<Node>(&reader, &publish, &metrics);
    let guests = source::<Guest>(&reader, &publish, &metrics);
    let storages = source::<Storage>(&reader, &publish, &metrics);
    let poller = Poller::new(reader, publish, Board::default(), metrics);
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(poller.run(PERIOD, stop.clone()));

    conformance(&nodes).await.unwrap();
    conformance(&guests).await.unwrap();
    conformance(&storages).await.unwrap();

    stop.cancel();
    tasks.join_next().await.unwrap().unwrap();
}
