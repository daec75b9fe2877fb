//! B04: the operator is killed in every step of an import and of a sync.

use std::{
    collections::BTreeMap,
    fmt,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use pve_sim::{FaultKind, FaultRule, Sim};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::SliceRandom};
use schema::{
    instance::{InstanceRow, InstanceStatus},
    sync_task::TaskStatus,
    testing::TestDatabase,
};
use tokio::process::{Child, Command};

use crate::{
    binary::OPERATOR,
    support::{Asked, LATER, Replica, Workshop, eventually, on_every_database, small},
};

/// A moment of the life of an instance.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Moment {
    /// A VMID is reserved and nothing is asked of PVE.
    Reserved,
    /// The row says what is asked for, and PVE has not heard of it.
    Asking(Step),
    /// PVE has begun, and the row does not know the task.
    Begun(Step),
    /// The row knows the task.
    Known(Step),
    /// Nothing is left to do but to say that the template is there.
    Done,
}

/// What PVE is asked for on the way to a template.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Step {
    Fetch,
    Shell,
    Import,
    Template,
    Unstage,
}

impl Step {
    const ALL: [Self; 5] = [Self::Fetch, Self::Shell, Self::Import, Self::Template, Self::Unstage];

    /// As the row has it.
    fn word(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Shell => "shell",
            Self::Import => "import",
            Self::Template => "template",
            Self::Unstage => "unstage",
        }
    }

    /// PVE's kind of task, where nodes fetch images.
    fn kind(self) -> &'static str {
        match self {
            Self::Fetch => "download",
            Self::Shell => "qmcreate",
            Self::Import => "qmconfig",
            Self::Template => "qmtemplate",
            Self::Unstage => "imgdel",
        }
    }

    /// Where it is asked for.
    fn request(self, node: &str, vmid: i64) -> (&'static str, String) {
        match self {
            // `upload` where images are sent, `download-url` where nodes fetch them.
            Self::Fetch => ("POST", format!("/nodes/{node}/storage/local/")),
            Self::Shell => ("POST", format!("/nodes/{node}/qemu")),
            Self::Import => ("POST", format!("/nodes/{node}/qemu/{vmid}/config")),
            Self::Template => ("POST", format!("/nodes/{node}/qemu/{vmid}/template")),
            Self::Unstage => ("DELETE", format!("/nodes/{node}/storage/local/content")),
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Self::Reserved => "reserve".to_owned(),
            Self::Asking(step) => format!("{}, before the request", step.word()),
            Self::Begun(step) => format!("{}, before the answer", step.word()),
            Self::Known(step) => format!("{}, while it runs", step.word()),
            Self::Done => "publish".to_owned(),
        };
        f.pad(&words)
    }
}

impl Moment {
    fn all() -> Vec<Self> {
        let steps = |of: fn(Step) -> Self| Step::ALL.map(of);
        let mut all = vec![Self::Reserved, Self::Done];
        all.extend(steps(Self::Asking).into_iter().chain(steps(Self::Begun)));
        all.extend(steps(Self::Known));
        all
    }

    /// Lets PVE stand still at this moment.
    fn hold(self, sim: &Sim, node: &str, vmid: i64) {
        let (method, path, kind) = match self {
            Self::Reserved => ("GET", format!("/nodes/{node}/version"), FaultKind::StallForever),
            Self::Done => {
                ("GET", format!("/nodes/{node}/qemu/{vmid}/config"), FaultKind::StallForever)
            }
            Self::Asking(step) => {
                let (method, path) = step.request(node, vmid);
                (method, path, FaultKind::StallForever)
            }
            Self::Begun(step) => {
                let (method, path) = step.request(node, vmid);
                (method, path, FaultKind::Delay { ms: 60_000 })
            }
            // It lasts for as long as the task.
            Self::Known(_) => return,
        };
        sim.fault(FaultRule::new(&path, kind).method(method).times(1));
    }

    /// Whether it can be held before anything is known of the instance.
    fn is_early(self) -> bool {
        matches!(
            self,
            Self::Reserved
                | Self::Asking(Step::Fetch | Step::Shell)
                | Self::Begun(Step::Fetch | Step::Shell)
        )
    }

    /// Whether it can be held by now: the path of its request is known.
    fn can_be_held(self, sim: &Sim, row: &InstanceRow) -> bool {
        match self {
            // The image is away again.
            Self::Done => {
                row.told.asked.as_deref() == Some("unstage") && sim.files(&row.node_name).is_empty()
            }
            _ => row.told.vmid != 0,
        }
    }

    fn is_now(self, sim: &Sim, tasks_before: usize, row: &InstanceRow) -> bool {
        let asked = |step: Step| row.told.asked.as_deref() == Some(step.word());
        match self {
            Self::Reserved => row.told.vmid != 0,
            Self::Asking(step) => asked(step) && row.told.upid.is_none(),
            Self::Begun(step) => {
                let tasks = sim.tasks();
                let new = &tasks[tasks_before..];
                let is_its =
                    |kind: &str| kind == step.kind() || (step == Step::Fetch && kind == "imgcopy");
                asked(step) && new.iter().any(|it| it.node == row.node_name && is_its(&it.kind))
            }
            Self::Known(step) => asked(step) && row.told.upid.is_some(),
            Self::Done => self.can_be_held(sim, row),
        }
    }
}

