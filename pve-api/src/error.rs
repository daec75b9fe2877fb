//! A failure as the caller may see it: the one place that picks status codes, and logs.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use schema::DbError;
use schema::images::ImageError;
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
    /// The image store did not do what we asked.
    #[error("image store")]
    Store(#[from] ImageError),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A request that is well-formed and not done, because of something that the caller can change or
/// wait for.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    pub status: StatusCode,
    /// One word for programs.
    pub reason: &'static str,
    /// The parameter that is meant, if it is one.
    pub field: Option<&'static str>,
    /// What is wrong and what to do.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(
        status: StatusCode,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { status, reason, field: None, message: message.into() }
    }

    /// 409: the state of something stands against it.
    pub(crate) fn conflict(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, reason, message)
    }

    /// 422: it can not be done as it was asked.
    pub(crate) fn impossible(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, reason, message)
    }

    pub(crate) fn of_field(self, field: &'static str) -> Self {
        Self { field: Some(field), ..self }
    }
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
            Self::Store(ImageError::Mismatch { .. }) => {
                (StatusCode::BAD_REQUEST, "sha256_mismatch")
            }
            Self::Store(ImageError::Full { .. }) => {
                (StatusCode::SERVICE_UNAVAILABLE, "image_store_full")
            }
            Self::Store(ImageError::TooLarge { .. }) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "too_large")
            }
            Self::Store(ImageError::Going) => (StatusCode::LOCKED, "upload_busy"),
            Self::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "image_store_unavailable"),
            Self::Refused(refusal) => (refusal.status, refusal.reason),
        }
    }

    /// One word for programs, for metrics and for the record.
    pub(crate) fn reason(&self) -> &'static str {
        self.status().1
    }

    /// The HTTP status.
    pub(crate) fn code(&self) -> u16 {
        self.status().0.as_u16()
    }

    /// Whether it is the caller's to change, and not ours.
    pub(crate) fn is_callers(&self) -> bool {
        self.status().0.is_client_error()
    }

    /// What the caller is told. A database's own words may name hosts and tables, so they are
    /// for the log only.
    pub(crate) fn message(&self) -> String {
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
            Self::Store(
                known @ (ImageError::Mismatch { .. }
                | ImageError::TooLarge { .. }
                | ImageError::Going),
            ) => known.to_string(),
            Self::Store(ImageError::Full { .. }) => {
                "the image store is full; an administrator has to make room".to_owned()
            }
            Self::Store(_) => "the image store is not available; try again later".to_owned(),
            other => other.to_string(),
        }
    }
}

/// Marks the answer to a request that did not come to its end, or came at a bad moment: the same
/// request may be answered otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passing;

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
            Self::Refused(refusal) => refusal.field,
            _ => None,
        };
        let (code, message) = (status.as_u16(), self.message());
        let body = Envelope { code, message: &message, data: Detail { reason, field } };
        let mut response = (status, Json(body)).into_response();
        let early = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        if status.is_server_error() || early || reason == "hung_up" {
            response.extensions_mut().insert(Passing);
        }
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
        }
        response
    }
}

/// About the time after which a connection to the database is tried again; uploads take longer,
/// but any of several may end.
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

/// A task that ended before it was done.
pub(crate) fn panicked(error: tokio::task::JoinError) -> ApiError {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // Nobody aborts it but a runtime that ends.
        Err(_) => ApiError::Slow,
    }
}
