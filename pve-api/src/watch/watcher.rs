//! One who watches, whatever the transport: waits for what is next for it.

use std::sync::Arc;
use std::time::Duration;

use schema::Revision;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Interval, interval_at};

use super::Shared;
use super::board::{Cursor, Told};
use super::message::{End, Message};
use super::request::Start;
use crate::auth::Auth;
use crate::metrics::WatchCount;

/// How often a peer hears something if nothing happens.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);

/// So many messages are taken from the board at once.
const BATCH: usize = 32;

pub(super) struct Watcher {
    shared: Arc<Shared>,
    cursor: Cursor,
    token: String,
    news: watch::Receiver<()>,
    heartbeat: Interval,
    count: WatchCount,
    _place: OwnedSemaphorePermit,
}

/// What is to be done for a peer.
#[derive(Debug)]
pub(super) enum Next {
    Messages(Vec<Told>),
    End(End),
}

impl Watcher {
    pub(super) fn new(
        shared: Arc<Shared>,
        start: Start,
        token: String,
        place: OwnedSemaphorePermit,
        transport: &'static str,
    ) -> Self {
        let news = shared.news.subscribe();
        let cursor = shared.board().start(start);
        let count = shared.metrics.begin(transport);
        let heartbeat = quiet_interval(HEARTBEAT);
        Self { shared, cursor, token, news, heartbeat, count, _place: place }
    }

    /// Waits until there is something for the peer.
    ///
    /// # Cancellation
    ///
    /// Safe: nothing is passed over by a drop.
    pub(super) async fn next(&mut self) -> Next {
        loop {
            // Before the look: what comes after it is news.
            self.news.mark_unchanged();
            if let Some(end) = self.ended() {
                return Next::End(end);
            }
            let messages = self.shared.board().take(&mut self.cursor, BATCH);
            if !messages.is_empty() {
                self.heartbeat.reset();
                return Next::Messages(messages);
            }
            tokio::select! {
                () = self.shared.stopping.cancelled() => {}
                // The sender is in `shared`, so it is there.
                _ = self.news.changed() => {}
                _ = self.heartbeat.tick() => {
                    let revision = self.revision();
                    let text = Message::<()>::Heartbeat { revision: revision.0 }.text();
                    return Next::Messages(vec![Told { revision, text }]);
                }
            }
        }
    }

    /// Waits until the process is told to stop.
    pub(super) async fn stopping(&self) {
        self.shared.stopping.cancelled().await;
    }

    /// Up to where the peer was told everything.
    pub(super) fn revision(&self) -> Revision {
        self.cursor.revision()
    }

    pub(super) fn sent(&self, messages: usize) {
        self.count.sent(messages);
    }

    /// Notes how it ended; without that, the peer hung up.
    pub(super) fn end(mut self, result: &'static str) {
        self.count.end(result);
    }

    fn ended(&self) -> Option<End> {
        if self.shared.stopping.is_cancelled() {
            return Some(End::Stopping);
        }
        let unfit = self.shared.auth == Auth::Tokens && self.shared.is_unfit(&self.token);
        unfit.then_some(End::Token)
    }
}

/// An interval that does not begin with a tick, nor catches up on those that were missed.
pub(super) fn quiet_interval(period: Duration) -> Interval {
    let mut interval = interval_at(tokio::time::Instant::now() + period, period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}
