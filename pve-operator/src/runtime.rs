//! Starts the operator's parts in order, and stops them in the opposite one.

use std::{future::Future, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use informer::Backoff;
use pve_api::Door;
use schema::{Db, DbError, image_url::ImageUrlKey, images::ImageStore, secret::SecretKeys};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::{self, Readiness},
    args::{DatabaseArgs, FirstUse, RunArgs},
    exporter::Exporter,
    inventory::writer::FLUSH,
    lease::{Keeper, LEAVE},
    metrics::Metrics,
    pipeline::{Pace, Shared},
    pve,
    supervisor::Supervisor,
    templates::{self, Clusters},
};

/// Writers have their time whatever callers are given, and a little to find out that they are to stop.
const SPARE: Duration = Duration::from_secs(1);

/// A running operator.
#[derive(Debug)]
pub struct Operator {
    /// Where `/livez`, `/readyz` and `/metrics` are.
    pub admin: SocketAddr,
    /// Where the API is, if it was asked for.
    pub api: Option<SocketAddr>,
    pub metrics: Metrics,
    readiness: Readiness,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// How long a stop waits.
    drain: Duration,
}

impl Operator {
    /// Checks what can be checked, then starts everything.
    ///
    /// While the database is away the operator waits for it, alive and not ready.
    ///
    /// # Errors
    ///
    /// What a person must mend: a URL, key or address that cannot be used, tables that are missing or
    /// too new, a database that takes no changes.
    pub async fn start(args: &RunArgs) -> anyhow::Result<Self> {
        let (operator, mirroring) = Self::listen(args).await?;
        if let Err(error) = mirroring.await {
            operator.stop().await;
            return Err(error);
        }
        Ok(operator)
    }

    /// Checks what can be checked without the database, and answers whoever asks; the rest of the
    /// start waits for the database.
    async fn listen(
        args: &RunArgs,
    ) -> anyhow::Result<(Self, impl Future<Output = anyhow::Result<()>>)> {
        let db = Db::open(&args.database.database_url)?;
        let keys = args.secret_key_file.as_deref().map(read_keys).transpose()?;
        if let Some(api) = args.api
            && args.api_auth == pve_api::Auth::Off
            && !api.ip().is_loopback()
        {
            bail!(
                "--api {api} is not a loopback address, and --api-auth off lets whoever reaches it do everything: leave --api-auth off away, so that callers need a token"
            );
        }
        let image_key = image_key(args)?;
        let templates = template_settings(args, image_key.clone())?;
        let admin = listen("--listen", args.listen).await?;
        let api = match args.api {
            Some(address) => Some(
                Door::bind(address, &args.door)
                    .await
                    .with_context(|| format!("--api {address}"))?,
            ),
            None => None,
        };

        let (metrics, readiness) = (Metrics::new(), Readiness::default());
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let operator = Self {
            admin: admin.local_addr()?,
            api: api.as_ref().map(Door::address),
            metrics: metrics.clone(),
            readiness: readiness.clone(),
            stop: stop.clone(),
            tasks: tasks.clone(),
            drain: args.door.drain_timeout.max(FLUSH + LEAVE + SPARE),
        };
        let clusters = Clusters::default();
        let exporter = Exporter::new(clusters.clone(), args.poll_interval);
        serve(&tasks, &stop, admin, admin::router(metrics.clone(), exporter, readiness.clone()));
        let chores = api.map(|api| {
            let mut settings = pve_api::Settings::default();
            settings.auth = args.api_auth;
            settings.tasks = tasks.clone();
            settings.stopping = stop.clone();
            settings.images.clone_from(&templates.images);
            settings.max_upload_bytes = args.max_upload_bytes.get();
            settings.image_key.clone_from(&image_key);
            settings.secret_keys = keys.as_deref().cloned();
            api.furnish(&mut settings);
            let (router, chores) = pve_api::service(db.clone(), settings);
            tasks.spawn(api.serve(router, stop.clone()));
            chores
        });
        let mirroring = async move {
            database(&db, args.migrate).await?;
            let keeper = keeper(args, &metrics)?;
            if let Some(chores) = chores {
                let stopped = stop.clone();
                tasks.spawn(async move {
                    tokio::select! {
                        () = chores.run() => {}
                        () = stopped.cancelled() => {}
                    }
                });
                if args.api_auth == pve_api::Auth::Tokens {
                    pve_api::first_token(&db).await;
                }
            }
            tasks.spawn(templates::run(
                db.clone(),
                clusters.clone(),
                templates,
                metrics.clone(),
                stop.clone(),
            ));
            let shared = Shared {
                db,
                metrics,
                clusters,
                pace: Pace {
                    poll: args.poll_interval,
                    full_sync: args.full_sync_interval,
                    details: args.details_interval,
                    usage: args.usage_interval,
                },
                first_use: match args.tls_first_use {
                    FirstUse::Refuse => pve::FirstUse::Refuse,
                    FirstUse::Pin => pve::FirstUse::Pin,
                },
            };
            let leases = keeper.leases();
            let supervisor =
                Supervisor::new(shared, leases, keys, readiness, args.cluster_check_interval);
            follow(&tasks, supervisor, keeper, stop);
            Ok(())
        };
        Ok((operator, mirroring))
    }

