//! What the operator tells Prometheus. The names are listed in `docs/metrics.md`.
//!
//! Every cluster has a [`ClusterMetrics`]; dropping it removes the cluster's series, so a
//! deleted cluster does not go on being exported with its last values.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use prometheus::{
    CounterVec, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
    core::{Collector, MetricVec, MetricVecBuilder},
    proto::MetricFamily,
};
use tokio::time::Instant;

use crate::pve::{RequestObserver, RequestSeen};

/// What the mirror follows; a closed set, used as a label and in log fields.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    Node,
    Guest,
    Storage,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Node, Self::Guest, Self::Storage];

    pub fn label(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Guest => "guest",
            Self::Storage => "storage",
        }
    }
}

/// All of the operator's series. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    families: Arc<Families>,
}

#[derive(Debug)]
struct Families {
    clusters: IntGaugeVec,
    poll_age: GaugeVec,
    poll_duration: HistogramVec,
    poll_errors: IntCounterVec,
    skipped_elements: IntCounterVec,
    objects: IntGaugeVec,
    events: IntCounterVec,
    writer_pending: IntGaugeVec,
    writer_lag: GaugeVec,
    rows_written: IntCounterVec,
    write_errors: IntCounterVec,
    suspicious_shrink: IntGaugeVec,
    requests: IntCounterVec,
    request_seconds: CounterVec,
    details_pending: IntGaugeVec,
    last_polls: Mutex<HashMap<String, Instant>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    #[expect(clippy::too_many_lines, reason = "one family after the other")]
    pub fn new() -> Self {
        let registry = Registry::new();
        let cluster = &["cluster"];
        let families = Families {
            clusters: family(
                &registry,
                "clusters",
                "Clusters by what the operator does about them.",
                &["state"],
                IntGaugeVec::new,
            ),
            poll_age: family(
                &registry,
                "poll_age_seconds",
                "Time since the last poll that brought a whole answer.",
                cluster,
                GaugeVec::new,
            ),
            poll_duration: histogram(
                &registry,
                "poll_duration_seconds",
                "Time from a poll's first request to its last byte.",
                cluster,
            ),
            poll_errors: family(
                &registry,
                "poll_errors_total",
                "Polls without a whole answer, by class of error.",
                &["cluster", "class"],
                IntCounterVec::new,
            ),
            skipped_elements: family(
                &registry,
                "skipped_elements_total",
                "Elements of PVE's lists that could not be read and were passed over.",
                cluster,
                IntCounterVec::new,
            ),
            objects: family(
                &registry,
                "objects",
                "Objects in the cache.",
                &["cluster", "kind"],
                IntGaugeVec::new,
            ),
            events: family(
                &registry,
                "events_total",
                "Changes seen in PVE.",
                &["cluster", "kind", "type"],
                IntCounterVec::new,
            ),
            writer_pending: family(
                &registry,
                "writer_pending",
                "Changed objects that are not in the tables yet.",
                cluster,
                IntGaugeVec::new,
            ),
            writer_lag: family(
                &registry,
                "writer_lag_seconds",
                "Age of the oldest change that is not in the tables yet.",
                cluster,
                GaugeVec::new,
            ),
            rows_written: family(
                &registry,
                "rows_written_total",
                "Rows changed in the tables, without the usage batch.",
                &["cluster", "table", "change"],
                IntCounterVec::new,
            ),
            write_errors: family(
                &registry,
                "write_errors_total",
                "Batches that the database did not take; they are tried again.",
                cluster,
                IntCounterVec::new,
            ),
            suspicious_shrink: family(
                &registry,
                "suspicious_shrink",
                "1 while objects are kept although PVE's lists lack them for an unusual reason.",
                &["cluster", "kind"],
                IntGaugeVec::new,
            ),
            requests: family(
                &registry,
                "pve_requests_total",
                "Requests to PVE by endpoint and status; status 0 is no answer.",
                &["cluster", "endpoint", "status"],
                IntCounterVec::new,
            ),
            request_seconds: family(
                &registry,
                "pve_request_seconds_total",
                "Time spent waiting for PVE's answers.",
                &["cluster", "endpoint"],
                CounterVec::new,
            ),
            details_pending: family(
                &registry,
                "details_pending",
                "Guests whose disks and addresses wait to be read.",
                cluster,
                IntGaugeVec::new,
            ),
            last_polls: Mutex::default(),
        };
        #[cfg(target_os = "linux")]
        registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("a new registry has no process collector yet");
        Self { registry, families: Arc::new(families) }
    }

