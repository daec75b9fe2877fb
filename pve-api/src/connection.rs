//! One connection: how long it may be silent, slow, or in the way of others.
//!
//! ```text
//! accepted --first byte--> head --request--> busy --answer is out--> idle --first byte--> head
//!    |                      |                                         |
//!    +-- IDLE: closed       +-- HEAD, MOST_HEAD: closed               +-- IDLE: closed
//! ```
//!
//! While it is busy nothing here limits how long the caller sends nothing: whoever reads the body
//! does, and a handler may work in silence. A caller that does not take what is written to it is
//! left after [`STALLED`], whatever the connection is doing. An upgraded connection stays busy.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::metrics::{ConnectionMetrics, Registry};

/// How long a connection may be open with nothing asked. Longer than the minute that load
/// balancers keep theirs, so that it is they who close: else a request of theirs may cross our end.
const IDLE: Duration = Duration::from_secs(90);

/// How long the head of a request may take from its first byte on.
const HEAD: Duration = Duration::from_secs(10);

/// How many bytes it may have.
const MOST_HEAD: usize = 64 * 1024;

/// How long a caller may take nothing of what is written to it.
const STALLED: Duration = Duration::from_mins(1);

/// All connections of one address. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<All>);

#[derive(Debug, Default)]
struct All {
    metrics: ConnectionMetrics,
    /// Those that wait for a request, the one that has waited longest first.
    idle: Mutex<Idle>,
    one_became_idle: Notify,
    ending: CancellationToken,
}

#[derive(Debug, Default)]
struct Idle {
    /// The place in the line of the next that comes.
    next: u64,
    line: BTreeMap<u64, Weak<State>>,
}

impl Connections {
    /// From now on every answer asks its caller to close the connection.
    pub(crate) fn end(&self) {
        self.0.ending.cancel();
    }

    /// Cancelled when that begins, for answers that have no end of their own.
    pub(crate) fn ending(&self) -> &CancellationToken {
        &self.0.ending
    }

    pub(crate) fn metrics(&self) -> &ConnectionMetrics {
        &self.0.metrics
    }

    pub(crate) fn register(&self, registry: &Registry) {
        self.0.metrics.register(registry);
    }

