//! `GET /images/{prefix}/{file}?t=TOKEN`: an image, for the node that was told to fetch it.
//!
//! The token is all that a node can send, and says what it may have (see [`schema::image_url`]);
//! whether the attempt that it was given for is still wanted is in the tables. Whoever has a slot
//! gets the bytes, however slowly: PVE's wget takes a refusal for the end.

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE,
    RANGE,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use schema::image_url::{Grant, ImageUrlKey, url_prefix};
use schema::images::{ImageStore, ObjectName};
use schema::instance::{self, Desired, InstanceRow};
use schema::upload::{self, UploadRow};
use schema::{ClusterId, Conn};

use crate::Api;
use crate::error::{ApiError, Refusal};
use crate::query::Query;
use crate::range::{self, Asked};
use crate::read::{read, write};

/// Where an image is asked for. Its token is never shown.
pub(crate) struct Address {
    prefix: String,
    file: String,
    token: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Address {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((prefix, file)) = path.map_err(|_| denied())?;
        let Ok(mut query) = Query::from_request_parts(parts, state).await;
        let token = query.token().ok_or_else(denied)?;
        Ok(Self { prefix, file, token })
    }
}

/// `GET` and `HEAD /images/{prefix}/{file}`
pub(crate) async fn serve(
    State(api): State<Api>,
    address: Result<Address, ApiError>,
    headers: HeaderMap,
) -> Response {
    let outcome = match address {
        Ok(address) => find(&api, &address, &headers).await,
        Err(error) => Err(error),
    };
    let (response, result) = match outcome {
        Ok(response) => {
            let result = match response.status() {
                StatusCode::OK => "whole",
                StatusCode::PARTIAL_CONTENT => "part",
                _ => "beyond",
            };
            (response, result)
        }
        Err(error) => {
            let result = if error.is_callers() { "denied" } else { "failed" };
            (error.into_response(), result)
        }
    };
    api.metrics.images.request(result);
    response
}

async fn find(api: &Api, address: &Address, headers: &HeaderMap) -> Result<Response, ApiError> {
    let store = api.uploads.as_ref().map(|uploads| &uploads.store);
    let store = store.ok_or_else(|| {
        let message = "this API has no image store";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "no_image_store", message)
    })?;
    let grant = key(api).await?.verify(&address.token, &address.file, now()).map_err(|why| {
        tracing::info!(%why, file = address.file, "An image was refused");
        denied()
    })?;
    let rows = read(&api.db, async |conn: &mut Conn| {
        let instance = instance::get(conn, grant.instance_id).await?;
        Ok((instance, upload::get(conn, grant.upload_id).await?))
    });
    let (instance, upload) = rows.await?;
    let (upload, object) = wanted(&grant, &address.prefix, instance.as_ref(), upload.as_ref())
        .ok_or_else(|| {
            tracing::info!(
                instance = grant.instance_id.0,
                attempt = grant.attempt,
                node = grant.node,
                "An image was refused: nobody wants it there any more"
            );
            denied()
        })?;
    answer(api, store, grant.cluster_id, upload, object, headers).await
}

/// Pure: the image that a grant opens, as long as the attempt that it is for is the one that is
/// wanted.
fn wanted<'a>(
    grant: &Grant,
    prefix: &str,
    instance: Option<&InstanceRow>,
    upload: Option<&'a UploadRow>,
) -> Option<(&'a UploadRow, ObjectName)> {
    let instance = instance.filter(|it| {
        it.deleted_id == 0
            && it.desired == Desired::Available
            && it.told.attempt == grant.attempt
            && it.upload_id == grant.upload_id
            && it.cluster_id == grant.cluster_id
            && it.node_name == grant.node
    })?;
    let upload = upload.filter(|it| {
        it.deleted_id == 0
            && it.id == instance.upload_id
            && it.sha512.as_deref().is_some_and(|sha512| url_prefix(sha512) == prefix)
    })?;
    let object = upload.file_path.as_deref()?.parse().ok()?;
    Some((upload, object))
}

async fn answer(
    api: &Api,
    store: &ImageStore,
    cluster: ClusterId,
    upload: &UploadRow,
    object: ObjectName,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let length = store.stat(&object).await?.ok_or_else(|| {
        tracing::error!(upload = upload.id.0, %object, "The image of an upload is not in the store");
        Refusal::new(StatusCode::NOT_FOUND, "not_found", "the image is not in the store")
    })?;
    let tag = format!("\"{}\"", upload.sha256.as_deref().unwrap_or_default());
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    // A part of something else is no use.
    let same = text(IF_RANGE).is_none_or(|seen| seen == tag);
    let range = range::parse(text(RANGE).filter(|_| same), length);

    let mut response = match range {
        Asked::Beyond => {
            let mut response = StatusCode::RANGE_NOT_SATISFIABLE.into_response();
            set(&mut response, CONTENT_RANGE, &format!("bytes */{length}"));
            response
        }
        Asked::Whole => body(api, store, cluster, &object, 0..length).await?,
        Asked::Part(range) => {
            let shown = format!("bytes {}-{}/{length}", range.start, range.end - 1);
            let mut response = body(api, store, cluster, &object, range).await?;
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            set(&mut response, CONTENT_RANGE, &shown);
            response
        }
    };
    set(&mut response, ACCEPT_RANGES, "bytes");
    set(&mut response, CACHE_CONTROL, "private, no-transform");
    set(&mut response, ETAG, &tag);
    Ok(response)
}

/// The bytes, as they may leave.
async fn body(
    api: &Api,
    store: &ImageStore,
    cluster: ClusterId,
    object: &ObjectName,
    range: std::ops::Range<u64>,
) -> Result<Response, ApiError> {
    let length = range.end - range.start;
    let (throttle, served) = (api.throttle.clone(), api.metrics.images.clone());
    let bytes = store.read(object, range).await?.then(move |chunk| {
        let (throttle, served) = (throttle.clone(), served.clone());
        async move {
            match &chunk {
                Ok(bytes) => {
                    throttle.pass(cluster, bytes.len()).await;
                    served.bytes(bytes.len());
                }
                // The headers are away; the node sees a connection that breaks, and resumes.
                Err(error) => {
                    let error = error as &dyn std::error::Error;
                    tracing::warn!(error, "An image broke off");
                }
            }
            chunk
        }
    });
    let mut response = Body::from_stream(bytes).into_response();
    set(&mut response, CONTENT_TYPE, "application/octet-stream");
    set(&mut response, CONTENT_LENGTH, &length.to_string());
    Ok(response)
}

fn set(response: &mut Response, name: axum::http::HeaderName, value: &str) {
    // Numbers and digests are visible ASCII.
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// The key of the installation, asked for once.
async fn key(api: &Api) -> Result<&ImageUrlKey, ApiError> {
    if let Some(key) = &api.settings.image_key {
        return Ok(key);
    }
    let make = async || {
        let make = async |conn: &mut Conn| ImageUrlKey::of_installation(conn, None).await;
        write(&api.db, make).await
    };
    api.image_key.get_or_try_init(make).await
}

fn now() -> i64 {
    schema::now().and_utc().timestamp()
}

/// Which of the reasons it is helps nobody who may have the image.
fn denied() -> ApiError {
    let message = "this address opens no image: it is wrong, has expired, or was given for an \
                   attempt that is over";
    Refusal::new(StatusCode::FORBIDDEN, "image_denied", message).into()
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Address").field("file", &self.file).finish_non_exhaustive()
    }
}
