//! `vm_template`: templates by name. The images that came in for them are in [`crate::upload`], the
//! guests in [`crate::instance`].
//!
//! What is wanted (`desired`) is the API's; what has become of it (`status`, `blocked_reason`) is
//! the operator's. The one exception is a template that is only to be forgotten: nothing is left to
//! do for it, so the API ends it itself.

use diesel::prelude::*;

use crate::revision::{self, Changes, Followed, Table};
use crate::sql::{self, Sql};
use crate::tables::vm_template;
use crate::words::words;
use crate::{ClusterId, Conn, DbError, Revision, TemplateId, Timestamp};

words! {
    /// What people want of a template.
    pub enum Desired {
        Present = "present",
        /// Its rows are marked as deleted; its guests stay, and are nobody's.
        Forgotten = "forgotten",
        /// Its guests and files are to go too.
        Absent = "absent",
    }
}

words! {
    /// `active → deleting → deleted`.
    pub enum TemplateStatus {
        Active = "active",
        /// Guests are being removed; `blocked_reason` says what holds it.
        Deleting = "deleting",
        Deleted = "deleted",
    }
}

impl TemplateStatus {
    /// Whether the picture has an arrow from here to `to`.
    pub fn may_become(self, to: Self) -> bool {
        use TemplateStatus::{Active, Deleted, Deleting};
        matches!((self, to), (Active, Deleting | Deleted) | (Deleting, Deleted))
    }
}

/// One row.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
#[diesel(table_name = vm_template)]
pub struct TemplateRow {
    pub id: TemplateId,
    pub template_name: String,
    pub cluster_id: ClusterId,
    pub description: Option<String>,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub desired: Desired,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub status: TemplateStatus,
    /// What holds a delete up.
    pub blocked_reason: Option<String>,
    pub revision: Revision,
    /// 0 while it is live.
    pub deleted_id: i64,
    pub gmt_create: Timestamp,
    pub gmt_modified: Timestamp,
    pub creator: Option<String>,
    pub modifier: Option<String>,
}

/// One template, deleted ones too.
pub async fn get(conn: &mut Conn, id: TemplateId) -> Result<Option<TemplateRow>, DbError> {
    sql::first(conn, &Sql::new("SELECT * FROM vm_template WHERE id = ").bind(id)).await
}

/// How many templates of a cluster are not deleted.
pub async fn count_of_cluster(conn: &mut Conn, id: ClusterId) -> Result<i64, DbError> {
    let rows = Sql::new("SELECT count(*) AS n FROM vm_template WHERE status <> ")
        .bind(TemplateStatus::Deleted)
        .push(" AND cluster_id = ")
        .bind(id);
    sql::number(conn, &rows).await
}

/// The live templates that are to go, in all clusters.
pub async fn unwanted(conn: &mut Conn) -> Result<Vec<TemplateRow>, DbError> {
    let rows = Sql::new("SELECT * FROM vm_template WHERE deleted_id = 0 AND desired = ")
        .bind(Desired::Absent)
        .push(" ORDER BY id");
    sql::fetch(conn, &rows).await
}

/// What the operator has to say of a template that is to go.
///
/// Call it within [`crate::Db::write`].
pub async fn record_deletion(
    conn: &mut Conn,
    id: TemplateId,
    status: TemplateStatus,
    blocked_reason: Option<&str>,
) -> Result<(), DbError> {
    let revision = revision::raise(conn, Table::Template).await?;
    let deleted_id = if status == TemplateStatus::Deleted { id.0 } else { 0 };
    let row = Sql::update(
        "vm_template",
        [
            ("status", status.into()),
            ("blocked_reason", blocked_reason.into()),
            ("deleted_id", deleted_id.into()),
            ("revision", revision.into()),
            ("gmt_modified", crate::now().into()),
        ],
    );
    sql::execute(conn, &row.push(" WHERE deleted_id = 0 AND id = ").bind(id)).await.map(drop)
}

/// What changed after `since`: see [`revision`].
pub async fn changes_since(
    conn: &mut Conn,
    since: Revision,
    limit: u32,
) -> Result<Changes<TemplateRow>, DbError> {
    revision::changes(conn, Table::Template, since, limit).await
}

impl Followed for TemplateRow {
    fn id(&self) -> i64 {
        self.id.0
    }

    fn revision(&self) -> Revision {
        self.revision
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_deleted_stays_deleted() {
        for &to in TemplateStatus::ALL {
            assert!(!TemplateStatus::Deleted.may_become(to));
        }
        assert!(TemplateStatus::Active.may_become(TemplateStatus::Deleting));
        assert_eq!(TemplateStatus::parse("deleting"), Some(TemplateStatus::Deleting));
        assert_eq!(TemplateStatus::parse("gone"), None);
    }
}
