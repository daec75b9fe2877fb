//! `/metrics/inventory`: what PVE shows, under the names of prometheus-pve-exporter.
//!
//! Everything comes from the last whole answer of each cluster, which the mirror has anyway: a scrape
//! asks nothing of PVE. With `?cluster=NAME` the series are the exporter's, label for label; without
//! it all clusters that are followed here are there, each series with the label `cluster`.

mod chunks;
mod families;
mod samples;
mod shown;
mod states;
#[cfg(test)]
mod tests;

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chunks::Chunks;
use futures::stream;
use serde::Deserialize;
use shown::Shown;

use crate::{
    admin::EXPOSITION,
    inventory::poll::Poll,
    templates::{Cluster, Clusters},
};

/// For how long the numbers of an answer are shown, at least; `pve_operator_poll_age_seconds` above
/// it is what people are woken by.
const FRESH: Duration = Duration::from_mins(2);

/// Where scrapes find the clusters. Clones share them.
#[derive(Clone, Debug)]
pub struct Exporter {
    clusters: Clusters,
    fresh: Duration,
}

/// The query of a scrape.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    cluster: Option<String>,
}

/// Why there is nothing to show of a cluster.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Absent {
    #[error(
        "no cluster {0:?} is followed here: pve_cluster has no such cluster_name, is_enabled is 0, \
         or another operator follows it"
    )]
    Unknown(String),
    #[error("cluster {0:?} has not answered yet: its message in pve_cluster_status says why")]
    Silent(String),
    #[error(
        "the last whole answer of cluster {cluster:?} is {} s old: its message in \
         pve_cluster_status says why", .age.as_secs()
    )]
    Old { cluster: String, age: Duration },
}

impl Exporter {
    pub fn new(clusters: Clusters, poll_interval: Duration) -> Self {
        Self { clusters, fresh: FRESH.max(poll_interval.saturating_mul(3)) }
    }

    /// Every cluster that answers.
    fn all(&self) -> Vec<Shown> {
        let mut clusters = self.clusters.all();
        clusters.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let answers = clusters.iter().filter_map(|it| Some((it, self.answer(it).ok()?)));
        answers.map(|(it, poll)| Shown::among_others(it, poll)).collect()
    }

    fn one(&self, name: &str) -> Result<Shown, Absent> {
        let clusters = self.clusters.all();
        let cluster = clusters.iter().find(|it| it.name == name);
        let cluster = cluster.ok_or_else(|| Absent::Unknown(name.to_owned()))?;
        Ok(Shown::alone(cluster, self.answer(cluster)?))
    }

    fn answer(&self, cluster: &Cluster) -> Result<Arc<Poll>, Absent> {
        let poll = cluster.polls.borrow().clone();
        let poll = poll.ok_or_else(|| Absent::Silent(cluster.name.clone()))?;
        let age = poll.at.elapsed();
        if age > self.fresh {
            return Err(Absent::Old { cluster: cluster.name.clone(), age });
        }
        Ok(poll)
    }
}

/// `GET /metrics/inventory`.
///
/// 404 for a cluster that is not followed here, 503 for one that does not answer: Prometheus' `up` is
/// then 0, as it is with the exporter.
pub async fn scrape(
    State(exporter): State<Exporter>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let shown = match wanted {
        Ok(Query(Wanted { cluster: None })) => Ok(exporter.all()),
        Ok(Query(Wanted { cluster: Some(name) })) => exporter.one(&name).map(|it| vec![it]),
        Err(error) => {
            let said = format!("{}: the one parameter is cluster=NAME\n", error.body_text());
            return (StatusCode::BAD_REQUEST, said).into_response();
        }
    };
    match shown {
        Ok(shown) => {
            let chunks = stream::iter(Chunks::new(shown).map(Ok::<_, Infallible>));
            ([("content-type", EXPOSITION)], Body::from_stream(chunks)).into_response()
        }
        Err(absent) => {
            let status = match absent {
                Absent::Unknown(_) => StatusCode::NOT_FOUND,
                Absent::Silent(_) | Absent::Old { .. } => StatusCode::SERVICE_UNAVAILABLE,
            };
            (status, format!("{absent}\n")).into_response()
        }
    }
}
