//! What PVE's own words for a failure mean, so that what is done next does not hang on a sentence.
//!
//! PVE has no codes for what goes wrong in a task: it has the text of whatever died, be it Perl,
//! wget or qemu-img. Each text here was seen on PVE 9.2 or stands in its sources.

use super::PveError;

/// A failure of a task, or a refusal of a request, by its meaning.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// The node is in the smaller part of its cluster.
    NoQuorum,
    /// The cluster's file system took no change: quorum was lost meanwhile, or came back less than
    /// 5 s ago.
    ConfigPermissionDenied,
    VmidTaken,
    /// The range of the datacenter's options is used up.
    NoFreeVmid,
    /// The lock in the guest's configuration: `create`, `clone`, `backup`, `snapshot`, …
    Locked {
        lock: String,
    },
    /// A `qemu-img` still has the disk, perhaps of a task that was killed.
    WriteLock,
    /// Linked clones need the disk.
    BaseInUse,
    NoSpace,
    /// `existing`: the file on the storage is another one and was left alone; else what arrived is
    /// not what was sent.
    ChecksumMismatch {
        existing: bool,
    },
    /// A file of that name is there, and no checksum was given to compare it by.
    FileExists,
    NotAnImage,
    ContentNotEnabled,
    /// PVE knows no such storage, or not on this node.
    StorageMissing,
    /// It is there and does not answer.
    StorageOffline,
    /// The volume to import or to copy.
    VolumeMissing,
    /// No such guest on this node: gone, or moved to another one.
    GuestMissing,
    GuestRunning,
    /// What was to be started runs.
    AlreadyRunning,
    /// The configuration is not the one any more whose digest was given.
    ConfigChanged,
    /// The worker was killed or its node died; what it began may be there, and its children may
    /// still run.
    Killed,
    /// Somebody stopped the task; PVE cleaned up behind it.
    Interrupted,
    DownloadFailed(DownloadFailure),
    AlreadyTemplate,
    /// The guest or its storage has no base volume that a linked clone could refer to.
    NoLinkedClone,
    /// The disks of the source, or the storage for the clone, are not on all nodes.
    NotShared,
    /// The guest may not be removed: `protection: 1`.
    Protected,
    /// The network has no such bridge on that node.
    BridgeMissing,
    PoolMissing,
    /// The cluster has no node of that name, or it cannot be found.
    NodeMissing,
    /// 403, also inside a task. Empty where PVE does not say which; one of the privileges would do.
    Permission {
        path: Option<String>,
        privileges: Vec<String>,
    },
    /// Something else holds the guest's configuration.
    Timeout,
    Other,
}

/// Why wget brought no file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum DownloadFailure {
    /// What the server, or a proxy before it, answered.
    Status(u16),
    ConnectionRefused,
    Unresolved,
    /// No route, or no answer.
    Unreachable,
    Certificate,
    /// wget's own exit status (8 is an answer other than 200), without any word in the log.
    Exit(u32),
    Unknown,
}

/// What `text` means: the exit status of a task, or the message of an answer of 400 and above.
pub fn classify(text: &str) -> Refusal {
    let text = text.trim();
    if let Some(found) = permission(text) {
        return found;
    }
    if let Some(found) = download(text) {
        return found;
    }
    let has = |words: &str| text.contains(words);
    if let Some(lock) = between(text, "is locked (", ")") {
        return Refusal::Locked { lock: lock.to_owned() };
    }
    // From the particular to the general: many texts carry the command that failed.
    if has("no quorum?") {
        Refusal::NoQuorum
    } else if has("/etc/pve/") && has("Permission denied") {
        Refusal::ConfigPermissionDenied
    } else if is_taken(text) {
        Refusal::VmidTaken
    } else if has("unable to get any free VMID") {
        Refusal::NoFreeVmid
    } else if has("\"write\" lock") {
        Refusal::WriteLock
    } else if has("still in use by linked clone") {
        Refusal::BaseInUse
    } else if is_full(text) {
        Refusal::NoSpace
    } else if has("checksum mismatch: got") {
        Refusal::ChecksumMismatch { existing: text.ends_with("aborting") }
    } else if has("refusing to override existing file") {
        Refusal::FileExists
    } else if is_no_image(text) {
        Refusal::NotAnImage
    } else if is_other_content(text) {
        Refusal::ContentNotEnabled
    } else if is_guest_missing(text) {
        Refusal::GuestMissing
    } else if has("storage '") && (has("' does not exist") || has("is not available on node"))
        || has("No such storage")
    {
        Refusal::StorageMissing
    } else if has("is not online") || has("unable to activate storage") {
        Refusal::StorageOffline
    } else if has("bridge '") && has("' does not exist") {
        Refusal::BridgeMissing
    } else if has("volume '") && has("' does not exist")
        || has("failed to stat '")
        || has("volume_size_info on '")
        || has("file_size_info on '")
    {
        Refusal::VolumeMissing
    } else if has("received interrupt") || has("interrupted by signal") {
        Refusal::Interrupted
    } else if has("unexpected status")
        || has("got signal 9")
        || has("unable to get last line from task log")
    {
        Refusal::Killed
    } else if has("can't convert a template to a template") {
        Refusal::AlreadyTemplate
    } else if has("Linked clone feature is not supported") || has("not allowed for linked clones") {
        Refusal::NoLinkedClone
    } else if has("can't clone VM to node") || has("can't clone to non-shared storage") {
        Refusal::NotShared
    } else if has("protection mode enabled") {
        Refusal::Protected
    } else if has("is running - destroy failed") || has("if VM is running") {
        Refusal::GuestRunning
    } else if has("already running") {
        Refusal::AlreadyRunning
    } else if has("file change by other user") {
        Refusal::ConfigChanged
    } else if has("no such cluster node") || has("hostname lookup") {
        Refusal::NodeMissing
    } else if has("can't lock file") || has("got timeout") {
        Refusal::Timeout
    } else {
        Refusal::Other
    }
}

