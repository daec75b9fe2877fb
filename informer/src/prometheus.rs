//! Prometheus metrics under client-go's names, so that dashboards made for it work.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, exponential_buckets,
};

use crate::listing::ListCounts;
use crate::metrics::Metrics;
use crate::object::{Key, Object};
use crate::shared_informer::InformerHandle;
use crate::work_queue::WorkQueue;

/// Counts into a [`Registry`]: `reflector_*` and `workqueue_*` as client-go names them,
/// `informer_*` and `reconcile_*` for what it does not have.
///
/// ```
/// # fn main() -> prometheus::Result<()> {
/// use informer::{PrometheusMetrics, WorkQueue};
///
/// let registry = prometheus::Registry::new();
/// let metrics = PrometheusMetrics::register(&registry)?;
/// let queue = WorkQueue::builder("details").metrics(metrics.clone()).build();
/// metrics.watch_queue(&queue);
/// queue.add(100);
///
/// let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather())?;
/// assert!(text.contains(r#"workqueue_depth{name="details"} 1"#));
/// # Ok(())
/// # }
/// ```
pub struct PrometheusMetrics {
    lists: IntCounterVec,
    list_seconds: HistogramVec,
    items_per_list: HistogramVec,
    watches: IntCounterVec,
    short_watches: IntCounterVec,
    watch_seconds: HistogramVec,
    items_per_watch: HistogramVec,
    events: IntCounterVec,
    unchanged: IntCounterVec,
    kept: IntCounterVec,
    errors: IntCounterVec,
    suspicious: IntCounterVec,
    rejected: IntCounterVec,
    verifications: IntCounterVec,
    differences: IntCounterVec,
    disconnected: IntCounterVec,
    handler_failures: IntCounterVec,
    adds: IntCounterVec,
    retries: IntCounterVec,
    queue_seconds: HistogramVec,
    work_seconds: HistogramVec,
    reconciles: IntCounterVec,
    reconcile_seconds: HistogramVec,
    probes: Arc<Probes>,
}

