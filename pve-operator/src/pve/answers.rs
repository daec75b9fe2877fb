//! What the small endpoints answer, as types.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Deserialize;
use serde_json::Value;

use super::{Fingerprint, PveError, Volid, reply, scalar::scalar};

/// `GET /version`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Version {
    /// Such as `9.2.11`.
    pub version: String,
    /// Such as `9.2`; empty before PVE 6.
    #[serde(default)]
    pub release: String,
    #[serde(default)]
    pub repoid: String,
}

impl Version {
    /// Major and minor; `None` if this is not a version.
    pub fn numbers(&self) -> Option<(u32, u32)> {
        let mut parts = self.version.split(['.', '-', '~']);
        Some((
            parts.next()?.parse().ok()?,
            parts.next().and_then(|it| it.parse().ok()).unwrap_or(0),
        ))
    }

    /// Whether this is `major.minor` or newer. A version that cannot be read is not.
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        self.numbers().is_some_and(|numbers| numbers >= (major, minor))
    }
}

/// `GET /cluster/status`: membership as the node that answered sees it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClusterStatus {
    /// `None` on a node that is in no cluster.
    pub cluster: Option<Membership>,
    pub nodes: Vec<MemberNode>,
    pub skipped: usize,
}

impl ClusterStatus {
    /// Whether the node that answered is in the part of the cluster that may change things. A
    /// node that is in no cluster always is.
    pub fn quorate(&self) -> bool {
        self.cluster.as_ref().is_none_or(|it| it.quorate)
    }
}

/// The `cluster` row of [`ClusterStatus`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Membership {
    pub name: String,
    pub quorate: bool,
    /// How many nodes corosync is configured for.
    pub nodes: Option<u64>,
    /// Version of corosync's configuration; grows when nodes come and go.
    pub version: Option<u64>,
}

/// A `node` row of [`ClusterStatus`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MemberNode {
    pub name: String,
    pub online: bool,
    /// Whether this is the node that answered.
    pub local: bool,
    pub ip: Option<IpAddr>,
    /// Corosync's number of it; 0 on a node that is in no cluster.
    pub nodeid: Option<u64>,
    /// Subscription level; empty for none.
    pub level: Option<String>,
}

#[derive(Deserialize)]
struct StatusRow {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    #[serde(default, deserialize_with = "scalar")]
    online: Option<bool>,
    #[serde(default, deserialize_with = "scalar")]
    local: Option<bool>,
    #[serde(default, deserialize_with = "scalar")]
    ip: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    nodeid: Option<u64>,
    #[serde(default, deserialize_with = "scalar")]
    level: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    quorate: Option<bool>,
    #[serde(default, deserialize_with = "scalar")]
    nodes: Option<u64>,
    #[serde(default, deserialize_with = "scalar")]
    version: Option<u64>,
}

impl ClusterStatus {
    pub(crate) fn parse(request: &str, body: &[u8]) -> Result<Self, PveError> {
        let listed = reply::list::<StatusRow>(request, body)?;
        let mut status = Self { skipped: listed.skipped, ..Self::default() };
        for row in listed.rows {
            match row.kind.as_str() {
                "cluster" => {
                    status.cluster = Some(Membership {
                        name: row.name,
                        quorate: row.quorate.unwrap_or(false),
                        nodes: row.nodes,
                        version: row.version,
                    });
                }
                "node" => status.nodes.push(MemberNode {
                    name: row.name,
                    online: row.online.unwrap_or(false),
                    local: row.local.unwrap_or(false),
                    ip: row.ip.and_then(|ip| ip.parse().ok()),
                    nodeid: row.nodeid,
                    level: row.level,
                }),
                _ => {}
            }
        }
        Ok(status)
    }
}

/// A row of `GET /nodes`, which every token may read.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct NodeListing {
    pub node: String,
    /// `online`, `offline` or `unknown`.
    #[serde(default, deserialize_with = "scalar")]
    pub status: Option<String>,
    /// SHA-256 of the certificate its API shows.
    #[serde(default, deserialize_with = "fingerprint")]
    pub ssl_fingerprint: Option<Fingerprint>,
}

/// A row of `GET /nodes/{node}/certificates/info`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Certificate {
    /// `pve-root-ca.pem`, `pve-ssl.pem` or `pveproxy-ssl.pem`.
    #[serde(default, deserialize_with = "scalar")]
    pub filename: Option<String>,
    #[serde(default, deserialize_with = "fingerprint")]
    pub fingerprint: Option<Fingerprint>,
    #[serde(default, deserialize_with = "scalar")]
    pub pem: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    pub subject: Option<String>,
    /// Seconds since 1970.
    #[serde(default, deserialize_with = "scalar")]
    pub notafter: Option<u64>,
}

