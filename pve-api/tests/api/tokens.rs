//! Tokens over HTTP: made once, listed without themselves, revoked at once (C03).

use axum::Router;
use axum::http::StatusCode;
use pve_api::Settings;
use schema::token::{self, NewToken, Scope};
use schema::{Conn, audit};
use serde_json::{Value, json};

use crate::fixture::{Answer, TestApi, call};

struct Guarded {
    api: TestApi,
    router: Router,
    admin: String,
}

/// An API that wants tokens, and one for an administrator.
async fn guarded(name: &str) -> Vec<Guarded> {
    let mut all = Vec::new();
    for api in TestApi::all(name).await {
        let router = pve_api::router_with(api.database.db.clone(), Settings::default());
        let new = NewToken { name: "root", scope: Scope::Admin, expires_at: None, creator: None };
        let make = async |conn: &mut Conn| token::create(conn, &new).await;
        let admin = api.database.db.write(make).await.unwrap().expose().to_owned();
        all.push(Guarded { api, router, admin });
    }
    all
}

impl Guarded {
    async fn ask(&self, token: &str, method: &str, path: &str, body: &Value) -> Answer {
        let token = format!("Bearer {token}");
        let headers = [("authorization", token.as_str()), ("content-type", "application/json")];
        call(&self.router, method, path, &headers, body.to_string()).await
    }

    async fn post(&self, body: Value) -> Answer {
        self.ask(&self.admin, "POST", "/api/v1/tokens", &body).await
    }

    async fn get(&self, path: &str) -> Value {
        self.ask(&self.admin, "GET", path, &json!({})).await.json()["data"].take()
    }
}

// C01, C03
#[tokio::test]
async fn a_token_is_shown_once_and_ends_when_it_is_revoked() {
    for it in guarded("tokens_http").await {
        let made = it.post(json!({"name": "ci", "scope": "read", "expires_in": "90d"})).await;

        assert_eq!(made.status, StatusCode::OK, "{}", made.text);
        let mut made = made.json()["data"].take();
        let secret = made["token"].take().as_str().unwrap().to_owned();
        let ends = made["expires_at"].take();
        assert!(ends.as_str().is_some_and(|text| text.ends_with('Z')));
        assert_eq!(
            made,
            json!({"id": 2, "name": "ci", "scope": "read", "expires_at": null, "token": null})
        );
        let answer = it.ask(&secret, "GET", "/api/v1/vms", &json!({})).await;
        assert_eq!(answer.status, StatusCode::OK);
        for (method, path) in [("GET", "/api/v1/tokens"), ("DELETE", "/api/v1/tokens/1")] {
            let refused = it.ask(&secret, method, path, &json!({})).await;
            assert_eq!(refused.status, StatusCode::FORBIDDEN, "{method} {path}");
        }
        let mut list = it.get("/api/v1/tokens").await;
        let made_at = list["list"][0]["gmt_create"].take();
        assert!(made_at.is_string());
        list["list"][0]["last_used_at"].take();
        assert_eq!(list["total"], json!(2));
        assert_eq!(
            list["list"][0],
            json!({
                "id": 2, "name": "ci", "scope": "read", "state": "valid", "expires_at": ends,
                "last_used_at": null, "revoked_at": null, "gmt_create": null, "creator": "root",
            })
        );

        let revoked = it.ask(&it.admin, "DELETE", "/api/v1/tokens/2", &json!({})).await;
        assert_eq!(revoked.json()["data"]["state"], json!("revoked"), "{}", revoked.text);
        let answer = it.ask(&secret, "GET", "/api/v1/vms", &json!({})).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        let again = it.ask(&it.admin, "DELETE", "/api/v1/tokens/2", &json!({})).await;
        assert_eq!(again.json()["data"]["revoked_at"], revoked.json()["data"]["revoked_at"]);
        let unknown = it.ask(&it.admin, "DELETE", "/api/v1/tokens/9", &json!({})).await;
        assert_eq!(unknown.json()["message"], json!("no token with id 9"));
        let latest = async |conn: &mut Conn| audit::latest(conn, 9).await;
        let events = it.api.database.db.read(latest).await.unwrap();
        let told: Vec<_> = events
            .iter()
            .map(|event| (event.action.as_str(), event.result.as_str(), event.actor.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("token.revoke", "not_found", "root"),
                ("token.revoke", "done", "root"),
                ("token.create", "done", "root"),
            ]
        );
        assert!(!format!("{events:?}").contains(&secret));
    }
}

