//! Following a table by revision.

use std::time::Duration;

use schema::guest::SyncedGuest;
use schema::revision::Table;
use schema::testing::TestDatabase;
use schema::{Db, DbError, Revision, guest, node, sweep, tombstone};
use tokio::task::JoinSet;

use crate::builders::{ATTIC, LAB, a_guest, a_node, run};

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test]
async fn changes_are_told_in_whole_transactions_and_deletes_by_tombstones() {
    for database in TestDatabase::all("changes").await {
        let (db, kind) = (&database.db, database.kind());
        let first: Vec<_> = (100..103).map(a_guest).collect();
        let second = [SyncedGuest { cpu_num: Some(1), ..a_guest(100) }];
        db.write(async |conn| guest::write(conn, LAB, &first, &[]).await).await.unwrap();
        db.write(async |conn| guest::write(conn, LAB, &second, &[101]).await).await.unwrap();

        // One row was asked for, but its transaction wrote two that are still there.
        let page = since(db, Revision(0), 1).await.unwrap();
        assert_eq!(
            page.rows.iter().map(|row| row.synced.vmid).collect::<Vec<_>>(),
            [102],
            "{kind}"
        );
        assert_eq!((page.revision, page.gone.len()), (Revision(1), 0), "{kind}");

        let rest = since(db, page.revision, 10).await.unwrap();
        assert_eq!(
            rest.rows.iter().map(|row| row.synced.vmid).collect::<Vec<_>>(),
            [100],
            "{kind}"
        );
        let gone = (rest.gone[0].row_key.as_str(), rest.gone[0].row_id, rest.gone[0].cluster_id);
        assert_eq!(gone, ("101", 2, LAB), "{kind}");
        assert_eq!(rest.revision, Revision(2), "{kind}");

        let quiet = since(db, rest.revision, 10).await.unwrap();
        assert!(quiet.rows.is_empty() && quiet.gone.is_empty(), "{kind}");
        assert_eq!(quiet.revision, Revision(2), "{kind}");
    }
}

#[tokio::test]
async fn a_page_never_splits_a_transaction() {
    for database in TestDatabase::all("pages").await {
        let (db, kind) = (&database.db, database.kind());
        for start in [100, 200] {
            let guests: Vec<_> = (start..start + 5).map(a_guest).collect();
            db.write(async |conn| guest::write(conn, LAB, &guests, &[]).await).await.unwrap();
        }

        let first = since(db, Revision(0), 3).await.unwrap();
        let second = since(db, first.revision, 3).await.unwrap();

        assert_eq!((first.rows.len(), first.revision), (5, Revision(1)), "{kind}");
        assert_eq!((second.rows.len(), second.revision), (5, Revision(2)), "{kind}");
    }
}

#[tokio::test]
async fn whoever_read_less_than_is_remembered_is_told_to_list_again() {
    for database in TestDatabase::all("expired").await {
        let (db, kind) = (&database.db, database.kind());
        let (guests, nodes) = ([a_guest(100), a_guest(101)], [a_node("n1")]);
        db.write(async |conn| guest::write(conn, LAB, &guests, &[]).await).await.unwrap();
        db.write(async |conn| guest::write(conn, LAB, &[], &[101]).await).await.unwrap();
        let forget = async |age| {
            db.write(async |conn| tombstone::prune(conn, Table::Guest, age).await).await.unwrap()
        };

        assert_eq!(forget(HOUR).await, 0, "{kind}");
        assert!(since(db, Revision(1), 10).await.is_ok(), "{kind}");
        run(db, "UPDATE tombstone SET gmt_create = '2020-02-20 20:20:20.020'").await;
        assert_eq!(forget(HOUR).await, 1, "{kind}");
        let late = since(db, Revision(1), 10).await;
        assert!(matches!(late, Err(DbError::Expired { oldest: 2, asked: 1, .. })), "{kind}");
        assert!(since(db, Revision(2), 10).await.is_ok(), "{kind}");

        db.write(async |conn| node::write(conn, ATTIC, &nodes).await).await.unwrap();
        db.write(async |conn| sweep::sweep_cluster(conn, LAB).await).await.unwrap();
        assert!(matches!(since(db, Revision(2), 10).await, Err(DbError::Expired { .. })), "{kind}");
        assert!(since(db, Revision(3), 10).await.unwrap().rows.is_empty(), "{kind}");
        // The sweep of another table's rows is no business of this one.
        let nodes = db.read(async |conn| node::changes_since(conn, Revision(0), 10).await).await;
        assert_eq!(nodes.unwrap().rows.len(), 1, "{kind}");
    }
}

/// Revisions follow the order of commits: a follower that reads while many write, and always
/// goes on from where it was, misses no row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_misses_nothing_while_many_write() {
    const WRITERS: i64 = 4;
    const EACH: i64 = 15;
    for database in TestDatabase::all("follower").await {
        let kind = database.kind();
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let db = database.db.clone();
            writers.spawn(async move {
                for n in 0..EACH {
                    let guests = [a_guest(1000 * (writer + 1) + n)];
                    let cluster = schema::ClusterId(writer + 1);
                    db.write(async |conn| guest::write(conn, cluster, &guests, &[]).await)
                        .await
                        .expect("collisions are retried");
                }
            });
        }
        let mut seen = std::collections::BTreeSet::new();
        let mut at = Revision(0);
        loop {
            let finished = writers.is_empty();
            let page = since(&database.db, at, 3).await.unwrap();
            assert!(page.revision >= at, "{kind}");
            let idle = page.rows.is_empty();
            seen.extend(page.rows.iter().map(|row| row.synced.vmid));
            at = page.revision;
            if finished && idle {
                break;
            }
            while let Some(done) = writers.try_join_next() {
                done.unwrap();
            }
        }

        assert_eq!(i64::try_from(seen.len()).unwrap(), WRITERS * EACH, "{kind}");
        assert_eq!(at, Revision(WRITERS * EACH), "{kind}");
    }
}

async fn since(
    db: &Db,
    revision: Revision,
    limit: u32,
) -> Result<schema::revision::Changes<guest::GuestRow>, DbError> {
    db.read(async |conn| guest::changes_since(conn, revision, limit).await).await
}
