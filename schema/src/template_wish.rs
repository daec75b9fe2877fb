//! What is wanted of templates: rows that the API makes, and the columns that are its own.
//!
//! ```text
//! insert --> template, upload, instances, tasks          one transaction each
//! add_copies, want_again, cancel, retire, forget         what was read must still hold
//! ```
//!
//! Whatever depends on what was read is a compare-and-set on the generation that was read, and a
//! row of the same key that came meanwhile is a collision: both are [`DbError::Busy`], so that
//! [`crate::Db::write`] runs the transaction again, which then reads the new state. All functions
//! are to be called within it.

use crate::instance::{Desired, InstanceRow, InstanceStatus};
use crate::revision::{self, Table};
use crate::sql::{self, Param, Sql};
use crate::sync_task::TaskStatus;
use crate::template::{Desired as TemplateDesired, TemplateRow, TemplateStatus};
use crate::upload::{UploadRow, UploadStatus};
use crate::{
    ClusterId, Conn, DbError, Flag, InstanceId, NodeId, Revision, StorageId, SyncTaskId,
    TemplateId, UploadId,
};

/// An image that came in.
#[derive(Clone, Copy, Debug)]
pub struct NewUpload<'a> {
    pub under: Under<'a>,
    pub version: i32,
    pub cluster_id: ClusterId,
    /// As the caller named it; the primary's.
    pub storage_id: StorageId,
    pub storage_name: &'a str,
    pub storage_type: &'a str,
    pub is_shared: bool,
    pub file_name: &'a str,
    /// Its name in the image store.
    pub file_path: &'a str,
    pub file_size: i64,
    pub file_format: &'a str,
    pub virtual_size: Option<i64>,
    pub ova_disk: Option<&'a str>,
    pub sha256: &'a str,
    pub sha512: &'a str,
    pub os_type: Option<&'a str>,
    pub cores: Option<i32>,
    pub memory_mb: Option<i32>,
    pub bridge: Option<&'a str>,
    pub creator: &'a str,
}

/// The template that an image is a version of.
#[derive(Clone, Copy, Debug)]
pub enum Under<'a> {
    New { name: &'a str, description: Option<&'a str> },
    Existing(TemplateId),
}

/// A node that is to have a template, and its storage there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    pub node_id: NodeId,
    pub node_name: String,
    pub storage_id: StorageId,
}

/// Where an image is to become a template.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Placement {
    /// Imports first; on shared storage it is the only one that imports.
    pub primary: Place,
    /// On local storage each gets a task; on shared storage they only see what the primary made.
    pub others: Vec<Place>,
}

/// The rows of an upload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Inserted {
    pub template_id: TemplateId,
    pub upload_id: UploadId,
    /// In the order of [`Placement::others`]; none on shared storage.
    pub tasks: Vec<SyncTaskId>,
}

/// The live template of that name.
pub async fn named(
    conn: &mut Conn,
    cluster_id: ClusterId,
    name: &str,
) -> Result<Option<TemplateRow>, DbError> {
    let row = Sql::new("SELECT * FROM vm_template WHERE deleted_id = 0 AND cluster_id = ")
        .bind(cluster_id)
        .and("template_name", Some(name));
    sql::first(conn, &row).await
}

/// Writes an image and all that is to become of it.
///
/// # Errors
///
/// [`DbError::Busy`] if the name or version was taken since the caller looked.
pub async fn insert(
    conn: &mut Conn,
    new: &NewUpload<'_>,
    placement: &Placement,
) -> Result<Inserted, DbError> {
    let template_id = match new.under {
        Under::Existing(id) => id,
        Under::New { name, description } => {
            let revision = revision::raise(conn, Table::Template).await?;
            let row = Sql::insert(
                "vm_template",
                [
                    ("template_name", name.into()),
                    ("cluster_id", new.cluster_id.into()),
                    ("description", description.into()),
                    ("revision", revision.into()),
                    ("creator", new.creator.into()),
                ],
            );
            TemplateId(sql::insert(conn, row).await.map_err(collided)?)
        }
    };
    let revision = revision::raise(conn, Table::Upload).await?;
    let upload_id = insert_upload(conn, new, template_id, &placement.primary, revision).await?;
    let upload = Version {
        template_id,
        upload_id,
        cluster_id: new.cluster_id,
        storage_name: new.storage_name,
        is_shared: new.is_shared,
        file_path: Some(new.file_path),
        file_size: new.file_size,
        source: (Some(placement.primary.node_id), Some(&placement.primary.node_name)),
    };
    let revisions = Revisions::raise(conn, !new.is_shared && !placement.others.is_empty()).await?;
    insert_instance(conn, &upload, &placement.primary, None, new.creator, revisions).await?;
    let tasks = insert_copies(conn, &upload, &placement.others, new.creator, revisions).await?;
    Ok(Inserted { template_id, upload_id, tasks })
}

