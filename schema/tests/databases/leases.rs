//! Leases of clusters: one holder at a time, by the database's clock.

use std::collections::BTreeMap;
use std::time::Duration;

use schema::lease::{self, Fence, Holder, Seen};
use schema::testing::TestDatabase;
use schema::{ClusterId, Conn, Db, DbError, node};
use tokio::sync::Notify;

use crate::builders::a_node;

const LONG: Duration = Duration::from_mins(10);
/// Expired as soon as it is taken.
const NONE: Duration = Duration::ZERO;

fn holder(name: &str, ttl: Duration) -> Holder {
    Holder { name: name.into(), ttl, alone: false }
}

fn fence(cluster: i64, holder: &Holder, epoch: i64) -> Fence {
    Fence { cluster_id: ClusterId(cluster), holder: holder.name.clone(), epoch }
}

async fn with_clusters(db: &Db, names: &[&str]) -> Vec<i64> {
    let mut conn = db.conn().await.unwrap();
    for name in names {
        let sql = format!(
            "INSERT INTO pve_cluster (cluster_name, api_url, user_id, user_token) \
             VALUES ('{name}', 'https://c', 'u', 't')"
        );
        conn.execute_sql(&sql).await.unwrap();
    }
    let rows = schema::cluster::list(&mut conn).await.unwrap();
    rows.into_iter().map(|row| row.id.0).collect()
}

async fn look(db: &Db) -> Seen {
    db.read(lease::look).await.unwrap()
}

async fn take(db: &Db, holder: &Holder, cluster: i64, seen: Option<i64>) -> u64 {
    let free = BTreeMap::from([(cluster, seen)]);
    db.write(async |conn: &mut Conn| lease::take(conn, holder, &free).await).await.unwrap()
}

async fn renew(db: &Db, holder: &Holder) {
    db.write(async |conn: &mut Conn| lease::renew(conn, holder).await).await.unwrap();
}

#[tokio::test]
async fn of_two_who_see_a_free_cluster_one_gets_it() {
    for database in TestDatabase::all("lease").await {
        let (db, kind) = (&database.db, database.kind());
        let cluster = with_clusters(db, &["c"]).await[0];
        let (a, b) = (holder("a", LONG), holder("b", LONG));

        assert_eq!(take(db, &a, cluster, None).await, 1, "{kind}");
        assert_eq!(take(db, &b, cluster, None).await, 0, "{kind}");
        assert_eq!(take(db, &b, cluster, Some(1)).await, 0, "{kind}: it has not expired");

        let seen = look(db).await;
        assert_eq!((&*seen.leases[&cluster].holder, seen.leases[&cluster].epoch), ("a", 1));
        assert!(seen.leases[&cluster].left > LONG / 2, "{kind}: {seen:?}");
        assert_eq!(take(db, &a, cluster + 1, None).await, 0, "{kind}: there is no such cluster");
    }
}

#[tokio::test]
async fn an_expired_lease_is_taken_and_never_renewed() {
    for database in TestDatabase::all("expired").await {
        let (db, kind) = (&database.db, database.kind());
        let cluster = with_clusters(db, &["c"]).await[0];
        let (late, next) = (holder("late", NONE), holder("next", LONG));
        take(db, &late, cluster, None).await;

        renew(db, &holder("late", LONG)).await;
        assert_eq!(look(db).await.leases[&cluster].left, Duration::ZERO, "{kind}");

        assert_eq!(take(db, &next, cluster, Some(0)).await, 0, "{kind}: another epoch was seen");
        assert_eq!(take(db, &next, cluster, Some(1)).await, 1, "{kind}");
        let seen = look(db).await;
        assert_eq!((&*seen.leases[&cluster].holder, seen.leases[&cluster].epoch), ("next", 2));
    }
}

#[tokio::test]
async fn a_renewed_lease_lasts_longer_and_its_holder_lives() {
    for database in TestDatabase::all("renewed").await {
        let (db, kind) = (&database.db, database.kind());
        let cluster = with_clusters(db, &["c"]).await[0];
        take(db, &holder("a", Duration::from_mins(1)), cluster, None).await;

        renew(db, &holder("a", LONG)).await;
        renew(db, &holder("a", LONG)).await;
        renew(db, &holder("dead", NONE)).await;

        let seen = look(db).await;
        assert!(seen.leases[&cluster].left > Duration::from_mins(2), "{kind}: {seen:?}");
        assert_eq!(seen.replicas, ["a"], "{kind}");
    }
}

