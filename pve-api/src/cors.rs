//! Lets pages of other origins use the API from within a browser; off unless origins are named.
//!
//! Callers show tokens and never cookies, so browsers are not asked for credentials of theirs.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    VARY,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// What a page may send; the second line is of resumable uploads.
const SENT: &str = "authorization, content-type, idempotency-key, last-event-id, x-request-id, \
                    tus-resumable, upload-length, upload-offset, upload-metadata, \
                    upload-checksum, upload-defer-length, x-http-method-override";

/// What it may read of an answer, beside the body.
const READ: &str = "x-request-id, retry-after, location, etag, content-range, www-authenticate, \
                    tus-resumable, tus-version, tus-extension, tus-max-size, \
                    tus-checksum-algorithm, upload-length, upload-offset, upload-metadata, \
                    upload-expires";

/// For how many seconds a browser need not ask again.
const MAX_AGE: &str = "3600";

/// Answers browsers that ask whether they may, and says whose pages may read an answer.
pub(crate) async fn share(
    State(origins): State<Arc<[HeaderValue]>>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let known = headers.get(ORIGIN).filter(|origin| origins.contains(origin)).cloned();
    // A question before the request itself; others have OPTIONS too.
    let asks =
        request.method() == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let Some(origin) = known else {
        let mut response = next.run(request).await;
        if !origins.is_empty() {
            response.headers_mut().append(VARY, HeaderValue::from_static("origin"));
        }
        return response;
    };
    let mut response =
        if asks { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.append(VARY, HeaderValue::from_static("origin"));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if asks {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(SENT));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
    } else {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(READ));
    }
    response
}