impl PrometheusMetrics {
    /// Makes all metrics and registers them.
    ///
    /// # Errors
    ///
    /// If the registry has metrics with these names already.
    pub fn register(registry: &Registry) -> prometheus::Result<Arc<Self>> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            prometheus::Result::Ok(metric)
        };
        let histogram = |name: &str, help: &str, labels: &[&str], first: f64| {
            let buckets = exponential_buckets(first, 10.0_f64.sqrt(), 16)?;
            let options = HistogramOpts::new(name, help).buckets(buckets);
            let metric = HistogramVec::new(options, labels)?;
            registry.register(Box::new(metric.clone()))?;
            prometheus::Result::Ok(metric)
        };
        let name = &["name"][..];
        let probes = Arc::new(Probes::new()?);
        registry.register(Box::new(ProbeCollector(probes.clone())))?;
        Ok(Arc::new(Self {
            lists: counter("reflector_lists_total", "Lists that ended well", name)?,
            list_seconds: histogram("reflector_list_duration_seconds", "Of a list", name, 1e-3)?,
            items_per_list: histogram("reflector_items_per_list", "Objects in a list", name, 1.0)?,
            watches: counter("reflector_watches_total", "Watches that ended", name)?,
            short_watches: counter(
                "reflector_short_watches_total",
                "Watches that ended within a second with nothing",
                name,
            )?,
            watch_seconds: histogram("reflector_watch_duration_seconds", "Of a watch", name, 0.1)?,
            items_per_watch: histogram("reflector_items_per_watch", "In a watch", name, 1.0)?,
            events: counter("informer_events_total", "Changes to the store", &["name", "kind"])?,
            unchanged: counter(
                "informer_unchanged_total",
                "Listed objects that were there already in this version",
                name,
            )?,
            kept: counter(
                "informer_kept_total",
                "Objects that a list lacked and that were kept all the same",
                name,
            )?,
            errors: counter("informer_errors_total", "Failed answers", &["name", "class"])?,
            suspicious: counter("informer_suspicious_lists_total", "Lists not trusted", name)?,
            rejected: counter("informer_rejected_total", "Objects that could not be taken", name)?,
            verifications: counter(
                "informer_verifications_total",
                "Checks of the store against the source",
                name,
            )?,
            differences: counter(
                "informer_differences_total",
                "Objects that a check found to differ",
                name,
            )?,
            disconnected: counter(
                "informer_disconnected_total",
                "Subscriptions that were ended as they held too many keys",
                &["name", "subscription"],
            )?,
            handler_failures: counter(
                "informer_handler_failures_total",
                "Calls of a handler that failed",
                &["name", "subscription", "panicked"],
            )?,
            adds: counter("workqueue_adds_total", "Keys that became ready", name)?,
            retries: counter("workqueue_retries_total", "Keys that came back failed", name)?,
            queue_seconds: histogram(
                "workqueue_queue_duration_seconds",
                "How long a key was ready before it was taken",
                name,
                1e-6,
            )?,
            work_seconds: histogram(
                "workqueue_work_duration_seconds",
                "How long a key was worked on",
                name,
                1e-6,
            )?,
            reconciles: counter("reconcile_total", "Runs of a reconciler", &["name", "result"])?,
            reconcile_seconds: histogram("reconcile_time_seconds", "Of a run", name, 1e-4)?,
            probes,
        }))
    }

    /// Shows size, age and lag of an informer for as long as it lives.
    pub fn watch_informer<T: Object>(&self, informer: &InformerHandle<T>) {
        let hub = Arc::downgrade(informer.hub());
        self.probes.add(move |gauges| {
            let Some(hub) = hub.upgrade() else { return false };
            let name = hub.name.as_str();
            gauges.objects.with_label_values(&[name]).set(count(hub.store.len()));
            if let Some(age) = hub.store.age() {
                gauges.age.with_label_values(&[name]).set(age.as_secs_f64());
            }
            let conflicts = count(hub.store.conflict_count());
            gauges.conflicts.with_label_values(&[name]).set(conflicts);
            gauges.quarantined.with_label_values(&[name]).set(count(hub.quarantine.len()));
            let synced = f64::from(u8::from(hub.status.borrow().synced));
            gauges.synced.with_label_values(&[name]).set(synced);
            for (subscription, lag) in hub.lags() {
                let labels = &[name, subscription.as_str()];
                gauges.lag_keys.with_label_values(labels).set(count(lag.keys));
                gauges.oldest.with_label_values(labels).set(lag.oldest.as_secs_f64());
                gauges.parked.with_label_values(labels).set(count(lag.parked));
                #[expect(clippy::cast_precision_loss, reason = "a gauge")]
                gauges.coalesced.with_label_values(labels).set(lag.coalesced as f64);
            }
            true
        });
    }

    /// Shows depth and unfinished work of a queue for as long as it lives.
    pub fn watch_queue<K: Key>(&self, queue: &WorkQueue<K>) {
        let name = queue.name().to_owned();
        let probe = queue.probe();
        self.probes.add(move |gauges| {
            let Some((depth, unfinished, longest)) = probe() else { return false };
            gauges.depth.with_label_values(&[&name]).set(count(depth));
            gauges.unfinished.with_label_values(&[&name]).set(unfinished.as_secs_f64());
            gauges.longest.with_label_values(&[&name]).set(longest.as_secs_f64());
            true
        });
    }
}

impl Metrics for PrometheusMetrics {
    fn listed(&self, informer: &str, took: Duration, counts: ListCounts) {
        let name = &[informer];
        self.lists.with_label_values(name).inc();
        self.list_seconds.with_label_values(name).observe(took.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a histogram")]
        self.items_per_list.with_label_values(name).observe(counts.items as f64);
        self.unchanged.with_label_values(name).inc_by(counts.unchanged);
        self.kept.with_label_values(name).inc_by(counts.kept);
    }

    fn source_failed(&self, informer: &str, class: &'static str) {
        self.errors.with_label_values(&[informer, class]).inc();
    }

    fn watched(&self, informer: &str, took: Duration, items: u64) {
        let name = &[informer];
        self.watches.with_label_values(name).inc();
        if items == 0 && took < Duration::from_secs(1) {
            self.short_watches.with_label_values(name).inc();
        }
        self.watch_seconds.with_label_values(name).observe(took.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a histogram")]
        self.items_per_watch.with_label_values(name).observe(items as f64);
    }

    fn suspicious(&self, informer: &str) {
        self.suspicious.with_label_values(&[informer]).inc();
    }

    fn rejected(&self, informer: &str) {
        self.rejected.with_label_values(&[informer]).inc();
    }

    fn verified(&self, informer: &str, _: Duration, differences: u64) {
        self.verifications.with_label_values(&[informer]).inc();
        self.differences.with_label_values(&[informer]).inc_by(differences);
    }

    fn disconnected(&self, informer: &str, subscription: &str) {
        self.disconnected.with_label_values(&[informer, subscription]).inc();
    }

    fn changed(&self, informer: &str, kind: &'static str, count: u64) {
        self.events.with_label_values(&[informer, kind]).inc_by(count);
    }

    fn handler_failed(&self, informer: &str, subscription: &str, panicked: bool) {
        let panicked = if panicked { "true" } else { "false" };
        self.handler_failures.with_label_values(&[informer, subscription, panicked]).inc();
    }

    fn queue_added(&self, queue: &str) {
        self.adds.with_label_values(&[queue]).inc();
    }

    fn queue_retried(&self, queue: &str) {
        self.retries.with_label_values(&[queue]).inc();
    }

    fn queue_taken(&self, queue: &str, waited: Duration) {
        self.queue_seconds.with_label_values(&[queue]).observe(waited.as_secs_f64());
    }

    fn queue_done(&self, queue: &str, worked: Duration) {
        self.work_seconds.with_label_values(&[queue]).observe(worked.as_secs_f64());
    }

    fn reconciled(&self, controller: &str, outcome: &'static str, took: Duration) {
        self.reconciles.with_label_values(&[controller, outcome]).inc();
        self.reconcile_seconds.with_label_values(&[controller]).observe(took.as_secs_f64());
    }
}

impl fmt::Debug for PrometheusMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrometheusMetrics").finish_non_exhaustive()
    }
}

