//! What people change of nodes and guests: their own columns, and nothing else of the row.

use axum::http::StatusCode;
use schema::revision::{self, Table};
use schema::testing::texts;
use schema::{Conn, Revision, audit};
use serde_json::{Value, json};

use crate::fixture::{ATTIC, Answer, LAB, TestApi, a_guest, a_node, call};

async fn patch(api: &TestApi, path: &str, body: &str) -> Answer {
    call(&api.router, "PATCH", path, &[("content-type", "application/json")], body.to_owned()).await
}

async fn revision(api: &TestApi, table: Table) -> Revision {
    let current = async |conn: &mut Conn| revision::current(conn, table).await;
    api.database.db.read(current).await.unwrap()
}

async fn one(api: &TestApi, path: &str) -> Value {
    api.get(path).await.1["data"].take()
}

/// The view after a change, as it was before but for these fields.
fn but(mut before: Value, after: &Value, fields: &Value) -> Value {
    before["gmt_modified"] = after["gmt_modified"].clone();
    before["modifier"] = json!("anybody");
    for (field, value) in fields.as_object().expect("an object") {
        before[field] = value.clone();
    }
    before
}

// C01
#[tokio::test]
async fn a_nodes_own_columns_are_changed_and_no_other() {
    for api in TestApi::all("patch_node").await {
        api.nodes(LAB, &[a_node("n1"), a_node("n2")]).await;
        let (before, other) =
            (one(&api, "/api/v1/nodes/1").await, one(&api, "/api/v1/nodes/2").await);
        let first = revision(&api, Table::Node).await;

        let whole = r#"{"is_schedulable":false,"annotations":"rack 4\nrow 2","vm_limit":30}"#;
        let changed = patch(&api, "/api/v1/nodes/1", whole).await;

        assert_eq!(changed.status, StatusCode::OK, "{}", changed.text);
        let changed = changed.json()["data"].take();
        let fields = json!({
            "is_schedulable": false, "annotations": "rack 4\nrow 2", "vm_limit": 30,
        });
        assert_eq!(changed, but(before, &changed, &fields), "{}", api.database.kind());
        assert_eq!(one(&api, "/api/v1/nodes/1").await, changed);
        assert_eq!(one(&api, "/api/v1/nodes/2").await, other);
        let second = revision(&api, Table::Node).await;
        assert!(second > first);
        let node = {
            let mut conn = api.database.db.conn().await.unwrap();
            let sql = "SELECT CAST(revision AS CHAR(9)) AS t FROM pve_node WHERE id = 1";
            texts(&mut conn, sql).await.unwrap().swap_remove(0)
        };
        assert_eq!(node.trim(), second.to_string());

        // What is so already is not written.
        for same in [whole, "{}", r#"{"vm_limit":30}"#] {
            assert_eq!(patch(&api, "/api/v1/nodes/1", same).await.json()["data"], changed);
        }
        assert_eq!(revision(&api, Table::Node).await, second);
        let cleared = patch(&api, "/api/v1/nodes/1", r#"{"annotations":null}"#).await;
        let cleared = cleared.json()["data"].take();
        assert_eq!(cleared, but(changed, &cleared, &json!({"annotations": null})));
        let latest = async |conn: &mut Conn| audit::latest(conn, 9).await;
        let events = api.database.db.read(latest).await.unwrap();
        assert_eq!(events.len(), 2);
        assert_eq!((events[0].action.as_str(), events[0].result.as_str()), ("node.change", "done"));
        assert_eq!(events[0].object_name.as_deref(), Some("n1"));
        assert_eq!(events[0].cluster_name.as_deref(), Some("lab"));
    }
}

// C01
#[tokio::test]
async fn a_guests_own_columns_are_changed_and_no_other() {
    for api in TestApi::all("patch_guest").await {
        api.nodes(LAB, &[a_node("n1")]).await;
        api.guests(LAB, &[a_guest(100)]).await;
        api.sql("UPDATE pve_vm SET vm_password = 'hunter2-guest', vm_user = 'root'").await;
        api.sql("INSERT INTO vm_template (template_name, cluster_id) VALUES ('debian', 1)").await;
        api.sql("INSERT INTO vm_template (template_name, cluster_id) VALUES ('debian', 2)").await;
        let before = one(&api, "/api/v1/vms/1").await;
        let first = revision(&api, Table::Guest).await;

        let body = r#"{"appid":"shop","template_id":1,"descriptions":"front\nend"}"#;
        let changed = patch(&api, "/api/v1/vms/1", body).await;

        assert_eq!(changed.status, StatusCode::OK, "{}", changed.text);
        assert!(!changed.text.contains("hunter2"));
        let changed = changed.json()["data"].take();
        let fields = json!({"appid": "shop", "template_id": 1, "descriptions": "front\nend"});
        assert_eq!(changed, but(before, &changed, &fields), "{}", api.database.kind());
        assert!(revision(&api, Table::Guest).await > first);
        let foreign = patch(&api, "/api/v1/vms/1", r#"{"template_id":2,"appid":"x"}"#).await;
        assert_eq!(foreign.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(
            foreign.json(),
            json!({
                "code": 422,
                "message": "template_id is 2, and the cluster `lab` has no such template",
                "data": {"reason": "no_such_template", "field": "template_id"},
            })
        );
        assert_eq!(one(&api, "/api/v1/vms/1").await, changed, "and nothing of it happened");
        let cleared = patch(&api, "/api/v1/vms/1", r#"{"template_id":null,"appid":null}"#).await;
        let cleared = cleared.json()["data"].take();
        let fields = json!({"template_id": null, "appid": null});
        assert_eq!(cleared, but(changed, &cleared, &fields));
        // What the mirror writes next leaves it alone.
        let guest = schema::guest::SyncedGuest { status: "stopped".to_owned(), ..a_guest(100) };
        api.guests(LAB, &[guest]).await;
        assert_eq!(one(&api, "/api/v1/vms/1").await["descriptions"], json!("front\nend"));
    }
}

// C02
#[tokio::test]
async fn what_is_not_peoples_or_can_not_be_is_refused() {
    let api = &TestApi::all("patch_refused").await[0];
    api.nodes(ATTIC, &[a_node("n1")]).await;
    api.guests(ATTIC, &[a_guest(100)]).await;
    for (path, body, field) in [
        ("/api/v1/nodes/1", r#"{"status":"online"}"#, "body"),
        ("/api/v1/nodes/1", r#"{"vm_limit":"5"}"#, "body"),
        ("/api/v1/nodes/1", r#"{"vm_limit":99999999999}"#, "body"),
        ("/api/v1/nodes/1", r#"{"vm_limit":-1}"#, "vm_limit"),
        ("/api/v1/nodes/1", r#"{"is_schedulable":null}"#, "is_schedulable"),
        ("/api/v1/nodes/1", r#"{"annotations":""}"#, "annotations"),
        ("/api/v1/nodes/1", r#"{"annotations":"a\u0000"}"#, "annotations"),
        ("/api/v1/nodes/1", "[]", "body"),
        ("/api/v1/vms/1", r#"{"vm_name":"web"}"#, "body"),
        ("/api/v1/vms/1", r#"{"vm_password":"x"}"#, "body"),
        ("/api/v1/vms/1", r#"{"appid":"a\nb"}"#, "appid"),
        ("/api/v1/vms/1", r#"{"template_id":0}"#, "template_id"),
        ("/api/v1/vms/x", "{}", "id"),
    ] {
        let answer = patch(api, path, body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path} {body}: {}", answer.text);
        assert_eq!(answer.json()["data"]["field"], json!(field), "{path} {body}");
    }
    for path in ["/api/v1/nodes/9", "/api/v1/vms/9"] {
        assert_eq!(patch(api, path, "{}").await.status, StatusCode::NOT_FOUND);
    }
}