    /// Closes the one that has been idle longest; false if all are busy.
    pub(crate) fn close_longest_idle(&self) -> bool {
        let state = loop {
            let Some((_, state)) = self.idle().line.pop_first() else { return false };
            if let Some(state) = state.upgrade() {
                break state;
            }
        };
        let connection = Connection(state);
        connection.give_up("room");
        let waker = connection.0.turn().reader.take();
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Resolves when a connection has become idle since the last call.
    pub(crate) async fn one_becomes_idle(&self) {
        self.0.one_became_idle.notified().await;
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a connection is doing, for those who are not its stream. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Connection(Arc<State>);

#[derive(Debug)]
struct State {
    all: Connections,
    turn: Mutex<Turn>,
}

#[derive(Debug)]
struct Turn {
    /// How many hold it: an answer under way, a body that somebody reads.
    holds: u32,
    /// Bytes that came of a head that is not whole.
    received: usize,
    /// When it became idle, or when the head began.
    since: Instant,
    place: Option<u64>,
    closing: bool,
    /// The stream is gone; somebody may hold on to what it was for.
    over: bool,
    reader: Option<Waker>,
}

/// What a reader that finds nothing does.
#[derive(Debug, Eq, PartialEq)]
enum Wait {
    ForEver,
    Until(Instant, &'static str),
    NotAtAll,
}

impl Turn {
    fn wait(&self) -> Wait {
        if self.holds > 0 {
            Wait::ForEver
        } else if self.closing {
            Wait::NotAtAll
        } else if self.received > 0 {
            Wait::Until(self.since + HEAD, "slow_head")
        } else {
            Wait::Until(self.since + IDLE, "idle")
        }
    }
}

impl State {
    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave_the_line(&self, turn: &mut Turn) {
        if let Some(place) = turn.place.take() {
            self.all.idle().line.remove(&place);
        }
    }
}

impl Connection {
    pub(crate) fn new(all: &Connections) -> Self {
        let turn = Turn {
            holds: 0,
            received: 0,
            since: Instant::now(),
            place: None,
            closing: false,
            over: false,
            reader: None,
        };
        let connection = Self(Arc::new(State { all: all.clone(), turn: Mutex::new(turn) }));
        connection.enter_the_line(&mut connection.0.turn());
        connection
    }

    /// Makes it busy until the hold is dropped.
    pub(crate) fn hold(&self) -> Hold {
        let mut turn = self.0.turn();
        turn.holds += 1;
        turn.received = 0;
        self.0.leave_the_line(&mut turn);
        Hold(self.clone())
    }

    fn release(&self) {
        let waker = {
            let mut turn = self.0.turn();
            turn.holds -= 1;
            if turn.holds > 0 || turn.over {
                return;
            }
            turn.since = Instant::now();
            self.enter_the_line(&mut turn);
            turn.reader.take()
        };
        // Its reader waits for ever otherwise.
        if let Some(waker) = waker {
            waker.wake();
        }
        self.0.all.0.one_became_idle.notify_one();
    }

    fn enter_the_line(&self, turn: &mut Turn) {
        let mut idle = self.0.all.idle();
        let place = idle.next;
        idle.next += 1;
        idle.line.insert(place, Arc::downgrade(&self.0));
        turn.place = Some(place);
    }

    /// Whether the head of a request has become too long with these bytes.
    fn received(&self, bytes: usize) -> bool {
        let mut turn = self.0.turn();
        if turn.holds > 0 {
            return false;
        }
        if turn.received == 0 {
            turn.since = Instant::now();
        }
        let too_long = turn.received >= MOST_HEAD;
        turn.received += bytes;
        too_long
    }

    /// Nothing comes of it any more. Whoever reads may look more than once.
    fn give_up(&self, why: &'static str) {
        let mut turn = self.0.turn();
        if !std::mem::replace(&mut turn.closing, true) {
            self.0.all.0.metrics.closed(why);
        }
    }

    fn wait(&self, reader: &Waker) -> Wait {
        let mut turn = self.0.turn();
        if !turn.reader.as_ref().is_some_and(|known| known.will_wake(reader)) {
            turn.reader = Some(reader.clone());
        }
        turn.wait()
    }
}

/// A connection is busy for as long as there is one.
#[derive(Debug)]
pub(crate) struct Hold(Connection);

impl Hold {
    /// The connection is not HTTP any more.
    pub(crate) fn for_ever(self) {
        // One more, which the drop takes away again.
        self.0.0.turn().holds += 1;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// Whom a request comes from, as far as the connection tells.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub address: SocketAddr,
    pub connection: Option<Connection>,
}

/// The stream of one connection, with its limits.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    connection: Connection,
    /// When reading is given up; made when it is needed, and kept.
    patience: Option<Pin<Box<Sleep>>>,
    /// When writing is given up; there while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Given back when the connection ends.
    _slot: OwnedSemaphorePermit,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, all: &Connections, slot: OwnedSemaphorePermit) -> Self {
        all.0.metrics.opened();
        let connection = Connection::new(all);
        Self { stream, connection, patience: None, stalled: None, _slot: slot }
    }

    pub(crate) fn connection(&self) -> Connection {
        self.connection.clone()
    }

    /// Gives a write that waits no more time than [`STALLED`].
    ///
    /// Meanwhile reading has no limit of its own: a head, an idle connection or one that makes room
    /// may still have an answer on its way, and whoever hears of an end throws that away.
    fn wrote<T>(
        &mut self,
        outcome: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            if self.stalled.take().is_some() {
                // The reader was not told how long it may wait.
                cx.waker().wake_by_ref();
            }
            return outcome;
        }
        let end = || Box::pin(sleep_until(Instant::now() + STALLED));
        if self.stalled.get_or_insert_with(end).as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.connection.give_up("slow_reader");
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        let state = &self.connection.0;
        let reader = {
            let mut turn = state.turn();
            turn.over = true;
            state.leave_the_line(&mut turn);
            turn.reader.take()
        };
        // Holds may outlive the stream; the task that read it need not.
        drop(reader);
        state.all.0.metrics.ended();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    /// A connection that is given up reads as one whose caller closed it.
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if outcome.is_ready() {
            let bytes = buffer.filled().len() - before;
            if bytes > 0 && this.connection.received(bytes) {
                this.connection.give_up("long_head");
                buffer.set_filled(before);
            }
            return outcome;
        }
        if this.stalled.is_some() {
            // An answer is on its way out, and has a limit.
            return Poll::Pending;
        }
        match this.connection.wait(cx.waker()) {
            Wait::ForEver => Poll::Pending,
            Wait::NotAtAll => Poll::Ready(Ok(())),
            Wait::Until(end, why) => {
                let patience = this.patience.get_or_insert_with(|| Box::pin(sleep_until(end)));
                if patience.deadline() != end {
                    patience.as_mut().reset(end);
                }
                if patience.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                this.connection.give_up(why);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(outcome, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.wrote(outcome, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.wrote(outcome, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.wrote(outcome, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn nothing_is_left_of_a_connection_that_was_upgraded() {
        let all = Connections::default();
        let slot = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let watched = Watched::new(tokio::io::empty(), &all, slot);
        let state = Arc::downgrade(&watched.connection().0);
        watched.connection().hold().for_ever();
        assert_eq!(watched.connection().wait(Waker::noop()), Wait::ForEver);
        assert!(!all.close_longest_idle(), "it stays busy");

        drop(watched);

        assert!(state.upgrade().is_none());
    }

    #[tokio::test]
    async fn whoever_holds_on_to_a_connection_does_not_keep_the_task_that_read_it() {
        let slot = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let watched = Watched::new(tokio::io::empty(), &Connections::default(), slot);
        let connection = watched.connection();
        connection.wait(Waker::noop());

        drop(watched);

        assert!(connection.0.turn().reader.is_none());
    }
}
