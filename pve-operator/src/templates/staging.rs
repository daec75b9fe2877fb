//! Where on a node an image is put before a disk is made of it.

use crate::pve::Permissions;

/// Storage types that keep files, so that an image can be put there (pve-storage:
/// `src/PVE/API2/Storage/Status.pm:625`). rbd, LVM and ZFS hold disks only.
const WITH_FILES: [&str; 6] = ["dir", "nfs", "cifs", "cephfs", "btrfs", "glusterfs"];

/// Storage types on which a template's disk becomes a base image (pve-storage: the feature
/// `template`; LVM has none).
const WITHOUT_BASE: [&str; 2] = ["lvm", "iscsidirect"];

/// One storage as a node sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Seen<'a> {
    pub name: &'a str,
    /// PVE's type: `dir`, `lvmthin`, …
    pub plugin: &'a str,
    /// Kinds of content, separated by commas.
    pub content: &'a str,
    pub shared: bool,
    pub active: bool,
}

impl Seen<'_> {
    fn holds(&self, kind: &str) -> bool {
        self.content.split(',').any(|it| it.trim() == kind)
    }

    fn keeps_files(&self) -> bool {
        WITH_FILES.contains(&self.plugin)
    }
}

/// Where to put an image: a storage of the node's own before a shared one, `local` before others.
///
/// # Errors
///
/// A sentence that says what is missing and how to add it.
pub(super) fn choose<'a>(
    node: &str,
    storages: &[Seen<'a>],
    permissions: &Permissions,
) -> Result<&'a str, String> {
    let takes = |it: &&Seen<'a>| it.keeps_files() && it.holds("import") && it.active;
    let mut fit: Vec<&Seen<'a>> = storages.iter().filter(takes).collect();
    fit.sort_by_key(|it| (it.shared, it.name != "local", it.name));
    let Some(first) = fit.first() else {
        let candidate =
            storages.iter().filter(|it| it.keeps_files()).min_by_key(|it| (it.shared, it.name));
        let name = candidate.map_or("local", |it| it.name);
        let content = candidate.map_or("", |it| it.content);
        let content: Vec<_> =
            content.split(',').chain(["import"]).filter(|it| !it.is_empty()).collect();
        return Err(format!(
            "no storage of node {node} takes images: enable the content type `import` on one that \
             keeps files, for example `pvesm set {name} --content {}`",
            content.join(",")
        ));
    };
    fit.iter()
        .find(|it| may_stage(permissions, it.name))
        .map(|it| it.name)
        .ok_or_else(|| format!("Datastore.AllocateTemplate on /storage/{} is missing", first.name))
}

fn may_stage(permissions: &Permissions, storage: &str) -> bool {
    permissions.has(&format!("/storage/{storage}"), "Datastore.AllocateTemplate")
}

/// Where PVE may unpack an OVA: it needs a storage with files that takes disks.
pub(super) fn working_storage<'a>(storages: &[Seen<'a>]) -> Option<&'a str> {
    storages
        .iter()
        .filter(|it| it.keeps_files() && it.holds("images") && it.active)
        .min_by_key(|it| (it.shared, it.name != "local", it.name))
        .map(|it| it.name)
}

/// Whether disks on this type of storage become base images, of which linked clones can be made.
pub(super) fn has_base(plugin: &str) -> bool {
    !WITHOUT_BASE.contains(&plugin)
}

/// The format to import to: files as qcow2, so that linked clones cost nothing; elsewhere PVE's
/// own choice is the only one.
pub(super) fn disk_format(plugin: &str) -> Option<&'static str> {
    WITH_FILES.contains(&plugin).then_some("qcow2")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage<'a>(name: &'a str, plugin: &'a str, content: &'a str) -> Seen<'a> {
        Seen { name, plugin, content, shared: false, active: true }
    }

    fn granted(paths: &[&str]) -> Permissions {
        let paths: Vec<_> = paths
            .iter()
            .map(|path| format!("\"{path}\":{{\"Datastore.AllocateTemplate\":1}}"))
            .collect();
        let body = format!("{{\"data\":{{{}}}}}", paths.join(","));
        Permissions::parse("GET /access/permissions", body.as_bytes()).unwrap()
    }

    #[test]
    fn the_nodes_own_storage_comes_first() {
        let nfs = Seen { shared: true, ..storage("a-nfs", "nfs", "import,images") };
        let all = [nfs, storage("fast", "dir", "import"), storage("local", "dir", "iso,import")];
        let permissions = granted(&["/"]);
        assert_eq!(choose("n1", &all, &permissions), Ok("local"));
        assert_eq!(choose("n1", &all[..2], &permissions), Ok("fast"));
        assert_eq!(choose("n1", &all[..1], &permissions), Ok("a-nfs"));
        assert_eq!(choose("n1", &all, &granted(&["/storage/fast"])), Ok("fast"), "where we may");
    }

    /// B15, B18: what is missing is named, with the command that adds it.
    #[test]
    fn what_is_missing_is_named() {
        let permissions = granted(&["/"]);
        let block = storage("local-lvm", "lvmthin", "images,import");
        let dir = storage("local", "dir", "iso,vztmpl");
        let refused = choose("n1", &[block, dir], &permissions).unwrap_err();
        assert!(refused.contains("pvesm set local --content iso,vztmpl,import"), "{refused}");
        let off = Seen { active: false, ..storage("local", "dir", "import") };
        assert!(choose("n1", &[off], &permissions).is_err());
        let refused = choose("n1", &[storage("local", "dir", "import")], &granted(&[]));
        let refused = refused.unwrap_err();
        assert!(refused.contains("Datastore.AllocateTemplate on /storage/local"), "{refused}");
    }

    #[test]
    fn an_ova_is_unpacked_where_files_and_disks_may_be() {
        let all = [storage("local", "dir", "iso"), storage("data", "dir", "images")];
        assert_eq!(working_storage(&all), Some("data"));
        assert_eq!(working_storage(&all[..1]), None);
    }
}
