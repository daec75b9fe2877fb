//! Clusters as people want them: made, changed, deleted, and their tokens never shown.

use std::collections::BTreeSet;

use axum::Router;
use axum::http::StatusCode;
use schema::secret::{Secret, SecretKeys, USER_TOKEN};
use schema::testing::texts;
use schema::{Conn, audit, cluster};
use serde_json::{Value, json};

use crate::fixture::{Answer, LAB, TOKEN, TestApi, a_guest, a_node, a_storage, call, for_anybody};

const JSON: (&str, &str) = ("content-type", "application/json");

/// As PVE prints them.
const SECRET: &str = "f3b1c2d4-0000-4444-8888-1234567890ab";

async fn send(router: &Router, method: &str, path: &str, body: &Value) -> Answer {
    call(router, method, path, &[JSON], body.to_string()).await
}

fn a_cluster(name: &str) -> Value {
    json!({
        "cluster_name": name,
        "api_url": "https://pve1.example.com:8006",
        "user_id": "api@pve!mirror",
        "user_token": SECRET,
    })
}

/// A view without its times, which are checked to be some.
fn view(body: &Value) -> Value {
    let mut view = body["data"].clone();
    for time in ["gmt_create", "gmt_modified"] {
        let time = view.as_object_mut().expect("a view").remove(time);
        assert!(time.is_some_and(|time| time.as_str().is_some_and(|text| text.ends_with('Z'))));
    }
    view
}

async fn stored_token(api: &TestApi, name: &str) -> String {
    let sql = format!("SELECT user_token AS t FROM pve_cluster WHERE cluster_name = '{name}'");
    let mut conn = api.database.db.conn().await.unwrap();
    texts(&mut conn, &sql).await.unwrap().swap_remove(0)
}

async fn actions(api: &TestApi) -> Vec<(String, String)> {
    let latest = async |conn: &mut Conn| audit::latest(conn, 20).await;
    let events = api.database.db.read(latest).await.unwrap();
    events.into_iter().map(|event| (event.action, event.result)).collect()
}

// C01
#[tokio::test]
async fn a_cluster_is_made_shown_listed_and_deleted() {
    for api in TestApi::all("cluster_crud").await {
        let mut whole = a_cluster("prod");
        for (field, value) in [
            ("cluster_name_alias", json!("Production")),
            ("env", json!("prod")),
            ("datacenter", json!("fra1")),
            ("dns", json!("10.0.0.53")),
            ("describes", json!("line one\nline two")),
            ("region", json!("eu")),
            ("is_schedulable", json!(false)),
            ("is_enabled", json!(false)),
            ("tls_fingerprint", json!("aa".repeat(32))),
            ("tls_insecure", json!(true)),
        ] {
            whole[field] = value;
        }

        let made = send(&api.router, "POST", "/api/v1/clusters", &whole).await;

        assert_eq!(made.status, StatusCode::OK, "{}", made.text);
        let made = made.json();
        assert_eq!((&made["code"], &made["message"]), (&json!(200), &json!("success")));
        let expected = json!({
            "id": 3,
            "cluster_name": "prod",
            "cluster_name_alias": "Production",
            "env": "prod",
            "datacenter": "fra1",
            "api_url": "https://pve1.example.com:8006",
            "user_id": "api@pve!mirror",
            "has_user_token": true,
            "token_sealed": false,
            "dns": "10.0.0.53",
            "describes": "line one\nline two",
            "region": "eu",
            "is_schedulable": false,
            "is_enabled": false,
            "tls_fingerprint": "aa".repeat(32),
            "tls_ca": null,
            "tls_insecure": true,
            "creator": "anybody",
            "modifier": "anybody",
        });
        assert_eq!(view(&made), expected, "{}", api.database.kind());
        let (_, shown) = api.get("/api/v1/clusters/3").await;
        assert_eq!(shown, made);
        let (_, listed) = api.get("/api/v1/clusters?env=prod").await;
        assert_eq!(listed["data"], json!({"total": 1, "list": [made["data"]]}));
        let names = api.column("/api/v1/clusters?page_size=2", "cluster_name").await;
        assert_eq!(names, ["prod", "attic"]);
        let enabled = api.column("/api/v1/clusters?is_enabled=true", "cluster_name").await;
        assert_eq!(enabled, ["attic", "lab"]);
        let none = api.get("/api/v1/clusters?region=us").await.1;
        assert_eq!(none["data"], json!({"total": 0, "list": []}));

        let gone = call(&api.router, "DELETE", "/api/v1/clusters/3", &[], "").await;
        assert_eq!(gone.json()["data"], json!({"cluster_id": 3, "cluster_name": "prod"}));
        for method in ["GET", "DELETE"] {
            let answer = call(&api.router, method, "/api/v1/clusters/3", &[], "").await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND);
            assert_eq!(answer.json()["message"], json!("no cluster with id 3"));
        }
        let put = send(&api.router, "PUT", "/api/v1/clusters/3", &a_cluster("prod")).await;
        assert_eq!(put.status, StatusCode::NOT_FOUND);
        let event = |action: &str, result: &str| (action.to_owned(), result.to_owned());
        assert_eq!(
            actions(&api).await,
            [
                event("cluster.replace", "not_found"),
                event("cluster.delete", "not_found"),
                event("cluster.delete", "done"),
                event("cluster.create", "done"),
            ]
        );
    }
}