    /// For series that other parts of the process keep.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The handle through which one cluster's pipeline reports.
    pub fn cluster(&self, name: &str) -> ClusterMetrics {
        // From nothing to 1 is no increase to Prometheus: what people are woken by begins with 0.
        self.families.skipped_elements.with_label_values(&[name]);
        self.families.write_errors.with_label_values(&[name]);
        ClusterMetrics { name: name.to_owned(), families: Arc::clone(&self.families) }
    }

    /// How many clusters are followed, cannot be followed, and are switched off.
    pub fn set_clusters(&self, running: usize, failed: usize, disabled: usize) {
        for (state, count) in [("running", running), ("failed", failed), ("disabled", disabled)] {
            self.families.clusters.with_label_values(&[state]).set(to_i64(count));
        }
    }

    /// The text that a scrape gets.
    pub fn render(&self) -> String {
        for (cluster, at) in &*self.families.last_polls.lock() {
            let age = self.families.poll_age.with_label_values(&[cluster]);
            age.set(at.elapsed().as_secs_f64());
        }
        let mut text = String::new();
        match TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            Ok(()) => text,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "Metrics cannot be encoded"
                );
                String::new()
            }
        }
    }
}

/// One cluster's series.
#[derive(Debug)]
pub struct ClusterMetrics {
    name: String,
    families: Arc<Families>,
}

impl ClusterMetrics {
    pub fn polled(&self, took: Duration) {
        self.families.poll_duration.with_label_values(&[&self.name]).observe(took.as_secs_f64());
        self.families.last_polls.lock().insert(self.name.clone(), Instant::now());
    }

    pub fn poll_failed(&self, class: &str) {
        self.families.poll_errors.with_label_values(&[&self.name, class]).inc();
    }

    pub fn skipped(&self, elements: usize) {
        let counter = self.families.skipped_elements.with_label_values(&[&self.name]);
        counter.inc_by(elements as u64);
    }

    pub fn set_objects(&self, kind: Kind, count: usize) {
        self.families.objects.with_label_values(&[&self.name, kind.label()]).set(to_i64(count));
    }

    pub fn event(&self, kind: Kind, change: &str) {
        self.families.events.with_label_values(&[&self.name, kind.label(), change]).inc();
    }

    pub fn set_writer(&self, pending: usize, oldest: Option<Duration>) {
        self.families.writer_pending.with_label_values(&[&self.name]).set(to_i64(pending));
        let lag = oldest.unwrap_or_default().as_secs_f64();
        self.families.writer_lag.with_label_values(&[&self.name]).set(lag);
    }

    pub fn rows_written(&self, table: &str, change: &str, rows: u64) {
        if rows > 0 {
            let counter =
                self.families.rows_written.with_label_values(&[&self.name, table, change]);
            counter.inc_by(rows);
        }
    }

    pub fn write_failed(&self) {
        self.families.write_errors.with_label_values(&[&self.name]).inc();
    }

    pub fn set_suspicious(&self, kind: Kind, suspicious: bool) {
        let gauge = self.families.suspicious_shrink.with_label_values(&[&self.name, kind.label()]);
        gauge.set(i64::from(suspicious));
    }

    /// `status` 0 stands for no answer.
    pub fn request(&self, endpoint: &str, status: u16, took: Duration) {
        let status = status.to_string();
        self.families.requests.with_label_values(&[&self.name, endpoint, &status]).inc();
        let seconds = self.families.request_seconds.with_label_values(&[&self.name, endpoint]);
        seconds.inc_by(took.as_secs_f64());
    }

    pub fn set_details_pending(&self, guests: usize) {
        self.families.details_pending.with_label_values(&[&self.name]).set(to_i64(guests));
    }
}

impl RequestObserver for ClusterMetrics {
    fn on_request(&self, seen: &RequestSeen<'_>) {
        self.request(seen.endpoint, seen.status.unwrap_or(0), seen.elapsed);
    }
}

