//! The `{id}` of a path.

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};

use crate::error::ApiError;
use crate::openapi::{Input, Operation};
use crate::query::positive;

/// A row's id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Id(pub i64);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        // The only way to fail is a path that is not UTF-8 once it is decoded.
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::invalid("id", "id is not UTF-8 once it is percent-decoded"))?;
        positive("id", &text).map(Self)
    }
}

impl Input for Id {
    fn describe(operation: &mut Operation) {
        operation.path_parameter(
            "id",
            &serde_json::json!({"type": "integer", "format": "int64", "minimum": 1}),
        );
        operation.refuses(404);
    }
}
