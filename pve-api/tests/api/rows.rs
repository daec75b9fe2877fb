//! What is shown of one row: whole bodies, and the oddities of guests.

use axum::http::StatusCode;
use schema::guest::{GuestKind, SyncedGuest};
use schema::guest_details::{self, GuestDetails, GuestRead};
use schema::ip_address::{self, GuestAddress};
use schema::node::{NodeStatus, SyncedNode};
use schema::{Flag, GuestId};
use serde_json::json;

use crate::fixture::{LAB, TOKEN, TestApi, a_guest, a_node, a_storage, send};

// C01
#[tokio::test]
async fn a_guest_is_shown_with_everything_but_its_password() {
    for api in TestApi::all("guest_body").await {
        api.nodes(LAB, &[a_node("n1")]).await;
        let guest = SyncedGuest {
            tags: Some("db;prod".to_owned()),
            pool: Some("gold".to_owned()),
            ha_state: Some("started".to_owned()),
            ..a_guest(100)
        };
        api.guests(LAB, &[guest]).await;
        let details = GuestDetails {
            storages: Some("local-lvm,ceph".to_owned()),
            storage_cfg: Some(r#"{"scsi0":{"size_bytes":1024}}"#.to_owned()),
        };
        let read = [GuestRead { vmid: 100, details, addresses: None }];
        api.database
            .db
            .write(async |conn| guest_details::write(conn, LAB, &read).await)
            .await
            .unwrap();
        api.fix_times("pve_vm").await;
        api.sql(
            "UPDATE pve_vm SET appid = 'shop', template_id = 7, vm_user = 'root', \
             vm_password = 'hunter2-guest', descriptions = 'the shop', creator = 'ann', \
             details_at = '2025-01-02 03:04:08'",
        )
        .await;

        let (status, body) = api.get("/api/v1/vms/1").await;

        let guest = json!({
            "id": 1,
            "cluster_id": 1,
            "cluster_name": "lab",
            "node_id": 1,
            "node_name": "n1",
            "node_ip": "10.0.0.1",
            "vmid": 100,
            "vm_name": "guest-100",
            "kind": "qemu",
            "status": "running",
            "is_template": false,
            "template_id": 7,
            "cpu_num": 4,
            "memory_size": 8192,
            "lock": null,
            "tags": ["db", "prod"],
            "pool": "gold",
            "ha_state": "started",
            "storages": ["local-lvm", "ceph"],
            "storage_cfg": {"scsi0": {"size_bytes": 1024}},
            "details_at": "2025-01-02T03:04:08.000Z",
            "appid": "shop",
            "vm_user": "root",
            "descriptions": "the shop",
            "gmt_create": "2025-01-02T03:04:05.678Z",
            "gmt_modified": "2025-01-02T03:04:06.000Z",
            "creator": "ann",
            "modifier": null,
            "last_sync_time": "2025-01-02T03:04:07.100Z",
            "last_seen": "2999-12-31T23:59:59.999Z",
            "stale": false,
        });
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body, json!({"code": 200, "message": "success", "data": guest}));
        let (_, body) = api.get("/api/v1/vms").await;
        let data = json!({"total": 1, "list": [guest]});
        assert_eq!(body, json!({"code": 200, "message": "success", "data": data}));
    }
}

