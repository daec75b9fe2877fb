//! What to do next for one instance. Pure: no client, no database, no clock, no memory.
//!
//! ```text
//! Begin -> Reserve -> Fetch -> Shell -> Import -> Convert -> Unstage -> Publish
//!            ^           ^        |
//!            |Renumber   +--------+ Destroy: a shell whose import did not end well is made anew
//! ```
//!
//! The order of the arms is the argument. What somebody else owns is refused before anything could
//! touch it; what is under way is waited for; only then is something begun, and the first thing that
//! is missing decides what.

use schema::instance::{Desired, InstanceStatus};

/// Something that PVE was asked to do, as the row remembers it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Act {
    Fetch,
    Shell,
    Import,
    Convert,
    Destroy,
    RemoveFile,
}

impl Act {
    pub const ALL: [Self; 6] =
        [Self::Fetch, Self::Shell, Self::Import, Self::Convert, Self::Destroy, Self::RemoveFile];

    /// The word in the column `asked`, in metrics and in what people read as `step`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Shell => "shell",
            Self::Import => "import",
            Self::Convert => "template",
            Self::Destroy => "destroy",
            Self::RemoveFile => "unstage",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|act| act.as_str() == word)
    }
}

/// What the row says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "facts that hold or do not, each on its own")]
pub struct Wish {
    pub desired: Desired,
    pub status: InstanceStatus,
    /// Somebody wants it tried (again): the row's generation is ahead.
    pub fresh: bool,
    /// It was cancelled, and nothing of it is left.
    pub cancelled: bool,
    /// A VMID is reserved.
    pub numbered: bool,
    /// What PVE was asked for without a task being known since, and not too long ago.
    pub unanswered: Option<Act>,
    /// The guest was made by the last act, so nothing can be in it.
    pub new_shell: bool,
    /// What lies in the staging is known to be another file than ours.
    pub wrong_file: bool,
    /// The target storage can make base images, so a template without one is not finished.
    pub has_base: bool,
}

/// What PVE shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seen {
    pub node: Node,
    pub task: Task,
    pub guest: Guest,
    pub file: File,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Node {
    Ready,
    /// Offline, or not answering.
    Away,
    NoQuorum,
}

/// Work of ours that goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Task {
    None,
    Running(Act),
}

/// What has the VMID that the row reserved.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Guest {
    Absent,
    /// Something that does not carry our marker.
    Stranger,
    /// Locked and empty: a create that died, ours or somebody else's. It carries no marker, so
    /// nobody may touch it.
    Husk,
    Ours(Ours),
}

/// A guest with the marker of this instance.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "facts that hold or do not, each on its own")]
pub struct Ours {
    /// On the instance's node.
    pub at_home: bool,
    pub locked: bool,
    pub template: bool,
    pub disk: Disk,
    /// Disks that nothing uses: two imports went into one guest.
    pub has_unused: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Disk {
    None,
    Plain,
    /// A base image, of which linked clones can be made.
    Base,
}

/// The image in the staging.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum File {
    Absent,
    Whole,
    /// There, of another size.
    Damaged,
}

/// The next thing to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Nothing, until something changes.
    Settle,
    /// Start an attempt: counts it and empties what the last one said.
    Begin,
    Wait(Why),
    Reserve,
    /// Leave the VMID to whoever has it, and take another.
    Renumber {
        husk: bool,
    },
    Ask(Act),
    /// Stop the task that runs.
    Stop,
    /// Everything is there: say so.
    Publish,
    /// The guest of a finished template is gone or was replaced: say so.
    Lost,
    /// The guest was moved to another node by somebody.
    Moved,
    /// Nothing is left of what was cancelled: say so.
    Cancelled,
    /// Nothing is left: the row can go.
    Gone,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Why {
    Task,
    /// An answer was lost: what was asked may still begin.
    Answer(Act),
    Node,
    Quorum,
    Lock,
}

/// What to do next.
#[must_use]
pub fn plan(wish: &Wish, seen: &Seen) -> Step {
    match wish.desired {
        Desired::Available => make(wish, *seen),
        Desired::Cancelled if wish.cancelled || wish.status == InstanceStatus::Available => {
            Step::Settle
        }
        Desired::Cancelled => unmake(wish, *seen, Step::Cancelled),
        Desired::Absent if wish.status == InstanceStatus::Deleted => Step::Settle,
        Desired::Absent => unmake(wish, *seen, Step::Gone),
    }
}

