//! `pve-api serve`: listens, waits for the database, serves, drains.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use schema::image_url::ImageUrlKey;
use schema::images::{ImageError, ImageStore};
use schema::secret::{SecretError, SecretKeys};
use schema::{Conn, Db, DbError, token};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::args::ServeArgs;
use crate::{Auth, Chores, Door, Settings, TlsError, service};

/// Why the API could not be served. Each of them needs a person.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    #[error(
        "--listen {0} is not a loopback address, and --auth off lets whoever reaches it do \
         everything: leave --auth off away, so that callers need a token, or listen on for example \
         127.0.0.1:8080"
    )]
    NotLoopback(SocketAddr),
    #[error("--images")]
    Images(#[from] ImageError),
    #[error("--secret-key-file")]
    Key(#[from] SecretError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Database(#[from] DbError),
}

/// A server that has its port, so that nothing a person got wrong with it is left.
#[derive(Debug)]
pub struct Server {
    db: Db,
    door: Door,
    router: axum::Router,
    chores: Chores,
    auth: Auth,
    tasks: TaskTracker,
    stopping: CancellationToken,
    drain: Duration,
}

/// Serves the API until `ended` resolves, then answers what is in flight.
///
/// # Errors
///
/// [`ServeError`]: what a person must mend.
pub async fn run(args: &ServeArgs, ended: impl Future<Output = ()>) -> Result<(), ServeError> {
    let server = Server::bind(args).await?;
    tracing::info!(address = %server.address(), "The API listens");
    server.serve(ended).await
}

impl Server {
    /// Takes the port. From now on callers wait in line for [`Server::serve`].
    ///
    /// # Errors
    ///
    /// [`ServeError`]: what was typed can not be used, and why.
    pub async fn bind(args: &ServeArgs) -> Result<Self, ServeError> {
        let db = Db::open(&args.database.database_url)?;
        if args.auth == Auth::Off && !args.listen.ip().is_loopback() {
            return Err(ServeError::NotLoopback(args.listen));
        }
        let mut settings = settings(args)?;
        let door = Door::bind(args.listen, &args.door).await?;
        door.furnish(&mut settings);
        let tasks = settings.tasks.clone();
        let stopping = settings.stopping.clone();
        let (router, chores) = service(db.clone(), settings);
        Ok(Self {
            chores,
            router,
            db,
            door,
            auth: args.auth,
            tasks,
            stopping,
            drain: args.door.drain_timeout,
        })
    }

    /// The address with the port that was given, if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.door.address()
    }

    /// Serves until `ended` resolves. While the database is away it answers 503 and waits.
    ///
    /// # Errors
    ///
    /// [`ServeError::Database`] once the database says that its tables are missing, or too new.
    pub async fn serve(self, ended: impl Future<Output = ()>) -> Result<(), ServeError> {
        let stop = self.stopping;
        let drained = self.door.serve(self.router, stop.clone());
        let tasks = self.tasks;
        let drained = async {
            drained.await;
            // Uploads whose callers are gone.
            tasks.close();
            tasks.wait().await;
        };
        let fit_until_ended = async {
            tokio::pin!(ended);
            tokio::select! {
                fit = fit(&self.db) => fit?,
                () = &mut ended => return Ok(()),
            }
            if self.auth == Auth::Tokens {
                first_token(&self.db).await;
            }
            tracing::info!("The API is ready");
            tokio::select! {
                () = self.chores.run() => {}
                () = &mut ended => {}
            }
            Ok::<_, DbError>(())
        };

        tokio::pin!(drained);
        let outcome = tokio::select! {
            outcome = fit_until_ended => outcome,
            () = &mut drained => return Ok(()),
        };
        stop.cancel();
        if outcome.is_ok() {
            tracing::info!("Stopping");
        }
        if tokio::time::timeout(self.drain, drained).await.is_err() {
            tracing::warn!("Some callers took too long and were left");
        }
        self.db.close();
        Ok(outcome?)
    }
}

/// What the flags come to.
fn settings(args: &ServeArgs) -> Result<Settings, ServeError> {
    let mut secret_keys = None;
    let image_key = match &args.secret_key_file {
        None => None,
        Some(file) => {
            secret_keys = Some(SecretKeys::from_file(file)?);
            let bytes = std::fs::read(file).map_err(|source| SecretError::KeyFile {
                path: file.display().to_string(),
                source,
            })?;
            Some(ImageUrlKey::derive(&bytes))
        }
    };
    Ok(Settings {
        stale_after: args.stale_after,
        auth: args.auth,
        images: args.images.as_deref().map(ImageStore::open).transpose()?,
        max_upload_bytes: args.max_upload_bytes.get(),
        max_uploads: args.max_uploads.get(),
        resumable_expires: args.resumable_expires,
        secret_keys,
        image_key,
        image_rate: args.image_rate,
        image_rate_per_cluster: args.image_rate_per_cluster,
        max_watchers: args.max_watchers.get(),
        ..Settings::default()
    })
}

/// Makes a token for an administrator if there never was any, and prints it to stderr, this once.
///
/// Of several replicas that start together one does. A database that takes no changes is no error:
/// somebody else makes tokens there.
pub async fn first_token(db: &Db) {
    match db.write(async |conn: &mut Conn| token::create_first(conn).await).await {
        Ok(Some(token)) => eprintln!(
            "There was no token yet. This one is for an administrator, and is shown this once:\n\n    \
             {}\n\nMake others with `pve-api token create`, then `pve-api token revoke --name {}`.",
            token.expose(),
            token::FIRST
        ),
        Ok(None) | Err(DbError::Conflict { .. }) => {}
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "No first token could be made");
        }
    }
}

/// Waits until the database answers; then its tables must be those of this program.
async fn fit(db: &Db) -> Result<(), DbError> {
    let mut pause = Duration::from_millis(500);
    loop {
        match db.check().await {
            Err(error) if error.is_transient() => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "Waiting for the database");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(10));
            }
            outcome => return outcome,
        }
    }
}
