//! Disk images: what they are, how large their disk is, and whether a node may be given them.
//!
//! ```text
//! name --Format::of_file_name--> what it should be   (before the bytes)
//! bytes --check--> Image | Refused                   (a few KB of them)
//! ```
//!
//! An image comes from strangers, and nodes open it with `qemu-img` as root. So whatever would make
//! QEMU open another file (a backing file, a data file, extents), whatever points outside of the
//! image, and whatever nobody here has heard of is refused. What PVE does with an image it then
//! checks once more itself (pve-storage: src/PVE/Storage/Plugin.pm:1248).
//!
//! The parsers read through [`ReadAt`], never outside of the image and at most [`PIECE`] bytes at
//! once; so they are tested on slices.

mod ova;
mod ovf;
mod qcow2;
mod read_at;
mod refused;
mod tar;
mod vmdk;

use crate::images::{ImageStore, ObjectName};
use read_at::{Opened, prefix};

pub use read_at::{PIECE, ReadAt};
pub use refused::{InspectError, Refused};

/// What PVE can import (pve-storage: src/PVE/Storage.pm:116).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Format {
    Qcow2,
    Raw,
    Vmdk,
    Ova,
}

/// An image that may be given to a node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Image {
    pub format: Format,
    /// The bytes of the disk that it becomes, often many times those of the file.
    pub virtual_size: u64,
    /// Of an OVA: the name of the disk in it, which PVE takes after the archive's name
    /// (`x.ova/disk.vmdk`).
    pub disk: Option<String>,
}

impl Format {
    pub const ALL: [Self; 4] = [Self::Qcow2, Self::Raw, Self::Vmdk, Self::Ova];

    /// What PVE has at the end of the file's name, and what `template_upload.file_format` holds.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
            Self::Vmdk => "vmdk",
            Self::Ova => "ova",
        }
    }

    /// The format of that extension, as [`extension`](Self::extension) writes it.
    pub fn of_extension(extension: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.extension() == extension)
    }

    /// Whether a file of this name can be an image at all; to be asked before its bytes are read.
    ///
    /// # Errors
    ///
    /// [`Refused`] with the names that are taken.
    pub fn check_file_name(name: &str) -> Result<(), Refused> {
        Named::parse(name).map(drop)
    }
}

/// What the name of a file promises.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Named {
    /// `.qcow2`, `.raw`, `.vmdk`, `.ova`
    Format(Format),
    /// `.img`, as distributions call raw images and qcow2 images alike.
    Img,
}

impl Named {
    fn parse(name: &str) -> Result<Self, Refused> {
        if name.contains(['/', '\\']) || name.chars().any(char::is_control) || name.len() > 255 {
            return Err(Refused::new(format!(
                "{:?} is no name of a file: send it without its folders, and at most 255 bytes long",
                refused::shown(name)
            )));
        }
        let extension = name.rsplit_once('.').map_or("", |(_, end)| end).to_ascii_lowercase();
        if extension == "img" {
            return Ok(Self::Img);
        }
        if let Some(format) = Format::of_extension(&extension) {
            return Ok(Self::Format(format));
        }
        let advice = match extension.as_str() {
            "gz" | "xz" | "zst" | "bz2" | "zip" | "lzo" | "7z" => "unpack it first",
            "vhd" | "vhdx" | "vdi" | "qcow" | "qed" => {
                "convert it with `qemu-img convert -O qcow2 in out.qcow2`"
            }
            "ovf" => "pack the .ovf and its disk as .ova: `tar cf x.ova x.ovf x-disk1.vmdk`",
            _ => "name the file by what it is",
        };
        Err(Refused::new(format!(
            "images are .qcow2, .raw, .img, .vmdk or .ova, and this file ends in {:?}: {advice}",
            refused::shown(&extension)
        )))
    }
}

/// Looks at an image in the store: what it is, and whether a node may be given it.
///
/// `file_name` is what the image was called where it came from; what it holds must agree.
///
/// # Errors
///
/// [`InspectError::Refused`] says what is wrong and what to do; [`InspectError::Store`] if it could
/// not be read.
///
/// # Cancellation
///
/// Safe. A few small reads may still happen.
pub async fn inspect(
    store: &ImageStore,
    object: &ObjectName,
    file_name: &str,
) -> Result<Image, InspectError> {
    let opened = Opened::new(store, object).await?;
    let file_name = file_name.to_owned();
    crate::images::blocking(move || Ok(check(&opened, &file_name))).await?
}

/// As [`inspect`], of bytes from anywhere. Blocks as long as `image` does.
pub fn check(image: &impl ReadAt, file_name: &str) -> Result<Image, InspectError> {
    let named = Named::parse(file_name)?;
    if image.is_empty() {
        return Err(Refused::new("the file is empty: send it again").into());
    }
    let begin = prefix(image, 512)?;
    let format = match named {
        Named::Format(format) => format,
        Named::Img if qcow2::has_magic(&begin) => Format::Qcow2,
        Named::Img => Format::Raw,
    };
    let virtual_size = match format {
        Format::Qcow2 if !qcow2::has_magic(&begin) => return Err(wrong_magic(format, &begin)),
        Format::Vmdk if !vmdk::has_magic(&begin) => return Err(vmdk::not_sparse(&begin)),
        Format::Ova if !tar::has_magic(&begin) => return Err(wrong_magic(format, &begin)),
        Format::Qcow2 => qcow2::check(image)?,
        Format::Vmdk => vmdk::check(image)?,
        Format::Raw => check_raw(image, &begin)?,
        Format::Ova => {
            let (disk, virtual_size) = ova::check(image)?;
            return Ok(Image { format, virtual_size, disk: Some(disk) });
        }
    };
    Ok(Image { format, virtual_size, disk: None })
}