#[tokio::test]
async fn a_token_that_can_not_be_made_is_refused_with_what_can() {
    let it = &guarded("tokens_refused").await[0];
    for (body, field, says) in [
        (json!({"name": "", "scope": "read"}), "name", "1 to 255"),
        (json!({"name": "a\nb", "scope": "read"}), "name", "control characters"),
        (json!({"name": "a", "scope": "root"}), "scope", "read, write, admin"),
        (json!({"name": "a", "scope": "read", "expires_in": "soon"}), "expires_in", "90d or 12h"),
        (
            json!({"name": "a", "scope": "read", "expires_at": "2001-01-01T00:00:00Z"}),
            "expires_at",
            "in the past",
        ),
        (json!({"name": "a"}), "body", "scope"),
    ] {
        let answer = it.post(body.clone()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}: {}", answer.text);
        let answer = answer.json();
        assert_eq!(answer["data"]["field"], json!(field), "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(says), "{answer}");
    }
    let taken = it.post(json!({"name": "root", "scope": "read"})).await;
    assert_eq!(taken.status, StatusCode::CONFLICT);
    assert_eq!(taken.json()["data"], json!({"reason": "name_taken", "field": "name"}));
    assert_eq!(it.get("/api/v1/tokens").await["total"], json!(1));
}

#[tokio::test]
async fn the_last_administrator_is_not_revoked_by_accident() {
    for it in guarded("last_admin").await {
        let revoke = async |path: &str| it.ask(&it.admin, "DELETE", path, &json!({})).await;

        let refused = revoke("/api/v1/tokens/1").await;

        assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.text);
        assert_eq!(refused.json()["data"], json!({"reason": "last_admin", "field": null}));
        assert_eq!(it.post(json!({"name": "b", "scope": "admin"})).await.status, StatusCode::OK);
        assert_eq!(it.post(json!({"name": "c", "scope": "admin"})).await.status, StatusCode::OK);
        // Of three, two revoked at once leave one; of the last two, one stays.
        let (one, other) = tokio::join!(revoke("/api/v1/tokens/2"), revoke("/api/v1/tokens/3"));
        assert_eq!((one.status, other.status), (StatusCode::OK, StatusCode::OK));
        assert_eq!(revoke("/api/v1/tokens/1").await.status, StatusCode::CONFLICT);
        let forced = revoke("/api/v1/tokens/1?force=true").await;
        assert_eq!(forced.status, StatusCode::OK, "{}", forced.text);
        assert_eq!(revoke("/api/v1/tokens/1").await.status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn two_administrators_who_revoke_each_other_leave_one() {
    for it in guarded("two_admins").await {
        let made = it.post(json!({"name": "b", "scope": "admin"})).await.json();
        let other = made["data"]["token"].as_str().unwrap().to_owned();
        let nothing = json!({});

        let (first, second) = tokio::join!(
            it.ask(&it.admin, "DELETE", "/api/v1/tokens/2", &nothing),
            it.ask(&other, "DELETE", "/api/v1/tokens/1", &nothing)
        );

        let codes = [first.status, second.status];
        assert_eq!(codes.iter().filter(|code| **code == StatusCode::OK).count(), 1, "{codes:?}");
        let list = async |conn: &mut Conn| token::list(conn).await;
        let rows = it.api.database.db.read(list).await.unwrap();
        let valid = rows.iter().filter(|row| row.revoked_at.is_none()).count();
        assert_eq!(valid, 1, "{}", it.api.database.kind());
    }
}
