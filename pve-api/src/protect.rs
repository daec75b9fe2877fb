//! What browsers are told: not to guess, keep, frame or send on what they get.

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::middleware::Next;
use axum::response::Response;

/// Whether answers go over TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Privacy {
    Open,
    Tls,
}

/// An answer of the API is no page: nothing in it is run or shown. What is one says so itself.
const NO_PAGE: &str = "default-src 'none'; frame-ancestors 'none'";

const A_YEAR: &str = "max-age=31536000";

/// Adds what the handler did not say itself.
pub(crate) async fn headers(
    State(privacy): State<Privacy>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let mut say = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    say(X_CONTENT_TYPE_OPTIONS, "nosniff");
    say(CACHE_CONTROL, "no-store");
    say(REFERRER_POLICY, "no-referrer");
    say(X_FRAME_OPTIONS, "DENY");
    say(CONTENT_SECURITY_POLICY, NO_PAGE);
    if privacy == Privacy::Tls {
        say(STRICT_TRANSPORT_SECURITY, A_YEAR);
    }
    response
}
