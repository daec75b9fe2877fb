//! What our guests and files are called, and how they are known as ours.
//!
//! A guest is ours if its description holds the marker of this installation and of the instance
//! whose row has its VMID. Names and tags are for people: anybody may change them, and clones
//! inherit tags, so they prove nothing. A staged file is ours by its name, which nobody has reason
//! to choose, together with the row that remembers it.

use schema::{CloneId, InstanceId};
use serde::{Deserialize, Serialize};

/// What starts the marker's line.
const PREFIX: &str = "pve-operator: ";

/// What a guest's description says of where it comes from.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Marker {
    /// The installation.
    pub owner: String,
    /// `vm_template.id`.
    pub template: i64,
    pub version: i32,
    /// `template_instance.id`; 0 in a guest that was cloned from one.
    pub instance: i64,
    pub attempt: i32,
    pub sha512: String,
    /// `template_clone.id`, in a guest that was cloned by us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone: Option<i64>,
}

impl Marker {
    /// A description with a line for people and a line for us.
    pub fn description(&self, template_name: &str) -> String {
        let name: String = template_name.chars().filter(|c| !c.is_control()).collect();
        let what = if self.clone.is_some() { "Made of template" } else { "Template" };
        // Serialising strings and numbers cannot fail.
        let line = serde_json::to_string(self).unwrap_or_default();
        format!("{what} {name}, version {}.\n\n{PREFIX}{line}\n", self.version)
    }

    /// The first marker in a description.
    pub fn find(description: &str) -> Option<Self> {
        description.lines().find_map(|line| {
            let json = line.trim().strip_prefix(PREFIX)?;
            serde_json::from_str(json).ok()
        })
    }

    /// Whether it is the marker of this instance, made by this installation.
    pub fn is_of(&self, owner: &str, instance: InstanceId) -> bool {
        self.owner == owner && self.instance == instance.0 && self.clone.is_none()
    }

    /// Whether it is the marker of this clone, made by this installation.
    pub fn is_of_clone(&self, owner: &str, clone: CloneId) -> bool {
        self.owner == owner && self.clone == Some(clone.0)
    }
}

/// The instance that a staged file of this installation belongs to.
pub fn instance_of_file(owner: &str, file: &str) -> Option<InstanceId> {
    let (id, _) = file.strip_prefix(&staged_prefix(owner))?.split_once('-')?;
    id.parse().ok().map(InstanceId)
}

/// The name of the staged image. One per instance, so no two downloads ever have the same name, on
/// shared storage neither; PVE guards against nothing there (seen on PVE 9.2).
///
/// Only letters that PVE does not replace (pve-storage: `src/PVE/Storage.pm:2483`).
pub fn staged_file(owner: &str, instance: InstanceId, sha256: &str, format: &str) -> String {
    let (owner, sha256) = (&owner[..owner.len().min(8)], &sha256[..sha256.len().min(12)]);
    format!("pvet-{owner}-{instance}-{sha256}.{format}")
}

/// What starts the name of each staged file of this installation.
pub fn staged_prefix(owner: &str) -> String {
    format!("pvet-{}-", &owner[..owner.len().min(8)])
}

/// A name that PVE takes for a guest (a DNS name) and that reminds of `name`.
pub fn guest_name(name: &str) -> String {
    let mut dns = String::with_capacity(name.len());
    for c in name.chars() {
        match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() => dns.push(c),
            _ if dns.ends_with('-') => {}
            _ => dns.push('-'),
        }
    }
    let dns = dns.trim_matches('-');
    let short = &dns[..dns.len().min(LONGEST_NAME)];
    let short = short.trim_end_matches('-');
    if short.is_empty() { "template".to_owned() } else { short.to_owned() }
}

/// A DNS label has at most 63 characters.
const LONGEST_NAME: usize = 63;

/// Tags for people: all templates, all of one, all of one version.
pub fn tags(template: i64, version: i32) -> Vec<String> {
    vec!["pvet".to_owned(), format!("pvet-{template}"), format!("pvet-v{version}")]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker() -> Marker {
        Marker {
            owner: "0123456789abcdef".to_owned(),
            template: 3,
            version: 2,
            instance: 41,
            attempt: 1,
            sha512: "ab".repeat(64),
            clone: None,
        }
    }

    #[test]
    fn a_marker_is_found_among_what_people_wrote() {
        let text = format!("Ask Anna before you change it.\n{}more", marker().description("x\ny"));
        let found = Marker::find(&text).unwrap();
        assert_eq!(found, marker());
        assert!(found.is_of("0123456789abcdef", InstanceId(41)));
        assert!(!found.is_of("0123456789abcdef", InstanceId(42)), "another instance");
        assert!(!found.is_of("fedcba9876543210", InstanceId(41)), "another installation");
    }

    #[test]
    fn what_is_no_marker_is_none() {
        for text in ["", "pve-operator: ", "pve-operator: {}", "pve-operator: {\"owner\":1}"] {
            assert_eq!(Marker::find(text), None, "{text}");
        }
    }

    /// B13: any name becomes one that PVE takes.
    #[test]
    fn guests_get_names_that_pve_takes() {
        for (name, expected) in [
            ("CentOS 7 基础", "centos-7"),
            ("a_b", "a-b"),
            ("基础", "template"),
            ("-x-", "x"),
            ("ubuntu-22.04", "ubuntu-22-04"),
            ("../../etc", "etc"),
        ] {
            assert_eq!(guest_name(name), expected, "{name}");
        }
        assert_eq!(guest_name(&"a".repeat(80)).len(), 63);
        assert_eq!(guest_name(&format!("{}_b", "a".repeat(62))), "a".repeat(62));
    }

    #[test]
    fn staged_files_are_told_apart() {
        let name = staged_file("0123456789abcdef", InstanceId(7), &"c".repeat(64), "qcow2");
        assert_eq!(name, "pvet-01234567-7-cccccccccccc.qcow2");
        assert_eq!(instance_of_file("0123456789abcdef", &name), Some(InstanceId(7)));
        assert_eq!(instance_of_file("fedcba9876543210", &name), None, "another installation's");
    }
}
