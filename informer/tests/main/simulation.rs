//! Hours of everything at once, from seeds, on a paused clock.
//!
//! The source fails, hangs, lies and forgets; handlers are slow, fail and panic; others join and
//! leave; a controller brings a second world to look like the first, over a connection that fails.
//! On the way no handler hears of anything impossible. When the bad times end, all agree; and at
//! shutdown nothing is left undone.
//!
//! A seed fixes what the world does. The jitter of pauses is drawn anew each time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use informer::testing::{Fault, WatchFault};
use informer::{
    Action, Backoff, Context, Controller, Event, InformerHandle, Reconciler, Retry,
    SharedIndexInformer, Shutdown, SourceError, Store, SubscribeOptions, Subscription, WorkQueue,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::model::View;
use crate::{HOUR, SECOND, Source, Thing, plain};

/// How long the bad times last.
const BAD_TIMES: Duration = HOUR.saturating_mul(4);

/// These are there all the time, and the source says so when asked.
const STEADY: std::ops::Range<u8> = 0..3;
const IDS: std::ops::Range<u8> = 0..20;

#[test]
fn after_hours_of_bad_times_all_agree_and_nothing_is_left_undone() {
    for seed in 0..30 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing");
        let lived = std::panic::AssertUnwindSafe(|| runtime.block_on(live(seed)));
        if let Err(panic) = std::panic::catch_unwind(lived) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

async fn live(seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed);
    let source = if dice.random() { Source::watching() } else { Source::list_only() };
    STEADY.for_each(|id| source.set(Thing::new(id, 0)));
    source.keep(STEADY);
    let mut builder = SharedIndexInformer::builder(source.clone())
        .poll_every(10 * SECOND)
        .relist_every(600 * SECOND)
        .list_timeout(60 * SECOND)
        .idle_timeout(120 * SECOND);
    if dice.random() {
        builder = builder.verify_every(250 * SECOND);
    }
    let informer = builder.build();
    let handle = informer.handle();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut informers = JoinSet::new();
    informers.spawn(informer.run(async { drop(stopped.await) }));

    // Handlers and reconcilers may panic, so what is wrong with them is noted down instead.
    let wrong = Wrong::default();
    let mut handlers = JoinSet::new();
    for temper in [Temper::QUICK, Temper::SLOW, Temper::FRAGILE] {
        handlers.spawn(handle_all(handle.clone(), temper, wrong.clone(), dice.random()));
    }
    let mirror = Mirror::new(handle.store().clone(), wrong.clone(), dice.random());
    let backoff = Backoff::new(SECOND, 300 * SECOND);
    let queue = WorkQueue::builder("mirror").backoff(backoff).build();
    let controller = Controller::new(queue.clone(), mirror.clone())
        .workers(3)
        .timeout(30 * SECOND)
        .trigger(handle.subscribe(SubscribeOptions::named("mirror")), |event, keys| {
            keys.push(event.key());
        });
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let mut controllers = JoinSet::new();
    controllers.spawn(controller.run(async { drop(ended.await) }, Shutdown::Drain(HOUR)));
    let mut guests = JoinSet::new();
    for _ in 0..3 {
        guests.spawn(come_and_go(handle.clone(), dice.random()));
    }

    let faults = spoil(&source, &mut dice).await;
    while let Some(guest) = guests.join_next().await {
        guest.expect("no guest hears of anything impossible");
    }
    // Until the faults that are left are used up, and the slowest back-off is over.
    mirror.recover();
    for _ in 0..faults {
        handle.relist();
        sleep(90 * SECOND).await;
    }
    sleep(HOUR).await;

    let there = source.objects();
    assert!(handle.has_synced(), "{:?}", handle.status());
    assert_eq!(plain(handle.store()), there);
    assert_eq!(*mirror.world.lock(), there);
    assert!(queue.is_empty(), "{queue:?}");

    // The last change, and at once the end of everything.
    source.set(Thing::new(99, 99));
    handle.store().wait_until(|store| store.contains(&99)).await;
    drop(stop);
    timeout(SECOND, informers.join_next()).await.expect("the informer stops at once");
    sleep(SECOND).await;
    drop(end);
    let not_run = controllers.join_next().await.expect("there is one").expect("it does not panic");
    assert!(not_run.is_empty(), "{not_run:?} were wanted and not begun");
    assert_eq!(*mirror.world.lock(), source.objects());
    while let Some(view) = handlers.join_next().await {
        assert_eq!(view.expect("a handler that panics is called again"), source.objects());
    }
    assert!(wrong.lock().is_empty(), "{:?}", wrong.lock());
}

/// Changes the source, and lets things go wrong with it; answers how many lists it spoilt.
async fn spoil(source: &Source, dice: &mut StdRng) -> usize {
    let end = Instant::now() + BAD_TIMES;
    let mut faults = 0;
    while Instant::now() < end {
        match dice.random_range(0..20) {
            0 => {
                let row = dice.random_range(1..5);
                source.faults((0..row).map(|_| list_fault(dice.random_range(0..9))));
                faults += row;
            }
            1 => source.watch_faults((0..3).map(|_| watch_fault(dice.random_range(0..5)))),
            2 => source.compact(),
            3 => sleep(Duration::from_secs(dice.random_range(0..900))).await,
            4..9 => source.remove(&dice.random_range(STEADY.end..IDS.end)),
            _ => source.set(Thing {
                id: dice.random_range(IDS),
                value: dice.random(),
                life: 0,
                node: dice.random_range(0..3),
            }),
        }
        for _ in 0..dice.random_range(0..4) {
            tokio::task::yield_now().await;
        }
        if dice.random() {
            sleep(Duration::from_millis(dice.random_range(0..60_000))).await;
        }
    }
    faults
}

fn list_fault(which: u32) -> Fault {
    match which {
        0 => Fault::Panic,
        1 => Fault::Error(SourceError::transient("no route")),
        2 => Fault::Partial(2, SourceError::throttled(Some(45 * SECOND), "busy")),
        3 => Fault::Hang,
        4 => Fault::Suspicious(3, "three are missing".to_owned()),
        5 => Fault::Slow(20 * SECOND),
        6 => Fault::Empty,
        7 => Fault::Paged(3, 5 * SECOND),
        _ => Fault::Error(SourceError::fatal("token revoked")),
    }
}

fn watch_fault(which: u32) -> WatchFault {
    match which {
        0 => WatchFault::Drop,
        1 => WatchFault::Duplicate,
        2 => WatchFault::Reorder,
        3 => WatchFault::Error(SourceError::transient("reset")),
        _ => WatchFault::End,
    }
}

/// What should not have happened.
type Wrong = Arc<Mutex<Vec<String>>>;

/// What a handler is like.
#[derive(Clone, Copy)]
struct Temper {
    pause_ms: u64,
    fails: f64,
    panics: f64,
}

impl Temper {
    const QUICK: Self = Self { pause_ms: 0, fails: 0.0, panics: 0.0 };
    const SLOW: Self = Self { pause_ms: 40_000, fails: 0.0, panics: 0.0 };
    const FRAGILE: Self = Self { pause_ms: 500, fails: 0.3, panics: 0.1 };
}

/// Follows until the informer stops; answers what is there as far as this handler knows.
async fn handle_all(
    handle: InformerHandle<Thing>,
    temper: Temper,
    wrong: Wrong,
    seed: u64,
) -> BTreeMap<u8, Thing> {
    let dice = Mutex::new(StdRng::seed_from_u64(seed));
    let view = Mutex::new(View::default());
    let retry = Retry::forever(Backoff::new(120 * SECOND, 600 * SECOND));
    let events = handle.subscribe(SubscribeOptions::named("handler"));
    let handled = events.for_each(retry, async |event| {
        let pause = dice.lock().random_range(0..=temper.pause_ms);
        sleep(Duration::from_millis(pause)).await;
        assert!(!dice.lock().random_bool(temper.panics), "as it does now and then");
        if dice.lock().random_bool(temper.fails) {
            return Err("not this time");
        }
        let possible = view.lock().apply(&event);
        // What is given back after a failure may be a change of something that this handler does
        // not have, or a delete of it.
        if temper.fails == 0.0 {
            wrong.lock().extend(possible.err());
        }
        wrong.lock().extend(gone_for_no_reason(&event));
        Ok(())
    });
    let handled = handled.await;
    let mut view = view.into_inner();
    for event in &handled.unhandled {
        // What had failed and waited when the informer stopped is not lost either.
        drop(view.apply(event));
    }
    view.plain()
}

/// Says so if something is told to be gone that was there all the time.
fn gone_for_no_reason(event: &Event<Thing>) -> Option<String> {
    let gone = event.current().is_none() && STEADY.contains(&event.key());
    gone.then(|| format!("{event:?}, although it was there all the time"))
}

/// Joins at any time, takes for a while, checks what it hears, leaves.
async fn come_and_go(handle: InformerHandle<Thing>, seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed);
    let end = Instant::now() + BAD_TIMES;
    while Instant::now() < end {
        sleep(Duration::from_secs(dice.random_range(0..600))).await;
        let mut events = handle.subscribe(SubscribeOptions::named("guest"));
        let until = Instant::now() + Duration::from_secs(dice.random_range(0..1200));
        follow(&mut events, until, &mut dice).await;
    }
}

