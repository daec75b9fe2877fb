//! What a watcher asks for: which tasks, from where on, and in which form.

use axum::extract::FromRequestParts;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::header::{ACCEPT, HeaderName, UPGRADE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use schema::{ClusterId, Revision, TemplateId};
use serde_json::json;

use crate::error::{ApiError, Refusal};
use crate::openapi::{Input, Operation};
use crate::query::{FromQuery, Query, revision};

/// Which tasks, and from where on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start {
    pub(super) filter: Filter,
    /// Everything up to here is known.
    pub(super) since: Option<Revision>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Filter {
    pub(super) template_id: Option<TemplateId>,
    pub(super) cluster_id: Option<ClusterId>,
}

impl FromQuery for Start {
    fn from_query(query: &mut Query) -> Result<Self, ApiError> {
        let filter = Filter {
            template_id: query.number("template_id")?.map(TemplateId),
            cluster_id: query.number("cluster_id")?.map(ClusterId),
        };
        Ok(Self { filter, since: query.revision("since")? })
    }
}

/// How it is to be told.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(super) form: Form,
    /// A client that connects again by itself repeats its address, but knows more by then.
    pub(super) last_event_id: Option<Revision>,
}

#[derive(Debug)]
pub(super) enum Form {
    WebSocket(WebSocketUpgrade),
    EventStream,
}

impl<S: Send + Sync> FromRequestParts<S> for Ask {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let last_event_id = parts
            .headers
            .get("last-event-id")
            .map(|id| revision(LAST_EVENT_ID, &String::from_utf8_lossy(id.as_bytes())));
        Ok(Self { last_event_id: last_event_id.transpose()?, form: form(parts, state).await? })
    }
}

const LAST_EVENT_ID: &str = "Last-Event-ID";

impl Input for Ask {
    fn describe(operation: &mut Operation) {
        let schema = json!({"type": "integer", "format": "int64", "minimum": 0});
        operation.header(LAST_EVENT_ID, &schema, false);
        operation.refuses(406);
    }
}

async fn form<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<Form, ApiError> {
    if names(&parts.headers, &UPGRADE, "websocket") {
        return match WebSocketUpgrade::from_request_parts(parts, state).await {
            Ok(upgrade) => Ok(Form::WebSocket(upgrade)),
            Err(rejection) => {
                let message = rejection.body_text();
                Err(Refusal::new(rejection.status(), "websocket_handshake", message).into())
            }
        };
    }
    if names(&parts.headers, &ACCEPT, "text/event-stream") {
        return Ok(Form::EventStream);
    }
    let message = "this is a stream: send `Accept: text/event-stream` for server-sent events, or \
                   connect with a WebSocket; GET /templates/sync-tasks lists tasks once";
    Err(Refusal::new(StatusCode::NOT_ACCEPTABLE, "stream_only", message).into())
}

/// Whether a header is a list that has `wanted`, whatever parameters it comes with.
fn names(headers: &HeaderMap, header: &HeaderName, wanted: &str) -> bool {
    headers
        .get_all(header)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|part| part.split(';').next())
        .any(|word| word.trim().eq_ignore_ascii_case(wanted))
}