#[tokio::test]
async fn what_was_given_back_is_free_at_once() {
    for database in TestDatabase::all("released").await {
        let (db, kind) = (&database.db, database.kind());
        let clusters = with_clusters(db, &["c", "d"]).await;
        let (a, b) = (holder("a", LONG), holder("b", LONG));
        for cluster in &clusters {
            take(db, &a, *cluster, None).await;
        }
        renew(db, &a).await;

        let one = [clusters[0]];
        db.write(async |conn: &mut Conn| lease::release(conn, &a, one).await).await.unwrap();
        db.write(async |conn: &mut Conn| lease::release(conn, &b, [clusters[1]]).await)
            .await
            .unwrap();
        assert_eq!(take(db, &b, clusters[0], Some(1)).await, 1, "{kind}");
        assert_eq!(
            take(db, &b, clusters[1], Some(1)).await,
            0,
            "{kind}: another's is not given back"
        );

        db.write(async |conn: &mut Conn| lease::leave(conn, &a).await).await.unwrap();
        assert_eq!(take(db, &b, clusters[1], Some(1)).await, 1, "{kind}");
        assert_eq!(look(db).await.replicas, Vec::<String>::new(), "{kind}");
    }
}

/// A19: the loser's late write is refused by its epoch.
#[tokio::test]
async fn a_late_change_is_refused() {
    for database in TestDatabase::all("late_change").await {
        let (db, kind) = (&database.db, database.kind());
        let cluster = with_clusters(db, &["c"]).await[0];
        let (loser, winner) = (holder("loser", NONE), holder("winner", LONG));
        take(db, &loser, cluster, None).await;
        let fenced = db.fenced(fence(cluster, &loser, 1));
        let nodes = [a_node("n1")];
        let write =
            async |conn: &mut Conn| node::write(conn, ClusterId(cluster), &nodes).await.map(drop);
        fenced.write(write).await.expect("nobody else has it yet");

        take(db, &winner, cluster, Some(1)).await;
        let nodes = [a_node("n2")];
        let late = fenced
            .write(async |conn: &mut Conn| node::write(conn, ClusterId(cluster), &nodes).await)
            .await;

        assert!(matches!(late, Err(DbError::Fenced { epoch: 1, .. })), "{kind}: {late:?}");
        let rows = node::load(&mut db.conn().await.unwrap(), ClusterId(cluster)).await.unwrap();
        assert_eq!(rows.len(), 1, "{kind}");
        let same_epoch = db.fenced(fence(cluster, &loser, 2));
        let late = same_epoch.write(async |_: &mut Conn| Ok(())).await;
        assert!(matches!(late, Err(DbError::Fenced { .. })), "{kind}: an epoch may come again");
    }
}

/// A process that stands still within a change does not keep its lease for ever: the database ends
/// what is idle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_takes_a_lease_while_a_change_is_under_way_and_that_ends() {
    for database in TestDatabase::all("under_way").await {
        if database.kind() == "sqlite" {
            continue; // It has one writer at a time.
        }
        let (db, kind) = (&database.db, database.kind());
        let cluster = with_clusters(db, &["c"]).await[0];
        let (a, b) = (holder("a", NONE), holder("b", LONG));
        take(db, &a, cluster, None).await;
        let begun = Notify::new();
        let fenced = db.fenced(fence(cluster, &a, 1));
        let change = fenced.write(async |_: &mut Conn| {
            begun.notify_one();
            std::future::pending::<Result<(), DbError>>().await
        });
        let taken = async {
            begun.notified().await;
            assert_eq!(
                take(db, &b, cluster, Some(1)).await,
                0,
                "{kind}: in the middle of a change"
            );
            while take(db, &b, cluster, Some(1)).await == 0 {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };

        tokio::select! {
            outcome = change => panic!("{kind}: {outcome:?}"),
            () = taken => {}
        }
    }
}

#[tokio::test]
async fn a_change_under_way_keeps_no_other_lease_from_being_renewed() {
    for database in TestDatabase::all("renewing").await {
        if database.kind() == "sqlite" {
            continue; // It has one writer at a time.
        }
        let (db, kind) = (&database.db, database.kind());
        let clusters = with_clusters(db, &["c", "d"]).await;
        let (short, long) = (holder("a", Duration::from_mins(1)), holder("a", LONG));
        for cluster in &clusters {
            take(db, &short, *cluster, None).await;
        }
        let fenced = db.fenced(fence(clusters[0], &short, 1));
        let changed = fenced.write(async |_: &mut Conn| {
            renew(db, &long).await;
            Ok(())
        });
        changed.await.expect(kind);

        let left = look(db).await.leases[&clusters[1]].left;
        assert!(left > Duration::from_mins(2), "{kind}: {left:?}");
    }
}

#[tokio::test]
async fn one_sqlite_file_serves_one_operator() {
    for database in TestDatabase::all("sole").await {
        let (db, kind) = (&database.db, database.kind());
        let first = lease::sole(db).unwrap();
        if kind != "sqlite" {
            assert!(first.is_none(), "{kind} is shared");
            continue;
        }
        let second = lease::sole(db).unwrap_err().to_string();
        assert!(second.contains("serves one operator"), "{second}");
        assert!(second.contains("MariaDB or PostgreSQL"), "{second}");

        drop(first);
        assert!(lease::sole(db).unwrap().is_some(), "it ended with its holder");

        let cluster = with_clusters(db, &["c"]).await[0];
        take(db, &holder("killed", LONG), cluster, None).await;
        let alone = Holder { alone: true, ..holder("next", LONG) };
        assert_eq!(take(db, &alone, cluster, Some(1)).await, 1, "nobody else can be alive");
    }
}
