//! Totals, and the record of who changed what.

use axum::http::StatusCode;
use schema::Flag;
use schema::guest::{GuestKind, SyncedGuest};
use schema::node::{NodeStatus, SyncedNode};
use schema::storage::{StorageUsage, SyncedStorage};
use serde_json::{Value, json};

use crate::fixture::{ATTIC, LAB, TestApi, a_guest, a_node, a_storage, call};

// C01
#[tokio::test]
async fn the_totals_of_each_cluster_and_of_all() {
    for api in TestApi::all("overview").await {
        let offline = SyncedNode { status: NodeStatus::Offline, ..a_node("n2") };
        let left = SyncedNode { status: NodeStatus::Removed, ..a_node("n3") };
        api.nodes(LAB, &[a_node("n1"), offline, left]).await;
        api.nodes(ATTIC, &[a_node("n1")]).await;
        let status =
            |vmid, status: &str| SyncedGuest { status: status.to_owned(), ..a_guest(vmid) };
        let template = SyncedGuest { is_template: Flag(true), ..status(104, "stopped") };
        let container = SyncedGuest { kind: GuestKind::Lxc, ..status(105, "stopped") };
        api.guests(
            LAB,
            &[
                a_guest(100),
                a_guest(101),
                status(102, "unknown"),
                status(103, "paused"),
                template,
                container,
            ],
        )
        .await;
        api.guests(ATTIC, &[a_guest(100)]).await;
        let shared = |node| SyncedStorage { shared: Flag(true), ..a_storage(node, "ceph") };
        let unread = SyncedStorage { usage: StorageUsage::default(), ..a_storage("n2", "nfs") };
        let storages = [
            a_storage("n1", "local"),
            a_storage("n2", "local"),
            shared("n1"),
            shared("n2"),
            unread,
        ];
        api.storages(LAB, &storages).await;
        for (name, status) in [("debian", "active"), ("old", "deleting"), ("gone", "deleted")] {
            api.sql(&format!(
                "INSERT INTO vm_template (template_name, cluster_id, status) \
                 VALUES ('{name}', 1, '{status}')"
            ))
            .await;
        }
        api.sql(
            "INSERT INTO pve_cluster_status (cluster_id, is_ready, reason, message, last_success) \
             VALUES (1, 1, 'Synced', 'all is well', '2025-01-02 03:04:06')",
        )
        .await;
        api.sql("UPDATE pve_cluster SET is_enabled = 0 WHERE cluster_name = 'attic'").await;

        let (code, body) = api.get("/api/v1/overview").await;

        assert_eq!(code, StatusCode::OK, "{body}");
        let guests = |total, running, stopped, unknown, other| {
            json!({
                "total": total, "running": running, "stopped": stopped, "unknown": unknown,
                "other": other,
            })
        };
        let none = guests(0, 0, 0, 0, 0);
        assert_eq!(
            body["data"],
            json!({
                "total": 2,
                "counts": {
                    "nodes": 3, "nodes_online": 2,
                    "qemu": guests(5, 3, 0, 1, 1), "lxc": guests(1, 0, 1, 0, 0),
                    "template_guests": 1, "templates": 2,
                    "storage_total": 300, "storage_used": 120,
                },
                "clusters": [
                    {
                        "cluster_id": 1, "cluster_name": "lab", "is_enabled": true,
                        "is_ready": true, "reason": "Synced", "message": "all is well",
                        "last_success": "2025-01-02T03:04:06.000Z",
                        "counts": {
                            "nodes": 2, "nodes_online": 1,
                            "qemu": guests(4, 2, 0, 1, 1), "lxc": guests(1, 0, 1, 0, 0),
                            "template_guests": 1, "templates": 2,
                            "storage_total": 300, "storage_used": 120,
                        },
                    },
                    {
                        "cluster_id": 2, "cluster_name": "attic", "is_enabled": false,
                        "is_ready": false, "reason": null, "message": null, "last_success": null,
                        "counts": {
                            "nodes": 1, "nodes_online": 1,
                            "qemu": guests(1, 1, 0, 0, 0), "lxc": none,
                            "template_guests": 0, "templates": 0,
                            "storage_total": 0, "storage_used": 0,
                        },
                    },
                ],
            }),
            "{}",
            api.database.kind()
        );
        api.sql("DELETE FROM pve_cluster").await;
        let (_, empty) = api.get("/api/v1/overview").await;
        assert_eq!(empty["data"]["clusters"], json!([]));
        assert_eq!(empty["data"]["counts"]["storage_total"], json!(0));
    }
}

// C01
#[tokio::test]
async fn who_changed_what_is_listed_newest_first() {
    for api in TestApi::all("audit_list").await {
        let delete = |path: &'static str| {
            let router = api.router.clone();
            let headers = [("x-request-id", "job-17")];
            async move { call(&router, "DELETE", path, &headers, "").await }
        };
        assert_eq!(delete("/api/v1/clusters/2").await.status, StatusCode::OK);
        assert_eq!(delete("/api/v1/templates/41").await.status, StatusCode::NOT_FOUND);

        let (code, body) = api.get("/api/v1/audit").await;

        assert_eq!(code, StatusCode::OK, "{body}");
        let mut list = body["data"].clone();
        for event in list["list"].as_array_mut().unwrap() {
            assert!(event["gmt_create"].take().as_str().unwrap().ends_with('Z'));
        }
        assert_eq!(
            list,
            json!({
                "total": 2,
                "list": [
                    {
                        "id": 2, "gmt_create": null, "actor": "anybody",
                        "action": "template.delete", "object_kind": "template",
                        "object_name": "41", "cluster_name": null, "remote_address": null,
                        "request_id": "job-17", "result": "not_found",
                        "detail": "no template with id 41",
                    },
                    {
                        "id": 1, "gmt_create": null, "actor": "anybody",
                        "action": "cluster.delete", "object_kind": "cluster",
                        "object_name": "attic", "cluster_name": "attic", "remote_address": null,
                        "request_id": "job-17", "result": "done", "detail": null,
                    },
                ],
            }),
            "{}",
            api.database.kind()
        );
        let ids = async |query: &str| -> Vec<Value> {
            api.column(&format!("/api/v1/audit?{query}"), "id").await
        };
        for (query, expected) in [
            ("result=done", vec![1]),
            ("action=template.delete", vec![2]),
            ("object_kind=cluster", vec![1]),
            ("object_name=attic", vec![1]),
            ("cluster_name=attic", vec![1]),
            ("actor=anybody", vec![2, 1]),
            ("actor=ci", vec![]),
            ("since=2001-01-01T00:00:00Z", vec![2, 1]),
            ("since=2999-01-01T00:00:00%2B02:00", vec![]),
            ("until=2999-01-01T00:00:00Z&page_size=1", vec![2]),
            ("page=2&page_size=1", vec![1]),
        ] {
            assert_eq!(ids(query).await, expected, "{query} on {}", api.database.kind());
        }
        let (code, wrong) = api.get("/api/v1/audit?since=yesterday").await;
        assert_eq!(code, StatusCode::BAD_REQUEST);
        assert_eq!(wrong["data"]["field"], json!("since"));
    }
}
