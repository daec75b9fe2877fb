//! Who may do what (C03), and the command that makes tokens.

use std::process::Stdio;

use axum::Router;
use axum::http::StatusCode;
use pve_api::Settings;
use schema::token::{self, NewToken, Scope};
use schema::{Conn, Timestamp};
use serde_json::json;
use tokio::process::Command;

use crate::fixture::{Answer, TestApi, call};

/// An API that wants tokens.
async fn guarded(name: &str) -> Vec<(TestApi, Router)> {
    let mut all = Vec::new();
    for api in TestApi::all(name).await {
        let router = pve_api::router_with(api.database.db.clone(), Settings::default());
        all.push((api, router));
    }
    all
}

async fn make(api: &TestApi, name: &str, scope: Scope, expires_at: Option<Timestamp>) -> String {
    let new = NewToken { name, scope, expires_at, creator: None };
    let make = async |conn: &mut Conn| token::create(conn, &new).await;
    api.database.db.write(make).await.unwrap().expose().to_owned()
}

async fn with(router: &Router, token: &str, method: &str, path: &str) -> Answer {
    let token = format!("Bearer {token}");
    call(router, method, path, &[("authorization", &token)], "").await
}

#[tokio::test]
async fn without_a_token_nothing_below_the_api_is_answered() {
    for (_, router) in guarded("no_token").await {
        for headers in [&[][..], &[("authorization", "Basic YTpi")], &[("authorization", "Bearer")]]
        {
            let answer = call(&router, "GET", "/api/v1/vms", headers, "").await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
            assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"pve-api\"");
            assert_eq!(
                answer.json()["data"],
                json!({"reason": "no_token", "field": null}),
                "{}",
                answer.text
            );
        }
        let wrong = with(&router, "pveo_nonsense", "GET", "/api/v1/vms").await;
        assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
        assert_eq!(wrong.json()["data"]["reason"], json!("unknown_token"));
        assert!(!wrong.text.contains("nonsense"));
        for path in ["/livez", "/readyz", "/metrics"] {
            let answer = call(&router, "GET", path, &[], "").await;
            assert_eq!(answer.status, StatusCode::OK, "{path}");
        }
        // Whoever asks for an image shows its own kind of token.
        let image = call(&router, "GET", "/images/0123456789abcdef/x.qcow2?t=x", &[], "").await;
        assert_ne!(image.status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn a_token_does_what_its_scope_says_until_it_is_revoked() {
    for (api, router) in guarded("scopes").await {
        let reader = make(&api, "reader", Scope::Read, None).await;
        let writer = make(&api, "writer", Scope::Write, None).await;
        let admin = make(&api, "admin", Scope::Admin, None).await;

        for token in [&reader, &writer, &admin] {
            let answer = with(&router, token, "GET", "/api/v1/vms").await;
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(with(&router, token, "HEAD", "/api/v1/vms").await.status, StatusCode::OK);
        }
        let refused = with(&router, &reader, "DELETE", "/api/v1/templates/1").await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN);
        assert_eq!(
            refused.headers["www-authenticate"],
            "Bearer realm=\"pve-api\", error=\"insufficient_scope\", scope=\"write\""
        );
        assert_eq!(
            refused.json()["message"],
            json!("the token `reader` has the scope read, this needs write")
        );
        for token in [&writer, &admin] {
            let answer = with(&router, token, "DELETE", "/api/v1/templates/1").await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND);
        }

        let revoke = async |conn: &mut Conn| token::revoke(conn, "writer").await;
        assert!(api.database.db.write(revoke).await.unwrap());
        let answer = with(&router, &writer, "GET", "/api/v1/vms").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer.json()["message"], json!("the token `writer` was revoked"));
        assert_eq!(with(&router, &reader, "GET", "/api/v1/vms").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_token_has_its_rate_for_what_it_may_not_do_too() {
    for (api, _) in guarded("scope_rate").await {
        let mut settings = Settings::default();
        settings.rate_limit = std::num::NonZeroU32::new(1);
        let router = pve_api::router_with(api.database.db.clone(), settings);
        let reader = make(&api, "reader", Scope::Read, None).await;

        let mut seen = Vec::new();
        while seen.last() != Some(&StatusCode::TOO_MANY_REQUESTS) {
            assert!(seen.len() < 100, "no limit on {}", api.database.kind());
            seen.push(with(&router, &reader, "DELETE", "/api/v1/templates/1").await.status);
        }

        assert_eq!(seen[..2], [StatusCode::FORBIDDEN; 2]);
    }
}

#[tokio::test]
async fn a_token_ends_when_it_expires() {
    for (api, router) in guarded("expires").await {
        let past = schema::now() - chrono::TimeDelta::seconds(1);
        let expired = make(&api, "old", Scope::Admin, Some(past)).await;
        let future = schema::now() + chrono::TimeDelta::days(1);
        let valid = make(&api, "new", Scope::Read, Some(future)).await;

        let answer = with(&router, &expired, "GET", "/api/v1/vms").await;

        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer.json()["data"]["reason"], json!("expired_token"));
        assert_eq!(with(&router, &valid, "GET", "/api/v1/vms").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn the_last_use_of_a_token_and_the_name_of_who_changes_something_are_kept() {
    for (api, _) in guarded("last_use").await {
        let settings = Settings::default();
        let tasks = settings.tasks.clone();
        let router = pve_api::router_with(api.database.db.clone(), settings);
        let writer = make(&api, "ci", Scope::Write, None).await;

        let token = format!("Bearer {writer}");
        let headers = [("authorization", token.as_str()), ("x-request-id", "job-17")];
        call(&router, "DELETE", "/api/v1/templates/41", &headers, "").await;
        tasks.close();
        tasks.wait().await;

        let list = async |conn: &mut Conn| token::list(conn).await;
        let list = api.database.db.read(list).await.unwrap();
        assert!(list[0].last_used_at.is_some(), "{}", api.database.kind());
        let latest = async |conn: &mut Conn| schema::audit::latest(conn, 10).await;
        let event = api.database.db.read(latest).await.unwrap().swap_remove(0);
        assert_eq!((event.actor.as_str(), event.action.as_str()), ("ci", "template.delete"));
        assert_eq!(event.request_id.as_deref(), Some("job-17"));
        assert_eq!(event.result, "not_found");
        assert!(!format!("{event:?}").contains(&writer));
    }
}

#[tokio::test]
async fn while_the_database_is_away_nobody_is_let_in() {
    let db = schema::Db::open("mysql://u:p@127.0.0.1:1/mirror").unwrap();
    let router = pve_api::router_with(db, Settings::default());

    let answer = with(&router, "pveo_x", "GET", "/api/v1/vms").await;

    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pve-api"));
    command.args(arguments).env_clear().kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[tokio::test]
async fn tokens_are_made_listed_and_revoked_by_command() {
    for (api, router) in guarded("token_command").await {
        let run = async |arguments: &[&str]| {
            let mut all = vec!["token"];
            all.extend_from_slice(arguments);
            all.extend(["--database-url", &api.database.url]);
            let output = command(&all).output().await.unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            (output.status.code(), text(output.stdout), text(output.stderr))
        };

        let (code, token, said) =
            run(&["create", "--name", "ci", "--scope", "read", "--expires", "90d"]).await;

        assert_eq!(code, Some(0), "{said}");
        let token = token.trim();
        assert_eq!(with(&router, token, "GET", "/api/v1/vms").await.status, StatusCode::OK);
        assert!(!said.contains(token));
        let (_, list, _) = run(&["list"]).await;
        let line = list.lines().nth(1).unwrap();
        assert!(line.starts_with("ci    read   valid"), "{list}");
        assert!(!list.contains(token));
        let (code, _, said) = run(&["create", "--name", "ci", "--scope", "admin"]).await;
        assert_eq!(code, Some(1));
        assert!(said.contains("a token called `ci` already"), "{said}");
        assert_eq!(run(&["revoke", "--name", "ci"]).await.0, Some(0));
        let answer = with(&router, token, "GET", "/api/v1/vms").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        let (code, _, said) = run(&["revoke", "--name", "ci"]).await;
        assert_eq!(code, Some(1));
        assert!(said.contains("pve-api token list"), "{said}");
        assert_eq!(run(&["create", "--name", "x", "--scope", "root"]).await.0, Some(2));
        let events = async |conn: &mut Conn| schema::audit::latest(conn, 10).await;
        let events = api.database.db.read(events).await.unwrap();
        let actions: Vec<_> = events.iter().map(|event| event.action.as_str()).collect();
        assert_eq!(actions, ["token.revoke", "token.create"]);
    }
}
