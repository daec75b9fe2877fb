//! Transactions: all or nothing, retried when they collide, undone when dropped.

use schema::guest::SyncedGuest;
use schema::testing::TestDatabase;
use schema::{DbError, guest, node};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::builders::{ATTIC, LAB, a_guest, a_node, run, texts};

#[tokio::test]
async fn an_error_undoes_everything() {
    for database in TestDatabase::all("undone").await {
        let (db, kind) = (&database.db, database.kind());
        let nodes = [a_node("n1")];

        let failed: Result<(), DbError> = db
            .write(async |conn| {
                node::write(conn, LAB, &nodes).await?;
                Err(DbError::NotFound { what: "nerve".to_owned() })
            })
            .await;

        assert!(matches!(failed, Err(DbError::NotFound { .. })), "{kind}");
        assert!(node::load(&mut db.conn().await.unwrap(), LAB).await.unwrap().is_empty(), "{kind}");
    }
}

#[tokio::test]
async fn a_dropped_transaction_is_undone_and_its_connection_is_not_reused() {
    for database in TestDatabase::all("dropped").await {
        let (db, kind) = (&database.db, database.kind());
        let nodes = [a_node("n1")];
        // More often than the pool has connections, so that a leak would show.
        for _ in 0..12 {
            let wrote = Notify::new();
            let stuck = db.write(async |conn| {
                node::write(conn, LAB, &nodes).await?;
                wrote.notify_one();
                std::future::pending::<Result<(), DbError>>().await
            });
            tokio::select! {
                outcome = stuck => panic!("{kind}: {outcome:?}"),
                () = wrote.notified() => {}
            }
        }

        let written = db.write(async |conn| node::write(conn, LAB, &nodes).await).await;

        assert_eq!(written.expect(kind).inserted, 1, "{kind}");
    }
}

/// The connection goes back to the end of the pool's queue; its locks must not go with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_transaction_leaves_no_lock_for_the_next_one() {
    for database in TestDatabase::all("locks").await {
        let (db, kind) = (&database.db, database.kind());
        let nodes = [a_node("n1")];
        drop((db.conn().await.unwrap(), db.conn().await.unwrap()));
        let wrote = Notify::new();
        let stuck = db.write(async |conn| {
            node::write(conn, LAB, &nodes).await?;
            wrote.notify_one();
            std::future::pending::<Result<(), DbError>>().await
        });
        tokio::select! {
            outcome = stuck => panic!("{kind}: {outcome:?}"),
            () = wrote.notified() => {}
        }

        // Every database waits longer than this for a lock.
        let soon = std::time::Duration::from_secs(3);
        let next = db.write(async |conn| node::write(conn, LAB, &nodes).await);
        let written = tokio::time::timeout(soon, next).await.expect(kind);

        assert_eq!(written.expect(kind).inserted, 1, "{kind}");
    }
}

/// Two counters locked in opposite order are a deadlock on the servers and a busy file on
/// SQLite; both writers get through all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn colliding_transactions_are_run_again() {
    for database in TestDatabase::all("deadlock").await {
        let kind = database.kind();
        run(
            &database.db,
            "INSERT INTO pve_cluster (cluster_name, api_url, user_id, user_token) \
            VALUES ('a', '0', '', ''), ('b', '0', '', '')",
        )
        .await;
        let mut writers = JoinSet::new();
        for order in [["a", "b"], ["b", "a"]] {
            let db = database.db.clone();
            writers.spawn(async move {
                for _ in 0..20 {
                    db.write(async |conn| {
                        for name in order {
                            conn.execute_sql(&format!(
                                "UPDATE pve_cluster SET is_enabled = is_enabled + 1 \
                                 WHERE cluster_name = '{name}'"
                            ))
                            .await?;
                            tokio::task::yield_now().await;
                        }
                        Ok(())
                    })
                    .await
                    .expect("collisions are retried");
                }
            });
        }
        writers.join_all().await;

        let sql = "SELECT CAST(is_enabled AS CHAR(4)) AS t FROM pve_cluster";
        let counts: Vec<_> =
            texts(&database.db, sql).await.iter().map(|t| t.trim().to_owned()).collect();
        assert_eq!(counts, ["41", "41"], "{kind}");
    }
}

/// Readers that became writers would be refused at once by SQLite; ours begin as writers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_are_written_at_the_same_time() {
    for database in TestDatabase::all("together").await {
        let kind = database.kind();
        let mut writers = JoinSet::new();
        for cluster in [LAB, ATTIC] {
            let db = database.db.clone();
            writers.spawn(async move {
                for round in 0..20 {
                    let nodes = [schema::node::SyncedNode { cpu_num: Some(round), ..a_node("n1") }];
                    let guests = [SyncedGuest { cpu_num: Some(round), ..a_guest(100) }];
                    db.write(async |conn| {
                        node::write(conn, cluster, &nodes).await?;
                        guest::write(conn, cluster, &guests, &[]).await
                    })
                    .await
                    .expect("collisions are retried");
                }
            });
        }
        writers.join_all().await;

        let conn = &mut database.db.conn().await.unwrap();
        for cluster in [LAB, ATTIC] {
            let rows = guest::load(conn, cluster).await.unwrap();
            assert_eq!((rows.len(), rows[0].synced.cpu_num), (1, Some(19)), "{kind}");
        }
    }
}

#[tokio::test]
async fn reads_of_one_snapshot_see_one_moment() {
    for database in TestDatabase::all("snapshot").await {
        let (db, kind) = (&database.db, database.kind());
        let nodes = [a_node("n1")];

        let counts = db
            .read(async |conn| {
                let before = node::load(conn, LAB).await?.len();
                db.write(async |conn| node::write(conn, LAB, &nodes).await).await?;
                Ok((before, node::load(conn, LAB).await?.len()))
            })
            .await
            .expect(kind);

        assert_eq!(counts, (0, 0), "{kind}");
    }
}