/// Three moments at a time, one on each node; those of a running task by themselves, for they do
/// not wait for each other.
fn rounds(seed: u64) -> Vec<Vec<Moment>> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut running, mut held): (Vec<_>, Vec<_>) =
        Moment::all().into_iter().partition(|moment| matches!(moment, Moment::Known(_)));
    held.shuffle(&mut rng);
    running.shuffle(&mut rng);
    let held = held.chunks(3).map(<[Moment]>::to_vec);
    held.chain(running.chunks(1).map(<[Moment]>::to_vec)).collect()
}

const NODES: [&str; 3] = ["pve1", "pve2", "pve3"];

/// Kills of one operator, and what was found afterwards.
struct Killing {
    workshop: Workshop,
    templates: Vec<u32>,
    passed: BTreeMap<Moment, u32>,
    /// What serves images to the nodes, if they fetch them.
    _replica: Option<Replica>,
}

impl Killing {
    async fn of(database: TestDatabase) -> Self {
        let config = small().task_time(Duration::from_millis(120));
        // Images are sent on one database; on the others nodes fetch them.
        let fetched = database.kind() != "sqlite";
        let mut workshop = Workshop::closed(database, config).await;
        let mut replica = None;
        if fetched {
            let started = Replica::start(workshop.mirror.db(), &workshop.images, 0).await;
            workshop.mirror.option("--image-base-url", &format!("http://{}", started.address));
            replica = Some(started);
        }
        Self { workshop, templates: Vec::new(), passed: BTreeMap::new(), _replica: replica }
    }

    fn spawn(&self) -> Child {
        Command::new(OPERATOR)
            .args(self.workshop.mirror.line())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the command can be run")
    }

    async fn until_hit(&mut self, moments: &[Moment], seed: u64) {
        let mut missed = moments.to_vec();
        for again in 0..10 {
            missed = self.round(&missed, seed + again * 1_000_000).await;
            if missed.is_empty() {
                return;
            }
        }
        panic!("{missed:?} went by unseen ten times");
    }

    /// Kills at these moments; answers those that went by unseen, which a slow machine may do.
    async fn round(&mut self, moments: &[Moment], seed: u64) -> Vec<Moment> {
        let (workshop, sim) = (&self.workshop, self.workshop.sim());
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut operator = self.spawn();
        workshop.until_ready().await;
        let mut nodes = NODES;
        nodes.shuffle(&mut rng);
        let tasks_before = sim.tasks().len();
        let places: Vec<_> = moments.iter().copied().zip(nodes).collect();
        let early = places.iter().filter(|(moment, _)| moment.is_early());
        early.for_each(|(moment, node)| moment.hold(sim, node, 0));
        let held: Vec<_> =
            moments.iter().map(|moment| AtomicBool::new(moment.is_early())).collect();
        // The first one is imported to, the others are synced.
        let asked = workshop.ask(&format!("killed-{seed}"), "local-lvm", &NODES).await;
        let missed = eventually(&format!("{moments:?} has come"), LATER, || async {
            let rows = workshop.instances(&asked).await;
            let (mut missing, mut missed) = (Vec::new(), Vec::new());
            for ((moment, node), held) in places.iter().zip(&held) {
                let row = rows.iter().find(|row| row.node_name == *node).expect("it is there");
                if moment.can_be_held(sim, row) && !held.swap(true, Ordering::Relaxed) {
                    moment.hold(sim, node, row.told.vmid);
                }
                if row.told.status == InstanceStatus::Available {
                    missed.push(*moment);
                } else if !moment.is_now(sim, tasks_before, row) {
                    missing.push((*moment, row.told.clone()));
                }
            }
            if missing.is_empty() { Ok(missed) } else { Err(missing) }
        })
        .await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..80))).await;
        operator.kill().await.expect("SIGKILL is sent");
        self.workshop.mirror.leases_expire().await;
        sim.clear_faults();

        let _operator = self.spawn();
        self.is_whole(&asked).await;
        for moment in moments.iter().filter(|moment| !missed.contains(moment)) {
            *self.passed.entry(*moment).or_default() += 1;
        }
        missed
    }

    /// Each node has one template, and nothing of ours is anywhere else.
    async fn is_whole(&mut self, asked: &Asked) {
        let workshop = &self.workshop;
        let rows = workshop.until_all(asked, InstanceStatus::Available).await;
        for row in &rows {
            self.templates.push(u32::try_from(row.told.vmid).expect("a VMID"));
            assert!(row.told.volume_id.is_some(), "{row:?}");
        }
        for task in &asked.tasks {
            workshop.until_task(*task, TaskStatus::Completed).await;
        }
        for node in NODES {
            let ours = workshop.templates_on(node);
            assert_eq!(ours.len(), self.templates.len() / NODES.len(), "{node}: {ours:?}");
        }
        workshop.until_clean(&self.templates).await;
    }
}

/// `KILLS=20` for the long form (`scripts/long/kill-templates`): so many kills at each moment on
/// each database. Without it each moment has its turn on one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_leaves_one_template_on_each_node() {
    on_every_database("killed_templates", async |database| {
        let kind = database.kind();
        let kills = std::env::var("KILLS").ok();
        let kills = kills.map(|kills| kills.parse::<u64>().expect("KILLS is a number"));
        let turn = ["sqlite", "mysql", "postgres"].iter().position(|it| *it == kind);
        let mut killing = Killing::of(database).await;
        for seed in 0..kills.unwrap_or(1) {
            for (at, moments) in rounds(seed).iter().enumerate() {
                if kills.is_some() || Some(at % 3) == turn {
                    killing.until_hit(moments, seed * 100 + at as u64).await;
                }
            }
        }
        for (moment, passed) in &killing.passed {
            println!("{kind:10} {moment:30} {passed:3} kills, all whole");
        }
        assert!(!killing.passed.is_empty());
    })
    .await;
}
