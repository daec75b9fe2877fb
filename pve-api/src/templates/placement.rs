//! Decides where an image becomes a template, or says why it can not, before a byte is read.
//!
//! - *target*: the storage that was named; the template's disk is made there.
//! - *staging*: where a node puts the file that it makes the disk of: any storage with a path whose
//!   content includes `import`. Most targets (rbd, lvm-thin) take no files, so it is another one.

use schema::NodeId;
use schema::node::{NodeRow, NodeStatus};
use schema::storage::StorageRow;
use schema::template_wish::{Place, Placement};

use super::world::{World, takes, works};
use crate::error::Refusal;

/// Which nodes are to have a copy beside the one that imports.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Copies {
    None,
    /// Every other node that is online and has a storage of that name.
    Online,
    Nodes(Vec<NodeId>),
}

/// What a node is given to import.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// qcow2, raw, vmdk.
    Disk,
    Ova,
}

/// Whether a cluster can import at all.
pub(super) fn importable(world: &World, kind: Kind) -> Result<(), Refusal> {
    let name = &world.cluster.cluster_name;
    changeable(world)?;
    let version = world.status.as_ref().and_then(|status| status.pve_version.as_deref());
    if let Some(version) = version
        && let Some(found) = major_minor(version)
    {
        let (needed, what) = match kind {
            Kind::Disk => ((8, 4), "8.4 (8.3 for .ova)"),
            Kind::Ova => ((8, 3), "8.3"),
        };
        if found < needed {
            let message = format!(
                "the cluster `{name}` runs PVE {version}; importing images needs PVE {what} or \
                 newer: upgrade the nodes"
            );
            return Err(Refusal::impossible("pve_version", message).of_field("cluster_id"));
        }
    }
    if !world.missing_privileges.is_empty() {
        let message = format!(
            "the token of the cluster `{name}` lacks privileges: {}; manifests/pve-role.sh \
             --templates grants them",
            world.missing_privileges.join("; ")
        );
        return Err(Refusal::impossible("missing_privileges", message).of_field("cluster_id"));
    }
    Ok(())
}

/// Whether anything can be changed in a cluster.
pub(super) fn changeable(world: &World) -> Result<(), Refusal> {
    let name = &world.cluster.cluster_name;
    if !world.cluster.is_enabled.0 {
        let message = format!("the cluster `{name}` is disabled (is_enabled = 0); enable it first");
        return Err(Refusal::conflict("cluster_disabled", message).of_field("cluster_id"));
    }
    if world.status.as_ref().and_then(|status| status.quorate).is_some_and(|it| !it.0) {
        let message = format!(
            "the cluster `{name}` has no quorum, so PVE changes nothing; bring its nodes back first"
        );
        return Err(Refusal::conflict("no_quorum", message).of_field("cluster_id"));
    }
    Ok(())
}

/// Where an image for `target` is imported first, and where else it is to be.
pub(super) fn place(
    world: &World,
    target: &StorageRow,
    copies: &Copies,
) -> Result<Placement, Refusal> {
    if !takes(target, "images") {
        let name = &target.synced.key.storage_name;
        let message = format!(
            "the storage `{name}` takes no disks; name another one, or allow it: pvesm set {name} \
             --content {}",
            with_content(target, "images")
        );
        return Err(Refusal::impossible("storage_content", message).of_field("storage_id"));
    }
    if target.synced.shared.0 {
        shared(world, target, copies)
    } else {
        local(world, target, copies)
    }
}

