//! The work queue with eight takers, and the controller on top of it.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use informer::{Action, Context, Controller, Reconciler, Shutdown, WorkQueue};
use tokio::{
    sync::{Notify, oneshot},
    task::{JoinSet, yield_now},
    time::{Instant, sleep},
};

use crate::{
    documents::{MACHINES, ROUNDS, name, node, touched},
    figures::Figures,
    gauges::{Spent, Stopwatch},
    latency::Latencies,
    runtimes::{one_thread, two_threads},
};

type Key = Arc<str>;

const TAKERS: usize = 8;
const COUNT: u64 = MACHINES * ROUNDS;

pub(crate) fn waves(figures: &mut Figures) {
    let spent = one_thread(waves_of(Takers::start));
    push(figures, "ours.waves", spent);
}

pub(crate) fn waves_on_two_threads(figures: &mut Figures) {
    let spent = two_threads(waves_of(Takers::start));
    push(figures, "ours.waves_two_threads", spent);
}

pub(crate) fn controller_waves(figures: &mut Figures) {
    let spent = one_thread(waves_of(Takers::start_controller));
    push(figures, "ours.controller_waves", spent);
}

pub(crate) fn unique(figures: &mut Figures) {
    let spent = one_thread(all_unique());
    push(figures, "ours.unique", spent);
}

pub(crate) fn unique_on_two_threads(figures: &mut Figures) {
    let spent = two_threads(all_unique());
    push(figures, "ours.unique_two_threads", spent);
}

fn push(figures: &mut Figures, name: &str, spent: Spent) {
    figures.push(format!("{name}/per_cpu_second"), spent.per_cpu_second(COUNT));
    figures.push(format!("{name}/per_second"), spent.per_second(COUNT));
}

/// Ten waves of all keys; the next one is added when the one before is done.
async fn waves_of(start: fn(&WorkQueue<Key>) -> Takers) -> Spent {
    let keys = keys(MACHINES);
    let queue = WorkQueue::builder("waves").build();
    let takers = start(&queue);
    let mut spent = Spent::default();
    for r in 0..ROUNDS {
        let wave: Vec<_> = (0..MACHINES).map(|j| index(touched(r, j))).collect();
        takers.done.expect(MACHINES);
        let watch = Stopwatch::start();
        for at in wave {
            queue.add(keys[at].clone());
        }
        takers.done.all().await;
        spent += watch.spent();
    }
    takers.stop(&queue).await;
    spent
}

/// A million keys, each once; the takers may run after each thousand.
async fn all_unique() -> Spent {
    let keys = keys(COUNT);
    let queue = WorkQueue::builder("unique").build();
    let takers = Takers::start(&queue);
    takers.done.expect(COUNT);
    let watch = Stopwatch::start();
    for (number, key) in keys.into_iter().enumerate() {
        queue.add(key);
        if number % 1000 == 999 {
            yield_now().await;
        }
    }
    takers.done.all().await;
    let spent = watch.spent();
    takers.stop(&queue).await;
    spent
}

/// From an add to the end of the reconciliation, with nothing else to do.
pub(crate) fn latency(figures: &mut Figures) {
    let median = one_thread(async {
        let key = keys(1).remove(0);
        let queue = WorkQueue::builder("latency").build();
        let takers = Takers::start_controller(&queue);
        let mut latencies = Latencies::default();
        for pause in Latencies::pauses() {
            takers.done.expect(1);
            let started = Instant::now();
            queue.add(key.clone());
            takers.done.all().await;
            latencies.push(started.elapsed());
            if let Some(pause) = pause {
                sleep(pause).await;
            }
        }
        takers.stop(&queue).await;
        latencies.median_us()
    });
    figures.push("ours.latency/p50_us", median);
}

fn keys(count: u64) -> Vec<Key> {
    (0..count).map(|i| format!("{}/{}", node(i), name(i)).into()).collect()
}

fn index(i: u64) -> usize {
    usize::try_from(i).expect("there are fewer machines than addresses")
}

/// Counts down what is still to be done.
#[derive(Default)]
struct Done {
    missing: AtomicU64,
    none: Notify,
}

impl Done {
    fn expect(&self, count: u64) {
        self.missing.store(count, Relaxed);
    }

    fn one(&self) {
        if self.missing.fetch_sub(1, Relaxed) == 1 {
            self.none.notify_one();
        }
    }

    async fn all(&self) {
        self.none.notified().await;
    }
}

/// Tasks that do what is in a queue.
struct Takers {
    done: Arc<Done>,
    tasks: JoinSet<()>,
    stop: Option<oneshot::Sender<()>>,
}

impl Takers {
    /// The queue by itself.
    fn start(queue: &WorkQueue<Key>) -> Self {
        let done = Arc::new(Done::default());
        let mut tasks = JoinSet::new();
        for _ in 0..TAKERS {
            let (queue, done) = (queue.clone(), done.clone());
            tasks.spawn(async move {
                while let Some(item) = queue.take().await {
                    item.done();
                    done.one();
                }
            });
        }
        Self { done, tasks, stop: None }
    }

    /// A controller with as many workers.
    fn start_controller(queue: &WorkQueue<Key>) -> Self {
        let done = Arc::new(Done::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let controller = Controller::new(queue.clone(), Counter(done.clone())).workers(TAKERS);
        let mut tasks = JoinSet::new();
        tasks.spawn(async {
            let end = Shutdown::Drain(Duration::from_secs(10));
            let left = controller.run(async { drop(stopped.await) }, end).await;
            assert!(left.is_empty(), "{} keys were not reconciled", left.len());
        });
        Self { done, tasks, stop: Some(stop) }
    }

    async fn stop(self, queue: &WorkQueue<Key>) {
        drop(self.stop);
        let left = queue.shutdown(Shutdown::FinishRunning).await;
        assert!(left.is_empty(), "{} keys were not taken", left.len());
        self.tasks.join_all().await;
    }
}

/// Does nothing with each key, as kube-runtime's does here.
struct Counter(Arc<Done>);

impl Reconciler for Counter {
    type Key = Key;
    type Error = Infallible;

    async fn reconcile(&self, _: Context<Key>) -> Result<Action, Infallible> {
        self.0.one();
        Ok(Action::AwaitChange)
    }
}
