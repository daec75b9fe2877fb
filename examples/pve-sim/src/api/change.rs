//! The configuration of a machine as parameters: what each needs, and what it means.

use std::collections::BTreeMap;

use super::answer::{Body, Refusal};
use super::call::Call;
use super::guests::{digest, find};
use super::routes::Form::{self, Boolean, Integer, Number, Text};
use crate::work::Work;
use crate::work::clone::with_fresh_mac;
use crate::work::configure::{Configure, Drives, NewDrive};
use crate::work::lock_timeout;
use crate::world::drive::{Drive, is_drive, is_unused};
use crate::world::{Kind, is_card};

macro_rules! with_keys {
    ($($more:expr),* $(,)?) => {
        &[
            $($more,)*
            ("name", Text), ("description", Text), ("tags", Text), ("memory", Text),
            ("cores", Integer), ("sockets", Integer), ("cpu", Text), ("numa", Boolean),
            ("balloon", Integer), ("vcpus", Integer), ("scsihw", Text), ("ostype", Text),
            ("agent", Text), ("boot", Text), ("bios", Text), ("machine", Text), ("vga", Text),
            ("onboot", Boolean), ("protection", Boolean), ("tablet", Boolean), ("hotplug", Text),
            ("kvm", Boolean), ("acpi", Boolean), ("ciuser", Text), ("cipassword", Text),
            ("citype", Text), ("sshkeys", Text), ("nameserver", Text), ("searchdomain", Text),
            ("cicustom", Text), ("ipconfig#", Text), ("net#", Text), ("scsi#", Text),
            ("virtio#", Text), ("ide#", Text), ("sata#", Text), ("efidisk0", Text),
            ("tpmstate0", Text), ("serial#", Text), ("template", Boolean), ("startup", Text),
            ("smbios1", Text), ("vmgenid", Text), ("rng0", Text), ("import-working-storage", Text),
        ]
    };
}

/// Parameters of `POST /nodes/{node}/qemu`.
pub(super) const CREATE: &[(&str, Form)] = with_keys![
    ("vmid", Number),
    ("pool", Text),
    ("start", Boolean),
    ("storage", Text),
    ("force", Boolean),
    ("archive", Text),
    ("unique", Boolean),
];

/// Parameters of `POST` and `PUT …/config`.
pub(super) const CHANGE: &[(&str, Form)] = with_keys![
    ("digest", Text),
    ("delete", Text),
    ("skiplock", Boolean),
    ("force", Boolean),
    ("background_delay", Integer),
    ("unused#", Text),
];

/// Parameters that are no keys of the configuration.
const ASIDE: [&str; 12] = [
    "vmid",
    "pool",
    "start",
    "storage",
    "force",
    "archive",
    "unique",
    "digest",
    "delete",
    "skiplock",
    "background_delay",
    "import-working-storage",
];

/// A change as asked, sorted out.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) keys: BTreeMap<String, String>,
    pub(super) drives: Drives,
}

/// Reads the keys among the parameters; refuses what PVE refuses before a task begins.
pub(super) fn read(call: &Call<'_>, vmid: u32, pool: Option<&str>) -> Result<Change, Refusal> {
    let mut change = Change::default();
    let asked = call.query.iter().filter(|(key, _)| !ASIDE.contains(&key.as_str()));
    for (key, value) in asked.clone() {
        well_formed(key, value)?;
    }
    for (key, value) in asked.clone().filter(|(key, _)| is_drive(key)) {
        if let Some(new) = new_drive(call, vmid, key, value)? {
            change.drives.insert(key.clone(), new);
        } else {
            change.keys.insert(key.clone(), value.clone());
        }
    }
    for (key, _) in asked.clone() {
        allowed(call, vmid, pool, key)?;
    }
    for (key, value) in asked {
        if is_drive(key) {
            continue;
        }
        let value = if is_card(key) { card(call, value)? } else { value.clone() };
        let value = if key == "cipassword" { "**********".to_owned() } else { value };
        change.keys.insert(key.clone(), value);
    }
    Ok(change)
}

fn well_formed(key: &str, value: &str) -> Result<(), Refusal> {
    let bad = |text: &str| Err(Refusal::parameter(key, text));
    match key {
        "name" if !is_dns_name(value) => {
            bad("invalid format - value does not look like a valid DNS name\n")
        }
        "memory" if value.parse::<u64>().is_ok_and(|mib| mib < 16) => bad(
            "invalid format - format error\nmemory.current: value must have a minimum value of \
             16\n",
        ),
        _ if is_card(key) && !CARDS.contains(&model(value)) => bad(&format!(
            "invalid format - format error\n{key}.model: value '{}' does not have a value in the \
             enumeration '{}'\n",
            model(value),
            CARDS.join(", ")
        )),
        "cores" | "sockets" if value == "0" => bad("value must have a minimum value of 1"),
        _ => Ok(()),
    }
}

