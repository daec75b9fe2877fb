//! Through which nodes a cluster can be asked.
//!
//! Any node answers for all. Lists stay with the address that works; when it does not, the others
//! that `/cluster/status` named are tried, on the port of `api_url` (8006 if that is 443, where a
//! proxy stands in front of the cluster). What one node is asked goes to that node itself where
//! its address is known and works, which spares the others the passing on.

use std::{net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use url::{Host, Url};

use super::{
    ClusterStatus, NodeName, PveError,
    breaker::{Breaker, BreakerPauses},
};

/// One address of a cluster.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// `https://host:port`, and a path if a proxy wants one.
    base: String,
    /// `host:port`, for people.
    authority: String,
    host: Host,
    node: Mutex<Option<NodeName>>,
    learned: bool,
    pub(crate) breaker: Arc<Breaker>,
}

impl Endpoint {
    fn new(url: &Url, pauses: BreakerPauses, learned: bool) -> Option<Arc<Self>> {
        let host = url.host()?.to_owned();
        let authority = format!("{host}:{}", url.port_or_known_default()?);
        let base = format!("https://{authority}{}", url.path().trim_end_matches('/'));
        let breaker = Breaker::new(authority.clone(), pauses);
        Some(Arc::new(Self { base, authority, host, node: Mutex::new(None), learned, breaker }))
    }

    /// The URL of a path below `/api2/json`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}/api2/json{path}", self.base)
    }

    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// The host as TLS names it.
    pub(crate) fn host(&self) -> String {
        match &self.host {
            Host::Domain(name) => name.clone(),
            Host::Ipv4(ip) => ip.to_string(),
            Host::Ipv6(ip) => ip.to_string(),
        }
    }

    fn ip(&self) -> Option<IpAddr> {
        match &self.host {
            Host::Domain(_) => None,
            Host::Ipv4(ip) => Some((*ip).into()),
            Host::Ipv6(ip) => Some((*ip).into()),
        }
    }

    /// Whether the cluster named it, and not a person.
    pub(crate) fn is_learned(&self) -> bool {
        self.learned
    }

    /// The node behind this address, once it is known.
    pub(crate) fn node(&self) -> Option<NodeName> {
        self.node.lock().clone()
    }

    pub(crate) fn is_node(&self, node: NodeName) {
        *self.node.lock() = Some(node);
    }

    /// What its slots are counted under.
    pub(crate) fn gate(&self) -> String {
        self.node().map_or_else(|| self.authority.clone(), |node| node.to_string())
    }
}

/// The addresses of one cluster; the configured one comes first.
#[derive(Debug)]
pub(crate) struct Failover {
    port: u16,
    pauses: BreakerPauses,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    endpoints: Vec<Arc<Endpoint>>,
    current: usize,
}

impl Failover {
    pub(crate) fn new(api_url: &Url, pauses: BreakerPauses) -> Result<Self, PveError> {
        let first = Endpoint::new(api_url, pauses, false)
            .ok_or_else(|| PveError::Input { what: format!("api_url {api_url} has no host") })?;
        let port = match api_url.port_or_known_default() {
            None | Some(443) => 8006,
            Some(port) => port,
        };
        let known = Known { endpoints: vec![first], current: 0 };
        Ok(Self { port, pauses, known: Mutex::new(known) })
    }

    /// In the order in which to try them: the one that worked last, then the rest.
    pub(crate) fn order(&self) -> Vec<Arc<Endpoint>> {
        let known = self.known.lock();
        let (before, from) = known.endpoints.split_at(known.current);
        from.iter().chain(before).cloned().collect()
    }

    /// The same for what only `node` can answer: itself first, unless it failed lately.
    pub(crate) fn order_for(&self, node: &NodeName) -> Vec<Arc<Endpoint>> {
        let mut order = self.order();
        let itself = |it: &Arc<Endpoint>| it.node().as_ref() == Some(node) && !it.breaker.is_open();
        if let Some(at) = order.iter().position(itself) {
            order[..=at].rotate_right(1);
        }
        order
    }

    /// The node's own address, if it is known, whether it works or not.
    pub(crate) fn own(&self, node: &NodeName) -> Option<Arc<Endpoint>> {
        let known = self.known.lock();
        known.endpoints.iter().find(|it| it.node().as_ref() == Some(node)).cloned()
    }