/// What a failed task means: its exit status, and for a download what wget wrote in the log.
pub fn classify_task<L: AsRef<str>>(exit_status: &str, log: &[L]) -> Refusal {
    match classify(exit_status) {
        Refusal::DownloadFailed(DownloadFailure::Exit(code)) => {
            let found = log.iter().rev().find_map(|line| wget_words(line.as_ref()));
            Refusal::DownloadFailed(found.unwrap_or(DownloadFailure::Exit(code)))
        }
        // qemu-img says why in a line of its own.
        Refusal::Other => {
            let full = log.iter().any(|line| is_full(line.as_ref()));
            if full { Refusal::NoSpace } else { Refusal::Other }
        }
        found => found,
    }
}

/// Why a task failed, in PVE's words: the last `TASK ERROR`, and before it what the program that
/// failed wrote itself, where the error is no more than its exit status. `None` if nothing failed.
///
/// URLs are cut after their host: their query may hold a token.
pub fn error_text<L: AsRef<str>>(log: &[L]) -> Option<String> {
    let at = log.iter().rposition(|line| line.as_ref().starts_with("TASK ERROR: "))?;
    let error = log[at].as_ref().trim_start_matches("TASK ERROR: ").trim();
    if !error.contains("exit code") {
        return Some(without_url_secrets(error));
    }
    let own = log[..at].iter().rev().map(|line| line.as_ref().trim()).find(|line| {
        wget_words(line).is_some() || line.starts_with("qemu-img: ") || line.starts_with("tar: ")
    });
    Some(without_url_secrets(&match own {
        Some(own) => format!("{error}: {own}"),
        None => error.to_owned(),
    }))
}

/// `text` with every URL cut after its host, and without what stands before an `@` there.
pub fn without_url_secrets(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || "'\"<>".contains(c));
        let (url, next) = after.split_at(end.unwrap_or(after.len()));
        let (authority, tail) = url.split_at(url.find(['/', '?', '#']).unwrap_or(url.len()));
        shown.push_str(authority.rsplit('@').next().unwrap_or_default());
        if !tail.is_empty() {
            shown.push_str("/…");
        }
        rest = next;
    }
    shown.push_str(rest);
    shown
}

impl Refusal {
    /// The name that metrics know it by.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NoQuorum => "no_quorum",
            Self::ConfigPermissionDenied => "config_permission_denied",
            Self::VmidTaken => "vmid_taken",
            Self::Locked { .. } => "locked",
            Self::WriteLock => "write_lock",
            Self::BaseInUse => "base_in_use",
            Self::NoSpace => "no_space",
            Self::ChecksumMismatch { .. } => "checksum_mismatch",
            Self::FileExists => "file_exists",
            Self::NotAnImage => "not_an_image",
            Self::ContentNotEnabled => "content_not_enabled",
            Self::StorageMissing => "storage_missing",
            Self::StorageOffline => "storage_offline",
            Self::VolumeMissing => "volume_missing",
            Self::GuestMissing => "guest_missing",
            Self::GuestRunning => "guest_running",
            Self::Killed => "killed",
            Self::Interrupted => "interrupted",
            Self::DownloadFailed(_) => "download_failed",
            Self::AlreadyTemplate => "already_template",
            Self::NoLinkedClone => "no_linked_clone",
            Self::NotShared => "not_shared",
            Self::Protected => "protected",
            Self::BridgeMissing => "bridge_missing",
            Self::PoolMissing => "pool_missing",
            Self::NodeMissing => "node_missing",
            Self::Permission { .. } => "permission",
            Self::Timeout => "timeout",
            Self::NoFreeVmid => "no_free_vmid",
            Self::AlreadyRunning => "already_running",
            Self::ConfigChanged => "config_changed",
            Self::Other => "other",
        }
    }

    /// What a refused request means; `None` where PVE did not speak.
    pub fn of(error: &PveError) -> Option<Self> {
        match error {
            PveError::Forbidden { path, privileges, message, .. } => match classify(message) {
                found @ Self::PoolMissing => Some(found),
                _ => Some(Self::Permission { path: path.clone(), privileges: privileges.clone() }),
            },
            PveError::Refused { message, errors, status: ..=501, .. } => {
                let mut texts = errors.values().chain([message]).map(|text| classify(text));
                Some(texts.find(|found| *found != Self::Other).unwrap_or(Self::Other))
            }
            _ => None,
        }
    }
}

