//! The informer, fed through the same channel and read by as many tasks as kube-runtime's streams.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{Stream, stream};
use informer::{
    Cursor, InformerHandle, ListDone, ListWatcher, Listing, SharedIndexInformer, SourceError,
    SubscribeOptions, Subscription, WatchEvent,
};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    task::JoinSet,
};

use crate::{
    documents::{MACHINES, RELIST_CHANGES, ROUNDS, relisted, touched},
    figures::Figures,
    gauges::{Spent, Stopwatch, milliseconds},
    objects::{Decode, Machine, Plain, SameType},
    runtimes::{NAP, Until, one_thread, pause, two_threads},
};

pub(crate) fn one_handler(figures: &mut Figures) {
    one_thread(whole(1, "ours.informer1", figures, list_of::<Plain>));
}

pub(crate) fn eight_handlers(figures: &mut Figures) {
    one_thread(whole(8, "ours.informer8", figures, list_of::<Plain>));
}

pub(crate) fn one_handler_of_the_same_type(figures: &mut Figures) {
    one_thread(whole(1, "ours.same_type1", figures, list_of::<SameType>));
}

pub(crate) fn eight_handlers_of_the_same_type(figures: &mut Figures) {
    one_thread(whole(8, "ours.same_type8", figures, list_of::<SameType>));
}

/// Like the first, but lists name each object by key and version before it is made.
pub(crate) fn one_handler_offered(figures: &mut Figures) {
    one_thread(whole(1, "ours.offered1", figures, offers_of));
}

