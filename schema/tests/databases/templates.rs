//! What is wanted of templates, and how it reads while the operator has not answered yet.

use schema::instance::{self, InstanceStatus};
use schema::page::{Listing, Page};
use schema::sync_task::{self, TaskStatus};
use schema::template::TemplateStatus;
use schema::template_view::{self, TaskFilter, TaskView, TemplateFilter};
use schema::template_wish::{self, Inserted, NewUpload, Place, Placement, Under};
use schema::testing::TestDatabase;
use schema::upload::{self, UploadStatus};
use schema::{ClusterId, Conn, Db, DbError, NodeId, StorageId, SyncTaskId, image_use};

const LAB: ClusterId = ClusterId(1);

fn place(id: i64) -> Place {
    Place { node_id: NodeId(id), node_name: format!("n{id}"), storage_id: StorageId(10 + id) }
}

fn an_upload(name: &str) -> NewUpload<'_> {
    NewUpload {
        under: Under::New { name, description: Some("基础") },
        version: 1,
        cluster_id: LAB,
        storage_id: StorageId(11),
        storage_name: "local",
        storage_type: "dir",
        is_shared: false,
        file_name: "x.qcow2",
        file_path: "sha256/00",
        file_size: 7,
        file_format: "qcow2",
        virtual_size: Some(1 << 30),
        ova_disk: None,
        sha256: "00",
        sha512: "11",
        os_type: None,
        cores: Some(2),
        memory_mb: None,
        bridge: None,
        creator: "ci",
    }
}

/// A template on n1, wanted on n2 and n3 too.
pub(crate) async fn a_template(db: &Db, name: &str) -> Inserted {
    let placement = Placement { primary: place(1), others: vec![place(2), place(3)] };
    let insert =
        async |conn: &mut Conn| template_wish::insert(conn, &an_upload(name), &placement).await;
    db.write(insert).await.unwrap()
}

pub(crate) async fn all(name: &str) -> Vec<TestDatabase> {
    let all = TestDatabase::all(name).await;
    for database in &all {
        let cluster = "INSERT INTO pve_cluster (cluster_name, api_url, user_id, user_token) \
                       VALUES ('lab', 'https://pve', 'a@pve!t', 's')";
        database.db.conn().await.unwrap().execute_sql(cluster).await.unwrap();
    }
    all
}

async fn task(db: &Db, id: SyncTaskId) -> TaskView {
    template_view::task(&mut db.conn().await.unwrap(), id).await.unwrap().unwrap()
}

/// What the operator does when a task came to an end.
pub(crate) async fn the_operator_says(db: &Db, id: SyncTaskId, status: TaskStatus) {
    let told = async |conn: &mut Conn| {
        let row = sync_task::get(conn, id).await?.unwrap();
        let mut told = row.told;
        told.status = status;
        told.observed_generation = row.generation;
        told.progress = 40;
        told.error_message = Some("no space".to_owned());
        told.sync_start_time = Some(row.gmt_create);
        sync_task::record(conn, id, &told).await
    };
    db.write(told).await.unwrap();
}

pub(crate) async fn of_node(db: &Db, made: &Inserted, node: i64) -> instance::InstanceRow {
    let all = instance::of_template(&mut db.conn().await.unwrap(), made.template_id).await.unwrap();
    all.into_iter().find(|it| it.node_id == NodeId(node)).unwrap()
}

#[tokio::test]
async fn an_upload_is_a_template_an_instance_per_node_and_a_task_per_copy() {
    for database in all("upload_rows").await {
        let db = &database.db;

        let made = a_template(db, "CentOS 7 基础").await;

        let mut conn = db.conn().await.unwrap();
        let view = template_view::template(&mut conn, made.template_id).await.unwrap().unwrap();
        assert_eq!(view.template.template_name, "CentOS 7 基础");
        assert_eq!((view.cluster_name.as_str(), view.instances.all), ("lab", 3));
        let upload = view.upload.unwrap();
        assert_eq!((upload.id, upload.told.status), (made.upload_id, UploadStatus::Uploaded));
        assert_eq!(upload.upload_node_id, Some(NodeId(1)));
        let instances = template_view::instances(&mut conn, made.template_id).await.unwrap();
        let rows: Vec<_> = instances
            .iter()
            .map(|it| (it.row.node_id.0, it.row.is_primary.0, it.row.sync_task_id))
            .collect();
        let tasks: Vec<_> = made.tasks.iter().copied().map(Some).collect();
        assert_eq!(rows, [(1, true, None), (2, false, tasks[0]), (3, false, tasks[1])]);
        assert_eq!(instances[0].row.told.status, InstanceStatus::Pending);
        let first = task(db, made.tasks[0]).await;
        assert_eq!(first.task.told.status, TaskStatus::Pending);
        assert_eq!(first.template_name.as_deref(), Some("CentOS 7 基础"));
        assert_eq!((first.task.source_node_id, first.task.target_node_id.0), (Some(NodeId(1)), 2));
    }
}

