//! Files on storages: images to import, ISOs, and what a killed download left behind.
//!
//! A file is its name, its size, its hashes and its first 64 KiB. The rest is read, hashed and
//! forgotten, so that a download of gigabytes costs no memory.

use ring::digest::{Context, SHA256, SHA512};
use serde::Serialize;

use super::World;
use crate::hex::hex;

/// How much of a file is kept.
pub(crate) const HEAD: usize = 64 << 10;
const QCOW2: [u8; 4] = *b"QFI\xfb";

/// A file on a storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct File {
    /// The storage.
    pub storage: String,
    /// The node whose disk has it; `None` on a shared storage.
    pub node: Option<String>,
    /// `import`, `iso` or `vztmpl`.
    pub content: String,
    /// Its name, without folders.
    pub name: String,
    /// Bytes on disk.
    pub size: u64,
    /// Lower-case hex; empty while it is written.
    pub sha256: String,
    /// Lower-case hex; empty while it is written.
    pub sha512: String,
    /// Its first bytes, 64 KiB at most.
    #[serde(skip)]
    pub head: Vec<u8>,
    /// A `*.tmp_dwnl.*` that no list shows and no call deletes.
    pub temporary: bool,
    /// Seconds since 1970.
    pub ctime: u64,
}

impl File {
    /// A whole file with this content, for tests that need one to be there.
    pub fn new(storage: &str, node: Option<&str>, name: &str, bytes: &[u8]) -> Self {
        let mut digest = Digest::new();
        digest.take(bytes);
        digest.into_file(storage, node.map(str::to_owned), "import", name)
    }

    /// `local:import/debian.qcow2`.
    pub fn volid(&self) -> String {
        format!("{}:{}/{}", self.storage, self.content, self.name)
    }

    /// `qcow2`, `raw`, `vmdk`, `ova`, `iso` or `tgz`, from the name.
    pub(crate) fn format(&self) -> &str {
        match self.content.as_str() {
            "iso" => "iso",
            "vztmpl" => "tgz",
            _ => self.name.rsplit_once('.').map_or("raw", |(_, end)| end),
        }
    }

    /// The size of the disk inside: what a qcow2 header says, or the file itself.
    pub fn virtual_size(&self) -> u64 {
        match self.head.get(24..32) {
            Some(size) if self.is_qcow2() => {
                u64::from_be_bytes(size.try_into().expect("eight bytes"))
            }
            _ => self.size,
        }
    }

    /// Whether `qemu-img info -f <format>` opens it.
    pub(crate) fn image_fits(&self) -> bool {
        self.content != "import" || self.format() != "qcow2" || self.is_qcow2()
    }

    fn is_qcow2(&self) -> bool {
        self.head.starts_with(&QCOW2)
    }
}

/// Hashes bytes as they pass and keeps the first.
pub(crate) struct Digest {
    sha256: Context,
    sha512: Context,
    head: Vec<u8>,
    pub(crate) size: u64,
}

impl Digest {
    pub(crate) fn new() -> Self {
        Self {
            sha256: Context::new(&SHA256),
            sha512: Context::new(&SHA512),
            head: Vec::new(),
            size: 0,
        }
    }

    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.sha512.update(bytes);
        let room = HEAD - self.head.len();
        self.head.extend_from_slice(&bytes[..room.min(bytes.len())]);
        self.size += bytes.len() as u64;
    }

    pub(crate) fn into_file(
        self,
        storage: &str,
        node: Option<String>,
        content: &str,
        name: &str,
    ) -> File {
        File {
            storage: storage.to_owned(),
            node,
            content: content.to_owned(),
            name: name.to_owned(),
            size: self.size,
            sha256: hex(self.sha256.finish().as_ref()),
            sha512: hex(self.sha512.finish().as_ref()),
            head: self.head,
            temporary: false,
            ctime: 0,
        }
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Digest").field("size", &self.size).finish_non_exhaustive()
    }
}

impl File {
    /// Its hash in this algorithm; `None` if the simulator does not keep it.
    pub(crate) fn sum(&self, algorithm: &str) -> Option<&str> {
        match algorithm {
            "sha256" => Some(&self.sha256),
            "sha512" => Some(&self.sha512),
            _ => None,
        }
    }
}

impl World {
    /// A file as a node sees it.
    pub(crate) fn file(
        &self,
        storage: &str,
        node: &str,
        content: &str,
        name: &str,
    ) -> Option<&File> {
        let at = self.file_at(storage, node, content, name)?;
        Some(&self.files[at])
    }

    fn file_at(&self, storage: &str, node: &str, content: &str, name: &str) -> Option<usize> {
        self.files.iter().position(|file| {
            file.storage == storage
                && file.content == content
                && file.name == name
                && is_seen_from(file.node.as_deref(), node)
        })
    }

    /// Puts a file where another of its name may have been, as `rename` does.
    pub(crate) fn put_file(&mut self, file: File) {
        self.files.retain(|old| {
            (&old.storage, &old.node, &old.content, &old.name)
                != (&file.storage, &file.node, &file.content, &file.name)
        });
        self.files.push(file);
    }

    /// Takes a file away; whether there was one.
    pub(crate) fn remove_file(
        &mut self,
        storage: &str,
        node: &str,
        content: &str,
        name: &str,
    ) -> bool {
        let at = self.file_at(storage, node, content, name);
        at.map(|at| self.files.remove(at)).is_some()
    }
}

/// Whether what is on this node's disk, or on all, is seen from a node.
pub(crate) fn is_seen_from(home: Option<&str>, node: &str) -> bool {
    home.is_none_or(|home| home == node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_virtual_size_is_read_from_the_header_of_a_qcow2() {
        let mut image = vec![0; 512];
        image[..4].copy_from_slice(&QCOW2);
        image[24..32].copy_from_slice(&(2_u64 << 30).to_be_bytes());

        let good = File::new("local", None, "a.qcow2", &image);
        let junk = File::new("local", None, "a.qcow2", b"junk");

        assert_eq!((good.size, good.virtual_size()), (512, 2 << 30));
        assert!(good.image_fits());
        assert!(!junk.image_fits());
        assert_eq!(junk.sha256, "ef875a1705a5fdac206be996f4dc1f726ea6b68861eb741c37def7277f179e37");
    }
}
