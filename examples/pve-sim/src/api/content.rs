//! `…/storage/{storage}/content`: files and volumes, listed and deleted.

use serde_json::{Value, json};

use super::answer::{Body, Refusal};
use super::call::Call;
use crate::json::Rows;
use crate::work::Work;
use crate::work::destroy::write_lock;
use crate::work::remove::Remove;
use crate::world::file::is_seen_from;
use crate::world::volume::Layout;
use crate::world::{Storage, Volume};

/// What lies on a storage. An image that somebody writes to breaks every list that has it.
pub(super) fn list(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let (name, node) = (call.part("storage").to_owned(), call.node().to_owned());
    let storage = call.storage_here(&name)?.clone();
    let wanted = call.param("content");
    let vmid = call.param("vmid").and_then(|text| text.parse::<u32>().ok());
    let wants = |content: &str| {
        wanted.is_none_or(|wanted| wanted == content)
            && storage.content.iter().any(|own| own == content)
    };
    let mut rows = Rows::default();
    for file in &call.world.files {
        let here = file.storage == name && is_seen_from(file.node.as_deref(), &node);
        // Only images to import are listed although they belong to no guest.
        let any_owner = vmid.is_none() || file.content == "import";
        if here && !file.temporary && any_owner && wants(&file.content) {
            rows.row()
                .str("volid", &file.volid())
                .str("format", file.format())
                .str("content", &file.content)
                .num("size", file.size)
                .num("ctime", file.ctime);
        }
    }
    let all = call.may(&format!("/storage/{name}"), "Datastore.Allocate");
    for volume in &call.world.volumes {
        let here = volume.storage == name && is_seen_from(volume.node.as_deref(), &node);
        if !here || vmid.is_some_and(|vmid| vmid != volume.vmid) {
            continue;
        }
        let content = content_of(call, volume);
        if !wants(content) {
            continue;
        }
        if storage.has_files() && volume.is_written(call.now) {
            let path = storage.volume_path(volume.vmid, &volume.name);
            return Err(Refusal::error(write_lock(&path, '\n')));
        }
        if all || call.may(&format!("/vms/{}", volume.vmid), "VM.Config.Disk") {
            let volid = call.world.volid(volume);
            volume_row(&storage, volume, &volid, content, &mut rows);
        }
    }
    Ok(call.shuffled(rows))
}

