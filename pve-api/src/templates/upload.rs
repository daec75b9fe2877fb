//! `POST /templates/upload`: an image comes in and becomes a template wherever it was asked for.
//!
//! ```text
//! headers --> slot --> fields ... file ... fields --> | store, look at the image, rows --> answer
//!                        (decide before the bytes)    | goes on without the client
//! ```
//!
//! Until the last byte the client can end it by hanging up, and nothing stays. From then on the
//! rest is done whether the client waits for the answer or not.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use multer::{Field, Multipart};
use schema::image_format::{Image, InspectError, Refused, inspect};
use schema::images::{Finished, ImageStore, ImageWriter};
use schema::template_wish::{self, Inserted, NewUpload, Placement, Under};
use schema::{Conn, DbError, TemplateId, upload};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, RwLock, Semaphore};
use tracing::Instrument as _;

use super::form::{FILE, Form, Wanted};
use super::form_request::FormRequest;
use super::intake::{Ended, Intake, Taken};
use super::version::{self, Existing};
use super::views::{NodeView, TargetView};
use super::world;
use super::{placement, world::World};
use crate::Api;
use crate::auth::Caller;
use crate::envelope::Answer;
use crate::error::{ApiError, Refusal};
use crate::linger;
use crate::metrics::UploadCount;
use crate::read::{read, write};
use crate::trail::Trail;

/// What uploads share.
#[derive(Clone, Debug)]
pub(crate) struct Uploads {
    pub store: ImageStore,
    pub max_bytes: u64,
    slots: Arc<Semaphore>,
    /// Held for reading from before an image is in the store until its row is in the tables, and
    /// for writing by whoever takes an image out again: two uploads may be of the same content.
    settled: Arc<RwLock<()>>,
}

impl Uploads {
    pub(crate) fn new(store: ImageStore, max_bytes: u64, at_once: usize) -> Self {
        let slots = Arc::new(Semaphore::new(at_once.min(Semaphore::MAX_PERMITS)));
        Self { store, max_bytes, slots, settled: Arc::default() }
    }
}

/// What is around the file: fields and the headers of parts.
const AROUND: u64 = 1024 * 1024;
const LONGEST_TEXT: usize = 64 * 1024;

/// How long the tables are waited for once an image is in the store.
const ROWS_PATIENCE: Duration = Duration::from_mins(2);

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
            Ok(received) => keep(&api, &trail, received).await,
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
    let uploads = api.uploads.clone().ok_or_else(no_store)?;
    let boundary = boundary(&head.headers)?;
    let most = uploads.max_bytes.saturating_add(AROUND);
    if content_length(&head.headers).is_some_and(|bytes| bytes > most) {
        return Err(too_large(uploads.max_bytes));
    }
    let slot = Arc::clone(&uploads.slots).try_acquire_owned().map_err(|_| all_slots_taken())?;
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

