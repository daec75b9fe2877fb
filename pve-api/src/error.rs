//! A failure as the caller may see it: the one place that picks status codes, and logs.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use schema::DbError;
use serde::Serialize;

use crate::envelope::Envelope;

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// A parameter that cannot be read; `message` says what to write instead.
    #[error("{message}")]
    Invalid { field: String, message: String },
    /// A parameter that nothing here knows.
    #[error("{message}")]
    Unknown { field: String, message: String },
    #[error("no {what}")]
    NotFound { what: String },
    #[error("nothing is at this path; the API is below /api/v1")]
    NoSuchPath,
    #[error("this path has no such method; the header Allow names those that it has")]
    NoSuchMethod,
    /// The database did not answer in time.
    #[error("the database did not answer in time")]
    Slow,
    #[error("database")]
    Db(#[from] DbError),
}

/// What stands in `data` beside an error's message.
#[derive(Serialize)]
struct Detail<'a> {
    /// One word for programs.
    reason: &'static str,
    /// The parameter that is meant, if it is one.
    field: Option<&'a str>,
}

impl ApiError {
    pub(crate) fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::Invalid { field: printable(field), message: message.into() }
    }

    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into() }
    }

    fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Invalid { .. } => (StatusCode::BAD_REQUEST, "invalid_parameter"),
            Self::Unknown { .. } => (StatusCode::BAD_REQUEST, "unknown_parameter"),
            Self::NotFound { .. } | Self::NoSuchPath => (StatusCode::NOT_FOUND, "not_found"),
            Self::NoSuchMethod => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::Slow => (StatusCode::SERVICE_UNAVAILABLE, "database_unavailable"),
            Self::Db(DbError::Unmigrated { .. } | DbError::TooNew { .. }) => {
                (StatusCode::SERVICE_UNAVAILABLE, "database_version")
            }
            Self::Db(error) if error.is_transient() => {
                (StatusCode::SERVICE_UNAVAILABLE, "database_unavailable")
            }
            Self::Db(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }

    /// What the caller is told. A database's own words may name hosts and tables, so they are
    /// for the log only.
    fn message(&self) -> String {
        match self {
            Self::Db(known @ (DbError::Unmigrated { .. } | DbError::TooNew { .. })) => {
                known.to_string()
            }
            Self::Db(error) if error.is_transient() => {
                "the database is not available; try again later".to_owned()
            }
            Self::Db(_) => {
                "something is wrong on our side; the log says what, by the request's id".to_owned()
            }
            other => other.to_string(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, reason) = self.status();
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(error = &self as &dyn std::error::Error, "Request failed");
        } else if status.is_server_error() {
            tracing::warn!(
                error = &self as &dyn std::error::Error,
                "Request could not be answered"
            );
        }
        let field = match &self {
            Self::Invalid { field, .. } | Self::Unknown { field, .. } => Some(field.as_str()),
            _ => None,
        };
        let (code, message) = (status.as_u16(), self.message());
        let body = Envelope { code, message: &message, data: Detail { reason, field } };
        let mut response = (status, Json(body)).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
        }
        response
    }
}

/// About the time after which a connection to the database is tried again.
const RETRY_SECONDS: &str = "5";

pub(crate) async fn no_such_path() -> ApiError {
    ApiError::NoSuchPath
}

pub(crate) async fn no_such_method() -> ApiError {
    ApiError::NoSuchMethod
}

/// What a caller wrote, short and without control characters, so that it can be told back.
pub(crate) fn printable(text: &str) -> String {
    const LONGEST: usize = 64;
    let mut shown: String =
        text.chars().take(LONGEST).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}
