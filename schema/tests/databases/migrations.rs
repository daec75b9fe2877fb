//! Up, down, up; one at a time; and what a program says of a database that is not its own.

use std::collections::{BTreeMap, BTreeSet};

use schema::testing::TestDatabase;
use schema::{Db, DbError, LATEST, Version, node};
use tokio::task::JoinSet;

use crate::builders::{LAB, a_node, columns};

#[tokio::test]
async fn migrations_go_up_and_down_and_up_again() {
    for database in TestDatabase::all_empty("updownup").await {
        let (db, kind) = (&database.db, database.kind());

        let up = db.migrate().await.expect(kind);
        let again = db.migrate().await.expect(kind);
        let down = db.migrate_to(0).await.expect(kind);

        assert_eq!(up.len(), LATEST as usize, "{kind}");
        assert!(again.is_empty(), "{kind}");
        assert_eq!(down, up.iter().rev().copied().collect::<Vec<_>>(), "{kind}");
        assert_eq!(db.version().await.unwrap(), Version::default(), "{kind}");
        let left: BTreeSet<String> = columns(db).await.into_keys().collect();
        assert_eq!(left, BTreeSet::from(["schema_migration".to_owned()]), "{kind}");
        assert_eq!(db.migrate().await.expect(kind), up, "{kind}");
        let written = db.write(async |conn| node::write(conn, LAB, &[a_node("n1")]).await).await;
        assert_eq!(written.expect(kind).inserted, 1, "{kind}");
    }
}

#[tokio::test]
async fn all_databases_have_the_same_columns() {
    let mut seen: Option<(&str, BTreeMap<String, BTreeSet<String>>)> = None;
    for database in TestDatabase::all("columns").await {
        let found = columns(&database.db).await;
        assert!(found["pve_vm"].contains("ha_state"));
        match &seen {
            None => seen = Some((database.kind(), found)),
            Some((first, columns)) => assert_eq!(&found, columns, "{} {first}", database.kind()),
        }
    }
}

#[tokio::test]
async fn runs_at_the_same_time_wait_for_one_another() {
    for database in TestDatabase::all_empty("collide").await {
        let mut runs = JoinSet::new();
        for _ in 0..4 {
            // Pools of their own, as processes have.
            let db = Db::open(&database.url).unwrap();
            runs.spawn(async move { db.migrate().await });
        }

        let done = runs.join_all().await;

        let applied: usize = done.into_iter().map(|run| run.unwrap().len()).sum();
        assert_eq!(applied, LATEST as usize, "{}", database.kind());
        database.db.check_writable().await.unwrap();
    }
}

#[tokio::test]
async fn an_unmigrated_database_is_refused_with_the_command_that_helps() {
    for database in TestDatabase::all_empty("unmigrated").await {
        let error = database.db.check().await.unwrap_err();

        assert!(matches!(error, DbError::Unmigrated { found: 0, needed: LATEST }));
        assert!(error.to_string().contains("pve-operator migrate"), "{error}");
        assert!(!error.is_transient());
    }
}

#[tokio::test]
async fn a_database_is_refused_as_too_new_only_if_it_says_so() {
    for database in TestDatabase::all("toonew").await {
        let (db, kind) = (&database.db, database.kind());
        let newer = |version: u32, minimum: u32| {
            format!("INSERT INTO schema_migration VALUES ({version}, 'newer', {minimum})")
        };
        let conn = &mut db.conn().await.unwrap();

        conn.execute_sql(&newer(LATEST + 1, LATEST)).await.unwrap();
        db.check().await.expect(kind);
        assert!(db.migrate().await.expect(kind).is_empty(), "{kind}");

        conn.execute_sql(&newer(LATEST + 2, LATEST + 2)).await.unwrap();
        let error = db.check().await.unwrap_err();
        assert!(matches!(error, DbError::TooNew { .. }), "{kind}: {error}");
        assert!(error.to_string().contains("newer release"), "{error}");
        assert!(matches!(db.migrate().await, Err(DbError::TooNew { .. })), "{kind}");
    }
}

#[tokio::test]
async fn a_read_only_database_can_be_read_and_says_that_it_cannot_be_written() {
    for database in TestDatabase::all("readonly").await {
        let (kind, url) = (database.kind(), &database.url);
        let url = match kind {
            "sqlite" => format!("{url}?mode=ro"),
            "postgres" => {
                let name = url.rsplit('/').next().unwrap();
                let sql = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
                database.db.conn().await.unwrap().execute_sql(&sql).await.unwrap();
                url.clone()
            }
            // MariaDB's switch is the whole server's, and does not bind its root.
            _ => continue,
        };
        let db = Db::open(&url).unwrap();

        db.check().await.expect(kind);
        let error = db.check_writable().await.unwrap_err();

        assert!(matches!(error, DbError::ReadOnly { .. }), "{kind}: {error:?}");
        assert!(!error.is_transient(), "{kind}");
        db.close();
    }
}
