//! Level-triggered reconcile loops: workers that bring one key at a time to where it should be.

use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::delta_fifo::Event;
use crate::metrics::{Metrics, NoMetrics};
use crate::object::{Key, Object};
use crate::ready::Priority;
use crate::reflector::panic_text;
use crate::subscription::Subscription;
use crate::work_queue::{Shutdown, WorkQueue};

/// Brings what a key names from where it is to where it should be.
///
/// It gets a key and no event: it looks by itself, and would do the right thing if it were run
/// on any key at any time. It retries nothing: an `Err` comes back after a back-off.
///
/// ```
/// use informer::{Action, Context, Reconciler};
///
/// struct Greeter;
///
/// impl Reconciler for Greeter {
///     type Key = &'static str;
///     type Error = std::io::Error;
///
///     async fn reconcile(&self, context: Context<&'static str>) -> Result<Action, Self::Error> {
///         println!("hello {}", context.key);
///         Ok(Action::AwaitChange)
///     }
/// }
/// ```
pub trait Reconciler: Send + Sync + 'static {
    /// What names the things that are reconciled.
    type Key: Key;
    /// Why it could not be done this time.
    type Error: Into<Box<dyn Error + Send + Sync>> + Send;

    /// Looks at what `context.key` names and does what is needed next.
    ///
    /// # Cancellation
    ///
    /// Must be safe to drop at any `.await`: that is what the timeout of the controller and a
    /// shutdown that does not wait do. The next run starts by looking.
    fn reconcile(
        &self,
        context: Context<Self::Key>,
    ) -> impl Future<Output = Result<Action, Self::Error>> + Send;
}

/// What a reconciler is run on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Context<K> {
    /// What to reconcile.
    pub key: K,
    /// How often it failed since it last went well.
    pub failures: u32,
}

/// What comes after a reconciliation that went well.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Action {
    /// Nothing, until something changes.
    AwaitChange,
    /// Another one after this long, or earlier if something changes.
    RequeueAfter(Duration),
}

/// Why one run of a reconciler ended without an action.
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure {
    /// It returned an error.
    Error(Box<dyn Error + Send + Sync>),
    /// It panicked and said this.
    Panic(String),
    /// It was dropped after this long.
    Timeout(Duration),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(_) => f.write_str("reconciling failed"),
            Self::Panic(text) => write!(f, "the reconciler panicked: {text}"),
            Self::Timeout(limit) => write!(f, "reconciling took longer than {limit:?}"),
        }
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Error(error) => Some(error.as_ref()),
            Self::Panic(_) | Self::Timeout(_) => None,
        }
    }
}

type OnFailure<K> = Arc<dyn Fn(&K, u32, &Failure) + Send + Sync>;
type Trigger = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs a [`Reconciler`] on the keys of a [`WorkQueue`], with so many workers.
///
/// ```
/// # use informer::{Action, Context, Reconciler};
/// # struct Greeter;
/// # impl Reconciler for Greeter {
/// #     type Key = &'static str;
/// #     type Error = std::io::Error;
/// #     async fn reconcile(&self, _: Context<&'static str>) -> Result<Action, Self::Error> {
/// #         Ok(Action::AwaitChange)
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::time::Duration;
/// use informer::{Controller, Shutdown, WorkQueue};
///
/// let queue = WorkQueue::builder("greetings").build();
/// let controller = Controller::new(queue.clone(), Greeter)
///     .workers(4)
///     .timeout(Duration::from_secs(60))
///     .on_failure(|key, failures, failure| eprintln!("{key}: {failure} ({failures} times)"));
/// queue.add("world");
///
/// let stop = tokio::time::sleep(Duration::from_millis(10));
/// let not_run = controller.run(stop, Shutdown::Drain(Duration::from_secs(5))).await;
/// assert!(not_run.is_empty());
/// # }
/// ```
#[must_use = "a controller does nothing until it is run"]
pub struct Controller<R: Reconciler> {
    queue: WorkQueue<R::Key>,
    triggers: Vec<Trigger>,
    workers: usize,
    run: Run<R>,
}

impl<R: Reconciler> Controller<R> {
    /// A controller with one worker per core and no timeout. Backing off, priorities and groups
    /// are the queue's.
    pub fn new(queue: WorkQueue<R::Key>, reconciler: R) -> Self {
        Self {
            triggers: Vec::new(),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            run: Run {
                name: queue.name().to_owned(),
                reconciler: Arc::new(reconciler),
                limit: None,
                on_failure: None,
                metrics: Arc::new(NoMetrics),
            },
            queue,
        }
    }

    /// How many keys are reconciled at once; at least one.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }

