//! What the API tells Prometheus about its requests; handlers know nothing of it.

use std::time::Duration;

use axum::extract::State;
use axum::http::Method;
use axum::response::{IntoResponse, Response};
pub(crate) use prometheus::Registry;
use prometheus::{
    Encoder, Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, TextEncoder,
};

use crate::error::ApiError;

/// The numbers of one router. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    duration: HistogramVec,
    in_flight: IntGauge,
    refused: IntCounterVec,
    pub(crate) uploads: UploadMetrics,
    pub(crate) resumable: ResumableMetrics,
    pub(crate) images: ImageMetrics,
    pub(crate) watch: WatchMetrics,
}

/// What comes in.
#[derive(Clone, Debug)]
pub(crate) struct UploadMetrics {
    in_progress: IntGauge,
    bytes: IntCounter,
    ended: IntCounterVec,
}

/// What comes in, in several goes.
#[derive(Clone, Debug)]
pub(crate) struct ResumableMetrics {
    open: IntGauge,
    bytes: IntCounter,
    ended: IntCounterVec,
}

/// What nodes fetch.
#[derive(Clone, Debug)]
pub(crate) struct ImageMetrics {
    bytes: IntCounter,
    requests: IntCounterVec,
}

/// What comes through the door, HTTP or not.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionMetrics {
    open: IntGauge,
    closed: IntCounterVec,
    handshakes: IntCounter,
    expiry: IntGauge,
}

impl Default for ConnectionMetrics {
    fn default() -> Self {
        let open = IntGauge::new("pve_api_connections", "Connections that are open.");
        let closed = IntCounterVec::new(
            Opts::new("pve_api_connections_closed_total", "Connections that we gave up, by why."),
            &["reason"],
        )
        .expect(VALID);
        for reason in ["idle", "room", "slow_head", "long_head", "slow_reader"] {
            closed.with_label_values(&[reason]);
        }
        let handshakes = IntCounter::new(
            "pve_api_tls_handshake_failures_total",
            "TLS handshakes that failed or took too long.",
        );
        let expiry = IntGauge::new(
            "pve_api_tls_certificate_expiry_timestamp_seconds",
            "When the certificate of the API expires; 0 without one.",
        );
        Self {
            open: open.expect(VALID),
            closed,
            handshakes: handshakes.expect(VALID),
            expiry: expiry.expect(VALID),
        }
    }
}

impl ConnectionMetrics {
    /// Shows them beside those of the requests; once for each registry.
    pub(crate) fn register(&self, registry: &Registry) {
        registry.register(Box::new(self.open.clone())).expect(ONCE);
        registry.register(Box::new(self.closed.clone())).expect(ONCE);
        registry.register(Box::new(self.handshakes.clone())).expect(ONCE);
        registry.register(Box::new(self.expiry.clone())).expect(ONCE);
    }

    pub(crate) fn opened(&self) {
        self.open.inc();
    }

    pub(crate) fn ended(&self) {
        self.open.dec();
    }

    pub(crate) fn open(&self) -> i64 {
        self.open.get()
    }

    pub(crate) fn closed(&self, reason: &'static str) {
        self.closed.with_label_values(&[reason]).inc();
    }

    #[cfg(test)]
    pub(crate) fn how_many_closed(&self, reason: &str) -> u64 {
        self.closed.with_label_values(&[reason]).get()
    }

    pub(crate) fn handshake_failed(&self) {
        self.handshakes.inc();
    }

    /// In seconds since 1970.
    pub(crate) fn certificate_expires(&self, at: Option<i64>) {
        self.expiry.set(at.unwrap_or_default());
    }
}

impl UploadMetrics {
    fn new(registry: &Registry) -> Self {
        let in_progress = IntGauge::new(
            "pve_api_uploads_in_progress",
            "Uploads that are coming in or being put away.",
        )
        .expect(VALID);
        let bytes = IntCounter::new("pve_api_upload_bytes_total", "Bytes of images that came in.")
            .expect(VALID);
        let ended = IntCounterVec::new(
            Opts::new("pve_api_uploads_total", "Uploads that ended, by how."),
            &["result"],
        )
        .expect(VALID);
        for result in ["done", "refused", "hung_up", "failed"] {
            ended.with_label_values(&[result]);
        }
        registry.register(Box::new(in_progress.clone())).expect(ONCE);
        registry.register(Box::new(bytes.clone())).expect(ONCE);
        registry.register(Box::new(ended.clone())).expect(ONCE);
        Self { in_progress, bytes, ended }
    }

    pub(crate) fn begin(&self) -> UploadCount {
        self.in_progress.inc();
        UploadCount { metrics: self.clone(), result: "hung_up" }
    }

    /// Counts a part of an upload while it is carried.
    pub(crate) fn carry(&self) -> InFlight {
        InFlight::new(&self.in_progress)
    }
}

