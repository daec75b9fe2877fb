//! The database as the rest of the program holds it: a pool, its connections, transactions.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use diesel::SqliteConnection;
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AnsiTransactionManager, AsyncConnection, AsyncMysqlConnection};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection, TransactionManager};
use rand::Rng;

use crate::lease::{self, Fence};
use crate::sqlite_thread::{SqliteThread, reading};
use crate::url::Backend;
use crate::{DatabaseUrl, DbError, connect};

pub(crate) type SqliteConn = SyncConnectionWrapper<SqliteConnection, SqliteThread>;
pub(crate) type MysqlConn = AsyncMysqlConnection;
pub(crate) type PgConn = AsyncPgConnection;

/// A pool of connections to one of three databases. Clones share the pool.
#[derive(Clone)]
pub struct Db {
    url: Arc<DatabaseUrl>,
    pub(crate) pool: Pools,
    fence: Option<Fence>,
}

#[derive(Clone)]
pub(crate) enum Pools {
    Sqlite(Pool<SqliteConn>),
    Mysql(Pool<MysqlConn>),
    Postgres(Pool<PgConn>),
}

/// One connection, given back to the pool when dropped; one that is dropped within a
/// transaction is closed instead, and the database rolls back.
pub struct Conn(pub(crate) AnyConn);

pub(crate) enum AnyConn {
    Sqlite(Box<Object<SqliteConn>>),
    Mysql(Box<Object<MysqlConn>>),
    Postgres(Box<Object<PgConn>>),
}

/// Compiles `$body` once per database, with `$c` the concrete connection: this is how a query
/// is written once.
macro_rules! on {
    ($conn:expr, $c:ident => $body:expr) => {
        match &mut $conn.0 {
            $crate::db::AnyConn::Sqlite(object) => {
                let $c = &mut ***object;
                $body
            }
            $crate::db::AnyConn::Mysql(object) => {
                let $c = &mut ***object;
                $body
            }
            $crate::db::AnyConn::Postgres(object) => {
                let $c = &mut ***object;
                $body
            }
        }
    };
}
pub(crate) use on;

/// What [`Db::write`] and [`Db::read`] run: `async |conn| { … }`, several times if need be.
///
/// It is this wordy because only so can the future be both `Send` and borrow the connection;
/// every async closure that changes nothing outside of itself fits.
pub trait Transaction<C, R>: AsyncFn(C) -> R + Fn(C) -> <Self as Transaction<C, R>>::Run {
    type Run: Future<Output = R>;
}

impl<F, C, R, Run> Transaction<C, R> for F
where
    F: AsyncFn(C) -> R + Fn(C) -> Run,
    Run: Future<Output = R>,
{
    type Run = Run;
}

impl Db {
    /// A pool for this database. Connects to nothing yet, so it succeeds while the database is
    /// away; the first query tells.
    ///
    /// # Errors
    ///
    /// [`DbError::Url`] if the URL cannot be used.
    pub fn open(url: &str) -> Result<Self, DbError> {
        let url = Arc::new(DatabaseUrl::parse(url)?);
        Ok(Self { pool: connect::pool(&url)?, url, fence: None })
    }

    /// The same database, for whoever works under a lease: every [`write`](Self::write) is refused
    /// with [`DbError::Fenced`] once somebody else has the lease, and nobody takes it while one is
    /// under way.
    #[must_use]
    pub fn fenced(&self, fence: Fence) -> Self {
        Self { fence: Some(fence), ..self.clone() }
    }

    /// The lease that changes are made under.
    pub fn fence(&self) -> Option<&Fence> {
        self.fence.as_ref()
    }

    /// The URL, whose `Display` hides the password.
    pub fn url(&self) -> &DatabaseUrl {
        &self.url
    }

    /// A connection for single statements.
    ///
    /// # Errors
    ///
    /// [`DbError::Unavailable`] if there is none within five seconds: the database is away
    /// or all connections are in use.
    pub async fn conn(&self) -> Result<Conn, DbError> {
        Ok(Conn(match &self.pool {
            Pools::Sqlite(pool) => AnyConn::Sqlite(connect::get(pool, &self.url).await?.into()),
            Pools::Mysql(pool) => AnyConn::Mysql(connect::get(pool, &self.url).await?.into()),
            Pools::Postgres(pool) => AnyConn::Postgres(connect::get(pool, &self.url).await?.into()),
        }))
    }

