//! Taking templates away: ours, all of it, and nothing else.

use pve_sim::Guest;
use schema::{instance::InstanceStatus, template::TemplateStatus};

use crate::support::{LATER, Workshop, eventually, on_every_database, small};

fn number(vmid: i64) -> u32 {
    u32::try_from(vmid).expect("VMIDs are small")
}

/// B09: the template's guest was removed by hand and its number has become somebody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_took_our_number_is_left_alone() {
    on_every_database("b09", async |database| {
        let workshop = Workshop::open(database, small()).await;
        let asked = workshop.ask("debian", "local-lvm", &["pve1"]).await;
        let row = workshop.until_all(&asked, InstanceStatus::Available).await.remove(0);
        let vmid = number(row.told.vmid);

        workshop.sim().remove_guest(vmid);
        let mut prod = Guest::qemu(vmid, "pve1");
        prod.name = "prod-db".to_owned();
        workshop.sim().add_guest(prod);
        workshop.retire(&asked).await;
        workshop.until_gone(&asked).await;

        let left = workshop.sim().guest(vmid).expect("prod-db is there");
        assert_eq!(left.name, "prod-db");
        let told = workshop.instance(row.id).await.told.error_message.unwrap_or_default();
        assert!(told.contains("prod-db") && told.contains("left alone"), "{told}");
    })
    .await;
}

/// B10: one node is offline; the rest goes, and the row says what it waits for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_waits_for_a_node_that_is_offline() {
    on_every_database("b10_offline", async |database| {
        let workshop = Workshop::open(database, small()).await;
        let asked = workshop.ask("debian", "local-lvm", &["pve1", "pve2"]).await;
        workshop.until_all(&asked, InstanceStatus::Available).await;
        workshop.sim().node_down("pve2");
        eventually("the mirror sees that the node is offline", LATER, || async {
            let node = workshop.mirror.node(workshop.cluster(), "pve2").await.unwrap();
            if node.synced.status == schema::node::NodeStatus::Offline {
                Ok(())
            } else {
                Err(node.synced.status)
            }
        })
        .await;

        workshop.retire(&asked).await;
        eventually("only the node that is offline is left", LATER, || async {
            let row = workshop.template(&asked).await;
            let reason = row.blocked_reason.clone().unwrap_or_default();
            let waits =
                row.status == TemplateStatus::Deleting && reason.contains("pve2 is offline");
            let rest = workshop.instances(&asked).await.len();
            if waits && rest == 1 { Ok(()) } else { Err((row, rest)) }
        })
        .await;

        workshop.sim().node_up("pve2");
        workshop.until_gone(&asked).await;
        workshop.until_clean(&[]).await;
    })
    .await;
}

/// B10: linked clones need the base image; the row says which, and the delete ends when they go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_names_the_linked_clones_that_hold_it() {
    on_every_database("b10_clones", async |database| {
        let workshop = Workshop::open(database, small()).await;
        // Files refer to their base; thin pools do not, and PVE lets their templates go.
        let asked = workshop.ask("debian", "nfs-shared", &["pve1"]).await;
        workshop.until_all(&asked, InstanceStatus::Available).await;
        let clone = workshop.clone_guest(&asked, "web", "pve1", false).await;
        let vmid = workshop.until_cloned(clone).await;

        workshop.retire(&asked).await;
        eventually("the delete says which clone holds it", LATER, || async {
            let row = workshop.template(&asked).await;
            let reason = row.blocked_reason.unwrap_or_default();
            if reason.contains(&vmid.to_string()) { Ok(()) } else { Err(reason) }
        })
        .await;

        workshop.destroy_by_hand(vmid);
        workshop.until_gone(&asked).await;
        workshop.until_clean(&[]).await;
    })
    .await;
}

/// B11: a template goes while an import runs: the task is stopped, and nothing is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_stops_what_is_being_made() {
    on_every_database("b11", async |database| {
        // The copy of 1 GiB takes a minute, so it is under way when the delete comes.
        let config = pve_sim::Config { copy_rate: Some(16 << 20), ..small() };
        let workshop = Workshop::open(database, config).await;
        let asked = workshop.ask("debian", "local-lvm", &["pve1", "pve2"]).await;
        eventually("two imports run", LATER, || async {
            let running = workshop.sim().running_tasks();
            let imports = running.iter().filter(|upid| upid.contains(":qmconfig:")).count();
            if imports == 2 { Ok(()) } else { Err(running) }
        })
        .await;

        workshop.retire(&asked).await;

        workshop.until_gone(&asked).await;
        workshop.until_clean(&[]).await;
        assert_eq!(workshop.sim().running_tasks(), Vec::<String>::new());
    })
    .await;
}
