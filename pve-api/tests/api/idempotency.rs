//! A request that comes again is done once: repeats, both at once, on two processes, and after one
//! that was killed.

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use pve_api::Settings;
use schema::Conn;
use schema::idempotency::{self, Claimed};
use schema::testing::texts;
use schema::token::{self, NewToken, Scope};
use serde_json::{Value, json};

use crate::fixture::{Answer, TestApi, call, router};
use crate::templates::{FORM, File, Lab, Text, form, qcow2};

const SECRET: &str = "f3b1c2d4-0000-4444-8888-1234567890ab";

fn a_cluster(name: &str) -> Value {
    json!({
        "cluster_name": name,
        "api_url": "https://pve1.example.com:8006",
        "user_id": "api@pve!mirror",
        "user_token": SECRET,
    })
}

async fn post(router: &Router, key: &str, path: &str, body: &Value) -> Answer {
    let headers = [("content-type", "application/json"), ("idempotency-key", key)];
    call(router, "POST", path, &headers, body.to_string()).await
}

async fn clusters(api: &TestApi) -> i64 {
    api.get("/api/v1/clusters").await.1["data"]["total"].as_i64().unwrap()
}

fn reason(answer: &Answer) -> Value {
    answer.json()["data"]["reason"].take()
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer_from_any_process() {
    for api in TestApi::all("idem_repeat").await {
        // A second process has a pool of its own.
        let other = router(schema::Db::open(&api.database.url).unwrap());
        let path = "/api/v1/clusters";

        let first = post(&api.router, "key-1", path, &a_cluster("prod")).await;
        assert_eq!(first.status, StatusCode::OK, "{}", first.text);
        assert!(!first.headers.contains_key("idempotency-replayed"));
        for router in [&api.router, &other] {
            let again = post(router, "key-1", path, &a_cluster("prod")).await;
            assert_eq!((again.status, &again.text), (first.status, &first.text));
            assert_eq!(again.headers["idempotency-replayed"], "true");
            assert_eq!(again.headers["content-type"], "application/json");
        }
        assert_eq!(clusters(&api).await, 3, "{}", api.database.kind());

        // A refusal is an answer too.
        let refused = post(&other, "key-2", path, &a_cluster("prod")).await;
        assert_eq!(refused.status, StatusCode::CONFLICT);
        api.sql("DELETE FROM pve_cluster WHERE cluster_name = 'prod'").await;
        let again = post(&api.router, "key-2", path, &a_cluster("prod")).await;
        assert_eq!((again.status, &again.text), (refused.status, &refused.text));

        for (path, body) in [
            (path, a_cluster("other")),
            ("/api/v1/clusters?x=1", a_cluster("prod")),
            ("/api/v1/templates/1/retry", a_cluster("prod")),
        ] {
            let with_other = post(&api.router, "key-1", path, &body).await;
            assert_eq!(with_other.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", with_other.text);
            assert_eq!(reason(&with_other), json!("idempotency_key_reused"));
        }
        let unfit = post(&api.router, "a key", path, &a_cluster("prod")).await;
        assert_eq!(unfit.status, StatusCode::BAD_REQUEST);
        assert_eq!(unfit.json()["data"]["field"], json!("Idempotency-Key"));
    }
}

#[tokio::test]
async fn two_at_once_have_one_effect() {
    for api in TestApi::all("idem_twice").await {
        let other = router(schema::Db::open(&api.database.url).unwrap());
        let body = json!({"name": "ci", "scope": "read"});
        let cluster = a_cluster("prod");

        let (a, b, c) = tokio::join!(
            post(&api.router, "key", "/api/v1/clusters", &cluster),
            post(&other, "key", "/api/v1/clusters", &cluster),
            post(&api.router, "other-key", "/api/v1/tokens", &body)
        );

        assert_eq!(c.status, StatusCode::OK);
        let mut done = 0;
        for answer in [&a, &b] {
            if answer.status == StatusCode::OK {
                done += 1;
                continue;
            }
            assert_eq!(reason(answer), json!("in_progress"), "{}", answer.text);
            assert!(answer.headers.contains_key("retry-after"));
        }
        assert!(done >= 1, "{} {}", a.text, b.text);
        assert_eq!(clusters(&api).await, 3, "{}", api.database.kind());
        let end = post(&other, "key", "/api/v1/clusters", &cluster).await;
        assert_eq!(end.headers["idempotency-replayed"], "true");
    }
}

#[tokio::test]
async fn a_key_is_its_callers_own() {
    for api in TestApi::all("idem_callers").await {
        let guarded = pve_api::router_with(api.database.db.clone(), Settings::default());
        let mut tokens = Vec::new();
        for name in ["a", "b"] {
            let new = NewToken { name, scope: Scope::Admin, expires_at: None, creator: None };
            let make = async |conn: &mut Conn| token::create(conn, &new).await;
            tokens.push(format!("Bearer {}", api.database.db.write(make).await.unwrap().expose()));
        }
        for (token, name) in tokens.iter().zip(["prod", "test"]) {
            let headers = [
                ("authorization", token.as_str()),
                ("content-type", "application/json"),
                ("idempotency-key", "key"),
            ];
            let body = a_cluster(name).to_string();
            let answer = call(&guarded, "POST", "/api/v1/clusters", &headers, body).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
            assert!(!answer.headers.contains_key("idempotency-replayed"));
        }
    }
}

// C04
#[tokio::test]
async fn a_token_that_was_made_is_not_kept_for_a_repeat() {
    for api in TestApi::all("idem_secret").await {
        let body = json!({"name": "ci", "scope": "read"});
        let first = post(&api.router, "key", "/api/v1/tokens", &body).await;
        assert_eq!(first.status, StatusCode::OK, "{}", first.text);
        let secret = first.json()["data"]["token"].as_str().unwrap().to_owned();
        post(&api.router, "key-2", "/api/v1/clusters", &a_cluster("prod")).await;

        let again = post(&api.router, "key", "/api/v1/tokens", &body).await;

        assert_eq!(again.status, StatusCode::CONFLICT);
        assert_eq!(reason(&again), json!("answer_not_kept"));
        let kept = "SELECT CONCAT(actor, request_key, request_sha256, holder, \
                    COALESCE(headers, ''), COALESCE(body, '')) AS t FROM idempotency_key";
        let mut conn = api.database.db.conn().await.unwrap();
        let kept = texts(&mut conn, kept).await.unwrap().concat();
        assert!(kept.contains("prod") && !kept.contains(&secret) && !kept.contains(SECRET));
    }
}

/// What a process that was killed leaves: it had the claim, and its lease runs out.
#[tokio::test]
async fn a_first_that_died_is_done_again_unless_it_took_effect() {
    for api in TestApi::all("idem_died").await {
        let body = a_cluster("prod");
        // As the router below /api/v1 sees it.
        let target = b"/clusters".as_slice();
        let sha256 = idempotency::sha256(&[target, body.to_string().as_bytes()]);
        let mut claims = Vec::new();
        for key in ["before", "after"] {
            let asked = idempotency::Request { actor: "anybody", key, sha256: &sha256 };
            let claim = async |conn: &mut Conn| idempotency::claim(conn, &asked).await;
            match api.database.db.write(claim).await.unwrap() {
                Claimed::Ours(claim) => claims.push(claim),
                other => panic!("{other:?}"),
            }
        }
        let took_effect = async |conn: &mut Conn| idempotency::took_effect(conn, &claims[1]).await;
        api.database.db.write(took_effect).await.unwrap();

        for key in ["before", "after"] {
            let running = post(&api.router, key, "/api/v1/clusters", &body).await;
            assert_eq!(running.status, StatusCode::CONFLICT, "{}", running.text);
            assert_eq!(reason(&running), json!("in_progress"));
        }
        api.sql("UPDATE idempotency_key SET lease_until = '2025-01-01 00:00:00'").await;
        let lost = post(&api.router, "after", "/api/v1/clusters", &body).await;
        assert_eq!(reason(&lost), json!("answer_lost"), "{}", lost.text);
        assert_eq!(clusters(&api).await, 2);
        let done = post(&api.router, "before", "/api/v1/clusters", &body).await;
        assert_eq!(done.status, StatusCode::OK, "{}", done.text);
        assert_eq!(clusters(&api).await, 3, "{}", api.database.kind());

        // Whoever was believed dead and wakes up can commit nothing.
        let mut conn = api.database.db.conn().await.unwrap();
        let late = idempotency::took_effect(&mut conn, &claims[0]).await;
        assert!(late.is_err_and(|error| error.is_transient()));
    }
}

#[tokio::test]
async fn what_failed_on_our_side_is_done_again() {
    for api in TestApi::all("idem_failed").await {
        api.sql("ALTER TABLE pve_cluster RENAME COLUMN region TO region_away").await;
        let failed = post(&api.router, "key", "/api/v1/clusters", &a_cluster("prod")).await;
        assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR, "{}", failed.text);
        api.sql("ALTER TABLE pve_cluster RENAME COLUMN region_away TO region").await;

        let again = post(&api.router, "key", "/api/v1/clusters", &a_cluster("prod")).await;

        assert_eq!(again.status, StatusCode::OK, "{}: {}", api.database.kind(), again.text);
        assert!(!again.headers.contains_key("idempotency-replayed"));
    }
}

#[tokio::test]
async fn keys_are_forgotten_after_a_day() {
    for api in TestApi::all("idem_old").await {
        for key in ["old", "young"] {
            post(&api.router, key, "/api/v1/templates/41/retry", &json!({})).await;
        }
        api.sql(
            "UPDATE idempotency_key SET gmt_create = '2025-01-01 00:00:00' WHERE request_key = 'old'",
        )
        .await;

        let prune = async |conn: &mut Conn| idempotency::prune(conn, idempotency::KEPT).await;
        assert_eq!(api.database.db.write(prune).await.unwrap(), 1);

        let young = post(&api.router, "young", "/api/v1/templates/41/retry", &json!({})).await;
        assert_eq!(young.headers["idempotency-replayed"], "true", "{}", api.database.kind());
        let old = post(&api.router, "old", "/api/v1/templates/41/retry", &json!({})).await;
        assert!(!old.headers.contains_key("idempotency-replayed"));
    }
}

/// A file is told by its length alone, and a cut-off upload is not remembered.
#[tokio::test]
async fn an_upload_is_done_once_and_again_if_it_was_cut_off() {
    for lab in Lab::all("idem_upload").await {
        let whole = form(&[
            Text("template_name", "web"),
            Text("cluster_id", "1"),
            Text("storage_id", "5"),
            File("disk.qcow2", &qcow2()),
        ]);
        let length = whole.len().to_string();
        let headers = [FORM, ("content-length", length.as_str()), ("idempotency-key", "key")];
        let send = async |body: Body| {
            call(&lab.router, "POST", "/api/v1/templates/upload", &headers, body).await
        };

        let half = whole[..whole.len() / 2].to_vec();
        let lost = std::io::Error::other("the connection is lost");
        let cut = Body::from_stream(futures::stream::iter([Ok(half), Err(lost)]));
        let cut = send(cut).await;
        assert_eq!(cut.status, StatusCode::BAD_REQUEST, "{}", cut.text);
        let first = send(whole.clone().into()).await;
        let again = send(whole.into()).await;

        assert_eq!(first.status, StatusCode::OK, "{}", first.text);
        assert_eq!((again.status, &again.text), (first.status, &first.text));
        assert_eq!(again.headers["idempotency-replayed"], "true");
        let rows = lab.texts("SELECT template_name AS t FROM vm_template").await;
        assert_eq!(rows, ["web"]);
    }
}
