//! What a guest's configuration and interfaces mean for the tables. Pure.

use std::collections::{BTreeMap, BTreeSet};

use schema::{guest_details::GuestDetails, ip_address::GuestAddress};
use serde_json::json;

use crate::pve::{GuestConfig, GuestInterface};

/// Disks as `{"scsi0": {"storage": …, "volume": …, "size": …}}`, and the storages they are on.
pub(super) fn details(config: &GuestConfig) -> GuestDetails {
    let mut storages = BTreeSet::new();
    let mut disks = BTreeMap::new();
    for (bus, value) in config.disks() {
        let volume = value.split(',').next().unwrap_or_default();
        let volume =
            volume.strip_prefix("file=").or(volume.strip_prefix("volume=")).unwrap_or(volume);
        let storage = volume.split_once(':').map(|(storage, _)| storage);
        storages.extend(storage);
        let size = option(value, "size");
        disks.insert(bus, json!({ "storage": storage, "volume": volume, "size": size }));
    }
    let storages: Vec<&str> = storages.into_iter().collect();
    GuestDetails {
        storages: Some(storages.join(",")),
        storage_cfg: serde_json::to_string(&disks).ok(),
    }
}

/// Every address but the loopback ones, with the bridge (and VLAN) that its interface is on.
pub(super) fn addresses(interfaces: &[GuestInterface], config: &GuestConfig) -> Vec<GuestAddress> {
    let networks = networks(config);
    let mut addresses = Vec::new();
    for interface in interfaces {
        let network = interface.mac.as_ref().and_then(|mac| networks.get(&mac.to_lowercase()));
        for address in interface.addresses.iter().filter(|address| !address.ip.is_loopback()) {
            addresses.push(GuestAddress {
                ip_address: address.ip.to_string(),
                network_id: network.cloned(),
                nic_name: interface.name.clone(),
                mac_address: interface.mac.clone(),
            });
        }
    }
    addresses
}

/// MAC address to `bridge` or `bridge.vlan`, from `net0: virtio=BC:24:…,bridge=vmbr0,tag=5` (QEMU) and
/// `net0: name=eth0,bridge=vmbr0,hwaddr=BC:24:…` (LXC).
fn networks(config: &GuestConfig) -> BTreeMap<String, String> {
    let nets = config
        .iter()
        .filter(|(key, _)| key.strip_prefix("net").is_some_and(|n| n.parse::<u8>().is_ok()));
    nets.filter_map(|(_, value)| {
        let mac =
            value.split(',').filter_map(|part| part.split_once('=')).find_map(|(_, value)| {
                (value.len() == 17 && value.matches(':').count() == 5).then(|| value.to_lowercase())
            })?;
        let bridge = option(value, "bridge")?;
        let network = match option(value, "tag") {
            Some(vlan) => format!("{bridge}.{vlan}"),
            None => bridge.to_owned(),
        };
        Some((mac, network))
    })
    .collect()
}

fn option<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value
        .split(',')
        .filter_map(|part| part.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pve::InterfaceAddress;

    fn config(data: &serde_json::Value) -> GuestConfig {
        GuestConfig::parse("GET /x", json!({ "data": data }).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn disks_are_told_with_their_storages() {
        let config = config(&json!({
            "scsi0": "local-lvm:vm-100-disk-0,iothread=1,size=32G",
            "virtio1": "file=nfs:100/vm-100-disk-1.qcow2,size=8G",
            "ide2": "local:iso/debian.iso,media=cdrom,size=600M",
            "scsihw": "virtio-scsi-single",
        }));

        let details = details(&config);

        assert_eq!(details.storages.as_deref(), Some("local-lvm,nfs"));
        let disks: serde_json::Value = serde_json::from_str(&details.storage_cfg.unwrap()).unwrap();
        assert_eq!(
            disks["scsi0"],
            json!({ "storage": "local-lvm", "volume": "local-lvm:vm-100-disk-0", "size": "32G" })
        );
        assert_eq!(disks.as_object().unwrap().len(), 2);
    }

    /// A18
    #[test]
    fn addresses_find_their_network_by_mac_and_do_without_one() {
        let config = config(&json!({
            "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0,tag=5",
            "net1": "name=eth1,bridge=vmbr1,hwaddr=BC:24:11:00:00:02,type=veth",
        }));
        let interface = |name: &str, mac: Option<&str>, ip: &str| GuestInterface {
            name: name.to_owned(),
            mac: mac.map(str::to_owned),
            addresses: vec![InterfaceAddress { ip: ip.parse().unwrap(), prefix: None }],
        };

        let found = addresses(
            &[
                interface("lo", None, "127.0.0.1"),
                interface("Ethernet 2", Some("bc:24:11:00:00:01"), "fe80::1"),
                interface("eth1", Some("bc:24:11:00:00:02"), "10.0.0.2"),
                interface("tun0", None, "10.8.0.2"),
            ],
            &config,
        );

        let short: Vec<_> =
            found.iter().map(|it| (it.ip_address.as_str(), it.network_id.as_deref())).collect();
        assert_eq!(
            short,
            [("fe80::1", Some("vmbr0.5")), ("10.0.0.2", Some("vmbr1")), ("10.8.0.2", None)]
        );
    }
}
