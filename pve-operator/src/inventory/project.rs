//! From what one list says to what the mirror keeps.
//!
//! A `…Seen` borrows from the answer's body. Its fingerprint is computed without building
//! anything, so an object that did not change costs no allocation.

use std::borrow::Cow;

use super::{
    interner::Interner,
    objects::{Fingerprint, Guest, Node, Storage, StorageKey, sorted},
};
use crate::pve::GuestKind;

/// The state of whatever PVE cannot speak for at the moment.
pub const UNKNOWN: &str = "unknown";

/// A guest as one list shows it, completed by what is known from before.
#[derive(Clone, Debug)]
pub struct GuestSeen<'a> {
    pub vmid: u32,
    pub kind: GuestKind,
    pub node: &'a str,
    pub name: Option<Cow<'a, str>>,
    pub status: &'a str,
    pub template: bool,
    pub tags: Option<Cow<'a, str>>,
    pub pool: Option<&'a str>,
    pub lock: Option<&'a str>,
    pub ha_state: Option<&'a str>,
    pub cpus: Option<u32>,
    pub memory_bytes: Option<u64>,
    pub disk_bytes: Option<u64>,
}

/// Whether the row of a list carries what pvestatd broadcasts: name, template, sizes.
///
/// It does not for the first seconds of a new guest and after its node was away for five
/// minutes (pve-manager: PVE/API2Tools.pm:38-145); what is missing then says nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Broadcast {
    Complete,
    Missing,
}

impl<'a> GuestSeen<'a> {
    /// Fills what PVE does not know at the moment with what it said before.
    #[must_use]
    pub fn completed_by(mut self, broadcast: Broadcast, known: Option<&'a Guest>) -> Self {
        let known = known.filter(|known| known.kind == self.kind);
        if let (Broadcast::Missing, Some(known)) = (broadcast, known) {
            self.template = known.template;
            self.name = self.name.or(known.name.as_deref().map(Cow::Borrowed));
            self.cpus = self.cpus.or(known.cpus);
            self.memory_bytes = self.memory_bytes.or(known.memory_bytes);
            self.disk_bytes = self.disk_bytes.or(known.disk_bytes);
        }
        self
    }

    /// PVE shows the last status of a guest for minutes after its node went away; we do not.
    #[must_use]
    pub fn on_a_silent_node(mut self) -> Self {
        self.status = UNKNOWN;
        self
    }

    pub fn fingerprint(&self) -> u64 {
        Fingerprint::default()
            .number(Some(u64::from(self.vmid)))
            .text(Some(self.kind.as_str()))
            .text(Some(self.node))
            .text(self.name.as_deref())
            .text(Some(self.status))
            .number(Some(u64::from(self.template)))
            .set(self.tags.as_deref(), ';')
            .text(self.pool)
            .text(self.lock)
            .text(self.ha_state)
            .number(self.cpus.map(u64::from))
            .number(self.memory_bytes)
            .number(self.disk_bytes)
            .finish()
    }

    pub fn build(&self, fingerprint: u64, words: &Interner) -> Guest {
        Guest {
            vmid: self.vmid,
            kind: self.kind,
            template: self.template,
            node: words.get(self.node),
            name: self.name.as_deref().map(Box::from),
            status: words.get(self.status),
            tags: self.tags.as_deref().map(|tags| words.get(&sorted(tags, ';'))),
            pool: self.pool.map(|pool| words.get(pool)),
            lock: self.lock.map(|lock| words.get(lock)),
            ha_state: self.ha_state.map(|state| words.get(state)),
            cpus: self.cpus,
            memory_bytes: self.memory_bytes,
            disk_bytes: self.disk_bytes,
            fingerprint,
        }
    }
}

/// A member as one list shows it, with its address from `/cluster/status`.
#[derive(Clone, Copy, Debug)]
pub struct NodeSeen<'a> {
    pub name: &'a str,
    pub status: &'a str,
    pub ip: Option<&'a str>,
    pub cpus: Option<u32>,
    pub memory_bytes: Option<u64>,
}

impl<'a> NodeSeen<'a> {
    /// Keeps what PVE does not tell of a node that is offline, or without Sys.Audit at the moment.
    #[must_use]
    pub fn completed_by(mut self, known: Option<&'a Node>) -> Self {
        if let Some(known) = known {
            self.ip = self.ip.or(known.ip.as_deref());
            self.cpus = self.cpus.or(known.cpus);
            self.memory_bytes = self.memory_bytes.or(known.memory_bytes);
        }
        self
    }

