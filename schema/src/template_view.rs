//! Templates, instances and tasks as people see them.
//!
//! The API writes what is wanted and the operator writes what became of it, a moment later. In
//! between, what the operator last wrote is about something else: it is hidden here. So a retry
//! reads as pending at once, and a task that was taken back before it began as cancelled.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};

use crate::instance::{self, Desired, InstanceRow, InstanceStatus};
use crate::page::{Listed, Listing, OfCluster, Page, Search, SortKey, of_clusters};
use crate::sql::{self, Sql};
use crate::sync_task::{SyncTaskRow, TaskProgress, TaskStatus};
use crate::template::{Desired as TemplateDesired, TemplateRow, TemplateStatus};
use crate::upload::{self, UploadRow, UploadStatus};
use crate::{ClusterId, Conn, DbError, NodeId, SyncTaskId, TemplateId};

/// A template with its newest version.
#[derive(Clone, Debug, PartialEq)]
pub struct TemplateView {
    /// As it is to be shown.
    pub template: TemplateRow,
    pub cluster_name: String,
    /// The newest version; none only if somebody deleted it by hand.
    pub upload: Option<UploadRow>,
    pub instances: Counts,
}

/// How many instances of a template there are, and how many of them can be used.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    pub all: i64,
    pub available: i64,
}

/// An instance and the version that it is of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InstanceView {
    /// As it is to be shown.
    pub row: InstanceRow,
    pub version: i32,
}

/// A task and what it is for.
#[derive(Clone, Debug, Eq, PartialEq, QueryableByName)]
pub struct TaskView {
    /// As it is to be shown.
    #[diesel(embed)]
    pub task: SyncTaskRow,
    #[diesel(sql_type = Text)]
    shown: TaskStatus,
    #[diesel(sql_type = Nullable<Text>)]
    pub template_name: Option<String>,
}

/// Which templates to list. Deleted ones only when `status` asks for them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TemplateFilter {
    pub cluster_id: Option<ClusterId>,
    pub template_name: Option<String>,
    pub status: Option<TemplateStatus>,
}

/// Which tasks to list.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TaskFilter {
    pub template_id: Option<TemplateId>,
    pub cluster_id: Option<ClusterId>,
    /// As it is shown.
    pub status: Option<TaskStatus>,
}

/// What is shown of a template's state: it goes as soon as somebody wants it gone.
pub fn shown_template(mut row: TemplateRow) -> TemplateRow {
    if row.desired == TemplateDesired::Absent && row.status == TemplateStatus::Active {
        row.status = TemplateStatus::Deleting;
    }
    row
}

/// What is shown of an upload: nothing of the last attempt once another is wanted.
pub fn shown_upload(mut row: UploadRow) -> UploadRow {
    if row.generation > row.told.observed_generation {
        row.told.status = UploadStatus::Uploaded;
        row.told.import_progress = 0;
        row.told.error_message = None;
    }
    row
}

/// What is shown of an instance: nothing of the last attempt once another is wanted.
pub fn shown_instance(mut row: InstanceRow) -> InstanceRow {
    use InstanceStatus::{Deleted, Deleting, Pending};
    let told = &mut row.told;
    if row.desired == Desired::Absent {
        if !matches!(told.status, Deleting | Deleted) {
            told.status = Deleting;
        }
    } else if row.generation > told.observed_generation {
        told.status = Pending;
        (told.error_message, told.blocked_reason, told.step) = (None, None, None);
        (told.progress, told.bytes_done) = (0, 0);
        (told.started_at, told.ended_at) = (None, None);
    }
    row
}

/// What is shown of a task that reads as `shown`.
pub(crate) fn shown_task(mut view: TaskView) -> TaskView {
    let task = &mut view.task;
    if task.generation > task.told.observed_generation {
        task.told = TaskProgress {
            progress: 0,
            step: None,
            bytes_done: 0,
            sync_start_time: None,
            sync_end_time: None,
            error_message: None,
            status: view.shown,
            ..task.told
        };
    }
    task.told.status = view.shown;
    view
}

/// The status of a task as it is shown, in SQL, because lists are filtered by it.
///
/// A result stands until something else is wanted. What is not wanted any more and has not begun,
/// or whose instance was forgotten, is cancelled; what the operator has not seen is pending.
macro_rules! shown_task {
    () => {
        "CASE \
    WHEN task.status IN ('completed', 'failed', 'cancelled') \
        AND task.observed_generation >= task.generation THEN task.status \
    WHEN instance.id IS NULL OR instance.deleted_id <> 0 OR (instance.desired <> 'available' \
        AND (task.observed_generation < task.generation OR task.status = 'pending')) \
        THEN 'cancelled' \
    WHEN task.observed_generation < task.generation THEN 'pending' \
    ELSE task.status END"
    };
}
const SHOWN_TASK: &str = shown_task!();

/// Every task, for those who follow the table: conditions can be added.
pub(crate) fn task_rows() -> Sql<'static> {
    let Search { what, rows, beside, .. } = tasks();
    Sql::new(&format!("SELECT {what} FROM {} {beside} WHERE 1 = 1", rows.0))
}