/// What a network card can be.
const CARDS: [&str; 14] = [
    "e1000",
    "e1000-82540em",
    "e1000-82544gc",
    "e1000-82545em",
    "e1000e",
    "i82551",
    "i82557b",
    "i82559er",
    "ne2k_isa",
    "ne2k_pci",
    "pcnet",
    "rtl8139",
    "virtio",
    "vmxnet3",
];

/// The model of a card: `virtio`, `virtio=MAC` or `model=virtio`.
fn model(card: &str) -> &str {
    let named = card.split(',').find_map(|part| part.strip_prefix("model="));
    named.unwrap_or_else(|| card.split([',', '=']).next().unwrap_or_default())
}

fn is_dns_name(name: &str) -> bool {
    let label = |part: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !part.is_empty()
            && part.len() <= 63
            && part.bytes().all(plain)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    name.split('.').all(label)
}

/// The privilege that a key needs.
fn privilege(key: &str) -> &'static str {
    let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
    match stem {
        _ if is_drive(key) || is_unused(key) => "VM.Config.Disk",
        "memory" | "balloon" => "VM.Config.Memory",
        "cores" | "sockets" | "cpu" | "vcpus" | "numa" => "VM.Config.CPU",
        "net" | "ipconfig" | "nameserver" | "searchdomain" => "VM.Config.Network",
        "scsihw" | "serial" | "machine" | "bios" | "vga" | "rng" | "vmgenid" | "smbios" => {
            "VM.Config.HWType"
        }
        "ciuser" | "cipassword" | "citype" | "sshkeys" | "cicustom" => "VM.Config.Cloudinit",
        _ => "VM.Config.Options",
    }
}

fn allowed(call: &Call<'_>, vmid: u32, pool: Option<&str>, key: &str) -> Result<(), Refusal> {
    let privilege = privilege(key);
    // Tags are looked at when the machine is there (see [`super::create`]).
    if (key == "tags" && pool.is_some()) || call.may_in(vmid, pool, privilege) {
        return Ok(());
    }
    Err(Refusal::forbidden(&format!("/vms/{vmid}"), privilege))
}

/// A card needs its bridge, and gets a MAC.
fn card(call: &Call<'_>, value: &str) -> Result<String, Refusal> {
    let mut parts = value.split(',');
    let model = parts.next().unwrap_or_default();
    if let Some(bridge) = parts.find_map(|part| part.strip_prefix("bridge=")) {
        call.need(&format!("/sdn/zones/localnetwork/{bridge}"), "SDN.Use")?;
    }
    Ok(if model.contains('=') { value.to_owned() } else { with_fresh_mac(value) })
}

/// A drive that is to be made; `None` if it names what is there.
fn new_drive(
    call: &Call<'_>,
    vmid: u32,
    key: &str,
    value: &str,
) -> Result<Option<NewDrive>, Refusal> {
    let drive = Drive::parse(value);
    if drive.file == "none" || drive.file == "cdrom" {
        return Ok(None);
    }
    if let Some(from) = drive.option("import-from") {
        return import(call, vmid, key, &drive, from).map(Some);
    }
    let Some(name) = drive.storage() else {
        return Err(Refusal::parameter(
            key,
            format!("invalid format - unable to parse '{value}'\n"),
        ));
    };
    let storage = call.storage_here(name)?;
    if drive.is_cloudinit() {
        let storage = storage.name.clone();
        call.need(&format!("/storage/{storage}"), "Datastore.AllocateSpace")?;
        return Ok(Some(NewDrive::Cloudinit { drive, storage }));
    }
    let Some((_, gib)) = drive.allocation() else { return Ok(None) };
    let format = match drive.option("format") {
        Some(format) => format.to_owned(),
        None if storage.has_files() => "qcow2".to_owned(),
        None => "raw".to_owned(),
    };
    let storage = images_on(call, name)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "GiB to bytes")]
    let size = (gib.max(0.0) * 1_073_741_824.0) as u64;
    Ok(Some(NewDrive::Empty { drive, storage, size, format }))
}

/// A storage on which the caller may allocate images.
fn images_on(call: &Call<'_>, name: &str) -> Result<String, Refusal> {
    let storage = call.storage_here(name)?;
    let (name, images) = (storage.name.clone(), storage.content.iter().any(|c| c == "images"));
    call.need(&format!("/storage/{name}"), "Datastore.AllocateSpace")?;
    if !images {
        let text = format!("storage '{name}' does not support content-type 'images'");
        return Err(Refusal::error(text));
    }
    Ok(name)
}