/// Refuses what can not be done, as long as it costs nothing.
async fn decide_now(api: &Api, trail: &mut Trail, form: &Form) -> Result<(), ApiError> {
    let wanted = form.wanted()?;
    let decision = read(&api.db, async |conn: &mut Conn| decide(conn, &wanted).await).await??;
    trail.cluster_name = Some(decision.cluster_name);
    Ok(())
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

/// What is to become of an upload.
#[derive(Debug)]
struct Decision {
    cluster_name: String,
    storage_name: String,
    storage_type: String,
    is_shared: bool,
    placement: Placement,
    template: Option<TemplateId>,
    version: i32,
}

/// Looks and decides, before the bytes and once more with the rows.
async fn decide(conn: &mut Conn, wanted: &Wanted) -> Result<Result<Decision, Refusal>, DbError> {
    let storage = schema::storage::get(conn, wanted.storage_id).await?;
    let world = world::look(conn, wanted.cluster_id).await?;
    let existing = match template_wish::named(conn, wanted.cluster_id, &wanted.template_name)
        .await?
    {
        None => None,
        Some(template) => {
            let versions = upload::of_template(conn, template.id).await?;
            Some(Existing { template, versions: versions.iter().map(|it| it.version).collect() })
        }
    };
    let elsewhere = storage.is_some_and(|storage| storage.row.cluster_id != wanted.cluster_id);
    Ok(plan(world.as_ref(), elsewhere, existing.as_ref(), wanted))
}

/// Pure: where an upload goes and as which version, or why not.
fn plan(
    world: Option<&World>,
    storage_is_elsewhere: bool,
    existing: Option<&Existing>,
    wanted: &Wanted,
) -> Result<Decision, Refusal> {
    let world = world.ok_or_else(|| {
        let message = format!("there is no cluster with id {}", wanted.cluster_id);
        Refusal::impossible("unknown_cluster", message).of_field("cluster_id")
    })?;
    let cluster = &world.cluster.cluster_name;
    placement::importable(world, wanted.kind)?;
    let storage = world.storage(wanted.storage_id).ok_or_else(|| {
        let id = wanted.storage_id;
        let (reason, message) = if storage_is_elsewhere {
            (
                "foreign_storage",
                format!("the storage with id {id} belongs to another cluster than `{cluster}`"),
            )
        } else {
            (
                "unknown_storage",
                format!("there is no storage with id {id}; GET /api/v1/storages lists them"),
            )
        };
        Refusal::impossible(reason, message).of_field("storage_id")
    })?;
    let placement = placement::place(world, storage, &wanted.copies)?;
    let version = version::next(existing, &wanted.template_name, cluster, wanted.version)?;
    Ok(Decision {
        cluster_name: cluster.clone(),
        storage_name: storage.synced.key.storage_name.clone(),
        storage_type: storage.synced.kind.clone(),
        is_shared: storage.synced.shared.0,
        placement,
        template: existing.map(|existing| existing.template.id),
        version,
    })
}

/// Puts an upload into the store and the tables. Nobody can end it any more.
async fn keep(api: &Api, trail: &Trail, received: Received) -> Result<UploadView, ApiError> {
    let Received { uploads, wanted, writer, _slot } = received;
    let settled = uploads.settled.read().await;
    let image = writer.finish(wanted.sha256.as_deref()).await?;
    let outcome = match inspect(&uploads.store, &image.object, &wanted.file_name).await {
        Ok(found) => rows(api, trail, &wanted, &image, &found).await,
        Err(InspectError::Refused(refused)) => Err(wrong_image(refused)),
        Err(InspectError::Store(error)) => Err(error.into()),
        Err(other) => Err(wrong_image(Refused { reason: other.to_string() })),
    };
    drop(settled);
    if outcome.is_err() {
        discard(api, &uploads, &image).await;
    }
    outcome
}

/// Writes the rows; while the database is away it is asked again for a while.
async fn rows(
    api: &Api,
    trail: &Trail,
    wanted: &Wanted,
    image: &Finished,
    found: &Image,
) -> Result<UploadView, ApiError> {
    let patience = tokio::time::Instant::now() + ROWS_PATIENCE;
    loop {
        let insert = async |conn: &mut Conn| insert(conn, trail, wanted, image, found).await;
        match write(&api.db, insert).await {
            Ok(outcome) => return Ok(outcome?),
            // Whether it is in the tables is for people to look.
            Err(error @ ApiError::Db(DbError::CommitUnknown { .. })) => return Err(error),
            Err(ApiError::Db(error)) if error.is_transient() && waits(patience) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "An upload waits for the database"
                );
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn waits(patience: tokio::time::Instant) -> bool {
    tokio::time::Instant::now() < patience
}

async fn insert(
    conn: &mut Conn,
    trail: &Trail,
    wanted: &Wanted,
    image: &Finished,
    found: &Image,
) -> Result<Result<UploadView, Refusal>, DbError> {
    let decision = match decide(conn, wanted).await? {
        Ok(decision) => decision,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let under = match decision.template {
        Some(id) => Under::Existing(id),
        None => {
            Under::New { name: &wanted.template_name, description: wanted.description.as_deref() }
        }
    };
    let new = NewUpload {
        under,
        version: decision.version,
        cluster_id: wanted.cluster_id,
        storage_id: wanted.storage_id,
        storage_name: &decision.storage_name,
        storage_type: &decision.storage_type,
        is_shared: decision.is_shared,
        file_name: &wanted.file_name,
        file_path: image.object.as_str(),
        file_size: i64::try_from(image.bytes).unwrap_or(i64::MAX),
        file_format: found.format.extension(),
        virtual_size: i64::try_from(found.virtual_size).ok(),
        ova_disk: found.disk.as_deref(),
        sha256: &image.sha256,
        sha512: &image.sha512,
        os_type: wanted.os_type.as_deref(),
        cores: wanted.cores,
        memory_mb: wanted.memory_mb,
        bridge: wanted.bridge.as_deref(),
        creator: trail.actor(),
    };
    let inserted = template_wish::insert(conn, &new, &decision.placement).await?;
    trail.done(conn).await?;
    Ok(Ok(UploadView::new(&decision, &inserted)))
}

/// Takes an image out of the store again, unless somebody else's row refers to it.
async fn discard(api: &Api, uploads: &Uploads, image: &Finished) {
    let _alone = uploads.settled.write().await;
    let used = read(&api.db, async |conn: &mut Conn| upload::images_in_use(conn).await).await;
    match used {
        Ok(used) if used.iter().any(|name| name == image.object.as_str()) => {}
        Ok(_) => {
            if let Err(error) = uploads.store.delete(&image.object).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "A refused image stays in the store until it is collected");
            }
        }
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "A refused image stays in the store until it is collected");
        }
    }
}

