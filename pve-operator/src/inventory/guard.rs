//! Decides whether what a list no longer shows may be deleted from the mirror.
//!
//! PVE leaves out what a token may not see and answers 200, so a shorter list is a
//! question, not an answer. Each object that is missing is held until
//!
//! - the token still may see it, were it there,
//! - the node that owned it is an online member, or has left the cluster,
//! - the cluster is quorate, where the token may know that,
//! - and this was so for two lists in a row, or three when much vanishes at once.
//!
//! Pure: the poller brings the facts, and asks again at the next list.

use std::{collections::HashMap, hash::Hash};

use crate::pve::ClusterStatus;

/// Lists in a row that must lack an object before it is believed to be gone.
const LISTS: u32 = 2;
/// The same when more than [`mass`] objects vanish at once.
const LISTS_AFTER_MASS: u32 = 3;

/// How many objects may vanish at once without being suspicious: max(5, 20 %).
fn mass(total: usize) -> usize {
    (total / 5).max(5)
}

/// Whether the token could see the object if it were there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Audit {
    Granted,
    Missing,
}

/// What became of the node that the object was last seen on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Owner {
    /// An online member of the cluster.
    Member,
    /// No longer part of the cluster.
    Left,
    /// Offline, or in a state that PVE does not name: it cannot speak for its objects.
    Silent,
    /// A member that the list does not have, although PVE lists members whatever their state.
    Unlisted,
}

/// Whether the asked node speaks for the cluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Quorum {
    Yes,
    No,
    /// The token lacks Sys.Audit on `/`: PVE does not tell.
    NotShown,
}

impl From<&ClusterStatus> for Quorum {
    fn from(status: &ClusterStatus) -> Self {
        if status.quorate() { Self::Yes } else { Self::No }
    }
}

/// What one list, and the questions asked because of it, say about the cluster as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    pub quorum: Quorum,
    /// Elements of the list that could not be read.
    pub unreadable: usize,
}

/// One object that the last list lacked.
#[derive(Clone, Copy, Debug)]
pub struct Missing<K> {
    pub key: K,
    pub audit: Audit,
    pub owner: Owner,
}

/// Why objects are held although lists lack them; the most serious reason wins.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Doubt {
    /// Not yet absent from enough lists: nothing unusual.
    Waiting,
    /// The owning node is offline.
    OwnerSilent,
    /// More vanished at once than usual; one more list is waited for.
    MassVanished,
    /// The list lacks members of the cluster, so it is not whole.
    ListNotWhole,
    /// The list has elements that could not be read: the object may be one of them.
    Unreadable,
    /// The cluster, as seen from the asked node, has no quorum.
    NoQuorum,
    /// The token may no longer see such objects.
    AuditMissing,
}

impl Doubt {
    /// Whether a person should hear of it.
    pub fn is_suspicious(self) -> bool {
        matches!(
            self,
            Self::MassVanished
                | Self::ListNotWhole
                | Self::Unreadable
                | Self::NoQuorum
                | Self::AuditMissing
        )
    }
}

/// What the guard concludes from one list.
#[derive(Debug, Eq, PartialEq)]
pub struct Verdict<K> {
    /// Proven to be gone.
    pub gone: Vec<K>,
    /// How many are held.
    pub held: usize,
    /// The most serious reason, if any are held.
    pub doubt: Option<Doubt>,
}

/// Remembers for how many lists in a row each object has been absent with good proof.
#[derive(Debug)]
pub struct Guard<K> {
    absent: HashMap<K, u32>,
}