    /// More certificates are trusted now: whoever was left alone for his may be asked again.
    pub(crate) fn forgive_untrusted(&self) {
        for endpoint in &self.known.lock().endpoints {
            endpoint.breaker.forgive(|last| matches!(last, PveError::Tls { .. }));
        }
    }

    pub(crate) fn current(&self) -> Arc<Endpoint> {
        let known = self.known.lock();
        known.endpoints[known.current].clone()
    }

    /// Stay with this one.
    pub(crate) fn prefer(&self, endpoint: &Arc<Endpoint>) {
        let mut known = self.known.lock();
        if let Some(at) = known.endpoints.iter().position(|it| Arc::ptr_eq(it, endpoint)) {
            known.current = at;
        }
    }

    /// Start with another one next time, if this is the one we start with.
    pub(crate) fn leave(&self, endpoint: &Arc<Endpoint>) {
        let mut known = self.known.lock();
        if Arc::ptr_eq(&known.endpoints[known.current], endpoint) {
            known.current = (known.current + 1) % known.endpoints.len();
        }
    }

    /// Adds addresses (`host:port`) that an earlier run learned, so that a cluster is found whose
    /// configured node died while nobody was running. The next `/cluster/status` replaces them.
    ///
    /// Without the configured address among them they are those of another cluster: `api_url` was
    /// changed meanwhile.
    pub(crate) fn restore(&self, authorities: &[String]) {
        let mut known = self.known.lock();
        if authorities.iter().all(|it| it != known.endpoints[0].authority()) {
            return;
        }
        for authority in authorities {
            let endpoint = Url::parse(&format!("https://{authority}"))
                .ok()
                .and_then(|url| Endpoint::new(&url, self.pauses, true));
            if let Some(endpoint) = endpoint
                && known.endpoints.iter().all(|it| it.authority != endpoint.authority)
            {
                known.endpoints.push(endpoint);
            }
        }
    }

    /// Takes over the members that `status`, answered through `through`, names.
    pub(crate) fn learn(&self, status: &ClusterStatus, through: &Arc<Endpoint>) {
        let named: Vec<_> = status
            .nodes
            .iter()
            .filter_map(|it| Some((NodeName::new(&it.name).ok()?, it)))
            .collect();
        if let Some((local, _)) = named.iter().find(|(_, it)| it.local) {
            through.is_node(local.clone());
        }
        let mut known = self.known.lock();
        let first = known.endpoints[0].clone();
        let current = known.endpoints[known.current].clone();
        let mut endpoints = vec![first.clone()];
        let mut members: Vec<_> =
            named.iter().filter_map(|(name, it)| Some((name, it.online, it.ip?))).collect();
        // Those that are said to be there come first.
        members.sort_by_key(|(name, online, _)| (!*online, name.as_str()));
        for (name, _, ip) in members {
            if first.ip() == Some(ip) {
                first.is_node(name.clone());
            }
            if first.node().as_ref() == Some(name) {
                continue;
            }
            let old = known.endpoints[1..].iter().find(|it| it.ip() == Some(ip)).cloned();
            if let Some(endpoint) = old.or_else(|| self.endpoint(ip)) {
                endpoint.is_node(name.clone());
                endpoints.push(endpoint);
            }
        }
        known.current = endpoints.iter().position(|it| Arc::ptr_eq(it, &current)).unwrap_or(0);
        known.endpoints = endpoints;
    }

    fn endpoint(&self, ip: IpAddr) -> Option<Arc<Endpoint>> {
        let host = match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Endpoint::new(
            &Url::parse(&format!("https://{host}:{}", self.port)).ok()?,
            self.pauses,
            true,
        )
    }
}

#[cfg(test)]
mod tests {
    use schema::cluster_access;

    use super::*;
    use crate::pve::MemberNode;

    fn failover(url: &str) -> Failover {
        Failover::new(&cluster_access::api_url(url).unwrap(), BreakerPauses::default()).unwrap()
    }

    fn status(local: &str, nodes: &[(&str, &str)]) -> ClusterStatus {
        let nodes = nodes.iter().map(|(name, ip)| MemberNode {
            name: (*name).to_owned(),
            online: true,
            local: *name == local,
            ip: ip.parse().ok(),
            nodeid: None,
            level: None,
        });
        ClusterStatus { nodes: nodes.collect(), ..ClusterStatus::default() }
    }

    fn addresses(it: &Failover) -> Vec<String> {
        it.order().iter().map(|it| it.authority().to_owned()).collect()
    }

