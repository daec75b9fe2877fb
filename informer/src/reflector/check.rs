//! Checking a store that follows a watch against a list of the same source.
//!
//! A list and a watch are two views of one history. What the list shows otherwise than the store
//! is suspect; the watch, taken up again where it was, explains what merely had not arrived yet.
//! What is still suspect when the watch has come to where the list was is a change that it never
//! sent. Every object is compared by its version, and nothing but the suspect keys is held.

use hashbrown::HashSet;
use tokio::time::Instant;

use super::{Reflector, State, Step};
use crate::backoff::jittered;
use crate::list_watcher::{Cursor, ListDone, ListWatcher, SourceError};
use crate::listing::Listing;
use crate::object::{Key, Object};
use crate::reflector::guard::guarded;
use crate::status::{Phase, Verification};
use crate::subscription::Hub;

/// How many of the keys that differ are named in the status.
const NAMED: usize = 10;

/// A check that waits for the watch to come to where the list was.
pub(super) struct Check<K> {
    goal: Cursor,
    suspects: HashSet<K>,
    objects: u64,
    started: Instant,
}

impl<L: ListWatcher> Reflector<L> {
    /// Lists without taking anything in, and goes on watching from where the watch was.
    pub(super) async fn check(&mut self, from: Cursor) -> Step {
        self.phase(Phase::Listing);
        let _place = match &self.options.gate {
            Some(gate) => gate.enter().await,
            None => None,
        };
        let started = Instant::now();
        self.hub.status.send_modify(|status| status.attempts += 1);
        let listed = self.suspects().await;
        self.schedule_check();
        self.state = State::Watch(from.clone());
        let (goal, suspects, objects) = match listed {
            Ok(Some(listed)) => listed,
            // The list is not to be trusted.
            Ok(None) => return Step::Checked,
            Err(error) => {
                // The watch is well: it does not wait for the next check to go better.
                self.note_failure(error);
                return Step::Checked;
            }
        };
        if suspects.is_empty() || goal.as_ref() == Some(&from) {
            self.concluded(started, objects, &suspects);
        } else if let Some(goal) = goal
            && !from.reached(&goal)
        {
            self.check = Some(Check { goal, suspects, objects, started });
        }
        // Else the list is older than the store, or nobody knows: that proves nothing.
        Step::Checked
    }

    /// Where the list was, what differs from it, and how much it had; `None` if it is not to be
    /// trusted.
    async fn suspects(
        &mut self,
    ) -> Result<Option<(Option<Cursor>, HashSet<KeyOf<L>>, u64)>, SourceError> {
        self.list = self.list.checked_add(1).unwrap_or(1);
        let mut listing = Listing::checking(&mut self.writer, &mut self.publisher, self.list);
        let answer = guarded(self.options.list_timeout, self.source.list(&mut listing)).await;
        let (sweep, mut suspects) = listing.finish_check();
        let cursor = match answer.and_then(|answer| answer)? {
            ListDone::Complete { cursor } => cursor,
            ListDone::Unchanged => {
                let objects = self.writer.reader().len() as u64;
                return Ok(Some((None, HashSet::new(), objects)));
            }
        };
        if sweep.suspicious.is_some() {
            return Ok(None);
        }
        if !sweep.nameless {
            let missing = self.writer.missing(self.list, sweep.scopes.as_ref());
            suspects.extend(missing.iter().map(|object| object.key()));
        }
        Ok(Some((cursor, suspects, sweep.counts.items)))
    }

    /// Ends a check; what differs is repaired by a list that is taken in.
    fn concluded(&mut self, started: Instant, objects: u64, differ: &HashSet<KeyOf<L>>) {
        report(&self.hub, started, objects, differ);
        if !differ.is_empty() {
            self.state = State::List;
        }
    }

    pub(super) fn schedule_check(&mut self) {
        let period = self.options.verify_every;
        self.check_at = period.map(|period| Instant::now() + jittered(period, 0.1));
    }
}

type KeyOf<L> = <<L as ListWatcher>::Object as Object>::Key;

impl<K: Key> Check<K> {
    /// Notes that the watch brought something about this key.
    pub(super) fn explain(&mut self, key: &K) {
        self.suspects.remove(key);
    }

    /// Whether the watch, having come here, has shown everything that the list had.
    pub(super) fn is_over(&self, here: &Cursor) -> bool {
        here.reached(&self.goal)
    }

    /// Answers whether the store has to be repaired.
    pub(super) fn conclude<T: Object<Key = K>>(self, hub: &Hub<T>) -> bool {
        report(hub, self.started, self.objects, &self.suspects);
        !self.suspects.is_empty()
    }
}

fn report<T: Object>(hub: &Hub<T>, started: Instant, objects: u64, differ: &HashSet<T::Key>) {
    let differences = differ.len() as u64;
    hub.metrics.verified(&hub.name, started.elapsed(), differences);
    let mut keys: Vec<&T::Key> = differ.iter().collect();
    keys.sort_unstable();
    let keys = keys.into_iter().take(NAMED).map(|key| format!("{key:?}")).collect();
    hub.status.send_modify(|status| {
        status.differences += differences;
        status.verified = Some(Verification { at: Instant::now(), objects, differences, keys });
    });
}