/// One guest, which every node sees that has the storage.
fn shared(world: &World, target: &StorageRow, copies: &Copies) -> Result<Placement, Refusal> {
    let name = &target.synced.key.storage_name;
    let unneeded = match copies {
        Copies::None => None,
        Copies::Online => Some("auto_sync"),
        Copies::Nodes(_) => Some("sync_node_ids"),
    };
    if let Some(field) = unneeded {
        let message = format!(
            "the storage `{name}` is shared, so every node sees the template anyway; leave {field} \
             out"
        );
        return Err(Refusal::impossible("shared_storage", message).of_field(field));
    }
    let mut seeing = Vec::new();
    for node in &world.nodes {
        if node.synced.status == NodeStatus::Removed {
            continue;
        }
        if let Some(storage) = world.storage_on(node, name) {
            seeing.push((node, storage));
        }
    }
    let mut reasons = Vec::new();
    let importer = seeing.iter().position(|(node, storage)| {
        let found = fit(world, node, Some(storage), name);
        found.map_err(|reason| reasons.push(reason)).is_ok()
    });
    let Some(importer) = importer else {
        let message = format!(
            "no node can import to the shared storage `{name}`: {}",
            if reasons.is_empty() { "none has it".to_owned() } else { join(reasons) }
        );
        return Err(Refusal::impossible("no_import_node", message).of_field("storage_id"));
    };
    let (node, storage) = seeing.remove(importer);
    Ok(Placement {
        primary: at(node, storage),
        others: seeing.into_iter().map(|(node, storage)| at(node, storage)).collect(),
    })
}

/// One guest on each node.
fn local(world: &World, target: &StorageRow, copies: &Copies) -> Result<Placement, Refusal> {
    let key = &target.synced.key;
    let Some(node) = world.node_named(&key.node_name) else {
        let message = format!("the node {} of this storage is not known yet", key.node_name);
        return Err(Refusal::impossible("unknown_node", message).of_field("storage_id"));
    };
    fit(world, node, Some(target), &key.storage_name).map_err(|reason| {
        Refusal::impossible(reason.word, format!("{}: {}", reason.node, reason.text))
            .of_field("storage_id")
    })?;
    let ids = match copies {
        Copies::None => Vec::new(),
        Copies::Nodes(ids) => ids.clone(),
        Copies::Online => world
            .nodes
            .iter()
            .filter(|it| it.synced.status == NodeStatus::Online)
            .filter(|it| world.storage_on(it, &key.storage_name).is_some())
            .map(|it| it.id)
            .collect(),
    };
    // The node that imports has it anyway.
    let ids: Vec<_> = ids.into_iter().filter(|id| *id != node.id).collect();
    let field = if *copies == Copies::Online { "auto_sync" } else { "sync_node_ids" };
    let others = copy_places(world, &key.storage_name, &ids).map_err(|it| it.of_field(field))?;
    Ok(Placement { primary: at(node, target), others })
}

/// Where copies for these nodes go; a refusal names every node that can not have one.
pub(super) fn copy_places(
    world: &World,
    storage: &str,
    ids: &[NodeId],
) -> Result<Vec<Place>, Refusal> {
    let (mut places, mut reasons) = (Vec::new(), Vec::new());
    for (index, id) in ids.iter().enumerate() {
        if ids[..index].contains(id) {
            continue;
        }
        let Some(node) = world.node(*id) else {
            let cluster = &world.cluster.cluster_name;
            let text = format!("there is no such node in the cluster `{cluster}`");
            reasons.push(Reason { word: "unknown_node", node: format!("node {id}"), text });
            continue;
        };
        match fit(world, node, world.storage_on(node, storage), storage) {
            Ok(storage) => places.push(at(node, storage)),
            Err(reason) => reasons.push(reason),
        }
    }
    match reasons.first() {
        None => Ok(places),
        Some(first) => Err(Refusal::impossible(first.word, join(reasons))),
    }
}

/// Why a node can not import.
#[derive(Debug)]
struct Reason {
    word: &'static str,
    node: String,
    text: String,
}

