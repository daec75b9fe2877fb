//! What the mirror keeps of a node, a guest and a storage.
//!
//! Only what a person or a scheduler would call a change is in here; numbers that move at
//! every poll are in [`usage`](super::usage). The fingerprint covers exactly these fields, is the
//! informer's version, and is stored in the column `resource_hash`, so that after a restart an
//! unchanged row is recognised without being written.

use std::sync::Arc;

use informer::Object;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use crate::pve::GuestKind;

/// A member of the cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Node {
    pub name: Arc<str>,
    /// `online`, `offline` or `unknown`.
    pub status: Arc<str>,
    /// None until `/cluster/status` told; for ever without Sys.Audit.
    pub ip: Option<Box<str>>,
    pub cpus: Option<u32>,
    pub memory_bytes: Option<u64>,
    pub fingerprint: u64,
}

/// A virtual machine or container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Guest {
    pub vmid: u32,
    pub kind: GuestKind,
    pub template: bool,
    pub node: Arc<str>,
    /// None while PVE has not told it yet.
    pub name: Option<Box<str>>,
    pub status: Arc<str>,
    /// Sorted, separated by `;`.
    pub tags: Option<Arc<str>>,
    pub pool: Option<Arc<str>>,
    pub lock: Option<Arc<str>>,
    pub ha_state: Option<Arc<str>>,
    /// Rounded up; a container may have a fraction of one.
    pub cpus: Option<u32>,
    pub memory_bytes: Option<u64>,
    pub disk_bytes: Option<u64>,
    pub fingerprint: u64,
}

/// One storage as one node sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Storage {
    pub key: StorageKey,
    /// `dir`, `nfs`, `rbd`, …
    pub plugin: Arc<str>,
    /// Sorted, separated by `,`.
    pub content: Arc<str>,
    pub shared: bool,
    /// `available` or `unknown`.
    pub status: Arc<str>,
    pub fingerprint: u64,
}

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct StorageKey {
    pub node: Arc<str>,
    pub storage: Arc<str>,
}

impl Object for Node {
    type Key = Arc<str>;

    fn key(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    fn version(&self) -> u64 {
        self.fingerprint
    }
}

impl Object for Guest {
    type Key = u32;

    fn key(&self) -> u32 {
        self.vmid
    }

    fn version(&self) -> u64 {
        self.fingerprint
    }

    /// A container under a number that was a virtual machine's is another guest.
    fn incarnation(&self) -> u64 {
        self.kind as u64
    }
}

impl Object for Storage {
    type Key = StorageKey;

    fn key(&self) -> StorageKey {
        self.key.clone()
    }

    fn version(&self) -> u64 {
        self.fingerprint
    }
}

/// Collects fields into one number; an absent field differs from an empty one.
///
/// The number is stored in tables: changing what goes in rewrites each row once.
#[derive(Default)]
#[expect(missing_debug_implementations, reason = "a half-made hash shows nothing")]
pub struct Fingerprint {
    state: Xxh3Default,
}

impl Fingerprint {
    pub fn text(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            None => self.state.update(&u32::MAX.to_le_bytes()),
            Some(text) => {
                self.state.update(&length(text).to_le_bytes());
                self.state.update(text.as_bytes());
            }
        }
        self
    }

    /// A list in one string, of which PVE shuffles the order: equal for every order.
    pub fn set(&mut self, list: Option<&str>, separator: char) -> &mut Self {
        match list {
            None => self.number(None),
            Some(list) => {
                let sum = words(list, separator)
                    .fold(0_u64, |sum, word| sum.wrapping_add(xxh3_64(word.as_bytes())));
                self.number(Some(sum))
            }
        }
    }

    pub fn number(&mut self, number: Option<u64>) -> &mut Self {
        let mut bytes = [0; 9];
        bytes[0] = u8::from(number.is_some());
        bytes[1..].copy_from_slice(&number.unwrap_or(0).to_le_bytes());
        self.state.update(&bytes);
        self
    }

    /// Never zero, which stands for "no fingerprint" in the tables.
    pub fn finish(&self) -> u64 {
        self.state.digest().max(1)
    }
}

fn length(text: &str) -> u32 {
    // Longer than 4 GiB does not come through the client's body limit.
    u32::try_from(text.len()).unwrap_or(u32::MAX - 1)
}

fn words(list: &str, separator: char) -> impl Iterator<Item = &str> {
    list.split(separator).map(str::trim).filter(|word| !word.is_empty())
}

/// A list in one string, in the one order that the tables hold.
pub fn sorted(list: &str, separator: char) -> String {
    let mut words: Vec<&str> = words(list, separator).collect();
    words.sort_unstable();
    words.dedup();
    words.join(separator.encode_utf8(&mut [0; 4]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(build: impl FnOnce(&mut Fingerprint) -> &mut Fingerprint) -> u64 {
        build(&mut Fingerprint::default()).finish()
    }

    /// A07
    #[test]
    fn the_order_inside_a_list_does_not_matter() {
        let one = of(|f| f.set(Some("images,iso,backup"), ','));
        let other = of(|f| f.set(Some("backup,images,iso"), ','));

        assert_eq!(one, other);
        assert_eq!(sorted("images,iso,backup", ','), "backup,images,iso");
    }

    #[test]
    fn absent_and_empty_differ_and_fields_do_not_run_together() {
        assert_ne!(of(|f| f.text(None)), of(|f| f.text(Some(""))));
        assert_ne!(of(|f| f.number(None)), of(|f| f.number(Some(0))));
        assert_ne!(
            of(|f| f.text(Some("ab")).text(Some("c"))),
            of(|f| f.text(Some("a")).text(Some("bc")))
        );
    }

    #[test]
    fn the_same_guest_has_the_same_fingerprint_for_ever() {
        let fingerprint = of(|f| f.number(Some(100)).text(Some("web")).set(Some("a;b"), ';'));

        assert_eq!(
            fingerprint, 0x9217_b4b3_54a9_3626,
            "changing it rewrites every row of every user once"
        );
    }
}
