//! One cluster as a scrape shows it: the rows of its last answer, and what each is called.

use std::{fmt::Write, sync::Arc};

use informer::Store;

use super::samples::push_label;
use crate::{
    inventory::{objects::Guest, poll::Poll},
    pve::{GuestRow, MemberNode, Membership, NodeRow, StorageRow, Version},
    templates::Cluster,
};

/// What one row of a cluster is.
#[derive(Debug)]
pub(super) enum Row<'a> {
    Version(&'a Version),
    Cluster(&'a Membership),
    /// With what `/cluster/status` adds, if the token is told.
    Node(&'a NodeRow<'a>, Option<&'a MemberNode>),
    Guest(&'a GuestRow<'a>),
    Storage(&'a StorageRow<'a>),
}

/// A cluster during one scrape: the answer does not change under it.
#[derive(Debug)]
pub(super) struct Shown {
    poll: Arc<Poll>,
    known: Store<Guest>,
    /// The labels of every row, one after the other.
    labels: String,
    /// Where each of them ends.
    ends: Vec<usize>,
}

/// The version and the cluster itself come before the lists.
const BEFORE_LISTS: usize = 2;

impl Shown {
    /// The only one of the scrape.
    pub(super) fn alone(cluster: &Cluster, poll: Arc<Poll>) -> Self {
        Self::new(poll, cluster.guests.store().clone(), "")
    }

    /// One of several: its name is in each of its series.
    pub(super) fn among_others(cluster: &Cluster, poll: Arc<Poll>) -> Self {
        let mut label = String::new();
        push_label(&mut label, "cluster", &cluster.name);
        Self::new(poll, cluster.guests.store().clone(), &label)
    }

    /// `prefix` are the labels that every row has.
    pub(super) fn new(poll: Arc<Poll>, known: Store<Guest>, prefix: &str) -> Self {
        let mut shown = Self { poll, known, labels: String::new(), ends: Vec::new() };
        let rows = shown.len();
        let (mut labels, mut ends) = (String::with_capacity(rows * 32), Vec::with_capacity(rows));
        let mut id = String::new();
        for row in 0..rows {
            labels.push_str(prefix);
            if let Some(row) = shown.row(row)
                && name(&row, &mut id)
            {
                if !prefix.is_empty() {
                    labels.push(',');
                }
                push_label(&mut labels, "id", &id);
            }
            ends.push(labels.len());
        }
        (shown.labels, shown.ends) = (labels, ends);
        shown
    }

    /// How many rows there are, known or not.
    pub(super) fn len(&self) -> usize {
        let list = &self.poll.resources;
        BEFORE_LISTS + list.nodes().len() + list.guests().len() + list.storages().len()
    }

    /// None where PVE has not told, or does not tell this token.
    pub(super) fn row(&self, number: usize) -> Option<Row<'_>> {
        let status = &self.poll.membership.status;
        let Some(number) = number.checked_sub(BEFORE_LISTS) else {
            return match number {
                0 => self.poll.version.as_deref().map(Row::Version),
                _ => status.cluster.as_ref().map(Row::Cluster),
            };
        };
        let list = &self.poll.resources;
        let (nodes, guests) = (list.nodes(), list.guests());
        if let Some(node) = nodes.get(number) {
            let member = status.nodes.iter().find(|member| member.name == node.node);
            return Some(Row::Node(node, member));
        }
        let number = number - nodes.len();
        if let Some(guest) = guests.get(number) {
            return Some(Row::Guest(guest));
        }
        list.storages().get(number - guests.len()).map(Row::Storage)
    }

    /// Escaped, and without braces.
    pub(super) fn labels(&self, number: usize) -> &str {
        let begin = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.labels[begin..self.ends[number]]
    }

    /// Whether the node can speak for what is on it.
    pub(super) fn is_online(&self, node: &str) -> bool {
        self.poll.is_online(node)
    }

    /// The guest as the mirror has it, for what PVE does not know of it at the moment.
    pub(super) fn known(&self, vmid: u32) -> Option<Arc<Guest>> {
        self.known.get(&vmid)
    }
}

/// Writes what PVE calls it; false if it has no name.
fn name(row: &Row<'_>, id: &mut String) -> bool {
    id.clear();
    let written = match row {
        Row::Version(_) => return false,
        Row::Cluster(cluster) => write!(id, "cluster/{}", cluster.name),
        Row::Node(node, _) => write!(id, "node/{}", node.node),
        Row::Guest(guest) => write!(id, "{}/{}", guest.kind.as_str(), guest.vmid),
        Row::Storage(storage) => write!(id, "storage/{}/{}", storage.node, storage.storage),
    };
    written.is_ok()
}
