//! Drives as a guest's configuration writes them: `local:0,import-from=…,discard=on`.

use std::fmt;

/// The value of a drive key, split: what it names and its options in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Drive {
    /// A volume (`local:300/vm-300-disk-0.qcow2`), or a size to allocate (`local:32`).
    pub(crate) file: String,
    options: Vec<(String, String)>,
}

impl Drive {
    pub(crate) fn parse(text: &str) -> Self {
        let mut file = String::new();
        let mut options = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some(("file" | "volume", value)) => value.clone_into(&mut file),
                Some((key, value)) => options.push((key.to_owned(), value.to_owned())),
                None => part.clone_into(&mut file),
            }
        }
        Self { file, options }
    }

    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The storage and the size in GiB, if it is to be allocated.
    pub(crate) fn allocation(&self) -> Option<(&str, f64)> {
        let (storage, size) = self.file.split_once(':')?;
        Some((storage, size.parse().ok()?))
    }

    /// The storage of a drive with media that nobody allocates: a volume, an image, `none`.
    pub(crate) fn storage(&self) -> Option<&str> {
        Some(self.file.split_once(':')?.0)
    }

    pub(crate) fn is_cdrom(&self) -> bool {
        self.option("media") == Some("cdrom")
    }

    pub(crate) fn is_cloudinit(&self) -> bool {
        self.file.split_once(':').is_some_and(|(_, name)| name == "cloudinit")
    }

    /// Bytes, as `size=2G` says.
    pub(crate) fn size(&self) -> Option<u64> {
        parse_size(self.option("size")?)
    }

    /// The same drive on another volume.
    pub(crate) fn on(mut self, volid: &str) -> Self {
        volid.clone_into(&mut self.file);
        self
    }

    /// An option set, in its place by name; import words are dropped.
    pub(crate) fn with(mut self, key: &str, value: &str) -> Self {
        self.options.retain(|(old, _)| old != key && old != "import-from" && old != "format");
        self.options.push((key.to_owned(), value.to_owned()));
        self.options.sort();
        self
    }
}

impl fmt::Display for Drive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        self.options.iter().try_for_each(|(key, value)| write!(f, ",{key}={value}"))
    }
}

/// Whether a key of a configuration is a drive that belongs to the guest.
pub(crate) fn is_drive(key: &str) -> bool {
    let bare = key.trim_end_matches(|c: char| c.is_ascii_digit());
    bare.len() < key.len()
        && matches!(bare, "scsi" | "virtio" | "ide" | "sata" | "efidisk" | "tpmstate" | "rootfs")
        || key == "rootfs"
}

pub(crate) fn is_unused(key: &str) -> bool {
    key.strip_prefix("unused").is_some_and(|n| n.parse::<u32>().is_ok())
}

/// `2G`, `64M`, `512K` or plain bytes, as PVE writes sizes: the largest unit that fits exactly.
pub(crate) fn size_text(bytes: u64) -> String {
    for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        if bytes > 0 && bytes.is_multiple_of(1 << shift) && (shift < 40) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, shift) = match text.chars().last()? {
        'T' => (&text[..text.len() - 1], 40),
        'G' => (&text[..text.len() - 1], 30),
        'M' => (&text[..text.len() - 1], 20),
        'K' => (&text[..text.len() - 1], 10),
        _ => (text, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_reads_back_without_the_words_of_its_import() {
        let asked = Drive::parse("local:0,import-from=local2:import/a.qcow2,discard=on");

        assert_eq!(asked.allocation(), Some(("local", 0.0)));
        assert_eq!(asked.option("import-from"), Some("local2:import/a.qcow2"));
        let made = asked.on("local:300/vm-300-disk-0.qcow2").with("size", &size_text(2 << 30));
        assert_eq!(made.to_string(), "local:300/vm-300-disk-0.qcow2,discard=on,size=2G");
        assert_eq!(made.size(), Some(2 << 30));
    }

    #[test]
    fn drives_are_told_from_their_controllers() {
        assert!(is_drive("scsi0") && is_drive("virtio15") && is_drive("efidisk0"));
        assert!(!is_drive("scsihw") && !is_drive("net0") && !is_drive("ide"));
        assert!(is_unused("unused0") && !is_unused("unused"));
    }
}
