//! Every metric: its name, what it says, and what it says of each row.
//!
//! Names, labels, types and help texts are those of prometheus-pve-exporter 3.10, so that dashboards
//! and rules made for it work. Two things differ on purpose: what is on a node that is offline is not
//! up, although PVE repeats its last state for minutes, and tags are sorted. What takes requests of
//! its own for each guest or node (onboot, replication, subscription, backup jobs) is not here.

use super::{
    samples::Samples,
    shown::{Row, Shown},
    states::{HA_OF_GUESTS, HA_OF_NODES, LOCKS},
};
use crate::{inventory::objects::sorted, pve::GuestRow};

/// One metric.
pub(super) struct Family {
    pub(super) name: &'static str,
    kind: Kind,
    help: &'static str,
    /// Writes the samples of one row, if it has any.
    pub(super) write: fn(&Shown, &Row<'_>, &mut Samples<'_>),
}

#[derive(Clone, Copy)]
enum Kind {
    Gauge,
    Counter,
}

impl Family {
    pub(super) fn push_head(&self, text: &mut String) {
        let kind = match self.kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        for part in ["# HELP ", self.name, " ", self.help, "\n# TYPE ", self.name, " ", kind, "\n"]
        {
            text.push_str(part);
        }
    }
}

/// All of them, in the order of the scrape.
pub(super) static FAMILIES: [Family; 24] = [
    gauge("pve_up", "Node/VM/CT-Status is online/running", up),
    gauge(
        "pve_disk_size_bytes",
        "Storage size in bytes (for type 'storage'), root image size for VMs (for types 'qemu' and \
         'lxc').",
        |_, row, out| match row {
            Row::Node(it, _) => out.value(it.maxdisk),
            Row::Guest(it) => out.value(it.maxdisk),
            Row::Storage(it) => out.value(it.maxdisk),
            Row::Version(_) | Row::Cluster(_) => {}
        },
    ),
    gauge(
        "pve_disk_usage_bytes",
        "Used disk space in bytes (for type 'storage'), used root image space for VMs (for types \
         'qemu' and 'lxc').",
        |_, row, out| match row {
            Row::Node(it, _) => out.value(it.disk),
            Row::Guest(it) => out.value(it.disk),
            Row::Storage(it) => out.value(it.disk),
            Row::Version(_) | Row::Cluster(_) => {}
        },
    ),
    gauge(
        "pve_memory_size_bytes",
        "Number of available memory in bytes (for types 'node', 'qemu' and 'lxc').",
        |_, row, out| of_machines(row, out, |it| it.maxmem, |it| it.maxmem),
    ),
    gauge(
        "pve_memory_usage_bytes",
        "Used memory in bytes (for types 'node', 'qemu' and 'lxc').",
        |_, row, out| of_machines(row, out, |it| it.mem, |it| it.mem),
    ),
    gauge(
        "pve_network_transmit_bytes",
        "The amount of traffic in bytes that was sent from the guest over the network since it was \
         started. (for types 'qemu' and 'lxc') DEPRECATED: Use pve_network_transmit_bytes_total \
         instead.",
        |_, row, out| of_guests(row, out, |it| it.netout),
    ),
    gauge(
        "pve_network_receive_bytes",
        "The amount of traffic in bytes that was sent to the guest over the network since it was \
         started. (for types 'qemu' and 'lxc') DEPRECATED: Use pve_network_receive_bytes_total \
         instead.",
        |_, row, out| of_guests(row, out, |it| it.netin),
    ),
    gauge(
        "pve_disk_write_bytes",
        "The amount of bytes the guest wrote to its block devices since the guest was started. This \
         info is not available for all storage types. (for types 'qemu' and 'lxc') DEPRECATED: Use \
         pve_disk_written_bytes_total instead.",
        |_, row, out| of_guests(row, out, |it| it.diskwrite),
    ),
    gauge(
        "pve_disk_read_bytes",
        "The amount of bytes the guest read from its block devices since the guest was started. This \
         info is not available for all storage types. (for types 'qemu' and 'lxc') DEPRECATED: Use \
         pve_disk_read_bytes_total instead.",
        |_, row, out| of_guests(row, out, |it| it.diskread),
    ),
    gauge(
        "pve_cpu_usage_ratio",
        "CPU utilization (for types 'node', 'qemu' and 'lxc').",
        |_, row, out| of_machines(row, out, |it| it.cpu, |it| it.cpu),
    ),
    gauge(
        "pve_cpu_usage_limit",
        "Number of available CPUs (for types 'node', 'qemu' and 'lxc').",
        |_, row, out| of_machines(row, out, |it| it.maxcpu, |it| it.maxcpu),
    ),
    gauge(
        "pve_uptime_seconds",
        "Uptime of node or virtual guest in seconds (for types 'node', 'qemu' and 'lxc').",
        |_, row, out| of_machines(row, out, |it| it.uptime, |it| it.uptime),
    ),
    gauge(
        "pve_storage_shared",
        "Whether or not the storage is shared among cluster nodes",
        |_, row, out| {
            if let Row::Storage(it) = row
                && let Some(shared) = it.shared
            {
                out.flag(shared);
            }
        },
    ),
    counter(
        "pve_network_transmit_bytes_total",
        "The amount of traffic in bytes that was sent from the guest over the network since it was \
         started. (for types 'qemu' and 'lxc')",
        |_, row, out| of_guests(row, out, |it| it.netout),
    ),
    counter(
        "pve_network_receive_bytes_total",
        "The amount of traffic in bytes that was sent to the guest over the network since it was \
         started. (for types 'qemu' and 'lxc')",
        |_, row, out| of_guests(row, out, |it| it.netin),
    ),
    counter(
        "pve_disk_written_bytes_total",
        "The amount of bytes the guest wrote to its block devices since the guest was started. This \
         info is not available for all storage types. (for types 'qemu' and 'lxc')",
        |_, row, out| of_guests(row, out, |it| it.diskwrite),
    ),
    counter(
        "pve_disk_read_bytes_total",
        "The amount of bytes the guest read from its block devices since the guest was started. This \
         info is not available for all storage types. (for types 'qemu' and 'lxc')",
        |_, row, out| of_guests(row, out, |it| it.diskread),
    ),
    gauge("pve_ha_state", "HA service status (for HA managed VMs).", |_, row, out| match row {
        Row::Node(it, _) => out.states(&HA_OF_NODES, it.hastate.as_deref()),
        Row::Guest(it) => out.states(&HA_OF_GUESTS, it.hastate.as_deref()),
        Row::Storage(_) | Row::Version(_) | Row::Cluster(_) => {}
    }),
    gauge(
        "pve_lock_state",
        "The guest's current config lock (for types 'qemu' and 'lxc')",
        |_, row, out| {
            if let Row::Guest(it) = row {
                out.states(&LOCKS, it.lock.as_deref());
            }
        },
    ),
    gauge("pve_guest_info", "VM/CT info", guest_info),
    gauge("pve_storage_info", "Storage info", |_, row, out| {
        if let Row::Storage(it) = row {
            let content = sorted(it.content.as_deref().unwrap_or_default(), ',');
            out.info(&[
                ("node", &it.node),
                ("storage", &it.storage),
                ("plugintype", it.plugintype.as_deref().unwrap_or_default()),
                ("content", &content),
            ]);
        }
    }),
    gauge("pve_node_info", "Node info", |_, row, out| {
        if let Row::Node(_, Some(it)) = row {
            let level = it.level.as_deref().unwrap_or_default();
            out.info(&[("level", level), ("name", &it.name), ("nodeid", &text(it.nodeid))]);
        }
    }),
    gauge("pve_cluster_info", "Cluster info", |_, row, out| {
        if let Row::Cluster(it) = row {
            let quorate = if it.quorate { "1" } else { "0" };
            let (nodes, version) = (text(it.nodes), text(it.version));
            out.info(&[("nodes", &nodes), ("quorate", quorate), ("version", &version)]);
        }
    }),
    gauge("pve_version_info", "Proxmox VE version info", |_, row, out| {
        if let Row::Version(it) = row {
            out.info(&[("release", &it.release), ("repoid", &it.repoid), ("version", &it.version)]);
        }
    }),
];

