//! Asks one cluster for its resources, again and again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    guard::Quorum,
    health::{Board, Connection, Trouble},
    poll::{Membership, Poll, Publish},
};
use crate::{
    metrics::ClusterMetrics,
    pve::{ClusterStatus, ErrorClass, MIRROR, PveError, Reader, Resources, Version},
};

/// `/cluster/status` is read at every sixth poll, and whenever the nodes changed.
const MEMBERSHIP_EVERY: u64 = 6;

/// Nodes that are asked besides when one says that it has no quorum.
const OTHER_OPINIONS: usize = 2;

/// The longest pause between two tries of a token that PVE does not accept.
///
/// Each one costs PVE three seconds of a worker and a line in its log, and may get us banned there.
/// A new token is tried at once: its row starts a new poller.
const REFUSED_PAUSE: Duration = Duration::from_mins(1);

/// Polls between two looks at version, privileges and certificates.
const TRUST_EVERY: u64 = 60;

/// One cluster's poller.
#[derive(Debug)]
pub struct Poller {
    reader: Reader,
    publish: Publish,
    board: Board,
    metrics: Arc<ClusterMetrics>,
    membership: Arc<Membership>,
    version: Option<Arc<Version>>,
    /// Node names and states of the poll that the membership was read after.
    nodes: BTreeMap<String, String>,
}

impl Poller {
    pub fn new(
        reader: Reader,
        publish: Publish,
        board: Board,
        metrics: Arc<ClusterMetrics>,
    ) -> Self {
        Self {
            reader,
            publish,
            board,
            metrics,
            membership: Arc::default(),
            version: None,
            nodes: BTreeMap::new(),
        }
    }

    /// Polls until told to stop. A failing cluster is asked as rarely as the client's circuit
    /// breaker lets through.
    pub async fn run(mut self, period: Duration, stop: CancellationToken) {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut good_polls, mut refusals) = (0, 0_u32);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let poll = self.poll(good_polls);
            let polled = tokio::select! {
                () = stop.cancelled() => return,
                polled = poll => polled,
            };
            match polled {
                Ok(()) => (good_polls, refusals) = (good_polls + 1, 0),
                // That is no news of the cluster, and what there is is for others to tell.
                Err(error) if error.class() == ErrorClass::NotOurs => return,
                Err(error) => {
                    self.metrics.poll_failed(error.class().as_str());
                    tracing::debug!(error = error.report(), "Poll failed");
                    self.board
                        .note(|facts| facts.connection = Connection::Failing(trouble(&error)));
                    if error.class() != ErrorClass::Unauthorized {
                        continue;
                    }
                    refusals = refusals.saturating_add(1);
                    let pause = period.saturating_mul(2_u32.saturating_pow(refusals));
                    ticks.reset_after(pause.min(REFUSED_PAUSE.max(period)));
                }
            }
        }
    }

    async fn poll(&mut self, good_polls: u64) -> Result<(), PveError> {
        let started = Instant::now();
        let mut others = self.reader.addresses().len().saturating_sub(1).min(OTHER_OPINIONS);
        let resources = loop {
            let resources = self.reader.resources().await?;
            let nodes = node_states(&resources);
            if good_polls.is_multiple_of(MEMBERSHIP_EVERY) || nodes != self.nodes {
                self.membership = Arc::new(self.membership().await?);
                self.nodes = nodes;
            }
            if self.membership.quorum != Quorum::No || others == 0 {
                break resources;
            }
            // A node that was cut off takes everyone else to be offline: ask one of those.
            others -= 1;
            self.reader.try_another_address();
            self.nodes.clear();
        };
        if resources.skipped() > 0 {
            self.metrics.skipped(resources.skipped());
        }
        let quorum = self.membership.quorum;
        let poll = Poll::new(resources, Arc::clone(&self.membership), self.version.clone());
        self.publish.send_replace(Some(Arc::new(poll)));
        self.metrics.polled(started.elapsed());
        self.board.note(|facts| {
            facts.connection = Connection::Working;
            facts.quorum = quorum;
        });
        if good_polls.is_multiple_of(TRUST_EVERY) {
            self.look_around().await;
        } else if good_polls.is_multiple_of(MEMBERSHIP_EVERY)
            && !self.board.facts().missing_privileges.is_empty()
        {
            self.look_at_privileges().await; // somebody may be granting them just now
        }
        Ok(())
    }

    /// Addresses and quorum; a token without Sys.Audit on `/` is not told.
    async fn membership(&self) -> Result<Membership, PveError> {
        match self.reader.cluster_status().await {
            Ok(status) => Ok(of_status(status)),
            Err(error) if error.class() == ErrorClass::Forbidden => Ok(Membership::default()),
            Err(error) => Err(error),
        }
    }

    /// What changes rarely and is worth knowing: version, privileges, certificates. Best effort.
    async fn look_around(&mut self) {
        match self.reader.version().await {
            Ok(version) => {
                self.board.note(|facts| facts.version = Some(version.version.clone()));
                self.version = Some(Arc::new(version));
            }
            Err(error) => tracing::debug!(error = error.report(), "Version is not known"),
        }
        self.look_at_privileges().await;
        if let Err(error) = self.reader.learn_trust().await {
            tracing::debug!(error = error.report(), "Certificates are not learned this time");
        }
    }

    async fn look_at_privileges(&self) {
        match self.reader.permissions().await {
            Ok(permissions) => {
                let missing =
                    permissions.missing(&MIRROR).iter().map(ToString::to_string).collect();
                self.board.note(|facts| facts.missing_privileges = missing);
            }
            Err(error) => tracing::debug!(error = error.report(), "Privileges are not known"),
        }
    }
}

fn node_states(resources: &Resources) -> BTreeMap<String, String> {
    let state = |row: &crate::pve::NodeRow<'_>| {
        (row.node.to_string(), row.status.as_deref().unwrap_or_default().to_owned())
    };
    resources.nodes().iter().map(state).collect()
}

fn of_status(status: ClusterStatus) -> Membership {
    let ip = |node: &crate::pve::MemberNode| node.ip.map(|ip| (node.name.clone(), ip.to_string()));
    let ips = status.nodes.iter().filter_map(ip).collect();
    Membership { quorum: (&status).into(), ips, status }
}

/// What an error means to the person who looks at the cluster's status.
pub fn trouble(error: &PveError) -> Trouble {
    match error {
        PveError::BreakerOpen { source, .. } => trouble(source),
        PveError::Tls { host, presented, source } => Trouble::Untrusted {
            host: host.clone(),
            presented: presented.map(|fingerprint| fingerprint.to_string()),
            why: source.to_string(),
        },
        PveError::Unauthorized { .. } => Trouble::Unauthorized,
        PveError::NotHttps { .. } => Trouble::NotHttps,
        // Without durations, which would make every failure look like news.
        PveError::Connect { host, source } => Trouble::Unreachable(format!("{host}: {source}")),
        PveError::NoAnswer { host, source, .. } => Trouble::Unreachable(format!(
            "{host} accepts connections and does not answer: {source}"
        )),
        other if other.class() == ErrorClass::NodeUnreachable => {
            Trouble::Unreachable(error.report())
        }
        other => Trouble::Other(other.report()),
    }
}
