//! Following a source from a cursor on, until the watch ends.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::task::Poll;

use futures::{FutureExt, Stream, StreamExt};
use tokio::time::Instant;

use super::guard::{panicked, until};
use super::{Reflector, State, Step};
use crate::delta_fifo::Certainty;
use crate::list_watcher::{Cursor, ListWatcher, SourceError, WatchEvent};
use crate::quarantine::Refused;
use crate::status::Phase;
use crate::store::{Expected, LookAhead};

/// How many items of a watch are applied before handlers hear of them.
const WATCH_BATCH: usize = 256;

impl<L: ListWatcher> Reflector<L> {
    pub(super) async fn watch(&mut self, from: Cursor) -> Step {
        self.phase(Phase::Watching);
        let started = Instant::now();
        self.hub.status.send_modify(|status| status.attempts += 1);
        let mut cursor = from.clone();
        let mut items = 0_u64;
        let end = self.follow(&from, &mut cursor, &mut items).await;
        let took = started.elapsed();
        self.hub.metrics.watched(&self.hub.name, took, items);
        // A watch that was quiet for long was a good one.
        let ours = matches!(end, WatchEnd::Relist | WatchEnd::Check);
        let barren = items == 0 && took < self.options.backoff.max() && !ours;
        self.barren = if barren { self.barren + 1 } else { 0 };
        match end {
            WatchEnd::Relist => self.state = State::List,
            WatchEnd::Check => self.state = State::Check(cursor),
            WatchEnd::Closed if self.barren > 0 => {
                let pause = self.options.backoff.pause(self.barren - 1, None);
                self.state = State::wait(Instant::now() + pause, State::Watch(cursor));
            }
            WatchEnd::Closed => self.state = State::Watch(cursor),
            WatchEnd::Failed(error @ SourceError::Expired { .. }) => {
                return self.failed(error, State::List);
            }
            WatchEnd::Failed(error) => return self.failed(error, State::Watch(cursor)),
        }
        Step::Watched
    }

    /// Applies a watch until it ends.
    async fn follow(&mut self, from: &Cursor, cursor: &mut Cursor, items: &mut u64) -> WatchEnd {
        let Self { source, writer, publisher, hub, poke, options, failures, list, check, .. } =
            self;
        let (relist_at, check_at) = (self.relist_at, self.check_at);
        let mut items_of = pin!(source.watch(from).fuse());
        // Used again for each batch: large blocks that come and go cost the allocator more than
        // the objects in them.
        let mut batch = Vec::new();
        let mut ahead = LookAhead::new();
        loop {
            let idle_at = options.idle_timeout.map(|idle| Instant::now() + idle);
            let next = AssertUnwindSafe(fill(&mut batch, items_of.as_mut())).catch_unwind();
            let filled = tokio::select! {
                filled = next => filled,
                () = poke.notified() => return WatchEnd::Relist,
                () = until(relist_at) => return WatchEnd::Relist,
                () = until(check_at) => {
                    // By now the watch has had a whole period to explain what is suspect.
                    let damaged = check.take().is_some_and(|check| check.conclude(hub));
                    return if damaged { WatchEnd::Relist } else { WatchEnd::Check };
                }
                () = until(idle_at) => {
                    return WatchEnd::Failed(SourceError::transient("the watch went silent"));
                }
            };
            match filled {
                Ok(Filled::Some) => {}
                Ok(Filled::Ended) => return WatchEnd::Closed,
                Err(panic) => return WatchEnd::Failed(panicked(&panic)),
            }
            let upserts = batch.iter().map(|item| match item {
                Ok(WatchEvent::Upsert(object)) => Some(object),
                _ => None,
            });
            ahead.fetch(writer, upserts, Expected::Changed);
            let mut failure = None;
            let mut good = false;
            let mut damaged = false;
            for item in batch.drain(..) {
                if let (Some(check), Ok(event)) = (&mut *check, &item)
                    && let Some(key) = event.key()
                {
                    check.explain(&key);
                }
                let change = match item {
                    Ok(WatchEvent::Upsert(object)) => {
                        writer.put(object, None).unwrap_or_else(|refused| {
                            hub.reject(refused, *list);
                            None
                        })
                    }
                    Ok(WatchEvent::Delete(key)) => {
                        hub.quarantine.release(&key);
                        writer.delete(&key, Certainty::Observed)
                    }
                    Ok(WatchEvent::Reject { key, error }) => {
                        hub.reject(Refused { key, error }, *list);
                        None
                    }
                    Ok(WatchEvent::Progress(to)) => {
                        *cursor = to;
                        let over = check.take_if(|check| check.is_over(cursor));
                        damaged |= over.is_some_and(|check| check.conclude(hub));
                        None
                    }
                    Err(error) => {
                        failure = Some(error);
                        break;
                    }
                };
                good = true;
                *items += 1;
                if let Some(change) = change {
                    publisher.add(change);
                }
            }
            publisher.flush();
            if good {
                *failures = 0;
                let now = Instant::now();
                writer.confirm(now, Some(cursor.clone()), false);
                hub.status.send_modify(|status| {
                    status.failures = 0;
                    status.last_success = Some(now);
                    status.quarantined = hub.quarantine.len();
                });
            }
            if let Some(error) = failure {
                return WatchEnd::Failed(error);
            }
            if damaged {
                return WatchEnd::Relist;
            }
        }
    }
}

/// Whether a batch has anything in it.
enum Filled {
    Some,
    /// No, nor will there ever be anything.
    Ended,
}

/// Waits for an item and takes along what else there is by then, up to a whole batch.
async fn fill<S: Stream>(batch: &mut Vec<S::Item>, mut items: Pin<&mut S>) -> Filled {
    poll_fn(|context| {
        while batch.len() < WATCH_BATCH {
            match items.as_mut().poll_next(context) {
                Poll::Ready(Some(item)) => batch.push(item),
                Poll::Ready(None) if batch.is_empty() => return Poll::Ready(Filled::Ended),
                Poll::Pending if batch.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Poll::Ready(Filled::Some)
    })
    .await
}

enum WatchEnd {
    /// The source hung up.
    Closed,
    /// It is time for a list.
    Relist,
    /// It is time for a check.
    Check,
    Failed(SourceError),
}
