//! What a token may do: `GET /access/permissions`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{PveError, Version, reply, scalar::Seed};
use serde::de::DeserializeSeed;

/// The effective privileges of a token, by ACL path. Empty when it has none at all.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Permissions {
    /// Path to privilege to whether it also holds below that path.
    paths: BTreeMap<String, BTreeMap<String, bool>>,
}

/// A privilege on a path that something cannot work without.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Need {
    pub path: &'static str,
    pub privilege: &'static str,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.privilege, self.path)
    }
}

/// What the mirror needs to see every guest, storage and node with its numbers.
pub const MIRROR: [Need; 3] = [
    Need { path: "/vms", privilege: "VM.Audit" },
    Need { path: "/storage", privilege: "Datastore.Audit" },
    Need { path: "/", privilege: "Sys.Audit" },
];

/// What asking guest agents for IPs needs: `VM.Monitor` became `VM.GuestAgent.Audit` in PVE 9.
pub fn guest_ips_need(version: &Version) -> Need {
    let privilege = if version.at_least(9, 0) { "VM.GuestAgent.Audit" } else { "VM.Monitor" };
    Need { path: "/vms", privilege }
}

impl Permissions {
    pub(crate) fn parse(request: &str, body: &[u8]) -> Result<Self, PveError> {
        let raw: BTreeMap<String, serde_json::Value> = reply::one(request, body)?;
        let paths = raw.into_iter().map(|(path, privileges)| {
            let serde_json::Value::Object(privileges) = privileges else {
                return (path, BTreeMap::new());
            };
            let flags = privileges.into_iter().map(|(privilege, propagate)| {
                let propagate: Option<bool> =
                    Seed::new().deserialize(propagate).unwrap_or_default();
                (privilege, propagate.unwrap_or(false))
            });
            (path, flags.collect())
        });
        Ok(Self { paths: paths.collect() })
    }

    /// Whether `privilege` holds on `path`.
    ///
    /// PVE lists the paths that have an ACL of their own, with what is effective there; any other
    /// path has what propagates from the nearest one above it.
    pub fn has(&self, path: &str, privilege: &str) -> bool {
        let mut at = path.trim_end_matches('/');
        let mut exact = true;
        loop {
            let key = if at.is_empty() { "/" } else { at };
            if let Some(privileges) = self.paths.get(key) {
                return privileges.get(privilege).is_some_and(|propagate| exact || *propagate);
            }
            if at.is_empty() {
                return false;
            }
            at = at.rfind('/').map_or("", |slash| &at[..slash]);
            exact = false;
        }
    }

    /// Those of `needed` that do not hold, in the same order.
    #[must_use]
    pub fn missing(&self, needed: &[Need]) -> Vec<Need> {
        needed.iter().filter(|need| !self.has(need.path, need.privilege)).copied().collect()
    }

    /// Whether `privilege` holds anywhere: a token that has it on one pool or guest sees a part.
    pub fn has_anywhere(&self, privilege: &str) -> bool {
        self.paths.values().any(|privileges| privileges.contains_key(privilege))
    }

    /// The paths on which `privilege` is granted. Two answers with the same set let a list be
    /// compared with an earlier one.
    pub fn paths_with(&self, privilege: &str) -> BTreeSet<&str> {
        let granted = self.paths.iter().filter(|(_, all)| all.contains_key(privilege));
        granted.map(|(path, _)| path.as_str()).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.paths.values().all(BTreeMap::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permissions(data: &str) -> Permissions {
        Permissions::parse("GET /x", format!("{{\"data\":{data}}}").as_bytes()).unwrap()
    }

    #[test]
    fn a_privilege_reaches_down_only_if_it_propagates() {
        let it = permissions(r#"{"/":{"Sys.Audit":1,"VM.Audit":0},"/vms/7":{"VM.Clone":0}}"#);

        assert!(it.has("/", "Sys.Audit") && it.has("/nodes/pve1", "Sys.Audit"));
        assert!(it.has("/", "VM.Audit") && !it.has("/vms", "VM.Audit"));
        assert!(it.has("/vms/7", "VM.Clone") && !it.has("/vms/8", "VM.Clone"));
    }

    #[test]
    fn the_nearest_acl_decides_and_hides_the_ones_above() {
        let it = permissions(r#"{"/":{"VM.Audit":1},"/vms":{}}"#);

        assert!(!it.has("/vms/100", "VM.Audit"));
        assert!(it.has("/pool/a", "VM.Audit"));
    }

    #[test]
    fn a_token_without_rights_misses_everything_the_mirror_needs() {
        let words: Vec<_> =
            permissions("{}").missing(&MIRROR).iter().map(Need::to_string).collect();

        assert_eq!(words, ["VM.Audit on /vms", "Datastore.Audit on /storage", "Sys.Audit on /"]);
        assert!(permissions("{}").is_empty());
    }

    #[test]
    fn guest_ips_need_what_the_version_calls_it() {
        let version = |text: &str| Version {
            version: text.into(),
            release: String::new(),
            repoid: String::new(),
        };

        assert_eq!(guest_ips_need(&version("8.4.1")).privilege, "VM.Monitor");
        assert_eq!(guest_ips_need(&version("9.0.0~11")).privilege, "VM.GuestAgent.Audit");
    }
}