    /// Closes the pool: connections in use finish, everybody else gets
    /// [`DbError::Unavailable`].
    pub fn close(&self) {
        match &self.pool {
            Pools::Sqlite(pool) => pool.close(),
            Pools::Mysql(pool) => pool.close(),
            Pools::Postgres(pool) => pool.close(),
        }
    }

    /// Runs `work` in one transaction that may write.
    ///
    /// When it collides with another one (deadlock, serialization, busy file) it is rolled back
    /// and run again, a few times with a growing pause; so `work` must do nothing that a
    /// rollback does not undo. Any other error rolls back and is returned.
    ///
    /// # Errors
    ///
    /// What `work` returned; [`DbError::Busy`] when it collided too often;
    /// [`DbError::CommitUnknown`] when the answer to COMMIT was lost.
    ///
    /// # Cancellation
    ///
    /// Safe: a dropped transaction is rolled back, unless COMMIT was already on its way.
    pub async fn write<T, F>(&self, work: F) -> Result<T, DbError>
    where
        for<'c> F: AsyncFn(&'c mut Conn) -> Result<T, DbError>
            + Transaction<&'c mut Conn, Result<T, DbError>, Run: Send>
            + Send
            + Sync,
        T: Send,
    {
        let mut collisions = 0;
        loop {
            let attempt = self.attempt(Begin::Write, &work);
            let outcome = match &self.fence {
                // Who gives a lease back waits for what is under way: a dead connection is no reason
                // to wait for ever.
                Some(_) => tokio::time::timeout(FENCED, attempt)
                    .await
                    .unwrap_or_else(|_| Err(DbError::no_answer(&self.url))),
                None => attempt.await,
            };
            match outcome {
                Err(DbError::Busy { .. }) if collisions < COLLISIONS => {
                    collisions += 1;
                    let longest = FIRST_PAUSE * 2_u32.pow(collisions);
                    let pause = rand::rng().random_range(FIRST_PAUSE..=longest);
                    tracing::debug!(collisions, "Transaction collided, running it again");
                    tokio::time::sleep(pause).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Runs `work` in one transaction that sees one moment of the database, and writes nothing.
    ///
    /// # Errors
    ///
    /// What `work` returned.
    pub async fn read<T, F>(&self, work: F) -> Result<T, DbError>
    where
        for<'c> F: AsyncFn(&'c mut Conn) -> Result<T, DbError>
            + Transaction<&'c mut Conn, Result<T, DbError>, Run: Send>
            + Send
            + Sync,
        T: Send,
    {
        reading(self.attempt(Begin::Read, &work)).await
    }

    /// Runs `work`, which writes nothing, on a connection without a transaction: one statement is
    /// one moment as it is.
    ///
    /// # Cancellation
    ///
    /// The connection is closed: what is still on its way there would be the answer to whatever
    /// is asked next.
    pub async fn ask<T, F>(&self, work: F) -> Result<T, DbError>
    where
        for<'c> F: AsyncFn(&'c mut Conn) -> Result<T, DbError>
            + Transaction<&'c mut Conn, Result<T, DbError>, Run: Send>
            + Send
            + Sync,
        T: Send,
    {
        let mut open = Open(Some(self.conn().await?));
        let outcome = reading(work(open.conn())).await;
        open.ended_with(&outcome);
        outcome
    }

    async fn attempt<T, F>(&self, begin: Begin, work: &F) -> Result<T, DbError>
    where
        for<'c> F: AsyncFn(&'c mut Conn) -> Result<T, DbError>
            + Transaction<&'c mut Conn, Result<T, DbError>, Run: Send>
            + Send
            + Sync,
        T: Send,
    {
        let mut open = Open(Some(self.conn().await?));
        let conn = open.conn();
        conn.begin(begin).await?;
        let fence = self.fence.as_ref().filter(|_| matches!(begin, Begin::Write));
        let allowed = match fence {
            // Boxed: most transactions have no fence, and need not carry the room for it.
            Some(fence) => Box::pin(lease::check(conn, fence)).await,
            None => Ok(()),
        };
        let worked = match allowed {
            Ok(()) => work(conn).await,
            Err(error) => Err(error),
        };
        let outcome = match worked {
            Ok(value) => conn.commit().await.map(|()| value),
            Err(error) => {
                // If this fails too, the pool closes the connection, which rolls back as well.
                if let Err(rollback) = conn.rollback().await {
                    tracing::debug!(error = &rollback as &dyn std::error::Error, "Rollback failed");
                }
                Err(error)
            }
        };
        open.ended_with(&outcome);
        outcome
    }
}