/// Wants a version on further nodes of local storage, and says the tasks, in the same order.
///
/// # Errors
///
/// [`DbError::Busy`] if one of the nodes got it since the caller looked.
pub async fn add_copies(
    conn: &mut Conn,
    upload: &UploadRow,
    places: &[Place],
    creator: &str,
) -> Result<Vec<SyncTaskId>, DbError> {
    let upload = Version {
        template_id: upload.template_id,
        upload_id: upload.id,
        cluster_id: upload.cluster_id,
        storage_name: &upload.storage_name,
        is_shared: upload.is_shared.0,
        file_path: upload.file_path.as_deref(),
        file_size: upload.file_size,
        source: (upload.upload_node_id, upload.upload_node_name.as_deref()),
    };
    let revisions = Revisions::raise(conn, true).await?;
    insert_copies(conn, &upload, places, creator, revisions).await
}

/// Wants instances again, from the beginning: the task of each starts over, or, of a primary, its
/// upload.
///
/// # Errors
///
/// [`DbError::Busy`] if somebody else wanted something else of one since the caller looked.
pub async fn want_again(
    conn: &mut Conn,
    instances: &[&InstanceRow],
    modifier: &str,
) -> Result<(), DbError> {
    let uploads: Vec<UploadId> = instances
        .iter()
        .filter(|instance| instance.sync_task_id.is_none())
        .map(|instance| instance.upload_id)
        .collect();
    if !uploads.is_empty() {
        let revision = revision::raise(conn, Table::Upload).await?;
        let rows = Sql::new("UPDATE template_upload SET generation = generation + 1, modifier = ")
            .bind(modifier);
        sql::execute(conn, &touched(rows, revision).push(" WHERE id IN ").list(uploads)).await?;
    }
    if !instances.is_empty() {
        let revision = revision::raise(conn, Table::Instance).await?;
        for instance in instances {
            let row =
                Sql::new("UPDATE template_instance SET generation = generation + 1, desired = ")
                    .bind(Desired::Available)
                    .push(", modifier = ")
                    .bind(modifier);
            swap(conn, touched(row, revision), instance).await?;
        }
    }
    let tasks: Vec<SyncTaskId> = instances.iter().filter_map(|it| it.sync_task_id).collect();
    if !tasks.is_empty() {
        let revision = revision::raise(conn, Table::SyncTask).await?;
        let rows = Sql::new("UPDATE template_sync_task SET generation = generation + 1");
        sql::execute(conn, &touched(rows, revision).push(" WHERE id IN ").list(tasks)).await?;
    }
    Ok(())
}

/// Wants an instance no longer; what there is of it is cleaned up and its row stays.
///
/// # Errors
///
/// [`DbError::Busy`] if somebody else wanted something else of it since the caller looked.
pub async fn cancel(
    conn: &mut Conn,
    instance: &InstanceRow,
    modifier: &str,
) -> Result<(), DbError> {
    let revision = revision::raise(conn, Table::Instance).await?;
    let row = Sql::new("UPDATE template_instance SET desired = ")
        .bind(Desired::Cancelled)
        .push(", modifier = ")
        .bind(modifier);
    swap(conn, touched(row, revision), instance).await?;
    match instance.sync_task_id {
        Some(task) => touch_tasks(conn, ("id", task.into())).await,
        None => Ok(()),
    }
}

