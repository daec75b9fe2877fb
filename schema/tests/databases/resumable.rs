//! Sessions of resumable uploads: who may change them, and when.

use std::time::Duration;

use schema::cluster::Swap;
use schema::resumable_upload::{
    self, Failure, Holder, LEASE, NewSession, Progress, SessionStatus, after,
};
use schema::testing::TestDatabase;
use schema::{Conn, sweep};

use crate::builders::LAB;

const ME: Holder<'static> = Holder { name: "me", alone: false };

#[tokio::test]
async fn only_the_latest_holder_changes_a_session() {
    for database in TestDatabase::all("session").await {
        let (db, kind) = (&database.db, database.kind());
        let now = schema::now();
        let (id, later) = ("0af9".repeat(8), after(now, Duration::from_hours(1)));
        let new = NewSession {
            id: &id,
            cluster_id: LAB,
            metadata: "filename eA==",
            total_bytes: 10,
            expires_at: later,
            creator: "ci",
        };
        db.write(async |conn: &mut Conn| resumable_upload::insert(conn, &new).await).await.unwrap();
        let mut conn = db.conn().await.unwrap();
        let conn = &mut conn;
        let fresh = resumable_upload::get(conn, &id).await.unwrap().unwrap();
        assert_eq!((fresh.status, fresh.received_bytes), (SessionStatus::Receiving, 0), "{kind}");
        assert!(!fresh.is_held(now, ME), "{kind}");

        // Of two who saw the same one gets it.
        assert_eq!(resumable_upload::hold(conn, &fresh, ME, now).await.unwrap(), Swap::Done);
        assert_eq!(resumable_upload::hold(conn, &fresh, ME, now).await.unwrap(), Swap::Stale);
        let held = resumable_upload::get(conn, &id).await.unwrap().unwrap();
        assert_eq!((held.epoch, held.held_until), (1, Some(after(now, LEASE))), "{kind}");

        let to = Progress { received_bytes: 4, whole: false, held: false, expires_at: later };
        let advance = async |conn: &mut Conn, epoch, to| {
            resumable_upload::advance(conn, &id, epoch, to, now).await.unwrap()
        };
        assert_eq!(advance(conn, 1, to).await, Swap::Done, "{kind}");
        let there = resumable_upload::get(conn, &id).await.unwrap().unwrap();
        assert_eq!((there.received_bytes, there.held_until), (4, None), "{kind}");

        // Who held it before can not change it any more.
        assert_eq!(resumable_upload::hold(conn, &there, ME, now).await.unwrap(), Swap::Done);
        assert_eq!(advance(conn, 1, to).await, Swap::Stale, "{kind}");
        assert_eq!(resumable_upload::renew(conn, &id, 1, now).await.unwrap(), Swap::Stale);
        let whole = Progress { received_bytes: 10, whole: true, held: true, expires_at: later };
        assert_eq!(advance(conn, 2, whole).await, Swap::Done, "{kind}");
        assert_eq!(advance(conn, 2, whole).await, Swap::Stale, "it is finishing on {kind}");

        let why = Failure { code: 503, reason: "away", message: "later" };
        assert_eq!(resumable_upload::put_off(conn, &id, 2, why).await.unwrap(), Swap::Done);
        let off = resumable_upload::get(conn, &id).await.unwrap().unwrap();
        assert_eq!((off.error_code, off.held_until), (Some(503), None), "{kind}");
        let done = resumable_upload::complete(conn, &id, 2, "{}", later).await.unwrap();
        assert_eq!(done, Swap::Done, "{kind}");
        let done = resumable_upload::get(conn, &id).await.unwrap().unwrap();
        assert_eq!((done.status, done.error_code), (SessionStatus::Done, None), "{kind}");
        assert_eq!(done.result.as_deref(), Some("{}"), "{kind}");
        assert_eq!(resumable_upload::fail(conn, &id, 2, why, now).await.unwrap(), Swap::Stale);
        resumable_upload::forget(conn, &id).await.unwrap();
        assert_eq!(resumable_upload::list(conn).await.unwrap(), [], "{kind}");
    }
}

#[tokio::test]
async fn sessions_go_with_their_cluster() {
    for database in TestDatabase::all("session_sweep").await {
        let new = NewSession {
            id: "x",
            cluster_id: LAB,
            metadata: "",
            total_bytes: 1,
            expires_at: schema::now(),
            creator: "ci",
        };
        let db = &database.db;
        db.write(async |conn: &mut Conn| resumable_upload::insert(conn, &new).await).await.unwrap();
        let mut conn = db.conn().await.unwrap();

        assert_eq!(sweep::orphan_cluster_ids(&mut conn).await.unwrap(), [LAB]);
        drop(conn);
        let sweep = async |conn: &mut Conn| sweep::sweep_cluster(conn, LAB).await;
        assert_eq!(db.write(sweep).await.unwrap(), 1, "{}", database.kind());
    }
}
