//! What becomes of an image: decided before its bytes, and, once they are here, the store, the rows,
//! or nothing at all. Shared by all ways in which images come.

use std::time::Duration;

use axum::http::StatusCode;
use schema::cluster::Swap;
use schema::image_format::{Image, InspectError, Refused, inspect};
use schema::images::{Finished, ImageError};
use schema::resumable_upload::{self, SessionRow};
use schema::template_wish::{self, Inserted, NewUpload, Placement, Under};
use schema::{Conn, DbError, TemplateId, upload};
use schemars::JsonSchema;
use serde::Serialize;

use super::form::{FILE, Form, Wanted};
use super::uploads::Uploads;
use super::version::{self, Existing};
use super::views::{NodeView, TargetView};
use super::world;
use super::{placement, world::World};
use crate::Api;
use crate::error::{ApiError, Refusal};
use crate::read::{read, write};
use crate::trail::Trail;

/// Refuses what can not be done, as long as it costs nothing.
pub(super) async fn decide_now(api: &Api, trail: &mut Trail, form: &Form) -> Result<(), ApiError> {
    let wanted = form.wanted()?;
    let decision = read(&api.db, async |conn: &mut Conn| decide(conn, &wanted).await).await??;
    trail.cluster_name = Some(decision.cluster_name);
    Ok(())
}

/// Puts an upload into the store, as `finish` does it, and into the tables. Nobody can end it any
/// more.
pub(super) async fn keep(
    api: &Api,
    trail: &Trail,
    uploads: &Uploads,
    wanted: &Wanted,
    finish: impl Future<Output = Result<Finished, ImageError>> + Send,
    told: Option<Told<'_>>,
) -> Result<UploadView, ApiError> {
    let settled = uploads.settled.read().await;
    let image = finish.await?;
    let outcome = match inspect(&uploads.store, &image.object, &wanted.file_name).await {
        Ok(found) => rows(api, trail, wanted, &image, &found, told).await,
        Err(InspectError::Refused(refused)) => Err(wrong_image(refused)),
        Err(InspectError::Store(error)) => Err(error.into()),
        Err(other) => Err(wrong_image(Refused { reason: other.to_string() })),
    };
    drop(settled);
    // Another replica may be about to write the rows of this very image.
    // A commit that was not heard of may still be made: then a row refers to the image.
    let unsure =
        matches!(outcome, Err(ApiError::Slow | ApiError::Db(DbError::CommitUnknown { .. })));
    if outcome.is_err() && !unsure && still_held(api, told).await {
        discard(api, uploads, &image).await;
    }
    outcome
}

/// The session of an upload that came in several goes; it is told in the transaction of the rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told<'a> {
    pub row: &'a SessionRow,
    /// For how long it is known what became of it.
    pub kept_for: Duration,
}

impl Told<'_> {
    async fn hold(self, conn: &mut Conn) -> Result<Swap, DbError> {
        resumable_upload::renew(conn, &self.row.id, self.row.epoch, schema::now()).await
    }

    async fn complete(self, conn: &mut Conn, view: &UploadView) -> Result<(), DbError> {
        let until = resumable_upload::after(schema::now(), self.kept_for);
        let (id, epoch) = (&self.row.id, self.row.epoch);
        // Numbers and names: there is no way to fail.
        let result = serde_json::to_string(view).unwrap_or_default();
        match resumable_upload::complete(conn, id, epoch, &result, until).await? {
            Swap::Done => Ok(()),
            // Undoes the rows.
            Swap::Stale => Err(DbError::Conflict { what: format!("the state of upload {id}") }),
        }
    }
}

/// Whether nobody else can have gone on with it.
async fn still_held(api: &Api, told: Option<Told<'_>>) -> bool {
    let Some(told) = told else { return true };
    let hold = async |conn: &mut Conn| -> Result<Swap, DbError> { told.hold(conn).await };
    matches!(write(&api.db, hold).await, Ok(Swap::Done))
}

/// What is to become of an upload.
#[derive(Debug)]
pub(super) struct Decision {
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

/// How long the tables are waited for once an image is in the store.
const ROWS_PATIENCE: Duration = Duration::from_mins(2);

/// Writes the rows; while the database is away it is asked again for a while.
async fn rows(
    api: &Api,
    trail: &Trail,
    wanted: &Wanted,
    image: &Finished,
    found: &Image,
    told: Option<Told<'_>>,
) -> Result<UploadView, ApiError> {
    let patience = tokio::time::Instant::now() + ROWS_PATIENCE;
    loop {
        let insert = async |conn: &mut Conn| insert(conn, trail, wanted, image, found, told).await;
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
    told: Option<Told<'_>>,
) -> Result<Result<UploadView, Refusal>, DbError> {
    if let Some(told) = told
        && told.hold(conn).await? == Swap::Stale
    {
        let message = "another replica goes on with this upload";
        return Ok(Err(Refusal::conflict("taken_over", message)));
    }
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
    let view = UploadView::new(&decision, &inserted);
    if let Some(told) = told {
        told.complete(conn, &view).await?;
    }
    Ok(Ok(view))
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
