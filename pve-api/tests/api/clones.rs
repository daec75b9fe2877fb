//! Guests asked for from a template.

use axum::http::StatusCode;
use schema::Flag;
use serde_json::{Value, json};

use crate::fixture::{LAB, a_guest};
use crate::templates::{Lab, refused};

/// A template that can be cloned on nodes 1 and 2.
async fn ready(lab: &Lab) -> i64 {
    let id = lab.template("web", 5, "2").await;
    lab.sql("UPDATE template_instance SET status = 'available', observed_generation = 1").await;
    id
}

async fn clone(lab: &Lab, id: i64, body: Value) -> crate::fixture::Answer {
    lab.post(&format!("/templates/{id}/clone"), Some(body)).await
}

#[tokio::test]
async fn a_clone_is_a_row_for_each_guest() {
    for lab in Lab::all("clone").await {
        let id = ready(&lab).await;

        let answer = clone(
            &lab,
            id,
            json!({"name": "web", "node_id": 2, "full": true, "storage": "data", "cores": 4,
                   "memory_mb": 4096, "start": true, "count": 2}),
        )
        .await;

        let clones = answer.json()["data"]["clones"].clone();
        assert_eq!(clones.as_array().unwrap().len(), 2, "{}", answer.text);
        assert_eq!(clones[1]["name"], json!("web-2"));
        let shown = lab.get(&format!("/templates/clones/{}", clones[0]["clone_id"])).await;
        assert_eq!(shown, clones[0]);
        for (field, value) in [
            ("name", json!("web-1")),
            ("node_name", json!("pve-node2")),
            ("full", json!(true)),
            ("storage", json!("data")),
            ("cores", json!(4)),
            ("start", json!(true)),
            ("status", json!("pending")),
            ("vmid", Value::Null),
        ] {
            assert_eq!(shown[field], value, "{field}");
        }
        assert_eq!(lab.post("/templates/clones/1", None).await.status, 405);
        assert_eq!(clone(&lab, 41, json!({"name": "a", "node_id": 1})).await.status, 404);
    }
}

#[tokio::test]
async fn people_say_how_many_guests_a_node_and_a_cluster_take() {
    for lab in Lab::all("clone_limits").await {
        let id = ready(&lab).await;
        lab.api
            .guests(
                LAB,
                &[
                    {
                        let mut guest = a_guest(100);
                        guest.node_name = "pve-node1".to_owned();
                        guest
                    },
                    {
                        let mut template = a_guest(101);
                        template.node_name = "pve-node1".to_owned();
                        template.is_template = Flag(true);
                        template
                    },
                ],
            )
            .await;
        lab.sql("UPDATE pve_node SET vm_limit = 3 WHERE node_name = 'pve-node1'").await;
        let two = || clone(&lab, id, json!({"name": "web", "node_id": 1, "count": 2}));

        let fits = two().await;
        let full = two().await;
        lab.sql("UPDATE pve_node SET is_schedulable = 0, vm_limit = NULL").await;
        let closed = two().await;
        lab.sql("UPDATE pve_cluster SET is_schedulable = 0").await;
        let all_closed = two().await;

        assert_eq!(fits.status, StatusCode::OK, "{}", fits.text);
        let (status, reason, _, message) = refused(&full);
        assert_eq!((status, reason.as_str()), (409, "vm_limit"));
        assert!(message.contains("3 of at most 3"), "{message}");
        assert_eq!(refused(&closed).1, "node_not_schedulable");
        assert_eq!(refused(&all_closed).1, "cluster_not_schedulable");
    }
}

#[tokio::test]
async fn what_can_not_be_cloned_is_refused_with_the_reason() {
    let lab = Lab::one("clone_refused", |_| {}).await;
    let id = ready(&lab).await;
    for (body, status, reason) in [
        (json!({"name": "web", "node_id": 3}), 409, "not_available"),
        (json!({"name": "web", "node_id": 4}), 422, "node_offline"),
        (json!({"name": "web", "node_id": 5}), 422, "unknown_node"),
        (json!({"name": "a_b", "node_id": 1}), 422, "name"),
        (json!({"name": "web", "node_id": 1, "count": 0}), 400, "invalid_parameter"),
        (json!({"name": "web", "node_id": 1, "count": 51}), 400, "invalid_parameter"),
        (json!({"name": "web", "node_id": 1, "cores": 0}), 400, "invalid_parameter"),
        (json!({"name": "web", "node_id": 1, "memory_mb": 1}), 400, "invalid_parameter"),
        (json!({"name": "web", "node_id": 1, "colour": 1}), 400, "invalid_parameter"),
        (json!({"name": "web"}), 400, "invalid_parameter"),
        (json!({"name": "web", "node_id": 1, "full": true, "storage": "local"}), 422, "storage"),
        (json!({"name": "web", "node_id": 1, "full": false, "storage": "data"}), 422, "storage"),
    ] {
        let answer = clone(&lab, id, body.clone()).await;
        let (code, said, _, message) = refused(&answer);
        assert_eq!((code, said.as_str()), (status, reason), "{body}: {message}");
    }
    lab.sql("UPDATE pve_storage SET type = 'lvm' WHERE storage_name = 'data'").await;
    let linked = clone(&lab, id, json!({"name": "web", "node_id": 1, "full": false})).await;
    assert_eq!(refused(&linked).1, "full");
    let by_default = clone(&lab, id, json!({"name": "web", "node_id": 1})).await;
    assert_eq!(by_default.json()["data"]["clones"][0]["full"], json!(true));
}

// B12, the API's side
#[tokio::test]
async fn a_shared_template_is_cloned_to_any_node_that_sees_its_storage() {
    for lab in Lab::all("clone_shared").await {
        let id = lab.template("web", 9, "").await;
        let early = clone(&lab, id, json!({"name": "web", "node_id": 2})).await;
        lab.sql(
            "UPDATE template_instance SET status = 'available', observed_generation = 1 \
             WHERE is_primary = 1",
        )
        .await;

        let there = clone(&lab, id, json!({"name": "web", "node_id": 2})).await;
        let blind = clone(&lab, id, json!({"name": "web", "node_id": 3})).await;

        assert_eq!(refused(&early).1, "not_available");
        assert_eq!(there.json()["data"]["clones"][0]["node_name"], json!("pve-node2"));
        assert_eq!(refused(&blind).1, "not_available");
    }
}
