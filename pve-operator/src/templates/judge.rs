//! What follows from a failure. Pure.

use super::plan::Act;
use crate::pve::{DownloadFailure, Refusal};

/// What follows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// Another try, after a pause that grows.
    Again,
    /// Another try whenever it can be, however often: time or a person will end it.
    Hold,
    /// Nothing more until somebody wants it.
    Fail,
    /// The VMID is somebody else's: another one, at once.
    Renumber,
    /// The file that lies there is another one: away with it, once.
    Refetch,
    /// Go on without; what is left is remembered.
    Leave,
}

/// The circumstances of a failure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub act: Act,
    /// The instance is cancelled or to go.
    pub taking_away: bool,
    /// How often this attempt failed before.
    pub failures: u32,
    /// How often it may.
    pub tries: u32,
    /// The file was thrown away once already because it was another one.
    pub refetched: bool,
}

/// What follows from a failure.
#[must_use]
pub(super) fn judge(case: Case, refusal: &Refusal) -> Verdict {
    match (case.act, refusal) {
        // It goes on by itself once enough nodes are back.
        (_, Refusal::NoQuorum | Refusal::ConfigPermissionDenied)
        // The child of a worker that was killed still writes.
        | (Act::Destroy, Refusal::WriteLock) => return Verdict::Hold,
        // The file is of no more use; the template, or its removal, does not wait for it.
        (Act::RemoveFile, Refusal::Permission { .. } | Refusal::StorageMissing) => {
            return Verdict::Leave;
        }
        (Act::Destroy, Refusal::GuestMissing) => return Verdict::Again,
        (Act::Shell, Refusal::VmidTaken) => return Verdict::Renumber,
        (Act::Fetch, Refusal::ChecksumMismatch { existing: true } | Refusal::FileExists)
            if !case.refetched =>
        {
            return Verdict::Refetch;
        }
        _ => {}
    }
    if case.taking_away {
        return Verdict::Hold;
    }
    if needs_person(refusal) || case.failures + 1 >= case.tries {
        return Verdict::Fail;
    }
    Verdict::Again
}

/// Whether trying again is of no use before somebody has changed something.
fn needs_person(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::NoSpace
        | Refusal::NotAnImage
        | Refusal::ContentNotEnabled
        | Refusal::StorageMissing
        | Refusal::NoLinkedClone
        | Refusal::NotShared
        | Refusal::Protected
        | Refusal::BridgeMissing
        | Refusal::PoolMissing
        | Refusal::Permission { .. }
        // Thrown away once, and there again.
        | Refusal::ChecksumMismatch { existing: true }
        | Refusal::FileExists => true,
        // Our own address says that the node's token is not good, or that there is no such file.
        Refusal::DownloadFailed(failure) => {
            matches!(failure, DownloadFailure::Status(404 | 410))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(act: Act) -> Case {
        Case { act, taking_away: false, failures: 0, tries: 3, refetched: false }
    }

    #[test]
    fn a_number_that_is_taken_is_left_to_whoever_has_it() {
        assert_eq!(judge(case(Act::Shell), &Refusal::VmidTaken), Verdict::Renumber);
    }

    /// Harvester#9813: a file that is another one must not be fetched for ever.
    #[test]
    fn another_file_of_our_name_goes_once_and_then_it_fails() {
        let mismatch = Refusal::ChecksumMismatch { existing: true };
        assert_eq!(judge(case(Act::Fetch), &mismatch), Verdict::Refetch);
        let again = Case { refetched: true, ..case(Act::Fetch) };
        assert_eq!(judge(again, &mismatch), Verdict::Fail);
    }

    /// B05: what only a person can mend fails at once, in PVE's words; the rest is tried again.
    #[test]
    fn only_what_time_can_heal_is_tried_again() {
        let permission = Refusal::Permission { path: None, privileges: Vec::new() };
        for refusal in [Refusal::NoSpace, Refusal::NotAnImage, permission] {
            assert_eq!(judge(case(Act::Import), &refusal), Verdict::Fail, "{refusal:?}");
        }
        for refusal in [Refusal::Killed, Refusal::Interrupted, Refusal::Timeout, Refusal::Other] {
            assert_eq!(judge(case(Act::Import), &refusal), Verdict::Again, "{refusal:?}");
            let last = Case { failures: 2, ..case(Act::Import) };
            assert_eq!(judge(last, &refusal), Verdict::Fail, "{refusal:?}");
        }
    }

    /// B10, B17: a delete waits for the node, for quorum, for linked clones; it never gives up.
    #[test]
    fn what_is_to_go_is_never_given_up() {
        for refusal in [Refusal::BaseInUse, Refusal::WriteLock, Refusal::Other, Refusal::NoSpace] {
            let case = Case { taking_away: true, failures: 99, ..case(Act::Destroy) };
            assert_eq!(judge(case, &refusal), Verdict::Hold, "{refusal:?}");
        }
        for act in Act::ALL {
            let case = Case { failures: 99, ..case(act) };
            assert_eq!(judge(case, &Refusal::NoQuorum), Verdict::Hold, "{act:?}");
        }
    }

    /// B19: qemu-img may run on for as long as it takes to copy a disk.
    #[test]
    fn a_disk_that_is_still_written_is_waited_for() {
        let case = Case { failures: 99, ..case(Act::Destroy) };
        assert_eq!(judge(case, &Refusal::WriteLock), Verdict::Hold);
    }

    #[test]
    fn a_file_that_cannot_be_removed_holds_nothing_up() {
        let refusal = Refusal::Permission { path: None, privileges: Vec::new() };
        assert_eq!(judge(case(Act::RemoveFile), &refusal), Verdict::Leave);
    }
}