/// A connection that is being worked with, most often within a transaction.
///
/// If it is dropped there, it is closed. The pool would do that too, but only when it hands the
/// connection out again, and until then the transaction's locks would stop everybody else.
struct Open(Option<Conn>);

impl Open {
    fn conn(&mut self) -> &mut Conn {
        self.0.as_mut().expect("it is taken out at the end only")
    }

    /// Gives the connection back to the pool, but for one that was refused a statement: it may have
    /// been prepared for columns that a migration has changed since, and PostgreSQL refuses it for as
    /// long as the connection lives.
    fn ended_with<T>(mut self, outcome: &Result<T, DbError>) {
        if !matches!(outcome, Err(DbError::Query(_))) {
            drop(self.0.take());
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        match self.0.take() {
            Some(Conn(AnyConn::Sqlite(object))) => drop(Object::take(*object)),
            Some(Conn(AnyConn::Mysql(object))) => drop(Object::take(*object)),
            Some(Conn(AnyConn::Postgres(object))) => drop(Object::take(*object)),
            None => {}
        }
    }
}

/// How a transaction starts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Begin {
    Write,
    Read,
}

impl Conn {
    pub(crate) fn backend(&self) -> Backend {
        match &self.0 {
            AnyConn::Sqlite(_) => Backend::Sqlite,
            AnyConn::Mysql(_) => Backend::Mysql,
            AnyConn::Postgres(_) => Backend::Postgres,
        }
    }

    pub(crate) async fn begin(&mut self, begin: Begin) -> Result<(), DbError> {
        match &mut self.0 {
            AnyConn::Sqlite(c) => {
                // A deferred transaction that reads first cannot become a writer while another
                // one writes: it fails at once, whatever busy_timeout says.
                let sql = match begin {
                    Begin::Write => "BEGIN IMMEDIATE",
                    Begin::Read => "BEGIN DEFERRED",
                };
                c.spawn_blocking(move |c| AnsiSync::begin_transaction_sql(c, sql)).await?;
            }
            AnyConn::Mysql(c) => {
                let sql = match begin {
                    // The session reads what is committed, so a check sees what it would collide with.
                    Begin::Write => "START TRANSACTION",
                    Begin::Read => "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
                };
                if let Begin::Read = begin {
                    c.batch_execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
                }
                AnsiTransactionManager::begin_transaction_sql(&mut ***c, sql).await?;
            }
            AnyConn::Postgres(c) => {
                let sql = match begin {
                    Begin::Write => "BEGIN",
                    Begin::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
                };
                AnsiTransactionManager::begin_transaction_sql(&mut ***c, sql).await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn commit(&mut self) -> Result<(), DbError> {
        async fn of<C: AsyncConnection>(c: &mut C) -> diesel::QueryResult<()> {
            C::TransactionManager::commit_transaction(c).await
        }
        on!(self, c => of(c).await).map_err(|error| match DbError::from(error) {
            DbError::Unavailable { source, .. } => DbError::CommitUnknown { source },
            known => known,
        })
    }

    pub(crate) async fn rollback(&mut self) -> Result<(), DbError> {
        async fn of<C: AsyncConnection>(c: &mut C) -> diesel::QueryResult<()> {
            C::TransactionManager::rollback_transaction(c).await
        }
        Ok(on!(self, c => of(c).await)?)
    }

    /// Runs SQL as it is, several statements if need be: for migrations, and for tests that do
    /// what people do.
    pub async fn execute_sql(&mut self, sql: &str) -> Result<(), DbError> {
        Ok(on!(self, c => c.batch_execute(sql).await)?)
    }
}

/// The longest that a change under a lease may take.
const FENCED: Duration = Duration::from_secs(30);

type AnsiSync = diesel::connection::AnsiTransactionManager;

/// How often a transaction is run again; the last pause is at most two and a half seconds.
const COLLISIONS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(10);

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Db({})", self.url)
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Conn({:?})", self.backend())
    }
}
