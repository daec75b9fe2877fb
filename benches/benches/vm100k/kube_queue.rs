//! kube-runtime's queue of work: its scheduler alone, and the applier that reconciles.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt, channel::mpsc, stream};
use kube_runtime::{
    Config,
    controller::{Action, ReconcileReason, ReconcileRequest, applier},
    reflector::{ObjectRef, Store, store::Writer},
    scheduler::{ScheduleRequest, scheduler},
    watcher::Event,
};
use tokio::time::{Instant, sleep};

use crate::{
    documents::{MACHINES, ROUNDS, name, node, touched},
    figures::Figures,
    gauges::{Spent, Stopwatch},
    latency::Latencies,
    objects::{Decode, Vm},
    runtimes::one_thread,
};

type Requests = mpsc::UnboundedReceiver<Result<ReconcileRequest<Vm>, Infallible>>;

/// Ten waves of all keys; the next one is sent when the one before is reconciled.
pub(crate) fn waves(figures: &mut Figures) {
    let spent = one_thread(async {
        let keys = keys(MACHINES);
        let (send, requests) = mpsc::unbounded();
        let reconciled = Arc::new(AtomicU64::new(0));
        let mut results = std::pin::pin!(apply(store(MACHINES), requests, reconciled.clone()));
        let mut spent = Spent::default();
        for r in 0..ROUNDS {
            let wave: Vec<_> = (0..MACHINES).map(|j| index(touched(r, j))).collect();
            let watch = Stopwatch::start();
            for at in wave {
                send.unbounded_send(Ok(request(keys[at].clone()))).expect("it is open");
            }
            for _ in 0..MACHINES {
                results.next().await.expect("it goes on");
            }
            spent += watch.spent();
        }
        assert_eq!(reconciled.load(Relaxed), MACHINES * ROUNDS);
        spent
    });
    let count = MACHINES * ROUNDS;
    figures.push("kube.waves/per_cpu_second", spent.per_cpu_second(count));
    figures.push("kube.waves/per_second", spent.per_second(count));
}

/// A million keys, each once, at most a thousand of them at a time.
pub(crate) fn unique(figures: &mut Figures) {
    let count = MACHINES * ROUNDS;
    let spent = one_thread(async {
        let keys = keys(count);
        let requests =
            keys.into_iter().map(|message| ScheduleRequest { message, run_at: Instant::now() });
        let requests = Chunks { items: requests, taken: 0 }.chain(stream::pending());
        let mut emitted = std::pin::pin!(scheduler(requests));
        let watch = Stopwatch::start();
        for _ in 0..count {
            emitted.next().await.expect("it goes on");
        }
        watch.spent()
    });
    figures.push("kube.unique/per_cpu_second", spent.per_cpu_second(count));
    figures.push("kube.unique/per_second", spent.per_second(count));
}

/// From a trigger to the end of the reconciliation, with nothing else to do.
pub(crate) fn latency(figures: &mut Figures) {
    let median = one_thread(async {
        let (send, requests) = mpsc::unbounded();
        let mut results = std::pin::pin!(apply(store(1), requests, Arc::default()));
        let key = &keys(1)[0];
        let mut latencies = Latencies::default();
        for pause in Latencies::pauses() {
            let started = Instant::now();
            send.unbounded_send(Ok(request(key.clone()))).expect("it is open");
            results.next().await.expect("it goes on");
            latencies.push(started.elapsed());
            if let Some(pause) = pause {
                sleep(pause).await;
            }
        }
        latencies.median_us()
    });
    figures.push("kube.latency/p50_us", median);
}

/// Eight at a time.
fn apply(
    store: Store<Vm>,
    requests: Requests,
    reconciled: Arc<AtomicU64>,
) -> impl Stream<Item = ()> {
    let results = applier(
        |_: Arc<Vm>, reconciled: Arc<AtomicU64>| {
            reconciled.fetch_add(1, Relaxed);
            Box::pin(async { Ok::<_, io::Error>(Action::await_change()) })
        },
        |_, _: &io::Error, _| Action::requeue(Duration::from_secs(1)),
        reconciled,
        store,
        requests,
        Config::default().concurrency(8),
    );
    results.map(|result| drop(result.expect("nothing fails here")))
}

fn store(machines: u64) -> Store<Vm> {
    let mut writer = Writer::default();
    writer.apply_watcher_event(&Event::Init);
    for i in 0..machines {
        writer.apply_watcher_event(&Event::InitApply(Vm::decode(i, 1)));
    }
    writer.apply_watcher_event(&Event::InitDone);
    writer.as_reader()
}

fn keys(count: u64) -> Vec<ObjectRef<Vm>> {
    (0..count).map(|i| ObjectRef::new(&name(i)).within(&node(i))).collect()
}

fn index(i: u64) -> usize {
    usize::try_from(i).expect("there are fewer machines than addresses")
}

fn request(key: ObjectRef<Vm>) -> ReconcileRequest<Vm> {
    ReconcileRequest { obj_ref: key, reason: ReconcileReason::ObjectUpdated }
}

/// Lets the other side run after each thousand; otherwise the scheduler takes all in first.
struct Chunks<I> {
    items: I,
    taken: usize,
}

impl<I: Iterator + Unpin> Stream for Chunks<I> {
    type Item = I::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<I::Item>> {
        if self.taken == 1000 {
            self.taken = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.taken += 1;
        Poll::Ready(self.items.next())
    }
}
