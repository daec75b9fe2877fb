//! A body that is read bit by bit: at the pace of whoever reads, never more than that in memory,
//! and given up when nothing comes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::task::TaskTracker;

use crate::linger::linger;

/// A body, as a stream for the multipart parser.
#[derive(Debug)]
pub(super) struct Intake {
    body: Option<BodyDataStream>,
    tasks: TaskTracker,
    /// Whether the client waits to be told to send: then it sends nothing that must be read.
    waits: bool,
    came: u64,
    taken: Taken,
    quiet: Pin<Box<Sleep>>,
    /// Whether the last poll brought something: then the parser gets to work before there is more.
    rests: bool,
}

/// How many bytes of fields were taken out of the parser.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken(Arc<AtomicU64>);

impl Taken {
    pub(super) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Why a body ended early.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Ended {
    #[error("the connection was lost before the upload was whole")]
    Lost,
    #[error("nothing came for {} seconds", QUIET.as_secs())]
    Quiet,
    #[error("the headers of a part, or what is around the parts, are too long")]
    Bloated,
}

/// How long a client may send nothing.
const QUIET: Duration = Duration::from_mins(1);

/// How much the parser may hold that it has not given out: a few chunks, and headers.
const MOST_HELD: u64 = 4 * 1024 * 1024;

impl Intake {
    /// `waits`: whether the client waits to be told to send.
    pub(super) fn new(body: Body, waits: bool, tasks: TaskTracker) -> (Self, Taken) {
        let taken = Taken::default();
        let intake = Self {
            body: Some(body.into_data_stream()),
            tasks,
            waits,
            came: 0,
            taken: taken.clone(),
            quiet: Box::pin(sleep(QUIET)),
            rests: false,
        };
        (intake, taken)
    }
}

impl Stream for Intake {
    type Item = Result<Bytes, Ended>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // The parser reads for as long as something comes, and keeps it all.
        if std::mem::take(&mut self.rests) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.waits = false;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        match body.poll_next_unpin(cx) {
            Poll::Pending => {
                if self.quiet.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Some(Err(Ended::Quiet)));
                }
                Poll::Pending
            }
            Poll::Ready(None) => {
                self.body = None;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_))) => {
                self.body = None;
                Poll::Ready(Some(Err(Ended::Lost)))
            }
            Poll::Ready(Some(Ok(bytes))) => {
                self.quiet.as_mut().reset(Instant::now() + QUIET);
                self.rests = true;
                self.came += bytes.len() as u64;
                let held = self.came.saturating_sub(self.taken.0.load(Ordering::Relaxed));
                if held > MOST_HELD {
                    return Poll::Ready(Some(Err(Ended::Bloated)));
                }
                Poll::Ready(Some(Ok(bytes)))
            }
        }
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        if let Some(body) = self.body.take()
            && !self.waits
        {
            linger(body, &self.tasks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intake(chunks: &[&'static [u8]]) -> (Intake, Taken) {
        let chunks: Vec<_> =
            chunks.iter().map(|it| Ok::<_, Ended>(Bytes::from_static(it))).collect();
        let body = Body::from_stream(futures::stream::iter(chunks));
        Intake::new(body, false, TaskTracker::new())
    }

    #[tokio::test]
    async fn what_comes_is_given_on_piece_by_piece() {
        let (mut intake, _) = intake(&[b"a", b"b"]);

        assert_eq!(intake.next().await, Some(Ok(Bytes::from_static(b"a"))));
        // Not at once: the parser would swallow everything that has come.
        assert_eq!(futures::poll!(intake.next()), Poll::Pending);
        assert_eq!(intake.next().await, Some(Ok(Bytes::from_static(b"b"))));
        assert_eq!(intake.next().await, None);
    }

    #[tokio::test]
    async fn what_the_parser_holds_is_bounded() {
        static MEGABYTE: [u8; 1024 * 1024] = [0; 1024 * 1024];
        let chunks = [&MEGABYTE[..]; 7];
        let (mut intake, taken) = intake(&chunks);

        for _ in 0..4 {
            intake.next().await.unwrap().unwrap();
        }
        taken.add(1024 * 1024);
        intake.next().await.unwrap().unwrap();
        assert_eq!(intake.next().await, Some(Err(Ended::Bloated)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_nothing_is_given_up() {
        let body = Body::from_stream(futures::stream::pending::<Result<Bytes, Ended>>());
        let (mut intake, _) = Intake::new(body, false, TaskTracker::new());

        assert_eq!(intake.next().await, Some(Err(Ended::Quiet)));
    }

    #[tokio::test]
    async fn the_rest_of_a_refused_body_is_read_so_that_the_answer_arrives() {
        let (all, left) = (Arc::new(AtomicU64::new(0)), 5_u64);
        let counted = Arc::clone(&all);
        let chunks = futures::stream::iter(0..left).map(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Ended>(Bytes::from_static(b"x"))
        });
        let tasks = TaskTracker::new();

        drop(Intake::new(Body::from_stream(chunks), false, tasks.clone()));
        tasks.close();
        tasks.wait().await;

        assert_eq!(all.load(Ordering::Relaxed), left);
    }
}
