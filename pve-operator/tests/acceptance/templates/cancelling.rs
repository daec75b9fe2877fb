//! Cancel and retry.

use schema::{instance::InstanceStatus, sync_task::TaskStatus};

use crate::support::{LATER, Workshop, eventually, on_every_database, small};

/// B14: cancel while the node works: the task is stopped, guest and file are gone; a retry then
/// makes the template, and what was said of the old attempt is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_cancelled_leaves_nothing_and_can_be_tried_again() {
    on_every_database("b14_cancel", async |database| {
        let workshop = Workshop::open(database, small()).await;
        workshop.sim().hang_next_task("qmconfig");
        let asked = workshop.ask("debian", "local-lvm", &["pve1", "pve2"]).await;
        let stuck = eventually("one import hangs, the other node is done", LATER, || async {
            let rows = workshop.instances(&asked).await;
            let importing = rows
                .iter()
                .find(|row| row.told.step.as_deref() == Some("import") && row.told.upid.is_some());
            let done = rows.iter().any(|row| row.told.status == InstanceStatus::Available);
            importing.filter(|_| done).cloned().ok_or(rows.len())
        })
        .await;

        workshop.cancel(&asked, &stuck.node_name).await;
        eventually("it is cancelled", LATER, || async {
            let row = workshop.on(&asked, &stuck.node_name).await.told;
            if row.step.as_deref() == Some("cancelled") { Ok(()) } else { Err(row) }
        })
        .await;
        if let Some(task) = stuck.sync_task_id {
            workshop.until_task(task, TaskStatus::Cancelled).await;
        }
        let others: Vec<u32> =
            ["pve1", "pve2"].iter().flat_map(|node| workshop.templates_on(node)).collect();
        workshop.until_clean(&others).await;
        assert_eq!(others.len(), 1, "the other node keeps its template");

        workshop.retry(&asked, &stuck.node_name).await;
        let row = workshop.until(&asked, &stuck.node_name, InstanceStatus::Available).await;
        assert_eq!(row.told.error_message, None);
        assert_eq!(row.told.attempt, stuck.told.attempt + 1);
    })
    .await;
}

/// B14: a retry after the cause is gone completes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_completes_once_the_cause_is_gone() {
    on_every_database("b14_retry", async |database| {
        let workshop = Workshop::open(database, small()).await;
        let roots = ["/", "/storage", "/storage/local-lvm"];
        for path in roots {
            workshop.sim().withdraw(path, &["Datastore.AllocateSpace"]);
        }
        let asked = workshop.ask("debian", "local-lvm", &["pve1"]).await;
        let failed = workshop.until(&asked, "pve1", InstanceStatus::Failed).await;
        let words = failed.told.error_message.clone().unwrap_or_default();
        assert!(words.contains("Datastore.AllocateSpace on /storage/local-lvm"), "{words}");
        assert!(failed.told.ended_at.is_some());
        workshop.until_clean(&[]).await;

        for path in roots {
            workshop.sim().grant(path, &["Datastore.AllocateSpace"]);
        }
        workshop.retry(&asked, "pve1").await;
        let row = workshop.until(&asked, "pve1", InstanceStatus::Available).await;
        assert_eq!(row.told.error_message, None);
        assert_eq!(row.told.progress, 100);
    })
    .await;
}
