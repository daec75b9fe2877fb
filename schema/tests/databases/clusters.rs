//! Clusters as people write them, their status, and what is left when they are gone.

use schema::cluster::{self, Swap};
use schema::cluster_status::{self, ClusterStatus};
use schema::guest::SyncedGuest;
use schema::secret::Secret;
use schema::testing::TestDatabase;
use schema::{ClusterId, DbError, Flag, guest, node, now, storage, sweep};

use crate::builders::{ATTIC, LAB, a_guest, a_node, a_storage, run, texts, two_clusters};

/// The statements of the quick start, comments included, one after the other.
const QUICK_START: &str = include_str!("quickstart.sql");

#[tokio::test]
async fn the_quick_starts_sql_runs_as_it_is_written() {
    for database in TestDatabase::all("quickstart").await {
        let (db, kind) = (&database.db, database.kind());
        let conn = &mut db.conn().await.unwrap();
        let mut after = Vec::new();

        for statement in QUICK_START.split_inclusive(';').filter(|s| !s.trim().is_empty()) {
            conn.execute_sql(statement).await.expect(kind);
            let clusters = cluster::list(conn).await.unwrap();
            after.push((clusters[0].is_enabled.0, clusters[0].is_schedulable.0));
        }

        assert_eq!(after, [(true, true), (true, true), (false, true), (false, false)], "{kind}");
        let cluster = cluster::get(conn, ClusterId(1)).await.unwrap().unwrap();
        assert_eq!(cluster.cluster_name, "my-cluster", "{kind}");
        assert_eq!(cluster.user_token.expose(), "your-api-token", "{kind}");
        assert_eq!(cluster.tls_insecure, Flag(false), "{kind}");
        // The default is UTC, whatever the session's zone is.
        assert!((now() - cluster.gmt_create).num_seconds().abs() < 60, "{kind}");
    }
}

#[tokio::test]
async fn a_name_is_taken_once() {
    for database in TestDatabase::all("taken").await {
        two_clusters(&database.db).await;
        let sql = "INSERT INTO pve_cluster (cluster_name, api_url, user_id, user_token) \
                   VALUES ('lab', 'x', 'y', 'z')";

        let error = database.db.conn().await.unwrap().execute_sql(sql).await.unwrap_err();

        assert!(matches!(error, DbError::Conflict { .. }), "{}: {error:?}", database.kind());
    }
}

#[tokio::test]
async fn a_token_is_sealed_only_if_nobody_changed_it() {
    for database in TestDatabase::all("seal").await {
        let (db, kind) = (&database.db, database.kind());
        two_clusters(db).await;
        let conn = &mut db.conn().await.unwrap();
        let read = Secret::new("mirror=1234");

        assert_eq!(cluster::seal_token(conn, LAB, &read, "v1:a").await.unwrap(), Swap::Done);
        assert_eq!(cluster::seal_token(conn, LAB, &read, "v1:b").await.unwrap(), Swap::Stale);

        let tokens = texts(db, "SELECT user_token AS t FROM pve_cluster ORDER BY id").await;
        assert_eq!(tokens, ["v1:a", "mirror=1234"], "{kind}");
    }
}

#[tokio::test]
async fn a_status_is_written_when_it_says_something_new() {
    for database in TestDatabase::all("status").await {
        let (db, kind) = (&database.db, database.kind());
        let first =
            ClusterStatus { last_success: Some(now()), ..ClusterStatus::new(LAB, "Connected") };
        let later = ClusterStatus {
            last_success: Some(now() + chrono::Duration::seconds(5)),
            ..first.clone()
        };
        let worse = ClusterStatus {
            reason: "Unauthorized".to_owned(),
            message: Some("the token was refused: write a new one to user_token".to_owned()),
            quorate: Some(Flag(true)),
            last_error_at: Some(now()),
            ..later.clone()
        };
        let mut outcomes = Vec::new();

        for status in [&first, &first, &later, &worse] {
            outcomes.push(
                db.write(async |conn| cluster_status::write(conn, status).await).await.unwrap(),
            );
        }

        assert_eq!(outcomes, [true, false, false, true], "{kind}");
        let conn = &mut db.conn().await.unwrap();
        assert_eq!(
            cluster_status::list(conn).await.unwrap(),
            std::slice::from_ref(&worse),
            "{kind}"
        );
        let at = now() + chrono::Duration::seconds(9);
        assert_eq!(cluster_status::touch(conn, LAB, at).await.unwrap(), 1, "{kind}");
        let status = cluster_status::get(conn, LAB).await.unwrap();
        assert_eq!(status, Some(ClusterStatus { last_success: Some(at), ..worse }), "{kind}");
    }
}