// C01, A12: what is not known is null, never left out.
#[tokio::test]
async fn a_guest_of_which_little_is_known_is_shown_with_nulls() {
    for api in TestApi::all("bare_guest").await {
        let guest = SyncedGuest {
            vm_name: None,
            node_name: "n9".to_owned(),
            status: "unknown".to_owned(),
            cpu_num: None,
            memory_size: None,
            lock: Some("clone".to_owned()),
            ..a_guest(100)
        };
        api.guests(LAB, &[guest]).await;
        api.fix_times("pve_vm").await;
        api.sql("UPDATE pve_vm SET last_seen = NULL, last_sync_time = NULL").await;

        let (_, body) = api.get("/api/v1/vms/1").await;

        assert_eq!(
            body["data"],
            json!({
                "id": 1,
                "cluster_id": 1,
                "cluster_name": "lab",
                "node_id": null,
                "node_name": "n9",
                "node_ip": null,
                "vmid": 100,
                "vm_name": null,
                "kind": "qemu",
                "status": "unknown",
                "is_template": false,
                "template_id": null,
                "cpu_num": null,
                "memory_size": null,
                "lock": "clone",
                "tags": [],
                "pool": null,
                "ha_state": null,
                "storages": null,
                "storage_cfg": null,
                "details_at": null,
                "appid": null,
                "vm_user": null,
                "descriptions": null,
                "gmt_create": "2025-01-02T03:04:05.678Z",
                "gmt_modified": "2025-01-02T03:04:06.000Z",
                "creator": null,
                "modifier": null,
                "last_sync_time": null,
                "last_seen": null,
                "stale": true,
            })
        );
    }
}

// C01
#[tokio::test]
async fn a_node_is_shown_whole() {
    for api in TestApi::all("node_body").await {
        api.nodes(LAB, &[a_node("n1")]).await;
        api.fix_times("pve_node").await;
        api.sql("UPDATE pve_node SET annotations = 'rack 3', vm_limit = 40, is_schedulable = 0")
            .await;

        let (status, body) = api.get("/api/v1/nodes/1").await;

        let node = json!({
            "id": 1,
            "cluster_id": 1,
            "cluster_name": "lab",
            "node_name": "n1",
            "ip_address": "10.0.0.1",
            "env": "prod",
            "status": "online",
            "pve_version": "9.2.11",
            "cpu_num": 16,
            "memory_size": 65536,
            "is_schedulable": false,
            "annotations": "rack 3",
            "vm_limit": 40,
            "gmt_create": "2025-01-02T03:04:05.678Z",
            "gmt_modified": "2025-01-02T03:04:06.000Z",
            "creator": null,
            "modifier": null,
            "last_sync_time": "2025-01-02T03:04:07.100Z",
            "last_seen": "2999-12-31T23:59:59.999Z",
            "stale": false,
        });
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body, json!({"code": 200, "message": "success", "data": node}));
        let (_, body) = api.get("/api/v1/nodes").await;
        let data = json!({"total": 1, "list": [node]});
        assert_eq!(body, json!({"code": 200, "message": "success", "data": data}));
    }
}

// C01
#[tokio::test]
async fn a_storage_is_shown_whole() {
    for api in TestApi::all("storage_body").await {
        api.storages(LAB, &[a_storage("n1", "local")]).await;
        api.fix_times("pve_storage").await;

        let (status, body) = api.get("/api/v1/storages/1").await;

        let storage = json!({
            "id": 1,
            "cluster_id": 1,
            "cluster_name": "lab",
            "node_name": "n1",
            "storage_name": "local",
            "type": "dir",
            "content": ["images", "import"],
            "status": "active",
            "active": true,
            "enabled": true,
            "shared": false,
            "total": 100,
            "used": 40,
            "avail": 60,
            "used_fraction": 0.4,
            "gmt_create": "2025-01-02T03:04:05.678Z",
            "gmt_modified": "2025-01-02T03:04:06.000Z",
            "creator": null,
            "modifier": null,
            "last_sync_time": "2025-01-02T03:04:07.100Z",
            "last_seen": "2999-12-31T23:59:59.999Z",
            "stale": false,
        });
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body, json!({"code": 200, "message": "success", "data": storage}));
        let (_, body) = api.get("/api/v1/storages").await;
        let data = json!({"total": 1, "list": [storage]});
        assert_eq!(body, json!({"code": 200, "message": "success", "data": data}));
    }
}