async fn follow(events: &mut Subscription<Thing>, until: Instant, dice: &mut StdRng) {
    let mut view = View::default();
    loop {
        let batch = tokio::select! {
            batch = events.next_batch(dice.random_range(1..5), SECOND) => batch,
            () = sleep_until(until) => return,
        };
        for event in batch.into_iter().flatten() {
            view.apply(&event).expect("an order of events that is possible");
            assert_eq!(gone_for_no_reason(&event), None);
        }
        sleep(Duration::from_millis(dice.random_range(0..5000))).await;
    }
}

/// Brings a second world to look like the store, over a connection that fails.
#[derive(Clone)]
struct Mirror {
    store: Store<Thing>,
    world: Arc<Mutex<BTreeMap<u8, Thing>>>,
    running: Arc<Mutex<Vec<u8>>>,
    wrong: Wrong,
    dice: Arc<Mutex<Option<StdRng>>>,
}

impl Mirror {
    fn new(store: Store<Thing>, wrong: Wrong, seed: u64) -> Self {
        let dice = Arc::new(Mutex::new(Some(StdRng::seed_from_u64(seed))));
        Self { store, world: Arc::default(), running: Arc::default(), wrong, dice }
    }

    /// From now on nothing fails.
    fn recover(&self) {
        *self.dice.lock() = None;
    }