fn content_of(call: &Call<'_>, volume: &Volume) -> &'static str {
    let guest = call.world.guests.get(&volume.vmid);
    match guest.map(|guest| guest.kind) {
        Some(crate::world::Kind::Lxc) => "rootdir",
        _ => "images",
    }
}

fn volume_row(storage: &Storage, volume: &Volume, volid: &str, content: &str, rows: &mut Rows) {
    let mut row = rows.row();
    row.str("volid", volid)
        .str("format", &volume.format)
        .str("content", content)
        .num("vmid", u64::from(volume.vmid))
        .num("size", volume.size);
    let parent = volume.parent.as_ref();
    match storage.layout() {
        Layout::Files => {
            let parent = parent.map(|(name, owner)| format!("../{owner}/{name}"));
            row.json("parent", &parent).num("used", volume.used).num("ctime", volume.ctime);
        }
        Layout::Named => {
            row.json("parent", &parent.map(|(name, _)| format!("{name}@__base__")));
        }
        Layout::Thin | Layout::Thick => {
            row.num("ctime", volume.ctime);
        }
    }
}

/// `…/content/{volume}`: size and format of one file or volume.
pub(super) fn one(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let (volid, named) = named(call)?;
    let node = call.node().to_owned();
    let storage = call.storage_here(call.part("storage"))?.clone();
    match named {
        Named::File { content, name } => {
            let path = format!("/storage/{}", storage.name);
            let seen = ["Datastore.Audit", "Datastore.AllocateSpace"];
            if !seen.iter().any(|privilege| call.may(&path, privilege)) {
                let text = "Datastore.AllocateSpace|Datastore.Audit";
                return Err(Refusal::forbidden(&path, text));
            }
            let file = call.world.file(&storage.name, &node, &content, &name);
            let file = file.ok_or_else(|| no_format(&volid))?;
            Ok(Body::of(&json!({
                "path": storage.file_path(&content, &name), "format": file.format(),
                "size": file.virtual_size(), "used": file.size,
            })))
        }
        Named::Volume { vmid } => {
            let all = call.may(&format!("/storage/{}", storage.name), "Datastore.Allocate");
            let guest = format!("/vms/{vmid}");
            if !all && !call.may(&guest, "VM.Config.Disk") {
                return Err(Refusal::forbidden(&guest, "VM.Config.Disk"));
            }
            let volume = call.world.volume(&volid, &node).ok_or_else(|| no_format(&volid))?;
            let path = storage.volume_path(volume.vmid, &volume.name);
            if storage.has_files() && volume.is_written(call.now) {
                return Err(Refusal::error(write_lock(&path, '\n')));
            }
            let mut row = json!({
                "path": path, "format": volume.format, "size": volume.size, "used": volume.used,
            });
            if let (Some((parent, owner)), Value::Object(row)) = (&volume.parent, &mut row) {
                row.insert("parent".to_owned(), format!("../{owner}/{parent}").into());
            }
            Ok(Body::of(&row))
        }
    }
}

fn no_format(volid: &str) -> Refusal {
    Refusal::error(format!("volume_size_info on '{volid}' failed - no format"))
}

/// `DELETE …/content/{volume}`: also what is not there is deleted with success.
pub(super) fn remove(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let (volid, named) = named(call)?;
    let storage = call.storage_here(call.part("storage"))?.name.clone();
    call.need(&format!("/storage/{storage}"), "Datastore.Allocate")?;
    let (id, work) = match named {
        Named::File { content, name } => (storage.clone(), Remove::File { storage, content, name }),
        Named::Volume { vmid } => (format!("{vmid}@{storage}"), Remove::Volume { volid }),
    };
    Ok(call.begin("imgdel", &id, None, Work::Remove(work)))
}

enum Named {
    File { content: String, name: String },
    Volume { vmid: u32 },
}

/// Reads a volume's name in the path: with its storage, or without.
fn named(call: &Call<'_>) -> Result<(String, Named), Refusal> {
    let (given, storage) = (call.part("volume"), call.part("storage"));
    let name = match given.split_once(':') {
        Some((other, _)) if other != storage => {
            let text = format!("storage ID missmatch ({other} != {storage})");
            return Err(Refusal::parameter("storage", text));
        }
        Some((_, name)) => name,
        None => given,
    };
    let bad = || Refusal::error(format!("unable to parse directory volume name '{name}'"));
    let volid = format!("{storage}:{name}");
    let files = call.world.storage(storage).is_none_or(Storage::has_files);
    if let Some((content @ ("import" | "iso" | "vztmpl"), file)) = name.split_once('/') {
        let whole = match content {
            "import" => ["ova", "qcow2", "raw", "vmdk"].iter().any(|end| ends_in(file, end)),
            "iso" => ends_in(file, "iso") || ends_in(file, "img"),
            _ => file.contains(".tar"),
        };
        if !whole || file.contains('/') {
            return Err(bad());
        }
        return Ok((volid, Named::File { content: content.to_owned(), name: file.to_owned() }));
    }
    let last = name.rsplit('/').next().unwrap_or_default();
    let vmid = last
        .strip_prefix("vm-")
        .or(last.strip_prefix("base-"))
        .and_then(|rest| rest.split('-').next())
        .and_then(|vmid| vmid.parse().ok());
    match vmid {
        Some(vmid) if files == name.contains('/') || !files => Ok((volid, Named::Volume { vmid })),
        _ => Err(bad()),
    }
}

fn ends_in(name: &str, end: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(stem, ending)| ending == end && !stem.is_empty())
}
