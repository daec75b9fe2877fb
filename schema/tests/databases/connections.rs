//! What is said when there is no connection.

use std::error::Error;

use schema::guest::{self, GuestFilter};
use schema::page::Page;
use schema::testing::TestDatabase;
use schema::{Db, DbError, cluster};

use crate::builders::run;

#[tokio::test]
async fn a_server_that_is_away_is_a_reason_to_wait_and_shows_no_password() {
    for url in [
        "mysql://ops:hunter2@127.0.0.1:1/pve",
        "postgres://ops:hunter2@127.0.0.1:1/pve",
        "postgres://127.0.0.1:1/pve?user=ops&password=hunter2",
    ] {
        let db = Db::open(url).unwrap();

        let error = db.conn().await.unwrap_err();

        assert!(error.is_transient(), "{error}");
        let source = error.source().unwrap();
        let all = format!("{db:?} {error} {error:?} {source} {source:?}");
        assert!(all.contains("127.0.0.1:1") && !all.contains("hunter2"), "{all}");
    }
}

#[tokio::test]
async fn a_refused_password_is_not_shown() {
    for database in TestDatabase::all("password").await {
        // The throwaway PostgreSQL trusts everybody, and a file has no password.
        if database.kind() != "mysql" {
            continue;
        }
        let mut url = url::Url::parse(&database.url).unwrap();
        url.set_username("nobody").unwrap();
        url.set_password(Some("hunter2")).unwrap();

        let error = Db::open(url.as_str()).unwrap().conn().await.unwrap_err();

        let all = format!("{error} {error:?} {}", error.source().unwrap());
        assert!(all.contains("nobody") && !all.contains("hunter2"), "{all}");
    }
}

#[tokio::test]
async fn a_folder_that_is_missing_is_said() {
    let error = Db::open("sqlite:///nowhere/at/all.db").unwrap().conn().await.unwrap_err();

    assert!(matches!(error, DbError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("/nowhere/at/all.db"), "{error}");
}

#[tokio::test]
async fn a_lost_connection_is_replaced() {
    for database in TestDatabase::all("lost").await {
        let (db, kind) = (&database.db, database.kind());
        let (who, kill) = match kind {
            "mysql" => ("SELECT CAST(connection_id() AS CHAR(9)) AS t", "KILL "),
            "postgres" => {
                ("SELECT CAST(pg_backend_pid() AS TEXT) AS t", "SELECT pg_terminate_backend(")
            }
            _ => continue,
        };
        let end = if kind == "mysql" { "" } else { ")" };
        let mut victim = db.conn().await.unwrap();
        let id = schema::testing::texts(&mut victim, who).await.unwrap().remove(0);
        run(db, &format!("{kill}{id}{end}")).await;

        let error = cluster::list(&mut victim).await.unwrap_err();
        drop(victim);

        assert!(error.is_transient(), "{kind}: {error:?}");
        assert!(cluster::list(&mut db.conn().await.unwrap()).await.is_ok(), "{kind}");
    }
}

/// While programs run, a newer release may add columns to what they have prepared lists of.
#[tokio::test]
async fn a_list_works_again_after_a_column_was_added() {
    for database in TestDatabase::all("column").await {
        let (db, kind) = (&database.db, database.kind());
        let list = async |conn: &mut schema::Conn| {
            guest::list(conn, &GuestFilter::default(), Page::number(1, 10)).await
        };
        for _ in 0..3 {
            db.ask(list).await.unwrap();
        }
        run(db, "ALTER TABLE pve_vm ADD COLUMN later INTEGER NULL").await;

        let first = db.ask(list).await;
        let second = db.ask(list).await;

        // PostgreSQL refuses it once on each connection.
        assert!(first.is_ok() || matches!(first, Err(DbError::Query(_))), "{kind} {first:?}");
        assert_eq!(second.unwrap().total, Some(0), "{kind}");
    }
}
