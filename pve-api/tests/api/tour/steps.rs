//! The commands, in an order in which each finds what it needs.

use schema::guest::{self, GuestDetails};
use schema::ip_address::{self, GuestAddress};
use schema::{Conn, GuestId};

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
    const fn after(self, before: &'static [&'static str]) -> Self {
        Self { before, ..self }
    }
}

pub(super) const STEPS: &[Step] = &[
    step(
        "Clusters",
        "show_cluster_status",
        r#"curl -H "Authorization: Bearer $TOKEN" $API/clusters/1/status"#,
    ),
    step("Mirror", "list_nodes", r#"curl -H "Authorization: Bearer $TOKEN" "$API/nodes?cluster_id=1&status=online&page_size=1""#),
    step("Mirror", "show_node", r#"curl -H "Authorization: Bearer $TOKEN" $API/nodes/1"#),
    step("Mirror", "list_vms", r#"curl -H "Authorization: Bearer $TOKEN" "$API/vms?tag=prod&page=1&page_size=10""#),
    step("Mirror", "show_vm", r#"curl -H "Authorization: Bearer $TOKEN" $API/vms/1"#),
    step("Mirror", "list_vm_addresses", r#"curl -H "Authorization: Bearer $TOKEN" $API/vms/1/ips"#),
    step("Mirror", "list_storages", r#"curl -H "Authorization: Bearer $TOKEN" "$API/storages?node_name=pve-node1&name=data""#),
    step("Mirror", "show_storage", r#"curl -H "Authorization: Bearer $TOKEN" $API/storages/5"#),
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
    step("Sync tasks", "delete_sync_task", r#"curl -X DELETE -H "Authorization: Bearer $TOKEN" $API/templates/sync-tasks/2"#),
    step("Templates, at last", "delete_template", r#"curl -X DELETE -H "Authorization: Bearer $TOKEN" "$API/templates/1?cascade=true""#),
];

/// What the mirror has beside the lab's nodes and storages.
pub(crate) async fn furnish(lab: &Lab) {
    let mut guests: Vec<_> = (100..103).map(a_guest).collect();
    for guest in &mut guests {
        guest.node_name = "pve-node1".to_owned();
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
    let write = async |conn: &mut Conn| {
        guest::write_details(conn, LAB, 100, &details).await?;
        ip_address::replace(conn, LAB, GuestId(1), std::slice::from_ref(&address)).await
    };
    lab.api.database.db.write(write).await.unwrap();
    for table in ["pve_node", "pve_vm", "pve_storage"] {
        lab.api.fix_times(table).await;
    }
}