/// The first list, ten rounds of changes, three lists with one change in a hundred.
async fn whole<T: Machine>(
    handlers: usize,
    name: &'static str,
    figures: &mut Figures,
    list: fn(Generations<'_>) -> List<T>,
) {
    let (mut running, initial) = Running::start(handlers, None, list(&|_| 1)).await;
    figures.push(format!("{name}/initial_cpu_ms"), milliseconds(initial.cpu));
    let mut rounds = Spent::default();
    for r in 0..ROUNDS {
        rounds += running.send(round(r), Until::All(handlers)).await;
    }
    figures.push(format!("{name}/modify_cpu_ns"), rounds.cpu_ns_each(MACHINES * ROUNDS));
    for k in 0..3 {
        let relist = running.relist(list(&|i| relisted(i, k)), handlers).await;
        figures.push(format!("{name}/relist_cpu_ms"), milliseconds(relist.cpu));
    }
    running.stop().await;
}

pub(crate) fn slow_beside_fast(figures: &mut Figures) {
    let fast = two_threads(async {
        let (mut running, _) = Running::<Plain>::start(2, Some(NAP), list_of(&|_| 1)).await;
        let fast = running.send(round(0), Until::Number(1)).await;
        running.stop().await;
        fast
    });
    figures.push("ours.slow/fast_ms", milliseconds(fast.wall));
}

/// Which generation each machine is at.
type Generations<'a> = &'a dyn Fn(u64) -> u64;

pub(crate) fn list_of<T: Machine>(generation: Generations<'_>) -> List<T> {
    List::Whole((0..MACHINES).map(|i| T::decode(i, generation(i))).collect())
}

/// What differs from the last list is there as an object; of the rest, key and version.
fn offers_of(generation: Generations<'_>) -> List<Plain> {
    let first = generation(0) == 1;
    let known = if first { 0 } else { generation(0) };
    let offers = (0..MACHINES).map(|i| {
        let g = generation(i);
        let object = Plain::decode(i, g);
        let key = informer::Object::key(&object);
        Offer { key, version: g, object: (g != known).then_some(object) }
    });
    List::Named(offers.collect())
}

pub(crate) fn round<T: Decode>(r: u64) -> Vec<T> {
    (0..MACHINES).map(|j| T::decode(touched(r, j), r + 2)).collect()
}

/// What a list is made of.
pub(crate) enum List<T: Machine> {
    Whole(Vec<T>),
    Named(Vec<Offer<T>>),
}

/// An object that is there only if it is needed.
pub(crate) struct Offer<T: Machine> {
    key: T::Key,
    version: u64,
    object: Option<T>,
}

/// A source that answers with what it was given.
pub(crate) struct Feed<T: Machine> {
    lists: Mutex<mpsc::Receiver<List<T>>>,
    /// The first watch gets it; nothing comes after a relist.
    events: std::sync::Mutex<Option<mpsc::Receiver<T>>>,
}

impl<T: Machine> ListWatcher for Feed<T> {
    type Object = T;

    async fn list(&self, into: &mut Listing<'_, T>) -> Result<ListDone, SourceError> {
        match self.lists.lock().await.recv().await {
            None => return Err(SourceError::transient("the bench is over")),
            Some(List::Whole(objects)) => into.put_all(objects),
            Some(List::Named(offers)) => {
                for Offer { key, version, object } in offers {
                    into.offer(&key, version, || object.expect("what changed is there"));
                }
            }
        }
        Ok(ListDone::at(1))
    }

    fn watch(&self, _: &Cursor) -> impl Stream<Item = Result<WatchEvent<T>, SourceError>> + Send {
        let events = self.events.lock().ok().and_then(|mut events| events.take());
        stream::unfold(events, |events| async {
            let Some(mut events) = events else { return std::future::pending().await };
            let object = events.recv().await?;
            Some((Ok(WatchEvent::Upsert(object)), Some(events)))
        })
    }
}

/// An informer with handlers, one task each.
pub(crate) struct Running<T: Machine> {
    pub(crate) informer: InformerHandle<T>,
    lists: mpsc::Sender<List<T>>,
    events: mpsc::Sender<T>,
    /// How many events each handler must have got for it to say so.
    target: Arc<AtomicU64>,
    reached: mpsc::Receiver<usize>,
    awake: Arc<AtomicBool>,
    stop: oneshot::Sender<()>,
    tasks: JoinSet<u64>,
}

impl<T: Machine> Running<T> {
    /// Synced when it returns, with what that took. The first handler then takes naps, if there
    /// are to be any.
    pub(crate) async fn start(
        handlers: usize,
        nap: Option<Duration>,
        first: List<T>,
    ) -> (Self, Spent) {
        let (lists, answers) = mpsc::channel(1);
        let (events, inbox) = mpsc::channel(1024);
        let feed = Feed { lists: Mutex::new(answers), events: std::sync::Mutex::new(Some(inbox)) };
        let informer = SharedIndexInformer::builder(feed).build();
        let target = Arc::new(AtomicU64::new(MACHINES));
        let awake = Arc::new(AtomicBool::new(true));
        let (say, mut reached) = mpsc::channel(handlers.max(1));
        let mut tasks = JoinSet::new();
        for number in 0..handlers {
            let subscription = informer.subscribe(SubscribeOptions::named("bench"));
            let (target, say, awake) = (target.clone(), say.clone(), awake.clone());
            let nap = nap.filter(|_| number == 0);
            let pause = move || pause(nap, &awake);
            tasks.spawn(handle(number, subscription, target, say, pause));
        }
        let handle = informer.handle();
        let (stop, stopped) = oneshot::channel();
        let watch = Stopwatch::start();
        lists.send(first).await.expect("the feed is there");
        tasks.spawn(async {
            informer.run(async { drop(stopped.await) }).await;
            0
        });
        Until::All(handlers).reached(&mut reached).await;
        let spent = watch.spent();
        awake.store(false, Relaxed);
        let informer = handle;
        (Self { informer, lists, events, target, reached, awake, stop, tasks }, spent)
    }

    /// From the first event sent until handlers have all of them.
    pub(crate) async fn send(&mut self, objects: Vec<T>, until: Until) -> Spent {
        self.target.fetch_add(MACHINES, Relaxed);
        let watch = Stopwatch::start();
        for object in objects {
            self.events.send(object).await.expect("the informer watches");
        }
        until.reached(&mut self.reached).await;
        watch.spent()
    }

    /// From the demand for a list until handlers have what differs.
    async fn relist(&mut self, list: List<T>, handlers: usize) -> Spent {
        self.target.fetch_add(RELIST_CHANGES, Relaxed);
        let watch = Stopwatch::start();
        self.lists.send(list).await.expect("the feed is there");
        self.informer.relist();
        Until::All(handlers).reached(&mut self.reached).await;
        watch.spent()
    }

    pub(crate) async fn stop(self) {
        self.awake.store(true, Relaxed);
        drop((self.stop, self.events, self.lists, self.reached));
        self.tasks.join_all().await;
    }
}

/// Takes events until there are no more, and says so whenever there were as many as there should.
async fn handle<T: Machine>(
    number: usize,
    mut subscription: Subscription<T>,
    target: Arc<AtomicU64>,
    say: mpsc::Sender<usize>,
    pause: impl Fn(),
) -> u64 {
    let (mut seen, mut sum) = (0, 0_u64);
    while let Some(event) = subscription.next().await {
        sum = sum.wrapping_add(event.object().mem());
        pause();
        seen += 1;
        if seen == target.load(Relaxed) && say.send(number).await.is_err() {
            break;
        }
    }
    sum
}
