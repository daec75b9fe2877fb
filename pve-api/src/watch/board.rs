//! What is to be told: of each task the newest message, in the order of revisions.
//!
//! Pure: no clock, no I/O. A cursor is a place on the board. Because a task that changes again
//! moves to the end, whoever is behind gets only its newest state, and the board is never longer
//! than there are tasks (and a bounded number of deletes).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;

use axum::extract::ws::Utf8Bytes;
use schema::{ClusterId, Revision, TemplateId};
use serde_json::value::RawValue;

use super::message::Message;
use super::request::{Filter, Start};

/// Tasks by the revision of their last change. Within a revision, that is within one transaction,
/// by id.
#[derive(Debug)]
pub(super) struct Board {
    entries: BTreeMap<Place, Entry>,
    /// Where each task is among them.
    places: HashMap<i64, Revision>,
    deletes: usize,
    /// Deletes up to here are not on the board.
    floor: Revision,
    /// Everything up to here is on the board.
    revision: Revision,
    /// Whether anything was ever put on it.
    loaded: bool,
    /// Raised when what was told does not hold any more.
    epoch: u64,
}

type Place = (Revision, i64);

#[derive(Debug)]
struct Entry {
    /// None of a delete whose task was never seen.
    template: Option<TemplateId>,
    cluster: ClusterId,
    deleted: bool,
    message: Utf8Bytes,
    /// Up to where everything was told once this was.
    told: Revision,
}

/// A message, and up to where everything was told with it.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub revision: Revision,
    pub text: Utf8Bytes,
}

/// How far one watcher was told.
#[derive(Debug)]
pub(super) struct Cursor {
    filter: Filter,
    place: Place,
    /// Whoever starts with what is there need not hear what was deleted up to here.
    quiet: Revision,
    epoch: u64,
    reset: bool,
    synced: bool,
}

/// Before and behind all tasks of a revision.
const FIRST: i64 = i64::MIN;
const LAST: i64 = i64::MAX;

/// Deletes that are remembered on top of as many as there are tasks.
const DELETES: usize = 1000;

/// What is to be put on the board.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub revision: Revision,
    pub id: i64,
    pub cluster: ClusterId,
    pub news: News,
}

#[derive(Clone, Debug)]
pub(super) enum News {
    Task { template: TemplateId, shown: Box<RawValue> },
    Deleted,
}

impl Board {
    /// Before the first look at the tables.
    pub(super) fn empty() -> Self {
        Self {
            entries: BTreeMap::new(),
            places: HashMap::new(),
            deletes: 0,
            floor: Revision(0),
            revision: Revision(0),
            loaded: false,
            epoch: 0,
        }
    }

    /// Puts everything on the board that there is: tasks, and the deletes after `floor`.
    ///
    /// What was on it and is not there any more becomes a delete. Where this contradicts what was
    /// told, as after a restored backup, all watchers start over.
    pub(super) fn load(&mut self, floor: Revision, revision: Revision, all: Vec<Change>) {
        let there: HashSet<i64> = all.iter().filter(|it| !it.is_delete()).map(|it| it.id).collect();
        let lost: Vec<Change> = self
            .entries
            .iter()
            .filter(|((_, id), entry)| !entry.deleted && !there.contains(id))
            .map(|((_, id), entry)| Change {
                revision,
                id: *id,
                cluster: entry.cluster,
                news: News::Deleted,
            })
            .collect();
        let news: Vec<Change> = all
            .iter()
            .filter(|it| !it.is_delete() && self.places.get(&it.id) != Some(&it.revision))
            .cloned()
            .collect();
        let contradicts = revision < self.revision
            || lost.iter().chain(&news).any(|change| change.revision <= self.revision);
        if !self.loaded || contradicts {
            self.clear();
            (self.floor, self.loaded) = (floor, true);
            self.apply(revision, all);
        } else {
            self.apply(revision, news.into_iter().chain(lost).collect());
        }
    }

    /// Puts on the board what changed after [`Board::revision`], up to `revision`.
    pub(super) fn apply(&mut self, revision: Revision, mut changes: Vec<Change>) {
        changes.sort_by_key(|change| (change.revision, change.id));
        let mut rest = changes.into_iter().peekable();
        while let Some(change) = rest.next() {
            let (at, id) = (change.revision, change.id);
            let completes = rest.peek().is_none_or(|next| next.revision != at);
            // A break between the messages of one transaction must not lose the others.
            let told = Revision(if completes { at.0 } else { (at.0 - 1).max(0) });
            let before = self.remove(id);
            let entry = Entry::new(change, told, before.and_then(|entry| entry.template));
            self.deletes += usize::from(entry.deleted);
            self.entries.insert((at, id), entry);
            self.places.insert(id, at);
        }
        self.revision = self.revision.max(revision);
        self.forget_deletes();
    }

