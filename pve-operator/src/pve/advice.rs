//! What to do about a failure: when to try again, and what a person can change.

use super::{DownloadFailure, Refusal};

/// When it makes sense to try again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Again {
    /// In seconds.
    Soon,
    /// In minutes.
    Later,
    /// After a person has changed something.
    Never,
}

impl Refusal {
    /// PVE's words, and the [`advice`](Self::advice) behind them where there is any.
    pub fn explained(&self, words: String) -> String {
        let advice = self.advice();
        if advice.is_empty() { words } else { format!("{words} ({advice})") }
    }

    pub fn again(&self) -> Again {
        match self {
            Self::ConfigPermissionDenied
            | Self::VmidTaken
            | Self::WriteLock
            | Self::GuestMissing
            | Self::Killed
            | Self::Timeout
            | Self::AlreadyTemplate
            | Self::AlreadyRunning
            | Self::ConfigChanged
            | Self::ChecksumMismatch { existing: true }
            | Self::FileExists => Again::Soon,
            Self::NoQuorum
            | Self::Locked { .. }
            | Self::BaseInUse
            | Self::NoSpace
            | Self::ChecksumMismatch { existing: false }
            | Self::StorageOffline
            | Self::VolumeMissing
            | Self::GuestRunning
            | Self::NodeMissing
            | Self::Interrupted
            | Self::Other => Again::Later,
            Self::DownloadFailed(failure) => failure.again(),
            Self::NotAnImage
            | Self::ContentNotEnabled
            | Self::StorageMissing
            | Self::NoLinkedClone
            | Self::NotShared
            | Self::Protected
            | Self::NoFreeVmid
            | Self::BridgeMissing
            | Self::PoolMissing
            | Self::Permission { .. } => Again::Never,
        }
    }

    /// A sentence for a person, to stand behind PVE's own words and not instead of them.
    pub fn advice(&self) -> String {
        match self {
            Self::NoQuorum => "the cluster has no quorum; this goes on once enough nodes are back",
            Self::ConfigPermissionDenied => {
                "the node had lost its cluster; this is tried again once it has quorum"
            }
            Self::VmidTaken => "somebody else took this VMID; another one is chosen",
            Self::NoFreeVmid => "widen the VMID range of the datacenter's options",
            Self::Locked { lock } => {
                return format!(
                    "if no task holds the lock '{lock}', an administrator can remove it with 'qm \
                     unlock VMID' on the node"
                );
            }
            Self::WriteLock => "a qemu-img still writes the disk; this is tried again",
            Self::BaseInUse => "remove its linked clones first",
            Self::NoSpace => "free space on the storage, or choose another one",
            Self::ChecksumMismatch { existing: true } | Self::FileExists => {
                "a file of this name is on the storage already; remove it"
            }
            Self::ChecksumMismatch { existing: false } => {
                "the file changed on its way; see what stands between the node and the operator"
            }
            Self::NotAnImage => "the file is not in the format that its name says",
            Self::ContentNotEnabled => {
                "enable the content type on the storage (Datacenter, Storage, Content), 'import' for \
                 images"
            }
            Self::StorageMissing => "name a storage that this node has",
            Self::StorageOffline => "the storage does not answer; see its mount or its server",
            Self::VolumeMissing => "the file is not on the storage any more; it is fetched again",
            Self::GuestMissing => "the guest is gone or on another node",
            Self::GuestRunning => "stop the guest first",
            Self::AlreadyRunning => "the guest runs already",
            Self::ConfigChanged => "somebody changed the guest meanwhile; it is looked at again",
            Self::Killed => "the worker was killed or the node went down",
            Self::Interrupted => "somebody stopped the task",
            Self::DownloadFailed(failure) => failure.advice(),
            Self::AlreadyTemplate => "the guest is a template already",
            Self::NoLinkedClone => "ask for a full clone",
            Self::NotShared => "clone on the node that has the disks, or keep them on shared storage",
            Self::Protected => "take the guest's protection away first",
            Self::BridgeMissing => "name a bridge that the node has",
            Self::PoolMissing => "create the pool, or name another one",
            Self::NodeMissing => "the cluster has no such node",
            Self::Permission { path: Some(path), privileges } => {
                return format!("grant the token {} on {path}", privileges.join(" or "));
            }
            Self::Permission { path: None, .. } => {
                "grant the token what this needs; with rights through a pool, name the pool"
            }
            Self::Timeout => "another task works on the guest; this is tried again",
            Self::Other => "see the task in PVE",
        }
        .to_owned()
    }
}

impl DownloadFailure {
    fn again(self) -> Again {
        match self {
            Self::Certificate => Again::Never,
            // Our own server's: the token of the URL ran out, or the file is being moved.
            Self::Status(403 | 404 | 410) => Again::Soon,
            Self::Status(_)
            | Self::ConnectionRefused
            | Self::Unresolved
            | Self::Unreachable
            | Self::Exit(_)
            | Self::Unknown => Again::Later,
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Self::Status(_) => {
                "what answered at the image URL does not give the file; see the http_proxy of the \
                 datacenter's options and what stands before the operator"
            }
            Self::ConnectionRefused => "nothing listens at the image URL; see its address and port",
            Self::Unresolved => "the node cannot resolve the host of the image URL",
            Self::Unreachable => "the node cannot reach the image URL; see routes and firewalls",
            Self::Certificate => {
                "the node does not trust the certificate of the image URL; install its CA there, or \
                 turn verification off"
            }
            Self::Exit(_) | Self::Unknown => "see the log of the task in PVE",
        }
    }
}