// C01, A18
#[tokio::test]
async fn addresses_are_shown_and_say_when_the_guest_stopped_telling_them() {
    for api in TestApi::all("addresses").await {
        api.guests(LAB, &[a_guest(100), a_guest(101)]).await;
        let addresses = [
            GuestAddress {
                ip_address: "fe80::1%eth0".to_owned(),
                nic_name: "eth0".to_owned(),
                network_id: Some("net0".to_owned()),
                mac_address: Some("bc:24:11:00:00:01".to_owned()),
            },
            GuestAddress {
                ip_address: "10.1.2.3".to_owned(),
                nic_name: String::new(),
                network_id: None,
                mac_address: None,
            },
        ];
        api.database
            .db
            .write(async |conn| {
                let told = [(GuestId(1), Some(&addresses[..]))];
                assert_eq!(ip_address::write(conn, LAB, &told).await?.inserted, 2);
                ip_address::write(conn, LAB, &[(GuestId(1), None)]).await
            })
            .await
            .unwrap();

        let (status, body) = api.get("/api/v1/vms/1/ips").await;

        assert_eq!(status, StatusCode::OK);
        assert_eq!(
            body,
            json!({"code": 200, "message": "success", "data": {"total": 2, "list": [
                {
                    "id": 2,
                    "vm_id": 1,
                    "cluster_id": 1,
                    "ip_address": "10.1.2.3",
                    "network_id": null,
                    "nic_name": null,
                    "mac_address": null,
                    "stale": true,
                },
                {
                    "id": 1,
                    "vm_id": 1,
                    "cluster_id": 1,
                    "ip_address": "fe80::1%eth0",
                    "network_id": "net0",
                    "nic_name": "eth0",
                    "mac_address": "bc:24:11:00:00:01",
                    "stale": true,
                },
            ]}})
        );
        let second = api.column("/api/v1/vms/1/ips?page=2&page_size=1", "id").await;
        assert_eq!(second, [json!(1)]);
        let none = api.list("/api/v1/vms/2/ips").await;
        assert!(none.is_empty());
        let (status, _) = api.get("/api/v1/vms/3/ips").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }
}

// C01
#[tokio::test]
async fn a_clusters_status_says_what_is_wrong_and_what_is_missing() {
    for api in TestApi::all("cluster_status").await {
        api.sql(
            "INSERT INTO pve_cluster_status (cluster_id, is_ready, reason, message, reason_since, \
             pve_version, quorate, node_count, online_node_count, guest_count, storage_count, \
             last_success, last_error, last_error_at, missing_privileges, learned_ca, \
             missing_template_privileges) VALUES \
             (1, 0, 'SuspiciousShrink', 'grant VM.Audit', '2025-01-02 03:04:05', '9.2.11', 1, \
             3, 2, 40, 9, '2025-01-02 03:04:06', 'no', '2025-01-02 03:04:07', \
             'VM.Audit,Sys.Audit', 'PEM', 'VM.Allocate on /vms\nSys.Modify on /')",
        )
        .await;

        let (status, body) = api.get("/api/v1/clusters/1/status").await;

        assert_eq!(status, StatusCode::OK);
        assert_eq!(
            body["data"],
            json!({
                "cluster_id": 1,
                "cluster_name": "lab",
                "is_enabled": true,
                "is_ready": false,
                "reason": "SuspiciousShrink",
                "message": "grant VM.Audit",
                "reason_since": "2025-01-02T03:04:05.000Z",
                "pve_version": "9.2.11",
                "quorate": true,
                "node_count": 3,
                "online_node_count": 2,
                "guest_count": 40,
                "storage_count": 9,
                "last_success": "2025-01-02T03:04:06.000Z",
                "last_error": "no",
                "last_error_at": "2025-01-02T03:04:07.000Z",
                "missing_privileges": ["VM.Audit", "Sys.Audit"],
                "missing_template_privileges": ["VM.Allocate on /vms", "Sys.Modify on /"],
                "presented_fingerprint": null,
                "suspicious_since": null,
            })
        );
        let (_, unseen) = api.get("/api/v1/clusters/2/status").await;
        assert_eq!(unseen["data"]["reason"], json!(null));
        assert_eq!(unseen["data"]["is_ready"], json!(false));
        assert_eq!(unseen["data"]["guest_count"], json!(null));
        assert_eq!(unseen["data"]["missing_template_privileges"], json!(null));
        let (status, _) = api.get("/api/v1/clusters/3/status").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }
}

