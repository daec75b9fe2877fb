//! Which thread a query of SQLite runs on.
//!
//! SQLite answers within the call, so a call must not hold up the tasks of a runtime. Handing it to
//! a thread for such calls costs two wake-ups one after the other: of a list by name or of a page
//! that is a fifth of the time. So reads, which wait for nobody in a file with a write-ahead log, run
//! on the thread that asks, and that thread first gives its other tasks to another one. Writes wait
//! for one another, seconds if need be, and go to a thread of their own.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use diesel_async::sync_connection_wrapper::SpawnBlocking;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::futures::TaskLocalFuture;
use tokio::task::{JoinError, JoinHandle, block_in_place};

tokio::task_local! {
    static READING: ();
}

/// Runs the queries of `work` on the thread that polls it, where the runtime has another for
/// everything else. `work` must only read.
pub(crate) fn reading<F: Future>(work: F) -> TaskLocalFuture<(), F> {
    READING.scope((), work)
}

/// A connection's way to a thread that may be blocked. Needs a runtime around each call.
pub(crate) struct SqliteThread;

impl SpawnBlocking for SqliteThread {
    fn spawn_blocking<'a, R>(
        &mut self,
        task: impl FnOnce() -> R + Send + 'static,
    ) -> BoxFuture<'a, Result<R, Box<dyn Error + Send + Sync + 'static>>>
    where
        R: Send + 'static,
    {
        let runtime = match Handle::try_current() {
            Ok(runtime) => runtime,
            Err(none) => return async { Err(none.into()) }.boxed(),
        };
        // A runtime of one thread has nobody to give its other tasks to.
        let several = runtime.runtime_flavor() == RuntimeFlavor::MultiThread;
        if several && READING.try_with(|()| ()).is_ok() {
            return async { Ok(block_in_place(task)) }.boxed();
        }
        let call = Call { thread: runtime.spawn_blocking(task), runtime };
        call.map(|outcome| outcome.map_err(Into::into)).boxed()
    }

    fn get_runtime() -> Self {
        Self
    }
}

/// A call on another thread. To drop it is to wait for its end: the connection may go to somebody
/// else then, and must be at rest.
struct Call<R> {
    thread: JoinHandle<R>,
    runtime: Handle,
}

impl<R> Future for Call<R> {
    type Output = Result<R, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.thread.poll_unpin(context)
    }
}

impl<R> Drop for Call<R> {
    fn drop(&mut self) {
        if !self.thread.is_finished() {
            // How it ended is nobody's business any more.
            drop(block_in_place(|| self.runtime.block_on(&mut self.thread)));
        }
    }
}
