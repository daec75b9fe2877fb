//! Asking a cluster without being able to change it.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use super::{
    Certificate, ClientConfig, ClusterStatus, Fingerprint, GuestConfig, GuestKind, Interfaces,
    Learned, Listed, LogPage, NodeListing, NodeName, NodeStorage, Permissions, PveError, Resources,
    TaskState, Upid, Version, Vmid,
    client::{Answer, Call, Client, Verb},
    limits::Scope,
    path::ApiPath,
    reply,
};

/// A handle to one cluster that has only GETs. Clones share connections, limits, breakers and what
/// was learned.
///
/// Every method may fail with any [`PveError`]; dropping its future is safe.
#[derive(Clone)]
pub struct Reader {
    pub(super) client: Arc<Client>,
}

impl Reader {
    /// Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// [`PveError::Input`] if there can be no TLS client at all.
    pub fn new(config: ClientConfig) -> Result<Self, PveError> {
        Ok(Self { client: Arc::new(Client::new(config)?) })
    }

    /// The whole inventory, answered from the memory of one node.
    pub async fn resources(&self) -> Result<Resources, PveError> {
        let body = self.get("/cluster/resources", &[], &[], Scope::Cluster).await?.1;
        Resources::parse(body)
    }

    /// Who is a member, who is online, whether there is quorum; also where else this cluster can be
    /// asked from now on.
    ///
    /// # Errors
    ///
    /// [`PveError::Forbidden`] without Sys.Audit on `/`.
    pub async fn cluster_status(&self) -> Result<ClusterStatus, PveError> {
        let (name, answer) = self.ask("/cluster/status", &[], &[], Scope::Cluster).await?;
        let status = ClusterStatus::parse(&name, &answer.body)?;
        self.client.failover.learn(&status, &answer.endpoint);
        Ok(status)
    }

    pub async fn version(&self) -> Result<Version, PveError> {
        let (name, body) = self.get("/version", &[], &[], Scope::Cluster).await?;
        reply::one(&name, &body)
    }

    /// The version of one node; nodes differ while a cluster is upgraded.
    pub async fn node_version(&self, node: &NodeName) -> Result<Version, PveError> {
        let segments = [node.as_str()];
        let (name, body) =
            self.get("/nodes/{node}/version", &segments, &[], Scope::Node(node)).await?;
        reply::one(&name, &body)
    }

    /// The nodes and their certificates' fingerprints. Needs no privilege.
    pub async fn nodes(&self) -> Result<Listed<NodeListing>, PveError> {
        let (name, answer) = self.ask("/nodes", &[], &[], Scope::Cluster).await?;
        let nodes = reply::list::<NodeListing>(&name, &answer.body)?;
        // The certificate says behind which address which node is.
        if let Some(shown) = self.client.verifier.shown_by(&answer.endpoint.host()) {
            let mut same = nodes.rows.iter().filter(|it| it.ssl_fingerprint == Some(shown));
            if let (Some(one), None) = (same.next(), same.next())
                && let Ok(node) = NodeName::new(&one.node)
            {
                answer.endpoint.is_node(node);
            }
        }
        Ok(nodes)
    }

    /// What this token may do. Needs no privilege; empty when it may do nothing.
    pub async fn permissions(&self) -> Result<Permissions, PveError> {
        let (name, body) = self.get("/access/permissions", &[], &[], Scope::Cluster).await?;
        Permissions::parse(&name, &body)
    }

    /// The certificates of a node, and the cluster's CA. Needs no privilege.
    pub async fn certificates(&self, node: &NodeName) -> Result<Listed<Certificate>, PveError> {
        let pattern = "/nodes/{node}/certificates/info";
        let (name, body) = self.get(pattern, &[node.as_str()], &[], Scope::Node(node)).await?;
        reply::list(&name, &body)
    }

    /// The storages of a node, disabled ones too. Slow while one of them hangs.
    pub async fn storages(&self, node: &NodeName) -> Result<Listed<NodeStorage>, PveError> {
        let pattern = "/nodes/{node}/storage";
        let (name, body) = self.get(pattern, &[node.as_str()], &[], Scope::Node(node)).await?;
        reply::list(&name, &body)
    }

