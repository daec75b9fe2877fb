//! What can go wrong with the image store, sorted by what the caller does about it.

use std::io;
use std::path::{Path, PathBuf};

use super::ObjectName;

/// The cause of an [`ImageError`], already freed of what S3 repeats of a signed request.
pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why the image store did not do what we asked.
///
/// `Display` says what failed and leaves the cause to [`source`](std::error::Error::source).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The URL cannot be used; no retry will help.
    #[error("image store URL: {0}")]
    Url(String),
    /// Somebody else writes to this folder.
    #[error(
        "another process already writes to the image folder {}: a folder serves one API process; \
         stop the other one, or keep images in a bucket (s3://…), which serves many",
        folder.display()
    )]
    InUse { folder: PathBuf },
    /// The store was opened with [`open_read_only`](super::ImageStore::open_read_only).
    #[error("this process opened the image store for reading only")]
    ReadOnly,
    /// No room left: free some, then the same call may succeed.
    #[error("{doing}: the image store is full; free some space and try again")]
    Full { doing: String, source: Cause },
    /// The system or S3 refuses this process: somebody has to change rights or credentials.
    #[error(
        "{doing}: this process is not allowed to; check the folder's owner and mode, or the \
         bucket's credentials and policy"
    )]
    Denied { doing: String, source: Cause },
    /// The store does not answer, or answers nonsense. Retry.
    #[error("{doing}: the image store is not available")]
    Unavailable { doing: String, source: Cause },
    /// No such image, or no longer.
    #[error("no image {object} in the store")]
    NotFound { object: ObjectName },
    /// The range ends after the image does, or before it starts.
    #[error("the image {object} has {bytes} bytes, asked for {start} to {end}")]
    Range { object: ObjectName, bytes: u64, start: u64, end: u64 },
    /// The bytes that came are not those that were promised. Nothing was kept.
    #[error(
        "the file has the sha256 {actual}, expected {expected}: it was damaged on its way, or is \
         another file; send it again"
    )]
    Mismatch { expected: String, actual: String },
    /// More than one object can hold.
    #[error("an image in this store has at most {most} bytes")]
    TooLarge { most: u64 },
    /// A write of this upload failed or was dropped half-way, so it can not be finished.
    #[error("the upload is not whole; start it again")]
    NotWhole,
    /// Somebody else brings bytes of this upload, or makes an image of them. Retry.
    #[error("another request of this upload is under way; try again when it has ended")]
    Going,
    /// A name that this store never gave.
    #[error("{name:?} is not the name of an image in the store")]
    Name { name: String },
}

impl ImageError {
    /// Whether trying again later may succeed without anybody's help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Sorts what the system says of a file.
    pub(super) fn io(doing: &str, path: &Path, error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let doing = format!("{doing} {}", path.display());
        match error.kind() {
            Kind::StorageFull | Kind::QuotaExceeded => Self::Full { doing, source: error.into() },
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => {
                Self::Denied { doing, source: error.into() }
            }
            _ => Self::Unavailable { doing, source: error.into() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_sorted_by_what_helps() {
        let sorted = |kind: io::ErrorKind| ImageError::io("write", Path::new("/x"), kind.into());

        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            assert!(matches!(sorted(kind), ImageError::Full { .. }), "{kind}");
        }
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem] {
            assert!(matches!(sorted(kind), ImageError::Denied { .. }), "{kind}");
        }
        assert!(sorted(io::ErrorKind::Other).is_transient());
        assert!(sorted(io::ErrorKind::StorageFull).to_string().starts_with("write /x: "));
    }
}
