//! B05: PVE refuses or fails each step in turn.

use std::time::Duration;

use pve_sim::{FaultKind, FaultRule, File, Outcome, Sim};
use schema::{
    instance::{InstanceRow, InstanceStatus},
    sync_task::TaskStatus,
    upload::UploadStatus,
};

use crate::support::{Asked, LATER, Workshop, eventually, on_every_database, qcow2, small};

/// PVE's kinds of tasks on the way to a template.
const KINDS: [&str; 5] = ["imgcopy", "qmcreate", "qmconfig", "qmtemplate", "imgdel"];

fn tasks_of(sim: &Sim, kind: &str, node: &str) -> usize {
    sim.tasks().iter().filter(|task| task.kind == kind && task.node == node).count()
}

async fn until_clean(workshop: &Workshop, rows: &[InstanceRow]) {
    let vmids: Vec<u32> = rows.iter().map(|row| u32::try_from(row.told.vmid).unwrap()).collect();
    workshop.until_clean(&vmids).await;
}

/// Each kind of task fails once on one node and is killed once on another, and on each node a
/// request is answered 595 once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_time_heals_is_tried_again_by_itself() {
    on_every_database("heals", async |database| {
        let workshop = Workshop::open(database, small()).await;
        let sim = workshop.sim();
        for kind in KINDS {
            let text = "can't lock file '/var/lock/qemu-server/lock-1.conf' - got timeout";
            sim.plan(kind, None, Some("pve1"), Outcome::Fail(text.to_owned()));
            // A create that is killed leaves what only an administrator can remove.
            if kind != "qmcreate" {
                sim.plan(kind, None, Some("pve2"), Outcome::Kill { leave_child_ms: 300 });
            }
        }
        let unreachable = FaultKind::Status { code: 595, reason: "No route to host".to_owned() };
        for (method, path) in [
            ("POST", "/nodes/pve1/storage"),
            ("POST", "/nodes/pve2/qemu"),
            ("DELETE", "/nodes/pve3/storage"),
        ] {
            sim.fault(FaultRule::new(path, unreachable.clone()).method(method).times(1));
        }

        let asked = workshop.ask("heals", "local-lvm", &["pve1", "pve2", "pve3"]).await;

        let rows = workshop.until_all(&asked, InstanceStatus::Available).await;
        assert_eq!(sim.plans_left(), 0, "all that was planned happened");
        for row in &rows {
            assert_eq!(row.told.error_message, None, "what is over is not told: {row:?}");
            assert_eq!(row.told.failures, 0);
        }
        for task in &asked.tasks {
            let task = workshop.until_task(*task, TaskStatus::Completed).await;
            assert_eq!(task.told.error_message, None);
        }
        assert_eq!(workshop.upload(&asked).await.told.error_message, None);
        until_clean(&workshop, &rows).await;
    })
    .await;
}

/// `WARNINGS: 2` of any task is success.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warnings_are_success() {
    on_every_database("warnings", async |database| {
        let workshop = Workshop::open(database, small()).await;
        for kind in KINDS {
            workshop.sim().warn_next_task(kind, 2);
        }

        let asked = workshop.ask("warned", "local-lvm", &["pve2"]).await;

        let rows = workshop.until_all(&asked, InstanceStatus::Available).await;
        assert_eq!(workshop.sim().plans_left(), 0);
        assert_eq!(rows[0].told.error_message, None);
        for kind in KINDS {
            assert_eq!(tasks_of(workshop.sim(), kind, "pve2"), 1, "{kind} is not asked for again");
        }
        until_clean(&workshop, &rows).await;
    })
    .await;
}

/// What PVE says when a person is needed, by the task that says it.
const PERSON: [(&str, &str); 5] = [
    ("imgcopy", "import failed: cp: error writing '/var/lib/vz/import/x': No space left on device"),
    ("imgcopy", "qemu-img: Could not open '/var/tmp/pveupload-1': Image is not in qcow2 format"),
    ("qmcreate", "unable to create VM 1 - 403 Permission check failed (/vms/1, VM.Config.Options)"),
    ("qmcreate", "unable to create VM 1 - bridge 'vmbr9' does not exist"),
    ("qmconfig", "copy failed: write failed: No space left on device"),
];

/// What a person must see to is said once, in PVE's words, and not tried again before somebody wants
/// it: each failure on a node of its own, the first one where the image is imported.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_person_is_told_in_pves_words_and_not_tried_again() {
    on_every_database("person", async |database| {
        let workshop = Workshop::open(database, small().nodes(PERSON.len())).await;
        let sim = workshop.sim();
        let nodes = ["pve1", "pve2", "pve3", "pve4", "pve5"];
        for (node, (kind, words)) in nodes.into_iter().zip(PERSON) {
            sim.plan(kind, None, Some(node), Outcome::Fail(words.to_owned()));
        }

        let asked = workshop.ask("person", "local-lvm", &nodes).await;

        let rows = workshop.until_all(&asked, InstanceStatus::Failed).await;
        workshop.until_clean(&[]).await;
        for (node, (kind, words)) in nodes.into_iter().zip(PERSON) {
            let told = on(&rows, node).told.error_message.as_deref().unwrap_or_default();
            assert!(told.contains(words), "{node}: {told} is not {words}");
            assert_eq!(tasks_of(sim, kind, node), 1, "{node}: one try");
        }
        let upload = workshop.upload(&asked).await.told;
        assert_eq!(upload.status, UploadStatus::Failed);
        assert_eq!(upload.error_message, on(&rows, "pve1").told.error_message);
        for (task, node) in asked.tasks.iter().zip(&nodes[1..]) {
            let task = workshop.until_task(*task, TaskStatus::Failed).await;
            assert_eq!(task.told.error_message, on(&rows, node).told.error_message);
            assert!(task.told.sync_end_time.is_some());
        }

        for node in nodes {
            workshop.retry(&asked, node).await;
        }
        let rows = workshop.until_all(&asked, InstanceStatus::Available).await;
        assert!(rows.iter().all(|row| row.told.error_message.is_none()));
        assert_eq!(workshop.upload(&asked).await.told.error_message, None);
        for task in &asked.tasks {
            let task = workshop.until_task(*task, TaskStatus::Completed).await;
            assert_eq!((task.told.error_message, task.told.attempt), (None, 2));
        }
        until_clean(&workshop, &rows).await;
    })
    .await;
}

