//! `template_upload`: one image that came in, that is one version of a template.
//!
//! The row is written when the bytes are safe, so it starts as `uploaded`. What the image is and
//! where it shall go is the API's; how the import on the first node goes ([`ImportProgress`]) is the
//! operator's.

use diesel::prelude::*;

use crate::revision::{self, Table};
use crate::sql::{self, Sql};
use crate::tables::template_upload;
use crate::words::words;
use crate::{
    ClusterId, Conn, DbError, Flag, NodeId, Revision, StorageId, TemplateId, Timestamp, UploadId,
};

words! {
    /// `uploading → uploaded → importing → imported | failed`; a retry starts over at `uploaded`.
    pub enum UploadStatus {
        Uploading = "uploading",
        Uploaded = "uploaded",
        Importing = "importing",
        Imported = "imported",
        Failed = "failed",
    }
}

impl UploadStatus {
    /// Whether the picture has an arrow from here to `to`.
    pub fn may_become(self, to: Self) -> bool {
        use UploadStatus::{Failed, Imported, Importing, Uploaded, Uploading};
        matches!(
            (self, to),
            (Uploading, Uploaded)
                | (Uploaded, Importing | Imported | Failed)
                | (Importing, Imported | Failed | Uploaded)
                | (Failed, Uploaded | Importing | Imported)
                | (Imported, Failed)
        )
    }
}

/// One row.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
#[diesel(table_name = template_upload)]
pub struct UploadRow {
    pub id: UploadId,
    pub template_id: TemplateId,
    pub version: i32,
    pub cluster_id: ClusterId,
    pub storage_id: StorageId,
    pub storage_name: String,
    pub storage_type: Option<String>,
    pub is_shared: Flag,
    /// The node that imports first.
    pub upload_node_id: Option<NodeId>,
    pub upload_node_name: Option<String>,
    /// As the client called it.
    pub file_name: String,
    /// The image's name in the image store.
    pub file_path: Option<String>,
    /// Bytes.
    pub file_size: i64,
    /// `qcow2`, `raw`, `vmdk` or `ova`.
    pub file_format: Option<String>,
    /// Bytes of the disk that it holds.
    pub virtual_size: Option<i64>,
    /// The disk within an OVA.
    pub ova_disk: Option<String>,
    pub sha256: Option<String>,
    pub sha512: Option<String>,
    pub os_type: Option<String>,
    pub cores: Option<i32>,
    pub memory_mb: Option<i32>,
    pub bridge: Option<String>,
    /// Raised by whoever wants the import tried again.
    pub generation: i64,
    #[diesel(embed)]
    pub told: ImportProgress,
    pub revision: Revision,
    /// 0 while it is live.
    pub deleted_id: i64,
    pub gmt_create: Timestamp,
    pub gmt_modified: Timestamp,
    pub creator: Option<String>,
    pub modifier: Option<String>,
}

/// What the operator writes.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
#[diesel(table_name = template_upload)]
pub struct ImportProgress {
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub status: UploadStatus,
    /// 0 to 100.
    pub import_progress: i32,
    pub error_message: Option<String>,
    pub attempt: i32,
    /// The generation that all this is about.
    pub observed_generation: i64,
}

/// One upload, deleted ones too.
pub async fn get(conn: &mut Conn, id: UploadId) -> Result<Option<UploadRow>, DbError> {
    sql::first(conn, &Sql::new("SELECT * FROM template_upload WHERE id = ").bind(id)).await
}

/// The live uploads of a template, newest version first.
pub async fn of_template(conn: &mut Conn, id: TemplateId) -> Result<Vec<UploadRow>, DbError> {
    let rows = Sql::new("SELECT * FROM template_upload WHERE deleted_id = 0 AND template_id = ")
        .bind(id)
        .push(" ORDER BY version DESC");
    sql::fetch(conn, &rows).await
}

/// The names in the image store that live uploads still need.
pub async fn images_in_use(conn: &mut Conn) -> Result<Vec<String>, DbError> {
    #[derive(QueryableByName)]
    struct Image {
        #[diesel(sql_type = diesel::sql_types::Text)]
        file_path: String,
    }
    let rows = Sql::new(
        "SELECT DISTINCT file_path FROM template_upload \
         WHERE deleted_id = 0 AND file_path IS NOT NULL",
    );
    Ok(sql::fetch::<Image>(conn, &rows).await?.into_iter().map(|it| it.file_path).collect())
}

/// Writes how the import goes.
///
/// Call it within [`crate::Db::write`].
pub async fn record(conn: &mut Conn, id: UploadId, told: &ImportProgress) -> Result<(), DbError> {
    let revision = revision::raise(conn, Table::Upload).await?;
    let row = Sql::update(
        "template_upload",
        [
            ("status", told.status.into()),
            ("import_progress", told.import_progress.into()),
            ("error_message", (&told.error_message).into()),
            ("attempt", told.attempt.into()),
            ("observed_generation", told.observed_generation.into()),
            ("revision", revision.into()),
            ("gmt_modified", crate::now().into()),
        ],
    );
    sql::execute(conn, &row.push(" WHERE id = ").bind(id)).await.map(drop)
}

/// Marks the uploads of a template whose guests are gone, so that their images can be collected.
///
/// Call it within [`crate::Db::write`].
pub async fn bury(conn: &mut Conn, template: TemplateId) -> Result<(), DbError> {
    let revision = revision::raise(conn, Table::Upload).await?;
    let rows = Sql::new("UPDATE template_upload SET deleted_id = id, revision = ")
        .bind(revision)
        .push(", gmt_modified = ")
        .bind(crate::now())
        .push(" WHERE deleted_id = 0 AND template_id = ")
        .bind(template);
    sql::execute(conn, &rows).await.map(drop)
}
