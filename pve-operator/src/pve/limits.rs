//! How much one cluster is asked at once.
//!
//! A PVE node has three workers that each do one thing at a time, so three slow calls stop its
//! whole API, people's browsers included. A request that is passed on counts at both nodes.
//! Slots are taken from narrow to wide (agent, details, nodes by name, background, cluster), so
//! that nobody waits in a circle, and who waits for a busy node holds little that others need.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    NodeName,
    breaker::{Breaker, BreakerPauses},
};

/// Requests in flight, at most.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// One of these is kept for lists at the address that lists go to, and one of `per_cluster`
    /// too, so that a poll never waits behind guests' details; with 1 there is nothing to keep.
    pub per_node: usize,
    pub per_cluster: usize,
    /// Calls that a guest agent answers: they block a worker until it does.
    pub agent_per_node: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { per_node: 2, per_cluster: 5, agent_per_node: 1 }
    }
}

/// What a request is for, which decides the slots it needs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scope<'a> {
    /// Answered by whichever node is asked.
    Cluster,
    /// Passed on to this node.
    Node(&'a NodeName),
    /// Passed on to this node, and there to a guest's agent.
    Agent(&'a NodeName),
    /// A body that streams to this node for as long as it takes. It keeps no worker waiting
    /// (pve-http-server: `src/PVE/APIServer/AnyEvent.pm` reads it between other requests), so it
    /// takes none of the slots above, and has one per node to itself.
    Upload(&'a NodeName),
}

impl<'a> Scope<'a> {
    pub(crate) fn node(self) -> Option<&'a NodeName> {
        match self {
            Self::Cluster => None,
            Self::Node(node) | Self::Agent(node) | Self::Upload(node) => Some(node),
        }
    }
}

/// The slots of one cluster.
#[derive(Debug)]
pub(crate) struct Gates {
    limits: Limits,
    pauses: BreakerPauses,
    cluster: Arc<Semaphore>,
    background: Arc<Semaphore>,
    nodes: Mutex<HashMap<String, Arc<NodeGate>>>,
}

/// The slots of one node, and whether it can be reached at all.
#[derive(Debug)]
pub(crate) struct NodeGate {
    slots: Arc<Semaphore>,
    details: Arc<Semaphore>,
    agent: Arc<Semaphore>,
    upload: Arc<Semaphore>,
    pub(crate) breaker: Arc<Breaker>,
}

/// Slots that are held while a request is under way.
#[derive(Debug)]
#[must_use]
pub(crate) struct Slots {
    _held: [Option<OwnedSemaphorePermit>; 6],
}

/// More names than any cluster has nodes; beyond it, idle ones are forgotten.
const REMEMBERED: usize = 128;

impl Gates {
    pub(crate) fn new(limits: Limits, pauses: BreakerPauses) -> Self {
        Self {
            limits,
            pauses,
            cluster: Arc::new(Semaphore::new(limits.per_cluster.max(1))),
            background: Arc::new(Semaphore::new(limits.per_cluster.saturating_sub(1).max(1))),
            nodes: Mutex::default(),
        }
    }

    pub(crate) fn node(&self, name: &str) -> Arc<NodeGate> {
        let mut nodes = self.nodes.lock();
        if let Some(gate) = nodes.get(name) {
            return gate.clone();
        }
        if nodes.len() >= REMEMBERED {
            nodes.retain(|_, gate| Arc::strong_count(gate) > 1 || gate.breaker.is_open());
        }
        let gate = Arc::new(NodeGate {
            slots: Arc::new(Semaphore::new(self.limits.per_node.max(1))),
            details: Arc::new(Semaphore::new(self.limits.per_node.saturating_sub(1).max(1))),
            agent: Arc::new(Semaphore::new(self.limits.agent_per_node.max(1))),
            upload: Arc::new(Semaphore::new(1)),
            breaker: Breaker::new(format!("node {name}"), self.pauses),
        });
        nodes.insert(name.to_owned(), gate.clone());
        gate
    }

    /// Waits for the slots of a request that goes in through `entry`, the name of a node or, as
    /// long as that is not known, its address. First come, first served.
    ///
    /// `lists_too`: whether that is where lists go.
    pub(crate) async fn enter(&self, scope: Scope<'_>, entry: &str, lists_too: bool) -> Slots {
        let target = scope.node().map(NodeName::as_str);
        let agent = match scope {
            Scope::Agent(node) => Some(acquire(&self.node(node.as_str()).agent).await),
            Scope::Upload(node) => {
                let upload = acquire(&self.node(node.as_str()).upload).await;
                return Slots { _held: [Some(upload), None, None, None, None, None] };
            }
            Scope::Cluster | Scope::Node(_) => None,
        };
        let details = match target {
            Some(_) if lists_too => Some(acquire(&self.node(entry).details).await),
            _ => None,
        };
        let (first, second) = match target {
            Some(target) if target < entry => (target, Some(entry)),
            Some(target) if target > entry => (entry, Some(target)),
            _ => (entry, None),
        };
        let first = acquire(&self.node(first).slots).await;
        let second = match second {
            Some(second) => Some(acquire(&self.node(second).slots).await),
            None => None,
        };
        let background = match target {
            Some(_) => Some(acquire(&self.background).await),
            None => None,
        };
        let cluster = acquire(&self.cluster).await;
        Slots { _held: [agent, details, Some(first), second, background, Some(cluster)] }
    }
}

async fn acquire(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    semaphore.clone().acquire_owned().await.expect("these semaphores are never closed")
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn gates() -> Gates {
        Gates::new(Limits::default(), BreakerPauses::default())
    }

    fn node(number: usize) -> NodeName {
        NodeName::new(&format!("pve{number}")).unwrap()
    }

    #[test]
    fn a_node_is_asked_two_things_at_once_and_one_agent() {
        let (gates, n1) = (gates(), node(1));
        let enter = |scope| gates.enter(scope, "pve1", false).now_or_never();

        let agent = enter(Scope::Agent(&n1));
        assert!(agent.is_some());
        assert!(enter(Scope::Agent(&n1)).is_none());
        let other = enter(Scope::Node(&n1));
        assert!(other.is_some());
        assert!(enter(Scope::Node(&n1)).is_none());
        drop(agent);

        assert!(enter(Scope::Node(&n1)).is_some());
    }

    #[test]
    fn an_upload_takes_no_slot_from_others_and_one_goes_to_a_node() {
        let (gates, n1) = (gates(), node(1));
        let enter = |scope| gates.enter(scope, "pve1", true).now_or_never();

        let upload = enter(Scope::Upload(&n1));
        assert!(upload.is_some());
        assert!(enter(Scope::Upload(&n1)).is_none());
        let (list, detail) = (enter(Scope::Cluster), enter(Scope::Node(&n1)));
        assert!(list.is_some() && detail.is_some());
        drop((list, detail));
        drop(upload);

        assert!(enter(Scope::Upload(&n1)).is_some());
    }

    #[test]
    fn a_cluster_is_asked_five_things_at_once_of_which_one_is_a_list() {
        let gates = gates();
        let direct = |number| {
            let node = node(number);
            gates.enter(Scope::Node(&node), node.as_str(), false).now_or_never()
        };

        let details: Vec<_> = (1..=4).map(|number| direct(number).unwrap()).collect();

        assert!(direct(5).is_none());
        let list = gates.enter(Scope::Cluster, "pve9", true).now_or_never();
        assert!(list.is_some());
        assert!(gates.enter(Scope::Cluster, "pve8", false).now_or_never().is_none());
        drop(details);
    }

    #[test]
    fn what_is_passed_on_counts_at_both_nodes_and_leaves_room_for_a_list() {
        let gates = gates();
        let through_1 =
            |number| gates.enter(Scope::Node(&node(number)), "pve1", true).now_or_never();

        let one = through_1(2);
        assert!(one.is_some());
        assert!(through_1(3).is_none(), "the other slot of pve1 is for lists");
        let list = gates.enter(Scope::Cluster, "pve1", true).now_or_never();
        assert!(list.is_some());
        assert!(gates.enter(Scope::Cluster, "pve1", true).now_or_never().is_none());
        let direct = gates.enter(Scope::Node(&node(2)), "pve2", false).now_or_never();
        assert!(direct.is_some());
        assert!(gates.enter(Scope::Node(&node(2)), "pve2", false).now_or_never().is_none());
    }

    #[test]
    fn names_that_are_not_in_use_are_forgotten_beyond_a_bound() {
        let gates = gates();

        for number in 0..1000 {
            gates.node(&format!("pve{number}"));
        }

        assert!(gates.nodes.lock().len() <= REMEMBERED);
    }
}
