//! The three lists that informers follow, cut out of one poll.
//!
//! Each waits for the next poll, offers its rows, and asks the guard about what the poll lacks.

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};

use informer::{ListDone, ListWatcher, Listing, Object, SourceError, Store, Verdict};
use parking_lot::Mutex;

use super::{
    evidence::{Desk, Evidence},
    guard::{Audit, Circumstances, Guard, Missing, Owner},
    health::Board,
    interner::Interner,
    objects::{Guest, Node, Storage, StorageKey},
    poll::{Feed, Poll},
    project::{Broadcast, GuestSeen, NodeSeen, StorageSeen, UNKNOWN},
};
use crate::{
    metrics::{ClusterMetrics, Kind},
    pve::GuestRow,
};

/// A kind of object that a poll has a list of.
pub trait Mirrored: Object {
    const KIND: Kind;

    /// Pushes every row of this kind. `known` is what earlier polls said.
    fn offer(
        poll: &Poll,
        known: Option<&Store<Self>>,
        words: &Interner,
        into: &mut Listing<'_, Self>,
    );

    /// What the guard needs to know of an object that the poll lacks.
    fn missing(&self, poll: &Poll, evidence: &Evidence) -> Missing<Self::Key>;
}

/// One kind's source.
#[expect(missing_debug_implementations, reason = "the status shows what it knows")]
pub struct Source<T: Mirrored> {
    feed: Feed,
    desk: Arc<Desk>,
    board: Board,
    metrics: Arc<ClusterMetrics>,
    words: Interner,
    /// Set as soon as the informer around this source exists.
    known: Arc<OnceLock<Store<T>>>,
    state: Mutex<State<T::Key>>,
}

struct State<K> {
    guard: Guard<K>,
    /// The poll that is being, or was last, listed.
    poll: Option<Arc<Poll>>,
    /// Whether the guard was asked about that poll.
    judged: bool,
}

impl<T: Mirrored> Source<T> {
    pub fn new(
        feed: Feed,
        desk: Arc<Desk>,
        board: Board,
        metrics: Arc<ClusterMetrics>,
        words: Interner,
    ) -> Self {
        let state = State { guard: Guard::default(), poll: None, judged: true };
        Self { feed, desk, board, metrics, words, known: Arc::default(), state: Mutex::new(state) }
    }

    /// Where to put the informer's store once it is built.
    pub fn known(&self) -> Arc<OnceLock<Store<T>>> {
        Arc::clone(&self.known)
    }

    fn tell(&self, doubt: Option<super::guard::Doubt>) {
        self.board.doubt(T::KIND, doubt);
        self.metrics.set_suspicious(T::KIND, doubt.is_some_and(super::guard::Doubt::is_suspicious));
    }

    /// Remembers the poll; the one before it lacked nothing if the guard was not asked about it.
    fn begin(&self, poll: &Arc<Poll>) {
        let mut state = self.state.lock();
        if !std::mem::replace(&mut state.judged, false) {
            state.guard.all_present();
            self.tell(None);
        }
        state.poll = Some(Arc::clone(poll));
    }
}

impl<T: Mirrored> ListWatcher for Source<T> {
    type Object = T;

    async fn list(&self, into: &mut Listing<'_, T>) -> Result<ListDone, SourceError> {
        let poll = self.feed.next().await.map_err(SourceError::transient)?;
        self.begin(&poll);
        T::offer(&poll, self.known.get(), &self.words, into);
        Ok(ListDone::complete())
    }

    async fn confirm_absent(&self, missing: &[Arc<T>]) -> Verdict<T::Key> {
        let Some(poll) = self.state.lock().poll.clone() else {
            return Verdict::KeepAll;
        };
        let evidence = match self.desk.evidence(&poll).await {
            Ok(evidence) => evidence,
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    kind = T::KIND.label(),
                    "No proof that objects are gone, keeping them"
                );
                self.state.lock().judged = true;
                return Verdict::KeepAll;
            }
        };
        let list = Circumstances { quorum: evidence.quorum, unreadable: poll.resources.skipped() };
        let facts: Vec<_> = missing.iter().map(|object| object.missing(&poll, &evidence)).collect();
        let total = self.known.get().map_or(0, Store::len);
        let verdict = {
            let mut state = self.state.lock();
            state.judged = true;
            state.guard.judge(&facts, total, list)
        };
        self.tell(verdict.doubt);
        if verdict.held == 0 {
            return Verdict::AllGone;
        }
        Verdict::Keep(
            facts
                .into_iter()
                .map(|fact| fact.key)
                .filter(|key| !verdict.gone.contains(key))
                .collect(),
        )
    }
}

impl Mirrored for Node {
    const KIND: Kind = Kind::Node;

