//! JSON that callers send, parsed strictly: a field that is passed over would do something that
//! nobody asked for.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::error::{ApiError, Refusal, printable};
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
        let kind = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let message = "send a JSON object with the header `Content-Type: application/json`";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(Refusal::new(status, "content_type", message).into());
        }
        let bytes = whole(request.into_body()).await?;
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

impl<T: JsonSchema> Input for JsonBody<T> {
    fn describe(operation: &mut Operation) {
        let schema = operation.schema_of_input::<T>();
        operation.body("application/json", &schema);
        operation.refuses(408);
        operation.refuses(413);
        operation.refuses(415);
    }
}

/// All of a body that is to be JSON.
pub(crate) async fn whole(body: Body) -> Result<Bytes, ApiError> {
    let whole = timeout(PATIENCE, to_bytes(body, LONGEST)).await.map_err(|_| {
        let message = format!("the body did not come within {} seconds", PATIENCE.as_secs());
        Refusal::new(StatusCode::REQUEST_TIMEOUT, "body", message)
    })?;
    whole.map_err(|_| {
        let message = format!("the body did not arrive whole, or has more than {LONGEST} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body", message).into()
    })
}

/// serde's words repeat what the caller wrote.
fn printable_sentence(error: &serde_json::Error) -> String {
    error.to_string().split(' ').map(printable).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
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
}
