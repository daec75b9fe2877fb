//! B19: PVE's proxy gives up on a request whose work begins later; a worker dies and its child goes
//! on. However it comes, there is one guest and one file.

use std::time::Duration;

use pve_sim::{FaultKind, FaultRule, Outcome, Sim};
use schema::{instance::InstanceStatus, testing::TestDatabase};

use crate::support::{Asked, Replica, Workshop, on_every_database, small};

/// Of the operator in these tests, see `support/workshop.rs`.
const PATIENCE_MS: u64 = 2_000;

/// What is asked for, as method and beginning of the path below `/nodes/{node}`, in turn.
const REQUESTS: [(&str, &str, &str); 4] = [
    ("pve1", "POST", "/qemu"),
    ("pve2", "POST", "/qemu/"),
    ("pve3", "DELETE", "/storage/local/content"),
    ("pve4", "POST", "/qemu/9003/template"),
];

/// Each request is answered 596 once, and its work begins so much later.
async fn begins_late(database: TestDatabase, after_ms: u64) -> Workshop {
    let workshop = Workshop::open(database, small().nodes(4)).await;
    break_each(&workshop, &FaultKind::Late { ms: 50, after_ms });

    let asked = workshop.ask("late", "local-lvm", &NODES).await;

    workshop.until_all(&asked, InstanceStatus::Available).await;
    // What begins later than it was waited for must find nothing to break.
    tokio::time::sleep(Duration::from_millis(after_ms)).await;
    is_whole(&workshop, &asked).await;
    workshop
}

/// Nothing was asked for twice: there is one task of each kind for each node.
fn is_made_once(sim: &Sim) {
    for kind in ["imgcopy", "qmcreate", "qmconfig", "qmtemplate", "imgdel"] {
        let count = sim.tasks().iter().filter(|task| task.kind == kind).count();
        assert_eq!(count, NODES.len(), "{kind}");
    }
}

const NODES: [&str; 4] = ["pve1", "pve2", "pve3", "pve4"];

fn break_each(workshop: &Workshop, kind: &FaultKind) {
    for (node, method, path) in REQUESTS {
        let path = format!("/nodes/{node}{path}");
        workshop.sim().fault(FaultRule::new(&path, kind.clone()).method(method).times(1));
    }
}

async fn is_whole(workshop: &Workshop, asked: &Asked) {
    let rows = workshop.until_all(asked, InstanceStatus::Available).await;
    let vmids: Vec<_> = rows.iter().map(|row| u32::try_from(row.told.vmid).unwrap()).collect();
    workshop.until_clean(&vmids).await;
    for row in &rows {
        assert_eq!(workshop.templates_on(&row.node_name).len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_begins_after_a_596_is_found() {
    on_every_database("late_soon", async |database| {
        let workshop = begins_late(database, PATIENCE_MS / 4).await;
        is_made_once(workshop.sim());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_begins_when_it_was_asked_for_again_makes_no_second_guest() {
    on_every_database("late_long", async |database| {
        begins_late(database, PATIENCE_MS * 3 / 2).await;
    })
    .await;
}

/// Nodes fetch images by themselves: one download is answered 596 and begins soon, one begins when
/// it was asked for again, one loses its answer and one its worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_begins_late_leaves_one_file() {
    on_every_database("late_download", async |database| {
        let mut workshop = Workshop::closed(database, small().nodes(4)).await;
        let replica = Replica::start(workshop.mirror.db(), &workshop.images, 0).await;
        workshop.mirror.option("--image-base-url", &format!("http://{}", replica.address));
        workshop.start().await;
        let sim = workshop.sim();
        let long = PATIENCE_MS * 3 / 2;
        for (node, kind) in [
            ("pve1", FaultKind::Late { ms: 50, after_ms: PATIENCE_MS / 4 }),
            ("pve2", FaultKind::Late { ms: 50, after_ms: long }),
            ("pve3", FaultKind::DropBeforeAnswer),
        ] {
            let path = format!("/nodes/{node}/storage/local/download-url");
            sim.fault(FaultRule::new(&path, kind).method("POST").times(1));
        }
        sim.plan("download", None, Some("pve4"), Outcome::Fail("received interrupt".to_owned()));

        let asked = workshop.ask("late download", "local-lvm", &NODES).await;

        workshop.until_all(&asked, InstanceStatus::Available).await;
        tokio::time::sleep(Duration::from_millis(long)).await;
        is_whole(&workshop, &asked).await;
        let tasks = sim.tasks();
        assert!(!tasks.iter().any(|task| task.kind == "imgcopy"), "nothing was sent");
        let downloads = |node: &str| {
            tasks.iter().filter(|task| task.kind == "download" && task.node == node).count()
        };
        assert_eq!(downloads("pve1"), 1, "the late one was found");
        assert_eq!(downloads("pve3"), 1, "as was the one whose answer was lost");
    })
    .await;
}

/// A request that was lost altogether is asked again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_never_begins_is_asked_for_again() {
    on_every_database("never", async |database| {
        let workshop = Workshop::open(database, small().nodes(4)).await;
        let kind = FaultKind::Status { code: 596, reason: "Connection timed out".to_owned() };
        break_each(&workshop, &kind);

        let asked = workshop.ask("never", "local-lvm", &NODES).await;

        is_whole(&workshop, &asked).await;
    })
    .await;
}

/// The answer is lost on the way: the work has begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_before_the_answer_doubles_nothing() {
    on_every_database("broken", async |database| {
        let workshop = Workshop::open(database, small().nodes(4)).await;
        let sim = workshop.sim();
        break_each(&workshop, &FaultKind::DropBeforeAnswer);
        let upload = FaultRule::new("/nodes/pve1/storage", FaultKind::DropBeforeAnswer);
        sim.fault(upload.method("POST").times(1));

        let asked = workshop.ask("broken", "local-lvm", &NODES).await;

        is_whole(&workshop, &asked).await;
        is_made_once(sim);
    })
    .await;
}

/// The worker of an import is killed and its qemu-img writes on: the guest cannot be destroyed
/// meanwhile, and is in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_outlives_its_worker_is_waited_for() {
    on_every_database("outlives", async |database| {
        let mut workshop = Workshop::closed(database, small()).await;
        workshop.mirror.option("--retry-tries", "2");
        workshop.start().await;
        let sim = workshop.sim();
        sim.kill_next_task("qmconfig", Duration::from_secs(3));

        let asked = workshop.ask("outlives", "local-lvm", &["pve1"]).await;

        let row = workshop.until(&asked, "pve1", InstanceStatus::Available).await;
        workshop.until_clean(&[u32::try_from(row.told.vmid).unwrap()]).await;
        let ended = |kind: &str| -> Vec<String> {
            let tasks = sim.tasks().into_iter().filter(|task| task.kind == kind);
            tasks.filter_map(|task| task.exit).collect()
        };
        assert_eq!(ended("qmconfig"), ["unexpected status", "OK"]);
        let destroyed = ended("qmdestroy");
        assert!(destroyed.len() >= 2, "{destroyed:?}");
        assert!(destroyed[0].contains("\"write\" lock"), "{destroyed:?}");
        assert_eq!(destroyed.last().map(String::as_str), Some("OK"));
    })
    .await;
}
