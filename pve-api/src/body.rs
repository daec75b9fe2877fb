//! JSON that callers send, parsed strictly: a field that is passed over would do something that
//! nobody asked for.

use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody as _};
use axum::extract::{FromRequest, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use futures::StreamExt as _;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use crate::error::{ApiError, Refusal, printable};
use crate::linger;
use crate::openapi::{Input, Operation};

/// A JSON object. Its type denies unknown fields.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub T);

/// Ids and names; never a file.
const LONGEST: usize = 64 * 1024;

/// For so little, by whatever way.
const PATIENCE: Duration = Duration::from_secs(10);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (head, body) = request.into_parts();
        let kind = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            forget(&head.headers, body.into_data_stream(), Instant::now() + PATIENCE).await;
            let message = "send a JSON object with the header `Content-Type: application/json`";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(Refusal::new(status, "content_type", message).into());
        }
        let bytes = whole(&head.headers, body).await?;
        // An array would be taken for the fields in their order.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            let message = "the body is no JSON object: it begins with { and has named fields";
            return Err(ApiError::invalid("body", message));
        }
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            let message = format!("the body can not be read: {}", printable_sentence(&error));
            ApiError::invalid("body", message)
        })
    }
}

/// All of a body that is to be JSON.
pub(crate) async fn whole(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    let end = Instant::now() + PATIENCE;
    let hopeless = body.size_hint().lower() > LONGEST as u64;
    let mut body = body.into_data_stream();
    let whole = if hopeless { Ok(None) } else { timeout_at(end, collected(&mut body)).await };
    let whole = whole.map_err(|_| {
        let message = format!("the body did not come within {} seconds", PATIENCE.as_secs());
        Refusal::new(StatusCode::REQUEST_TIMEOUT, "body", message)
    })?;
    if let Some(bytes) = whole {
        return Ok(bytes.into());
    }
    forget(headers, body, end).await;
    let message = format!("the body did not arrive whole, or has more than {LONGEST} bytes");
    Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body", message).into())
}

/// None if it breaks off or is too long; then the rest is still to be read.
async fn collected(body: &mut BodyDataStream) -> Option<Vec<u8>> {
    let mut kept = Vec::new();
    while let Some(bytes) = body.next().await {
        let bytes = bytes.ok()?;
        if kept.len() + bytes.len() > LONGEST {
            return None;
        }
        kept.extend_from_slice(&bytes);
    }
    Some(kept)
}

/// Reads what nobody wants: whoever is still sending when it is refused may never see why.
async fn forget(headers: &HeaderMap, mut body: BodyDataStream, end: Instant) {
    if !linger::waits(headers) {
        drop(timeout_at(end, linger::forget(&mut body)).await);
    }
}

impl<T: JsonSchema> Input for JsonBody<T> {
    fn describe(operation: &mut Operation) {
        let schema = operation.schema_of_input::<T>();
        operation.body("application/json", &schema);
        operation.refuses(408);
        operation.refuses(413);
        operation.refuses(415);
    }
}

/// serde's words repeat what the caller wrote.
fn printable_sentence(error: &serde_json::Error) -> String {
    error.to_string().split(' ').map(printable).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::http::header::{EXPECT, HeaderName};
    use axum::response::IntoResponse as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_a_408() {
        let never = futures::stream::pending::<Result<&str, std::io::Error>>();
        let request = Request::post("/")
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from_stream(never))
            .unwrap();

        let error = JsonBody::<serde_json::Value>::from_request(request, &()).await.unwrap_err();

        assert_eq!(error.into_response().status(), StatusCode::REQUEST_TIMEOUT);
    }

    /// What so many pieces of 16 KiB are answered with, and how many of them were read.
    async fn sent(pieces: usize, headers: &[(HeaderName, &str)]) -> (StatusCode, usize) {
        let read = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&read);
        let all = futures::stream::iter(0..pieces).map(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(vec![b' '; 16 * 1024])
        });
        let mut request = Request::post("/");
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(Body::from_stream(all)).unwrap();
        let error = JsonBody::<serde_json::Value>::from_request(request, &()).await.unwrap_err();
        (error.into_response().status(), read.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_too_much_is_heard_out_before_it_is_told() {
        let json = (CONTENT_TYPE, "application/json");

        assert_eq!(
            sent(100, std::slice::from_ref(&json)).await,
            (StatusCode::PAYLOAD_TOO_LARGE, 100)
        );
        let (status, read) = sent(1 << 20, &[json]).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(read < 1100, "16 MiB are enough, but {read} were read");
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_something_else_is_heard_out_unless_it_waits_to_be_asked() {
        let text = (CONTENT_TYPE, "text/plain");
        let unsupported = StatusCode::UNSUPPORTED_MEDIA_TYPE;

        assert_eq!(sent(100, std::slice::from_ref(&text)).await, (unsupported, 100));
        assert_eq!(sent(100, &[text, (EXPECT, "100-continue")]).await, (unsupported, 0));
    }
}