#[tokio::test]
async fn a_name_is_taken_once_also_when_two_come_at_once() {
    for api in TestApi::all("cluster_twice").await {
        let body = a_cluster("prod");
        let post = || send(&api.router, "POST", "/api/v1/clusters", &body);

        let (one, other) = tokio::join!(post(), post());

        let mut codes = [one.status.as_u16(), other.status.as_u16()];
        codes.sort_unstable();
        assert_eq!(codes, [200, 409], "{}: {} {}", api.database.kind(), one.text, other.text);
        let taken = send(&api.router, "PUT", "/api/v1/clusters/1", &body).await;
        assert_eq!(taken.status, StatusCode::CONFLICT);
        assert_eq!(
            taken.json(),
            json!({
                "code": 409,
                "message": "there is a cluster called `prod` already",
                "data": {"reason": "name_taken", "field": "cluster_name"},
            })
        );
    }
}

#[tokio::test]
async fn a_put_replaces_all_but_a_token_that_is_left_out() {
    for api in TestApi::all("cluster_put").await {
        api.sql("UPDATE pve_cluster SET env = 'prod', describes = 'old', creator = 'ann'").await;
        let mut body = a_cluster("lab");
        body.as_object_mut().unwrap().remove("user_token");
        body["api_url"] = json!("https://pve.example:8006");
        body["region"] = json!("eu");

        let put = send(&api.router, "PUT", "/api/v1/clusters/1", &body).await;

        assert_eq!(put.status, StatusCode::OK, "{}", put.text);
        let put = put.json();
        let fields = ["env", "describes", "region", "creator", "modifier", "is_enabled"];
        let shown: Vec<_> = fields.iter().map(|field| put["data"][field].clone()).collect();
        assert_eq!(
            shown,
            [json!(null), json!(null), json!("eu"), json!("ann"), json!("anybody"), json!(true)]
        );
        assert_eq!(stored_token(&api, "lab").await, TOKEN);

        // The same again changes nothing, and is nothing for the record.
        let again = send(&api.router, "PUT", "/api/v1/clusters/1", &body).await;
        assert_eq!(again.json(), put);
        assert_eq!(actions(&api).await.len(), 1);
        // The token that stays has to go with the user.
        body["user_id"] = json!("api@pve");
        let unfit = send(&api.router, "PUT", "/api/v1/clusters/1", &body).await;
        assert_eq!(unfit.status, StatusCode::BAD_REQUEST);
        assert_eq!(unfit.json()["data"]["field"], json!("user_id"));
        body["user_token"] = json!(format!("other={SECRET}"));
        let fits = send(&api.router, "PUT", "/api/v1/clusters/1", &body).await;
        assert_eq!(fits.status, StatusCode::OK, "{}", fits.text);
        assert_eq!(stored_token(&api, "lab").await, format!("other={SECRET}"));
        // It does not go anywhere else by itself.
        body.as_object_mut().unwrap().remove("user_token");
        for (field, value) in [
            ("api_url", json!("https://elsewhere.example:8006")),
            ("tls_insecure", json!(true)),
            ("tls_fingerprint", json!("AB:".repeat(31) + "AB")),
        ] {
            let mut elsewhere = body.clone();
            elsewhere[field] = value;
            let kept = send(&api.router, "PUT", "/api/v1/clusters/1", &elsewhere).await;
            assert_eq!(kept.status, StatusCode::BAD_REQUEST, "{field}");
            assert_eq!(kept.json()["data"]["field"], json!("user_token"), "{field}");
        }
    }
}