#[tokio::test]
async fn a_name_that_was_taken_meanwhile_makes_the_caller_look_again() {
    for database in all("name_taken").await {
        let db = &database.db;
        a_template(db, "web").await;
        let placement = Placement { primary: place(1), others: vec![] };

        let again = async |conn: &mut Conn| {
            template_wish::insert(conn, &an_upload("web"), &placement).await
        };
        let error = db.write(again).await.unwrap_err();

        assert!(matches!(error, DbError::Busy { .. }), "{error}");
        let found = async |conn: &mut Conn| template_wish::named(conn, LAB, "web").await;
        assert!(db.read(found).await.unwrap().is_some());
        let other = async |conn: &mut Conn| template_wish::named(conn, LAB, "WEB").await;
        assert_eq!(db.read(other).await.unwrap(), None);
    }
}

// B14
#[tokio::test]
async fn a_retry_reads_as_pending_with_nothing_of_the_last_attempt() {
    for database in all("retry").await {
        let db = &database.db;
        let made = a_template(db, "web").await;
        the_operator_says(db, made.tasks[0], TaskStatus::Failed).await;
        let failed = task(db, made.tasks[0]).await.task;
        let instance = of_node(db, &made, 2).await;

        let again =
            async |conn: &mut Conn| template_wish::want_again(conn, &[&instance], "ci").await;
        db.write(again).await.unwrap();

        assert_eq!(failed.told.status, TaskStatus::Failed);
        assert_eq!(failed.told.error_message.as_deref(), Some("no space"));
        let shown = task(db, made.tasks[0]).await.task;
        assert_eq!((shown.told.status, shown.told.progress), (TaskStatus::Pending, 0));
        assert_eq!((shown.told.error_message, shown.told.sync_start_time), (None, None));
        assert!(shown.revision > failed.revision);
        let wanted = of_node(db, &made, 2).await;
        assert_eq!((wanted.generation, shown.generation), (2, 2));
        // Whoever read the row before finds that it changed.
        let error = db.write(again).await.unwrap_err();
        assert!(matches!(error, DbError::Busy { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_retry_of_the_primary_starts_its_upload_over() {
    for database in all("retry_primary").await {
        let db = &database.db;
        let made = a_template(db, "web").await;
        let failed = async |conn: &mut Conn| {
            let row = upload::get(conn, made.upload_id).await?.unwrap();
            let mut told = row.told;
            told.status = UploadStatus::Failed;
            told.observed_generation = row.generation;
            told.error_message = Some("no space".to_owned());
            upload::record(conn, made.upload_id, &told).await
        };
        db.write(failed).await.unwrap();
        let primary = of_node(db, &made, 1).await;

        let again =
            async |conn: &mut Conn| template_wish::want_again(conn, &[&primary], "ci").await;
        db.write(again).await.unwrap();

        let mut conn = db.conn().await.unwrap();
        let row = upload::get(&mut conn, made.upload_id).await.unwrap().unwrap();
        assert_eq!((row.generation, row.told.status), (2, UploadStatus::Failed));
        let shown = template_view::shown_upload(row);
        assert_eq!(shown.told.status, UploadStatus::Uploaded);
        assert_eq!(shown.told.error_message, None);
    }
}

#[tokio::test]
async fn a_task_that_was_taken_back_before_it_began_is_cancelled_at_once() {
    for database in all("cancel").await {
        let db = &database.db;
        let made = a_template(db, "web").await;
        the_operator_says(db, made.tasks[1], TaskStatus::Importing).await;
        for node in [2, 3] {
            let row = of_node(db, &made, node).await;
            db.write(async |conn: &mut Conn| template_wish::cancel(conn, &row, "ci").await)
                .await
                .unwrap();
        }

        // The one that runs is still running until the operator has stopped it.
        assert_eq!(task(db, made.tasks[0]).await.task.told.status, TaskStatus::Cancelled);
        assert_eq!(task(db, made.tasks[1]).await.task.told.status, TaskStatus::Importing);

        let row = of_node(db, &made, 2).await;
        db.write(async |conn: &mut Conn| template_wish::want_again(conn, &[&row], "ci").await)
            .await
            .unwrap();
        assert_eq!(task(db, made.tasks[0]).await.task.told.status, TaskStatus::Pending);
    }
}

#[tokio::test]
async fn tasks_are_listed_newest_first_by_what_is_shown_of_them() {
    for database in all("task_list").await {
        let db = &database.db;
        let one = a_template(db, "one").await;
        let two = a_template(db, "two").await;
        the_operator_says(db, one.tasks[0], TaskStatus::Failed).await;
        the_operator_says(db, one.tasks[1], TaskStatus::Syncing).await;
        let retried = of_node(db, &one, 2).await;
        db.write(async |conn: &mut Conn| template_wish::want_again(conn, &[&retried], "ci").await)
            .await
            .unwrap();

        let ids = async |filter: TaskFilter, page: Page| {
            let list = async |conn: &mut Conn| template_view::list_tasks(conn, &filter, page).await;
            let Listing { total, list } = db.read(list).await.unwrap();
            (total.unwrap(), list.into_iter().map(|it| it.task.id).collect::<Vec<_>>())
        };
        let any = TaskFilter::default();
        let first = Page::default();
        assert_eq!(
            ids(any, first).await,
            (4, vec![two.tasks[1], two.tasks[0], one.tasks[1], one.tasks[0]])
        );
        assert_eq!(ids(any, Page::number(2, 3)).await, (4, vec![one.tasks[0]]));
        let of_one = TaskFilter { template_id: Some(one.template_id), ..any };
        let pending = TaskFilter { status: Some(TaskStatus::Pending), ..of_one };
        assert_eq!(ids(pending, first).await, (1, vec![one.tasks[0]]));
        let syncing = TaskFilter { status: Some(TaskStatus::Syncing), ..any };
        assert_eq!(ids(syncing, first).await, (1, vec![one.tasks[1]]));
        let failed = TaskFilter { status: Some(TaskStatus::Failed), ..any };
        assert_eq!(ids(failed, first).await, (0, vec![]));
        let elsewhere = TaskFilter { cluster_id: Some(ClusterId(2)), ..any };
        assert_eq!(ids(elsewhere, first).await, (0, vec![]));
    }
}

#[tokio::test]
async fn a_template_that_is_forgotten_frees_its_name_and_its_tasks_are_over() {
    for database in all("forget").await {
        let db = &database.db;
        let made = a_template(db, "web").await;
        let before = instance::load(&mut db.conn().await.unwrap()).await.unwrap();

        let forget =
            async |conn: &mut Conn| template_wish::forget(conn, made.template_id, "ci").await;
        db.write(forget).await.unwrap();

        let mut conn = db.conn().await.unwrap();
        assert_eq!(template_view::template(&mut conn, made.template_id).await.unwrap(), None);
        assert_eq!(instance::load(&mut conn).await.unwrap(), []);
        assert_eq!(upload::images_in_use(&mut conn).await.unwrap(), Vec::<String>::new());
        assert_eq!(image_use::forgotten(&mut conn).await.unwrap(), ["sha256/00"]);
        assert_eq!(task(db, made.tasks[0]).await.task.told.status, TaskStatus::Cancelled);
        let since = before.iter().map(|it| it.revision).max().unwrap();
        let follow = async |conn: &mut Conn| instance::changes_since(conn, since, 100).await;
        assert_eq!(db.read(follow).await.unwrap().rows.len(), 3);
        let gone = TemplateFilter { status: Some(TemplateStatus::Deleted), ..Default::default() };
        let list = async |conn: &mut Conn| {
            template_view::list_templates(conn, &gone, Page::default()).await
        };
        assert_eq!(db.read(list).await.unwrap().total, Some(1));
        // The same content again is needed again.
        a_template(db, "web").await;
        assert_eq!(image_use::forgotten(&mut conn).await.unwrap(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_template_that_is_to_go_reads_as_deleting_with_all_its_instances() {
    for database in all("retire").await {
        let db = &database.db;
        let made = a_template(db, "web").await;
        a_template(db, "stays").await;

        let retire =
            async |conn: &mut Conn| template_wish::retire(conn, made.template_id, "ci").await;
        db.write(retire).await.unwrap();

        let mut conn = db.conn().await.unwrap();
        for (status, name) in [(TemplateStatus::Deleting, "web"), (TemplateStatus::Active, "stays")]
        {
            let filter = TemplateFilter { status: Some(status), ..Default::default() };
            let list = async |conn: &mut Conn| {
                template_view::list_templates(conn, &filter, Page::default()).await
            };
            let Listing { total, list } = db.read(list).await.unwrap();
            assert_eq!((total.unwrap(), list[0].template.template_name.as_str()), (1, name));
            assert_eq!(list[0].template.status, status);
            assert_eq!(list[0].instances.all, 3);
        }
        let instances = template_view::instances(&mut conn, made.template_id).await.unwrap();
        assert!(instances.iter().all(|it| it.row.told.status == InstanceStatus::Deleting));
    }
}
