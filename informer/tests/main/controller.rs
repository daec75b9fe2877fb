//! Reconciling: retries, panics, timeouts.

use std::sync::Arc;

use futures::FutureExt;
use informer::testing::ScriptedSource;
use informer::{
    Action, Context, Controller, Reconciler, SharedIndexInformer, Shutdown, SubscribeOptions,
    WorkQueue,
};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::{HOUR, SECOND, Thing, run};

#[derive(Clone, Default)]
struct Recorder {
    runs: Arc<Mutex<Vec<(u8, u32)>>>,
}

impl Reconciler for Recorder {
    type Key = u8;
    type Error = &'static str;

    async fn reconcile(&self, context: Context<u8>) -> Result<Action, &'static str> {
        self.runs.lock().push((context.key, context.failures));
        match context.key {
            1 if context.failures < 2 => Err("not yet"),
            2 if context.failures < 1 => panic!("once"),
            3 if context.failures < 1 => std::future::pending().await,
            4 => Ok(Action::RequeueAfter(60 * SECOND)),
            _ => Ok(Action::AwaitChange),
        }
    }
}

impl Recorder {
    fn runs_of(&self, key: u8) -> usize {
        self.runs.lock().iter().filter(|(other, _)| *other == key).count()
    }
}

#[tokio::test(start_paused = true)]
async fn a_controller_retries_errors_panics_and_timeouts_and_goes_on() {
    let source = ScriptedSource::watching();
    (0..=5).for_each(|id| source.set(Thing::new(id, 1)));
    let mut tasks = JoinSet::new();
    let handle = run(SharedIndexInformer::builder(source.clone()), &mut tasks);
    let recorder = Recorder::default();
    let failures = Arc::new(Mutex::new(Vec::new()));
    let log = failures.clone();
    let queue = WorkQueue::builder("things").build();
    let controller = Controller::new(queue, recorder.clone())
        .workers(2)
        .timeout(30 * SECOND)
        .on_failure(move |key, _, failure| log.lock().push(format!("{key}: {failure}")))
        .trigger(handle.subscribe(SubscribeOptions::default()), |event, keys| {
            keys.push(event.key());
        });
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut controllers = JoinSet::new();
    controllers.spawn(controller.run(stopped.map(|_| ()), Shutdown::FinishRunning));

    sleep(HOUR).await;
    assert_eq!(recorder.runs_of(0), 1);
    assert_eq!(recorder.runs_of(1), 3);
    assert_eq!(recorder.runs_of(2), 2);
    assert_eq!(recorder.runs_of(3), 2);
    assert_eq!(recorder.runs_of(4), 60);
    source.remove(&5);
    sleep(SECOND).await;
    assert_eq!(recorder.runs_of(5), 2, "a delete is reconciled too");
    let failures = failures.lock().clone();
    assert!(failures.contains(&"2: the reconciler panicked: once".to_owned()), "{failures:?}");
    assert!(failures.contains(&"3: reconciling took longer than 30s".to_owned()), "{failures:?}");

    drop(stop);
    let not_run = controllers.join_next().await.unwrap().unwrap();
    assert_eq!(not_run, [4], "it wanted to come again");
}