// C04
#[tokio::test]
async fn a_token_is_stored_sealed_where_there_is_a_key_and_shown_nowhere() {
    let keys = SecretKeys::parse("ab".repeat(32).as_bytes()).unwrap();
    for api in TestApi::all("cluster_sealed").await {
        let mut settings = for_anybody();
        settings.secret_keys = Some(keys.clone());
        let router = pve_api::router_with(api.database.db.clone(), settings);
        let mut said = String::new();

        let made = send(&router, "POST", "/api/v1/clusters", &a_cluster("prod")).await;
        assert_eq!(made.json()["data"]["token_sealed"], json!(true));
        said += &made.text;
        for (method, path, body) in [
            ("PUT", "/api/v1/clusters/1", a_cluster("lab")),
            ("POST", "/api/v1/clusters", a_cluster("prod")),
            ("POST", "/api/v1/clusters", json!({"user_token": SECRET})),
            ("POST", "/api/v1/clusters", json!({"user_token": {"a": SECRET}})),
            ("POST", "/api/v1/clusters", json!({"user_token": SECRET, "user_token ": SECRET})),
            ("PUT", "/api/v1/clusters/9", a_cluster("other")),
            ("GET", "/api/v1/clusters", json!({})),
            ("GET", "/api/v1/clusters/1/status", json!({})),
            ("GET", "/metrics", json!({})),
        ] {
            said += &send(&router, method, path, &body).await.text;
        }
        for (field, wrong) in
            [("user_id", "api@pve"), ("user_id", "x"), ("api_url", "http://pve1"), ("env", "")]
        {
            let mut body = a_cluster("wrong");
            body[field] = json!(wrong);
            let answer = send(&router, "POST", "/api/v1/clusters", &body).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{field}");
            said += &answer.text;
        }
        let mut with_password = a_cluster("wrong");
        with_password["api_url"] = json!(format!("https://root:{SECRET}@pve1:8006"));
        said += &send(&router, "POST", "/api/v1/clusters", &with_password).await.text;
        let latest = async |conn: &mut Conn| audit::latest(conn, 50).await;
        let events = format!("{:?}", api.database.db.read(latest).await.unwrap());
        said += &events;

        assert!(said.contains("cluster.create") && !said.contains(SECRET), "{said}");
        for name in ["prod", "lab"] {
            let stored = Secret::new(stored_token(&api, name).await);
            assert!(!stored.expose().contains(SECRET), "{}", api.database.kind());
            assert_eq!(keys.open(USER_TOKEN, &stored).unwrap().expose(), SECRET);
        }
        let list = async |conn: &mut Conn| cluster::list(conn).await;
        let rows = api.database.db.read(list).await.unwrap();
        assert!(!format!("{rows:?}").contains(TOKEN));
    }
}

