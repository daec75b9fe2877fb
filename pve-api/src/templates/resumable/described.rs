//! What the routes of `/files` take and answer, telling of itself.

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use schema::images::SessionId;
use serde_json::{Value, json};

use super::no_such_session;
use super::protocol::{self, BYTES, VERSION};
use crate::error::ApiError;
use crate::openapi::{Input, Operation, Output};

/// The `{id}` of a path; what can not be one is not found.
#[derive(Debug)]
pub(super) struct Session(pub SessionId);

impl<S: Send + Sync> FromRequestParts<S> for Session {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let id = path.ok().and_then(|Path(text)| text.parse().ok());
        id.map(Self).ok_or_else(|| no_such_session().into())
    }
}

impl Input for Session {
    fn describe(operation: &mut Operation) {
        operation.path_parameter("id", &json!({"type": "string", "pattern": "^[0-9a-f]{32}$"}));
        operation.refuses(404);
    }
}

/// The place of a session, whether there is one or not.
#[derive(Debug)]
pub(super) struct Place;

impl<S: Sync> FromRequestParts<S> for Place {
    type Rejection = ApiError;

    async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self)
    }
}

impl Input for Place {
    fn describe(operation: &mut Operation) {
        Session::describe(operation);
    }
}

/// The version that we speak.
#[derive(Debug)]
pub(super) struct Spoken;

impl<S: Send + Sync> FromRequestParts<S> for Spoken {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        protocol::check_version(&parts.headers).map(|()| Self)
    }
}

impl Input for Spoken {
    fn describe(operation: &mut Operation) {
        operation.header("Tus-Resumable", &json!({"type": "string", "enum": [VERSION]}), true);
        operation.refuses(410);
        operation.refuses(412);
    }
}

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident = $describe:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name(pub Request);

        impl<S: Send + Sync> FromRequest<S> for $name {
            type Rejection = ApiError;

            async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
                Ok(Self(request))
            }
        }

        impl Input for $name {
            fn describe(operation: &mut Operation) {
                $describe(operation);
            }
        }
    )*};
}

requests! {
    /// A request that begins a session, whose body is read by the handler.
    Creation = creation;
    /// A request that brings bytes, which are read by the handler.
    Go = go;
    /// A request that is another than its method says.
    Overridden = overridden;
}

fn creation(operation: &mut Operation) {
    Spoken::describe(operation);
    operation.header("Upload-Length", &number(), true);
    operation.header("Upload-Metadata", &json!({"type": "string"}), true);
    bytes(operation);
    operation.explain(
        "Begins an upload that can be resumed, by tus 1.0.0. Upload-Metadata has the fields of \
         `POST /api/v1/templates/upload`, each in base64, and `filename`; what can be refused for \
         them is refused before the bytes. The first bytes may come along.",
    );
}

fn go(operation: &mut Operation) {
    Spoken::describe(operation);
    operation.header("Upload-Offset", &number(), true);
    bytes(operation);
    operation.explain(
        "Brings bytes, from where the upload is. What came stays if the connection breaks. The last \
         ones are answered when the template is there, or after 20 s.",
    );
}

fn overridden(operation: &mut Operation) {
    Spoken::describe(operation);
    let methods = json!({"type": "string", "enum": ["PATCH", "HEAD", "DELETE"]});
    operation.header("X-HTTP-Method-Override", &methods, true);
    operation.header("Upload-Offset", &number(), false);
    bytes(operation);
    operation.explain("For clients that may send no other method than POST.");
}

fn bytes(operation: &mut Operation) {
    let digest = json!({"type": "string", "pattern": "^(sha1|sha256) [A-Za-z0-9+/]+=*$"});
    operation.header("Upload-Checksum", &digest, false);
    operation.body(BYTES, &json!({"type": "string", "contentMediaType": BYTES}));
    for status in [408, 413, 415, 423, 460] {
        operation.refuses(status);
    }
}

fn number() -> Value {
    json!({"type": "integer", "format": "int64", "minimum": 0})
}

macro_rules! answers {
    ($($(#[$doc:meta])* $name:ident = [$($status:literal),*], $says:literal, $headers:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name(pub Response);

        impl IntoResponse for $name {
            fn into_response(self) -> Response {
                self.0
            }
        }

        impl Output for $name {
            fn describe(operation: &mut Operation) {
                let headers: &[&str] = &$headers;
                let headers: serde_json::Map<_, _> = headers
                    .iter()
                    .map(|name| ((*name).to_owned(), json!({"schema": {"type": "string"}})))
                    .collect();
                $(operation.answers_with($status, $says, json!({"headers": headers}));)*
            }
        }
    )*};
}

answers! {
    /// What the server can do.
    Abilities = [204], "What the server can do.",
        ["Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm"];
    /// A session that began.
    Created = [201], "It has begun.", ["Location", "Upload-Offset", "Upload-Expires"];
    /// Where a session is.
    Whereabouts = [200], "Where to go on.",
        ["Upload-Offset", "Upload-Length", "Upload-Metadata", "Upload-Expires"];
    /// Bytes that came.
    Taken = [204], "They are safe.", ["Upload-Offset", "Upload-Expires"];
    /// A session that is no more.
    Ended = [204], "Nothing of it is left.", [];
    /// Whatever was meant.
    Meant = [200, 204], "As the other method answers.", ["Upload-Offset", "Upload-Expires"];
}