impl<K> Default for Guard<K> {
    fn default() -> Self {
        Self { absent: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash> Guard<K> {
    /// Nothing is missing from this list.
    pub fn all_present(&mut self) {
        self.absent.clear();
    }

    /// Judges the objects that one list lacks, out of `total` known ones.
    ///
    /// An object that is back, or whose proof is not good this time, starts again from nothing.
    pub fn judge(
        &mut self,
        missing: &[Missing<K>],
        total: usize,
        list: Circumstances,
    ) -> Verdict<K> {
        let en_masse = missing.len() > mass(total);
        let needed = if en_masse { LISTS_AFTER_MASS } else { LISTS };
        let before = std::mem::take(&mut self.absent);
        let mut verdict = Verdict { gone: Vec::new(), held: 0, doubt: None };
        for object in missing {
            let doubt = match (object.audit, list.quorum, object.owner) {
                (Audit::Missing, _, _) => Doubt::AuditMissing,
                (_, Quorum::No, _) => Doubt::NoQuorum,
                _ if list.unreadable > 0 => Doubt::Unreadable,
                (_, _, Owner::Unlisted) => Doubt::ListNotWhole,
                (_, _, Owner::Silent) => Doubt::OwnerSilent,
                (Audit::Granted, Quorum::Yes | Quorum::NotShown, Owner::Member | Owner::Left) => {
                    let lists = before.get(&object.key).map_or(1, |lists| lists + 1);
                    if lists >= needed {
                        verdict.gone.push(object.key.clone());
                        continue;
                    }
                    self.absent.insert(object.key.clone(), lists);
                    if en_masse { Doubt::MassVanished } else { Doubt::Waiting }
                }
            };
            verdict.held += 1;
            verdict.doubt = verdict.doubt.max(Some(doubt));
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(quorum: Quorum) -> Circumstances {
        Circumstances { quorum, unreadable: 0 }
    }

    fn missing(key: u32) -> Missing<u32> {
        Missing { key, audit: Audit::Granted, owner: Owner::Member }
    }

    /// A05
    #[test]
    fn one_guest_is_gone_after_two_lists_without_it() {
        let mut guard = Guard::default();

        let first = guard.judge(&[missing(100)], 20, list(Quorum::Yes));
        let second = guard.judge(&[missing(100)], 20, list(Quorum::Yes));

        assert_eq!(first, Verdict { gone: vec![], held: 1, doubt: Some(Doubt::Waiting) });
        assert_eq!(second, Verdict { gone: vec![100], held: 0, doubt: None });
    }

    #[test]
    fn a_guest_that_comes_back_starts_again() {
        let mut guard = Guard::default();

        guard.judge(&[missing(100)], 20, list(Quorum::Yes));
        guard.all_present();
        let again = guard.judge(&[missing(100)], 20, list(Quorum::Yes));

        assert_eq!(again.gone, Vec::<u32>::new());
    }

    #[test]
    fn many_at_once_need_a_third_list() {
        let all: Vec<_> = (100..106).map(missing).collect();
        let mut guard = Guard::default();

        let verdicts = [(); 3].map(|()| guard.judge(&all, 20, list(Quorum::Yes)));

        assert_eq!(verdicts[0].doubt, Some(Doubt::MassVanished));
        assert_eq!(verdicts[1].gone, Vec::<u32>::new());
        assert_eq!(verdicts[2].gone.len(), 6);
    }

    /// A01
    #[test]
    fn without_audit_nothing_is_ever_gone() {
        let lost = Missing { key: 100, audit: Audit::Missing, owner: Owner::Member };
        let mut guard = Guard::default();

        for _ in 0..1000 {
            let verdict = guard.judge(&[lost], 20, list(Quorum::Yes));
            assert_eq!(
                verdict,
                Verdict { gone: vec![], held: 1, doubt: Some(Doubt::AuditMissing) }
            );
        }
    }

    /// A14
    #[test]
    fn an_element_that_cannot_be_read_may_be_the_missing_one() {
        let list = Circumstances { quorum: Quorum::Yes, unreadable: 1 };
        let mut guard = Guard::default();

        for _ in 0..5 {
            let verdict = guard.judge(&[missing(100)], 20, list);
            assert_eq!(verdict.doubt, Some(Doubt::Unreadable));
        }
    }

    /// A01
    #[test]
    fn a_list_without_its_members_proves_nothing_and_is_told() {
        let lost = Missing { key: 100, audit: Audit::Granted, owner: Owner::Unlisted };
        let mut guard = Guard::default();

        for _ in 0..5 {
            let verdict = guard.judge(&[lost], 20, list(Quorum::Yes));
            assert_eq!((verdict.held, verdict.doubt), (1, Some(Doubt::ListNotWhole)));
        }
        assert!(Doubt::ListNotWhole.is_suspicious());
    }

    #[test]
    fn a_node_that_left_cannot_hold_its_guests_back() {
        let orphan = Missing { key: 100, audit: Audit::Granted, owner: Owner::Left };
        let mut guard = Guard::default();

        guard.judge(&[orphan], 20, list(Quorum::NotShown));

        assert_eq!(guard.judge(&[orphan], 20, list(Quorum::NotShown)).gone, [100]);
    }

    fn facts() -> impl Strategy<Value = (Audit, Owner, Quorum)> {
        (
            prop_oneof![Just(Audit::Granted), Just(Audit::Missing)],
            prop_oneof![
                Just(Owner::Member),
                Just(Owner::Left),
                Just(Owner::Silent),
                Just(Owner::Unlisted),
            ],
            prop_oneof![Just(Quorum::Yes), Just(Quorum::No), Just(Quorum::NotShown)],
        )
    }

    proptest! {
        /// Whatever happened before, what is deleted had good proof in this list and in the one before.
        #[test]
        fn only_two_good_proofs_in_a_row_delete(
            history in prop::collection::vec((any::<bool>(), facts()), 1..40),
        ) {
            let mut guard = Guard::default();
            let mut good_in_a_row = 0;
            for (present, (audit, owner, quorum)) in history {
                if present {
                    guard.all_present();
                    good_in_a_row = 0;
                    continue;
                }
                let good = audit == Audit::Granted
                    && matches!(owner, Owner::Member | Owner::Left)
                    && quorum != Quorum::No;
                good_in_a_row = if good { good_in_a_row + 1 } else { 0 };

                let verdict = guard.judge(&[Missing { key: 1, audit, owner }], 20, list(quorum));

                prop_assert_eq!(verdict.gone.len() == 1, good_in_a_row == 2);
                if good_in_a_row == 2 {
                    good_in_a_row = 0; // deleted: the mirror no longer knows it
                }
            }
        }
    }
}
