//! What browsers are told in headers.

use pve_api::Settings;
use schema::testing::TestDatabase;

use crate::fixture::{call, for_anybody, send};

fn with(settings: Settings, database: &TestDatabase) -> axum::Router {
    pve_api::router_with(database.db.clone(), settings)
}

#[tokio::test]
async fn every_answer_says_that_it_is_no_page() {
    let database = TestDatabase::sqlite("no_page").await;
    let router = with(for_anybody(), &database);
    for path in ["/api/v1/vms", "/api/v1/vms?page=0", "/livez", "/metrics", "/no/such"] {
        let answer = send(&router, "GET", path).await;
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("cache-control", "no-store"),
            ("referrer-policy", "no-referrer"),
            ("x-frame-options", "DENY"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ] {
            assert_eq!(answer.headers[name], value, "{path}");
        }
        assert!(!answer.headers.contains_key("strict-transport-security"), "{path}");
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "{path}");
    }
}

#[tokio::test]
async fn pages_of_other_origins_are_kept_out_unless_they_are_named() {
    let database = TestDatabase::sqlite("cors").await;
    let mut settings = for_anybody();
    settings.cors_origins = vec!["https://portal.example.net".parse().unwrap()];
    let (open, shut) = (with(settings, &database), with(for_anybody(), &database));
    let ours = ("origin", "https://portal.example.net");
    let theirs = ("origin", "https://evil.example.net");
    let asks = ("access-control-request-method", "POST");

    let known = call(&open, "OPTIONS", "/api/v1/templates", &[ours, asks], "").await;
    let used = call(&open, "GET", "/api/v1/vms", &[ours], "").await;
    let unknown = call(&open, "OPTIONS", "/api/v1/templates", &[theirs, asks], "").await;
    let read = call(&open, "GET", "/api/v1/vms", &[theirs], "").await;
    let off = call(&shut, "OPTIONS", "/api/v1/templates", &[ours, asks], "").await;
    let other = call(&open, "OPTIONS", "/api/v1/templates", &[ours], "").await;

    assert_eq!(known.status, 204);
    assert_eq!(known.headers["access-control-allow-origin"], "https://portal.example.net");
    let allowed = known.headers["access-control-allow-headers"].to_str().unwrap();
    for header in ["authorization", "content-type", "idempotency-key", "upload-offset"] {
        assert!(allowed.contains(header), "{allowed}");
    }
    assert_eq!(used.status, 200);
    assert_eq!(used.headers["access-control-allow-origin"], "https://portal.example.net");
    let shown = used.headers["access-control-expose-headers"].to_str().unwrap();
    assert!(shown.contains("x-request-id") && shown.contains("retry-after"), "{shown}");
    assert_eq!(used.headers["vary"], "origin");
    assert_eq!(other.status, 405, "that is no browser's question");
    for answer in [&unknown, &read, &off] {
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "{answer:?}");
    }
    for answer in [&known, &used, &read] {
        assert!(!answer.headers.contains_key("access-control-allow-credentials"), "{answer:?}");
    }
}
