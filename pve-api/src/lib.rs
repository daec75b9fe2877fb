//! Thin HTTP API over the tables and the image store; never talks to PVE.
//!
//! ```text
//! request --guard--> --once--> --Query, Id, JsonBody--> handler --schema--> rows --view--> envelope
//!          (token)   (its key)         (parsed)                      (what is shown)
//! ```
//!
//! - *envelope*: what every answer below `/api/v1` is wrapped in, errors too.
//! - *view*: what is shown of a row, field by field, so that a column that is added later is
//!   not shown by accident.
//! - *stale*: nobody has confirmed the row for a while, so it tells of the past.
//! - *trail*: the record of who changed what, in the transaction of the change.
//!
//! What is wanted goes into rows; the operator reads them and talks to PVE. Images come in through
//! `POST /api/v1/templates/upload` and go out, to nodes with an address of their own, below
//! `/images`.

mod access;
mod admission;
pub mod args;
mod audit_log;
mod auth;
mod body;
mod buckets;
mod change;
mod clusters;
mod connection;
mod cors;
mod descriptors;
mod door;
mod envelope;
mod error;
mod health;
mod idempotency;
mod image_collector;
mod images;
mod linger;
pub mod logging;
mod metrics;
mod nodes;
mod openapi;
mod overview;
mod path;
mod patience;
mod protect;
mod query;
mod range;
mod read;
mod remote;
mod request_id;
mod routes;
mod server;
mod storages;
mod templates;
mod text;
mod throttle;
mod tls;
pub mod token_command;
mod tokens;
mod trail;
mod user_columns;
mod validity;
mod view;
mod vms;
mod watch;

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::{Router, middleware, routing::get};
use ipnet::IpNet;
use schema::Db;
use schema::image_url::ImageUrlKey;
use schema::images::ImageStore;
use schema::secret::SecretKeys;
use schema::token::Scope;
use tokio::sync::OnceCell;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use auth::Auth;
pub use connection::Connections;
pub use door::Door;
pub use server::{ServeError, Server, first_token, run};
pub use tls::TlsError;

/// What can be chosen about the API. Start from the default and change what you need.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// A row that nobody has confirmed for longer is shown as stale. Several times the
    /// operator's `--usage-interval`, which is how often rows are confirmed.
    pub stale_after: Duration,
    /// Whether callers must show a token; they must.
    pub auth: Auth,
    /// Where uploads go; without one, uploads and images are a 503.
    pub images: Option<ImageStore>,
    /// The largest file that is taken.
    pub max_upload_bytes: u64,
    /// How many uploads may come in at once.
    pub max_uploads: usize,
    /// How long a resumable upload waits for its next bytes.
    pub resumable_expires: Duration,
    /// What tokens of clusters are sealed with before they are stored; none stores them as they are.
    pub secret_keys: Option<SecretKeys>,
    /// What the addresses of images are signed with; none is a key that the database keeps.
    pub image_key: Option<ImageUrlKey>,
    /// Bytes a second for all images that nodes fetch; none is no limit.
    pub image_rate: Option<NonZeroU64>,
    /// The same for each cluster.
    pub image_rate_per_cluster: Option<NonZeroU64>,
    /// How many may watch sync tasks at once.
    pub max_watchers: usize,
    /// What goes on without its caller: uploads whose bytes are in. Wait for it before the end.
    pub tasks: TaskTracker,
    /// Requests a second for each token; none is no limit.
    pub rate_limit: Option<NonZeroU32>,
    /// Whose word on where a request comes from is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whose pages may use the API from within a browser.
    pub cors_origins: Vec<HeaderValue>,
    /// Whether answers go over TLS.
    pub tls: bool,
    /// The connections that requests come over; those of a [`Door`], if one serves this API.
    pub connections: Connections,
    /// Cancelled when the process is to stop: what would go on for ever ends then.
    pub stopping: CancellationToken,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stale_after: Duration::from_mins(5),
            auth: Auth::Tokens,
            images: None,
            max_upload_bytes: 50 << 30,
            max_uploads: 4,
            resumable_expires: Duration::from_hours(24),
            secret_keys: None,
            image_key: None,
            image_rate: None,
            image_rate_per_cluster: None,
            max_watchers: 2000,
            tasks: TaskTracker::new(),
            rate_limit: None,
            trusted_proxies: Vec::new(),
            cors_origins: Vec::new(),
            tls: false,
            connections: Connections::default(),
            stopping: CancellationToken::new(),
        }
    }
}

/// What every handler gets.
#[derive(Clone, Debug)]
struct Api {
    db: Db,
    settings: Settings,
    metrics: metrics::Metrics,
    uploads: Option<templates::Uploads>,
    throttle: throttle::Throttle,
    admission: admission::Admission,
    image_key: Arc<OnceCell<ImageUrlKey>>,
    watch: watch::Watch,
}

/// The API, with `/livez`, `/readyz` and `/metrics` beside it.
///
/// It answers while the database is away, with 503 for whatever needs it. Each router counts
/// its own requests.
pub fn router(db: Db) -> Router {
    router_with(db, Settings::default())
}

