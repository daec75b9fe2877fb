//! How far a task has come, and why it failed, as people read it from the row.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use pve_sim::Sim;
use schema::{
    SyncTaskId,
    instance::InstanceStatus,
    sync_task::{self, TaskStatus},
    testing::TestDatabase,
};
use tokio::task::JoinSet;

use crate::support::{Asked, LATER, Workshop, eventually, on_every_database, qcow2, small, told};

/// What a task's row said, looked at every 50 ms.
struct Watched {
    seen: Arc<Mutex<Vec<(i32, TaskStatus)>>>,
    /// Whether the guest was a template whenever the row said that all is done.
    true_to_pve: Arc<Mutex<bool>>,
    _looking: JoinSet<()>,
}

impl Watched {
    fn task(workshop: &Workshop, task: SyncTaskId, node: &'static str) -> Self {
        let (db, sim) = (workshop.mirror.db().clone(), workshop.sim().clone());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let true_to_pve = Arc::new(Mutex::new(true));
        let (into, honest) = (Arc::clone(&seen), Arc::clone(&true_to_pve));
        let mut looking = JoinSet::new();
        looking.spawn(async move {
            loop {
                let mut conn = db.conn().await.expect("the database answers");
                let row = sync_task::get(&mut conn, task).await.expect("the task can be read");
                drop(conn);
                let told = row.expect("the task has a row").told;
                let is_template = sim.guests().iter().any(|it| it.template && it.node == node);
                if told.status == TaskStatus::Completed && !is_template {
                    *honest.lock() = false;
                }
                into.lock().push((told.progress, told.status));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Self { seen, true_to_pve, _looking: looking }
    }

    /// The values that were seen, each once; they never fall.
    fn progress(&self) -> Vec<i32> {
        let mut values: Vec<_> = self.seen.lock().iter().map(|(progress, _)| *progress).collect();
        assert!(values.is_sorted(), "progress fell: {values:?}");
        values.dedup();
        values
    }
}

/// B06: an image of 256 MiB is seen on its way and while it is imported.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_rises_to_100_and_that_is_a_template() {
    // One database is enough for what is the same on all of them, and takes 256 MiB.
    let database = TestDatabase::sqlite("progress").await;
    let config = small().copy_rate(700 << 20);
    let workshop = Workshop::open(database, config).await;

    let image = qcow2("large", 256 << 20);
    let asked = workshop.ask_of("large", "local-lvm", &["pve1", "pve2"], &image).await;
    let watched = Watched::task(&workshop, asked.tasks[0], "pve2");

    workshop.until_task(asked.tasks[0], TaskStatus::Completed).await;
    eventually("the end was seen", LATER, || async {
        let last = watched.seen.lock().last().copied();
        if last == Some((100, TaskStatus::Completed)) { Ok(()) } else { Err(last) }
    })
    .await;
    let progress = watched.progress();
    assert!(progress.len() >= 5, "{progress:?}");
    assert!(progress.iter().any(|it| (1..60).contains(it)), "on its way: {progress:?}");
    assert!(progress.iter().any(|it| (66..97).contains(it)), "while imported: {progress:?}");
    assert!(*watched.true_to_pve.lock(), "completed before PVE had a template");
}

/// Writes into the log of the only task that runs.
fn write_log(sim: &Sim, change: impl FnOnce(&mut Vec<String>)) {
    sim.edit(|world| {
        let running = world.tasks.iter_mut().rev().find(|task| task.end.is_none());
        change(&mut running.expect("a task runs").log);
    });
}

async fn until_progress(workshop: &Workshop, asked: &Asked, wanted: i32) {
    eventually(&format!("{wanted} per cent"), LATER, || async {
        let row = workshop.on(asked, "pve1").await;
        if row.told.progress >= wanted { Ok(()) } else { Err(told(&[row])) }
    })
    .await;
}

/// Lets the operator look at a log a few times.
async fn some_looks(workshop: &Workshop) {
    let logs = || workshop.sim().counters().of("GET", "/nodes/{node}/tasks/{upid}/log");
    let before = logs();
    eventually("the log is read", LATER, || async {
        let read = logs() - before;
        if read >= 3 { Ok(()) } else { Err(read) }
    })
    .await;
}

fn transferred(mib: u32) -> String {
    format!("transferred {mib}.0 MiB of 1.0 GiB ({:.2}%)", f64::from(mib) * 100.0 / 1024.0)
}

/// B20: the line that PVE makes up, a line that grows, a log of 2,000 lines, one that is cut off,
/// and the error that matters at its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_may_do_what_it_likes() {
    on_every_database("logs", async |database| {
        let workshop = Workshop::open(database, small()).await;
        let sim = workshop.sim();
        sim.hang_next_task("qmconfig");
        let asked = workshop.ask("logs", "local-lvm", &["pve1"]).await;
        eventually("the import runs", LATER, || async {
            let row = workshop.on(&asked, "pve1").await;
            let runs = row.told.asked.as_deref() == Some("import") && row.told.upid.is_some();
            if runs { Ok(()) } else { Err(told(&[row])) }
        })
        .await;

        write_log(sim, Vec::clear);
        some_looks(&workshop).await;
        // It takes the place of the line that PVE made up.
        write_log(sim, |log| log.push(transferred(256)));
        until_progress(&workshop, &asked, 73).await;

        write_log(sim, |log| log.push("transferred 512.0 MiB of".to_owned()));
        some_looks(&workshop).await;
        write_log(sim, |log| log[1] = transferred(512));
        until_progress(&workshop, &asked, 81).await;

        write_log(sim, |log| {
            log.extend((0..2_000).map(|line| transferred(512 + line / 5)));
        });
        until_progress(&workshop, &asked, 93).await;
        let high = workshop.on(&asked, "pve1").await.told.progress;

        write_log(sim, |log| log.truncate(1));
        some_looks(&workshop).await;
        assert!(workshop.on(&asked, "pve1").await.told.progress >= high, "it never falls");

        let upid = sim.running_tasks().remove(0);
        sim.edit(|world| {
            let task = world.tasks.iter_mut().find(|task| task.upid() == upid).expect("it is there");
            task.log.extend(
                [
                    "qemu-img: error while writing at byte 7: No space left on device",
                    "TASK ERROR: copy failed: command '/usr/bin/qemu-img convert' failed: exit code 1",
                ]
                .map(str::to_owned),
            );
            task.exit = Some("copy failed: command '/usr/bin/qemu-img convert' failed: exit code 1".to_owned());
            task.end = Some(task.start);
        });
        let row = workshop.until(&asked, "pve1", InstanceStatus::Failed).await;
        let error = row.told.error_message.unwrap_or_default();
        assert!(error.contains("No space left on device"), "{error}");

        assert!(sim.kill_task(&upid, Duration::ZERO));
        workshop.until_clean(&[]).await;
        workshop.retry(&asked, "pve1").await;
        let row = workshop.until(&asked, "pve1", InstanceStatus::Available).await;
        workshop.until_clean(&[u32::try_from(row.told.vmid).unwrap()]).await;
    })
    .await;
}

/// PVE forgets a task (its list is cut, or the node was installed anew): what it did shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_pve_has_forgotten_is_made_up_for() {
    on_every_database("forgotten", async |database| {
        let mut workshop = Workshop::open(database, small()).await;
        workshop.sim().hang_next_task("qmconfig");
        let asked = workshop.ask("forgotten", "local-lvm", &["pve1"]).await;
        eventually("the import runs", LATER, || async {
            let row = workshop.on(&asked, "pve1").await;
            let runs = row.told.asked.as_deref() == Some("import") && row.told.upid.is_some();
            if runs { Ok(()) } else { Err(told(&[row])) }
        })
        .await;
        workshop.mirror.kill().await;
        let sim = workshop.sim();
        assert_eq!(sim.kill_tasks("qmconfig", None, Duration::ZERO).len(), 1);
        sim.edit(|world| world.tasks.clear());

        workshop.start().await;

        let row = workshop.until(&asked, "pve1", InstanceStatus::Available).await;
        workshop.until_clean(&[u32::try_from(row.told.vmid).unwrap()]).await;
    })
    .await;
}