    pub fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// Stops polling, writes what is left, and returns when nothing runs any more, or once callers
    /// have had the time that they are given.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        if timeout(self.drain, self.tasks.wait()).await.is_err() {
            tracing::warn!("Some callers took too long and were left");
        }
    }
}

/// Runs the operator until `ended` resolves.
pub async fn run(args: &RunArgs, ended: impl Future<Output = ()>) -> anyhow::Result<()> {
    let (operator, mirroring) = Operator::listen(args).await?;
    let running = async {
        mirroring.await?;
        tracing::info!(admin = %operator.admin, api = operator.api.map(|it| it.to_string()), "The operator is running");
        std::future::pending::<anyhow::Result<()>>().await
    };
    let outcome = tokio::select! {
        outcome = running => outcome,
        () = ended => {
            tracing::info!("Stopping");
            Ok(())
        }
    };
    operator.stop().await;
    outcome
}

/// Waits until the database answers; then it must be usable.
async fn database(db: &Db, migrate: bool) -> Result<(), DbError> {
    let mut pause = Duration::from_millis(500);
    loop {
        let outcome = async {
            if migrate {
                db.migrate().await?;
            }
            db.check_writable().await
        };
        match outcome.await {
            Err(error) if error.is_transient() => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "Waiting for the database"
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(10));
            }
            outcome => return outcome,
        }
    }
}

fn keeper(args: &RunArgs, metrics: &Metrics) -> anyhow::Result<Keeper> {
    let identity = args.identity.clone().unwrap_or_else(host_name);
    // A pool of its own: a renewal does not wait for who writes.
    let db = Db::open(&args.database.database_url)?;
    let keeper = Keeper::new(db, &identity, args.lease_ttl, metrics.registry())?;
    tracing::debug!(holder = %keeper.name(), "Known to other operators");
    Ok(keeper)
}

/// Follows the clusters that are ours; leases are kept until nothing runs any more that needs one.
fn follow(tasks: &TaskTracker, supervisor: Supervisor, keeper: Keeper, stop: CancellationToken) {
    let all_stopped = CancellationToken::new();
    tasks.spawn(keeper.run(all_stopped.clone()));
    tasks.spawn(async move {
        // Also if it panics: then others are to follow them.
        let _stopped = all_stopped.drop_guard();
        supervisor.run(stop).await;
    });
}

/// How this machine, or pod, is called.
fn host_name() -> String {
    let known = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let known = known.or_else(|| std::env::var("HOSTNAME").ok());
    known
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "operator".to_owned())
}

/// What the addresses of images are signed with; None takes the key that the database keeps.
fn image_key(args: &RunArgs) -> anyhow::Result<Option<ImageUrlKey>> {
    let secret = args.secret_key_file.as_deref().map(std::fs::read).transpose()?;
    Ok(secret.as_deref().map(ImageUrlKey::derive))
}

fn template_settings(
    args: &RunArgs,
    key: Option<ImageUrlKey>,
) -> anyhow::Result<templates::Settings> {
    let it = &args.templates;
    // With the API in this process images come in here; else they come in elsewhere.
    let open = if args.api.is_some() { ImageStore::open } else { ImageStore::open_read_only };
    let images = it.images.as_deref().map(open).transpose().context("--images")?;
    Ok(templates::Settings {
        images,
        image_address: it.image_base_url.clone().map(|base| templates::ImageAddress {
            base,
            key,
            verify_certificates: !it.image_tls_unverified,
            lifetime: Duration::from_hours(24),
        }),
        vmids: i64::from(it.vmid_range.first)..i64::from(it.vmid_range.last) + 1,
        transfers: templates::slots::Limits {
            per_node: it.transfers_per_node,
            per_cluster: it.transfers_per_cluster,
            per_operator: it.transfers_per_operator,
        },
        look: it.task_interval,
        patience: it.answer_patience,
        backoff: Backoff::new(it.retry_base, it.retry_max),
        tries: it.retry_tries,
    })
}

fn read_keys(file: &Path) -> anyhow::Result<Arc<SecretKeys>> {
    let keys = SecretKeys::from_file(file)
        .with_context(|| format!("--secret-key-file {}", file.display()))?;
    Ok(Arc::new(keys))
}

async fn listen(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot listen on {address}: choose another address with {flag}, or stop what uses it"
        )
    })
}

fn serve(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    listener: TcpListener,
    router: axum::Router,
) {
    let stop = stop.clone().cancelled_owned();
    tasks.spawn(async move {
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
            tracing::error!(error = &error as &dyn std::error::Error, "A listener ended");
        }
    });
}

/// Creates or upgrades the tables.
pub async fn migrate(args: &DatabaseArgs) -> anyhow::Result<()> {
    let db = Db::open(&args.database_url)?;
    let applied = db.migrate().await?;
    if applied.is_empty() {
        println!("The tables are up to date.");
    }
    for name in applied {
        println!("Applied {name}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stop_leaves_callers_that_take_too_long() {
        let tasks = TaskTracker::new();
        tasks.spawn(std::future::pending::<()>());
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let operator = Operator {
            admin: nowhere,
            api: None,
            metrics: Metrics::new(),
            readiness: Readiness::default(),
            stop: CancellationToken::new(),
            tasks,
            drain: Duration::from_secs(17),
        };

        let stopped = timeout(Duration::from_secs(20), operator.stop()).await;

        assert!(stopped.is_ok());
    }
}
