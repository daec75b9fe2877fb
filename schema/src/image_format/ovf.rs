//! The description in an OVA: which file of the archive is the disk (DMTF DSP0243).

use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};

use super::refused::{refuse, shown};
use super::{InspectError, Refused};

/// A file that the description refers to.
#[derive(Debug, Default)]
struct File {
    id: String,
    href: String,
    packed: bool,
}

/// A disk; without a file it is an empty one that the guest gets.
#[derive(Debug, Default)]
struct Disk {
    file: Option<String>,
    parent: bool,
}

/// The name of the file that is the appliance's one disk.
pub(super) fn disk_name(xml: &[u8]) -> Result<String, InspectError> {
    let (files, disks) = read(xml)?;
    let filled: Vec<_> =
        disks.iter().filter_map(|disk| Some((disk, disk.file.as_ref()?))).collect();
    let [(disk, id)] = filled.as_slice() else {
        refuse!(
            "the appliance has {} disks with something in them, and a template is made of one: \
             export it with one disk, or send each disk as a .vmdk",
            filled.len()
        );
    };
    if disk.parent {
        refuse!("the appliance's disk is the change of another one: export it without snapshots");
    }
    let mut named = files.iter().filter(|file| file.id == **id);
    let (Some(file), None) = (named.next(), named.next()) else {
        refuse!("the .ovf has no file for its disk, or several: export the appliance again");
    };
    if file.packed {
        refuse!(
            "the appliance's disk {} is packed once more, or cut in chunks: export it without",
            shown(&file.href)
        );
    }
    Ok(file.href.clone())
}

fn read(xml: &[u8]) -> Result<(Vec<File>, Vec<Disk>), InspectError> {
    let text = std::str::from_utf8(xml).map_err(|_| damaged())?;
    let mut reader = Reader::from_str(text);
    let (mut files, mut disks) = (Vec::new(), Vec::new());
    loop {
        match reader.read_event().map_err(|_| damaged())? {
            Event::Start(element) | Event::Empty(element) => match element.local_name().as_ref() {
                b"File" => files.push(file(&element)?),
                b"Disk" => disks.push(disk(&element)?),
                _ => {}
            },
            // Entities are where XML explodes, and no OVF has its own.
            Event::DocType(_) => {
                refuse!("the .ovf has a document type: export the appliance again")
            }
            Event::Eof => return Ok((files, disks)),
            _ => {}
        }
    }
}

fn file(element: &BytesStart<'_>) -> Result<File, InspectError> {
    let mut file = File::default();
    each_attribute(element, |name, value| match name {
        b"id" => file.id = value,
        b"href" => file.href = value,
        b"compression" => file.packed |= value != "identity",
        b"chunkSize" => file.packed = true,
        _ => {}
    })?;
    Ok(file)
}

fn disk(element: &BytesStart<'_>) -> Result<Disk, InspectError> {
    let mut disk = Disk::default();
    each_attribute(element, |name, value| match name {
        b"fileRef" => disk.file = Some(value),
        b"parentRef" => disk.parent = true,
        _ => {}
    })?;
    Ok(disk)
}

fn each_attribute(
    element: &BytesStart<'_>,
    mut take: impl FnMut(&[u8], String),
) -> Result<(), InspectError> {
    for attribute in element.attributes() {
        let attribute = attribute.map_err(|_| damaged())?;
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|_| damaged())?;
        take(attribute.key.local_name().as_ref(), value.into_owned());
    }
    Ok(())
}

fn damaged() -> InspectError {
    Refused::new("the .ovf in the archive can not be read: export the appliance again").into()
}
