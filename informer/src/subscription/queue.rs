//! What waits for one handler, and what it has not been replayed yet.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::hub::Hub;
use super::options::{SubscribeOptions, View};
use super::parking::Parking;
use crate::delta_fifo::{Change, DeltaFifo, Event};
use crate::object::Object;
use crate::resync::Resync;
use crate::store::{Stamped, Store};
use crate::sync::{Mutex, Notify};

/// How far behind a subscription is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Lag {
    /// Keys of which it was not told yet.
    pub keys: usize,
    /// How long the first of them has waited.
    pub oldest: Duration,
    /// Changes that were merged into others so far.
    pub coalesced: u64,
    /// Keys that its handler was [given up](crate::Parked) on.
    pub parked: usize,
    /// Whether it was ended because it would have held too many keys.
    pub disconnected: bool,
}

pub(super) struct Queue<T: Object> {
    pub(super) options: SubscribeOptions<T>,
    pub(super) state: Mutex<QueueState<T>>,
    pub(super) parking: Parking<T>,
    /// There is something to take, or no more to come.
    pub(super) ready: Notify,
    /// Everything was taken that was there at first.
    pub(super) synced: Notify,
}

pub(super) struct QueueState<T: Object> {
    pub(super) fifo: DeltaFifo<T>,
    /// The next shard to replay; all of them when it is the number of shards.
    pub(super) next_shard: usize,
    /// Per shard, the generation whose changes the handler knows of; empty means 0 for all.
    pub(super) known: Vec<u64>,
    pub(super) resync: Option<Resync<T>>,
    pub(super) closed: bool,
    pub(super) disconnected: bool,
}

impl<T: Object> Queue<T> {
    /// Takes in what concerns the handler. Answers whether that was too much for it.
    pub(super) fn push(&self, batch: &[Stamped<T>], initial: bool, now: Instant) -> bool {
        let mut state = self.state.lock();
        if state.disconnected {
            return false;
        }
        let replayed = state.replayed();
        for stamped in batch {
            if stamped.shard >= state.next_shard || stamped.generation <= state.known[stamped.shard]
            {
                continue; // the replay has it, or will come to it
            }
            match self.options.view(&stamped.change) {
                View::Event(change) => state.fifo.push_stored(change, stamped.hash, initial, now),
                View::Another(change) => state.fifo.push_at(&change, stamped.hash, initial, now),
                View::Refresh(change) => state.fifo.refresh_at(change, stamped.hash, now),
                View::Nothing => {}
            }
        }
        let waiting = state.fifo.len() - state.fifo.initial();
        let too_much = self.options.most_keys.is_some_and(|most| waiting > most);
        let synced = too_much || (!replayed && state.replayed());
        let given_away = too_much.then(|| state.disconnect());
        let wake = !state.fifo.is_empty() || too_much;
        drop(state);
        drop(given_away); // objects run code of their own when they go
        if synced {
            self.synced.notify_waiters();
        }
        if wake {
            self.ready.notify_one();
        }
        too_much
    }

    pub(super) fn pop(&self, store: &Store<T>) -> Option<Event<T>> {
        let mut state = self.state.lock();
        let replayed = state.replayed();
        if !replayed {
            state.replay(&self.options, store, Instant::now());
        }
        let state = &mut *state;
        if state.fifo.is_empty()
            && !state.closed
            && let Some(resync) = &mut state.resync
        {
            let passes = |object: &Arc<T>| {
                matches!(self.options.view(&Change::Added(object.clone())), View::Event(_))
            };
            resync.advance(store, Instant::now(), |object| {
                if passes(&object) {
                    state.fifo.push_resync(object);
                }
            });
        }
        let event = state.fifo.pop();
        if !replayed && state.replayed() {
            self.synced.notify_waiters();
        }
        event
    }
}

impl<T: Object> QueueState<T> {
    /// Brings the next shards in, once the earlier ones were taken.
    pub(super) fn replay(&mut self, options: &SubscribeOptions<T>, store: &Store<T>, now: Instant) {
        while self.next_shard < self.known.len() && self.fifo.initial() == 0 {
            let shard = self.next_shard;
            let fifo = &mut self.fifo;
            self.known[shard] = store.replay(shard, |hash, object| {
                let change = Change::Added(object.clone());
                if let View::Event(change) = options.view(&change) {
                    fifo.push_at(change, hash, true, now);
                }
            });
            self.next_shard += 1;
        }
    }

    /// Ends it, and gives everything away.
    fn disconnect(&mut self) -> DeltaFifo<T> {
        self.disconnected = true;
        self.next_shard = self.known.len();
        self.close()
    }

    /// Ends it; answers what waits, to be dropped when no lock is held.
    pub(super) fn close(&mut self) -> DeltaFifo<T> {
        self.closed = true;
        self.resync = None;
        std::mem::take(&mut self.fifo)
    }

    pub(super) fn replayed(&self) -> bool {
        self.next_shard >= self.known.len() && self.fifo.initial() == 0
    }
}

impl<T: Object> Queue<T> {
    pub(super) fn give_back(&self, events: impl IntoIterator<Item = Event<T>>) {
        let mut state = self.state.lock();
        if state.disconnected {
            return;
        }
        for event in events {
            state.fifo.give_back(event);
        }
        drop(state);
        self.ready.notify_one();
    }

    pub(super) fn lag(&self, store: &Store<T>) -> Lag {
        let state = self.state.lock();
        let to_replay: usize =
            (state.next_shard..state.known.len()).map(|shard| store.shard_len(shard)).sum();
        Lag {
            keys: state.fifo.len() + to_replay,
            oldest: state.fifo.oldest().unwrap_or_default(),
            coalesced: state.fifo.coalesced(),
            parked: self.parking.len(),
            disconnected: state.disconnected,
        }
    }

    pub(super) fn has_synced(&self, hub: &Hub<T>) -> bool {
        hub.status.borrow().synced && self.state.lock().replayed()
    }
}
