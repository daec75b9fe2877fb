//! What is counted about leases. Names and labels are listed in `docs/metrics.md`.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

#[derive(Clone, Debug)]
pub(super) struct Metrics {
    pub held: IntGauge,
    pub unheld: IntGauge,
    pub renew_errors: IntCounter,
    transitions: IntCounterVec,
}

/// How a lease began or ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Transition {
    Acquired,
    Released,
    Lost,
}

impl Metrics {
    /// # Errors
    ///
    /// Only if a name is taken, which is a bug.
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            held: IntGauge::new(
                "pve_operator_leases_held",
                "Clusters that this operator holds the lease of.",
            )?,
            unheld: IntGauge::new(
                "pve_operator_clusters_unheld",
                "Enabled clusters that no live operator holds the lease of.",
            )?,
            renew_errors: IntCounter::new(
                "pve_operator_lease_renew_errors_total",
                "Looks at the leases that failed, renewals among them.",
            )?,
            transitions: IntCounterVec::new(
                Opts::new(
                    "pve_operator_lease_transitions_total",
                    "Leases that this operator got, gave back or lost.",
                ),
                &["reason"],
            )?,
        };
        registry.register(Box::new(metrics.held.clone()))?;
        registry.register(Box::new(metrics.unheld.clone()))?;
        registry.register(Box::new(metrics.renew_errors.clone()))?;
        registry.register(Box::new(metrics.transitions.clone()))?;
        for transition in [Transition::Acquired, Transition::Released, Transition::Lost] {
            metrics.count(transition, 0);
        }
        Ok(metrics)
    }

    pub(super) fn count(&self, transition: Transition, clusters: usize) {
        let reason = match transition {
            Transition::Acquired => "acquired",
            Transition::Released => "released",
            Transition::Lost => "lost",
        };
        self.transitions.with_label_values(&[reason]).inc_by(clusters as u64);
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
        let _metrics = Metrics::new(&registry).unwrap();

        let gathered = registry.gather();
        let exported: BTreeSet<&str> = gathered.iter().map(MetricFamily::name).collect();

        let table = include_str!("../../../docs/metrics.md");
        let (_, section) = table.split_once("## Leases").unwrap();
        let section = section.split("\n## ").next().unwrap();
        let documented: BTreeSet<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        assert_eq!(exported, documented);
    }
}
