//! The database is away, empty, or not ours (C07).

use axum::http::StatusCode;
use schema::Db;
use schema::testing::TestDatabase;
use serde_json::json;

use crate::fixture::{TestApi, router, send};

#[tokio::test]
async fn while_the_database_is_away_answers_are_503_and_say_when_to_ask_again() {
    let nowhere = tempfile::tempdir().unwrap().path().join("gone/mirror.db");
    for url in [
        format!("sqlite://{}", nowhere.display()),
        // Nobody listens on the port of tcpmux.
        "mysql://u:hunter2@127.0.0.1:1/mirror".to_owned(),
        "postgres://u:hunter2@127.0.0.1:1/mirror".to_owned(),
    ] {
        let router = router(Db::open(&url).unwrap());

        let answer = send(&router, "GET", "/api/v1/vms").await;

        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{url}");
        assert_eq!(answer.headers["retry-after"], "5");
        assert_eq!(
            answer.json(),
            json!({
                "code": 503,
                "message": "the database is not available; try again later",
                "data": {"reason": "database_unavailable", "field": null},
            })
        );
        let ready = send(&router, "GET", "/readyz").await;
        assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(ready.text, "the database is not available\n");
        assert_eq!(send(&router, "GET", "/livez").await.status, StatusCode::OK);
        // What is wrong with a request does not depend on the database.
        let bad = send(&router, "GET", "/api/v1/vms?page=0").await;
        assert_eq!(bad.status, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn a_database_that_comes_back_is_used_without_a_restart() {
    let database = TestDatabase::sqlite("comes_back").await;
    let home = std::path::Path::new(database.url.trim_start_matches("sqlite://")).parent().unwrap();
    let away = tempfile::tempdir().unwrap();
    let mount = away.path().join("mount");
    let router = router(Db::open(&format!("sqlite://{}/comes_back.db", mount.display())).unwrap());
    let first = send(&router, "GET", "/api/v1/vms").await;

    std::os::unix::fs::symlink(home, &mount).unwrap();

    assert_eq!(first.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(send(&router, "GET", "/api/v1/vms").await.status, StatusCode::OK);
    assert_eq!(send(&router, "GET", "/readyz").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_database_without_tables_is_a_503_that_says_what_to_run() {
    for database in TestDatabase::all_empty("no_tables").await {
        let api = TestApi::over(database);

        let answer = send(&api.router, "GET", "/api/v1/nodes").await;

        let kind = api.database.kind();
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{kind}");
        assert_eq!(answer.json()["data"]["reason"], json!("database_version"), "{kind}");
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains("run `pve-operator migrate"), "{kind}: {message}");
        let ready = send(&api.router, "GET", "/readyz").await;
        assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE, "{kind}");
        assert_eq!(ready.text, format!("{message}\n"), "{kind}");
    }
}

#[tokio::test]
async fn a_table_that_somebody_broke_is_a_500_that_tells_callers_nothing() {
    for api in TestApi::all("broken_table").await {
        api.sql("ALTER TABLE pve_storage RENAME TO secret_plan").await;

        let (status, body) = api.get("/api/v1/storages").await;

        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(body["data"], json!({"reason": "internal", "field": null}));
        assert!(!body.to_string().contains("pve_storage"), "{body}");
        assert_eq!(api.get("/api/v1/vms").await.0, StatusCode::OK);
    }
}
