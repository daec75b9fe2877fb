//! `/livez` and `/readyz`, for Kubernetes.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use schema::{Db, DbError};
use tokio::time::timeout;

pub(crate) async fn livez() -> &'static str {
    "ok\n"
}

/// 503 while the database is away, or while its tables are not those of this program.
pub(crate) async fn readyz(State(db): State<Db>) -> (StatusCode, String) {
    let problem = match timeout(LONGEST, db.check()).await {
        Ok(Ok(())) => return (StatusCode::OK, "ok\n".to_owned()),
        Ok(Err(known @ (DbError::Unmigrated { .. } | DbError::TooNew { .. }))) => known.to_string(),
        Ok(Err(error)) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "Not ready");
            "the database is not available".to_owned()
        }
        Err(_) => "the database did not answer in time".to_owned(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n"))
}

/// Shorter than a probe is usually willing to wait for a second try.
const LONGEST: Duration = Duration::from_secs(2);