/// A16, as far as the tables are concerned.
#[tokio::test]
async fn nothing_is_left_of_a_deleted_cluster() {
    for database in TestDatabase::all("sweep").await {
        let (db, kind) = (&database.db, database.kind());
        two_clusters(db).await;
        for id in [LAB, ATTIC] {
            fill(db, id).await;
        }
        run(db, "DELETE FROM pve_cluster WHERE cluster_name = 'lab'").await;

        let orphans = db.read(async |conn| sweep::orphan_cluster_ids(conn).await).await.unwrap();
        let deleted = db.write(async |conn| sweep::sweep_cluster(conn, LAB).await).await.unwrap();

        assert_eq!(orphans, [LAB], "{kind}");
        assert_eq!(deleted, 16, "{kind}");
        for table in crate::builders::columns(db)
            .await
            .into_iter()
            .filter_map(|(table, columns)| columns.contains("cluster_id").then_some(table))
        {
            let sql = format!("SELECT CAST(cluster_id AS CHAR(2)) AS t FROM {table}");
            let left: Vec<_> = texts(db, &sql).await.iter().map(|t| t.trim().to_owned()).collect();
            assert!(!left.is_empty() && left.iter().all(|id| id == "2"), "{kind} {table} {left:?}");
        }
        let nothing = db.write(async |conn| sweep::sweep_cluster(conn, LAB).await).await.unwrap();
        assert_eq!(nothing, 0, "{kind}");
    }
}

#[tokio::test]
async fn a_configured_cluster_is_not_swept() {
    for database in TestDatabase::all("notswept").await {
        let (db, kind) = (&database.db, database.kind());
        two_clusters(db).await;
        fill(db, LAB).await;

        let refused = db.write(async |conn| sweep::sweep_cluster(conn, LAB).await).await;

        assert!(matches!(refused, Err(DbError::Conflict { .. })), "{kind}: {refused:?}");
        let rows = node::load(&mut db.conn().await.unwrap(), LAB).await.unwrap();
        assert_eq!(rows.len(), 1, "{kind}");
    }
}

/// A row of this cluster in every table that can have one.
async fn fill(db: &schema::Db, id: ClusterId) {
    let tagged = SyncedGuest { tags: Some("web".to_owned()), ..a_guest(100) };
    let (nodes, guests) = ([a_node("n1")], [tagged, a_guest(101)]);
    let storages = [a_storage("n1", "local")];
    db.write(async |conn| {
        node::write(conn, id, &nodes).await?;
        guest::write(conn, id, &guests, &[]).await?;
        guest::write(conn, id, &[], &[101]).await?;
        storage::write(conn, id, &storages, &[]).await?;
        cluster_status::write(conn, &ClusterStatus::new(id, "Connected")).await
    })
    .await
    .unwrap();
    run(
        db,
        &format!(
            "INSERT INTO vm_ipaddress (ip_address, vm_id, cluster_id) VALUES ('10.0.0.1', {id}, {id}); \
             INSERT INTO vm_template (template_name, cluster_id) VALUES ('debian', {id}); \
             INSERT INTO template_upload (template_id, cluster_id, storage_id, storage_name, file_name) \
             VALUES ({id}, {id}, 1, 'local', 'debian.qcow2'); \
             INSERT INTO template_instance (template_id, upload_id, cluster_id, node_id, node_name, \
             storage_name) VALUES ({id}, {id}, {id}, 1, 'n1', 'local'); \
             INSERT INTO template_sync_task (template_id, upload_id, cluster_id, target_node_id, \
             target_node_name, storage_name) VALUES ({id}, {id}, {id}, 1, 'n1', 'local'); \
             INSERT INTO template_clone (template_id, upload_id, cluster_id, node_id, node_name, \
             guest_name) VALUES ({id}, {id}, {id}, 1, 'n1', 'web'); \
             INSERT INTO template_leftover (cluster_id, instance_id, node_name, kind) \
             VALUES ({id}, {id}, 'n1', 'guest'); \
             INSERT INTO resumable_upload (id, cluster_id, metadata, total_bytes, expires_at, creator) \
             VALUES ('{id}', {id}, '', 1, '2020-02-20 20:20:20', 'ci'); \
             INSERT INTO vmid_reservation (cluster_id, vmid, holder) VALUES ({id}, 900, 'x'); \
             INSERT INTO cluster_lease (cluster_id, holder, expires_at) \
             VALUES ({id}, 'x', '2020-02-20 20:20:20')"
        ),
    )
    .await;
}
