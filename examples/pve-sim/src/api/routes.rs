//! The table of endpoints.

use std::collections::BTreeMap;

use super::answer::{Body, Refusal};
use super::call::Call;
use super::{
    access, change, clone, cluster, content, create, destroy, download, guests, nodes, power,
    resources, storages, tasks, template, upload,
};

/// Which daemon answers: pveproxy itself, or pvedaemon behind it (`protected` in PVE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Daemon {
    Proxy,
    Root,
}

/// What the caller must have before anything else is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Needs {
    /// A valid token; the handler may filter rows.
    Nothing,
    All(&'static str, &'static [&'static str]),
    Any(&'static str, &'static [&'static str]),
}

/// What a parameter must look like.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    Text,
    Integer,
    Boolean,
    /// A VMID.
    Number,
    OneOf(&'static [&'static str]),
}

impl Form {
    pub(crate) fn check(self, value: &str) -> Result<(), String> {
        match self {
            Self::Text => Ok(()),
            Self::Integer if value.parse::<i64>().is_ok() => Ok(()),
            Self::Integer => Err(format!("type check ('integer') failed - got '{value}'")),
            Self::Number => match value.parse::<i64>() {
                Ok(100..=999_999_999) => Ok(()),
                Ok(_) => {
                    Err("invalid format - value does not look like a valid VM ID\n".to_owned())
                }
                Err(_) => Err(format!("type check ('integer') failed - got '{value}'")),
            },
            Self::Boolean => match value {
                "0" | "1" | "on" | "off" | "yes" | "no" | "true" | "false" => Ok(()),
                _ => Err(format!("type check ('boolean') failed - got '{value}'")),
            },
            Self::OneOf(words) if words.contains(&value) => Ok(()),
            Self::OneOf(words) => Err(format!(
                "value '{value}' does not have a value in the enumeration '{}'",
                words.join(", ")
            )),
        }
    }
}

/// One endpoint.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) pattern: &'static str,
    pub(crate) daemon: Daemon,
    pub(crate) needs: Needs,
    /// Known parameters; `scsi#` stands for `scsi0`, `scsi1`, …
    pub(crate) params: &'static [(&'static str, Form)],
    /// Those that may not be left out.
    pub(crate) required: &'static [&'static str],
    pub(crate) handler: fn(&mut Call<'_>) -> Result<Body, Refusal>,
}

impl Route {
    /// Whether it lists a collection, so that it counts as a list request.
    pub(crate) fn is_list(&self) -> bool {
        matches!(
            self.pattern,
            "/cluster/resources"
                | "/cluster/status"
                | "/nodes"
                | "/nodes/{node}/qemu"
                | "/nodes/{node}/lxc"
                | "/nodes/{node}/storage"
                | "/storage"
        )
    }
}

const fn get(
    pattern: &'static str,
    daemon: Daemon,
    needs: Needs,
    params: &'static [(&'static str, Form)],
    handler: fn(&mut Call<'_>) -> Result<Body, Refusal>,
) -> Route {
    Route { method: "GET", pattern, daemon, needs, params, required: &[], handler }
}

/// A route that changes something; pvedaemon answers.
const fn act(
    method: &'static str,
    pattern: &'static str,
    needs: Needs,
    params: &'static [(&'static str, Form)],
    required: &'static [&'static str],
    handler: fn(&mut Call<'_>) -> Result<Body, Refusal>,
) -> Route {
    Route { method, pattern, daemon: Root, needs, params, required, handler }
}

use Daemon::{Proxy, Root};
use Form::{Boolean, Integer, Number, OneOf, Text};
use Needs::{All, Any, Nothing};

const VM_AUDIT: Needs = All("/vms/{vmid}", &["VM.Audit"]);
const STORAGE_SEEN: Needs =
    Any("/storage/{storage}", &["Datastore.Audit", "Datastore.AllocateSpace"]);
const RESOURCE_TYPES: &[&str] = &["vm", "storage", "node", "sdn"];

const AGENT_AUDIT: Needs =
    Any("/vms/{vmid}", &["VM.GuestAgent.Audit", "VM.GuestAgent.Unrestricted"]);
const VM_CONFIGURE: Needs = Any(
    "/vms/{vmid}",
    &[
        "VM.Config.Disk",
        "VM.Config.CDROM",
        "VM.Config.CPU",
        "VM.Config.Memory",
        "VM.Config.Network",
        "VM.Config.HWType",
        "VM.Config.Options",
        "VM.Config.Cloudinit",
    ],
);
const VM_ALLOCATE: Needs = All("/vms/{vmid}", &["VM.Allocate"]);
const VM_POWER: Needs = All("/vms/{vmid}", &["VM.PowerMgmt"]);
const PUT_FILES: Needs = All("/storage/{storage}", &["Datastore.AllocateTemplate"]);
const SUMS: Form = OneOf(&["md5", "sha1", "sha224", "sha256", "sha384", "sha512"]);
const SOURCES: &[&str] = &["archive", "active", "all"];

