//! Counts what clients ask for, so that tests can say how much is too much.

use std::collections::BTreeMap;

use serde::Serialize;

/// What one simulated cluster has been asked since the last reset.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counters {
    /// Requests by method and path pattern: `GET /nodes/{node}/qemu`.
    pub by_path: BTreeMap<String, u64>,
    /// Requests by the node whose port took them.
    pub by_node: BTreeMap<String, u64>,
    /// Answers by status.
    pub by_status: BTreeMap<u16, u64>,
    /// All requests.
    pub requests: u64,
    /// Requests for a list: resources, cluster status, nodes, a node's guests or storages.
    pub list_requests: u64,
    /// Requests that carried a token or ticket, right or wrong.
    pub with_token: u64,
    /// Connections on which TLS was agreed.
    pub connections: u64,
    /// Most requests that were in flight at once.
    pub most_in_flight: u64,
    /// Most requests that were in flight at once, by node.
    pub most_in_flight_by_node: BTreeMap<String, u64>,
    /// Requests of a client that names a lease (`…; lease 7)` in its User-Agent) lower than one that
    /// was named before: somebody works on who should have stopped.
    pub late_requests: u64,
    /// Requests that began while one with another lease was in flight.
    pub overlapping_requests: u64,
    /// The highest lease that was named.
    pub lease: u64,
    /// Bytes that nodes have downloaded, by node.
    pub downloaded_by_node: BTreeMap<String, u64>,
    /// Downloads begun, by node.
    pub downloads_by_node: BTreeMap<String, u64>,
    /// Most downloads that ran at once, by node.
    pub most_downloads_by_node: BTreeMap<String, u64>,
    /// Most downloads that ran at once in the cluster.
    pub most_downloads: u64,
    #[serde(skip)]
    in_flight: BTreeMap<String, u64>,
    #[serde(skip)]
    in_flight_by_lease: BTreeMap<u64, u64>,
    #[serde(skip)]
    downloading: BTreeMap<String, u64>,
}

impl Counters {
    /// Requests of this method for this path pattern.
    pub fn of(&self, method: &str, pattern: &str) -> u64 {
        self.by_path.get(&format!("{method} {pattern}")).copied().unwrap_or(0)
    }

    /// Requests that this node took.
    pub fn to_node(&self, node: &str) -> u64 {
        self.by_node.get(node).copied().unwrap_or(0)
    }

    /// Answers with this status.
    pub fn answered(&self, status: u16) -> u64 {
        self.by_status.get(&status).copied().unwrap_or(0)
    }

    /// Notes under which lease a request is made.
    pub(crate) fn begin_under(&mut self, lease: u64) {
        self.late_requests += u64::from(lease < self.lease);
        self.lease = self.lease.max(lease);
        self.overlapping_requests +=
            u64::from(self.in_flight_by_lease.keys().any(|it| *it != lease));
        *self.in_flight_by_lease.entry(lease).or_default() += 1;
    }

    pub(crate) fn end_under(&mut self, lease: u64) {
        if let Some(here) = self.in_flight_by_lease.get_mut(&lease) {
            *here -= 1;
            if *here == 0 {
                self.in_flight_by_lease.remove(&lease);
            }
        }
    }

    pub(crate) fn begin(&mut self, node: &str, what: String, list: bool, token: bool) {
        *self.by_path.entry(what).or_default() += 1;
        *self.by_node.entry(node.to_owned()).or_default() += 1;
        self.requests += 1;
        self.list_requests += u64::from(list);
        self.with_token += u64::from(token);
        let here = self.in_flight.entry(node.to_owned()).or_default();
        *here += 1;
        let most = self.most_in_flight_by_node.entry(node.to_owned()).or_default();
        *most = (*most).max(*here);
        self.most_in_flight = self.most_in_flight.max(self.in_flight.values().sum());
    }

    pub(crate) fn end(&mut self, node: &str, status: Option<u16>) {
        if let Some(status) = status {
            *self.by_status.entry(status).or_default() += 1;
        }
        if let Some(here) = self.in_flight.get_mut(node) {
            *here = here.saturating_sub(1);
        }
    }

    /// Bytes that a node has downloaded.
    pub fn downloaded_by(&self, node: &str) -> u64 {
        self.downloaded_by_node.get(node).copied().unwrap_or(0)
    }

    /// Requests that change something: all but GET, by method and path pattern.
    pub fn writes(&self) -> BTreeMap<String, u64> {
        let all = self.by_path.iter().filter(|(what, _)| !what.starts_with("GET "));
        all.map(|(what, times)| (what.clone(), *times)).collect()
    }

    pub(crate) fn downloaded(&mut self, node: &str, bytes: u64) {
        *self.downloaded_by_node.entry(node.to_owned()).or_default() += bytes;
    }

    pub(crate) fn download_begins(&mut self, node: &str) {
        *self.downloads_by_node.entry(node.to_owned()).or_default() += 1;
        let here = self.downloading.entry(node.to_owned()).or_default();
        *here += 1;
        let most = self.most_downloads_by_node.entry(node.to_owned()).or_default();
        *most = (*most).max(*here);
        self.most_downloads = self.most_downloads.max(self.downloading.values().sum());
    }

    pub(crate) fn download_ends(&mut self, node: &str) {
        if let Some(here) = self.downloading.get_mut(node) {
            *here = here.saturating_sub(1);
        }
    }

    pub(crate) fn reset(&mut self) {
        let in_flight = std::mem::take(&mut self.in_flight);
        let in_flight_by_lease = std::mem::take(&mut self.in_flight_by_lease);
        let downloading = std::mem::take(&mut self.downloading);
        let lease = self.lease;
        *self = Self { lease, in_flight, in_flight_by_lease, downloading, ..Self::default() };
    }
}
