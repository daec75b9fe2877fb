//! How many images are on their way at once: per node, per cluster, in all.
//!
//! A transfer is counted in all three; while its image is imported it is counted at the node only,
//! whose disks are busy then.

use std::collections::HashMap;

use parking_lot::Mutex;

/// How many at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub per_node: usize,
    pub per_cluster: usize,
    pub per_operator: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { per_node: 1, per_cluster: 8, per_operator: 16 }
    }
}

/// Who is under way.
#[derive(Debug)]
pub struct Slots {
    limits: Limits,
    held: Mutex<HashMap<i64, Held>>,
}

#[derive(Clone, Debug)]
struct Held {
    cluster: i64,
    node: String,
    transferring: bool,
}

impl Slots {
    pub fn new(limits: Limits) -> Self {
        Self { limits, held: Mutex::default() }
    }

    /// Takes a slot for a transfer; false if there is none. Once is enough.
    #[must_use]
    pub fn take(&self, instance: i64, cluster: i64, node: &str) -> bool {
        let mut held = self.held.lock();
        if held.get(&instance).is_some_and(|it| it.transferring) {
            return true;
        }
        let others = || held.iter().filter(|(id, _)| **id != instance).map(|(_, it)| it);
        let here = others().filter(|it| it.cluster == cluster && it.node == node).count();
        let moving = others().filter(|it| it.transferring);
        let (in_cluster, in_all) = moving.fold((0, 0), |(in_cluster, in_all), it| {
            (in_cluster + usize::from(it.cluster == cluster), in_all + 1)
        });
        let free = here < self.limits.per_node
            && in_cluster < self.limits.per_cluster
            && in_all < self.limits.per_operator;
        if free {
            held.insert(instance, Held { cluster, node: node.to_owned(), transferring: true });
        }
        free
    }

    /// Counts a transfer or an import that was found running, whatever the limits say.
    pub fn adopt(&self, instance: i64, cluster: i64, node: &str, transferring: bool) {
        let entry = Held { cluster, node: node.to_owned(), transferring };
        self.held.lock().entry(instance).or_insert(entry);
    }

    /// The image is there; the node goes on working on it.
    pub fn transferred(&self, instance: i64) {
        if let Some(held) = self.held.lock().get_mut(&instance) {
            held.transferring = false;
        }
    }

    /// Nothing of it is under way any more.
    pub fn give_back(&self, instance: i64) {
        self.held.lock().remove(&instance);
    }

    /// Transfers, and nodes that are busy.
    pub fn in_use(&self) -> (usize, usize) {
        let held = self.held.lock();
        (held.values().filter(|it| it.transferring).count(), held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots() -> Slots {
        Slots::new(Limits { per_node: 1, per_cluster: 2, per_operator: 3 })
    }

    #[test]
    fn each_limit_holds() {
        let slots = slots();
        assert!(slots.take(1, 1, "a"));
        assert!(slots.take(1, 1, "a"), "it has one already");
        assert!(!slots.take(2, 1, "a"), "the node is busy");
        assert!(slots.take(3, 1, "b"));
        assert!(!slots.take(4, 1, "c"), "the cluster is full");
        assert!(slots.take(5, 2, "a"), "a node of that name elsewhere");
        assert!(!slots.take(6, 3, "a"), "all are taken");
        slots.give_back(5);
        assert!(slots.take(6, 3, "a"));
    }

    #[test]
    fn an_import_keeps_the_node_busy_and_nothing_else() {
        let slots = slots();
        assert!(slots.take(1, 1, "a") && slots.take(2, 1, "b"));
        slots.transferred(1);
        assert!(slots.take(3, 1, "c"), "the cluster has room again");
        assert!(!slots.take(4, 1, "a"), "the node has not");
        assert_eq!(slots.in_use(), (2, 3));
    }

    #[test]
    fn what_is_found_running_is_counted_although_it_is_too_much() {
        let slots = slots();
        slots.adopt(1, 1, "a", true);
        slots.adopt(2, 1, "a", false);
        assert!(!slots.take(3, 1, "a"));
        assert_eq!(slots.in_use(), (1, 2), "an import is no transfer");
    }
}