    fn offer(
        poll: &Poll,
        known: Option<&Store<Self>>,
        words: &Interner,
        into: &mut Listing<'_, Self>,
    ) {
        for row in poll.resources.nodes() {
            let before = known.and_then(|known| known.get(&*row.node));
            let seen = NodeSeen {
                name: &row.node,
                status: row.status.as_deref().unwrap_or(UNKNOWN),
                ip: poll.membership.ips.get(&*row.node).map(String::as_str),
                cpus: row.maxcpu.map(cpus),
                memory_bytes: row.maxmem,
            };
            let seen = seen.completed_by(before.as_deref());
            let fingerprint = seen.fingerprint();
            into.offer(&words.get(seen.name), fingerprint, || seen.build(fingerprint, words));
        }
    }

    /// Nodes are listed whatever the token may see. A member that is down is listed as offline,
    /// so one that neither the list nor the membership has is none.
    fn missing(&self, _: &Poll, evidence: &Evidence) -> Missing<Self::Key> {
        let owner = if evidence.is_member(&self.name) { Owner::Unlisted } else { Owner::Left };
        Missing { key: self.key(), audit: Audit::Granted, owner }
    }
}

impl Mirrored for Guest {
    const KIND: Kind = Kind::Guest;

    fn offer(
        poll: &Poll,
        known: Option<&Store<Self>>,
        words: &Interner,
        into: &mut Listing<'_, Self>,
    ) {
        for row in poll.resources.guests() {
            let vmid = row.vmid.get();
            let seen = guest_seen(row);
            let seen = if poll.is_online(&row.node) { seen } else { seen.on_a_silent_node() };
            let broadcast = broadcast(row);
            let before = match broadcast {
                Broadcast::Complete => None,
                Broadcast::Missing => known.and_then(|known| known.get(&vmid)),
            };
            let seen = seen.completed_by(broadcast, before.as_deref());
            let fingerprint = seen.fingerprint();
            into.offer(&vmid, fingerprint, || seen.build(fingerprint, words));
        }
    }

    fn missing(&self, poll: &Poll, evidence: &Evidence) -> Missing<u32> {
        let audit = evidence.may_see_guest(self.vmid, self.pool.as_deref());
        Missing { key: self.vmid, audit, owner: owner(&self.node, poll, evidence) }
    }
}

impl Mirrored for Storage {
    const KIND: Kind = Kind::Storage;

    fn offer(poll: &Poll, _: Option<&Store<Self>>, words: &Interner, into: &mut Listing<'_, Self>) {
        for row in poll.resources.storages() {
            let key = StorageKey { node: words.get(&row.node), storage: words.get(&row.storage) };
            let seen = StorageSeen {
                node: &row.node,
                storage: &row.storage,
                plugin: row.plugintype.as_deref().unwrap_or_default(),
                content: row.content.as_deref().unwrap_or_default(),
                shared: row.shared.unwrap_or(false),
                status: if poll.is_online(&row.node) {
                    row.status.as_deref().unwrap_or(UNKNOWN)
                } else {
                    UNKNOWN
                },
            };
            let fingerprint = seen.fingerprint();
            into.offer(&key, fingerprint, || seen.build(fingerprint, words));
        }
    }

    fn missing(&self, poll: &Poll, evidence: &Evidence) -> Missing<StorageKey> {
        let audit = evidence.may_see_storage(&self.key.storage);
        Missing { key: self.key(), audit, owner: owner(&self.key.node, poll, evidence) }
    }
}

fn owner(node: &str, poll: &Poll, evidence: &Evidence) -> Owner {
    match (poll.node_status(node), evidence.is_member(node)) {
        (Some("online"), _) => Owner::Member,
        (Some(_), _) => Owner::Silent,
        (None, true) => Owner::Unlisted,
        (None, false) => Owner::Left,
    }
}

/// A guest whose sample PVE does not have at the moment lacks name and template.
fn broadcast(row: &GuestRow<'_>) -> Broadcast {
    if row.name.is_some() && row.template.is_some() {
        Broadcast::Complete
    } else {
        Broadcast::Missing
    }
}

fn guest_seen<'a>(row: &'a GuestRow<'a>) -> GuestSeen<'a> {
    GuestSeen {
        vmid: row.vmid.get(),
        kind: row.kind,
        node: &row.node,
        name: row.name.as_deref().map(Cow::Borrowed),
        status: row.status.as_deref().unwrap_or(UNKNOWN),
        template: row.template.unwrap_or(false),
        tags: row.tags.as_deref().filter(|tags| !tags.is_empty()).map(Cow::Borrowed),
        pool: word(row.pool.as_deref()),
        lock: word(row.lock.as_deref()),
        ha_state: word(row.hastate.as_deref()),
        cpus: row.maxcpu.map(cpus),
        memory_bytes: row.maxmem,
        disk_bytes: row.maxdisk,
    }
}

/// PVE writes some absent words as empty ones, by version.
fn word(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn cpus(maxcpu: f64) -> u32 {
    // A float to integer cast saturates, and no host has that many.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let cpus = maxcpu.ceil() as u32;
    cpus
}
