//! What becomes of a session whose bytes are all there: what becomes of any upload, and the session
//! says so in the same transaction.

use axum::http::StatusCode;
use schema::cluster::Swap;
use schema::images::ImageError;
use schema::resumable_upload::{Failure, LEASE, SessionRow, after};
use schema::{Conn, DbError, resumable_upload};

use super::{bytes, id_of, protocol};
use crate::Api;
use crate::error::{ApiError, Refusal};
use crate::read::write;
use crate::templates::keep::{Told, UploadView, decide_now, keep};
use crate::templates::uploads::Uploads;
use crate::trail::Trail;

/// Finishes a session that this process holds. Dropped, somebody else does, once the lease is over.
///
/// # Errors
///
/// What is the caller's fault is the end of the session; else it stays as it is, to be tried again.
pub(super) async fn finish(
    api: &Api,
    uploads: &Uploads,
    row: &SessionRow,
    mut trail: Trail,
) -> Result<UploadView, ApiError> {
    let outcome = tokio::select! {
        outcome = image(api, uploads, row, &mut trail) => outcome,
        () = lease_lost(api, row) => Err(lost().into()),
    };
    if let Err(error) = &outcome
        && error.reason() == LOST
    {
        return outcome;
    }
    let outcome = trail.told(api, outcome).await;
    let ended = match &outcome {
        Ok(_) => {
            api.metrics.resumable.ended("done");
            true
        }
        Err(error) => end(api, row, error).await,
    };
    if ended {
        discard(uploads, row).await;
    }
    outcome
}

async fn image(
    api: &Api,
    uploads: &Uploads,
    row: &SessionRow,
    trail: &mut Trail,
) -> Result<UploadView, ApiError> {
    let form = protocol::form(&row.metadata)?;
    let wanted = form.wanted()?;
    trail.object_name = Some(wanted.template_name.clone());
    // Before the bytes are read once more: what was possible when it began may not be now.
    decide_now(api, trail, &form).await?;
    let gathered = uploads.store.gather(&id_of(row)?, bytes(row.total_bytes)).await;
    let gathered = gathered.map_err(missing)?;
    let finish = gathered.finish(wanted.sha256.as_deref());
    let told = Told { row, kept_for: api.settings.resumable_expires };
    keep(api, trail, uploads, &wanted, finish, Some(told)).await
}

/// Holds the session until that fails.
async fn lease_lost(api: &Api, row: &SessionRow) {
    loop {
        tokio::time::sleep(LEASE / 3).await;
        let renew = async |conn: &mut Conn| -> Result<Swap, DbError> {
            resumable_upload::renew(conn, &row.id, row.epoch, schema::now()).await
        };
        match write(&api.db, renew).await {
            Ok(Swap::Done) => {}
            Ok(Swap::Stale) => return,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "An upload that is being finished could not be held");
            }
        }
    }
}

/// Tells the session of an error, and says whether that is its end.
pub(super) async fn end(api: &Api, row: &SessionRow, error: &ApiError) -> bool {
    let message = error.message();
    let why = Failure { code: error.code(), reason: error.reason(), message: &message };
    // Somebody of this process may be at it still, though the lease is over.
    let going = matches!(error, ApiError::Store(ImageError::Going));
    let is_final = error.is_callers() && !going;
    let kept_until = after(schema::now(), api.settings.resumable_expires);
    let tell = async |conn: &mut Conn| -> Result<Swap, DbError> {
        if is_final {
            resumable_upload::fail(conn, &row.id, row.epoch, why, kept_until).await
        } else {
            resumable_upload::put_off(conn, &row.id, row.epoch, why).await
        }
    };
    match write(&api.db, tell).await {
        Ok(Swap::Done) if is_final => {
            api.metrics.resumable.ended(if error.reason() == "upload_expired" {
                "expired"
            } else {
                "failed"
            });
            true
        }
        Ok(_) => false,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "What became of an upload was not written down");
            false
        }
    }
}

/// Throws the bytes of a session away that is over; what stays is swept.
pub(super) async fn discard(uploads: &Uploads, row: &SessionRow) {
    let Ok(id) = id_of(row) else { return };
    if let Err(error) = uploads.store.discard(&id).await {
        let error = &error as &dyn std::error::Error;
        tracing::debug!(error, "Bytes of an upload that is over stay for a while");
    }
}

/// Bytes that the row tells of and the store has not: somebody took them away.
pub(super) fn missing(error: ImageError) -> ApiError {
    if !matches!(error, ImageError::NotWhole) {
        return error.into();
    }
    let message = "bytes of this upload are no longer in the image store; begin another";
    Refusal::new(StatusCode::GONE, "bytes_missing", message).into()
}

const LOST: &str = "taken_over";

fn lost() -> Refusal {
    Refusal::conflict(LOST, "another replica goes on with this upload")
}