/// Wants a template and all its guests gone. The rows stay until PVE confirmed each.
pub async fn retire(conn: &mut Conn, id: TemplateId, modifier: &str) -> Result<(), DbError> {
    let revision = revision::raise(conn, Table::Template).await?;
    let row = Sql::new("UPDATE vm_template SET desired = ")
        .bind(TemplateDesired::Absent)
        .push(", modifier = ")
        .bind(modifier);
    sql::execute(conn, &touched(row, revision).push(" WHERE deleted_id = 0 AND id = ").bind(id))
        .await?;
    let revision = revision::raise(conn, Table::Instance).await?;
    let rows = Sql::new("UPDATE template_instance SET desired = ")
        .bind(Desired::Absent)
        .push(", modifier = ")
        .bind(modifier);
    let rows = touched(rows, revision).push(" WHERE deleted_id = 0 AND template_id = ").bind(id);
    sql::execute(conn, &rows).await?;
    touch_tasks(conn, ("template_id", id.into())).await
}

/// Marks the rows of a template as deleted; its guests stay, and are nobody's.
///
/// Nothing is left to do for it, so it is ended here.
pub async fn forget(conn: &mut Conn, id: TemplateId, modifier: &str) -> Result<(), DbError> {
    let revision = revision::raise(conn, Table::Template).await?;
    let row = Sql::new("UPDATE vm_template SET deleted_id = id, desired = ")
        .bind(TemplateDesired::Forgotten)
        .push(", status = ")
        .bind(TemplateStatus::Deleted)
        .push(", modifier = ")
        .bind(modifier);
    sql::execute(conn, &touched(row, revision).push(" WHERE deleted_id = 0 AND id = ").bind(id))
        .await?;
    for table in [Table::Upload, Table::Instance] {
        let revision = revision::raise(conn, table).await?;
        let rows = Sql::new(&format!("UPDATE {} SET deleted_id = id, modifier = ", table.name()))
            .bind(modifier);
        let rows =
            touched(rows, revision).push(" WHERE deleted_id = 0 AND template_id = ").bind(id);
        sql::execute(conn, &rows).await?;
    }
    touch_tasks(conn, ("template_id", id.into())).await
}

/// What the rows of one version have in common.
struct Version<'a> {
    template_id: TemplateId,
    upload_id: UploadId,
    cluster_id: ClusterId,
    storage_name: &'a str,
    is_shared: bool,
    file_path: Option<&'a str>,
    file_size: i64,
    source: (Option<NodeId>, Option<&'a str>),
}

/// Of the two tables that copies are in, raised in their order before either is written.
#[derive(Clone, Copy)]
struct Revisions {
    instances: Revision,
    /// None where no task is written.
    tasks: Option<Revision>,
}

impl Revisions {
    async fn raise(conn: &mut Conn, with_tasks: bool) -> Result<Self, DbError> {
        let instances = revision::raise(conn, Table::Instance).await?;
        let tasks =
            if with_tasks { Some(revision::raise(conn, Table::SyncTask).await?) } else { None };
        Ok(Self { instances, tasks })
    }
}

async fn insert_upload(
    conn: &mut Conn,
    new: &NewUpload<'_>,
    template_id: TemplateId,
    primary: &Place,
    revision: Revision,
) -> Result<UploadId, DbError> {
    let row = Sql::insert(
        "template_upload",
        [
            ("template_id", template_id.into()),
            ("version", new.version.into()),
            ("cluster_id", new.cluster_id.into()),
            ("storage_id", new.storage_id.into()),
            ("storage_name", new.storage_name.into()),
            ("storage_type", new.storage_type.into()),
            ("is_shared", Flag(new.is_shared).into()),
            ("upload_node_id", primary.node_id.into()),
            ("upload_node_name", (&primary.node_name).into()),
            ("file_name", new.file_name.into()),
            ("file_path", new.file_path.into()),
            ("file_size", new.file_size.into()),
            ("file_format", new.file_format.into()),
            ("virtual_size", new.virtual_size.into()),
            ("ova_disk", new.ova_disk.into()),
            ("sha256", new.sha256.into()),
            ("sha512", new.sha512.into()),
            ("os_type", new.os_type.into()),
            ("cores", new.cores.into()),
            ("memory_mb", new.memory_mb.into()),
            ("bridge", new.bridge.into()),
            ("status", UploadStatus::Uploaded.into()),
            ("revision", revision.into()),
            ("creator", new.creator.into()),
        ],
    );
    Ok(UploadId(sql::insert(conn, row).await.map_err(collided)?))
}

