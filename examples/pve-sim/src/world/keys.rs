//! The keys of a machine's configuration: how they are set, deleted and shown.

use std::collections::BTreeMap;

use serde_json::Value;

use super::drive::{Drive, is_drive, is_unused};
use super::{Agent, Guest};

/// A value of a configuration as the text that PVE has in its file.
pub(crate) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Keys that PVE shows as numbers; all others are text.
const NUMBERS: [&str; 11] = [
    "cores",
    "sockets",
    "vcpus",
    "numa",
    "onboot",
    "protection",
    "balloon",
    "tablet",
    "acpi",
    "kvm",
    "freeze",
];

/// Changes of a machine's configuration, key by key.
impl Guest {
    /// Makes the fields that lists show agree with the configuration.
    pub(crate) fn follow_config(&mut self) {
        let text = |key: &str| self.config.get(key).map(plain);
        let number = |key: &str| text(key).and_then(|text| text.parse::<u64>().ok());
        self.maxmem = number("memory").unwrap_or(512) << 20;
        let cpus = number("cores").unwrap_or(1) * number("sockets").unwrap_or(1);
        self.cpus = u32::try_from(cpus).unwrap_or(1).max(1);
        let agent = text("agent").is_some_and(|text| {
            text.starts_with('1') || text.split(',').any(|part| part == "enabled=1")
        });
        if !agent {
            self.agent = Agent::Absent;
        } else if self.agent == Agent::Absent {
            self.agent = Agent::Answers;
        }
        let drives = self.config.iter().filter(|(key, _)| is_drive(key));
        let disk = drives.map(|(_, value)| Drive::parse(&plain(value))).find(|d| !d.is_cdrom());
        self.maxdisk = disk.and_then(|disk| disk.size()).unwrap_or(0);
    }

    /// Sets a key as a line of the configuration file does.
    pub(crate) fn set_key(&mut self, key: &str, value: &str) {
        match key {
            "name" => value.clone_into(&mut self.name),
            "tags" => {
                let tags = value.split([';', ',', ' ']).filter(|tag| !tag.is_empty());
                self.tags = tags.map(str::to_owned).collect();
            }
            "template" => self.template = value == "1",
            _ => {
                let value = match value.parse::<u64>() {
                    Ok(number) if NUMBERS.contains(&key) => Value::from(number),
                    _ => Value::from(value),
                };
                self.config.insert(key.to_owned(), value);
            }
        }
    }

    /// Sets keys and deletes others. A drive that loses its place becomes `unusedN`.
    pub(crate) fn apply(&mut self, keys: &BTreeMap<String, String>, delete: &[String]) {
        for key in delete {
            match key.as_str() {
                "name" => self.name = format!("VM {}", self.vmid),
                "tags" => self.tags.clear(),
                "lock" => self.lock = None,
                key if is_drive(key) => {
                    self.retire(key);
                    self.unboot(key);
                }
                key => {
                    self.config.remove(key);
                }
            }
        }
        for (key, value) in keys {
            if is_drive(key) {
                let old = self.config.get(key).map(plain);
                if old.is_some_and(|old| Drive::parse(&old).file != Drive::parse(value).file) {
                    self.retire(key);
                }
                let file = Drive::parse(value).file;
                self.config.retain(|key, value| !is_unused(key) || plain(value) != file);
            }
            self.set_key(key, value);
        }
        self.follow_config();
    }

    /// A drive leaves its key; its volume is kept as `unusedN`.
    fn retire(&mut self, key: &str) {
        let Some(old) = self.config.remove(key) else { return };
        let drive = Drive::parse(&plain(&old));
        if drive.is_cdrom() || drive.storage().is_none() {
            return;
        }
        let free = (0..256)
            .map(|n| format!("unused{n}"))
            .find(|key| !self.config.contains_key(key))
            .expect("nobody keeps so many disks");
        self.config.insert(free, Value::from(drive.file));
    }

    fn unboot(&mut self, key: &str) {
        let Some(order) = self.config.get("boot").map(plain) else { return };
        let Some(order) = order.strip_prefix("order=") else { return };
        let rest: Vec<&str> = order.split(';').filter(|device| *device != key).collect();
        let text =
            if rest.is_empty() { " ".to_owned() } else { format!("order={}", rest.join(";")) };
        self.config.insert("boot".to_owned(), Value::from(text));
    }

    /// The boot order of a new machine: its first disk, its CD drives, its first card.
    pub(crate) fn choose_boot(&mut self) {
        let mut order = Vec::new();
        for kind in ["ide", "scsi", "virtio", "sata"] {
            let mut drives = self.config.iter().filter(|(key, _)| {
                is_drive(key) && key.trim_end_matches(|c: char| c.is_ascii_digit()) == kind
            });
            if let Some((key, _)) = drives.find(|(_, v)| !Drive::parse(&plain(v)).is_cdrom()) {
                order.push(key.clone());
                break;
            }
        }
        let cdroms = self
            .config
            .iter()
            .filter(|(key, value)| is_drive(key) && Drive::parse(&plain(value)).is_cdrom());
        order.extend(cdroms.map(|(key, _)| key.clone()));
        order.extend(self.config.keys().find(|key| is_card(key)).cloned());
        let text =
            if order.is_empty() { " ".to_owned() } else { format!("order={}", order.join(";")) };
        self.config.insert("boot".to_owned(), Value::from(text));
    }
}

/// Whether a key is a network card.
pub(crate) fn is_card(key: &str) -> bool {
    key.strip_prefix("net").is_some_and(|n| n.parse::<u32>().is_ok())
}