fn fingerprint<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Fingerprint>, D::Error> {
    let text: Option<String> = scalar(from)?;
    Ok(text.and_then(|text| text.parse().ok()))
}

/// A row of `GET /nodes/{node}/storage`. Unlike `/cluster/resources` it has disabled ones too.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct NodeStorage {
    pub storage: String,
    /// `dir`, `nfs`, `lvmthin`, …
    #[serde(default, rename = "type", deserialize_with = "scalar")]
    pub kind: Option<String>,
    /// Separated by `,`, in no particular order.
    #[serde(default, deserialize_with = "scalar")]
    pub content: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    pub active: Option<bool>,
    #[serde(default, deserialize_with = "scalar")]
    pub enabled: Option<bool>,
    #[serde(default, deserialize_with = "scalar")]
    pub shared: Option<bool>,
    /// Bytes.
    #[serde(default, deserialize_with = "scalar")]
    pub total: Option<u64>,
    #[serde(default, deserialize_with = "scalar")]
    pub used: Option<u64>,
    #[serde(default, deserialize_with = "scalar")]
    pub avail: Option<u64>,
    /// 0 to 1.
    #[serde(default, deserialize_with = "scalar")]
    pub used_fraction: Option<f64>,
}

/// `GET /nodes/{node}/qemu|lxc/{vmid}/config`: what is set, as PVE writes it; defaults are absent.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GuestConfig {
    values: BTreeMap<String, String>,
}

impl GuestConfig {
    pub(crate) fn parse(request: &str, body: &[u8]) -> Result<Self, PveError> {
        let raw: BTreeMap<String, Value> = reply::one(request, body)?;
        let values = raw.into_iter().filter_map(|(key, value)| {
            let value = match value {
                Value::String(text) => text,
                Value::Number(number) => number.to_string(),
                Value::Bool(flag) => u8::from(flag).to_string(),
                // LXC's raw `lxc` lines, and whatever else is no option.
                Value::Null | Value::Array(_) | Value::Object(_) => return None,
            };
            Some((key, value))
        });
        Ok(Self { values: values.collect() })
    }

    pub fn get(&self, option: &str) -> Option<&str> {
        self.values.get(option).map(String::as_str)
    }

    /// All options, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// SHA-1 of the configuration file; changes with every edit.
    pub fn digest(&self) -> Option<&str> {
        self.get("digest")
    }

    pub fn is_template(&self) -> bool {
        self.get("template") == Some("1")
    }

    pub fn name(&self) -> Option<&str> {
        self.get("name")
    }

    /// The notes of the guest, of which ours holds the marker.
    pub fn description(&self) -> Option<&str> {
        self.get("description")
    }

    /// What the guest is locked for: `create`, `clone`, `backup`, `migrate`, …
    pub fn lock(&self) -> Option<&str> {
        self.get("lock").filter(|lock| !lock.is_empty())
    }

    pub fn tags(&self) -> impl Iterator<Item = &str> {
        let tags = self.get("tags").unwrap_or_default();
        tags.split([';', ',', ' ']).filter(|tag| !tag.is_empty())
    }

    /// The volume of a disk, such as `scsi0`; `None` without that disk, and for one that is no
    /// volume (`none`, a device of the node).
    pub fn volume(&self, disk: &str) -> Option<Volid> {
        let value = self.get(disk)?;
        value.split(',').find_map(|part| {
            let text = if part.contains('=') { part.strip_prefix("file=")? } else { part };
            text.parse().ok()
        })
    }

    /// Whether there are volumes that a disk was taken off from and that still cost space.
    pub fn has_unused_disks(&self) -> bool {
        self.iter().any(|(key, _)| {
            key.strip_prefix("unused")
                .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
        })
    }

    /// Whether a QEMU guest agent is expected: `agent: 1` or `agent: enabled=1,…`.
    pub fn agent_enabled(&self) -> bool {
        self.get("agent").is_some_and(|agent| {
            let first =
                agent.split(',').find(|part| !part.contains('=') || part.starts_with("enabled="));
            first.is_some_and(|part| {
                matches!(part.trim_start_matches("enabled="), "1" | "yes" | "on" | "true")
            })
        })
    }

    /// Disks and mount points: bus name and what follows, unused and CD drives left out.
    pub fn disks(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter().filter(|(key, value)| {
            let numbered = ["scsi", "virtio", "sata", "ide", "mp", "efidisk", "tpmstate"];
            let is_disk = *key == "rootfs"
                || numbered.iter().any(|bus| {
                    key.strip_prefix(bus).is_some_and(|rest| {
                        !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit())
                    })
                });
            is_disk && !value.split(',').any(|part| part == "media=cdrom")
        })
    }
}

