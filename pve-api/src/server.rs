//! `pve-api serve`: listens, waits for the database, serves, drains.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use schema::{Db, DbError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::args::ServeArgs;
use crate::router_with;

/// Why the API could not be served. Each of them needs a person.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    #[error(
        "--listen {0} is not a loopback address: the API has no authentication yet, so it is \
         served on loopback only; write for example 127.0.0.1:8080"
    )]
    NotLoopback(SocketAddr),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Database(#[from] DbError),
    #[error("the server stopped")]
    Stopped(#[source] io::Error),
}

/// A server that has its port, so that nothing a person got wrong with it is left.
#[derive(Debug)]
pub struct Server {
    db: Db,
    listener: TcpListener,
    address: SocketAddr,
    router: axum::Router,
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
    /// [`ServeError::NotLoopback`], [`ServeError::Listen`], or [`ServeError::Database`] for a
    /// URL that cannot be used.
    pub async fn bind(args: &ServeArgs) -> Result<Self, ServeError> {
        let db = Db::open(&args.database_url)?;
        if !args.listen.ip().is_loopback() {
            return Err(ServeError::NotLoopback(args.listen));
        }
        let refused = |source| ServeError::Listen { address: args.listen, source };
        let listener = TcpListener::bind(args.listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Self { router: router_with(db.clone(), args.settings()), db, listener, address })
    }

    /// The address with the port that was given, if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `ended` resolves. While the database is away it answers 503 and waits.
    ///
    /// # Errors
    ///
    /// [`ServeError::Database`] once the database says that its tables are missing, or too new.
    pub async fn serve(self, ended: impl Future<Output = ()>) -> Result<(), ServeError> {
        let stop = CancellationToken::new();
        let drained = axum::serve(self.listener, self.router)
            .with_graceful_shutdown(stop.clone().cancelled_owned());
        let drained = async { drained.await.map_err(ServeError::Stopped) };
        let fit_until_ended = async {
            tokio::pin!(ended);
            tokio::select! {
                fit = fit(&self.db) => match fit {
                    Ok(()) => tracing::info!("The API is ready"),
                    Err(error) => return Err(error),
                },
                () = &mut ended => return Ok(()),
            }
            ended.await;
            Ok(())
        };

        tokio::pin!(drained);
        let outcome = tokio::select! {
            outcome = fit_until_ended => outcome,
            stopped = &mut drained => return stopped,
        };
        stop.cancel();
        if outcome.is_ok() {
            tracing::info!("Stopping");
        }
        if tokio::time::timeout(LONGEST_DRAIN, drained).await.is_err() {
            tracing::warn!("Some callers took too long and were left");
        }
        self.db.close();
        Ok(outcome?)
    }
}

/// Requests end within the time that the database has to answer; who is slower than that is
/// not waited for, so that a process ends within 20 s of SIGTERM.
const LONGEST_DRAIN: Duration = Duration::from_secs(17);

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