async fn insert_copies(
    conn: &mut Conn,
    upload: &Version<'_>,
    places: &[Place],
    creator: &str,
    revisions: Revisions,
) -> Result<Vec<SyncTaskId>, DbError> {
    let mut tasks = Vec::with_capacity(places.len());
    for place in places {
        let task = match revisions.tasks {
            None => None,
            Some(revision) => Some(insert_task(conn, upload, place, creator, revision).await?),
        };
        insert_instance(conn, upload, place, task, creator, revisions).await?;
        tasks.extend(task);
    }
    Ok(tasks)
}

async fn insert_task(
    conn: &mut Conn,
    upload: &Version<'_>,
    place: &Place,
    creator: &str,
    revision: Revision,
) -> Result<SyncTaskId, DbError> {
    let row = Sql::insert(
        "template_sync_task",
        [
            ("template_id", upload.template_id.into()),
            ("upload_id", upload.upload_id.into()),
            ("cluster_id", upload.cluster_id.into()),
            ("source_node_id", upload.source.0.into()),
            ("source_node_name", upload.source.1.into()),
            ("target_node_id", place.node_id.into()),
            ("target_node_name", (&place.node_name).into()),
            ("storage_name", upload.storage_name.into()),
            ("file_path", upload.file_path.into()),
            ("file_size", upload.file_size.into()),
            ("status", TaskStatus::Pending.into()),
            ("bytes_total", upload.file_size.into()),
            ("revision", revision.into()),
            ("creator", creator.into()),
        ],
    );
    Ok(SyncTaskId(sql::insert(conn, row).await?))
}

async fn insert_instance(
    conn: &mut Conn,
    upload: &Version<'_>,
    place: &Place,
    task: Option<SyncTaskId>,
    creator: &str,
    revisions: Revisions,
) -> Result<InstanceId, DbError> {
    let is_primary = upload.source.0 == Some(place.node_id);
    let row = Sql::insert(
        "template_instance",
        [
            ("template_id", upload.template_id.into()),
            ("upload_id", upload.upload_id.into()),
            ("cluster_id", upload.cluster_id.into()),
            ("node_id", place.node_id.into()),
            ("node_name", (&place.node_name).into()),
            ("storage_id", place.storage_id.into()),
            ("storage_name", upload.storage_name.into()),
            ("is_shared", Flag(upload.is_shared).into()),
            ("is_primary", Flag(is_primary).into()),
            ("sync_task_id", task.into()),
            ("desired", Desired::Available.into()),
            ("status", InstanceStatus::Pending.into()),
            ("revision", revisions.instances.into()),
            ("creator", creator.into()),
        ],
    );
    Ok(InstanceId(sql::insert(conn, row).await.map_err(collided)?))
}

/// What a task reads as follows from what is wanted of its instance, unless it has a result that
/// stands: so those who follow tasks hear of these.
async fn touch_tasks(conn: &mut Conn, (column, id): (&str, Param<'_>)) -> Result<(), DbError> {
    let revision = revision::raise(conn, Table::SyncTask).await?;
    let rows = Sql::update("template_sync_task", [("revision", revision.into())])
        .push(", gmt_modified = ")
        .bind(crate::now())
        .push(
            " WHERE (status NOT IN ('completed', 'failed', 'cancelled') \
             OR observed_generation < generation)",
        )
        .and(column, Some(id));
    sql::execute(conn, &rows).await.map(drop)
}

/// The columns that every change of a row moves.
fn touched(row: Sql<'_>, revision: Revision) -> Sql<'_> {
    row.push(", revision = ").bind(revision).push(", gmt_modified = ").bind(crate::now())
}

/// Changes an instance if what people want of it is what the caller read.
async fn swap(conn: &mut Conn, row: Sql<'_>, read: &InstanceRow) -> Result<(), DbError> {
    let row = row
        .push(" WHERE deleted_id = 0 AND id = ")
        .bind(read.id)
        .and("generation", Some(read.generation))
        .and("desired", Some(read.desired));
    match sql::execute(conn, &row).await? {
        0 => Err(DbError::Busy { source: "what was wanted of the instance has changed".into() }),
        _ => Ok(()),
    }
}

/// A row of the same key came since the caller looked: look again.
fn collided(error: DbError) -> DbError {
    match error {
        DbError::Conflict { what } => DbError::Busy { source: what.into() },
        other => other,
    }
}
