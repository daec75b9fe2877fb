//! Several things go wrong at once: what does each instance and each task say, and what of the rest?

use schema::{
    instance::{InstanceRow, InstanceStatus},
    sync_task::{SyncTaskRow, TaskStatus},
    testing::TestDatabase,
};

use crate::support::{
    Asked, Followed, LATER, Workshop, eventually, on_every_database, qcow2, simulate, small, told,
};

/// How large it is: `CLUSTERS=3 NODES=8` for the whole of it (`scripts/long/trouble`).
fn size(name: &str, otherwise: usize) -> usize {
    let text = std::env::var(name).ok();
    text.map_or(otherwise, |text| text.parse().expect("it is a number"))
}

/// One template in one cluster, with a copy for each node.
struct Wanted<'a> {
    cluster: &'a Followed,
    asked: Asked,
}

/// The node of the first cluster that is off.
const OFF: &str = "pve2";

/// The node of the first cluster whose disk is full.
const FULL: &str = "pve3";

/// What is said of the last cluster whose token is revoked.
const REVOKED: &str = "does not accept the token";

/// What is said of an instance, and of its task if it has one.
type Said = (InstanceRow, Option<SyncTaskRow>);

async fn said(workshop: &Workshop, wanted: &Wanted<'_>) -> Vec<Said> {
    let mut said = Vec::new();
    for row in workshop.instances(&wanted.asked).await {
        let task = match row.sync_task_id {
            Some(id) => Some(workshop.task(id).await),
            None => None,
        };
        said.push((row, task));
    }
    said
}

/// Whether everything has come as far as it can while the trouble lasts.
fn is_as_expected(first: bool, said: &[Said]) -> bool {
    said.iter().all(|(row, task)| {
        let words = row.told.error_message.as_deref().or(row.told.blocked_reason.as_deref());
        let words = words.unwrap_or_default();
        let (fits, status) = match row.node_name.as_str() {
            OFF if first => (words == format!("node {OFF} is offline"), TaskStatus::Pending),
            FULL if first => (
                row.told.status == InstanceStatus::Failed
                    && words.contains(&format!("on node {FULL} has 0 MiB free")),
                TaskStatus::Failed,
            ),
            _ if first => (row.told.status == InstanceStatus::Available, TaskStatus::Completed),
            _ => return row.told.status == InstanceStatus::Available || words.contains(REVOKED),
        };
        let task = task.as_ref().map(|task| &task.told);
        fits && task.is_none_or(|task| {
            task.status == status
                && (status == TaskStatus::Completed || task.error_message.as_deref() == Some(words))
        })
    })
}

async fn trouble(database: TestDatabase) {
    let (clusters, nodes) = (size("CLUSTERS", 2), size("NODES", 4));
    let config = small().nodes(nodes).copy_rate(2 << 30);
    let mut workshop = Workshop::closed(database, config.clone()).await;
    let mut others = Vec::new();
    for n in 2..=clusters {
        let sim = simulate(config.clone().seed(n as u64));
        others.push(workshop.mirror.follow(&format!("sim{n}"), sim).await);
    }
    workshop.start().await;
    for other in &others {
        workshop.until_known(other).await;
    }
    let clusters: Vec<&Followed> = [&workshop.it].into_iter().chain(&others).collect();
    let names: Vec<String> = (1..=nodes).map(|n| format!("pve{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();

    // Two uploads to each cluster, for all of its nodes; the last cluster's token goes half-way.
    let (first, revoked) = (clusters[0], clusters[clusters.len() - 1]);
    first.sim.set_free_space(FULL, "local-lvm", 0);
    first.sim.node_down(OFF);
    let mut wanted = Vec::new();
    for cluster in &clusters {
        for image in ["debian", "ubuntu"] {
            let bytes = qcow2(image, 200 << 10);
            let name = format!("{image} of {}", cluster.name);
            let asked = workshop.ask_in(cluster.id, &name, "local-lvm", &names, &bytes).await;
            wanted.push(Wanted { cluster, asked });
        }
    }
    eventually("the last cluster has begun", LATER, || async {
        let running = revoked.sim.running_tasks();
        let begun = running.iter().any(|upid| upid.contains(":qmconfig:"));
        if begun { Ok(()) } else { Err(running) }
    })
    .await;
    revoked.sim.revoke_token();

    for wanted in &wanted {
        let is_first = wanted.cluster.id == first.id;
        let is_last = wanted.cluster.id == revoked.id;
        let what = format!("{} says what it must", wanted.cluster.name);
        let said = eventually(&what, LATER, || async {
            let said = said(&workshop, wanted).await;
            let rows: Vec<_> = said.iter().map(|(row, _)| row.clone()).collect();
            let done = if is_first || is_last {
                is_as_expected(is_first, &said)
            } else {
                rows.iter().all(|row| row.told.status == InstanceStatus::Available)
            };
            if done { Ok(said) } else { Err(told(&rows)) }
        })
        .await;
        print(wanted, &said);
    }

    first.sim.node_up(OFF);
    first.sim.set_free_space(FULL, "local-lvm", 1 << 40);
    revoked.sim.restore_token();
    for wanted in &wanted {
        if wanted.cluster.id == first.id {
            workshop.retry(&wanted.asked, FULL).await;
        }
    }
    for wanted in &wanted {
        workshop.until_all(&wanted.asked, InstanceStatus::Available).await;
        for task in &wanted.asked.tasks {
            let task = workshop.until_task(*task, TaskStatus::Completed).await;
            assert_eq!(task.told.error_message, None);
        }
    }
    for cluster in clusters {
        let sim = &cluster.sim;
        eventually("PVE has two templates on each node and nothing else", LATER, || async {
            let guests = sim.guests();
            let ours: Vec<_> = guests.iter().filter(|it| it.vmid >= 9000).collect();
            let each = names
                .iter()
                .all(|node| ours.iter().filter(|it| it.node == *node && it.template).count() == 2);
            let left = (sim.leftovers(), sim.all_files().len());
            let whole = each && ours.len() == 2 * names.len() && left == (Vec::new(), 0);
            if whole { Ok(()) } else { Err((ours.len(), left)) }
        })
        .await;
    }
}

fn print(wanted: &Wanted<'_>, said: &[Said]) {
    for (row, task) in said {
        let words = row.told.error_message.as_deref().or(row.told.blocked_reason.as_deref());
        let task = task.as_ref().map_or("(imported to)".to_owned(), |task| {
            format!("task {}: {} {}%", task.id, task.told.status, task.told.progress)
        });
        println!(
            "{:5} {:5} {:10} {:3}% {task:24} {}",
            wanted.cluster.name,
            row.node_name,
            row.told.status,
            row.told.progress,
            words.unwrap_or_default()
        );
    }
}

/// B05, B07: one node is off, one disk is full and one token is revoked half-way. Each says what it
/// is, nothing else is held up, and all ends well once it is mended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trouble_stays_where_it_is_and_says_what_it_is() {
    on_every_database("trouble", trouble).await;
}