// C02
#[tokio::test]
async fn a_cluster_that_the_operator_could_not_use_is_refused() {
    let api = &TestApi::all("cluster_refused").await[0];
    let table = [
        ("cluster_name", json!("")),
        ("cluster_name", json!("x".repeat(256))),
        ("cluster_name", json!("a\u{0}b")),
        ("api_url", json!("http://pve1:8006")),
        ("api_url", json!("https://pve1:8006/?a=b")),
        ("api_url", json!("pve1")),
        ("user_id", json!("root")),
        ("user_id", json!("root@pam")),
        ("user_token", json!("v1:aabbccdd:AAAA")),
        ("user_token", json!("has blanks")),
        ("user_token", json!(null)),
        ("tls_fingerprint", json!("AA:BB")),
        ("tls_ca", json!("no pem")),
    ];
    for (field, value) in table {
        let mut body = a_cluster("prod");
        body[field] = value.clone();
        let answer = send(&api.router, "POST", "/api/v1/clusters", &body).await;

        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{field} {value}: {}", answer.text);
        let detail = json!({"reason": "invalid_parameter", "field": field});
        assert_eq!(answer.json()["data"], detail, "{value}: {}", answer.text);
    }
    for body in [json!({}), json!({"cluster_name": 5}), json!({"id": 7}), json!([])] {
        let answer = send(&api.router, "POST", "/api/v1/clusters", &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}: {}", answer.text);
    }
    let mut unknown = a_cluster("prod");
    unknown["gmt_create"] = json!("2025-01-01T00:00:00Z");
    let answer = send(&api.router, "POST", "/api/v1/clusters", &unknown).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(api.list("/api/v1/clusters").await.len(), 2);
}

// A16, as far as the API is concerned.
#[tokio::test]
async fn nothing_is_left_of_a_deleted_cluster_though_no_operator_runs() {
    for api in TestApi::all("cluster_delete").await {
        api.nodes(LAB, &[a_node("n1")]).await;
        api.guests(LAB, &[a_guest(100)]).await;
        api.storages(LAB, &[a_storage("n1", "local")]).await;
        api.sql("INSERT INTO vm_template (template_name, cluster_id) VALUES ('debian', 1)").await;
        let delete = |query: &str| {
            let path = format!("/api/v1/clusters/1{query}");
            let router = api.router.clone();
            async move { call(&router, "DELETE", &path, &[], "").await }
        };

        let refused = delete("").await;

        assert_eq!(refused.status, StatusCode::CONFLICT);
        assert_eq!(refused.json()["data"], json!({"reason": "has_templates", "field": null}));
        assert_eq!(api.list("/api/v1/vms").await.len(), 1, "nothing happened");
        let forced = delete("?force=true").await;
        assert_eq!(forced.status, StatusCode::OK, "{}", forced.text);
        let tables = tables_with_cluster_id(&api).await;
        assert!(tables.len() > 10 && tables.contains("template_sync_task"), "{tables:?}");
        let mut conn = api.database.db.conn().await.unwrap();
        for table in tables {
            let sql = format!("SELECT 'row' AS t FROM {table} WHERE cluster_id = 1");
            let left = texts(&mut conn, &sql).await.unwrap();
            assert_eq!(left.len(), 0, "{} {table}", api.database.kind());
        }
    }
}

/// As the database's own catalogue has them.
async fn tables_with_cluster_id(api: &TestApi) -> BTreeSet<String> {
    let sql = match api.database.kind() {
        "sqlite" => {
            "SELECT m.name AS t FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c \
             WHERE m.type = 'table' AND c.name = 'cluster_id'"
        }
        "mysql" => {
            "SELECT table_name AS t FROM information_schema.columns \
             WHERE table_schema = database() AND column_name = 'cluster_id'"
        }
        _ => {
            "SELECT table_name::text AS t FROM information_schema.columns \
             WHERE table_schema = current_schema() AND column_name = 'cluster_id'"
        }
    };
    let mut conn = api.database.db.conn().await.unwrap();
    texts(&mut conn, sql).await.unwrap().into_iter().collect()
}
