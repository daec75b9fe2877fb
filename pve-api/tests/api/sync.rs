//! Bringing templates to further nodes, and taking that back.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::fixture::call;
use crate::templates::{Lab, refused};

// B07, the API's side
#[tokio::test]
async fn a_node_gets_one_task_however_often_it_is_asked_for() {
    for lab in Lab::all("sync_twice").await {
        let id = lab.template("web", 5, "").await;
        let path = format!("/templates/{id}/sync");
        let sync = || lab.post(&path, Some(json!({"target_node_ids": [2, 3, 2]})));

        let (a, b, c) = tokio::join!(sync(), sync(), sync());

        let expected = json!({"code": 200, "message": "success", "data": {"sync_tasks": [
            {"task_id": 1, "target_node_id": 2, "target_node_name": "pve-node2", "status": "pending"},
            {"task_id": 2, "target_node_id": 3, "target_node_name": "pve-node3", "status": "pending"},
        ]}});
        for answer in [a, b, c] {
            // Ids that a collision burnt are not given again.
            let mut body = answer.json();
            for (index, task) in
                body["data"]["sync_tasks"].as_array_mut().unwrap().iter_mut().enumerate()
            {
                task["task_id"] = json!(index + 1);
            }
            assert_eq!(body, expected, "{}", lab.api.database.kind());
        }
        let tasks = lab.get("/templates/sync-tasks").await;
        assert_eq!(tasks["total"], json!(2), "{}", lab.api.database.kind());
        let instances = lab.get(&format!("/templates/{id}/instances")).await;
        assert_eq!(instances["total"], json!(3));
    }
}

#[tokio::test]
async fn the_node_that_imported_has_no_task_and_what_failed_is_tried_again() {
    for lab in Lab::all("sync_again").await {
        let id = lab.template("web", 5, "2,3").await;
        lab.sql(
            "UPDATE template_sync_task SET status = 'failed', error_message = 'full', \
             observed_generation = 1 WHERE id = 1",
        )
        .await;
        lab.sql(
            "UPDATE template_instance SET status = 'failed', observed_generation = 1 \
             WHERE sync_task_id = 1",
        )
        .await;

        let path = format!("/templates/{id}/sync");
        let answer = lab.post(&path, Some(json!({"target_node_ids": [1, 2, 3]}))).await;

        let tasks = answer.json()["data"]["sync_tasks"].clone();
        let brief: Vec<_> = tasks
            .as_array()
            .unwrap()
            .iter()
            .map(|it| (it["task_id"].as_i64(), it["status"].as_str().unwrap()))
            .collect();
        assert_eq!(brief, [(None, "pending"), (Some(1), "pending"), (Some(2), "pending")]);
        let generations = "SELECT CONCAT(generation, '') AS t FROM template_sync_task ORDER BY id";
        assert_eq!(lab.texts(generations).await, ["2", "1"]);
    }
}

#[tokio::test]
async fn every_node_that_can_not_is_named_and_nothing_is_made() {
    for lab in Lab::all("sync_refused").await {
        let id = lab.template("web", 5, "").await;
        let path = format!("/templates/{id}/sync");

        let answer = lab.post(&path, Some(json!({"target_node_ids": [2, 4, 5, 99]}))).await;

        let (status, reason, field, message) = refused(&answer);
        assert_eq!(
            (status, reason.as_str(), field),
            (422, "node_offline", json!("target_node_ids"))
        );
        assert_eq!(
            message,
            "node 4 (pve-node4): it is offline; node 5: there is no such node in the cluster `lab`; \
             node 99: there is no such node in the cluster `lab`"
        );
        assert_eq!(lab.get("/templates/sync-tasks").await["total"], json!(0));
        lab.sql("UPDATE pve_cluster SET is_enabled = 0").await;
        let answer = lab.post(&path, Some(json!({"target_node_ids": [2]}))).await;
        assert_eq!(refused(&answer).1, "cluster_disabled");
        assert_eq!(
            lab.post("/templates/41/sync", Some(json!({"target_node_ids": [2]}))).await.status,
            404
        );
    }
}

