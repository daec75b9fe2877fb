//! Nodes fetch images by themselves from an address that is signed for them.

use pve_sim::Config;
use schema::instance::InstanceStatus;

use crate::support::{
    Balancer, LATER, Replica, Workshop, eventually, on_every_database, qcow2, small,
};

/// A transfer takes a few seconds: time to kill what serves it.
fn slow() -> Config {
    Config { node_link: Some(8 << 20), ..small() }
}

/// More than the buffers on the way hold.
const SIZE: usize = 32 << 20;

async fn started(workshop: &Workshop) {
    eventually("a download is on its way", LATER, || async {
        let running = workshop.sim().running_tasks();
        let fetched = workshop.sim().counters().downloaded_by("pve1");
        let begun = running.iter().any(|upid| upid.contains(":download:")) && fetched > 0;
        if begun { Ok(()) } else { Err((running, fetched)) }
    })
    .await;
}

fn downloads(workshop: &Workshop) -> Vec<(Option<String>, Vec<String>)> {
    let tasks = workshop.sim().tasks();
    let downloads = tasks.into_iter().filter(|task| task.kind == "download");
    downloads.map(|task| (task.exit, task.log)).collect()
}

/// Every node fetches; nothing is sent by us.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_fetch_images_from_their_own_address() {
    on_every_database("fetch", async |database| {
        let mut workshop = Workshop::closed(database, small()).await;
        let replica = Replica::start(workshop.mirror.db(), &workshop.images, 0).await;
        workshop.mirror.option("--image-base-url", &format!("http://{}", replica.address));
        workshop.start().await;

        let asked = workshop.ask("debian", "local-lvm", &["pve1", "pve2", "pve3"]).await;
        workshop.until_all(&asked, InstanceStatus::Available).await;

        let tasks = workshop.sim().tasks();
        assert_eq!(tasks.iter().filter(|task| task.kind == "download").count(), 3);
        assert!(!tasks.iter().any(|task| task.kind == "imgcopy"), "nothing was sent");
    })
    .await;
}

/// B16: two replicas; the one that serves dies in the middle, which costs a resume.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_dies_costs_a_resume() {
    on_every_database("b16_two", async |database| {
        let mut workshop = Workshop::closed(database, slow()).await;
        let db = workshop.mirror.db().clone();
        let mut one = Replica::start(&db, &workshop.images, 0).await;
        let other = Replica::start(&db, &workshop.images, 0).await;
        let balancer = Balancer::before(vec![one.address, other.address]).await;
        workshop.mirror.option("--image-base-url", &format!("http://{}", balancer.address));
        workshop.start().await;

        let asked = workshop.ask_of("debian", "local-lvm", &["pve1"], &qcow2("x", SIZE)).await;
        started(&workshop).await;
        one.kill().await;

        let rows = workshop.until_all(&asked, InstanceStatus::Available).await;
        assert_eq!(rows[0].told.attempt, 1);
        let downloads = downloads(&workshop);
        assert_eq!(downloads.len(), 1, "one task: {downloads:?}");
        let (exit, log) = &downloads[0];
        assert_eq!(exit.as_deref(), Some("OK"));
        assert!(log.iter().any(|line| line.contains("206 Partial Content")), "{log:#?}");
    })
    .await;
}

/// B16: the only replica dies; the node's task fails, and the image comes by itself all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_that_restarts_costs_a_new_fetch() {
    on_every_database("b16_one", async |database| {
        let mut workshop = Workshop::closed(database, slow()).await;
        let db = workshop.mirror.db().clone();
        let mut replica = Replica::start(&db, &workshop.images, 0).await;
        let address = replica.address;
        workshop.mirror.option("--image-base-url", &format!("http://{address}"));
        workshop.start().await;

        let asked = workshop.ask_of("debian", "local-lvm", &["pve1"], &qcow2("y", SIZE)).await;
        started(&workshop).await;
        replica.kill().await;
        eventually("the node's task has failed", LATER, || async {
            let ended = downloads(&workshop);
            let failed = ended.iter().any(|(exit, _)| exit.as_deref().is_some_and(|it| it != "OK"));
            if failed { Ok(()) } else { Err(ended) }
        })
        .await;
        let _replica = Replica::start(&db, &workshop.images, address.port()).await;

        let rows = workshop.until_all(&asked, InstanceStatus::Available).await;
        assert_eq!(rows[0].told.attempt, 1, "nobody had to ask for a retry");
        assert_eq!(rows[0].told.error_message, None);
        workshop.until_clean(&[u32::try_from(rows[0].told.vmid).unwrap()]).await;
    })
    .await;
}
