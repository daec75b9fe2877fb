//! Pools: how a connection to each of the databases is made and set up.

use std::time::Duration;

use deadpool::Runtime;
use diesel::ConnectionError;
use diesel_async::SimpleAsyncConnection;
use diesel_async::pooled_connection::deadpool::{Object, Pool, PoolError};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, PoolError as ManagerError, PoolableConnection,
    RecyclingMethod,
};
use diesel_async::{AsyncConnection, AsyncMysqlConnection, AsyncPgConnection};
use futures::FutureExt;

use crate::db::{Pools, SqliteConn};
use crate::url::Backend;
use crate::{DatabaseUrl, DbError};

/// How long a caller waits for a connection before it is told that the database is away.
pub(crate) const WAIT: Duration = Duration::from_secs(5);

/// Writers of one SQLite file wait for one another, so more would only queue.
const SQLITE_CONNECTIONS: usize = 4;
const SERVER_CONNECTIONS: usize = 10;

const SQLITE_SETUP: &str = "PRAGMA busy_timeout = 5000;
    PRAGMA synchronous = NORMAL;
    PRAGMA foreign_keys = ON;
    PRAGMA case_sensitive_like = ON;";
const SQLITE_WAL: &str = "PRAGMA journal_mode = WAL;";
/// A process that stands still within a transaction, or that cannot be reached any more, loses it:
/// else its locks would keep other operators from taking its leases.
///
/// A binary collation, so that comparing with a parameter is comparing bytes and uses the index.
const MYSQL_SETUP: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;
    SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', SESSION time_zone = '+00:00',
    SESSION innodb_lock_wait_timeout = 10 /*M!100300 , SESSION idle_transaction_timeout = 10 */;
    SET NAMES utf8mb4 COLLATE utf8mb4_bin";
const POSTGRES_SETUP: &str = "SET TIME ZONE 'UTC'; SET lock_timeout = '10s';
    SET idle_in_transaction_session_timeout = '10s'";

pub(crate) fn pool(url: &DatabaseUrl) -> Result<Pools, DbError> {
    Ok(match url.backend {
        Backend::Sqlite => {
            let read_only = url.url.starts_with("file:");
            let mut config = ManagerConfig::<SqliteConn>::default();
            config.recycling_method = RecyclingMethod::Fast;
            config.custom_setup = Box::new(move |url| {
                let url = url.to_owned();
                async move {
                    let mut conn = SqliteConn::establish(&url).await?;
                    set_up(&mut conn, SQLITE_SETUP).await?;
                    if !read_only && let Err(error) = set_up(&mut conn, SQLITE_WAL).await {
                        // A file that cannot be written can still be read; a write will tell.
                        tracing::debug!(error = &error as &dyn std::error::Error, "No WAL");
                    }
                    Ok(conn)
                }
                .boxed()
            });
            Pools::Sqlite(build(url, config, SQLITE_CONNECTIONS)?)
        }
        Backend::Mysql => {
            let mut config = ManagerConfig::<AsyncMysqlConnection>::default();
            config.custom_setup = Box::new(|url| {
                let url = url.to_owned();
                async move {
                    let mut conn = AsyncMysqlConnection::establish(&url).await?;
                    for statement in MYSQL_SETUP.split(';') {
                        set_up(&mut conn, statement).await?;
                    }
                    Ok(conn)
                }
                .boxed()
            });
            Pools::Mysql(build(url, config, SERVER_CONNECTIONS)?)
        }
        Backend::Postgres => {
            let mut config = ManagerConfig::<AsyncPgConnection>::default();
            // The driver hears of a connection that ends, so none needs to be asked first.
            config.recycling_method = RecyclingMethod::Fast;
            config.custom_setup = Box::new(|url| {
                let url = url.to_owned();
                async move {
                    let mut conn = AsyncPgConnection::establish(&url).await?;
                    set_up(&mut conn, POSTGRES_SETUP).await?;
                    Ok(conn)
                }
                .boxed()
            });
            Pools::Postgres(build(url, config, SERVER_CONNECTIONS)?)
        }
    })
}

async fn set_up<C: SimpleAsyncConnection>(conn: &mut C, sql: &str) -> Result<(), ConnectionError> {
    conn.batch_execute(sql).await.map_err(ConnectionError::CouldntSetupConfiguration)
}

fn build<C>(url: &DatabaseUrl, config: ManagerConfig<C>, size: usize) -> Result<Pool<C>, DbError>
where
    C: PoolableConnection + 'static,
    AsyncDieselConnectionManager<C>: deadpool::managed::Manager<Type = C>,
{
    let manager = AsyncDieselConnectionManager::new_with_config(url.url.clone(), config);
    Pool::builder(manager)
        .max_size(size)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(WAIT))
        .create_timeout(Some(WAIT))
        .recycle_timeout(Some(WAIT))
        .build()
        .map_err(|error| DbError::Url(error.to_string()))
}

pub(crate) async fn get<C>(pool: &Pool<C>, url: &DatabaseUrl) -> Result<Object<C>, DbError>
where
    C: PoolableConnection + 'static,
    AsyncDieselConnectionManager<C>: deadpool::managed::Manager<Type = C, Error = ManagerError>,
{
    pool.get().await.map_err(|error| unavailable(&error, url))
}

/// Every failure to connect may pass, a wrong password included: someone may correct it on the
/// server. The drivers' texts are kept as text, because theirs could hold the URL.
fn unavailable(error: &PoolError, url: &DatabaseUrl) -> DbError {
    let cause = match error {
        PoolError::Timeout(_) => format!("no connection within {WAIT:?}"),
        PoolError::Backend(ManagerError::ConnectionError(
            ConnectionError::InvalidConnectionUrl(text),
        )) => return DbError::Url(url.redact(text)),
        PoolError::Backend(error) => error.to_string(),
        other => other.to_string(),
    };
    // SQLite cannot even read a WAL file in a folder that it may not write.
    if crate::error::is_read_only(&cause) {
        return DbError::ReadOnly { source: cause.into() };
    }
    let cause = match url.obstacle() {
        Some(obstacle) => format!("{cause}; {obstacle}"),
        None => cause,
    };
    DbError::Unavailable { target: url.to_string(), source: url.redact(&cause).into() }
}