impl ResumableMetrics {
    fn new(registry: &Registry) -> Self {
        let open = IntGauge::new(
            "pve_api_resumable_uploads_open",
            "Resumable uploads that are neither done nor failed.",
        )
        .expect(VALID);
        let bytes = IntCounter::new(
            "pve_api_resumable_bytes_total",
            "Bytes that came in for resumable uploads, those that came twice too.",
        )
        .expect(VALID);
        let ended = IntCounterVec::new(
            Opts::new("pve_api_resumable_uploads_total", "Resumable uploads that ended, by how."),
            &["result"],
        )
        .expect(VALID);
        for result in ["done", "failed", "expired", "terminated"] {
            ended.with_label_values(&[result]);
        }
        registry.register(Box::new(open.clone())).expect(ONCE);
        registry.register(Box::new(bytes.clone())).expect(ONCE);
        registry.register(Box::new(ended.clone())).expect(ONCE);
        Self { open, bytes, ended }
    }

    pub(crate) fn open(&self, sessions: usize) {
        self.open.set(i64::try_from(sessions).unwrap_or(i64::MAX));
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.bytes.inc_by(bytes as u64);
    }

    pub(crate) fn ended(&self, result: &str) {
        self.ended.with_label_values(&[result]).inc();
    }
}

/// One upload; counted when it is dropped, as hung up unless it was ended otherwise.
#[derive(Debug)]
pub(crate) struct UploadCount {
    metrics: UploadMetrics,
    result: &'static str,
}

impl UploadCount {
    pub(crate) fn received(&self, bytes: usize) {
        self.metrics.bytes.inc_by(bytes as u64);
    }

    pub(crate) fn end(&mut self, error: Option<&ApiError>) {
        self.result = match error {
            None => "done",
            Some(error) if error.reason() == "hung_up" => "hung_up",
            Some(error) if error.is_callers() => "refused",
            Some(_) => "failed",
        };
    }
}

impl Drop for UploadCount {
    fn drop(&mut self) {
        self.metrics.in_progress.dec();
        self.metrics.ended.with_label_values(&[self.result]).inc();
    }
}

impl ImageMetrics {
    fn new(registry: &Registry) -> Self {
        let bytes = IntCounter::new(
            "pve_api_image_bytes_total",
            "Bytes of images that were sent to nodes.",
        )
        .expect(VALID);
        let requests = IntCounterVec::new(
            Opts::new("pve_api_image_requests_total", "Requests for images, by result."),
            &["result"],
        )
        .expect(VALID);
        for result in ["whole", "part", "beyond", "denied", "failed"] {
            requests.with_label_values(&[result]);
        }
        registry.register(Box::new(bytes.clone())).expect(ONCE);
        registry.register(Box::new(requests.clone())).expect(ONCE);
        Self { bytes, requests }
    }

    pub(crate) fn bytes(&self, bytes: usize) {
        self.bytes.inc_by(bytes as u64);
    }

    pub(crate) fn request(&self, result: &str) {
        self.requests.with_label_values(&[result]).inc();
    }
}

/// Who watches.
#[derive(Clone, Debug)]
pub(crate) struct WatchMetrics {
    watchers: IntGaugeVec,
    messages: IntCounter,
    ended: IntCounterVec,
    behind: Gauge,
}

impl WatchMetrics {
    fn new(registry: &Registry) -> Self {
        let watchers = IntGaugeVec::new(
            Opts::new("pve_api_watchers", "Connections that watch sync tasks, by transport."),
            &["transport"],
        )
        .expect(VALID);
        for transport in ["websocket", "event_stream"] {
            watchers.with_label_values(&[transport]);
        }
        let messages =
            IntCounter::new("pve_api_watch_messages_total", "Messages that watchers were sent.")
                .expect(VALID);
        let ended = IntCounterVec::new(
            Opts::new("pve_api_watches_total", "Watches that ended, by how."),
            &["result"],
        )
        .expect(VALID);
        for result in ["hung_up", "dead", "token", "stopping"] {
            ended.with_label_values(&[result]);
        }
        let behind = Gauge::new(
            "pve_api_watch_behind_seconds",
            "Time since the tables were last looked at for watchers; 0 while nobody watches.",
        )
        .expect(VALID);
        registry.register(Box::new(watchers.clone())).expect(ONCE);
        registry.register(Box::new(messages.clone())).expect(ONCE);
        registry.register(Box::new(ended.clone())).expect(ONCE);
        registry.register(Box::new(behind.clone())).expect(ONCE);
        Self { watchers, messages, ended, behind }
    }

    pub(crate) fn begin(&self, transport: &'static str) -> WatchCount {
        self.watchers.with_label_values(&[transport]).inc();
        WatchCount { metrics: self.clone(), transport, result: "hung_up" }
    }

    pub(crate) fn behind(&self, time: Duration) {
        self.behind.set(time.as_secs_f64());
    }
}