    /// Empties the board. Watchers that are still there would start over.
    pub(super) fn clear(&mut self) {
        *self = Self { epoch: self.epoch + 1, ..Self::empty() };
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// Where a new watcher stands.
    pub(super) fn start(&self, start: Start) -> Cursor {
        let beginning = self.beginning(start.filter);
        match start.since {
            None => beginning,
            Some(since) if since < self.floor || since > self.revision => {
                Cursor { reset: true, ..beginning }
            }
            Some(since) => Cursor { place: (since, LAST), quiet: since, ..beginning },
        }
    }

    /// The next messages for a watcher, at most `limit` and one; none if it was told everything.
    pub(super) fn take(&self, cursor: &mut Cursor, limit: usize) -> Vec<Told> {
        let mut messages = Vec::new();
        if cursor.epoch != self.epoch || self.has_forgotten_for(cursor) {
            *cursor = Cursor { reset: true, ..self.beginning(cursor.filter) };
        }
        if std::mem::take(&mut cursor.reset) {
            // Nothing is told yet, so from here one starts over.
            let revision = Revision(0);
            messages.push(Told { revision, text: Message::reset(revision) });
        }
        let rest = (Bound::Excluded(cursor.place), Bound::Unbounded);
        for (place, entry) in self.entries.range(rest) {
            if messages.len() >= limit {
                return messages;
            }
            cursor.place = *place;
            let unneeded = entry.deleted && place.0 <= cursor.quiet;
            if !unneeded && entry.passes(&cursor.filter) {
                messages.push(Told { revision: entry.told, text: entry.message.clone() });
            }
        }
        cursor.place = (self.revision.max(cursor.place.0), LAST);
        if !std::mem::replace(&mut cursor.synced, true) {
            let revision = self.revision;
            messages.push(Told {
                revision,
                text: Message::<()>::Synced { revision: revision.0 }.text(),
            });
        }
        messages
    }

    fn beginning(&self, filter: Filter) -> Cursor {
        Cursor {
            filter,
            place: (Revision(i64::MIN), FIRST),
            quiet: self.revision,
            epoch: self.epoch,
            reset: false,
            synced: false,
        }
    }

    /// Whether deletes that a watcher was still to be told have left the board.
    fn has_forgotten_for(&self, cursor: &Cursor) -> bool {
        let told = cursor.place.0.max(cursor.quiet);
        told < self.floor
            || (told == self.floor && cursor.place > (told, FIRST) && cursor.place.1 != LAST)
    }

    fn remove(&mut self, id: i64) -> Option<Entry> {
        let place = self.places.remove(&id)?;
        let entry = self.entries.remove(&(place, id))?;
        self.deletes -= usize::from(entry.deleted);
        Some(entry)
    }

    /// Keeps the board in proportion to the tasks that there are.
    fn forget_deletes(&mut self) {
        let most = DELETES + self.entries.len() - self.deletes;
        if self.deletes <= most {
            return;
        }
        let oldest =
            self.entries.iter().filter(|(_, entry)| entry.deleted).map(|(place, _)| *place);
        let surplus: Vec<Place> = oldest.take(self.deletes - most / 2).collect();
        for (revision, id) in surplus {
            self.floor = self.floor.max(revision);
            self.remove(id);
        }
    }
}

impl Change {
    fn is_delete(&self) -> bool {
        matches!(self.news, News::Deleted)
    }
}

impl Entry {
    fn new(change: Change, told: Revision, before: Option<TemplateId>) -> Self {
        let Change { id, cluster, news, .. } = change;
        let revision = told.0;
        match news {
            News::Task { template, shown } => {
                let message = Message::Task { revision, task: shown }.text();
                Self { template: Some(template), cluster, deleted: false, message, told }
            }
            News::Deleted => {
                let message = Message::<()>::Deleted { revision, task_id: id }.text();
                Self { template: before, cluster, deleted: true, message, told }
            }
        }
    }

    fn passes(&self, filter: &Filter) -> bool {
        let same_template = match (filter.template_id, self.template) {
            (Some(wanted), Some(template)) => wanted == template,
            // A delete of no known template might be of this one.
            _ => true,
        };
        same_template && filter.cluster_id.is_none_or(|wanted| wanted == self.cluster)
    }
}

impl Cursor {
    /// Up to where everything was told.
    pub(super) fn revision(&self) -> Revision {
        let (revision, id) = self.place;
        Revision(if id == LAST { revision.0 } else { revision.0.saturating_sub(1).max(0) })
    }
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
