//! What a change is asked with: typed here, written as PVE's parameters in one place each.

use std::fmt;

use super::{NodeName, PveError, StorageName, Vmid, Volid};

/// The parameters of one request, in the order in which they are sent.
pub(crate) type Params = Vec<(&'static str, String)>;

/// `POST /nodes/{node}/qemu`: a guest without disks.
///
/// Without disks the worker takes a third of a second, in which a crash leaves a guest that is
/// locked and that only an administrator can remove (seen on PVE 9.2). A disk is imported later,
/// see [`ImportDisk`]. Tags too: on create they need a privilege on `/vms`.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct NewGuest {
    pub vmid: Vmid,
    /// A DNS name.
    pub name: String,
    pub description: String,
    /// A token that has its rights through a pool gets a 403 without it.
    pub pool: Option<String>,
    /// `l26`, `win11`, …
    pub ostype: Option<String>,
    pub cores: u32,
    pub memory_mib: u64,
    /// Such as `virtio-scsi-single`.
    pub scsihw: Option<String>,
    /// Such as `virtio,bridge=vmbr0`.
    pub net0: Option<String>,
    /// Whether a guest agent is expected.
    pub agent: bool,
    /// Such as `socket`.
    pub serial0: Option<String>,
    /// Options beyond these, as PVE names them: `bios`, `cpu`, `machine`, …
    pub more: Vec<(String, String)>,
}

impl NewGuest {
    /// One core and 512 MiB, no network.
    pub fn new(vmid: Vmid, name: impl Into<String>) -> Self {
        Self {
            vmid,
            name: name.into(),
            description: String::new(),
            pool: None,
            ostype: Some("l26".to_owned()),
            cores: 1,
            memory_mib: 512,
            scsihw: Some("virtio-scsi-single".to_owned()),
            net0: None,
            agent: true,
            serial0: None,
            more: Vec::new(),
        }
    }

    /// Puts the guest's network card on a bridge.
    ///
    /// # Errors
    ///
    /// [`PveError::Input`] unless `bridge` is a name of letters, digits, `-`, `_` and `.`.
    pub fn bridge(&mut self, bridge: &str) -> Result<(), PveError> {
        if bridge.is_empty() || !bridge.bytes().all(is_plain) {
            let what = format!("{bridge:?} is not a bridge; it should look like vmbr0");
            return Err(PveError::Input { what });
        }
        self.net0 = Some(format!("virtio,bridge={bridge}"));
        Ok(())
    }

    pub(crate) fn params(&self) -> Vec<(String, String)> {
        let mut params: Params = vec![
            ("vmid", self.vmid.to_string()),
            ("name", self.name.clone()),
            ("cores", self.cores.to_string()),
            ("memory", self.memory_mib.to_string()),
        ];
        if !self.description.is_empty() {
            params.push(("description", self.description.clone()));
        }
        if self.agent {
            params.push(("agent", "1".to_owned()));
        }
        let optional = [
            ("pool", &self.pool),
            ("ostype", &self.ostype),
            ("scsihw", &self.scsihw),
            ("net0", &self.net0),
            ("serial0", &self.serial0),
        ];
        push_some(&mut params, optional);
        let own = params.into_iter().map(|(name, value)| (name.to_owned(), value));
        own.chain(self.more.iter().cloned()).collect()
    }
}

/// `POST /nodes/{node}/qemu/{vmid}/config` with `import-from`: a disk from an image.
///
/// Only a `scsi0` in the configuration proves that it worked: `boot` and `tags` are written in any
/// order, before the image or after it (seen on PVE 9.2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ImportDisk {
    /// Where the disk comes to lie.
    pub target: StorageName,
    /// `local:import/x.qcow2`, or `local:import/x.ova/disk.vmdk`.
    pub source: Volid,
    /// `qcow2` or `raw`; the storage's own choice without it.
    pub format: Option<String>,
    /// Where an OVA is unpacked: a storage of files with content `images`.
    pub working_storage: Option<StorageName>,
    /// Passes on what a guest frees to the storage.
    pub discard: bool,
    /// Whether the guest boots from this disk.
    pub boot: bool,
    pub tags: Vec<String>,
}

