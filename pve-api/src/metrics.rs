//! What the API tells Prometheus about its requests; handlers know nothing of it.

use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};
use tokio::time::Instant;

/// The numbers of one router. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    duration: HistogramVec,
    in_flight: IntGauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let valid = "the names and labels are constants";
        let requests = IntCounterVec::new(
            Opts::new("http_requests_total", "Requests that were answered."),
            &["route", "method", "status"],
        )
        .expect(valid);
        let duration = HistogramVec::new(
            HistogramOpts::new("http_request_duration_seconds", "Time from request to answer.")
                .buckets(BUCKETS.to_vec()),
            &["route", "method"],
        )
        .expect(valid);
        let in_flight =
            IntGauge::new("http_requests_in_flight", "Requests that are being worked on.")
                .expect(valid);
        let registry = Registry::new();
        let once = "each name is registered once";
        registry.register(Box::new(requests.clone())).expect(once);
        registry.register(Box::new(duration.clone())).expect(once);
        registry.register(Box::new(in_flight.clone())).expect(once);
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process)).expect(once);
        Self { registry, requests, duration, in_flight }
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

struct InFlight(IntGauge);

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