/// The answer of the guide.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct UploadView {
    template_id: i64,
    upload_id: i64,
    storage_type: String,
    is_shared: bool,
    import_node: NodeView,
    sync_tasks: Vec<TargetView>,
}

impl UploadView {
    fn new(decision: &Decision, inserted: &Inserted) -> Self {
        let placement = &decision.placement;
        // On shared storage there are no tasks, and so none in the answer.
        let targets = placement.others.iter().zip(&inserted.tasks);
        Self {
            template_id: inserted.template_id.0,
            upload_id: inserted.upload_id.0,
            storage_type: decision.storage_type.clone(),
            is_shared: decision.is_shared,
            import_node: NodeView {
                node_id: placement.primary.node_id.0,
                node_name: placement.primary.node_name.clone(),
            },
            sync_tasks: targets.map(|(place, task)| TargetView::pending(place, *task)).collect(),
        }
    }
}

/// 415, with what is wrong with the image.
pub(super) fn wrong_image(refused: Refused) -> ApiError {
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Refusal::new(status, "wrong_image", refused.reason).of_field(FILE).into()
}

fn boundary(headers: &HeaderMap) -> Result<String, ApiError> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    multer::parse_boundary(kind.unwrap_or_default()).map_err(|_| {
        let message = "send a form with the file, as multipart/form-data: with curl, \
                       -F \"template_name=…\" … -F \"file=@disk.qcow2\"";
        ApiError::invalid("content-type", message)
    })
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
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

fn too_large(most: u64) -> ApiError {
    let message = format!(
        "the file has more than {most} bytes, which is the most that is taken (--max-upload-bytes)"
    );
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message).of_field(FILE).into()
}

/// A body that is no form, or ended early.
fn broken(error: &multer::Error) -> ApiError {
    if let multer::Error::StreamReadFailed(cause) = error
        && let Some(ended) = cause.downcast_ref::<Ended>()
    {
        let (status, reason) = match ended {
            Ended::Lost => (StatusCode::BAD_REQUEST, "hung_up"),
            Ended::Quiet => (StatusCode::REQUEST_TIMEOUT, "stalled"),
            Ended::Bloated => (StatusCode::BAD_REQUEST, "malformed"),
        };
        return Refusal::new(status, reason, ended.to_string()).into();
    }
    let message = format!("the form can not be read: {error}; was it cut off?");
    Refusal::new(StatusCode::BAD_REQUEST, "malformed", message).into()
}

fn panicked(error: tokio::task::JoinError) -> ApiError {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // Nobody aborts it but a runtime that ends.
        Err(_) => ApiError::Slow,
    }
}
