//! `/livez`, `/readyz`, `/metrics` and `/metrics/inventory` for Kubernetes and Prometheus.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};

use crate::{
    exporter::{self, Exporter},
    metrics::Metrics,
};

/// Prometheus' text format.
pub const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether the operator does its work: the database answers and the clusters are known.
///
/// Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The routes of the admin port.
pub fn router(metrics: Metrics, exporter: Exporter, readiness: Readiness) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(scrape).with_state(metrics))
        .route("/metrics/inventory", get(exporter::scrape).with_state(exporter))
}

async fn readyz(State(readiness): State<Readiness>) -> impl IntoResponse {
    if readiness.is_ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "waiting for the database\n")
    }
}

async fn scrape(State(metrics): State<Metrics>) -> impl IntoResponse {
    ([("content-type", EXPOSITION)], metrics.render())
}