/// Whether a node can import to a storage.
fn fit<'a>(
    world: &World,
    node: &NodeRow,
    storage: Option<&'a StorageRow>,
    name: &str,
) -> Result<&'a StorageRow, Reason> {
    let because = |word, text| {
        Err(Reason { word, node: format!("node {} ({})", node.id, node.synced.node_name), text })
    };
    match node.synced.status {
        NodeStatus::Online => {}
        NodeStatus::Offline => return because("node_offline", "it is offline".to_owned()),
        NodeStatus::Unknown => {
            return because("node_offline", "nobody knows whether it is online".to_owned());
        }
        NodeStatus::Removed => {
            return because("node_removed", "it has left the cluster".to_owned());
        }
    }
    let Some(storage) = storage else {
        return because("no_storage", format!("it has no storage `{name}`"));
    };
    if !works(storage) {
        return because("storage_inactive", format!("its storage `{name}` is not active"));
    }
    if !takes(storage, "images") {
        let content = with_content(storage, "images");
        let text =
            format!("its storage `{name}` takes no disks: pvesm set {name} --content {content}");
        return because("storage_content", text);
    }
    let paths = || world.storages_on(node).filter(|it| has_path(it) && works(it));
    if paths().any(|it| takes(it, "import")) {
        return Ok(storage);
    }
    let first = paths().min_by_key(|it| (it.synced.key.storage_name != "local", it.id));
    let text = match first {
        Some(storage) => format!(
            "it has no storage with the content `import` to put the file on; allow it: pvesm set \
             {} --content {}",
            storage.synced.key.storage_name,
            with_content(storage, "import")
        ),
        None => "it has no storage with a path (dir, nfs, cifs, cephfs, btrfs) to put the file \
                 on; add one with the content `import`: pvesm add dir …"
            .to_owned(),
    };
    because("no_import_storage", text)
}

/// Types whose storages are folders, and so can take a file.
fn has_path(storage: &StorageRow) -> bool {
    const PATHS: [&str; 6] = ["dir", "nfs", "cifs", "cephfs", "btrfs", "glusterfs"];
    PATHS.contains(&storage.synced.kind.as_str())
}

/// The contents of a storage and one more, as `pvesm set` takes them.
fn with_content(storage: &StorageRow, more: &str) -> String {
    match storage.synced.content.as_deref().filter(|content| !content.is_empty()) {
        Some(content) => format!("{content},{more}"),
        None => more.to_owned(),
    }
}

fn at(node: &NodeRow, storage: &StorageRow) -> Place {
    Place { node_id: node.id, node_name: node.synced.node_name.clone(), storage_id: storage.id }
}

fn join(reasons: Vec<Reason>) -> String {
    let all: Vec<_> =
        reasons.into_iter().map(|Reason { node, text, .. }| format!("{node}: {text}")).collect();
    all.join("; ")
}

