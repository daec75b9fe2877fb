//! What the API tells Prometheus about its requests; handlers know nothing of it.

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};
use tokio::time::Instant;

use crate::error::ApiError;

/// The numbers of one router. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    duration: HistogramVec,
    in_flight: IntGauge,
    pub(crate) uploads: UploadMetrics,
    pub(crate) resumable: ResumableMetrics,
    pub(crate) images: ImageMetrics,
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
            &["route", "method"],
        )
        .expect(VALID);
        let in_flight =
            IntGauge::new("http_requests_in_flight", "Requests that are being worked on.")
                .expect(VALID);
        let registry = Registry::new();
        registry.register(Box::new(requests.clone())).expect(ONCE);
        registry.register(Box::new(duration.clone())).expect(ONCE);
        registry.register(Box::new(in_flight.clone())).expect(ONCE);
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process)).expect(ONCE);
        let (uploads, images) = (UploadMetrics::new(&registry), ImageMetrics::new(&registry));
        let resumable = ResumableMetrics::new(&registry);
        Self { registry, requests, duration, in_flight, uploads, resumable, images }
    }
}

const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 15.0];

/// Counts a request around its handler. A caller who hangs up is not counted, but is no longer
/// in flight either.
pub(crate) async fn observe(
    State(metrics): State<Metrics>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    // Paths of callers' invention would make a series each.
    let route = path.map_or("unmatched", MatchedPath::as_str).to_owned();
    let method = method(request.method());
    let _in_flight = InFlight::new(&metrics.in_flight);
    let start = Instant::now();

    let response = next.run(request).await;

    let seconds = start.elapsed().as_secs_f64();
    metrics.duration.with_label_values(&[route.as_str(), method]).observe(seconds);
    let status = response.status();
    metrics.requests.with_label_values(&[route.as_str(), method, status.as_str()]).inc();
    tracing::debug!(route, status = status.as_u16(), seconds, "Request answered");
    response
}

/// `GET /metrics`
pub(crate) async fn scrape(State(metrics): State<Metrics>) -> Response {
    let mut text = Vec::new();
    TextEncoder::new()
        .encode(&metrics.registry.gather(), &mut text)
        .expect("writing to memory does not fail");
    ([("content-type", prometheus::TEXT_FORMAT)], text).into_response()
}

/// Counts until it is dropped.
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
fn method(method: &Method) -> &'static str {
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
        metrics.requests.with_label_values(&["/", "GET", "200"]).inc();
        metrics.duration.with_label_values(&["/", "GET"]).observe(0.1);
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
