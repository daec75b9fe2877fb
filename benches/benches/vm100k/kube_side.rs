//! What kube-runtime does: its store, its shared streams with subscribers, and its heap.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{StreamExt, stream};
use kube_runtime::{
    WatchStreamExt,
    reflector::{self, store::Writer},
    watcher::{self, Event},
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    documents::{MACHINES, ROUNDS, relisted, touched},
    figures::Figures,
    gauges::{Heap, Spent, Stopwatch, as_f64, milliseconds},
    objects::{Decode, Vm},
    runtimes::{NAP, Until, one_thread, pause, two_threads},
};

/// A list of everything, as the events that a watcher makes of it.
fn list(generation: impl Fn(u64) -> u64) -> impl Iterator<Item = Event<Vm>> {
    let items = (0..MACHINES).map(move |i| Event::InitApply(Vm::decode(i, generation(i))));
    [Event::Init].into_iter().chain(items).chain([Event::InitDone])
}

fn round(r: u64) -> Vec<Event<Vm>> {
    (0..MACHINES).map(|j| Event::Apply(Vm::decode(touched(r, j), r + 2))).collect()
}

/// The store alone, written to by hand; no stream and no subscriber.
pub(crate) fn store(figures: &mut Figures) {
    let mut writer = Writer::<Vm>::default();
    let initial = apply(&mut writer, list(|_| 1).collect());
    figures.push("kube.store/initial_cpu_ms", milliseconds(initial.cpu));
    assert_eq!(writer.as_reader().len() as u64, MACHINES);
    let mut rounds = Spent::default();
    for r in 0..ROUNDS {
        rounds += apply(&mut writer, round(r));
    }
    figures.push("kube.store/modify_cpu_ns", rounds.cpu_ns_each(MACHINES * ROUNDS));
    for k in 0..3 {
        let relist = apply(&mut writer, list(|i| relisted(i, k)).collect());
        figures.push("kube.store/relist_cpu_ms", milliseconds(relist.cpu));
    }
}

/// Events are dropped after they were applied, as they are by the stream.
fn apply(writer: &mut Writer<Vm>, events: Vec<Event<Vm>>) -> Spent {
    let watch = Stopwatch::start();
    for event in events {
        writer.apply_watcher_event(&event);
    }
    watch.spent()
}

pub(crate) fn one_subscriber(figures: &mut Figures) {
    let rounds = one_thread(shared(1));
    figures.push("kube.shared1/modify_cpu_ns", rounds.cpu_ns_each(MACHINES * ROUNDS));
}

pub(crate) fn eight_subscribers(figures: &mut Figures) {
    let rounds = one_thread(shared(8));
    figures.push("kube.shared8/modify_cpu_ns", rounds.cpu_ns_each(MACHINES * ROUNDS));
}

async fn shared(subscribers: usize) -> Spent {
    let mut source = Source::start(subscribers, None).await;
    let mut rounds = Spent::default();
    for r in 0..ROUNDS {
        rounds += source.send(round(r), Until::All(subscribers)).await;
    }
    source.stop().await;
    rounds
}

pub(crate) fn slow_beside_fast(figures: &mut Figures) {
    let fast = two_threads(async {
        let mut source = Source::start(2, Some(NAP)).await;
        let fast = source.send(round(0), Until::Number(1)).await;
        source.stop().await;
        fast
    });
    figures.push("kube.slow/fast_ms", milliseconds(fast.wall));
}

/// A stream of watch events with subscribers, one task each.
struct Source {
    events: mpsc::Sender<Result<Event<Vm>, watcher::Error>>,
    /// How many objects each subscriber must have got for it to say so.
    target: Arc<AtomicU64>,
    reached: mpsc::Receiver<usize>,
    awake: Arc<AtomicBool>,
    tasks: JoinSet<u64>,
}

impl Source {
    /// Synced when it returns. The first subscriber then takes naps, if there are to be any.
    async fn start(subscribers: usize, nap: Option<Duration>) -> Self {
        let (_, writer) = reflector::store_shared::<Vm>(1024);
        let target = Arc::new(AtomicU64::new(0));
        let awake = Arc::new(AtomicBool::new(true));
        let (say, reached) = mpsc::channel(subscribers);
        let mut tasks = JoinSet::new();
        for number in 0..subscribers {
            let mut objects = writer.subscribe().expect("the store is shared");
            let (target, say, awake) = (target.clone(), say.clone(), awake.clone());
            let nap = nap.filter(|_| number == 0);
            tasks.spawn(async move {
                let (mut seen, mut sum) = (0, 0_u64);
                while let Some(object) = objects.next().await {
                    sum = sum.wrapping_add(object.spec.mem);
                    pause(nap, &awake);
                    seen += 1;
                    if seen == target.load(Relaxed) && say.send(number).await.is_err() {
                        break;
                    }
                }
                sum
            });
        }
        let (events, inbox) = mpsc::channel(1024);
        let inbox =
            stream::unfold(inbox, |mut inbox| async { inbox.recv().await.map(|e| (e, inbox)) });
        tasks.spawn(async move {
            let mut driver = std::pin::pin!(inbox.reflect_shared(writer));
            while driver.next().await.is_some() {}
            0
        });
        let mut source = Self { events, target, reached, awake: awake.clone(), tasks };
        source.send(list(|_| 1).collect(), Until::All(subscribers)).await;
        awake.store(false, Relaxed);
        source
    }

    /// From the first event sent until subscribers have all of them.
    async fn send(&mut self, events: Vec<Event<Vm>>, until: Until) -> Spent {
        self.target.fetch_add(MACHINES, Relaxed);
        let watch = Stopwatch::start();
        for event in events {
            self.events.send(Ok(event)).await.expect("the driver runs");
        }
        until.reached(&mut self.reached).await;
        watch.spent()
    }

    async fn stop(self) {
        self.awake.store(true, Relaxed);
        drop((self.events, self.reached));
        self.tasks.join_all().await;
    }
}

/// What the typed store holds on the heap, and the most while the same list is applied again.
pub(crate) fn heap(figures: &mut Figures) {
    let heap = Heap::count();
    let mut writer = Writer::<Vm>::default();
    list(|_| 1).for_each(|event| writer.apply_watcher_event(&event));
    figures.push("kube.heap/object_bytes", heap.live() / as_f64(MACHINES));
    heap.peak();
    list(|_| 1).for_each(|event| writer.apply_watcher_event(&event));
    figures.push("kube.heap/relist_peak_bytes", heap.peak() / as_f64(MACHINES));
    drop(writer);
}
