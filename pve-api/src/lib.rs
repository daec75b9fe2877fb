//! Thin HTTP API over the mirror's tables; never talks to PVE.
//!
//! ```text
//! request --Query, Id--> handler --schema--> rows --view--> envelope
//!            (parsed)                        (what is shown)
//! ```
//!
//! - *envelope*: what every answer below `/api/v1` is wrapped in, errors too.
//! - *view*: what is shown of a row, field by field, so that a column that is added later is
//!   not shown by accident.
//! - *stale*: nobody has confirmed the row for a while, so it tells of the past.

pub mod args;
mod clusters;
mod envelope;
mod error;
mod health;
pub mod logging;
mod metrics;
mod nodes;
mod path;
mod query;
mod read;
mod request_id;
mod server;
mod storages;
mod view;
mod vms;

use std::time::Duration;

use axum::{Router, middleware, routing::get};
use schema::Db;

pub use server::{ServeError, Server, run};

/// What can be chosen about the API.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// A row that nobody has confirmed for longer is shown as stale. Several times the
    /// operator's `--usage-interval`, which is how often rows are confirmed.
    pub stale_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { stale_after: Duration::from_mins(5) }
    }
}

/// What every handler gets.
#[derive(Clone, Debug)]
struct Api {
    db: Db,
    settings: Settings,
}

/// The API, with `/livez`, `/readyz` and `/metrics` beside it.
///
/// It answers while the database is away, with 503 for whatever needs it. Each router counts
/// its own requests.
pub fn router(db: Db) -> Router {
    router_with(db, Settings::default())
}

/// [`router`], with settings.
pub fn router_with(db: Db, settings: Settings) -> Router {
    let metrics = metrics::Metrics::new();
    let v1 = Router::new()
        .route("/clusters/{id}/status", get(clusters::show_status))
        .route("/nodes", get(nodes::list))
        .route("/nodes/{id}", get(nodes::show))
        .route("/storages", get(storages::list))
        .route("/storages/{id}", get(storages::show))
        .route("/vms", get(vms::list))
        .route("/vms/{id}", get(vms::show))
        .route("/vms/{id}/ips", get(vms::list_addresses))
        .with_state(Api { db: db.clone(), settings });
    Router::new()
        .nest("/api/v1", v1)
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz).with_state(db))
        .route("/metrics", get(metrics::scrape).with_state(metrics.clone()))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::no_such_method)
        .layer(middleware::from_fn_with_state(metrics, metrics::observe))
        .layer(middleware::from_fn(request_id::carry))
}