    pub async fn guest_config(
        &self,
        kind: GuestKind,
        node: &NodeName,
        vmid: Vmid,
    ) -> Result<GuestConfig, PveError> {
        match kind {
            GuestKind::Qemu => self.qemu_config(node, vmid).await,
            GuestKind::Lxc => self.lxc_config(node, vmid).await,
        }
    }

    /// # Errors
    ///
    /// A guest that is gone or elsewhere is a 500 with a text of PVE's, or a 403.
    pub async fn qemu_config(&self, node: &NodeName, vmid: Vmid) -> Result<GuestConfig, PveError> {
        self.config("/nodes/{node}/qemu/{vmid}/config", node, vmid).await
    }

    /// # Errors
    ///
    /// As [`Self::qemu_config`].
    pub async fn lxc_config(&self, node: &NodeName, vmid: Vmid) -> Result<GuestConfig, PveError> {
        self.config("/nodes/{node}/lxc/{vmid}/config", node, vmid).await
    }

    async fn config(
        &self,
        pattern: &'static str,
        node: &NodeName,
        vmid: Vmid,
    ) -> Result<GuestConfig, PveError> {
        let segments = [node.as_str(), &vmid.to_string()];
        let (name, body) = self.get(pattern, &segments, &[], Scope::Node(node)).await?;
        GuestConfig::parse(&name, &body)
    }

    /// The interfaces of a guest: through the agent, or of a container from outside.
    pub async fn guest_interfaces(
        &self,
        kind: GuestKind,
        node: &NodeName,
        vmid: Vmid,
    ) -> Result<Interfaces, PveError> {
        match kind {
            GuestKind::Qemu => self.agent_interfaces(node, vmid).await,
            GuestKind::Lxc => self.lxc_interfaces(node, vmid).await,
        }
    }

    /// What a QEMU guest's agent says. An agent that is not there is [`Interfaces::Silent`].
    pub async fn agent_interfaces(
        &self,
        node: &NodeName,
        vmid: Vmid,
    ) -> Result<Interfaces, PveError> {
        let pattern = "/nodes/{node}/qemu/{vmid}/agent/network-get-interfaces";
        let segments = [node.as_str(), &vmid.to_string()];
        match self.get(pattern, &segments, &[], Scope::Agent(node)).await {
            Ok((name, body)) => Interfaces::of_agent(&name, &body),
            Err(error) => Interfaces::of_refusal(&error).ok_or(error),
        }
    }

    /// The interfaces of a container. One that is stopped is [`Interfaces::Silent`].
    pub async fn lxc_interfaces(
        &self,
        node: &NodeName,
        vmid: Vmid,
    ) -> Result<Interfaces, PveError> {
        let pattern = "/nodes/{node}/lxc/{vmid}/interfaces";
        let segments = [node.as_str(), &vmid.to_string()];
        match self.get(pattern, &segments, &[], Scope::Node(node)).await {
            Ok((name, body)) => Interfaces::of_container(&name, &body),
            Err(error) => Interfaces::of_refusal(&error).ok_or(error),
        }
    }

    /// Whether a task still runs, and how it ended.
    pub async fn task_state(&self, upid: &Upid) -> Result<TaskState, PveError> {
        let pattern = "/nodes/{node}/tasks/{upid}/status";
        let segments = [upid.node().as_str(), upid.as_str()];
        let (name, body) = self.get(pattern, &segments, &[], Scope::Node(upid.node())).await?;
        TaskState::parse(&name, &body)
    }

    /// The lines of a task's log from the one at `start` (0 is the first), at most `limit`; 0 is all.
    pub async fn task_log(
        &self,
        upid: &Upid,
        start: usize,
        limit: usize,
    ) -> Result<LogPage, PveError> {
        let pattern = "/nodes/{node}/tasks/{upid}/log";
        let segments = [upid.node().as_str(), upid.as_str()];
        let (start, limit) = (start.to_string(), limit.to_string());
        let query = [("start", start.as_str()), ("limit", limit.as_str())];
        let (name, body) = self.get(pattern, &segments, &query, Scope::Node(upid.node())).await?;
        LogPage::parse(&name, &body)
    }

