//! B17: the cluster loses its quorum before a delete, during an import, while a guest becomes a
//! template. PVE would destroy a guest's disks then and keep the guest.

use std::time::Duration;

use pve_sim::Sim;
use schema::instance::InstanceStatus;

use crate::support::{LATER, Workshop, eventually, on_every_database, small};

/// Waits until a task of this kind runs.
async fn until_runs(sim: &Sim, kind: &str) {
    eventually(&format!("a {kind} task runs"), LATER, || async {
        let running = sim.running_tasks();
        let runs = running.iter().any(|upid| upid.split(':').nth(5) == Some(kind));
        if runs { Ok(()) } else { Err(running) }
    })
    .await;
}

async fn until_none_runs(sim: &Sim) {
    eventually("no task runs", LATER, || async {
        let running = sim.running_tasks();
        if running.is_empty() { Ok(()) } else { Err(running) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_quorum_nothing_is_deleted() {
    on_every_database("quorum_delete", async |database| {
        let workshop = Workshop::open(database, small()).await;
        let sim = workshop.sim();
        let asked = workshop.ask("kept", "local-lvm", &["pve1", "pve2"]).await;
        let rows = workshop.until_all(&asked, InstanceStatus::Available).await;
        let vmids: Vec<_> = rows.iter().map(|row| u32::try_from(row.told.vmid).unwrap()).collect();
        let volumes = sim.volumes();

        sim.set_quorum(false);
        workshop.retire(&asked).await;

        eventually("the reason is told", LATER, || async {
            let rows = workshop.instances(&asked).await;
            let told = |it: &schema::instance::InstanceRow| {
                it.told.status == InstanceStatus::Deleting
                    && it.told.blocked_reason.as_deref().is_some_and(|it| it.contains("quorum"))
            };
            if rows.iter().all(told) { Ok(()) } else { Err(crate::support::told(&rows)) }
        })
        .await;
        eventually("the template's reason is told", LATER, || async {
            let reason = workshop.template(&asked).await.blocked_reason;
            if reason.iter().any(|it| it.contains("quorum")) { Ok(()) } else { Err(reason) }
        })
        .await;
        assert!(sim.tasks().iter().all(|task| task.kind != "qmdestroy"), "not even asked for");
        assert_eq!(sim.volumes(), volumes);
        workshop.until_clean(&vmids).await;

        sim.set_quorum(true);
        workshop.until_gone(&asked).await;
        workshop.until_clean(&[]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quorum_lost_during_an_import_costs_no_try_and_leaves_no_volume() {
    on_every_database("quorum_import", async |database| {
        let config = small().copy_rate(2 << 30);
        let workshop = Workshop::open(database, config).await;
        let sim = workshop.sim();
        let asked = workshop.ask("import", "local-lvm", &["pve1"]).await;
        until_runs(sim, "qmconfig").await;

        sim.set_quorum(false);

        until_none_runs(sim).await;
        let tasks = sim.tasks().len();
        eventually("the reason is told", LATER, || async {
            let row = workshop.on(&asked, "pve1").await;
            let told = row.told.blocked_reason.clone().unwrap_or_default();
            if told.contains("no quorum") { Ok(()) } else { Err(crate::support::told(&[row])) }
        })
        .await;
        assert_eq!(sim.tasks().len(), tasks, "nothing is begun meanwhile");

        sim.set_quorum(true);
        let row = workshop.until(&asked, "pve1", InstanceStatus::Available).await;
        workshop.until_clean(&[u32::try_from(row.told.vmid).unwrap()]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quorum_lost_while_a_guest_becomes_a_template_ends_well() {
    on_every_database("quorum_template", async |database| {
        let config = small().task_time(Duration::from_millis(300));
        let workshop = Workshop::open(database, config).await;
        let sim = workshop.sim();
        let asked = workshop.ask("convert", "local-lvm", &["pve1"]).await;
        until_runs(sim, "qmtemplate").await;

        sim.set_quorum(false);

        until_none_runs(sim).await;
        eventually("the reason is told", LATER, || async {
            let row = workshop.on(&asked, "pve1").await;
            let told = row.told.blocked_reason.clone().unwrap_or_default();
            if told.contains("no quorum") { Ok(()) } else { Err(crate::support::told(&[row])) }
        })
        .await;
        let tasks = sim.tasks().len();

        sim.set_quorum(true);
        let row = workshop.until(&asked, "pve1", InstanceStatus::Available).await;
        assert!(sim.tasks().len() > tasks);
        workshop.until_clean(&[u32::try_from(row.told.vmid).unwrap()]).await;
    })
    .await;
}
