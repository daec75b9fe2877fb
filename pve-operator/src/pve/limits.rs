//! How much one cluster is asked at once.
//!
//! A PVE node has three workers that each do one thing at a time, so three slow calls stop its
//! whole API, people's browsers included. Slots are taken from narrow to wide (agent, node,
//! background, cluster), so that whoever waits for a busy node holds nothing that others need.

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
    pub per_node: usize,
    /// One of these is kept for questions to the cluster as a whole, so that a poll never waits
    /// behind guests' details; with 1 there is nothing to keep.
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
}

impl<'a> Scope<'a> {
    pub(crate) fn node(self) -> Option<&'a NodeName> {
        match self {
            Self::Cluster => None,
            Self::Node(node) | Self::Agent(node) => Some(node),
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
    agent: Arc<Semaphore>,
    pub(crate) breaker: Arc<Breaker>,
}

/// Slots that are held while a request is under way.
#[derive(Debug)]
#[must_use]
pub(crate) struct Slots {
    _held: [Option<OwnedSemaphorePermit>; 4],
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
            agent: Arc::new(Semaphore::new(self.limits.agent_per_node.max(1))),
            breaker: Breaker::new(format!("node {name}"), self.pauses),
        });
        nodes.insert(name.to_owned(), gate.clone());
        gate
    }

    /// Waits for the slots of a request that goes in through `entry`, the name of a node or, as
    /// long as that is not known, its address. First come, first served.
    pub(crate) async fn enter(&self, scope: Scope<'_>, entry: &str) -> Slots {
        let gate = self.node(scope.node().map_or(entry, NodeName::as_str));
        let agent = match scope {
            Scope::Agent(_) => Some(acquire(&gate.agent).await),
            Scope::Cluster | Scope::Node(_) => None,
        };
        let node = acquire(&gate.slots).await;
        let background = match scope {
            Scope::Cluster => None,
            Scope::Node(_) | Scope::Agent(_) => Some(acquire(&self.background).await),
        };
        let cluster = acquire(&self.cluster).await;
        Slots { _held: [agent, Some(node), background, Some(cluster)] }
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

        let agent = gates.enter(Scope::Agent(&n1), "pve9").now_or_never();
        assert!(agent.is_some());
        assert!(gates.enter(Scope::Agent(&n1), "pve9").now_or_never().is_none());
        let other = gates.enter(Scope::Node(&n1), "pve9").now_or_never();
        assert!(other.is_some());
        assert!(gates.enter(Scope::Node(&n1), "pve9").now_or_never().is_none());
        drop(agent);

        assert!(gates.enter(Scope::Node(&n1), "pve9").now_or_never().is_some());
    }

    #[test]
    fn a_cluster_is_asked_five_things_at_once_of_which_one_is_a_list() {
        let gates = gates();

        let details: Vec<_> = (1..=4)
            .map(|number| gates.enter(Scope::Node(&node(number)), "pve9").now_or_never().unwrap())
            .collect();

        assert!(gates.enter(Scope::Node(&node(5)), "pve9").now_or_never().is_none());
        let list = gates.enter(Scope::Cluster, "pve9").now_or_never();
        assert!(list.is_some());
        assert!(gates.enter(Scope::Cluster, "pve8").now_or_never().is_none());
        drop(details);
    }

    #[test]
    fn lists_count_against_the_node_that_answers_them() {
        let (gates, n1) = (gates(), node(1));

        let one = gates.enter(Scope::Node(&n1), "pve1").now_or_never().unwrap();
        let two = gates.enter(Scope::Cluster, "pve1").now_or_never().unwrap();

        assert!(gates.enter(Scope::Cluster, "pve1").now_or_never().is_none());
        drop((one, two));
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
