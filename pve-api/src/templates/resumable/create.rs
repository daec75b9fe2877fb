//! `POST /files`: an upload begins, and perhaps brings its first bytes along.

use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::Response;
use schema::image_format::Refused;
use schema::images::SessionId;
use schema::resumable_upload::{NewSession, after};
use schema::{Conn, resumable_upload};

use super::protocol::{self, UPLOAD_EXPIRES, UPLOAD_OFFSET};
use super::receive::{self, Come};
use crate::Api;
use crate::auth::Caller;
use crate::error::{ApiError, Refusal};
use crate::linger;
use crate::read::write;
use crate::routes::BASE;
use crate::templates::intake::Intake;
use crate::templates::keep::{decide_now, wrong_image};
use crate::templates::uploads::{self, too_large};
use crate::trail::Trail;

pub(super) async fn create(
    api: &Api,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    // From here on a client that is refused is listened to for a while.
    let waits = linger::waits(&head.headers);
    let (intake, taken) = Intake::new(body, waits, api.settings.tasks.clone());
    protocol::check_version(&head.headers)?;
    let uploads = uploads::of(api)?;
    let length = protocol::length(&head.headers)?;
    if length > uploads.max_bytes {
        return Err(too_large(uploads.max_bytes));
    }
    if length == 0 {
        return Err(wrong_image(Refused { reason: "the file is empty: send it again".to_owned() }));
    }
    let metadata = protocol::metadata(&head.headers)?;

    let id = SessionId::random();
    let mut trail = Trail::new(caller.clone(), "upload.create", "template", None);
    let expires = after(schema::now(), api.settings.resumable_expires);
    let begun = begin(api, &mut trail, &id, metadata, length, expires).await;
    trail.told(api, begun).await?;

    let location = (LOCATION, format!("{BASE}/files/{id}"));
    if !protocol::brings_bytes(&head.headers) {
        let expires = (UPLOAD_EXPIRES, protocol::date(expires));
        return Ok(protocol::answer(StatusCode::CREATED, [location, expires]));
    }
    let come = receive::go(api, &caller, &id, 0, &head.headers, (intake, taken)).await;
    match come {
        Ok(Come { offset, expires }) => {
            let offset = (UPLOAD_OFFSET, offset.to_string());
            let expires = (UPLOAD_EXPIRES, protocol::date(expires));
            Ok(protocol::answer(StatusCode::CREATED, [location, offset, expires]))
        }
        // It can be gone on with, so its place is said.
        Err(error) => {
            use axum::response::IntoResponse as _;
            let mut response = error.into_response();
            let begun = protocol::answer(StatusCode::CREATED, [location]);
            response.headers_mut().extend(begun.headers().clone());
            Ok(response)
        }
    }
}

/// Refuses what can not be done, as long as it costs nothing; else a row of it.
async fn begin(
    api: &Api,
    trail: &mut Trail,
    id: &SessionId,
    metadata: &str,
    length: u64,
    expires_at: schema::Timestamp,
) -> Result<(), ApiError> {
    let form = protocol::form(metadata)?;
    trail.object_name = form.template_name().map(str::to_owned);
    let wanted = form.wanted()?;
    decide_now(api, trail, &form).await?;
    let new = NewSession {
        id: id.as_str(),
        cluster_id: wanted.cluster_id,
        metadata,
        total_bytes: i64::try_from(length).unwrap_or(i64::MAX),
        expires_at,
        creator: trail.actor(),
    };
    let insert = async |conn: &mut Conn| {
        if resumable_upload::count_open(conn, new.creator).await? >= MOST_OPEN {
            return Ok(Err(too_many_open()));
        }
        resumable_upload::insert(conn, &new).await?;
        trail.done(conn).await.map(Ok)
    };
    Ok(write(&api.db, insert).await??)
}

/// For each token, because each is a row and perhaps a file until it expires.
const MOST_OPEN: i64 = 100;

fn too_many_open() -> Refusal {
    let message = format!(
        "{MOST_OPEN} uploads of this token are open; go on with one of them, or end it with DELETE"
    );
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too_many_uploads", message)
}
