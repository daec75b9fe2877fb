//! A guest as the simulated cluster really has it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Which kind of guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A virtual machine.
    Qemu,
    /// A container.
    Lxc,
}

impl Kind {
    /// The word in PVE's paths and ids.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Lxc => "lxc",
        }
    }
}

/// What QMP says of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It runs.
    Running,
    /// It does not.
    Stopped,
    /// It runs and its processors stand still.
    Paused,
}

impl Status {
    /// PVE's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Paused => "paused",
        }
    }
}

/// How the guest agent behaves when it is asked for addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Agent {
    /// It answers.
    Answers,
    /// The configuration has no agent: 500 "No QEMU guest agent configured".
    Absent,
    /// Configured, but nobody answers: 500 "QEMU guest agent is not running".
    Silent,
    /// 200 with `{"result":{"error":…}}`, as an agent that forbids the command does.
    Refuses,
}

/// One address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address as text: Windows guests add a zone (`fe80::1%3`).
    pub ip: String,
    /// Length of the prefix; Windows guests report -1.
    pub prefix: i32,
}

/// One interface inside a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name inside the guest.
    pub name: String,
    /// Its MAC; some agents leave it out.
    pub mac: Option<String>,
    /// Its addresses; empty ones are left out of the answer.
    pub addresses: Vec<Address>,
}

impl Interface {
    /// An interface with these addresses (`10.0.0.5/24`; a missing prefix becomes /24 or /64).
    pub fn new(name: &str, mac: Option<&str>, addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|text| {
            let (ip, prefix) = text.split_once('/').unwrap_or((text, ""));
            let usual = if ip.contains(':') { 64 } else { 24 };
            Address { ip: ip.to_owned(), prefix: prefix.parse().unwrap_or(usual) }
        });
        Self { name: name.to_owned(), mac: mac.map(str::to_owned), addresses: addresses.collect() }
    }

    pub(crate) fn loopback() -> Self {
        Self::new("lo", Some("00:00:00:00:00:00"), &["127.0.0.1/8", "::1/128"])
    }
}

/// One guest. Build one with [`Guest::qemu`] or [`Guest::lxc`] and say what matters.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guest {
    /// Its number, unique in the cluster over both kinds.
    pub vmid: u32,
    /// Virtual machine or container.
    pub kind: Kind,
    /// The node that has its configuration.
    pub node: String,
    /// Its name (a container's host name).
    pub name: String,
    /// What QMP says.
    pub status: Status,
    /// Whether it is a template.
    pub template: bool,
    /// Its tags.
    pub tags: Vec<String>,
    /// The pool it is in.
    pub pool: Option<String>,
    /// The configuration's lock (`clone`, `create`, `backup`, `migrate`, …).
    pub lock: Option<String>,
    /// What the HA manager says of it.
    pub hastate: Option<String>,
    /// Processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub maxmem: u64,
    /// Size of its first disk in bytes.
    pub maxdisk: u64,
    /// How its agent behaves; containers have none.
    pub agent: Agent,
    /// Interfaces that the agent, or the container, reports.
    pub interfaces: Vec<Interface>,
    /// Its configuration as `…/config` shows it, apart from `digest`, `lock`, `name`,
    /// `tags`, `template` which come from the fields above.
    pub config: BTreeMap<String, Value>,
    /// Counts the guests that had this number before it.
    pub incarnation: u32,
    /// Until then (time of the simulator) its row in `/cluster/resources` is bare.
    #[serde(skip)]
    pub(crate) whole_at: Duration,
    /// When it was started (time of the simulator); before the start it is negative time,
    /// so this is kept as the uptime at time zero plus the time it began.
    #[serde(skip)]
    pub(crate) started_at: Duration,
    #[serde(skip)]
    pub(crate) uptime_before: Duration,
}

impl Guest {
    /// A stopped virtual machine with one processor, 512 MiB and an 8 GiB disk.
    pub fn qemu(vmid: u32, node: &str) -> Self {
        Self::new(vmid, Kind::Qemu, node)
    }

    /// A stopped container with one processor, 512 MiB and an 8 GiB disk.
    pub fn lxc(vmid: u32, node: &str) -> Self {
        Self::new(vmid, Kind::Lxc, node)
    }

    fn new(vmid: u32, kind: Kind, node: &str) -> Self {
        let mut guest = Self {
            vmid,
            kind,
            node: node.to_owned(),
            name: match kind {
                Kind::Qemu => format!("vm{vmid}"),
                Kind::Lxc => format!("ct{vmid}"),
            },
            status: Status::Stopped,
            template: false,
            tags: Vec::new(),
            pool: None,
            lock: None,
            hastate: None,
            cpus: 1,
            maxmem: 512 << 20,
            maxdisk: 8 << 30,
            agent: if kind == Kind::Qemu { Agent::Answers } else { Agent::Absent },
            interfaces: Vec::new(),
            config: BTreeMap::new(),
            incarnation: 0,
            whole_at: Duration::ZERO,
            started_at: Duration::ZERO,
            uptime_before: Duration::ZERO,
        };
        guest.config = guest.usual_config();
        guest
    }