impl Drop for ClusterMetrics {
    fn drop(&mut self) {
        let families = &self.families;
        families.last_polls.lock().remove(&self.name);
        forget(&families.poll_age, &self.name);
        forget(&families.poll_duration, &self.name);
        forget(&families.poll_errors, &self.name);
        forget(&families.skipped_elements, &self.name);
        forget(&families.objects, &self.name);
        forget(&families.events, &self.name);
        forget(&families.writer_pending, &self.name);
        forget(&families.writer_lag, &self.name);
        forget(&families.rows_written, &self.name);
        forget(&families.write_errors, &self.name);
        forget(&families.suspicious_shrink, &self.name);
        forget(&families.requests, &self.name);
        forget(&families.request_seconds, &self.name);
        forget(&families.details_pending, &self.name);
    }
}

/// Removes every series of one cluster from a family.
fn forget<T: MetricVecBuilder>(family: &MetricVec<T>, cluster: &str)
where
    MetricVec<T>: Collector,
{
    for metric in family.collect().iter().flat_map(MetricFamily::get_metric) {
        let labels: HashMap<&str, &str> =
            metric.get_label().iter().map(|label| (label.name(), label.value())).collect();
        if labels.get("cluster") == Some(&cluster) {
            // An error means that somebody else removed it first.
            drop(family.remove(&labels));
        }
    }
}

fn family<V: Collector + Clone + 'static>(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    new: impl FnOnce(Opts, &[&str]) -> prometheus::Result<V>,
) -> V {
    let family = new(Opts::new(format!("pve_operator_{name}"), help), labels)
        .expect("names and labels are constants of this file, and valid");
    registry.register(Box::new(family.clone())).expect("each name is registered once, above");
    family
}

fn histogram(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
    family(registry, name, help, labels, |opts, labels| {
        let buckets = vec![0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        HistogramVec::new(HistogramOpts::from(opts).buckets(buckets), labels)
    })
}

fn to_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_forgotten_cluster_leaves_no_series() {
        let metrics = Metrics::new();
        let (stays, goes) = (metrics.cluster("stays"), metrics.cluster("goes"));
        for cluster in [&stays, &goes] {
            cluster.polled(Duration::from_millis(20));
            cluster.poll_failed("connect");
            cluster.event(Kind::Guest, "added");
            cluster.request("/cluster/resources", 200, Duration::from_millis(3));
        }

        drop(goes);

        let text = metrics.render();
        assert!(text.contains(r#"cluster="stays""#));
        assert!(!text.contains(r#"cluster="goes""#), "{text}");
    }

    #[test]
    fn the_documentation_lists_every_series_and_no_other() {
        let metrics = Metrics::new();
        metrics.set_clusters(1, 0, 0);
        let cluster = metrics.cluster("c");
        cluster.polled(Duration::from_millis(20));
        cluster.poll_failed("connect");
        cluster.skipped(1);
        cluster.set_objects(Kind::Guest, 1);
        cluster.event(Kind::Guest, "added");
        cluster.set_writer(0, None);
        cluster.rows_written("pve_vm", "insert", 1);
        cluster.write_failed();
        cluster.set_suspicious(Kind::Guest, false);
        cluster.request("/cluster/resources", 200, Duration::from_millis(3));
        cluster.set_details_pending(0);
        metrics.render(); // sets the ages

        let gathered = metrics.registry().gather();
        let exported: BTreeSet<&str> = gathered
            .iter()
            .map(MetricFamily::name)
            .filter(|name| name.starts_with("pve_operator_"))
            .collect();

        let words = include_str!("../../docs/metrics.md")
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let documented: BTreeSet<&str> = words
            .filter(|word| word.starts_with("pve_operator_") && !word.ends_with('_'))
            // Those are held against the table where they are made.
            .filter(|word| !word.starts_with("pve_operator_template_"))
            .filter(|word| !word.starts_with("pve_operator_lease"))
            .filter(|word| *word != "pve_operator_clusters_unheld")
            .map(|word| {
                ["_bucket", "_sum", "_count"]
                    .iter()
                    .fold(word, |word, end| word.strip_suffix(end).unwrap_or(word))
            })
            .collect();
        assert_eq!(exported, documented);
    }
}
