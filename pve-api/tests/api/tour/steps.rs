//! The commands, in an order in which each finds what it needs.

use schema::Conn;
use schema::guest_details::{self, GuestDetails, GuestRead};
use schema::ip_address::GuestAddress;

use crate::fixture::{LAB, a_guest};
use crate::templates::Lab;

/// One operation of the API.
pub(super) struct Step {
    pub chapter: &'static str,
    /// Its id in the description.
    pub operation: &'static str,
    /// What has come about meanwhile, as the operator would write it.
    pub before: &'static [&'static str],
    pub curl: &'static str,
    pub status: u16,
}

const fn step(chapter: &'static str, operation: &'static str, curl: &'static str) -> Step {
    Step { chapter, operation, before: &[], curl, status: 200 }
}

impl Step {
    const fn with(self, status: u16) -> Self {
        Self { status, ..self }
    }

    const fn after(self, before: &'static [&'static str]) -> Self {
        Self { before, ..self }
    }
}

pub(super) const STEPS: &[Step] = &[
    step(
        "Clusters",
        "list_clusters",
        r#"curl -H "Authorization: Bearer $TOKEN" "$API/clusters?is_enabled=true""#,
    ),
    step(
        "Clusters",
        "create_cluster",
        r#"curl -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" -d '{"cluster_name": "prod", "api_url": "https://pve1.example.net:8006", "user_id": "operator@pve!mirror", "user_token": "the-secret"}' $API/clusters"#,
    ),
    step(
        "Clusters",
        "show_cluster",
        r#"curl -H "Authorization: Bearer $TOKEN" $API/clusters/3"#,
    ),
    step(
        "Clusters",
        "replace_cluster",
        r#"curl -X PUT -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" -d '{"cluster_name": "prod", "api_url": "https://pve1.example.net:8006", "user_id": "operator@pve!mirror", "is_enabled": false}' $API/clusters/3"#,
    ),
    step(
        "Clusters",
        "show_cluster_status",
        r#"curl -H "Authorization: Bearer $TOKEN" $API/clusters/1/status"#,
    ),
    step(
        "Clusters",
        "delete_cluster",
        r#"curl -X DELETE -H "Authorization: Bearer $TOKEN" $API/clusters/3"#,
    ),
    step(
        "Clusters",
        "show_overview",
        r#"curl -H "Authorization: Bearer $TOKEN" $API/overview"#,
    ),
    step("Mirror", "list_nodes", r#"curl -H "Authorization: Bearer $TOKEN" "$API/nodes?cluster_id=1&status=online&page_size=1""#),
    step("Mirror", "show_node", r#"curl -H "Authorization: Bearer $TOKEN" $API/nodes/1"#),
    step("Mirror", "list_vms", r#"curl -H "Authorization: Bearer $TOKEN" "$API/vms?tag=prod&page=1&page_size=10""#),
    step("Mirror", "show_vm", r#"curl -H "Authorization: Bearer $TOKEN" $API/vms/1"#),
    step("Mirror", "list_vm_addresses", r#"curl -H "Authorization: Bearer $TOKEN" $API/vms/1/ips"#),
    step("Mirror", "list_storages", r#"curl -H "Authorization: Bearer $TOKEN" "$API/storages?node_name=pve-node1&name=data""#),
    step("Mirror", "show_storage", r#"curl -H "Authorization: Bearer $TOKEN" $API/storages/5"#),
    step(
        "Mirror",
        "change_node",
        r#"curl -X PATCH -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" -d '{"vm_limit": 40, "annotations": "rack 7"}' $API/nodes/1"#,
    ),
    step(
        "Mirror",
        "change_vm",
        r#"curl -X PATCH -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" -d '{"appid": "shop", "descriptions": null}' $API/vms/1"#,
    ),
    step(
        "Templates",
        "upload_template",
        r#"curl -H "Authorization: Bearer $TOKEN" -F template_name=debian-13 -F cluster_id=1 -F storage_id=5 -F sync_node_ids=2,3 -F file=@debian-13.qcow2 $API/templates/upload"#,
    ),
    step("Templates", "list_templates", r#"curl -H "Authorization: Bearer $TOKEN" "$API/templates?cluster_id=1""#),
    step(
        "Templates",
        "show_template",
        r#"curl -H "Authorization: Bearer $TOKEN" "$API/templates/1/detail?include_instances=true""#,
    ),
    step("Templates", "list_template_instances", r#"curl -H "Authorization: Bearer $TOKEN" $API/templates/1/instances"#),
    step(
        "Templates",
        "sync_template",
        r#"curl -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" -d '{"target_node_ids": [2, 3]}' $API/templates/1/sync"#,
    ),
    step("Templates", "cancel_import", r#"curl -X POST -H "Authorization: Bearer $TOKEN" $API/templates/1/cancel"#),
    step("Templates", "retry_import", r#"curl -X POST -H "Authorization: Bearer $TOKEN" $API/templates/1/retry"#),
    step(
        "Templates",
        "clone_template",
        r#"curl -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" -d '{"name": "web", "node_id": 1, "cores": 2, "memory_mb": 2048, "start": true}' $API/templates/1/clone"#,
    )
    .after(&[
        "UPDATE template_instance SET status = 'available', vmid = 9000, observed_generation = generation WHERE id = 1",
    ]),
    step("Templates", "show_clone", r#"curl -H "Authorization: Bearer $TOKEN" $API/templates/clones/1"#),
    step("Sync tasks", "list_sync_tasks", r#"curl -H "Authorization: Bearer $TOKEN" "$API/templates/sync-tasks?template_id=1&status=pending""#),
    step("Sync tasks", "show_sync_task", r#"curl -H "Authorization: Bearer $TOKEN" $API/templates/sync-tasks/1"#),
    step("Sync tasks", "cancel_sync_task", r#"curl -X POST -H "Authorization: Bearer $TOKEN" $API/templates/sync-tasks/1/cancel"#),
    step("Sync tasks", "retry_sync_task", r#"curl -X POST -H "Authorization: Bearer $TOKEN" $API/templates/sync-tasks/1/retry"#).after(&[
        "UPDATE template_sync_task SET status = 'failed', error_message = 'storage local is full', observed_generation = generation WHERE id = 1",
        "UPDATE template_instance SET status = 'failed', observed_generation = generation WHERE sync_task_id = 1",
    ]),
    step(
        "Sync tasks",
        "watch_sync_tasks",
        r#"curl -N -m 2 -H "Authorization: Bearer $TOKEN" -H "Accept: text/event-stream" "$API/templates/sync-tasks/watch?template_id=1""#,
    ),
    step("Sync tasks", "delete_sync_task", r#"curl -X DELETE -H "Authorization: Bearer $TOKEN" $API/templates/sync-tasks/2"#),
    step(
        "Uploads that can be resumed",
        "show_upload_abilities",
        r"curl -i -X OPTIONS $API/files",
    ).with(204),
    step(
        "Uploads that can be resumed",
        "create_upload",
        r#"curl -i -X POST -H "Authorization: Bearer $TOKEN" -H "Tus-Resumable: 1.0.0" -H "Upload-Length: $(stat -c %s debian-13.qcow2)" -H "Upload-Metadata: template_name $(printf rocky-9 | base64),cluster_id $(printf 1 | base64),storage_id $(printf 5 | base64),filename $(printf rocky-9.qcow2 | base64)" $API/files"#,
    ).with(201),
    step(
        "Uploads that can be resumed",
        "show_abilities_of_upload",
        r"curl -i -X OPTIONS $FILE",
    ).with(204),
    step(
        "Uploads that can be resumed",
        "find_upload_offset",
        r#"curl -I -H "Authorization: Bearer $TOKEN" -H "Tus-Resumable: 1.0.0" $FILE"#,
    ),
    step(
        "Uploads that can be resumed",
        "resume_upload",
        r#"curl -i -X PATCH -H "Authorization: Bearer $TOKEN" -H "Tus-Resumable: 1.0.0" -H "Upload-Offset: 0" -H "Content-Type: application/offset+octet-stream" --data-binary @debian-13.qcow2 $FILE"#,
    ).with(204),
    step(
        "Uploads that can be resumed",
        "show_upload",
        r#"curl -H "Authorization: Bearer $TOKEN" $FILE"#,
    ),
    step(
        "Uploads that can be resumed",
        "override_upload_method",
        r#"curl -i -X POST -H "Authorization: Bearer $TOKEN" -H "Tus-Resumable: 1.0.0" -H "X-HTTP-Method-Override: HEAD" $FILE"#,
    ),
    step(
        "Uploads that can be resumed",
        "terminate_upload",
        r#"curl -i -X DELETE -H "Authorization: Bearer $TOKEN" -H "Tus-Resumable: 1.0.0" $FILE"#,
    ).with(204),
    step("Templates, at last", "delete_template", r#"curl -X DELETE -H "Authorization: Bearer $TOKEN" "$API/templates/1?cascade=true""#),
    step(
        "Tokens and the record of changes",
        "create_token",
        r#"curl -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" -d '{"name": "ci", "scope": "write", "expires_in": "90d"}' $API/tokens"#,
    ),
    step(
        "Tokens and the record of changes",
        "list_tokens",
        r#"curl -H "Authorization: Bearer $TOKEN" $API/tokens"#,
    ),
    step(
        "Tokens and the record of changes",
        "revoke_token",
        r#"curl -X DELETE -H "Authorization: Bearer $TOKEN" $API/tokens/2"#,
    ),
    step(
        "Tokens and the record of changes",
        "list_audit_events",
        r#"curl -H "Authorization: Bearer $TOKEN" "$API/audit?actor=you&page_size=2""#,
    ),
];

/// What the mirror has beside the lab's nodes and storages.
pub(crate) async fn furnish(lab: &Lab) {
    let mut guests: Vec<_> = (100..103).map(a_guest).collect();
    for guest in &mut guests {
        "pve-node1".clone_into(&mut guest.node_name);
    }
    guests[0].tags = Some("prod;web".to_owned());
    lab.api.guests(LAB, &guests).await;
    let details = GuestDetails {
        storages: Some("data".to_owned()),
        storage_cfg: Some(r#"{"scsi0":{"size_bytes":34359738368}}"#.to_owned()),
    };
    let address = GuestAddress {
        ip_address: "192.0.2.10".to_owned(),
        network_id: Some("net0".to_owned()),
        nic_name: "eth0".to_owned(),
        mac_address: Some("BC:24:11:00:00:01".to_owned()),
    };
    let read = [GuestRead { vmid: 100, details, addresses: Some(vec![address]) }];
    let write = async |conn: &mut Conn| guest_details::write(conn, LAB, &read).await;
    lab.api.database.db.write(write).await.unwrap();
    for table in ["pve_node", "pve_vm", "pve_storage"] {
        lab.api.fix_times(table).await;
    }
}