impl ImportDisk {
    pub fn new(target: StorageName, source: Volid) -> Self {
        Self {
            target,
            source,
            format: None,
            working_storage: None,
            discard: true,
            boot: true,
            tags: Vec::new(),
        }
    }

    /// # Errors
    ///
    /// [`PveError::Input`] for a format or tag that could end its option.
    pub(crate) fn params(&self) -> Result<Params, PveError> {
        let mut disk = format!("{}:0,import-from={}", self.target, self.source);
        if let Some(format) = &self.format {
            if format.is_empty() || !format.bytes().all(is_plain) {
                return Err(PveError::Input { what: format!("{format:?} is not a disk format") });
            }
            disk.extend([",format=", format]);
        }
        if self.discard {
            disk.push_str(",discard=on");
        }
        let mut params: Params = vec![("scsi0", disk)];
        if let Some(storage) = &self.working_storage {
            params.push(("import-working-storage", storage.to_string()));
        }
        if self.boot {
            params.push(("boot", "order=scsi0".to_owned()));
        }
        if !self.tags.is_empty() {
            params.push(("tags", joined_tags(&self.tags)?));
        }
        Ok(params)
    }
}

/// `POST /nodes/{node}/qemu/{vmid}/clone`.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct GuestClone {
    pub newid: Vmid,
    /// A DNS name; `Copy-of-VM-…` without it.
    pub name: Option<String>,
    /// Replaces the template's own; without it the clone carries that one.
    pub description: Option<String>,
    /// Another node; only if all disks of the source are on shared storage.
    pub target: Option<NodeName>,
    /// Copies the disks instead of referring to them.
    pub full: bool,
    /// Of a full clone only.
    pub storage: Option<StorageName>,
    /// Of a full clone only: `qcow2`, `raw` or `vmdk`.
    pub format: Option<String>,
    /// A token that has its rights through a pool gets a 403 without it.
    pub pool: Option<String>,
}

impl GuestClone {
    /// A linked clone on the node of its template.
    pub fn linked(newid: Vmid) -> Self {
        Self {
            newid,
            name: None,
            description: None,
            target: None,
            full: false,
            storage: None,
            format: None,
            pool: None,
        }
    }

    /// A full clone on the storage of its source.
    pub fn full(newid: Vmid) -> Self {
        Self { full: true, ..Self::linked(newid) }
    }

    /// # Errors
    ///
    /// [`PveError::Input`] for a linked clone with a storage or format, which PVE refuses.
    pub(crate) fn params(&self) -> Result<Params, PveError> {
        if !self.full && (self.storage.is_some() || self.format.is_some()) {
            let what = "a linked clone stays on the storage and in the format of its template; ask \
                        for a full clone to choose another";
            return Err(PveError::Input { what: what.to_owned() });
        }
        let mut params: Params =
            vec![("newid", self.newid.to_string()), ("full", u8::from(self.full).to_string())];
        let (target, storage) = (
            self.target.as_ref().map(NodeName::to_string),
            self.storage.as_ref().map(StorageName::to_string),
        );
        let optional = [
            ("name", &self.name),
            ("description", &self.description),
            ("target", &target),
            ("storage", &storage),
            ("format", &self.format),
            ("pool", &self.pool),
        ];
        push_some(&mut params, optional);
        Ok(params)
    }
}

/// A URL whose path or query may hold a token. Shown as its scheme and host only.
///
/// PVE writes it into the log of the task that fetches it, where whoever has Sys.Audit on the node
/// can read it: what it grants should be little and end soon.
#[derive(Clone, Eq, PartialEq)]
pub struct SecretUrl(url::Url);