fn on<'a>(rows: &'a [InstanceRow], node: &str) -> &'a InstanceRow {
    rows.iter().find(|row| row.node_name == node).expect("the node has an instance")
}

/// Breaks something, finds it told, mends it, and tries again.
async fn broken_then_mended(
    workshop: &Workshop,
    name: &str,
    break_it: impl FnOnce(&Sim),
    mend_it: impl FnOnce(&Sim),
    words: &str,
) -> InstanceRow {
    break_it(workshop.sim());
    // What is checked beforehand is what the mirror knows.
    workshop.mirror.until_equal(&workshop.it).await;
    let asked: Asked = workshop.ask(name, "local-lvm", &["pve3"]).await;
    let failed = workshop.until(&asked, "pve3", InstanceStatus::Failed).await;
    let told = failed.told.error_message.unwrap_or_default();
    assert!(told.contains(words), "{name}: {told}");
    mend_it(workshop.sim());
    workshop.mirror.until_equal(&workshop.it).await;
    workshop.retry(&asked, "pve3").await;
    workshop.until(&asked, "pve3", InstanceStatus::Available).await
}

/// What is wrong before any byte is moved: a full disk, a storage that takes no disks, a missing
/// privilege, a refusal of the request itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_to_fail_is_not_begun() {
    on_every_database("preflight", async |database| {
        let workshop = Workshop::open(database, small()).await;
        let mut rows = Vec::new();
        let big = 1 << 40;
        rows.push(
            broken_then_mended(
                &workshop,
                "full",
                |sim| sim.set_free_space("pve3", "local", 100 << 10),
                |sim| sim.set_free_space("pve3", "local", big),
                "local",
            )
            .await,
        );
        rows.push(
            broken_then_mended(
                &workshop,
                "contents",
                |sim| sim.set_content("local-lvm", &["rootdir"]),
                |sim| sim.set_content("local-lvm", &["images", "rootdir"]),
                "takes no disks",
            )
            .await,
        );
        rows.push(
            broken_then_mended(
                &workshop,
                "privilege",
                |sim| sim.withdraw("/", &["Datastore.AllocateTemplate"]),
                |sim| sim.grant("/", &["Datastore.AllocateTemplate"]),
                "Datastore.AllocateTemplate",
            )
            .await,
        );
        assert_eq!(tasks_of(workshop.sim(), "imgcopy", "pve3"), 3, "those that could succeed");
        until_clean(&workshop, &rows).await;
    })
    .await;
}

/// A failure that may be chance is tried as often as was said, then told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tries_end() {
    on_every_database("tries", async |database| {
        let mut workshop = Workshop::closed(database, small()).await;
        workshop.mirror.option("--retry-tries", "3");
        workshop.start().await;
        let sim = workshop.sim();
        for _ in 0..3 {
            sim.fail_next_task("qmconfig", "cannot import: something odd");
        }

        let asked = workshop.ask("tries", "local-lvm", &["pve1"]).await;

        let failed = workshop.until(&asked, "pve1", InstanceStatus::Failed).await;
        assert!(failed.told.error_message.is_some_and(|it| it.contains("something odd")));
        workshop.until_clean(&[]).await;
        assert_eq!(tasks_of(sim, "qmconfig", "pve1"), 3);
        workshop.retry(&asked, "pve1").await;
        let row = workshop.until(&asked, "pve1", InstanceStatus::Available).await;
        until_clean(&workshop, &[row]).await;
    })
    .await;
}

/// Another file lies where ours was to be, and cannot be removed at once: it is never used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_file_is_never_imported() {
    on_every_database("wrong_file", async |database| {
        let config = small().task_time(Duration::from_millis(200));
        let workshop = Workshop::open(database, config).await;
        let sim = workshop.sim();
        let mismatch = "checksum mismatch: got 'a' != expect 'b', aborting";
        sim.fail_next_task("imgcopy", mismatch);
        sim.fail_next_task("imgdel", "unable to remove it just now");

        let asked = workshop.ask("wrong", "local-lvm", &["pve1"]).await;
        put_wrong_file(&workshop, &asked).await;

        let row = workshop.until(&asked, "pve1", InstanceStatus::Available).await;
        assert_eq!(tasks_of(sim, "imgcopy", "pve1"), 2, "sent again");
        assert_eq!(tasks_of(sim, "imgdel", "pve1"), 3, "a failure, the wrong one, the right one");
        until_clean(&workshop, &[row]).await;
    })
    .await;
}

/// As long as ours, under its name, while ours is on its way.
async fn put_wrong_file(workshop: &Workshop, asked: &Asked) {
    let (storage, name) = eventually("the image has a name on the node", LATER, || async {
        let told = workshop.on(asked, "pve1").await.told;
        told.staging_storage.zip(told.staged_file).ok_or("none yet")
    })
    .await;
    let size = usize::try_from(workshop.upload(asked).await.file_size).unwrap();
    let other = qcow2("another image", size);
    workshop.sim().put_file(File::new(&storage, Some("pve1"), &name, &other));
}