type Write = fn(&Shown, &Row<'_>, &mut Samples<'_>);

const fn gauge(name: &'static str, help: &'static str, write: Write) -> Family {
    Family { name, kind: Kind::Gauge, help, write }
}

const fn counter(name: &'static str, help: &'static str, write: Write) -> Family {
    Family { name, kind: Kind::Counter, help, write }
}

fn up(shown: &Shown, row: &Row<'_>, out: &mut Samples<'_>) {
    match row {
        Row::Cluster(it) => out.flag(it.quorate),
        Row::Node(it, _) => out.flag(it.status.as_deref() == Some("online")),
        Row::Guest(it) => {
            out.flag(it.status.as_deref() == Some("running") && shown.is_online(&it.node));
        }
        Row::Storage(it) => {
            out.flag(it.status.as_deref() == Some("available") && shown.is_online(&it.node));
        }
        Row::Version(_) => {}
    }
}

fn of_machines<T: std::fmt::Display>(
    row: &Row<'_>,
    out: &mut Samples<'_>,
    of_node: fn(&crate::pve::NodeRow<'_>) -> Option<T>,
    of_guest: fn(&GuestRow<'_>) -> Option<T>,
) {
    match row {
        Row::Node(it, _) => out.value(of_node(it)),
        Row::Guest(it) => out.value(of_guest(it)),
        Row::Storage(_) | Row::Version(_) | Row::Cluster(_) => {}
    }
}

fn of_guests(row: &Row<'_>, out: &mut Samples<'_>, number: fn(&GuestRow<'_>) -> Option<u64>) {
    if let Row::Guest(it) = row {
        out.value(number(it));
    }
}

/// Name and template stay what they were while PVE does not know them: a series that is called
/// otherwise for a few seconds is another one.
fn guest_info(shown: &Shown, row: &Row<'_>, out: &mut Samples<'_>) {
    let Row::Guest(it) = row else { return };
    let whole = it.name.is_some() && it.template.is_some();
    let known = if whole { None } else { shown.known(it.vmid.get()) };
    let known = known.as_deref().filter(|known| known.kind == it.kind);
    let name = it.name.as_deref().or_else(|| known?.name.as_deref());
    let template = match it.template.or_else(|| Some(known?.template)) {
        Some(true) => "1",
        Some(false) => "0",
        None => "",
    };
    let tags = it.tags.as_deref().map(|tags| sorted(tags, ';'));
    out.info(&[
        ("node", &it.node),
        ("name", name.unwrap_or_default()),
        ("type", it.kind.as_str()),
        ("template", template),
        ("tags", tags.as_deref().unwrap_or_default()),
    ]);
}

fn text(number: Option<u64>) -> String {
    number.map(|it| it.to_string()).unwrap_or_default()
}
