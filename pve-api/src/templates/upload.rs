//! `POST /templates/upload`: an image comes in and becomes a template wherever it was asked for.
//!
//! ```text
//! headers --> slot --> fields ... file ... fields --> | store, look at the image, rows --> answer
//!                        (decide before the bytes)    | goes on without the client
//! ```
//!
//! Until the last byte the client can end it by hanging up, and nothing stays. From then on the
//! rest is done whether the client waits for the answer or not.

use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use multer::{Field, Multipart};
use schema::image_format::Refused;
use schema::images::ImageWriter;
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument as _;

use super::form::{FILE, Form, Wanted};
use super::form_request::FormRequest;
use super::intake::{Ended, Intake, Taken};
use super::keep::{UploadView, decide_now, keep, wrong_image};
use super::uploads::{self, Uploads, content_length, too_large};
use crate::Api;
use crate::auth::Caller;
use crate::envelope::Answer;
use crate::error::{ApiError, Refusal, panicked};
use crate::linger;
use crate::metrics::UploadCount;
use crate::trail::Trail;

/// What is around the file: fields and the headers of parts.
const AROUND: u64 = 1024 * 1024;
const LONGEST_TEXT: usize = 64 * 1024;

/// `POST /templates/upload`
pub(crate) async fn upload(
    State(api): State<Api>,
    caller: Caller,
    FormRequest(request): FormRequest,
) -> Result<Answer<UploadView>, ApiError> {
    let tasks = api.settings.tasks.clone();
    // In a task of its own from the first byte on: a server that sees its client go drops the
    // handler, whether or not it has read what the client had sent by then. A body that is not
    // whole ends this too.
    let work = async move {
        let mut count = api.metrics.uploads.begin();
        let mut trail = Trail::new(caller, "template.upload", "template", None);
        let outcome = match receive(&api, &mut trail, &mut count, request).await {
            Ok(Received { uploads, wanted, writer, _slot }) => {
                let finish = writer.finish(wanted.sha256.as_deref());
                keep(&api, &trail, &uploads, &wanted, finish, None).await
            }
            Err(error) => Err(error),
        };
        count.end(outcome.as_ref().err());
        trail.told(&api, outcome).await
    };
    tasks.spawn(work.in_current_span()).await.map_err(panicked)?.map(Answer)
}

/// An upload of which every byte came.
struct Received {
    uploads: Uploads,
    wanted: Wanted,
    writer: ImageWriter,
    _slot: OwnedSemaphorePermit,
}

/// Reads an upload whole. Dropped, or at an error, nothing of it stays.
async fn receive(
    api: &Api,
    trail: &mut Trail,
    count: &mut UploadCount,
    request: Request,
) -> Result<Received, ApiError> {
    let (head, body) = request.into_parts();
    let waits = linger::waits(&head.headers);
    // From here on a client that is refused is listened to for a while.
    let (intake, taken) = Intake::new(body, waits, api.settings.tasks.clone());
    let uploads = uploads::of(api)?;
    let boundary = boundary(&head.headers)?;
    let most = uploads.max_bytes.saturating_add(AROUND);
    if content_length(&head.headers).is_some_and(|bytes| bytes > most) {
        return Err(too_large(uploads.max_bytes));
    }
    let slot = uploads.slot()?;
    let mut parts = Multipart::new(intake, boundary);

    let mut form = Form::default();
    let mut writer = None;
    // Whether what is known by now was decided on.
    let mut decided = false;
    while let Some(field) = parts.next_field().await.map_err(|error| broken(&error))? {
        let name = form.begin(field.name())?;
        if name == FILE {
            form.file(field.file_name())?;
            if form.is_complete() {
                decide_now(api, trail, &form).await?;
                decided = true;
            }
            let mut open = uploads.store.create().await?;
            let bytes = file(field, &mut open, &taken, count, uploads.max_bytes).await;
            if let Err(error) = bytes {
                open.abort().await;
                return Err(error);
            }
            writer = Some(open);
        } else {
            let text = text(name, field, &taken).await?;
            form.text(name, text)?;
            trail.object_name = form.template_name().map(str::to_owned);
            decided = false;
        }
    }
    let wanted = form.wanted()?;
    if !decided {
        decide_now(api, trail, &form).await?;
    }
    let writer = writer.ok_or_else(|| ApiError::invalid(FILE, "the upload lacks file"))?;
    Ok(Received { uploads, wanted, writer, _slot: slot })
}

/// Brings the bytes of the file to the store.
async fn file(
    mut field: Field<'_>,
    writer: &mut ImageWriter,
    taken: &Taken,
    count: &UploadCount,
    max_bytes: u64,
) -> Result<(), ApiError> {
    while let Some(chunk) = field.chunk().await.map_err(|error| broken(&error))? {
        taken.add(chunk.len());
        count.received(chunk.len());
        if writer.bytes() + chunk.len() as u64 > max_bytes {
            return Err(too_large(max_bytes));
        }
        writer.write(chunk).await?;
    }
    if writer.bytes() == 0 {
        return Err(wrong_image(Refused { reason: "the file is empty: send it again".to_owned() }));
    }
    Ok(())
}

async fn text(name: &'static str, mut field: Field<'_>, taken: &Taken) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(|error| broken(&error))? {
        taken.add(chunk.len());
        if bytes.len() + chunk.len() > LONGEST_TEXT {
            let message = format!("{name} has more than {LONGEST_TEXT} bytes");
            return Err(ApiError::invalid(name, message));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| ApiError::invalid(name, format!("{name} is not UTF-8")))
}

fn boundary(headers: &HeaderMap) -> Result<String, ApiError> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    multer::parse_boundary(kind.unwrap_or_default()).map_err(|_| {
        let message = "send a form with the file, as multipart/form-data: with curl, \
                       -F \"template_name=…\" … -F \"file=@disk.qcow2\"";
        ApiError::invalid("content-type", message)
    })
}

/// A body that is no form, or ended early.
fn broken(error: &multer::Error) -> ApiError {
    if let multer::Error::StreamReadFailed(cause) = error
        && let Some(ended) = cause.downcast_ref::<Ended>()
    {
        return (*ended).into();
    }
    let message = format!("the form can not be read: {error}; was it cut off?");
    Refusal::new(StatusCode::BAD_REQUEST, "malformed", message).into()
}