static ROUTES: &[Route] = &[
    get("/version", Proxy, Nothing, &[], nodes::version),
    get(
        "/access/permissions",
        Proxy,
        Nothing,
        &[("path", Text), ("userid", Text)],
        access::permissions,
    ),
    get("/cluster/nextid", Proxy, Nothing, &[("vmid", Integer)], cluster::next_id),
    get(
        "/cluster/resources",
        Proxy,
        Nothing,
        &[("type", OneOf(RESOURCE_TYPES))],
        resources::resources,
    ),
    get("/cluster/status", Root, All("/", &["Sys.Audit"]), &[], cluster::status),
    get("/cluster/tasks", Proxy, Nothing, &[], tasks::of_cluster),
    get("/nodes", Proxy, Nothing, &[], nodes::list),
    get("/nodes/{node}/version", Proxy, Nothing, &[], nodes::version),
    get("/nodes/{node}/status", Proxy, All("/nodes/{node}", &["Sys.Audit"]), &[], nodes::status),
    get("/nodes/{node}/certificates/info", Proxy, Nothing, &[], nodes::certificates),
    get("/nodes/{node}/qemu", Root, Nothing, &[("full", Boolean)], guests::qemu_list),
    get(
        "/nodes/{node}/qemu/{vmid}/config",
        Proxy,
        VM_AUDIT,
        &[("current", Boolean), ("snapshot", Text)],
        guests::qemu_config,
    ),
    get("/nodes/{node}/qemu/{vmid}/status/current", Root, VM_AUDIT, &[], guests::qemu_current),
    get(
        "/nodes/{node}/qemu/{vmid}/agent/network-get-interfaces",
        Root,
        AGENT_AUDIT,
        &[],
        guests::agent_interfaces,
    ),
    get("/nodes/{node}/lxc", Root, Nothing, &[], guests::lxc_list),
    get(
        "/nodes/{node}/lxc/{vmid}/config",
        Proxy,
        VM_AUDIT,
        &[("current", Boolean), ("snapshot", Text)],
        guests::lxc_config,
    ),
    get("/nodes/{node}/lxc/{vmid}/status/current", Root, VM_AUDIT, &[], guests::lxc_current),
    get("/nodes/{node}/lxc/{vmid}/interfaces", Root, VM_AUDIT, &[], guests::lxc_interfaces),
    get(
        "/nodes/{node}/storage",
        Root,
        Nothing,
        &[
            ("storage", Text),
            ("content", Text),
            ("enabled", Boolean),
            ("target", Text),
            ("format", Boolean),
        ],
        storages::of_node,
    ),
    get("/nodes/{node}/storage/{storage}/status", Root, STORAGE_SEEN, &[], storages::status),
    get(
        "/nodes/{node}/tasks",
        Proxy,
        Nothing,
        &[
            ("start", Integer),
            ("limit", Integer),
            ("userfilter", Text),
            ("typefilter", Text),
            ("vmid", Integer),
            ("errors", Boolean),
            ("source", OneOf(SOURCES)),
            ("since", Integer),
            ("until", Integer),
            ("statusfilter", Text),
        ],
        tasks::of_node,
    ),
    get("/nodes/{node}/tasks/{upid}/status", Root, Nothing, &[], tasks::status),
    get(
        "/nodes/{node}/tasks/{upid}/log",
        Root,
        Nothing,
        &[("start", Integer), ("limit", Integer)],
        tasks::log,
    ),
    act("DELETE", "/nodes/{node}/tasks/{upid}", Nothing, &[], &[], tasks::stop),
    get(
        "/nodes/{node}/query-url-metadata",
        Proxy,
        Nothing,
        &[("url", Text), ("verify-certificates", Boolean)],
        download::metadata,
    ),
    act(
        "POST",
        "/nodes/{node}/storage/{storage}/download-url",
        PUT_FILES,
        &[
            ("url", Text),
            ("content", Text),
            ("filename", Text),
            ("checksum", Text),
            ("checksum-algorithm", SUMS),
            ("compression", Text),
            ("verify-certificates", Boolean),
        ],
        &["url", "content", "filename"],
        download::start,
    ),
    act(
        "POST",
        "/nodes/{node}/storage/{storage}/upload",
        PUT_FILES,
        &[
            ("content", Text),
            ("filename", Text),
            ("checksum", Text),
            ("checksum-algorithm", SUMS),
            ("tmpfilename", Text),
        ],
        &["content", "filename"],
        upload::without_file,
    ),
    get(
        "/nodes/{node}/storage/{storage}/content",
        Root,
        STORAGE_SEEN,
        &[("content", Text), ("vmid", Number)],
        content::list,
    ),
    get("/nodes/{node}/storage/{storage}/content/{volume}", Root, Nothing, &[], content::one),
    act(
        "DELETE",
        "/nodes/{node}/storage/{storage}/content/{volume}",
        Nothing,
        &[("delay", Integer)],
        &[],
        content::remove,
    ),
    act("POST", "/nodes/{node}/qemu", Nothing, change::CREATE, &["vmid"], create::create),
    act(
        "POST",
        "/nodes/{node}/qemu/{vmid}/config",
        VM_CONFIGURE,
        change::CHANGE,
        &[],
        change::post,
    ),
    act("PUT", "/nodes/{node}/qemu/{vmid}/config", VM_CONFIGURE, change::CHANGE, &[], change::put),
    act(
        "POST",
        "/nodes/{node}/qemu/{vmid}/template",
        VM_ALLOCATE,
        &[("disk", Text)],
        &[],
        template::template,
    ),
    act(
        "POST",
        "/nodes/{node}/qemu/{vmid}/clone",
        All("/vms/{vmid}", &["VM.Clone"]),
        &[
            ("newid", Number),
            ("name", Text),
            ("description", Text),
            ("pool", Text),
            ("full", Boolean),
            ("storage", Text),
            ("format", OneOf(&["raw", "qcow2", "vmdk"])),
            ("target", Text),
            ("bwlimit", Integer),
            ("snapname", Text),
        ],
        &["newid"],
        clone::clone,
    ),
    act(
        "DELETE",
        "/nodes/{node}/qemu/{vmid}",
        VM_ALLOCATE,
        &[("purge", Boolean), ("destroy-unreferenced-disks", Boolean), ("skiplock", Boolean)],
        &[],
        destroy::destroy,
    ),
    act(
        "POST",
        "/nodes/{node}/qemu/{vmid}/status/start",
        VM_POWER,
        &[("timeout", Integer)],
        &[],
        power::start,
    ),
    act(
        "POST",
        "/nodes/{node}/qemu/{vmid}/status/stop",
        VM_POWER,
        &[("timeout", Integer)],
        &[],
        power::stop,
    ),
    act(
        "POST",
        "/nodes/{node}/qemu/{vmid}/status/shutdown",
        VM_POWER,
        &[("timeout", Integer), ("forceStop", Boolean)],
        &[],
        power::shutdown,
    ),
    get("/storage", Proxy, Nothing, &[("type", Text)], storages::configuration),
    get(
        "/storage/{storage}",
        Proxy,
        All("/storage/{storage}", &["Datastore.Allocate"]),
        &[],
        storages::one,
    ),
];

