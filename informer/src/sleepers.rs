//! Those who wait for a key: each is woken by one thing that it could take, or by the clock.
//!
//! Kept under the lock of the queue, so that going to sleep and finding nothing are one step, and
//! so that nobody is woken who is awake: a queue whose takers are busy wakes no one.

use std::collections::VecDeque;
use std::task::Waker;

/// Who waits, in order of arrival.
#[derive(Default)]
pub(crate) struct Sleepers {
    /// Ascending by ticket.
    asleep: VecDeque<(Ticket, Waker)>,
    next: Ticket,
    /// The one that keeps the time for all: it sleeps until the first delay is over.
    keeper: Option<Ticket>,
}

/// A place in the line, given out once.
pub(crate) type Ticket = u64;

impl Sleepers {
    /// Lies down, or stays so with another waker. Answers the ticket.
    pub(crate) fn sleep(&mut self, ticket: Option<Ticket>, waker: &Waker) -> Ticket {
        if let Some(ticket) = ticket
            && let Ok(at) = self.position(ticket)
        {
            self.asleep[at].1.clone_from(waker);
            return ticket;
        }
        // Who was woken and found nothing goes to the back, and keeps the time if it did.
        let new = self.next;
        self.next += 1;
        self.asleep.push_back((new, waker.clone()));
        if self.keeper.is_some() && self.keeper == ticket {
            self.keeper = Some(new);
        }
        new
    }

    /// Makes this one keep the time if nobody does. Answers whether it does.
    pub(crate) fn keep_time(&mut self, ticket: Ticket) -> bool {
        *self.keeper.get_or_insert(ticket) == ticket
    }

    /// Whether somebody keeps the time, asleep or on the way to look.
    pub(crate) fn is_kept(&self) -> bool {
        self.keeper.is_some()
    }

    /// Gets up for good. Answers whether it was woken.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> bool {
        let woken = match self.position(ticket) {
            Ok(at) => {
                self.asleep.remove(at);
                false
            }
            Err(_) => true,
        };
        self.keeper = self.keeper.filter(|keeper| *keeper != ticket);
        woken
    }

    /// The next one to be woken, if anybody sleeps.
    pub(crate) fn wake(&mut self) -> Option<Waker> {
        self.asleep.pop_front().map(|(_, waker)| waker)
    }

    /// The one that keeps the time, to look again how long; anybody if nobody does. `None` if it
    /// is awake or nobody sleeps.
    pub(crate) fn wake_keeper(&mut self) -> Option<Waker> {
        match self.keeper {
            None => self.wake(),
            Some(keeper) => {
                let at = self.position(keeper).ok()?;
                self.asleep.remove(at).map(|(_, waker)| waker)
            }
        }
    }

    /// Everybody.
    pub(crate) fn wake_all(&mut self) -> Vec<Waker> {
        self.asleep.drain(..).map(|(_, waker)| waker).collect()
    }

    fn position(&self, ticket: Ticket) -> Result<usize, usize> {
        self.asleep.binary_search_by_key(&ticket, |(other, _)| *other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_who_came_is_woken_first_and_once() {
        let mut sleepers = Sleepers::default();
        let first = sleepers.sleep(None, Waker::noop());
        let second = sleepers.sleep(None, Waker::noop());

        assert!(sleepers.wake().is_some());

        assert!(sleepers.leave(first));
        assert!(!sleepers.leave(second));
        assert!(sleepers.wake().is_none());
    }

    #[test]
    fn who_keeps_the_time_does_so_until_it_leaves() {
        let mut sleepers = Sleepers::default();
        let first = sleepers.sleep(None, Waker::noop());
        let second = sleepers.sleep(None, Waker::noop());
        assert!(sleepers.keep_time(first));
        assert!(!sleepers.keep_time(second));

        assert!(sleepers.wake_keeper().is_some());
        let first = sleepers.sleep(Some(first), Waker::noop());
        assert!(sleepers.keep_time(first));

        assert!(sleepers.is_kept());
        sleepers.leave(first);
        assert!(!sleepers.is_kept());
        assert!(sleepers.keep_time(second));
    }
}