    /// What `create_and_lock_config` leaves of a new machine: a number and a lock.
    pub(crate) fn reserved(vmid: u32, node: &str, lock: &str) -> Self {
        let mut guest = Self::qemu(vmid, node).named(&format!("VM {vmid}")).locked(lock);
        guest.config.clear();
        guest.agent = Agent::Absent;
        guest.maxdisk = 0;
        guest
    }

    fn usual_config(&self) -> BTreeMap<String, Value> {
        let mac = self.mac();
        let text = |value: &str| Value::String(value.to_owned());
        let pairs: Vec<(&str, Value)> = match self.kind {
            Kind::Qemu => vec![
                ("boot", text("order=scsi0")),
                ("memory", Value::String((self.maxmem >> 20).to_string())),
                ("cores", Value::from(self.cpus)),
                ("ostype", text("l26")),
                ("scsihw", text("virtio-scsi-single")),
                (
                    "scsi0",
                    Value::String(format!(
                        "local-lvm:vm-{}-disk-0,size={}G",
                        self.vmid,
                        self.maxdisk >> 30
                    )),
                ),
                ("net0", Value::String(format!("virtio={mac},bridge=vmbr0"))),
                ("agent", text("enabled=1")),
                ("meta", text("creation-qemu=10.0.2,ctime=1795290999")),
                ("vmgenid", text("00000000-0000-0000-0000-000000000000")),
                ("smbios1", text("uuid=00000000-0000-0000-0000-000000000000")),
            ],
            Kind::Lxc => vec![
                ("arch", text("amd64")),
                ("cores", Value::from(self.cpus)),
                ("memory", Value::from(self.maxmem >> 20)),
                ("swap", Value::from(512)),
                ("ostype", text("debian")),
                ("unprivileged", Value::from(1)),
                (
                    "rootfs",
                    Value::String(format!(
                        "local-lvm:vm-{}-disk-0,size={}G",
                        self.vmid,
                        self.maxdisk >> 30
                    )),
                ),
                (
                    "net0",
                    Value::String(format!("name=eth0,bridge=vmbr0,hwaddr={mac},ip=dhcp,type=veth")),
                ),
            ],
        };
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// The MAC of its first card, the same for each number.
    pub fn mac(&self) -> String {
        let [_, a, b, c] = self.vmid.to_be_bytes();
        format!("BC:24:11:{a:02X}:{b:02X}:{c:02X}")
    }

    /// Sets the name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Makes it run.
    #[must_use]
    pub fn running(mut self) -> Self {
        self.status = Status::Running;
        self
    }

    /// Makes it a template.
    #[must_use]
    pub fn template(mut self) -> Self {
        self.template = true;
        self
    }

    /// Sets the tags.
    #[must_use]
    pub fn tagged(mut self, tags: &[&str]) -> Self {
        self.tags = tags.iter().map(|&tag| tag.to_owned()).collect();
        self
    }

    /// Puts it into a pool, which is made when it is missing.
    #[must_use]
    pub fn in_pool(mut self, pool: &str) -> Self {
        self.pool = Some(pool.to_owned());
        self
    }

    /// Locks its configuration.
    #[must_use]
    pub fn locked(mut self, lock: &str) -> Self {
        self.lock = Some(lock.to_owned());
        self
    }

    /// Sets processors, memory and disk (bytes); the configuration follows.
    #[must_use]
    pub fn sized(mut self, cpus: u32, maxmem: u64, maxdisk: u64) -> Self {
        (self.cpus, self.maxmem, self.maxdisk) = (cpus, maxmem, maxdisk);
        self.config = self.usual_config();
        self
    }

    /// Gives its first card these addresses, beside a loopback interface.
    #[must_use]
    pub fn with_ips(mut self, addresses: &[&str]) -> Self {
        self.set_ips(addresses);
        self
    }

    pub(crate) fn set_ips(&mut self, addresses: &[&str]) {
        let mac = self.mac().to_lowercase();
        self.interfaces =
            vec![Interface::loopback(), Interface::new("eth0", Some(&mac), addresses)];
    }

    /// Its addresses without those of loopback interfaces; zones are left on.
    pub fn ips(&self) -> Vec<String> {
        let beyond_loopback = |text: &&Address| {
            let bare = text.ip.split('%').next().unwrap_or_default();
            bare.parse::<IpAddr>().is_ok_and(|ip| !ip.is_loopback())
        };
        let all = self.interfaces.iter().flat_map(|interface| &interface.addresses);
        all.filter(beyond_loopback).map(|address| address.ip.clone()).collect()
    }

    pub(crate) fn uptime(&self, now: Duration) -> Duration {
        if self.status == Status::Stopped {
            Duration::ZERO
        } else {
            self.uptime_before + now.saturating_sub(self.started_at)
        }
    }
}