/// `8` and `4` of `8.4.1-2`.
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use schema::{Flag, StorageId};

    use super::*;
    use crate::templates::world::tests::a_world;

    fn to(world: &World, storage: i64, copies: &Copies) -> Result<Vec<i64>, Refusal> {
        let target = world.storage(StorageId(storage)).unwrap();
        let placement = place(world, target, copies)?;
        let places = [placement.primary].into_iter().chain(placement.others);
        Ok(places.map(|place| place.storage_id.0).collect())
    }

    fn nodes(ids: &[i64]) -> Copies {
        Copies::Nodes(ids.iter().copied().map(NodeId).collect())
    }

    fn storage(world: &mut World, id: i64) -> &mut StorageRow {
        world.storages.iter_mut().find(|it| it.id == StorageId(id)).unwrap()
    }

    #[test]
    fn a_local_storage_is_imported_to_on_its_own_node_and_copied_where_asked() {
        let world = a_world();

        assert_eq!(to(&world, 12, &Copies::None), Ok(vec![12]));
        assert_eq!(to(&world, 22, &nodes(&[3, 1, 3])), Ok(vec![22, 32, 12]));
        assert_eq!(to(&world, 12, &nodes(&[1, 2])), Ok(vec![12, 22]));
        assert_eq!(to(&world, 22, &Copies::Online), Ok(vec![22, 12, 32]));
    }

    #[test]
    fn copies_everywhere_leave_out_nodes_that_are_down_or_have_no_such_storage() {
        let mut world = a_world();
        world.nodes[2].synced.status = NodeStatus::Offline;
        world.storages.retain(|it| it.id != StorageId(12));

        assert_eq!(to(&world, 22, &Copies::Online), Ok(vec![22]));
    }

    #[test]
    fn a_shared_storage_is_imported_to_by_any_node_that_can_and_seen_by_all() {
        let mut world = a_world();
        world.nodes[0].synced.status = NodeStatus::Offline;

        assert_eq!(to(&world, 13, &Copies::None), Ok(vec![23, 13, 33]));
        for (copies, field) in [(Copies::Online, "auto_sync"), (nodes(&[2]), "sync_node_ids")] {
            let refusal = to(&world, 13, &copies).unwrap_err();
            assert_eq!((refusal.reason, refusal.field), ("shared_storage", Some(field)));
        }
        for node in &mut world.nodes {
            node.synced.status = NodeStatus::Offline;
        }
        let refusal = to(&world, 13, &Copies::None).unwrap_err();
        assert_eq!(refusal.reason, "no_import_node");
        assert!(refusal.message.contains("node 3 (n3): it is offline"), "{}", refusal.message);
    }

    #[test]
    fn each_node_that_can_not_have_a_copy_is_named_with_its_reason() {
        let mut world = a_world();
        world.nodes[1].synced.status = NodeStatus::Offline;
        storage(&mut world, 32).synced.active = Flag(false);

        let refusal = to(&world, 12, &nodes(&[2, 3, 99])).unwrap_err();

        assert_eq!(refusal.field, Some("sync_node_ids"));
        assert_eq!(
            refusal.message,
            "node 2 (n2): it is offline; node 3 (n3): its storage `data` is not active; node 99: \
             there is no such node in the cluster `lab`"
        );
    }

    // B15
    #[test]
    fn a_node_without_import_storage_is_refused_with_the_setting_to_change() {
        let mut world = a_world();
        storage(&mut world, 11).synced.content = Some("iso,vztmpl".to_owned());

        let refusal = to(&world, 12, &Copies::None).unwrap_err();

        assert_eq!(refusal.reason, "no_import_storage");
        assert!(
            refusal.message.ends_with("pvesm set local --content iso,vztmpl,import"),
            "{}",
            refusal.message
        );
        storage(&mut world, 11).synced.kind = "zfspool".to_owned();
        let refusal = to(&world, 12, &Copies::None).unwrap_err();
        assert!(refusal.message.contains("pvesm add dir"), "{}", refusal.message);
        // A file system that every node shares will do as well.
        storage(&mut world, 13).synced.kind = "cephfs".to_owned();
        storage(&mut world, 13).synced.content = Some("import".to_owned());
        assert_eq!(to(&world, 12, &Copies::None), Ok(vec![12]));
    }

    #[test]
    fn a_target_that_takes_no_disks_is_refused_with_the_setting_to_change() {
        let refusal = to(&a_world(), 11, &Copies::None).unwrap_err();

        assert_eq!(refusal.reason, "storage_content");
        assert!(refusal.message.ends_with("pvesm set local --content iso,vztmpl,import,images"));
    }

    // B15
    #[test]
    fn an_old_pve_a_cluster_without_quorum_and_a_weak_token_are_refused() {
        let refused = |change: fn(&mut World), kind| {
            let mut world = a_world();
            change(&mut world);
            importable(&world, kind).map_err(|refusal| refusal.reason)
        };
        let version = |world: &mut World, version: &str| {
            world.status.as_mut().unwrap().pve_version = Some(version.to_owned());
        };

        assert_eq!(refused(|_| {}, Kind::Disk), Ok(()));
        let mut world = a_world();
        for (found, disk, ova) in [
            ("8.2.4", false, false),
            ("8.3.1", false, true),
            ("8.4.0", true, true),
            ("8.10", true, true),
            ("9.0~beta1", true, true),
            ("7.4-17", false, false),
            ("odd", true, true),
        ] {
            version(&mut world, found);
            assert_eq!(importable(&world, Kind::Disk).is_ok(), disk, "{found}");
            assert_eq!(importable(&world, Kind::Ova).is_ok(), ova, "{found}");
        }
        version(&mut world, "8.3.1");
        let said = importable(&world, Kind::Disk).unwrap_err().message;
        assert!(said.contains("PVE 8.3.1") && said.contains("8.4"), "{said}");
        assert_eq!(
            refused(|it| it.cluster.is_enabled = Flag(false), Kind::Disk),
            Err("cluster_disabled")
        );
        assert_eq!(
            refused(|it| it.status.as_mut().unwrap().quorate = Some(Flag(false)), Kind::Disk),
            Err("no_quorum")
        );
        assert_eq!(
            refused(
                |it| it.missing_privileges = vec!["Sys.AccessNetwork on /nodes/n1".to_owned()],
                Kind::Disk
            ),
            Err("missing_privileges")
        );
        assert_eq!(refused(|it| it.status = None, Kind::Disk), Ok(()));
    }
}
