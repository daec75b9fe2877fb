//! The lines that are printed, and what is run for them.

use crate::{
    figures::{Figures, Row, Wanted},
    kube_queue, kube_side, our_heap, our_queue, our_side,
};

/// Something that is run and pushes figures under its name.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&mut Figures),
    /// At most so many of them.
    pub(crate) repetitions: usize,
}

impl Workload {
    const fn new(name: &'static str, run: fn(&mut Figures)) -> Self {
        Self { name, run, repetitions: usize::MAX }
    }

    const fn at_most(self, repetitions: usize) -> Self {
        Self { repetitions, ..self }
    }

    /// Whether the row needs a figure of it.
    pub(crate) fn serves(&self, row: &Row) -> bool {
        let mine =
            |figure: &str| figure.strip_prefix(self.name).is_some_and(|rest| rest.starts_with('/'));
        mine(row.ours) || row.peer.is_some_and(mine)
    }
}

/// In the order in which they are run: the two sides of a row one after the other.
pub(crate) const WORKLOADS: &[Workload] = &[
    Workload::new("kube.store", kube_side::store),
    Workload::new("ours.informer1", our_side::one_handler),
    Workload::new("kube.shared1", kube_side::one_subscriber),
    Workload::new("ours.same_type1", our_side::one_handler_of_the_same_type),
    Workload::new("ours.offered1", our_side::one_handler_offered),
    Workload::new("kube.shared8", kube_side::eight_subscribers),
    Workload::new("ours.informer8", our_side::eight_handlers),
    Workload::new("ours.same_type8", our_side::eight_handlers_of_the_same_type),
    Workload::new("kube.heap", kube_side::heap).at_most(1),
    Workload::new("ours.heap", our_heap::plain).at_most(1),
    Workload::new("ours.heap_compact", our_heap::compact).at_most(1),
    Workload::new("ours.heap_same_type", our_heap::same_type).at_most(1),
    Workload::new("ours.blocked", our_heap::blocked).at_most(1),
    Workload::new("kube.slow", kube_side::slow_beside_fast).at_most(2),
    Workload::new("ours.slow", our_side::slow_beside_fast),
    Workload::new("kube.waves", kube_queue::waves),
    Workload::new("ours.waves", our_queue::waves),
    Workload::new("ours.waves_two_threads", our_queue::waves_on_two_threads),
    Workload::new("ours.controller_waves", our_queue::controller_waves),
    Workload::new("kube.unique", kube_queue::unique),
    Workload::new("ours.unique", our_queue::unique),
    Workload::new("ours.unique_two_threads", our_queue::unique_on_two_threads),
    Workload::new("kube.latency", kube_queue::latency),
    Workload::new("ours.latency", our_queue::latency),
];

pub(crate) const ROWS: &[Row] = &[
    at_most(
        "modify_1_handler_cpu ours/kube_current_thread",
        ["ours.informer1/modify_cpu_ns", "kube.shared1/modify_cpu_ns"],
        [0.45, 0.28],
    ),
    at_most(
        "modify_8_handlers_cpu ours/kube_current_thread",
        ["ours.informer8/modify_cpu_ns", "kube.shared8/modify_cpu_ns"],
        [0.55, 0.45],
    ),
    at_most(
        "relist_1pct ours/kube_store",
        ["ours.informer1/relist_cpu_ms", "kube.store/relist_cpu_ms"],
        [0.20, 0.08],
    ),
    at_most(
        "initial_100k_cpu ours/kube_store",
        ["ours.informer1/initial_cpu_ms", "kube.store/initial_cpu_ms"],
        [0.9, 0.6],
    ),
    at_most(
        "heap_per_object ours/kube_typed",
        ["ours.heap/object_bytes", "kube.heap/object_bytes"],
        [0.65, 0.65],
    ),
    at_most(
        "heap_per_object_compact ours/kube_typed",
        ["ours.heap_compact/object_bytes", "kube.heap/object_bytes"],
        [0.42, 0.30],
    ),
    at_most(
        "relist_peak_heap ours/kube",
        ["ours.heap/relist_peak_bytes", "kube.heap/relist_peak_bytes"],
        [0.55, 0.5],
    ),
    Row {
        name: "blocked_handler_1M_events_heap_growth_mb",
        ours: "ours.blocked/heap_growth_mb",
        peer: None,
        wanted: Wanted::AtMost { must: 2.0, goal: 0.5 },
    },
    at_most(
        "fast_beside_slow_handler ours/kube",
        ["ours.slow/fast_ms", "kube.slow/fast_ms"],
        [0.03, 0.03],
    ),
    at_least(
        "workqueue_waves_8_workers ours/kube_applier_c8",
        ["ours.waves/per_cpu_second", "kube.waves/per_cpu_second"],
        [12.0, 24.0],
    ),
    at_least(
        "workqueue_unique1M_8_workers ours/kube_scheduler",
        ["ours.unique/per_cpu_second", "kube.unique/per_cpu_second"],
        [6.0, 10.0],
    ),
    at_most(
        "trigger_latency_p50 ours/kube_applier",
        ["ours.latency/p50_us", "kube.latency/p50_us"],
        [0.01, 0.002],
    ),
    // What follows is not wanted to be anything: it shows how much of a row is due to what.
    beside(
        "modify_1_handler_cpu_same_type ours/kube_current_thread",
        ["ours.same_type1/modify_cpu_ns", "kube.shared1/modify_cpu_ns"],
    ),
    beside(
        "modify_8_handlers_cpu_same_type ours/kube_current_thread",
        ["ours.same_type8/modify_cpu_ns", "kube.shared8/modify_cpu_ns"],
    ),
    beside(
        "relist_1pct_same_type ours/kube_store",
        ["ours.same_type1/relist_cpu_ms", "kube.store/relist_cpu_ms"],
    ),
    beside(
        "relist_1pct_offered ours/kube_store",
        ["ours.offered1/relist_cpu_ms", "kube.store/relist_cpu_ms"],
    ),
    beside(
        "heap_per_object_same_type ours/kube_typed",
        ["ours.heap_same_type/object_bytes", "kube.heap/object_bytes"],
    ),
    beside(
        "relist_peak_heap_same_type ours/kube",
        ["ours.heap_same_type/relist_peak_bytes", "kube.heap/relist_peak_bytes"],
    ),
    beside(
        "workqueue_waves_8_workers_two_threads ours/kube_applier_c8",
        ["ours.waves_two_threads/per_second", "kube.waves/per_second"],
    ),
    beside(
        "controller_waves_8_workers ours/kube_applier_c8",
        ["ours.controller_waves/per_cpu_second", "kube.waves/per_cpu_second"],
    ),
    beside(
        "workqueue_unique1M_8_workers_two_threads ours/kube_scheduler",
        ["ours.unique_two_threads/per_second", "kube.unique/per_second"],
    ),
];

type Sides = [&'static str; 2];

const fn at_most(name: &'static str, [ours, peer]: Sides, [must, goal]: [f64; 2]) -> Row {
    Row { name, ours, peer: Some(peer), wanted: Wanted::AtMost { must, goal } }
}

const fn at_least(name: &'static str, [ours, peer]: Sides, [must, goal]: [f64; 2]) -> Row {
    Row { name, ours, peer: Some(peer), wanted: Wanted::AtLeast { must, goal } }
}

const fn beside(name: &'static str, [ours, peer]: Sides) -> Row {
    Row { name, ours, peer: Some(peer), wanted: Wanted::Nothing }
}