impl SecretUrl {
    /// # Errors
    ///
    /// [`PveError::Input`] unless it is `http://` or `https://` with a host; the error does not
    /// hold the URL.
    pub fn new(text: &str) -> Result<Self, PveError> {
        let bad = |why: &str| PveError::Input { what: format!("the URL to download from {why}") };
        let url = url::Url::parse(text).map_err(|error| bad(&format!("is none ({error})")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(bad("is not http:// or https:// with a host"));
        }
        Ok(Self(url))
    }

    /// The whole URL, for the one request that needs it.
    pub(crate) fn reveal(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.0.scheme(), self.0.host_str().unwrap_or_default())?;
        match self.0.port() {
            Some(port) => write!(f, ":{port}/…"),
            None => f.write_str("/…"),
        }
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretUrl({self})")
    }
}

/// `POST /nodes/{node}/storage/{storage}/download-url`: an image, fetched by the node itself.
///
/// A file of that name with that checksum is success without a transfer; with another one the
/// task fails and the file stays. Two downloads of one name both run, and the last one wins: that
/// there is only one is the caller's to see to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Download {
    pub url: SecretUrl,
    /// As [`UploadFile::filename`](super::UploadFile::filename).
    pub filename: String,
    /// 128 hexadecimal digits.
    pub sha512: String,
    /// Off, the file is as safe as its checksum is, and others may read it on its way.
    pub verify_certificates: bool,
}

impl Download {
    /// # Errors
    ///
    /// [`PveError::Input`] for a name that PVE would change, and for a checksum that is none.
    pub(crate) fn params(&self) -> Result<Params, PveError> {
        check_file(&self.filename, &self.sha512)?;
        let mut params: Params = vec![
            ("url", self.url.reveal().to_owned()),
            ("content", "import".to_owned()),
            ("filename", self.filename.clone()),
            ("checksum", self.sha512.to_ascii_lowercase()),
            ("checksum-algorithm", "sha512".to_owned()),
        ];
        if !self.verify_certificates {
            params.push(("verify-certificates", "0".to_owned()));
        }
        Ok(params)
    }
}

/// The suffixes of files that PVE takes as content `import` (pve-storage: `src/PVE/Storage.pm:116`).
pub const IMPORT_SUFFIXES: [&str; 4] = [".qcow2", ".raw", ".vmdk", ".ova"];

pub(crate) fn check_file(filename: &str, sha512: &str) -> Result<(), PveError> {
    let suffix = IMPORT_SUFFIXES.iter().any(|suffix| filename.ends_with(suffix));
    let name =
        filename.len() <= 255 && !filename.starts_with('.') && filename.bytes().all(is_plain);
    if !suffix || !name {
        let what = format!(
            "{filename:?} cannot be the name of an image on a storage: use letters, digits, '_', \
             '.', '-' and one of {}",
            IMPORT_SUFFIXES.join(", ")
        );
        return Err(PveError::Input { what });
    }
    if sha512.len() != 128 || !sha512.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let what = "a SHA-512 has 128 hexadecimal digits".to_owned();
        return Err(PveError::Input { what });
    }
    Ok(())
}

/// Tags as PVE separates them.
///
/// # Errors
///
/// [`PveError::Input`] for what PVE takes for no tag (pve-common: `src/PVE/JSONSchema.pm`, format
/// `pve-tag`).
pub fn joined_tags(tags: &[String]) -> Result<String, PveError> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_-+.".contains(&byte);
    let first = |tag: &str| tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    match tags.iter().find(|tag| !first(tag) || !tag.bytes().all(inner)) {
        Some(tag) => Err(PveError::Input { what: format!("{tag:?} is not a tag for PVE") }),
        None => Ok(tags.join(";")),
    }
}

/// Letters, digits, `_`, `.` and `-`.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)
}

fn push_some<const N: usize>(params: &mut Params, optional: [(&'static str, &Option<String>); N]) {
    for (name, value) in optional {
        if let Some(value) = value {
            params.push((name, value.clone()));
        }
    }
}
