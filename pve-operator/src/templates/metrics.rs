//! What the template flow counts. Names and labels are listed in `docs/metrics.md`.

use std::time::Duration;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

use super::plan::Act;
use crate::pve::Refusal;

/// Counters of the whole operator.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    seconds: HistogramVec,
    failures: IntCounterVec,
    ended: IntCounterVec,
    bytes: IntCounter,
    pub transfers: IntGauge,
    pub busy_nodes: IntGauge,
    pub queue: IntGauge,
    pub leftovers: IntGauge,
}

impl Metrics {
    /// # Errors
    ///
    /// Only if a name is taken, which is a bug.
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            seconds: HistogramVec::new(
                HistogramOpts::new(
                    "pve_operator_template_step_seconds",
                    "How long the steps of making or removing templates took.",
                )
                .buckets(vec![0.5, 2.0, 10.0, 30.0, 120.0, 600.0, 3600.0]),
                &["step"],
            )?,
            failures: IntCounterVec::new(
                Opts::new(
                    "pve_operator_template_step_failures_total",
                    "Steps that failed, by what PVE's words mean.",
                ),
                &["step", "cause"],
            )?,
            ended: IntCounterVec::new(
                Opts::new(
                    "pve_operator_template_instances_ended_total",
                    "Instances that came to an end, by result.",
                ),
                &["result"],
            )?,
            bytes: IntCounter::new(
                "pve_operator_template_bytes_total",
                "Bytes of images that arrived on nodes.",
            )?,
            transfers: IntGauge::new(
                "pve_operator_template_transfers",
                "Images that are on their way to a node.",
            )?,
            busy_nodes: IntGauge::new(
                "pve_operator_template_busy_instances",
                "Instances that hold a slot of their node.",
            )?,
            queue: IntGauge::new(
                "pve_operator_template_queue_length",
                "Instances and clones that wait for a worker or for their next look.",
            )?,
            leftovers: IntGauge::new(
                "pve_operator_template_leftovers",
                "Guests and files of ours that could not be removed yet.",
            )?,
        };
        // From nothing to 1 is no increase to Prometheus, and people are woken by the first.
        for result in ["available", "failed", "cancelled"] {
            metrics.ended.with_label_values(&[result]);
        }
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.failures.clone()))?;
        registry.register(Box::new(metrics.ended.clone()))?;
        registry.register(Box::new(metrics.bytes.clone()))?;
        let gauges = [&metrics.transfers, &metrics.busy_nodes, &metrics.queue, &metrics.leftovers];
        for gauge in gauges {
            registry.register(Box::new(gauge.clone()))?;
        }
        Ok(metrics)
    }

    pub(super) fn done(&self, act: Act, took: Option<Duration>) {
        if let Some(took) = took {
            self.seconds.with_label_values(&[act.as_str()]).observe(took.as_secs_f64());
        }
    }

    pub(super) fn failed(&self, act: Act, refusal: &Refusal) {
        self.failures.with_label_values(&[act.as_str(), refusal.as_str()]).inc();
    }

    /// `available`, `failed` or `cancelled`.
    pub(super) fn ended(&self, result: &str) {
        self.ended.with_label_values(&[result]).inc();
    }

    pub(super) fn fetched(&self, bytes: u64) {
        self.bytes.inc_by(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prometheus::proto::MetricFamily;

    use super::*;

    #[test]
    fn the_metrics_are_those_of_the_table() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        metrics.done(Act::Fetch, Some(Duration::from_secs(1)));
        metrics.failed(Act::Fetch, &Refusal::NoSpace);
        metrics.ended("available");

        let gathered = registry.gather();
        let exported: BTreeSet<&str> = gathered.iter().map(MetricFamily::name).collect();

        let table = include_str!("../../../docs/metrics.md");
        let names = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let documented: BTreeSet<&str> = names
            .filter(|name| name.starts_with("pve_operator_template_") && !name.contains(' '))
            .collect();
        assert_eq!(exported, documented);
        for act in Act::ALL {
            assert!(table.contains(act.as_str()), "the step {} is in no row", act.as_str());
        }
    }
}