#[tokio::test]
async fn a_body_that_can_not_be_read_is_a_4xx_that_says_why() {
    let lab = Lab::one("bodies", |_| {}).await;
    let id = lab.template("web", 5, "").await;
    let path = format!("/api/v1/templates/{id}/sync");
    let json = [("content-type", "application/json")];
    let huge = format!("{{\"target_node_ids\":[{}1]}}", "1,".repeat(40_000));
    for (headers, body, status, says) in [
        (&json[..], "", 400, "no JSON object"),
        (&json, "{", 400, "EOF"),
        (&json, "[[2]]", 400, "no JSON object"),
        (&json, "{}", 400, "target_node_ids"),
        (&json, r#"{"target_node_ids":[2],"force":true}"#, 400, "force"),
        (&json, r#"{"target_node_ids":"2"}"#, 400, "sequence"),
        (&json, r#"{"target_node_ids":[1e400]}"#, 400, "number"),
        (&json, r#"{"target_node_ids":[]}"#, 400, "name 1 to"),
        (&json, r#"{"target_node_ids":[0]}"#, 400, "from 1"),
        (&json, &huge, 413, "bytes"),
        (&[], r#"{"target_node_ids":[2]}"#, 415, "application/json"),
        (&[("content-type", "text/plain")], r#"{"target_node_ids":[2]}"#, 415, "application/json"),
    ] {
        let answer = call(&lab.router, "POST", &path, headers, body.to_owned()).await;
        let (code, _, _, message) = refused(&answer);
        assert_eq!(code, status, "{message}");
        assert!(message.contains(says), "{says}: {message}");
    }
    let answer = call(&lab.router, "POST", &format!("{path}?x=1"), &json, "{}").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
}

// B14, the API's side
#[tokio::test]
async fn tasks_are_retried_cancelled_and_deleted_by_their_state() {
    for lab in Lab::all("task_changes").await {
        lab.template("web", 5, "2,3").await;
        let state = async |id: i64, status: &str| {
            lab.sql(&format!(
                "UPDATE template_sync_task SET status = '{status}', progress = 45, \
                 error_message = 'no space', observed_generation = generation WHERE id = {id}"
            ))
            .await;
        };
        let post =
            async |path: &str| lab.post(&format!("/templates/sync-tasks/{path}"), None).await;
        let delete = async |id: &str| lab.delete(&format!("/templates/sync-tasks/{id}")).await;

        state(1, "failed").await;
        let retried = post("1/retry").await;
        assert_eq!(retried.json()["data"], json!({"task_id": 1, "status": "pending"}));
        let task = lab.get("/templates/sync-tasks/1").await;
        assert_eq!(
            (&task["progress"], &task["error_message"], &task["sync_start_time"]),
            (&json!(0), &Value::Null, &Value::Null)
        );
        let twice = post("1/retry").await;
        assert_eq!(refused(&twice).0, 409);

        // Taken back before anybody saw it.
        let taken_back = delete("1").await;
        assert_eq!(taken_back.json()["data"], json!({"task_id": 1, "status": "cancelled"}));
        let desired = "SELECT desired AS t FROM template_instance WHERE sync_task_id = 1";
        assert_eq!(lab.texts(desired).await, ["cancelled"]);
        assert_eq!(refused(&delete("1").await).0, 409);
        assert_eq!(post("1/retry").await.json()["data"]["status"], json!("pending"));
        assert_eq!(lab.texts(desired).await, ["available"]);

        state(2, "importing").await;
        let (status, _, _, message) = refused(&delete("2").await);
        assert_eq!(status, 409);
        assert!(message.contains("cancel"), "{message}");
        for _ in 0..2 {
            let cancelled = post("2/cancel").await;
            assert_eq!(cancelled.json()["data"], json!({"task_id": 2, "status": "importing"}));
        }
        state(2, "cancelled").await;
        assert_eq!(refused(&post("2/cancel").await).0, 409);
        state(2, "completed").await;
        assert_eq!(refused(&post("2/retry").await).0, 409);
        assert_eq!(refused(&post("41/retry").await).0, 404);
        assert_eq!(refused(&post("x/retry").await).0, 400);
        let done = "SELECT CONCAT(action, ' ', object_name) AS t FROM audit_event \
                    WHERE result = 'done' AND object_kind = 'sync_task' ORDER BY id";
        assert_eq!(
            lab.texts(done).await,
            [
                "sync_task.retry web on pve-node2",
                "sync_task.delete web on pve-node2",
                "sync_task.retry web on pve-node2",
                "sync_task.cancel web on pve-node3"
            ]
        );
    }
}