/// One interface of a guest, as the guest itself tells it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GuestInterface {
    pub name: String,
    /// Lower case with colons; Windows' loopback has none.
    pub mac: Option<String>,
    pub addresses: Vec<InterfaceAddress>,
}

/// An address of a [`GuestInterface`], without its zone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InterfaceAddress {
    pub ip: IpAddr,
    /// Old agents on Windows do not know it.
    pub prefix: Option<u8>,
}

/// What asking a guest for its interfaces brought.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Interfaces {
    Known(Vec<GuestInterface>),
    /// The guest is stopped, or has no agent that answers: PVE's words. Says nothing about IPs.
    Silent(String),
}

#[derive(Deserialize)]
struct InterfaceRow {
    name: String,
    #[serde(default, rename = "hardware-address", deserialize_with = "scalar")]
    mac: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    hwaddr: Option<String>,
    #[serde(default, rename = "ip-addresses")]
    addresses: Value,
    #[serde(default, deserialize_with = "scalar")]
    inet: Option<String>,
    #[serde(default, deserialize_with = "scalar")]
    inet6: Option<String>,
}

#[derive(Deserialize)]
struct AddressRow {
    #[serde(rename = "ip-address")]
    ip: String,
    #[serde(default, deserialize_with = "scalar")]
    prefix: Option<u64>,
}

impl Interfaces {
    /// `data.result` is a list, or `{"error": {"class", "desc"}}` with status 200.
    pub(crate) fn of_agent(request: &str, body: &[u8]) -> Result<Self, PveError> {
        #[derive(Deserialize)]
        struct Agent {
            result: Value,
        }
        let agent: Agent = reply::one(request, body)?;
        match agent.result {
            Value::Array(rows) => Ok(Self::known(reply::each(rows).rows)),
            Value::Object(result) => {
                let error = &result.get("error").unwrap_or(&Value::Null);
                let words =
                    error.get("desc").or_else(|| error.get("class")).and_then(Value::as_str);
                Ok(Self::Silent(words.unwrap_or("the agent answered with an error").to_owned()))
            }
            _ => Err(reply::decode_error(request, "result is no list".into())),
        }
    }

    /// The refusals that mean "nobody is in there to ask" (qemu-server: `src/PVE/QemuServer/Agent.pm`).
    pub(crate) fn of_refusal(error: &PveError) -> Option<Self> {
        let PveError::Refused { status: 500, message, .. } = error else { return None };
        let silent = ["guest agent", "is not running", "got timeout"];
        silent.iter().any(|words| message.contains(words)).then(|| Self::Silent(message.clone()))
    }

    /// `data` is a list, or `null` for a stopped container.
    pub(crate) fn of_container(request: &str, body: &[u8]) -> Result<Self, PveError> {
        let (listed, _) = reply::list_or_null(request, body)?;
        Ok(match listed {
            Some(listed) => Self::known(listed.rows),
            None => Self::Silent("the container is not running".to_owned()),
        })
    }

    fn known(rows: Vec<InterfaceRow>) -> Self {
        Self::Known(rows.into_iter().map(InterfaceRow::into_interface).collect())
    }
}

impl InterfaceRow {
    fn into_interface(self) -> GuestInterface {
        let mut addresses = Vec::new();
        let mut add = |text: &str, prefix: Option<u64>| {
            // Windows writes `fe80::1%12`; the zone means something inside the guest only.
            let text = text.split('%').next().unwrap_or(text);
            if let Ok(ip) = text.trim().parse::<IpAddr>() {
                let longest = if ip.is_ipv4() { 32 } else { 128 };
                let prefix =
                    prefix.filter(|it| *it <= longest).and_then(|it| u8::try_from(it).ok());
                let address = InterfaceAddress { ip, prefix };
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        };
        if let Value::Array(rows) = self.addresses {
            for row in reply::each::<AddressRow>(rows).rows {
                add(&row.ip, row.prefix);
            }
        } else {
            for text in [self.inet, self.inet6].into_iter().flatten() {
                match text.split_once('/') {
                    Some((ip, prefix)) => add(ip, prefix.parse().ok()),
                    None => add(&text, None),
                }
            }
        }
        let mac = self.mac.or(self.hwaddr).filter(|mac| !mac.is_empty());
        GuestInterface { name: self.name, mac: mac.map(|mac| mac.to_ascii_lowercase()), addresses }
    }
}
