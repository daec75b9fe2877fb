//! Where both sides run, and how it is known that subscribers and handlers have everything.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use tokio::sync::mpsc;

/// What a slow subscriber takes for each object; timers make it about twice as long.
pub(crate) const NAP: Duration = Duration::from_micros(50);

/// Runs everything on this thread, so that neither side pays for waking another one.
pub(crate) fn one_thread<F: Future>(work: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime without I/O needs nothing that can lack").block_on(work)
}

/// Runs everything on two workers.
pub(crate) fn two_threads<F>(work: F) -> F::Output
where
    F: Future<Output: Send> + Send + 'static,
{
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_time().build();
    let runtime = runtime.expect("two threads can be had");
    runtime.block_on(async {
        let mut task = tokio::task::JoinSet::new();
        task.spawn(work);
        task.join_next().await.expect("one was spawned").expect("the bench does not panic")
    })
}

/// Blocks the thread, as a careless handler does.
#[expect(clippy::disallowed_methods, reason = "to block the runtime is what it is for")]
pub(crate) fn pause(nap: Option<Duration>, awake: &AtomicBool) {
    if let Some(nap) = nap.filter(|_| !awake.load(Relaxed)) {
        std::thread::sleep(nap);
    }
}

/// Who must have everything before a clock is stopped.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    /// So many, whoever they are.
    All(usize),
    /// The one with this number.
    Number(usize),
}

impl Until {
    /// Waits until they have said so.
    pub(crate) async fn reached(self, said: &mut mpsc::Receiver<usize>) {
        let mut missing = if let Self::All(count) = self { count } else { 1 };
        while missing > 0 {
            let who = said.recv().await.expect("whoever says so runs");
            if matches!(self, Self::All(_)) || matches!(self, Self::Number(one) if one == who) {
                missing -= 1;
            }
        }
    }
}