/// One watch; counted when it is dropped, as hung up unless it was ended otherwise.
#[derive(Debug)]
pub(crate) struct WatchCount {
    metrics: WatchMetrics,
    transport: &'static str,
    result: &'static str,
}

impl WatchCount {
    pub(crate) fn sent(&self, messages: usize) {
        self.metrics.messages.inc_by(messages as u64);
    }

    pub(crate) fn end(&mut self, result: &'static str) {
        self.result = result;
    }
}

impl Drop for WatchCount {
    fn drop(&mut self) {
        self.metrics.watchers.with_label_values(&[self.transport]).dec();
        self.metrics.ended.with_label_values(&[self.result]).inc();
    }
}

const VALID: &str = "the names and labels are constants";
const ONCE: &str = "each name is registered once";

impl Metrics {
    pub(crate) fn new() -> Self {
        let requests = IntCounterVec::new(
            Opts::new("http_requests_total", "Requests that were answered."),
            &["route", "method", "status"],
        )
        .expect(VALID);
        let duration = HistogramVec::new(
            HistogramOpts::new("http_request_duration_seconds", "Time from request to answer.")
                .buckets(BUCKETS.to_vec()),
            &["route", "method", "status"],
        )
        .expect(VALID);
        let in_flight =
            IntGauge::new("http_requests_in_flight", "Requests that are being worked on.")
                .expect(VALID);
        let refused = IntCounterVec::new(
            Opts::new("pve_api_refused_total", "Callers who came too often, by how."),
            &["reason"],
        )
        .expect(VALID);
        for reason in ["rate", "wrong_tokens"] {
            refused.with_label_values(&[reason]);
        }
        let registry = Registry::new();
        registry.register(Box::new(refused.clone())).expect(ONCE);
        registry.register(Box::new(requests.clone())).expect(ONCE);
        registry.register(Box::new(duration.clone())).expect(ONCE);
        registry.register(Box::new(in_flight.clone())).expect(ONCE);
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process)).expect(ONCE);
        let (uploads, images) = (UploadMetrics::new(&registry), ImageMetrics::new(&registry));
        let watch = WatchMetrics::new(&registry);
        let resumable = ResumableMetrics::new(&registry);
        Self { registry, requests, duration, in_flight, refused, uploads, resumable, images, watch }
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A request is in flight until this is dropped.
    pub(crate) fn begin(&self) -> InFlight {
        InFlight::new(&self.in_flight)
    }

    pub(crate) fn answered(&self, route: &str, method: &str, status: &str, after: Duration) {
        let labels = [route, method, status];
        self.duration.with_label_values(&labels).observe(after.as_secs_f64());
        self.requests.with_label_values(&labels).inc();
    }

    /// Its caller hung up before there was an answer.
    pub(crate) fn left(&self, route: &str, method: &str) {
        self.requests.with_label_values(&[route, method, "hung_up"]).inc();
    }

    /// Somebody was told to come less often.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.with_label_values(&[reason]).inc();
    }
}

const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 15.0];

/// `GET /metrics`
pub(crate) async fn scrape(State(metrics): State<Metrics>) -> Response {
    let mut text = Vec::new();
    TextEncoder::new()
        .encode(&metrics.registry.gather(), &mut text)
        .expect("writing to memory does not fail");
    ([("content-type", prometheus::TEXT_FORMAT)], text).into_response()
}

/// A request that is being worked on.
#[derive(Debug)]
pub(crate) struct InFlight(IntGauge);

impl InFlight {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A method's name, if it is a known one: callers may invent others.
pub(crate) fn method(method: &Method) -> &'static str {
    const KNOWN: [(&Method, &str); 7] = [
        (&Method::GET, "GET"),
        (&Method::HEAD, "HEAD"),
        (&Method::POST, "POST"),
        (&Method::PUT, "PUT"),
        (&Method::PATCH, "PATCH"),
        (&Method::DELETE, "DELETE"),
        (&Method::OPTIONS, "OPTIONS"),
    ];
    KNOWN.iter().find(|(known, _)| *known == method).map_or("other", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prometheus::proto::MetricFamily;

    use super::*;

    #[test]
    fn the_metrics_are_those_of_the_table() {
        let metrics = Metrics::new();
        metrics.answered("/", "GET", "200", Duration::from_millis(1));
        ConnectionMetrics::default().register(metrics.registry());
        let gathered = metrics.registry.gather();
        let ours = |name: &str| name.starts_with("http_") || name.starts_with("pve_api_");
        let exported: BTreeSet<&str> =
            gathered.iter().map(MetricFamily::name).filter(|name| ours(name)).collect();

        let table = include_str!("../../docs/metrics.md");
        let names = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let documented: BTreeSet<&str> = names.filter(|name| ours(name)).collect();
        assert_eq!(exported, documented);
    }
}
