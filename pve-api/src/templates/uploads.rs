//! What all uploads share, and how they are refused alike.

use std::sync::Arc;

use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, StatusCode};
use schema::images::ImageStore;
use tokio::sync::{OwnedSemaphorePermit, RwLock, Semaphore};

use super::form::FILE;
use super::intake::Ended;
use crate::Api;
use crate::error::{ApiError, Refusal};

/// What uploads share.
#[derive(Clone, Debug)]
pub(crate) struct Uploads {
    pub store: ImageStore,
    pub max_bytes: u64,
    /// This process, to others that hold uploads.
    pub(super) holder: Arc<str>,
    slots: Arc<Semaphore>,
    /// Held for reading from before an image is in the store until its row is in the tables, and
    /// for writing by whoever takes an image out again: two uploads may be of the same content.
    pub(super) settled: Arc<RwLock<()>>,
}

impl Uploads {
    pub(crate) fn new(store: ImageStore, max_bytes: u64, at_once: usize) -> Self {
        let slots = Arc::new(Semaphore::new(at_once.min(Semaphore::MAX_PERMITS)));
        let holder = format!("{:032x}", rand::random::<u128>()).into();
        Self { store, max_bytes, holder, slots, settled: Arc::default() }
    }
    /// A place among those that come in at once, until it is dropped.
    pub(super) fn slot(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.slots).try_acquire_owned().map_err(|_| all_slots_taken())
    }
}

/// The store, if there is one.
pub(super) fn of(api: &Api) -> Result<Uploads, ApiError> {
    api.uploads.clone().ok_or_else(no_store)
}

pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn no_store() -> ApiError {
    let message = "this API has no image store; an administrator has to start it with --images";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "no_image_store", message).into()
}

fn all_slots_taken() -> ApiError {
    let message = "as many uploads as this API takes at once (--max-uploads) are under way; try \
                   again when one of them has ended";
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too_many_uploads", message).into()
}

pub(super) fn too_large(most: u64) -> ApiError {
    let message = format!(
        "the file has more than {most} bytes, which is the most that is taken (--max-upload-bytes)"
    );
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message).of_field(FILE).into()
}

impl From<Ended> for ApiError {
    fn from(ended: Ended) -> Self {
        let (status, reason) = match ended {
            Ended::Lost => (StatusCode::BAD_REQUEST, "hung_up"),
            Ended::Quiet => (StatusCode::REQUEST_TIMEOUT, "stalled"),
            Ended::Bloated => (StatusCode::BAD_REQUEST, "malformed"),
        };
        Refusal::new(status, reason, ended.to_string()).into()
    }
}