fn count(n: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    let n = n as f64;
    n
}

/// What is read when somebody scrapes, not when it changes.
struct Gauges {
    objects: GaugeVec,
    age: GaugeVec,
    synced: GaugeVec,
    conflicts: GaugeVec,
    quarantined: GaugeVec,
    parked: GaugeVec,
    lag_keys: GaugeVec,
    oldest: GaugeVec,
    coalesced: GaugeVec,
    depth: GaugeVec,
    unfinished: GaugeVec,
    longest: GaugeVec,
}

impl Gauges {
    fn all(&self) -> [&GaugeVec; 12] {
        [
            &self.objects,
            &self.age,
            &self.synced,
            &self.conflicts,
            &self.quarantined,
            &self.parked,
            &self.lag_keys,
            &self.oldest,
            &self.coalesced,
            &self.depth,
            &self.unfinished,
            &self.longest,
        ]
    }
}

/// Sets the gauges of one thing; answers whether the thing still lives.
type Probe = Box<dyn Fn(&Gauges) -> bool + Send + Sync>;

struct Probes {
    gauges: Gauges,
    probes: Mutex<Vec<Probe>>,
}

impl Probes {
    fn new() -> prometheus::Result<Self> {
        let gauge =
            |name: &str, help: &str, labels: &[&str]| GaugeVec::new(Opts::new(name, help), labels);
        let name = &["name"][..];
        let subscription = &["name", "subscription"][..];
        let gauges = Gauges {
            objects: gauge("informer_objects", "Objects in the store", name)?,
            age: gauge("informer_age_seconds", "Since the source confirmed the store", name)?,
            synced: gauge("informer_synced", "Whether there was a complete list", name)?,
            conflicts: gauge(
                "informer_index_conflicts",
                "Values of unique indexes that several objects claim",
                name,
            )?,
            quarantined: gauge(
                "informer_quarantined",
                "Objects that cannot be taken at the moment",
                name,
            )?,
            parked: gauge(
                "informer_parked_keys",
                "Keys that a handler was given up on",
                subscription,
            )?,
            lag_keys: gauge("informer_lag_keys", "Keys a handler is behind", subscription)?,
            oldest: gauge("informer_oldest_seconds", "How long they have waited", subscription)?,
            coalesced: gauge(
                "informer_coalesced_total",
                "Changes that were merged into others",
                subscription,
            )?,
            depth: gauge("workqueue_depth", "Keys that are ready", name)?,
            unfinished: gauge(
                "workqueue_unfinished_work_seconds",
                "How long keys have been worked on, all together",
                name,
            )?,
            longest: gauge(
                "workqueue_longest_running_processor_seconds",
                "How long the longest has been worked on",
                name,
            )?,
        };
        Ok(Self { gauges, probes: Mutex::new(Vec::new()) })
    }

    fn add(&self, probe: impl Fn(&Gauges) -> bool + Send + Sync + 'static) {
        self.probes.lock().push(Box::new(probe));
    }
}

struct ProbeCollector(Arc<Probes>);

impl Collector for ProbeCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.0.gauges.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let gauges = &self.0.gauges;
        let mut probes = self.0.probes.lock();
        gauges.all().into_iter().for_each(GaugeVec::reset);
        probes.retain(|probe| probe(gauges));
        gauges.all().into_iter().flat_map(Collector::collect).collect()
    }
}