/// [`router`], with settings.
///
/// Serve it through a [`Door`], so that the record of changes has the address of callers.
pub fn router_with(db: Db, settings: Settings) -> Router {
    service(db, settings).0
}

/// [`router_with`], and what has to be done beside it for as long as it is served.
pub fn service(db: Db, settings: Settings) -> (Router, Chores) {
    let metrics = metrics::Metrics::new();
    settings.connections.register(metrics.registry());
    let access = access::Access {
        metrics: metrics.clone(),
        connections: settings.connections.clone(),
        trusted_proxies: settings.trusted_proxies.clone().into(),
    };
    let privacy = if settings.tls { protect::Privacy::Tls } else { protect::Privacy::Open };
    let origins: Arc<[HeaderValue]> = settings.cors_origins.clone().into();
    let uploads = settings.images.clone().map(|store| {
        templates::Uploads::new(store, settings.max_upload_bytes, settings.max_uploads)
    });
    let api = Api {
        db: db.clone(),
        metrics: metrics.clone(),
        uploads,
        throttle: throttle::Throttle::new(settings.image_rate, settings.image_rate_per_cluster),
        admission: admission::Admission::new(settings.rate_limit),
        image_key: Arc::default(),
        watch: watch::Watch::new(db.clone(), &settings, metrics.watch.clone()),
        settings,
    };
    let (v1, scopes) = v1().finish();
    let once = middleware::from_fn_with_state(api.clone(), idempotency::once);
    let guard = middleware::from_fn_with_state((api.clone(), scopes), auth::guard);
    let speak = middleware::from_fn(templates::resumable::speak);
    let chores = Chores(api.clone());
    let router = Router::new()
        .nest(
            routes::BASE,
            v1.route_layer(once)
                .route_layer(guard)
                .route_layer(speak)
                .route_layer(middleware::from_fn(patience::bound))
                .with_state(api.clone()),
        )
        .route("/images/{prefix}/{file}", get(images::serve).with_state(api))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz).with_state(db))
        .route("/metrics", get(metrics::scrape).with_state(metrics))
        .route("/openapi.json", get(openapi::serve))
        .route("/docs", get(openapi::page))
        .route("/docs/docs.js", get(openapi::script))
        .route("/docs/docs.css", get(openapi::style))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::no_such_method)
        .layer(middleware::from_fn_with_state(origins, cors::share))
        .layer(middleware::from_fn_with_state(privacy, protect::headers))
        .layer(middleware::from_fn_with_state(access, access::tell))
        .layer(middleware::from_fn(request_id::carry));
    (router, chores)
}

/// What an API does besides answering: it deletes what nobody needs, and finishes uploads that were
/// left.
#[derive(Debug)]
#[must_use = "somebody has to run them"]
pub struct Chores(Api);

impl Chores {
    /// Runs for as long as it is polled. Dropping it is safe.
    pub async fn run(self) {
        let Self(api) = self;
        let images = async {
            if let Some(uploads) = &api.uploads {
                let collect = image_collector::run(api.db.clone(), uploads.store.clone());
                tokio::join!(collect, templates::resumable::sweep::run(api.clone()));
            }
        };
        tokio::join!(idempotency::forget_old(api.db.clone()), images);
    }
}

/// Everything below `/api/v1`.
fn v1() -> routes::Routes {
    let routes = routes::Routes::new()
        .get(Scope::Admin, "/audit", "List audit events", audit_log::list)
        .get(Scope::Read, "/clusters", "List clusters", clusters::list)
        .post(Scope::Admin, "/clusters", "Create cluster", clusters::change::create)
        .get(Scope::Read, "/clusters/{id}", "Show cluster", clusters::show)
        .put(Scope::Admin, "/clusters/{id}", "Replace cluster", clusters::change::replace)
        .delete(Scope::Admin, "/clusters/{id}", "Delete cluster", clusters::change::delete)
        .get(Scope::Read, "/clusters/{id}/status", "Show cluster status", clusters::show_status)
        .get(Scope::Read, "/nodes", "List nodes", nodes::list)
        .get(Scope::Read, "/nodes/{id}", "Show node", nodes::show)
        .patch(Scope::Write, "/nodes/{id}", "Change node", user_columns::patch_node)
        .get(Scope::Read, "/overview", "Show overview", overview::show)
        .get(Scope::Read, "/storages", "List storages", storages::list)
        .get(Scope::Read, "/storages/{id}", "Show storage", storages::show)
        .get(Scope::Admin, "/tokens", "List tokens", tokens::list)
        .post(Scope::Admin, "/tokens", "Create token", tokens::create)
        .delete(Scope::Admin, "/tokens/{id}", "Revoke token", tokens::revoke)
        .get(Scope::Read, "/vms", "List VMs", vms::list)
        .get(Scope::Read, "/vms/{id}", "Show VM", vms::show)
        .patch(Scope::Write, "/vms/{id}", "Change VM", user_columns::patch_guest)
        .get(Scope::Read, "/vms/{id}/ips", "List VM addresses", vms::list_addresses);
    templates::routes(routes)
}
