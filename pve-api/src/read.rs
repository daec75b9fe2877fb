//! Reading and changing the tables on behalf of one request.

use std::time::Duration;

use schema::{Conn, Db, DbError, Transaction};
use tokio::time::timeout;

use crate::error::ApiError;

/// Runs `work` in one transaction that sees one moment of the database.
pub(crate) async fn read<T, F>(db: &Db, work: F) -> Result<T, ApiError>
where
    for<'c> F: AsyncFn(&'c mut Conn) -> Result<T, DbError>
        + Transaction<&'c mut Conn, Result<T, DbError>, Run: Send>
        + Send
        + Sync,
    T: Send,
{
    in_time(db, db.read(work)).await
}

/// Runs `work`, which asks one statement and so sees one moment without a transaction, that is
/// without the two round trips of one. As [`read`] otherwise.
pub(crate) async fn ask<T, F>(db: &Db, work: F) -> Result<T, ApiError>
where
    for<'c> F: AsyncFn(&'c mut Conn) -> Result<T, DbError>
        + Transaction<&'c mut Conn, Result<T, DbError>, Run: Send>
        + Send
        + Sync,
    T: Send,
{
    in_time(db, db.ask(work)).await
}

/// Runs `work` in one transaction that may write; it is run again when it collides with another.
pub(crate) async fn write<T, F>(db: &Db, work: F) -> Result<T, ApiError>
where
    for<'c> F: AsyncFn(&'c mut Conn) -> Result<T, DbError>
        + Transaction<&'c mut Conn, Result<T, DbError>, Run: Send>
        + Send
        + Sync,
    T: Send,
{
    in_time(db, db.write(work)).await
}

/// A query that fails because the tables are not those of this program fails as such, and one that
/// takes too long is given up.
async fn in_time<T>(
    db: &Db,
    asked: impl Future<Output = Result<T, DbError>>,
) -> Result<T, ApiError> {
    match timeout(LONGEST, asked).await {
        Ok(Err(error @ DbError::Query(_))) => {
            timeout(LONGEST, db.check()).await.map_err(|_| ApiError::Slow)??;
            Err(error.into())
        }
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(ApiError::Slow),
    }
}

/// More than the five seconds that a connection is waited for.
const LONGEST: Duration = Duration::from_secs(15);