fn import(
    call: &Call<'_>,
    vmid: u32,
    key: &str,
    drive: &Drive,
    from: &str,
) -> Result<NewDrive, Refusal> {
    let target = match drive.allocation() {
        Some((storage, 0.0)) => storage.to_owned(),
        _ => {
            return Err(Refusal::parameter(
                key,
                "'import-from' requires special syntax - use <storage ID>:0,import-from=<source>",
            ));
        }
    };
    if from.starts_with('/') {
        return Err(Refusal::error(
            "Only root can pass arbitrary filesystem paths. at /usr/share/perl5/PVE/Storage.pm \
             line 651.",
        ));
    }
    let (source, name) = from.split_once(':').unwrap_or((from, ""));
    let found = call.storage_here(source)?;
    if let Some(kind @ ("iso" | "vztmpl" | "snippets" | "backup")) =
        name.split_once('/').map(|(kind, _)| kind)
    {
        let text = format!("{from} has wrong type '{kind}' - needs to be 'images' or 'import'");
        return Err(Refusal::parameter(key, text));
    }
    if name.starts_with("import/") {
        let path = format!("/storage/{}", found.name);
        let either = ["Datastore.AllocateSpace", "Datastore.Audit"];
        if !either.iter().any(|privilege| call.may(&path, privilege)) {
            return Err(Refusal::forbidden(&path, &either.join("|")));
        }
        if !found.content.iter().any(|content| content == "import") {
            let text = format!("storage '{source}' does not support content-type 'import'");
            return Err(Refusal::error(text));
        }
    } else {
        from_other_guest(call, vmid, from)?;
    }
    let format = drive.option("format").map(str::to_owned);
    let storage = images_on(call, &target)?;
    Ok(NewDrive::Import { drive: drive.clone(), from: from.to_owned(), storage, format })
}

/// The disk of another machine: it must be on this node, and the caller may clone it.
fn from_other_guest(call: &Call<'_>, vmid: u32, from: &str) -> Result<(), Refusal> {
    let last = from.rsplit(['/', ':']).next().unwrap_or_default();
    let owner = last.split('-').nth(1).and_then(|owner| owner.parse::<u32>().ok());
    let Some(owner) = owner.filter(|owner| *owner != vmid) else { return Ok(()) };
    call.need(&format!("/vms/{owner}"), "VM.Clone")?;
    let here = call.world.guests.get(&owner).is_some_and(|guest| guest.node == call.node());
    if here { Ok(()) } else { Err(Refusal::error(format!("owner VM {owner} not on local node"))) }
}

/// What both ways of changing a machine look at first.
fn check(call: &Call<'_>) -> Result<(u32, Change, Vec<String>), Refusal> {
    let vmid = call.vmid()?;
    if call.flag("skiplock") == Some(true) {
        return Err(Refusal::parameter("skiplock", "Only root may use this option."));
    }
    let delete: Vec<String> = call
        .param("delete")
        .unwrap_or_default()
        .split([',', ';', ' '])
        .filter(|key| !key.is_empty())
        .map(str::to_owned)
        .collect();
    if delete.iter().any(|key| key == "lock") {
        return Err(Refusal::parameter("lock", "Only root may use this option."));
    }
    let change = read(call, vmid, None)?;
    for key in &delete {
        allowed(call, vmid, None, key)?;
    }
    let guest = find(call, Kind::Qemu)?;
    if call.param("digest").is_some_and(|given| given != digest(guest)) {
        return Err(Refusal::error("checksum mismatch (file change by other user?)"));
    }
    if let Some(lock) = &guest.lock {
        return Err(Refusal::error(format!("VM is locked ({lock})")));
    }
    Ok((vmid, change, delete))
}

/// `POST …/config`: a task does it.
pub(super) fn post(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let (vmid, change, delete) = check(call)?;
    let words = ["digest", "background_delay", "import-working-storage"];
    let asked = call.query.iter().filter(|(key, _)| !words.contains(&key.as_str()));
    let asked = asked.map(|(key, value)| (key.clone(), value.clone())).collect();
    let work = Configure { vmid, asked, keys: change.keys, drives: change.drives, delete };
    Ok(call.begin("qmconfig", &vmid.to_string(), Some(vmid), Work::Configure(work)))
}

/// `PUT …/config`: at once, unless somebody has the machine's lock file.
pub(super) fn put(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let (vmid, change, delete) = check(call)?;
    if !change.drives.is_empty() {
        return Err(Refusal::error("the simulator makes disks by POST only"));
    }
    if !call.world.is_lockable(vmid) {
        return Err(Refusal::error(lock_timeout(vmid)).after(call.config.lock_wait));
    }
    let node = call.node().to_owned();
    call.world.writable(&node, vmid, 4000, call.now).map_err(Refusal::error)?;
    if let Some(guest) = call.world.guests.get_mut(&vmid) {
        guest.apply(&change.keys, &delete);
    }
    Ok(Body::raw(b"null".to_vec()))
}