/// What is told of tasks, and where they are looked for: the instance says what a task reads as.
fn tasks() -> Search<'static> {
    Search {
        what: concat!(
            "task.*, ",
            shown_task!(),
            " AS shown, template.template_name AS template_name"
        ),
        rows: ("template_sync_task task", "task"),
        beside: "LEFT JOIN template_instance instance ON instance.sync_task_id = task.id \
                 LEFT JOIN vm_template template ON template.id = task.template_id",
        among: ("template_sync_task task", "task.id"),
        conditions: Sql::new(""),
    }
}

/// One task.
pub async fn task(conn: &mut Conn, id: SyncTaskId) -> Result<Option<TaskView>, DbError> {
    Ok(tasks().one(conn, id.0).await?.map(shown_task))
}

/// The live instance that a task is for, as it is in the table.
pub async fn instance_of_task(
    conn: &mut Conn,
    id: SyncTaskId,
) -> Result<Option<InstanceRow>, DbError> {
    let row = Sql::new("SELECT * FROM template_instance WHERE deleted_id = 0 AND sync_task_id = ");
    sql::first(conn, &row.bind(id)).await
}

/// One page of the tasks that pass `filter`. One statement, so it needs no transaction.
pub async fn list_tasks(
    conn: &mut Conn,
    filter: &TaskFilter,
    page: Page,
) -> Result<Listing<TaskView>, DbError> {
    let Listing { total, list } = search_tasks(filter).page(conn, page).await?;
    Ok(Listing { total, list: list.into_iter().map(shown_task).collect() })
}

pub(crate) fn search_tasks(filter: &TaskFilter) -> Search<'static> {
    let conditions = Sql::new("")
        .and("task.template_id", filter.template_id)
        .and("task.cluster_id", filter.cluster_id)
        .and(SHOWN_TASK, filter.status);
    let all = tasks();
    let among = match filter.status {
        None => all.among.0,
        Some(_) => {
            "template_sync_task task \
             LEFT JOIN template_instance instance ON instance.sync_task_id = task.id"
        }
    };
    Search { among: (among, all.among.1), conditions, ..all }
}

/// One template that is not deleted.
///
/// Call it within [`crate::Db::read`].
pub async fn template(conn: &mut Conn, id: TemplateId) -> Result<Option<TemplateView>, DbError> {
    let Some(listed) = of_clusters!("vm_template").one::<Listed<TemplateRow>>(conn, id.0).await?
    else {
        return Ok(None);
    };
    if listed.row.deleted_id != 0 {
        return Ok(None);
    }
    Ok(viewed(conn, vec![listed]).await?.pop())
}

/// What templates can be sorted by.
pub const SORTS: &[SortKey] = &[SortKey::ID, SortKey::new("name", "template_name")];

/// One page of the templates that pass `filter`.
///
/// Call it within [`crate::Db::read`].
pub async fn list_templates(
    conn: &mut Conn,
    filter: &TemplateFilter,
    page: Page,
) -> Result<Listing<TemplateView>, DbError> {
    let Listing { total, list } = search_templates(filter).page(conn, page).await?;
    Ok(Listing { total, list: viewed(conn, list).await? })
}

pub(crate) fn search_templates(filter: &TemplateFilter) -> Search<'_> {
    let conditions = OfCluster { id: filter.cluster_id, name: None }
        .condition("vm_template.cluster_id")
        .and("vm_template.template_name", filter.template_name.as_ref())
        .push(match filter.status {
            None => " AND deleted_id = 0",
            Some(TemplateStatus::Active) => {
                " AND deleted_id = 0 AND status = 'active' AND desired <> 'absent'"
            }
            Some(TemplateStatus::Deleting) => {
                " AND deleted_id = 0 AND (status = 'deleting' OR desired = 'absent')"
            }
            Some(TemplateStatus::Deleted) => " AND deleted_id <> 0",
        });
    Search { conditions, ..of_clusters!("vm_template") }
}

/// The live instances of a template: the newest version first, of each the primary first.
pub async fn instances(conn: &mut Conn, id: TemplateId) -> Result<Vec<InstanceView>, DbError> {
    let uploads = upload::of_template(conn, id).await?;
    let versions: HashMap<_, _> =
        uploads.into_iter().map(|upload| (upload.id, upload.version)).collect();
    let mut instances: Vec<_> = instance::of_template(conn, id)
        .await?
        .into_iter()
        .map(|row| InstanceView {
            version: versions.get(&row.upload_id).copied().unwrap_or_default(),
            row: shown_instance(row),
        })
        .collect();
    instances.sort_by_key(|it| (-it.version, !it.row.is_primary.0, it.row.id));
    Ok(instances)
}