    /// Learns the cluster's CA and its nodes' fingerprints through a connection that is trusted,
    /// so that fail-over and renewed certificates need nobody. Two requests, no privilege. What
    /// was learned is used at once and returned to be kept.
    ///
    /// While verification is off nothing is learned: whoever answers could be anybody.
    pub async fn learn_trust(&self) -> Result<Learned, PveError> {
        if self.client.verifier.is_insecure() {
            return Ok(Learned::default());
        }
        let nodes = self.nodes().await?;
        let mut learned = self.learned();
        let seen: std::collections::BTreeSet<_> =
            nodes.rows.iter().filter_map(|it| it.ssl_fingerprint).collect();
        if !seen.is_empty() && nodes.skipped == 0 {
            learned.fingerprints = seen;
        }
        // One that no node has stands in front of the cluster: pinned by use, and kept in use.
        let through = self.client.failover.current();
        if let Some(shown) = self.client.verifier.shown_by(&through.host())
            && self.learned().fingerprints.contains(&shown)
        {
            learned.fingerprints.insert(shown);
        }
        let online = |it: &&NodeListing| it.status.as_deref() == Some("online");
        let known = through.node();
        let node = known.or_else(|| NodeName::new(&nodes.rows.iter().find(online)?.node).ok());
        if let Some(node) = node {
            let found = self.certificates(&node).await?;
            let ca =
                found.rows.into_iter().find(|it| it.filename.as_deref() == Some("pve-root-ca.pem"));
            if let Some(pem) = ca.and_then(|it| it.pem) {
                learned.ca_pem = Some(pem);
            }
        }
        self.trust_learned(learned.clone())?;
        Ok(learned)
    }

    /// What is trusted besides the configuration: learned, given back, or pinned at first use.
    pub fn learned(&self) -> Learned {
        self.client.verifier.learned()
    }

    /// Trusts what an earlier run learned under the same [`Trust::identity`](super::Trust::identity).
    ///
    /// # Errors
    ///
    /// [`PveError::Input`] if the CA in it cannot be read; nothing changes then.
    pub fn trust_learned(&self, learned: Learned) -> Result<(), PveError> {
        let news = learned != self.learned();
        self.client.verifier.learn(learned)?;
        if news {
            self.client.failover.forgive_untrusted();
        }
        Ok(())
    }

    /// The certificate that the address in use shows.
    pub fn shown_fingerprint(&self) -> Option<Fingerprint> {
        self.client.verifier.shown_by(&self.client.failover.current().host())
    }

    /// `host:port` of the address that the next request starts with.
    pub fn address(&self) -> String {
        self.client.failover.current().authority().to_owned()
    }

    /// All addresses this cluster can be asked at, in the order they would be tried.
    pub fn addresses(&self) -> Vec<String> {
        self.client.failover.order().iter().map(|it| it.authority().to_owned()).collect()
    }

    /// Tries these addresses too (as [`addresses`](Self::addresses) gave them in an earlier run)
    /// until the cluster has named its members.
    pub fn remember_addresses(&self, addresses: &[String]) {
        self.client.failover.restore(addresses);
    }

    /// Starts with another address next time, if there is one: for answers that are well-formed
    /// and not to be believed, such as those of a node without quorum.
    pub fn try_another_address(&self) {
        self.client.failover.leave(&self.client.failover.current());
    }

    pub(super) async fn get(
        &self,
        pattern: &'static str,
        segments: &[&str],
        query: &[(&str, &str)],
        scope: Scope<'_>,
    ) -> Result<(String, Bytes), PveError> {
        let (name, answer) = self.ask(pattern, segments, query, scope).await?;
        Ok((name, answer.body))
    }

    async fn ask(
        &self,
        pattern: &'static str,
        segments: &[&str],
        query: &[(&str, &str)],
        scope: Scope<'_>,
    ) -> Result<(String, Answer), PveError> {
        let call =
            Call { verb: Verb::Get, path: ApiPath::new(pattern, segments)?, params: query, scope };
        let name = call.name();
        Ok((name, self.client.send(call).await?))
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("address", &self.address()).finish_non_exhaustive()
    }
}
