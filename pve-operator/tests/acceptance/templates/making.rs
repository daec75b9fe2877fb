//! What happens when nothing goes wrong.

use schema::{instance::InstanceStatus, sync_task::TaskStatus, upload::UploadStatus};

use crate::support::{Workshop, on_every_database, small};

/// One image becomes a template on each node, with a VMID of its own and nothing left beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_becomes_a_template_on_every_node() {
    on_every_database("templates", async |database| {
        let workshop = Workshop::open(database, small()).await;
        let asked = workshop.ask("Debian 12", "local-lvm", &["pve1", "pve2", "pve3"]).await;

        let rows = workshop.until_all(&asked, InstanceStatus::Available).await;

        let vmids: Vec<u32> =
            rows.iter().map(|row| u32::try_from(row.told.vmid).unwrap()).collect();
        assert_eq!(rows.len(), 3);
        for row in &rows {
            let vmid = u32::try_from(row.told.vmid).unwrap();
            assert_eq!(
                workshop.templates_on(&row.node_name).iter().filter(|it| **it == vmid).count(),
                1
            );
            let guest = workshop.sim().guest(vmid).expect("the guest is there");
            assert_eq!(guest.name, "debian-12");
            assert_eq!(row.told.progress, 100);
            let volume = row.told.volume_id.as_deref().unwrap_or_default();
            assert_eq!(volume, format!("local-lvm:base-{vmid}-disk-0"));
        }
        for task in &asked.tasks {
            let task = workshop.until_task(*task, TaskStatus::Completed).await;
            assert_eq!(task.told.progress, 100);
            assert_eq!(task.told.bytes_total, Some(task.file_size));
            assert_eq!(task.told.bytes_done, task.file_size);
            assert!(task.told.sync_end_time >= task.told.sync_start_time);
            assert_eq!(task.told.error_message, None);
        }
        assert_eq!(workshop.upload(&asked).await.told.status, UploadStatus::Imported);
        workshop.until_clean(&vmids).await;

        workshop.retire(&asked).await;
        workshop.until_gone(&asked).await;
        workshop.until_clean(&[]).await;
        assert_eq!(workshop.sim().guests().len(), 3, "what was there before");
    })
    .await;
}

/// On shared storage there is one guest, and an instance for every node that sees it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_on_shared_storage_is_one_guest_for_all_nodes() {
    on_every_database("shared_templates", async |database| {
        let workshop = Workshop::open(database, small()).await;
        let asked = workshop.ask("ubuntu", "nfs-shared", &["pve2", "pve1", "pve3"]).await;

        let rows = workshop.until_all(&asked, InstanceStatus::Available).await;

        let vmid = rows[0].told.vmid;
        assert!(rows[0].is_primary.0 && rows[0].node_name == "pve2");
        assert!(rows.iter().all(|row| row.told.vmid == vmid), "one guest for all");
        assert_eq!(workshop.templates_on("pve2").len(), 1);
        workshop.until_clean(&[u32::try_from(vmid).unwrap()]).await;

        workshop.retire(&asked).await;
        workshop.until_gone(&asked).await;
        workshop.until_clean(&[]).await;
    })
    .await;
}