// A13: the rows stay and say how it is.
#[tokio::test]
async fn a_node_that_is_offline_says_so_and_its_guests_are_unknown() {
    for api in TestApi::all("offline").await {
        let offline = SyncedNode { status: NodeStatus::Offline, ..a_node("n1") };
        api.nodes(LAB, &[offline]).await;
        api.guests(LAB, &[SyncedGuest { status: "unknown".to_owned(), ..a_guest(100) }]).await;

        assert_eq!(api.column("/api/v1/nodes", "status").await, [json!("offline")]);
        assert_eq!(api.column("/api/v1/vms", "status").await, [json!("unknown")]);
        assert_eq!(api.column("/api/v1/vms?status=unknown", "vmid").await, [json!(100)]);
    }
}

// A20
#[tokio::test]
async fn containers_and_guests_of_any_name_are_guests() {
    for api in TestApi::all("any_name").await {
        let gateway = SyncedGuest { vm_name: Some("sync-gateway".to_owned()), ..a_guest(100) };
        let container = SyncedGuest { kind: GuestKind::Lxc, ..a_guest(101) };
        let template = SyncedGuest { is_template: Flag(true), ..a_guest(102) };
        api.guests(LAB, &[gateway, container, template]).await;

        let shown: Vec<_> = api
            .list("/api/v1/vms")
            .await
            .into_iter()
            .map(|row| json!([row["vm_name"], row["kind"], row["is_template"]]))
            .collect();

        assert_eq!(
            shown,
            [
                json!(["guest-102", "qemu", true]),
                json!(["guest-101", "lxc", false]),
                json!(["sync-gateway", "qemu", false]),
            ]
        );
    }
}

// A11
#[tokio::test]
async fn a_guest_that_moved_is_one_row_with_its_old_id() {
    for api in TestApi::all("moved").await {
        api.nodes(LAB, &[a_node("n1"), a_node("n2")]).await;
        api.guests(LAB, &[a_guest(100)]).await;

        api.guests(LAB, &[SyncedGuest { node_name: "n2".to_owned(), ..a_guest(100) }]).await;

        let rows = api.list("/api/v1/vms?vmid=100").await;
        assert_eq!(rows.len(), 1);
        assert_eq!([&rows[0]["id"], &rows[0]["node_id"]], [&json!(1), &json!(2)]);
    }
}

#[tokio::test]
async fn a_row_that_nobody_confirmed_lately_is_stale() {
    for api in TestApi::all("stale").await {
        api.nodes(LAB, &[a_node("n1"), a_node("n2")]).await;
        api.sql("UPDATE pve_node SET last_seen = '2025-01-02 03:04:05' WHERE id = 1").await;

        assert_eq!(api.column("/api/v1/nodes", "stale").await, [json!(false), json!(true)]);
    }
}

// C04
#[tokio::test]
async fn secrets_are_in_no_answer() {
    for api in TestApi::all("secrets").await {
        api.nodes(LAB, &[a_node("n1")]).await;
        api.guests(LAB, &[a_guest(100)]).await;
        api.storages(LAB, &[a_storage("n1", "local")]).await;
        api.sql("UPDATE pve_vm SET vm_password = 'hunter2-guest'").await;

        for path in [
            "/api/v1/nodes",
            "/api/v1/nodes/1",
            "/api/v1/vms",
            "/api/v1/vms/1",
            "/api/v1/vms/1/ips",
            "/api/v1/storages",
            "/api/v1/storages/1",
            "/api/v1/clusters",
            "/api/v1/clusters/1",
            "/api/v1/clusters/1/status",
            "/metrics",
        ] {
            let answer = send(&api.router, "GET", path).await;
            assert_eq!(answer.status, StatusCode::OK, "{path}");
            assert!(!answer.text.contains("hunter2"), "{path}: {}", answer.text);
            assert!(!answer.text.contains(TOKEN), "{path}: {}", answer.text);
        }
    }
}
