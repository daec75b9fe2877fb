//! The id of a volume: `storage:name`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de};

use super::{PveError, StorageName, path::refused};

/// The id of a volume, such as `local:import/x.qcow2`, `local-lvm:vm-100-disk-0` or
/// `local:100/base-100-disk-0.qcow2/101/vm-101-disk-0.qcow2`. Displays as what was parsed.
///
/// It may stand in an option string of PVE's: nothing in it ends an option or starts another.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Volid {
    text: Box<str>,
    storage: StorageName,
}

impl Volid {
    /// The volume `name` on `storage`.
    ///
    /// # Errors
    ///
    /// [`PveError::Input`] if `name` cannot be one: empty, with `..`, `//`, a comma, a blank, a
    /// control character or one of `\ ? # %`.
    pub fn new(storage: &StorageName, name: &str) -> Result<Self, PveError> {
        let text = format!("{storage}:{name}");
        let bad = |c: char| c.is_control() || c.is_whitespace() || ",;\\?#%\"'".contains(c);
        if name.contains(bad) || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(refused("volume id", &text));
        }
        Ok(Self { text: text.into(), storage: storage.clone() })
    }

    /// An image as `download-url` and `upload` place it: `storage:import/file`.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and for a `file` with `/` in it.
    pub fn import(storage: &StorageName, file: &str) -> Result<Self, PveError> {
        if file.contains('/') {
            return Err(refused("file name", file));
        }
        Self::new(storage, &format!("import/{file}"))
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn storage(&self) -> &StorageName {
        &self.storage
    }

    /// What follows the storage: `import/x.qcow2`.
    pub fn name(&self) -> &str {
        &self.text[self.storage.as_str().len() + 1..]
    }

    /// What follows the last `/`.
    pub fn basename(&self) -> &str {
        self.name().rsplit('/').next().unwrap_or_default()
    }

    /// Whether this is the disk of a template that linked clones can be made of. A template whose
    /// disk is still called `vm-…` was not converted to its end.
    pub fn is_base(&self) -> bool {
        self.basename().starts_with("base-")
    }
}

impl fmt::Display for Volid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Volid {
    type Err = PveError;

    fn from_str(text: &str) -> Result<Self, PveError> {
        let (storage, name) = text.split_once(':').ok_or_else(|| refused("volume id", text))?;
        Self::new(&StorageName::new(storage)?, name)
    }
}

impl<'de> Deserialize<'de> for Volid {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_id_is_taken_apart() {
        for (text, storage, name, basename, base) in [
            ("local:import/x.qcow2", "local", "import/x.qcow2", "x.qcow2", false),
            ("local-lvm:base-100-disk-0", "local-lvm", "base-100-disk-0", "base-100-disk-0", true),
            (
                "tank:base-9-disk-0/vm-10-disk-0",
                "tank",
                "base-9-disk-0/vm-10-disk-0",
                "vm-10-disk-0",
                false,
            ),
            (
                "local:8/base-8-disk-0.qcow2/9/base-9-disk-0.qcow2",
                "local",
                "8/base-8-disk-0.qcow2/9/base-9-disk-0.qcow2",
                "base-9-disk-0.qcow2",
                true,
            ),
            ("local:import/a.ova/disk.vmdk", "local", "import/a.ova/disk.vmdk", "disk.vmdk", false),
        ] {
            let it: Volid = text.parse().unwrap();

            assert_eq!((it.storage().as_str(), it.name()), (storage, name));
            assert_eq!((it.basename(), it.is_base()), (basename, base));
            assert_eq!(it.to_string(), text);
        }
    }

    #[test]
    fn what_could_start_another_option_or_leave_its_place_is_refused() {
        for text in [
            "",
            "local",
            "local:",
            ":x",
            "/var/lib/vz/x.qcow2",
            "lo cal:x",
            "local:import/../../etc/passwd",
            "local:/etc/passwd",
            "local:import//x",
            "local:import/x.qcow2,format=raw",
            "local:import/x y.qcow2",
            "local:import/x\n",
            "local:import%2fx",
            "local:x?a=b",
            "local:x#y",
        ] {
            assert!(text.parse::<Volid>().is_err(), "{text}");
        }
        let local = StorageName::new("local").unwrap();
        assert!(Volid::import(&local, "../x").is_err());
        assert_eq!(Volid::import(&local, "x.raw").unwrap().as_str(), "local:import/x.raw");
    }
}