/// Raw has no mark of its own: it is whatever is not something else.
fn check_raw(image: &impl ReadAt, begin: &[u8]) -> Result<u64, InspectError> {
    if let Some(other) = looks_like(begin) {
        return Err(Refused::new(format!(
            "the file is named as a raw disk, but it is {other}: unpack or convert it, or name it \
             by what it is"
        ))
        .into());
    }
    let bytes = image.len();
    if !bytes.is_multiple_of(SECTOR) {
        return Err(Refused::new(format!(
            "a raw disk is a whole number of sectors of 512 bytes, and this file has {bytes} \
             bytes: it was cut off, or it is no raw disk"
        ))
        .into());
    }
    Ok(bytes)
}

const SECTOR: u64 = 512;

fn wrong_magic(format: Format, begin: &[u8]) -> InspectError {
    let is = looks_like(begin).unwrap_or("something else, perhaps a raw disk (.raw)");
    Refused::new(format!(
        "the file is named .{name}, but does not begin as {name} does: it is {is}; name it by what \
         it is, or send the right file",
        name = format.extension(),
    ))
    .into()
}

/// What bytes at the beginning of a file give away.
fn looks_like(begin: &[u8]) -> Option<&'static str> {
    let marks: [(&[u8], &str); 16] = [
        (qcow2::MAGIC, "a qcow2 image (.qcow2)"),
        (vmdk::MAGIC, "a vmdk image (.vmdk)"),
        (b"COWD", "an old vmdk image"),
        (b"# Disk Descriptor", "the description of a vmdk disk"),
        (b"vhdxfile", "a VHDX image"),
        (b"conectix", "a VHD image"),
        (b"<<< ", "a VirtualBox image (VDI)"),
        (b"QED\0", "a QED image"),
        (b"\x1f\x8b", "packed with gzip"),
        (b"\xfd7zXZ\0", "packed with xz"),
        (b"\x28\xb5\x2f\xfd", "packed with zstd"),
        (b"BZh", "packed with bzip2"),
        (b"PK\x03\x04", "a zip archive"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"<!DOCTYPE", "a web page"),
        (b"<html", "a web page"),
    ];
    let mark = marks.iter().find(|(mark, _)| begin.starts_with(mark)).map(|(_, is)| *is);
    mark.or_else(|| tar::has_magic(begin).then_some("a tar archive (.ova)"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::read_at::testing::Watched;
    use super::*;

    fn raw(bytes: &[u8]) -> Result<Image, InspectError> {
        check(&bytes, "disk.raw")
    }

    #[test]
    fn a_raw_disk_is_as_large_as_its_file() {
        let image = raw(&[0; 1024]).unwrap();

        assert_eq!(image, Image { format: Format::Raw, virtual_size: 1024, disk: None });
    }

    #[test]
    fn what_a_raw_disk_can_not_be_is_said() {
        let gzip = [b"\x1f\x8b".as_slice(), &[0; 510]].concat();

        for (bytes, words) in [
            (&b""[..], "empty"),
            (&[0; 1000], "whole number of sectors"),
            (&gzip, "packed with gzip"),
        ] {
            let error = raw(bytes).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    // B02
    #[test]
    fn names_are_refused_before_there_are_bytes() {
        for (name, words) in [
            ("disk", "ends in \"\""),
            ("../../x.qcow2", "without its folders"),
            ("C:\\x.qcow2", "without its folders"),
            ("x\n.qcow2", "is no name of a file"),
            ("disk.qcow2.gz", "unpack it first"),
            ("disk.vhdx", "qemu-img convert"),
            ("disk.ovf", "tar cf"),
            ("disk.\u{202e}2wocq", "name the file by what it is"),
        ] {
            let error = Format::check_file_name(name).unwrap_err().to_string();
            assert!(error.contains(words), "{name}: {error}");
        }
        for name in ["disk.qcow2", "DISK.QCOW2", "a b.raw", "x.img", "x.vmdk", "x.y.ova"] {
            Format::check_file_name(name).unwrap();
        }
    }

    #[test]
    fn a_name_that_lies_is_refused() {
        for name in ["disk.qcow2", "disk.vmdk", "disk.ova"] {
            let error = check(&[0u8; 4096].as_slice(), name).unwrap_err();
            assert!(matches!(error, InspectError::Refused(_)), "{name}: {error:?}");
        }
    }

    proptest! {
        /// Whatever the bytes are and whatever they claim to be: an answer, and no read outside
        /// of them (the reader panics at one).
        #[test]
        fn any_bytes_get_an_answer(
            bytes in proptest::collection::vec(any::<u8>(), 0..4096),
            mark in 0..4_usize,
            named in 0..5_usize,
        ) {
            let mut bytes = bytes;
            let marks: [(usize, &[u8]); 4] =
                [(0, b""), (0, qcow2::MAGIC), (0, vmdk::MAGIC), (257, b"ustar\0")];
            let (at, mark) = marks[mark];
            if let Some(place) = bytes.get_mut(at..at + mark.len()) {
                place.copy_from_slice(mark);
            }
            let name = ["d.qcow2", "d.raw", "d.img", "d.vmdk", "d.ova"][named];
            let watched = Watched::new(&bytes);

            if let Ok(image) = check(&watched, name) {
                prop_assert!(image.virtual_size > 0);
            }
            prop_assert!(watched.most_at_once() <= PIECE);
        }
    }
}
