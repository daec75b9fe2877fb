//! Every schedule of a few threads, up to a number of preemptions: nobody sleeps for ever, nothing
//! is lost, nothing is done twice.
//!
//! loom runs a test again and again, each time with another order of the steps, and fails if all
//! threads wait for each other. Wherever a wake-up could be lost, one of these runs would not end.
//!
//! What takes time, and what fails at random, is in `informer/tests`: on a paused clock, from seeds.

mod handlers;
mod overlay;
mod store;
mod work_queue;

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use interleavings::Object;
use loom::model::Builder;
use loom::thread::JoinHandle;

/// Runs `body` through every schedule with at most so many preemptions.
///
/// Most bugs of this kind need two; each one more multiplies the schedules.
fn every_schedule(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    // Sleeping needs a clock, and the clock of a paused runtime that nobody drives stands still.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing");
    let _clock = runtime.enter();
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    let body = Arc::new(body);
    builder.check(move || {
        let body = body.clone();
        spawn(move || body()).join().unwrap();
    });
}

/// A thread of loom's, with 256 KiB of stack (loom counts words). It has 32 KiB unless told
/// otherwise, and debug builds are at the edge of that.
fn spawn<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let thread = loom::thread::Builder::new().stack_size(1 << 15);
    thread.spawn(body).expect("loom has room for a few threads")
}

/// Polls `future` whenever it is woken, and only then.
fn block_on<F: Future>(future: F) -> F::Output {
    let alarm = Arc::new(Alarm(loom::sync::Notify::new()));
    let waker = Waker::from(alarm.clone());
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        alarm.0.wait();
    }
}

struct Alarm(loom::sync::Notify);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Thing(u8, u8);

impl Object for Thing {
    type Key = u8;

    fn key(&self) -> u8 {
        self.0
    }

    fn version(&self) -> u64 {
        u64::from(self.1)
    }
}
