//! Following tasks: whatever changes how one reads is a change of it.

use std::collections::BTreeMap;
use std::time::Duration;

use schema::page::Page;
use schema::revision::Table;
use schema::sync_task::TaskStatus;
use schema::template_view::{self, TaskFilter, TaskView};
use schema::{
    Conn, Db, DbError, Revision, SyncTaskId, sweep, task_changes, template_wish, tombstone,
};

use crate::builders::LAB;
use crate::templates::{a_template, all, of_node, the_operator_says};

/// Somebody who knows tasks by their changes alone.
struct Follower<'a> {
    db: &'a Db,
    known: BTreeMap<SyncTaskId, TaskView>,
    at: Revision,
}

impl Follower<'_> {
    /// Reads what changed, holds it against what there is, and says how the tasks read.
    async fn reads(&mut self) -> Vec<TaskStatus> {
        let at = self.at;
        let changes = async |conn: &mut Conn| task_changes::since(conn, at, 100).await;
        let changes = self.db.read(changes).await.unwrap();
        assert!(changes.rows.iter().all(|view| view.task.revision > at));
        self.known.extend(changes.rows.into_iter().map(|view| (view.task.id, view)));
        self.at = changes.revision;
        let page = Page::number(1, 100);
        let list = async |conn: &mut Conn| {
            template_view::list_tasks(conn, &TaskFilter::default(), page).await
        };
        let all = self.db.read(list).await.unwrap().list;
        let all: BTreeMap<_, _> = all.into_iter().map(|view| (view.task.id, view)).collect();
        assert_eq!(self.known, all);
        self.known.values().map(|view| view.task.told.status).collect()
    }
}

#[tokio::test]
async fn whatever_changes_how_a_task_reads_is_told_to_those_who_follow() {
    use TaskStatus::{Cancelled, Completed, Failed, Pending, Syncing};
    for database in all("task_changes").await {
        let db = &database.db;
        let mut follower = Follower { db, known: BTreeMap::new(), at: Revision(0) };
        let made = a_template(db, "web").await;
        assert_eq!(follower.reads().await, [Pending, Pending]);
        let cancel = async || {
            let row = of_node(db, &made, 2).await;
            let cancel = async |conn: &mut Conn| template_wish::cancel(conn, &row, "ann").await;
            db.write(cancel).await.unwrap();
        };
        let again = async || {
            let row = of_node(db, &made, 2).await;
            let again =
                async |conn: &mut Conn| template_wish::want_again(conn, &[&row], "ann").await;
            db.write(again).await.unwrap();
        };

        cancel().await;
        assert_eq!(follower.reads().await, [Cancelled, Pending]);
        again().await;
        assert_eq!(follower.reads().await, [Pending, Pending]);
        the_operator_says(db, made.tasks[0], Failed).await;
        assert_eq!(follower.reads().await, [Failed, Pending]);
        again().await;
        assert_eq!(follower.reads().await, [Pending, Pending]);
        the_operator_says(db, made.tasks[0], Syncing).await;
        cancel().await;
        assert_eq!(follower.reads().await, [Syncing, Pending]);
        the_operator_says(db, made.tasks[0], Completed).await;
        assert_eq!(follower.reads().await, [Completed, Pending]);
        let retire =
            async |conn: &mut Conn| template_wish::retire(conn, made.template_id, "ann").await;
        db.write(retire).await.unwrap();
        assert_eq!(follower.reads().await, [Completed, Cancelled]);

        let other = a_template(db, "other").await;
        assert_eq!(follower.reads().await, [Completed, Cancelled, Pending, Pending]);
        the_operator_says(db, other.tasks[0], Syncing).await;
        follower.reads().await;
        let forget =
            async |conn: &mut Conn| template_wish::forget(conn, other.template_id, "ann").await;
        db.write(forget).await.unwrap();
        assert_eq!(follower.reads().await, [Completed, Cancelled, Cancelled, Cancelled]);
    }
}

#[tokio::test]
async fn who_begins_to_follow_gets_all_tasks_and_from_where_on_deletes_are_known() {
    for database in all("task_load").await {
        let (db, kind) = (&database.db, database.kind());
        let made = a_template(db, "web").await;
        the_operator_says(db, made.tasks[0], TaskStatus::Syncing).await;
        let load = async |conn: &mut Conn| task_changes::load(conn).await;

        let (floor, all) = db.read(load).await.unwrap();

        let order: Vec<_> = all.rows.iter().map(|view| view.task.id).collect();
        assert_eq!(order, [made.tasks[1], made.tasks[0]], "{kind}");
        assert_eq!((floor, all.revision, all.gone.len()), (Revision(0), Revision(2), 0), "{kind}");

        db.conn().await.unwrap().execute_sql("DELETE FROM pve_cluster").await.unwrap();
        db.write(async |conn| sweep::sweep_cluster(conn, LAB).await).await.unwrap();

        let since = async |conn: &mut Conn| task_changes::since(conn, Revision(2), 100).await;
        let error = db.read(since).await.unwrap_err();
        assert!(matches!(error, DbError::Expired { oldest: 3, asked: 2, .. }), "{kind}: {error}");
        let (floor, all) = db.read(load).await.unwrap();
        assert_eq!((floor, all.revision, all.rows.len()), (Revision(3), Revision(3), 0), "{kind}");
        let prune =
            async |conn: &mut Conn| tombstone::prune(conn, Table::SyncTask, Duration::ZERO).await;
        assert_eq!(db.write(prune).await.unwrap(), 0, "{kind}");
    }
}
