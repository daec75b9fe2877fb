//! How a session goes, and its end by those who began it.

use axum::extract::State;
use axum::http::StatusCode;
use schema::cluster::Swap;
use schema::images::SessionId;
use schema::resumable_upload::{Failure, SessionRow, SessionStatus};
use schema::{Conn, resumable_upload};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::described::{Ended, Session, Spoken, Whereabouts};
use super::protocol::{self, UPLOAD_EXPIRES, UPLOAD_LENGTH, UPLOAD_METADATA, UPLOAD_OFFSET};
use super::{check_alive, finish, holder, look};
use crate::Api;
use crate::auth::Caller;
use crate::envelope::Answer;
use crate::error::{ApiError, Refusal};
use crate::read::{read, write};
use crate::templates::keep::UploadView;
use crate::templates::uploads;
use crate::trail::Trail;
use crate::view::{Time, time, words};

/// An upload whose bytes come in several goes.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct FileView {
    id: String,
    #[schemars(extend("enum" = words(SessionStatus::ALL, SessionStatus::as_str)))]
    state: &'static str,
    /// Bytes that are safely stored.
    offset: i64,
    /// Bytes that there will be.
    length: i64,
    /// Until when it can be gone on with, or asked about once it is over.
    expires: Option<Time>,
    /// What `POST /templates/upload` answers, once it is done.
    #[schemars(with = "Option<UploadView>")]
    upload: Option<Value>,
    /// Why it failed, or why finishing it was put off.
    error: Option<ErrorView>,
}

/// What an answer would have said.
#[derive(Debug, Serialize, JsonSchema)]
struct ErrorView {
    code: i32,
    reason: String,
    message: String,
}

impl FileView {
    fn new(row: SessionRow) -> Self {
        let error = row.error_code.map(|code| ErrorView {
            code,
            reason: row.error_reason.unwrap_or_default(),
            message: row.error_message.unwrap_or_default(),
        });
        Self {
            state: row.status.as_str(),
            offset: row.received_bytes,
            length: row.total_bytes,
            expires: time(Some(row.expires_at)),
            // We wrote it.
            upload: row.result.and_then(|text| serde_json::from_str(&text).ok()),
            error,
            id: row.id,
        }
    }
}

/// `GET /files/{id}`: what became of it, for whoever wants to know more than how far it is.
pub(super) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Session(id): Session,
) -> Result<Answer<FileView>, ApiError> {
    let row = read(&api.db, async |conn: &mut Conn| look(conn, &id, &caller).await).await??;
    Ok(Answer(FileView::new(row)))
}

/// `HEAD /files/{id}`: where to go on.
pub(super) async fn head(
    State(api): State<Api>,
    caller: Caller,
    Session(id): Session,
    Spoken: Spoken,
) -> Result<Whereabouts, ApiError> {
    let row = read(&api.db, async |conn: &mut Conn| look(conn, &id, &caller).await).await??;
    check_alive(&row, schema::now())?;
    let mut response = protocol::answer(
        StatusCode::OK,
        [
            (UPLOAD_OFFSET, row.received_bytes.to_string()),
            (UPLOAD_LENGTH, row.total_bytes.to_string()),
            (UPLOAD_METADATA, row.metadata),
        ],
    );
    if row.status == SessionStatus::Receiving {
        let expires =
            protocol::answer(StatusCode::OK, [(UPLOAD_EXPIRES, protocol::date(row.expires_at))]);
        response.headers_mut().extend(expires.headers().clone());
    }
    Ok(Whereabouts(response))
}

/// `DELETE /files/{id}`: ends it, and nothing of it stays but what became a template.
pub(super) async fn terminate(
    State(api): State<Api>,
    caller: Caller,
    Session(id): Session,
    Spoken: Spoken,
) -> Result<Ended, ApiError> {
    let mut trail = Trail::new(caller.clone(), "upload.terminate", "template", None);
    let ended = end(&api, &caller, &id, &mut trail).await;
    trail.told(&api, ended).await?;
    Ok(Ended(protocol::answer(StatusCode::NO_CONTENT, [])))
}

async fn end(
    api: &Api,
    caller: &Caller,
    id: &SessionId,
    trail: &mut Trail,
) -> Result<(), ApiError> {
    let uploads = uploads::of(api)?;
    let row = read(&api.db, async |conn: &mut Conn| look(conn, id, caller).await).await??;
    trail.object_name =
        protocol::form(&row.metadata).ok().and_then(|form| form.template_name().map(str::to_owned));
    let why = Failure {
        code: StatusCode::GONE.as_u16(),
        reason: "terminated",
        message: "whoever began it ended it",
    };
    let end = async |conn: &mut Conn| {
        let now = schema::now();
        let row = match look(conn, id, caller).await? {
            Ok(row) => row,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if !row.status.is_final() {
            if row.status == SessionStatus::Finishing || row.is_held(now, holder(&uploads)) {
                return Ok(Err(under_way()));
            }
            let epoch = row.epoch + 1;
            let held = resumable_upload::hold(conn, &row, holder(&uploads), now).await?;
            if held == Swap::Stale
                || resumable_upload::fail(conn, &row.id, epoch, why, now).await? == Swap::Stale
            {
                return Ok(Err(under_way()));
            }
        }
        resumable_upload::forget(conn, &row.id).await?;
        trail.done(conn).await?;
        Ok(Ok(row))
    };
    let row = write(&api.db, end).await??;
    if !row.status.is_final() {
        api.metrics.resumable.ended("terminated");
    }
    finish::discard(&uploads, &row).await;
    Ok(())
}

fn under_way() -> Refusal {
    let message = "a request of this upload is under way, or its image is being put away; try \
                   again when that has ended";
    Refusal::new(StatusCode::LOCKED, "upload_busy", message)
}