fn make(wish: &Wish, seen: Seen) -> Step {
    if wish.fresh {
        return Step::Begin;
    }
    match wish.status {
        InstanceStatus::Failed => return tidy(wish, seen),
        InstanceStatus::Deleting | InstanceStatus::Deleted => return Step::Settle,
        InstanceStatus::Available => {
            let away = seen.node != Node::Ready;
            let gone = matches!(seen.guest, Guest::Absent | Guest::Stranger);
            return if gone && !away { Step::Lost } else { Step::Settle };
        }
        InstanceStatus::Pending | InstanceStatus::Syncing => {}
    }
    if let Some(wait) = wait(wish, seen) {
        return wait;
    }
    if !wish.numbered {
        return Step::Reserve;
    }
    match seen.guest {
        Guest::Stranger => Step::Renumber { husk: false },
        Guest::Husk => Step::Renumber { husk: true },
        Guest::Absent => with_file(wish, seen, Act::Shell),
        Guest::Ours(guest) if guest.locked => Step::Wait(Why::Lock),
        Guest::Ours(guest) if !guest.at_home => Step::Moved,
        // A disk beside it, or an import that did not end well: its volumes go with the guest only.
        Guest::Ours(guest) if guest.has_unused => Step::Ask(Act::Destroy),
        Guest::Ours(Ours { disk: Disk::None, .. }) if !wish.new_shell => Step::Ask(Act::Destroy),
        Guest::Ours(Ours { disk: Disk::None, .. }) => with_file(wish, seen, Act::Import),
        Guest::Ours(Ours { template: true, disk, .. }) if disk == Disk::Base || !wish.has_base => {
            match seen.file {
                File::Absent => Step::Publish,
                File::Whole | File::Damaged => Step::Ask(Act::RemoveFile),
            }
        }
        Guest::Ours(_) => Step::Ask(Act::Convert),
    }
}

/// Takes away what a failed attempt left. A finished template is worth keeping: a retry finds it.
fn tidy(wish: &Wish, seen: Seen) -> Step {
    if !wish.numbered {
        return Step::Settle;
    }
    if let Some(wait) = wait(wish, seen) {
        return wait;
    }
    match (seen.guest, seen.file) {
        (Guest::Ours(guest), _) if guest.locked => Step::Wait(Why::Lock),
        (Guest::Ours(guest), _) if !guest.template => Step::Ask(Act::Destroy),
        (_, File::Whole | File::Damaged) => Step::Ask(Act::RemoveFile),
        (_, File::Absent) => Step::Settle,
    }
}

/// `act` needs the image on the node.
fn with_file(wish: &Wish, seen: Seen, act: Act) -> Step {
    match seen.file {
        File::Absent => Step::Ask(Act::Fetch),
        File::Damaged => Step::Ask(Act::RemoveFile),
        File::Whole if wish.wrong_file => Step::Ask(Act::RemoveFile),
        File::Whole => Step::Ask(act),
    }
}

/// Takes away what is ours, then answers `end`.
fn unmake(wish: &Wish, seen: Seen, end: Step) -> Step {
    match seen.task {
        Task::Running(Act::Destroy | Act::RemoveFile) => return Step::Wait(Why::Task),
        Task::Running(_) => return Step::Stop,
        Task::None => {}
    }
    // Nothing was ever asked of PVE, so nothing is there, whether the node answers or not.
    if !wish.numbered && wish.unanswered.is_none() {
        return end;
    }
    if let Some(wait) = wait(wish, seen) {
        return wait;
    }
    match (seen.guest, seen.file) {
        (Guest::Ours(guest), _) if guest.locked => Step::Wait(Why::Lock),
        (Guest::Ours(_), _) => Step::Ask(Act::Destroy),
        (_, File::Whole | File::Damaged) => Step::Ask(Act::RemoveFile),
        (Guest::Absent | Guest::Stranger | Guest::Husk, File::Absent) => end,
    }
}

/// What must be over, or back, before anything is begun.
fn wait(wish: &Wish, seen: Seen) -> Option<Step> {
    if let Task::Running(_) = seen.task {
        return Some(Step::Wait(Why::Task));
    }
    match seen.node {
        Node::Ready => {}
        Node::Away => return Some(Step::Wait(Why::Node)),
        Node::NoQuorum => return Some(Step::Wait(Why::Quorum)),
    }
    match wish.unanswered {
        Some(act) if !has_happened(act, seen) => Some(Step::Wait(Why::Answer(act))),
        _ => None,
    }
}

/// Whether what is seen shows the end of `act`, so that no answer needs to be waited for.
fn has_happened(act: Act, seen: Seen) -> bool {
    let ours = match seen.guest {
        Guest::Ours(guest) => Some(guest),
        Guest::Absent | Guest::Stranger | Guest::Husk => None,
    };
    match act {
        Act::Fetch => seen.file == File::Whole,
        Act::Shell => ours.is_some() || seen.guest == Guest::Stranger,
        Act::Import => ours.is_none_or(|guest| guest.disk != Disk::None),
        Act::Convert => ours.is_none_or(|guest| guest.template && guest.disk == Disk::Base),
        Act::Destroy => ours.is_none(),
        Act::RemoveFile => seen.file == File::Absent,
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
