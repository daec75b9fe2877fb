//! The id of a request: in, out, and in every log line that it causes.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of the request at hand, among its extensions.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub String);

/// Keeps the caller's id, or gives one.
pub(crate) async fn carry(mut request: Request, next: Next) -> Response {
    let id = request.headers().get(REQUEST_ID).and_then(usable).unwrap_or_else(new);
    request.extensions_mut().insert(RequestId(id.clone()));
    let span = tracing::info_span!("request", id, method = %request.method());
    let mut response = next.run(request).instrument(span).await;
    // Both kinds of id hold visible ASCII only.
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Short and without spaces, so that it can neither flood nor forge a log line.
fn usable(value: &HeaderValue) -> Option<String> {
    const LONGEST: usize = 64;
    let text = value.to_str().ok()?;
    let fits = !text.is_empty() && text.len() <= LONGEST;
    (fits && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| text.to_owned())
}

fn new() -> String {
    format!("{:016x}", rand::random::<u64>())
}