/// Privileges that the pipeline lacks on a cluster, as its status names them.
pub async fn missing_privileges(conn: &mut Conn, id: ClusterId) -> Result<Vec<String>, DbError> {
    #[derive(QueryableByName)]
    struct Missing {
        #[diesel(sql_type = Nullable<Text>)]
        missing_template_privileges: Option<String>,
    }
    let row =
        Sql::new("SELECT missing_template_privileges FROM pve_cluster_status WHERE cluster_id = ")
            .bind(id);
    let missing = sql::first::<Missing>(conn, &row).await?;
    let text = missing.and_then(|it| it.missing_template_privileges).unwrap_or_default();
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// How many guests are on a node, or asked for there: what `vm_limit` is about.
pub async fn guests_on(conn: &mut Conn, node: NodeId) -> Result<i64, DbError> {
    let there = Sql::new("SELECT count(*) AS n FROM pve_vm WHERE is_template = 0 AND node_id = ")
        .bind(node);
    let asked = Sql::new(
        "SELECT count(*) AS n FROM template_clone WHERE status IN ('pending', 'cloning') \
         AND node_id = ",
    )
    .bind(node);
    Ok(sql::number(conn, &there).await? + sql::number(conn, &asked).await?)
}

/// Puts versions and counts beside templates.
async fn viewed(
    conn: &mut Conn,
    list: Vec<Listed<TemplateRow>>,
) -> Result<Vec<TemplateView>, DbError> {
    #[derive(QueryableByName)]
    struct Count {
        #[diesel(sql_type = BigInt)]
        template_id: TemplateId,
        #[diesel(sql_type = BigInt)]
        total: i64,
        #[diesel(sql_type = BigInt)]
        available: i64,
    }
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let ids = || list.iter().map(|listed| listed.row.id);
    let newest = Sql::new("SELECT * FROM template_upload WHERE deleted_id = 0 AND template_id IN ")
        .list(ids())
        .push(" ORDER BY version");
    let newest: Vec<UploadRow> = sql::fetch(conn, &newest).await?;
    // The last of each template wins.
    let mut newest: HashMap<TemplateId, UploadRow> =
        newest.into_iter().map(|row| (row.template_id, row)).collect();
    let counts = Sql::new(
        "SELECT template_id, count(*) AS total, \
         count(CASE WHEN status = 'available' AND desired = 'available' \
         AND observed_generation >= generation THEN 1 END) AS available \
         FROM template_instance WHERE deleted_id = 0 AND template_id IN ",
    )
    .list(ids())
    .push(" GROUP BY template_id");
    let counts: Vec<Count> = sql::fetch(conn, &counts).await?;
    let counts: HashMap<TemplateId, Counts> = counts
        .into_iter()
        .map(|it| (it.template_id, Counts { all: it.total, available: it.available }))
        .collect();
    Ok(list
        .into_iter()
        .map(|Listed { row, cluster_name }| TemplateView {
            upload: newest.remove(&row.id).map(shown_upload),
            instances: counts.get(&row.id).copied().unwrap_or_default(),
            template: shown_template(row),
            cluster_name,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{InstanceId, Revision, UploadId};

    fn an_instance() -> InstanceRow {
        InstanceRow {
            id: InstanceId(1),
            template_id: TemplateId(1),
            upload_id: UploadId(1),
            cluster_id: ClusterId(1),
            node_id: NodeId(1),
            node_name: "n1".to_owned(),
            storage_id: None,
            storage_name: "local".to_owned(),
            is_shared: false.into(),
            is_primary: true.into(),
            sync_task_id: None,
            desired: Desired::Available,
            generation: 1,
            told: instance::Progress {
                status: InstanceStatus::Failed,
                vmid: 9000,
                volume_id: None,
                error_message: Some("no space".to_owned()),
                blocked_reason: Some("locked".to_owned()),
                observed_generation: 1,
                attempt: 1,
                failures: 3,
                step: Some("fetch".to_owned()),
                progress: 40,
                bytes_done: 7,
                bytes_total: Some(9),
                staging_storage: None,
                staged_file: None,
                upid: None,
                asked: None,
                asked_at: None,
                started_at: Some(crate::now()),
                ended_at: Some(crate::now()),
            },
            revision: Revision(1),
            deleted_id: 0,
            gmt_create: crate::now(),
            gmt_modified: crate::now(),
            creator: None,
            modifier: None,
        }
    }

    #[test]
    fn what_was_told_is_shown_until_something_else_is_wanted() {
        assert_eq!(shown_instance(an_instance()), an_instance());
    }

    // B14
    #[test]
    fn nothing_of_the_last_attempt_is_shown_once_another_is_wanted() {
        let shown = shown_instance(InstanceRow { generation: 2, ..an_instance() }).told;

        assert_eq!(shown.status, InstanceStatus::Pending);
        assert_eq!((shown.error_message, shown.blocked_reason, shown.step), (None, None, None));
        assert_eq!((shown.progress, shown.bytes_done), (0, 0));
        assert_eq!((shown.started_at, shown.ended_at), (None, None));
        assert_eq!((shown.vmid, shown.attempt), (9000, 1));
    }

    #[test]
    fn what_is_to_go_reads_as_deleting_and_keeps_its_reason() {
        let unwanted = InstanceRow { desired: Desired::Absent, generation: 2, ..an_instance() };

        let shown = shown_instance(unwanted).told;

        assert_eq!(shown.status, InstanceStatus::Deleting);
        assert_eq!(shown.blocked_reason.as_deref(), Some("locked"));
    }
}