/// Finds the endpoint and the values of its `{…}` parts.
pub(crate) fn find(
    method: &str,
    path: &str,
) -> Option<(&'static Route, BTreeMap<&'static str, String>)> {
    ROUTES
        .iter()
        .filter(|route| route.method == method)
        .find_map(|route| Some((route, matches(route.pattern, path)?)))
}

fn matches(pattern: &'static str, path: &str) -> Option<BTreeMap<&'static str, String>> {
    let mut values = BTreeMap::new();
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    for want in pattern.split('/').filter(|part| !part.is_empty()) {
        let part = parts.next()?;
        if want == "{volume}" {
            // The slash in a volume's name may come as it is.
            let whole: Vec<&str> = std::iter::once(part).chain(parts.by_ref()).collect();
            values.insert("volume", decoded(&whole.join("/"))?);
            continue;
        }
        match want.strip_prefix('{').and_then(|want| want.strip_suffix('}')) {
            Some(name) => {
                values.insert(name, decoded(part)?);
            }
            None if want == part => {}
            None => return None,
        }
    }
    parts.next().is_none().then_some(values)
}

/// Undoes percent-encoding; `None` if what comes out is not text.
pub(crate) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_parts_are_decoded_after_they_are_cut() {
        let values = matches("/nodes/{node}/tasks/{upid}", "/nodes/a/tasks/UPID%3Ax%2Fy").unwrap();

        assert_eq!(values["upid"], "UPID:x/y");
        assert!(matches("/nodes/{node}", "/nodes/a/b").is_none());
        assert!(matches("/nodes/{node}", "/nodes").is_none());
    }
}