    /// Drops a reconciliation that takes longer than this; it counts as a failure.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.run.limit = Some(limit);
        self
    }

    /// Called after every failure with the number of failures in a row: the place to log.
    pub fn on_failure(
        mut self,
        hook: impl Fn(&R::Key, u32, &Failure) + Send + Sync + 'static,
    ) -> Self {
        self.run.on_failure = Some(Arc::new(hook));
        self
    }

    /// Where to count.
    pub fn metrics(mut self, metrics: Arc<dyn Metrics>) -> Self {
        self.run.metrics = metrics;
        self
    }

    /// Queues keys when something changes: `keys(event, out)` pushes those that the event
    /// concerns. Any number of subscriptions, of any types.
    ///
    /// If `keys` panics, what it has pushed until then is queued, and the panic is counted.
    /// What was there at the start and what is only a reminder is queued at [`Priority::Low`].
    pub fn trigger<T: Object>(
        mut self,
        mut subscription: Subscription<T>,
        mut keys: impl FnMut(&Event<T>, &mut Vec<R::Key>) + Send + 'static,
    ) -> Self {
        let queue = self.queue.clone();
        self.triggers.push(Box::pin(async move {
            let mut out = Vec::new();
            while let Some(event) = subscription.next().await {
                if catch_unwind(AssertUnwindSafe(|| keys(&event, &mut out))).is_err() {
                    subscription.count_failure(true);
                }
                let priority = match event {
                    Event::Added { initial: true, .. } | Event::Resync(_) => Priority::Low,
                    _ => Priority::Normal,
                };
                for key in out.drain(..) {
                    queue.add_with(key, priority);
                }
                tokio::task::consume_budget().await;
            }
        }));
        self
    }

    /// Reconciles until `shutdown` is ready, ends the queue as `how` says, and answers the keys
    /// that were wanted and not begun.
    ///
    /// With [`Shutdown::Now`], reconciliations that run are dropped; else they are waited for,
    /// up to the deadline if there is one.
    ///
    /// # Cancellation
    ///
    /// Dropping it drops the reconciliations that run; the queue stays open.
    pub async fn run(self, shutdown: impl Future<Output = ()>, how: Shutdown) -> Vec<R::Key> {
        let Self { queue, triggers, workers, run } = self;
        let mut sources = JoinSet::new();
        for trigger in triggers {
            sources.spawn(trigger);
        }
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            tasks.spawn(work(queue.clone(), run.clone()));
        }
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                // Workers end with the queue only. Somebody else may have shut it down.
                ended = tasks.join_next() => if ended.is_none() { break },
            }
        }
        sources.shutdown().await;
        let not_run = queue.shutdown(how).await;
        // What still runs now was not to be waited for, or for too long.
        tasks.shutdown().await;
        not_run
    }
}

/// What a worker needs to run a reconciler once.
struct Run<R: Reconciler> {
    name: String,
    reconciler: Arc<R>,
    limit: Option<Duration>,
    on_failure: Option<OnFailure<R::Key>>,
    metrics: Arc<dyn Metrics>,
}

async fn work<R: Reconciler>(queue: WorkQueue<R::Key>, run: Run<R>) {
    while let Some(item) = queue.take().await {
        match run.once(item.key(), item.failures()).await {
            Ok(Action::AwaitChange) => item.done(),
            Ok(Action::RequeueAfter(pause)) => item.done_after(pause),
            Err(failure) => {
                if let Some(hook) = &run.on_failure {
                    let told = AssertUnwindSafe(|| hook(item.key(), item.failures() + 1, &failure));
                    if catch_unwind(told).is_err() {
                        run.metrics.reconciled(&run.name, "panic", Duration::ZERO);
                    }
                }
                item.retry();
            }
        }
        // Reconcilers that never wait must not keep the others from running.
        tokio::task::consume_budget().await;
    }
}

impl<R: Reconciler> Run<R> {
    async fn once(&self, key: &R::Key, failures: u32) -> Result<Action, Failure> {
        let started = Instant::now();
        let context = Context { key: key.clone(), failures };
        let work = AssertUnwindSafe(async { self.reconciler.reconcile(context).await });
        let work = work.catch_unwind();
        let result = match self.limit {
            Some(limit) => timeout(limit, work).await.map_err(|_| Failure::Timeout(limit)),
            None => Ok(work.await),
        };
        let result = result.and_then(|ended| match ended {
            Ok(Ok(action)) => Ok(action),
            Ok(Err(error)) => Err(Failure::Error(error.into())),
            Err(panic) => Err(Failure::Panic(panic_text(panic.as_ref()).to_owned())),
        });
        let outcome = match &result {
            Ok(_) => "success",
            Err(Failure::Error(_)) => "error",
            Err(Failure::Panic(_)) => "panic",
            Err(Failure::Timeout(_)) => "timeout",
        };
        self.metrics.reconciled(&self.name, outcome, started.elapsed());
        result
    }
}

impl<R: Reconciler> Clone for Run<R> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            reconciler: self.reconciler.clone(),
            limit: self.limit,
            on_failure: self.on_failure.clone(),
            metrics: self.metrics.clone(),
        }
    }
}

impl<R: Reconciler> fmt::Debug for Controller<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller")
            .field("queue", &self.queue)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}
