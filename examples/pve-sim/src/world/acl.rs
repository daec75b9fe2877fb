//! Tokens and what they may do.
//!
//! PVE: `/access/permissions`, `PVE::AccessControl` (pve-access-control). Privileges hang on
//! paths and propagate downwards; a deeper entry replaces what would be inherited. A guest in
//! a pool also has what `/pool/{pool}` grants.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Every privilege of PVE 9.2, in the order of its documentation.
pub const PRIVILEGES: [&str; 47] = [
    "Datastore.Allocate",
    "Datastore.AllocateSpace",
    "Datastore.AllocateTemplate",
    "Datastore.Audit",
    "Group.Allocate",
    "Mapping.Audit",
    "Mapping.Modify",
    "Mapping.Use",
    "Permissions.Modify",
    "Pool.Allocate",
    "Pool.Audit",
    "Realm.Allocate",
    "Realm.AllocateUser",
    "SDN.Allocate",
    "SDN.Audit",
    "SDN.Use",
    "Sys.AccessNetwork",
    "Sys.Audit",
    "Sys.Console",
    "Sys.Incoming",
    "Sys.Modify",
    "Sys.PowerMgmt",
    "Sys.Syslog",
    "User.Modify",
    "VM.Allocate",
    "VM.Audit",
    "VM.Backup",
    "VM.Clone",
    "VM.Config.CDROM",
    "VM.Config.CPU",
    "VM.Config.Cloudinit",
    "VM.Config.Disk",
    "VM.Config.HWType",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "VM.Console",
    "VM.GuestAgent.Audit",
    "VM.GuestAgent.FileRead",
    "VM.GuestAgent.FileSystemMgmt",
    "VM.GuestAgent.FileWrite",
    "VM.GuestAgent.Unrestricted",
    "VM.Migrate",
    "VM.PowerMgmt",
    "VM.Replicate",
    "VM.Snapshot",
    "VM.Snapshot.Rollback",
];

/// What the mirror needs: audit of guests, storages, nodes, pools, and guest agents.
pub const AUDIT: [&str; 5] =
    ["VM.Audit", "Datastore.Audit", "Sys.Audit", "Pool.Audit", "VM.GuestAgent.Audit"];

/// An API token: `user@realm!tokenid`, its secret and its rights.
#[derive(Clone)]
pub struct Token {
    /// `user@realm!tokenid`.
    pub id: String,
    pub(crate) secret: String,
    /// 401 from now on, as an expired or removed token gets.
    pub(crate) revoked: bool,
    pub(crate) acl: BTreeMap<String, BTreeSet<&'static str>>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("id", &self.id)
            .field("secret", &"[secret]")
            .field("revoked", &self.revoked)
            .field("acl", &self.acl)
            .finish()
    }
}

impl Token {
    /// A token without any privilege.
    pub fn new(id: &str, secret: &str) -> Self {
        Self { id: id.to_owned(), secret: secret.to_owned(), revoked: false, acl: BTreeMap::new() }
    }

    /// Grants every privilege everywhere.
    #[must_use]
    pub fn with_everything(self) -> Self {
        self.granted("/", &PRIVILEGES)
    }

    /// Grants privileges on a path and below.
    ///
    /// # Panics
    ///
    /// If PVE 9.2 has no privilege of such a name.
    #[must_use]
    pub fn granted(mut self, path: &str, privileges: &[&str]) -> Self {
        self.grant(path, privileges);
        self
    }

    pub(crate) fn grant(&mut self, path: &str, privileges: &[&str]) {
        let mut set = self.on(path).clone();
        set.extend(privileges.iter().map(|&name| known(name)));
        self.acl.insert(path.to_owned(), set);
    }

    /// Takes privileges away on a path and on everything below it.
    pub fn withdraw(&mut self, path: &str, privileges: &[&str]) {
        let inherited = self.on(path).clone();
        self.acl.entry(path.to_owned()).or_insert(inherited);
        for (at, set) in &mut self.acl {
            if is_below(at, path) {
                for name in privileges {
                    set.remove::<str>(name);
                }
            }
        }
        self.acl.retain(|_, set| !set.is_empty());
        if !self.on(path).is_empty() && !self.acl.contains_key(path) {
            self.acl.insert(path.to_owned(), BTreeSet::new());
        }
    }

    /// What holds on a path: the entry there or the nearest one above.
    pub(crate) fn on(&self, path: &str) -> &BTreeSet<&'static str> {
        static NOTHING: BTreeSet<&'static str> = BTreeSet::new();
        let mut at = path;
        loop {
            if let Some(set) = self.acl.get(at) {
                return set;
            }
            if at == "/" || at.is_empty() {
                return &NOTHING;
            }
            at = match at.rfind('/') {
                Some(0) | None => "/",
                Some(cut) => &at[..cut],
            };
        }
    }

    /// Whether every path below this one has the same privileges.
    pub(crate) fn is_even_below(&self, path: &str) -> bool {
        !self.acl.keys().any(|at| at != path && is_below(at, path))
    }

    /// The paths that `/access/permissions` shows: PVE's usual ones and those with an entry.
    pub(crate) fn shown_paths(&self) -> BTreeSet<&str> {
        let usual = ["/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage"];
        let mut paths: BTreeSet<&str> = usual.into_iter().collect();
        paths.insert("/vms");
        paths.extend(self.acl.keys().map(String::as_str));
        paths.retain(|path| !self.on(path).is_empty());
        paths
    }
}

fn is_below(path: &str, above: &str) -> bool {
    above == "/"
        || path == above
        || path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
}

fn known(name: &str) -> &'static str {
    PRIVILEGES
        .into_iter()
        .find(|&known| known == name)
        .unwrap_or_else(|| panic!("PVE 9.2 has no privilege {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_privilege_taken_at_the_root_is_gone_everywhere() {
        let mut token = Token::new("a@pve!t", "s").with_everything();
        token.grant("/vms/100", &["VM.Clone"]);

        token.withdraw("/", &["VM.Audit"]);

        assert!(!token.on("/vms/100").contains("VM.Audit"));
        assert!(token.on("/vms/100").contains("VM.Clone"));
        assert!(!token.on("/storage/local").contains("VM.Audit"));
        assert!(token.on("/storage/local").contains("Datastore.Audit"));
    }

    #[test]
    fn a_privilege_taken_below_stays_above() {
        let mut token = Token::new("a@pve!t", "s").granted("/", &AUDIT);

        token.withdraw("/vms/100", &AUDIT);

        assert!(token.on("/vms/100").is_empty());
        assert!(token.on("/vms/101").contains("VM.Audit"));
        assert!(token.on("/vms/1000").contains("VM.Audit"), "/vms/1000 is not below /vms/100");
    }

    #[test]
    fn privileges_of_one_guest_make_guests_uneven() {
        let token = Token::new("a@pve!t", "s").granted("/vms", &AUDIT);

        assert!(token.is_even_below("/vms"));
        assert!(!token.granted("/vms/100", &["VM.Clone"]).is_even_below("/vms"));
    }

    #[test]
    fn a_token_without_privileges_shows_no_paths() {
        assert!(Token::new("a@pve!t", "s").shown_paths().is_empty());
    }
}