    pub fn fingerprint(&self) -> u64 {
        Fingerprint::default()
            .text(Some(self.name))
            .text(Some(self.status))
            .text(self.ip)
            .number(self.cpus.map(u64::from))
            .number(self.memory_bytes)
            .finish()
    }

    pub fn build(&self, fingerprint: u64, words: &Interner) -> Node {
        Node {
            name: words.get(self.name),
            status: words.get(self.status),
            ip: self.ip.map(Box::from),
            cpus: self.cpus,
            memory_bytes: self.memory_bytes,
            fingerprint,
        }
    }
}

/// A storage of one node as one list shows it.
#[derive(Clone, Copy, Debug)]
pub struct StorageSeen<'a> {
    pub node: &'a str,
    pub storage: &'a str,
    pub plugin: &'a str,
    pub content: &'a str,
    pub shared: bool,
    pub status: &'a str,
}

impl StorageSeen<'_> {
    pub fn fingerprint(&self) -> u64 {
        Fingerprint::default()
            .text(Some(self.node))
            .text(Some(self.storage))
            .text(Some(self.plugin))
            .set(Some(self.content), ',')
            .number(Some(u64::from(self.shared)))
            .text(Some(self.status))
            .finish()
    }

    pub fn build(&self, fingerprint: u64, words: &Interner) -> Storage {
        Storage {
            key: StorageKey { node: words.get(self.node), storage: words.get(self.storage) },
            plugin: words.get(self.plugin),
            content: words.get(&sorted(self.content, ',')),
            shared: self.shared,
            status: words.get(self.status),
            fingerprint,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> GuestSeen<'static> {
        GuestSeen {
            vmid: 100,
            kind: GuestKind::Qemu,
            node: "pve1",
            name: Some("web".into()),
            status: "running",
            template: false,
            tags: Some("prod;web".into()),
            pool: None,
            lock: None,
            ha_state: None,
            cpus: Some(2),
            memory_bytes: Some(1 << 30),
            disk_bytes: Some(1 << 33),
        }
    }

    fn built(seen: &GuestSeen<'_>) -> Guest {
        seen.build(seen.fingerprint(), &Interner::default())
    }

    /// A12
    #[test]
    fn a_guest_without_broadcast_keeps_its_last_good_values_and_shows_its_state() {
        let known = built(&GuestSeen { template: true, ..seen() });
        let bare = GuestSeen {
            name: None,
            status: UNKNOWN,
            template: false,
            cpus: None,
            memory_bytes: None,
            disk_bytes: None,
            ..seen()
        };

        let completed = built(&bare.completed_by(Broadcast::Missing, Some(&known)));

        assert_eq!(&*completed.status, UNKNOWN);
        assert_eq!(
            Guest { status: known.status.clone(), fingerprint: known.fingerprint, ..completed },
            known
        );
    }

    /// A12
    #[test]
    fn a_new_guest_without_broadcast_is_shown_without_a_name() {
        let bare = GuestSeen { name: None, status: UNKNOWN, ..seen() };

        let completed = built(&bare.completed_by(Broadcast::Missing, None));

        assert_eq!((completed.name, &*completed.status), (None, UNKNOWN));
    }

    #[test]
    fn a_container_inherits_nothing_from_the_machine_that_had_its_number() {
        let machine = built(&seen());
        let container = GuestSeen { kind: GuestKind::Lxc, name: None, ..seen() };

        let completed = built(&container.completed_by(Broadcast::Missing, Some(&machine)));

        assert_eq!(completed.name, None);
    }

    /// A13
    #[test]
    fn a_silent_node_makes_its_guests_unknown_whatever_pve_still_says() {
        assert_eq!(&*built(&seen().on_a_silent_node()).status, UNKNOWN);
    }

    #[test]
    fn every_field_counts_as_a_change() {
        let base = seen().fingerprint();
        let changes = [
            GuestSeen { vmid: 101, ..seen() },
            GuestSeen { kind: GuestKind::Lxc, ..seen() },
            GuestSeen { node: "pve2", ..seen() },
            GuestSeen { name: None, ..seen() },
            GuestSeen { status: "stopped", ..seen() },
            GuestSeen { template: true, ..seen() },
            GuestSeen { tags: None, ..seen() },
            GuestSeen { pool: Some("p"), ..seen() },
            GuestSeen { lock: Some("clone"), ..seen() },
            GuestSeen { ha_state: Some("started"), ..seen() },
            GuestSeen { cpus: Some(4), ..seen() },
            GuestSeen { memory_bytes: Some(1), ..seen() },
            GuestSeen { disk_bytes: Some(1), ..seen() },
        ];

        assert!(changes.iter().all(|changed| changed.fingerprint() != base));
    }
}