    /// The four fates of a request: it happens or not, and the answer comes or not.
    async fn request(&self, key: u8, wanted: Option<Thing>) -> Result<(), &'static str> {
        let fate = self.dice.lock().as_mut().map_or(9, |dice| dice.random_range(0..10));
        sleep(Duration::from_millis(u64::from(key) * 100)).await;
        match fate {
            0 => return Err("it did not get there"),
            1 => std::future::pending().await,
            2 => panic!("a bug"),
            _ => {}
        }
        let mut world = self.world.lock();
        match wanted {
            Some(thing) => world.insert(key, thing),
            None => world.remove(&key),
        };
        if fate == 3 { Err("the answer was lost") } else { Ok(()) }
    }
}

impl Reconciler for Mirror {
    type Key = u8;
    type Error = &'static str;

    async fn reconcile(&self, context: Context<u8>) -> Result<Action, &'static str> {
        let key = context.key;
        if self.running.lock().contains(&key) {
            self.wrong.lock().push(format!("{key} is worked on twice at once"));
        }
        let _running = Running::new(self.running.clone(), key);
        let wanted = self.store.get(&key).map(|thing| (*thing).clone());
        self.request(key, wanted).await?;
        Ok(Action::AwaitChange)
    }
}

/// A key in the list of those that are worked on, until this is dropped.
struct Running(Arc<Mutex<Vec<u8>>>, u8);

impl Running {
    fn new(keys: Arc<Mutex<Vec<u8>>>, key: u8) -> Self {
        keys.lock().push(key);
        Self(keys, key)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.lock().retain(|key| *key != self.1);
    }
}
