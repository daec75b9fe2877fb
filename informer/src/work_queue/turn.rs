//! Waiting for a key: who looks, who sleeps, and who keeps the time for all.

use std::pin::Pin;
use std::task::Waker;

use tokio::time::{Instant, Sleep, sleep_until};

use super::taken::Taken;
use super::{Mode, WorkQueue};
use crate::object::Key;
use crate::sleepers::Ticket;

/// Somebody's wait for a key. If it is given up, whoever comes next is woken in its place.
pub(super) struct Turn<'a, K: Key> {
    queue: &'a WorkQueue<K>,
    /// There is one once it went to sleep.
    ticket: Option<Ticket>,
}

impl<'a, K: Key> Turn<'a, K> {
    pub(super) fn new(queue: &'a WorkQueue<K>) -> Self {
        Self { queue, ticket: None }
    }

    /// Takes a key, or goes to sleep if there is a waker to be woken by.
    pub(super) fn look(&mut self, waker: Option<&Waker>) -> Look<K> {
        let shared = &self.queue.shared;
        let mut state = shared.state.lock();
        if state.mode == Mode::Closed {
            return Look::Over;
        }
        let now = Instant::now();
        let promoted = if state.mode == Mode::Open { state.core.promote(now) } else { 0 };
        let Some((at, key, failures, since)) = state.core.take(now) else {
            let over = state.mode == Mode::Draining
                && state.core.running() == 0
                && state.core.ready() == 0;
            let Some(waker) = waker.filter(|_| !over) else {
                return if over { Look::Over } else { Look::Empty(None) };
            };
            let ticket = state.sleepers.sleep(self.ticket, waker);
            self.ticket = Some(ticket);
            let due = state.core.next_due().filter(|_| state.mode == Mode::Open);
            let due = due.filter(|_| state.sleepers.keep_time(ticket));
            return Look::Empty(due);
        };
        let depth = state.core.ready();
        let mut woken = Vec::new();
        let mut others = promoted;
        let woken_for_it = self.ticket.take().is_some_and(|ticket| state.sleepers.leave(ticket));
        if !woken_for_it {
            // Nobody counts on this taker, so one of what there is now is its own.
            others = others.saturating_sub(1);
        }
        if state.is_unkept() {
            others += 1; // to keep the time
        }
        woken.extend((0..others).map_while(|_| state.sleepers.wake()));
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        if let Some(metrics) = &shared.metrics {
            let name = &shared.name;
            (0..promoted).for_each(|_| metrics.queue_added(name));
            metrics.queue_depth(name, depth);
            metrics.queue_taken(name, now.saturating_duration_since(since));
        }
        let shared = Some(shared.clone());
        Look::Found(Taken { shared, at, key, failures, since: now })
    }
}

impl<K: Key> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut state = self.queue.shared.state.lock();
        let passed_on = state.sleepers.leave(ticket) && state.core.ready() > 0;
        // It may have been woken for a key and be the one that kept, or was to keep, the time:
        // whoever gets the key cannot do both.
        let others = usize::from(passed_on) + usize::from(state.is_unkept());
        let woken: Vec<_> = (0..others).map_while(|_| state.sleepers.wake()).collect();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }
}

/// What there is to take.
pub(super) enum Look<K: Key> {
    Found(Taken<K>),
    /// Nothing, until then if this taker is the one that keeps the time.
    Empty(Option<Instant>),
    Over,
}

/// Sets a timer to when it is to ring, if it is to ring at all.
pub(super) fn wait_until(
    mut timer: Pin<&mut Option<Sleep>>,
    due: Option<Instant>,
) -> Option<Pin<&mut Sleep>> {
    if timer.as_ref().as_pin_ref().map(|sleep| sleep.deadline()) != due {
        timer.set(due.map(sleep_until));
    }
    timer.as_pin_mut()
}
