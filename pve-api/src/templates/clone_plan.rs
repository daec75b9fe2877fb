//! Decides whether guests can be made from a template on a node, and of which instance.

use schema::instance::InstanceStatus;
use schema::node::NodeStatus;
use schema::template::TemplateStatus;
use schema::template_view::{InstanceView, TemplateView};
use schema::{NodeId, UploadId};

use super::world::{World, takes, works};
use crate::error::Refusal;

/// What somebody wants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Wanted {
    pub name: String,
    pub node_id: NodeId,
    /// None: whatever the storage of the template can do.
    pub full: Option<bool>,
    pub storage: Option<String>,
    pub count: usize,
}

/// Guests that can be made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Plan {
    pub upload_id: UploadId,
    pub node_name: String,
    pub is_full: bool,
    pub guest_names: Vec<String>,
}

/// How many guests one request may make.
pub(super) const MOST: usize = 50;

/// Where the template is a volume that PVE can not make linked clones of.
const NEVER_LINKED: [&str; 3] = ["lvm", "iscsi", "iscsidirect"];

/// Pure: the guests, or why not.
pub(super) fn plan(
    world: &World,
    view: &TemplateView,
    instances: &[InstanceView],
    guests_there: i64,
    wanted: &Wanted,
) -> Result<Plan, Refusal> {
    if view.template.status != TemplateStatus::Active {
        return Err(Refusal::conflict("deleting", "the template is being deleted"));
    }
    let cluster = &world.cluster.cluster_name;
    if !world.cluster.is_schedulable.0 {
        let message = format!("the cluster `{cluster}` takes no new guests (is_schedulable = 0)");
        return Err(Refusal::conflict("cluster_not_schedulable", message));
    }
    super::placement::changeable(world)?;
    let node = world.node(wanted.node_id).ok_or_else(|| {
        let id = wanted.node_id;
        let message = format!("there is no node {id} in the cluster `{cluster}` of the template");
        Refusal::impossible("unknown_node", message).of_field("node_id")
    })?;
    let name = &node.synced.node_name;
    if node.synced.status != NodeStatus::Online {
        let status = node.synced.status.as_str();
        let message = format!("the node {name} is {status}");
        return Err(Refusal::impossible("node_offline", message).of_field("node_id"));
    }
    if !node.is_schedulable.0 {
        let message = format!("the node {name} takes no new guests (is_schedulable = 0)");
        return Err(Refusal::conflict("node_not_schedulable", message).of_field("node_id"));
    }
    if let Some(limit) = node.vm_limit
        && guests_there + i64::try_from(wanted.count).unwrap_or(i64::MAX) > i64::from(limit)
    {
        let message = format!(
            "the node {name} has, or is getting, {guests_there} of at most {limit} guests \
             (vm_limit), and {} more were asked for",
            wanted.count
        );
        return Err(Refusal::conflict("vm_limit", message).of_field("node_id"));
    }
    let source = source(world, instances, wanted.node_id, name)?;
    let kind = world
        .storage_on(node, &source.row.storage_name)
        .map(|storage| storage.synced.kind.as_str())
        .unwrap_or_default();
    let linkable = !NEVER_LINKED.contains(&kind);
    let is_full = wanted.full.unwrap_or(!linkable || wanted.storage.is_some());
    if !is_full && !linkable {
        let message = format!(
            "the template is on a storage of type {kind}, which has no linked clones; give \
             \"full\": true"
        );
        return Err(Refusal::impossible("full", message).of_field("full"));
    }
    if let Some(storage) = &wanted.storage {
        if !is_full {
            let message = format!(
                "a linked clone lies where the template does; give \"full\": true for one on \
                 `{storage}`"
            );
            return Err(Refusal::impossible("storage", message).of_field("storage"));
        }
        let fits =
            world.storage_on(node, storage).is_some_and(|it| works(it) && takes(it, "images"));
        if !fits {
            let message =
                format!("the node {name} has no active storage `{storage}` that takes disks");
            return Err(Refusal::impossible("storage", message).of_field("storage"));
        }
    }
    Ok(Plan {
        upload_id: source.row.upload_id,
        node_name: name.clone(),
        is_full,
        guest_names: guest_names(&wanted.name, wanted.count)?,
    })
}

/// The newest version that can be cloned to the node: the instance on it, or, on shared storage,
/// the one guest that there is.
fn source<'a>(
    world: &World,
    instances: &'a [InstanceView],
    node: NodeId,
    node_name: &str,
) -> Result<&'a InstanceView, Refusal> {
    let sees = |instance: &InstanceView| {
        let row = &instance.row;
        if !row.is_shared.0 {
            return row.node_id == node;
        }
        let storage = world.node(node).and_then(|it| world.storage_on(it, &row.storage_name));
        row.is_primary.0 && storage.is_some_and(works)
    };
    let here: Vec<_> = instances.iter().filter(|it| sees(it)).collect();
    if let Some(ready) = here.iter().find(|it| it.row.told.status == InstanceStatus::Available) {
        return Ok(ready);
    }
    let message = match here.first() {
        Some(there) => format!(
            "the template is {} for {node_name}, and can be cloned there once it is available",
            there.row.told.status
        ),
        None => format!(
            "the template is not on {node_name}; POST /api/v1/templates/{{id}}/sync brings it there"
        ),
    };
    Err(Refusal::conflict("not_available", message).of_field("node_id"))
}

/// `web`, or `web-1` to `web-9`.
fn guest_names(name: &str, count: usize) -> Result<Vec<String>, Refusal> {
    let names: Vec<_> = match count {
        1 => vec![name.to_owned()],
        _ => (1..=count).map(|index| format!("{name}-{index}")).collect(),
    };
    if let Some(wrong) = names.iter().find(|name| !is_dns_name(name)) {
        let message = format!(
            "`{}` is no name that PVE takes for a guest: letters, digits and hyphens, not at an \
             end, at most 63 characters",
            crate::error::printable(wrong)
        );
        return Err(Refusal::impossible("name", message).of_field("name"));
    }
    Ok(names)
}

/// PVE's `dns-name` (pve-common: src/PVE/JSONSchema.pm, `verify_dns_name`), within 63 characters.
fn is_dns_name(name: &str) -> bool {
    name.len() <= 63
        && name.split('.').all(|label| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            !label.is_empty()
                && label.bytes().all(plain)
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_numbered_when_there_are_several() {
        assert_eq!(guest_names("web", 1), Ok(vec!["web".to_owned()]));
        assert_eq!(guest_names("web", 2), Ok(vec!["web-1".to_owned(), "web-2".to_owned()]));
        let (fits, long) = ("x".repeat(63), "x".repeat(62));
        assert!(guest_names(&fits, 1).is_ok());
        assert!(guest_names(&long, 9).is_err());
    }

    #[test]
    fn names_that_pve_would_refuse_are_refused() {
        for name in ["web", "web.lab.example", "1", "A-b"] {
            assert!(is_dns_name(name), "{name}");
        }
        for name in ["", "-web", "web-", "a_b", "a..b", ".a", "基础", "a b", "a/b"] {
            assert!(!is_dns_name(name), "{name}");
        }
    }
}