/// `Permission check failed (/vms/505, VM.Config.Options)`, with or without what it checked.
fn permission(text: &str) -> Option<Refusal> {
    let (_, rest) = text.split_once("Permission check failed")?;
    let inner = between(rest, "(", ")").unwrap_or_default();
    if inner.starts_with("pool '") && inner.ends_with("does not exist") {
        return Some(Refusal::PoolMissing);
    }
    Some(match inner.split_once(", ") {
        Some((path, privileges)) if path.starts_with('/') => Refusal::Permission {
            path: Some(path.to_owned()),
            privileges: privileges.split('|').map(str::to_owned).collect(),
        },
        _ => Refusal::Permission { path: None, privileges: Vec::new() },
    })
}

/// `download failed: …` of a task, and `invalid server response: '…'` of a look at a URL.
fn download(text: &str) -> Option<Refusal> {
    if let Some((_, words)) = text.split_once("download failed: ") {
        if is_full(words) {
            return Some(Refusal::NoSpace);
        }
        if words.contains("received interrupt") {
            return Some(Refusal::Interrupted);
        }
        let exit = || {
            let (_, code) = words.split_once("exit code ")?;
            Some(DownloadFailure::Exit(code.trim().parse().ok()?))
        };
        let failure = wget_words(words).or_else(exit).unwrap_or(DownloadFailure::Unknown);
        return Some(Refusal::DownloadFailed(failure));
    }
    let (_, words) = text.split_once("invalid server response: '")?;
    let status = words.split(' ').next().and_then(|code| code.parse().ok());
    let failure = wget_words(words).or(status.map(DownloadFailure::Status));
    Some(Refusal::DownloadFailed(failure.unwrap_or(DownloadFailure::Unknown)))
}

/// Why there was no file, if this line says it.
fn wget_words(line: &str) -> Option<DownloadFailure> {
    if let Some((_, rest)) = line.split_once(" ERROR ") {
        let status = rest.split(':').next().and_then(|code| code.trim().parse().ok());
        return status.map(DownloadFailure::Status);
    }
    let has = |words: &str| line.contains(words);
    if has("Connection refused") {
        Some(DownloadFailure::ConnectionRefused)
    } else if has("unable to resolve") || has("in name resolution") || has("Bad hostname") {
        Some(DownloadFailure::Unresolved)
    } else if has("ERROR: The certificate of") || has("certificate verify failed") {
        Some(DownloadFailure::Certificate)
    } else if has("No route to host")
        || has("unreachable")
        || has("timed out")
        || has("Can't connect")
    {
        Some(DownloadFailure::Unreachable)
    } else {
        None
    }
}

/// Three texts: of a guest on another node, of a race between two nodes, and of a clone.
fn is_taken(text: &str) -> bool {
    text.contains("already exists on node '")
        || text.contains("config file already exists")
        || (text.contains(".conf' failed") && text.contains("File exists"))
        || (text.starts_with("VM ") && text.ends_with(" already exists"))
}

/// Files, LVM-thin (pve-storage: `src/PVE/Storage/LvmThinPlugin.pm`), LVM, ZFS and Ceph.
fn is_full(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let words = [
        "no space left on device",
        "not enough free space",
        "not enough space",
        "insufficient free space",
        "free space in thin pool",
        "out of space",
        "disk quota exceeded",
    ];
    words.iter().any(|words| text.contains(words))
}

fn is_no_image(text: &str) -> bool {
    text.contains("failed to verify file")
        || (text.contains("Image is not in ") && text.contains(" format"))
        || text.contains("invalid VMDK image descriptor")
        || (text.contains("'tar -t -f ") && text.contains("failed: exit code"))
}

fn is_other_content(text: &str) -> bool {
    (text.contains("does not support '") && text.contains("' content"))
        || text.contains("is not configured for content-type")
        || (text.contains("ontent type") && text.contains("not enabled"))
        || text.contains("does not support content-type")
}

fn is_guest_missing(text: &str) -> bool {
    (text.contains("onfiguration file") && text.contains(".conf' does not exist"))
        || text.contains("unable to find configuration file for VM")
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    rest.split_once(end).map(|(inner, _)| inner)
}
