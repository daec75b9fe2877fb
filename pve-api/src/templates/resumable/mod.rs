//! `/files`: uploads whose bytes come in several goes, in the words of tus 1.0.0.
//!
//! ```text
//! POST --> row --PATCH*--> bytes, row --> image and rows, as of any upload --> done
//!          (decide before the bytes)       | goes on without the client
//! ```
//!
//! - *session*: one such upload, from its creation until it is forgotten.
//! - *go*: the bytes of one request. Of a session there is one at a time, across all replicas: it
//!   holds the row, and a holder that dies loses it with its lease.
//!
//! What the row says is stored is stored; nothing else counts. So a go that ends early leaves what came,
//! and whoever finds a session that nobody finishes can finish it.

mod create;
mod described;
mod finish;
mod protocol;
mod receive;
pub(crate) mod sweep;
mod view;

use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use schema::images::SessionId;
use schema::resumable_upload::{Holder, SessionRow, SessionStatus};
use schema::token::Scope;
use schema::{Conn, DbError, Timestamp, resumable_upload};
use tracing::Instrument as _;

use super::uploads::Uploads;
use crate::Api;
use crate::auth::Caller;
use crate::error::{ApiError, Refusal, panicked};
use crate::routes::{BASE, Routes};
use described::{
    Abilities, Created, Creation, Go, Meant, Overridden, Place, Session, Spoken, Taken,
};

/// Every route of resumable uploads.
pub(super) fn routes(routes: Routes) -> Routes {
    use Scope::Write;
    routes
        .options("/files", "Show upload abilities", abilities)
        .options("/files/{id}", "Show abilities of upload", abilities_of_one)
        .post(Write, "/files", "Create upload", create)
        .post(Write, "/files/{id}", "Override upload method", overridden)
        .head(Write, "/files/{id}", "Find upload offset", view::head)
        .get(Write, "/files/{id}", "Show upload", view::show)
        .patch(Write, "/files/{id}", "Resume upload", patch)
        .delete(Write, "/files/{id}", "Terminate upload", view::terminate)
}

/// Adds what every answer of these routes says.
pub(crate) async fn speak(request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let ours = path.and_then(|path| path.strip_prefix(BASE));
    let ours = ours.is_some_and(|path| path == "/files" || path == "/files/{id}");
    let response = next.run(request).await;
    if ours { protocol::speak(response) } else { response }
}

/// `OPTIONS /files`: what the server can do.
async fn abilities(State(api): State<Api>) -> Result<Abilities, ApiError> {
    Ok(Abilities(protocol::abilities(api.uploads.map(|uploads| uploads.max_bytes))))
}

/// `OPTIONS /files/{id}`
async fn abilities_of_one(api: State<Api>, _: Place) -> Result<Abilities, ApiError> {
    abilities(api).await
}

/// `POST /files`
async fn create(
    State(api): State<Api>,
    caller: Caller,
    Creation(request): Creation,
) -> Result<Created, ApiError> {
    // In a task of its own: a server that sees its client go drops the handler, and what came must
    // stay.
    let tasks = api.settings.tasks.clone();
    let work = async move { create::create(&api, caller, request).await };
    tasks.spawn(work.in_current_span()).await.map_err(panicked)?.map(Created)
}

/// `PATCH /files/{id}`
async fn patch(
    State(api): State<Api>,
    caller: Caller,
    Session(id): Session,
    Go(request): Go,
) -> Result<Taken, ApiError> {
    let tasks = api.settings.tasks.clone();
    let work = async move { receive::patch(&api, &caller, &id, request).await };
    tasks.spawn(work.in_current_span()).await.map_err(panicked)?.map(Taken)
}

/// `POST /files/{id}`: another method, of a client that may send no other.
async fn overridden(
    State(api): State<Api>,
    caller: Caller,
    Session(id): Session,
    Overridden(request): Overridden,
) -> Result<Meant, ApiError> {
    let (api, id) = (State(api), Session(id));
    let meant = match protocol::method_override(request.headers())? {
        Some("PATCH") => patch(api, caller, id, Go(request)).await?.0,
        Some(other @ ("DELETE" | "HEAD")) => {
            protocol::check_version(request.headers())?;
            if other == "HEAD" {
                view::head(api, caller, id, Spoken).await?.0
            } else {
                view::terminate(api, caller, id, Spoken).await?.0
            }
        }
        _ => {
            let message = "a POST to an upload is another method: say in the header \
                           X-HTTP-Method-Override which of PATCH, HEAD, DELETE";
            return Err(ApiError::invalid("x-http-method-override", message));
        }
    };
    Ok(Meant(meant))
}

/// The session, if the caller may have it.
async fn look(
    conn: &mut Conn,
    id: &SessionId,
    caller: &Caller,
) -> Result<Result<SessionRow, Refusal>, DbError> {
    let row = resumable_upload::get(conn, id.as_str()).await?;
    Ok(row.ok_or_else(no_such_session).and_then(|row| {
        if row.creator == caller.name || caller.scope >= Scope::Admin {
            return Ok(row);
        }
        let message = format!(
            "this upload was begun with another token than `{}`; go on with that one, or with an \
             administrator's",
            caller.name
        );
        Err(Refusal::new(StatusCode::FORBIDDEN, "other_token", message))
    }))
}

/// 410 once nothing can become of it any more.
fn check_alive(row: &SessionRow, now: Timestamp) -> Result<(), Refusal> {
    let gone = |reason, message: String| Err(Refusal::new(StatusCode::GONE, reason, message));
    match row.status {
        SessionStatus::Failed => {
            let why = row.error_message.as_deref().unwrap_or("it failed");
            gone("upload_failed", format!("this upload came to nothing: {why}"))
        }
        SessionStatus::Receiving if row.expires_at <= now => {
            gone("upload_expired", "this upload has expired; begin another".to_owned())
        }
        _ => Ok(()),
    }
}

/// Who this process is to others that hold sessions.
fn holder(uploads: &Uploads) -> Holder<'_> {
    Holder { name: &uploads.holder, alone: !uploads.store.is_shared() }
}

/// The session's name, which is ours.
fn id_of(row: &SessionRow) -> Result<SessionId, ApiError> {
    Ok(row.id.parse()?)
}

/// A number of bytes of a row.
fn bytes(column: i64) -> u64 {
    u64::try_from(column).unwrap_or_default()
}

fn no_such_session() -> Refusal {
    let message = "no such upload: it was never begun, was ended, or is long over";
    Refusal::new(StatusCode::NOT_FOUND, "not_found", message)
}