    #[test]
    fn the_nodes_of_the_cluster_follow_the_configured_address_once_each() {
        let it = failover("https://pve.example.com:8443/api2/json/");
        let three = [("pve2", "10.0.0.2"), ("pve1", "10.0.0.1"), ("pve3", "fd00::3")];

        it.learn(&status("pve1", &three), &it.current());

        assert_eq!(addresses(&it), ["pve.example.com:8443", "10.0.0.2:8443", "[fd00::3]:8443"]);
        assert_eq!(it.current().url("/version"), "https://pve.example.com:8443/api2/json/version");
        assert_eq!(it.current().node().unwrap().as_str(), "pve1");
    }

    #[test]
    fn the_one_that_works_is_stayed_with_also_when_members_change() {
        let it = failover("https://10.0.0.1:8006");
        it.learn(&status("pve1", &[("pve1", "10.0.0.1"), ("pve2", "10.0.0.2")]), &it.current());

        let second = it.order()[1].clone();
        it.prefer(&second);
        it.learn(
            &status("pve2", &[("pve0", "10.0.0.9"), ("pve1", "10.0.0.1"), ("pve2", "10.0.0.2")]),
            &second,
        );

        assert_eq!(addresses(&it), ["10.0.0.2:8006", "10.0.0.1:8006", "10.0.0.9:8006"]);
        assert!(Arc::ptr_eq(&it.current(), &second), "and its breaker is the same");
        it.leave(&second);
        assert_eq!(it.current().authority(), "10.0.0.1:8006");
    }

    /// A17
    #[test]
    fn what_an_earlier_run_learned_follows_the_configured_address_it_was_learned_through() {
        let kept = ["10.0.0.2:8006", "10.0.0.1:8006", "[fd00::3]:8006"].map(str::to_owned);
        let (same, changed) =
            (failover("https://10.0.0.1:8006"), failover("https://10.9.9.9:8006"));

        same.restore(&kept);
        changed.restore(&kept);

        assert_eq!(addresses(&same), ["10.0.0.1:8006", "10.0.0.2:8006", "[fd00::3]:8006"]);
        assert_eq!(addresses(&changed), ["10.9.9.9:8006"]);
    }

    #[test]
    fn a_node_is_asked_itself_if_its_address_is_known() {
        let it = failover("https://10.0.0.1:8006");
        let three = [("pve1", "10.0.0.1"), ("pve2", "10.0.0.2"), ("pve3", "10.0.0.3")];
        it.learn(&status("pve1", &three), &it.current());

        let order = it.order_for(&NodeName::new("pve3").unwrap());

        let order: Vec<_> = order.iter().map(|it| it.authority()).collect();
        assert_eq!(order, ["10.0.0.3:8006", "10.0.0.1:8006", "10.0.0.2:8006"]);
        let unknown = it.order_for(&NodeName::new("pve9").unwrap());
        assert_eq!(unknown[0].authority(), "10.0.0.1:8006");
    }

    #[test]
    fn a_member_that_left_is_asked_no_more() {
        let it = failover("https://10.0.0.1:8006");
        it.learn(&status("pve1", &[("pve1", "10.0.0.1"), ("pve2", "10.0.0.2")]), &it.current());
        it.prefer(&it.order()[1].clone());

        it.learn(&status("pve1", &[("pve1", "10.0.0.1")]), &it.order()[1].clone());

        assert_eq!(addresses(&it), ["10.0.0.1:8006"]);
    }

    #[test]
    fn behind_a_proxy_on_443_nodes_are_asked_on_pves_own_port() {
        let it = failover("https://pve.example.com/lab");

        it.learn(&status("", &[("pve1", "10.0.0.1")]), &it.current());

        assert_eq!(addresses(&it), ["pve.example.com:443", "10.0.0.1:8006"]);
        assert_eq!(it.current().url("/nodes"), "https://pve.example.com:443/lab/api2/json/nodes");
    }

    #[test]
    fn an_address_that_cannot_be_right_says_what_would_be() {
        for (url, words) in [
            ("http://pve1:8006", "use https://HOST:8006"),
            ("pve1:8006", "does not start with https://"),
            ("pve1", "is no URL"),
            ("https://", "is no URL"),
            ("https://pve1:8006/?a=b", "has a query"),
            ("https://root:s3cret@pve1:8006", "belong into user_id"),
        ] {
            let error = PveError::from(cluster_access::api_url(url).unwrap_err()).to_string();

            assert!(error.contains(words), "{url}: {error}");
            assert!(!error.contains("s3cret"));
        }
    }
}
