//! vmdk of one file: monolithicSparse and streamOptimized (VMware, Virtual Disk Format 5.0).
//!
//! ```text
//! 0          header, little-endian: capacity, grain size, where the tables are
//! 512        descriptor, text: create type, parent, extents
//! …          grains; in streams the header is repeated 1024 bytes before the end
//! ```
//!
//! QEMU opens other files for two reasons: extents of a descriptor that stands alone (also when the
//! header's capacity is 0), and a parent that the descriptor names.

use super::read_at::{ReadAt, le16, le32, le64, piece};
use super::refused::{refuse, shown};
use super::{InspectError, Refused, SECTOR};

pub(super) const MAGIC: &[u8] = b"KDMV";

pub(super) fn has_magic(begin: &[u8]) -> bool {
    begin.starts_with(MAGIC)
}

/// Why a file that is named .vmdk and has no header is refused.
pub(super) fn not_sparse(begin: &[u8]) -> InspectError {
    let text = String::from_utf8_lossy(begin).to_lowercase();
    if text.contains("disk descriptorfile") {
        return Refused::new(format!(
            "this vmdk is only the description of a disk whose bytes are in other files: {ADVICE}"
        ))
        .into();
    }
    if begin.starts_with(b"COWD") {
        return Refused::new(format!("this vmdk is one of ESX 3 and older: {ADVICE}")).into();
    }
    super::wrong_magic(super::Format::Vmdk, begin)
}

const ADVICE: &str = "bring it together where all its files are with `qemu-img convert -O qcow2 \
                      in.vmdk out.qcow2`";

/// The bytes of the disk.
pub(super) fn check(image: &impl ReadAt) -> Result<u64, InspectError> {
    let begin = Header::read(image, 0)?;
    let header = if begin.grain_directory == AT_END { begin.at_end(image)? } else { begin };
    header.is_sane(image.len())?;
    let descriptor = read_descriptor(image, &header)?;
    check_descriptor(&descriptor, header.capacity)?;
    header.capacity.checked_mul(SECTOR).ok_or_else(|| damaged("the size of its disk is impossible"))
}

struct Header {
    capacity: u64,
    grain: u64,
    descriptor: (u64, u64),
    entries_per_table: u32,
    grain_directory: u64,
    compression: u16,
}

const AT_END: u64 = u64::MAX;
const HEADER: usize = 512;

// QEMU's own limits (block/vmdk.c).
const MOST_GRAIN: u64 = 0x20_0000;
const MOST_DIRECTORY: u64 = 32 * 1024 * 1024;

impl Header {
    fn read(image: &impl ReadAt, at: u64) -> Result<Self, InspectError> {
        let bytes = piece(image, at, HEADER)?;
        if !has_magic(&bytes) {
            return Err(cut_off());
        }
        if !(1..=3).contains(&le32(&bytes, 4)) {
            refuse!("vmdk has the versions 1 to 3, and this image says {}", le32(&bytes, 4));
        }
        Ok(Self {
            capacity: le64(&bytes, 12),
            grain: le64(&bytes, 20),
            descriptor: (le64(&bytes, 28), le64(&bytes, 36)),
            entries_per_table: le32(&bytes, 44),
            grain_directory: le64(&bytes, 56),
            compression: le16(&bytes, 77),
        })
    }

    /// The header that a stream repeats: footer mark, header, end mark, each of a sector.
    fn at_end(&self, image: &impl ReadAt) -> Result<Self, InspectError> {
        let Some(at) = (image.len() / SECTOR * SECTOR).checked_sub(3 * SECTOR) else {
            return Err(cut_off());
        };
        let (mark, end) = (piece(image, at, 512)?, piece(image, at + 2 * SECTOR, 512)?);
        let is_footer = le64(&mark, 0) <= 1 && le32(&mark, 8) <= 512 && le32(&mark, 12) == 3;
        if !is_footer || end[..16].iter().any(|byte| *byte != 0) {
            return Err(cut_off());
        }
        let header = Self::read(image, at + SECTOR)?;
        if (self.capacity, self.grain) != (header.capacity, header.grain) {
            return Err(damaged("its header and its footer tell of two disks"));
        }
        Ok(header)
    }

    fn is_sane(&self, bytes: u64) -> Result<(), InspectError> {
        if self.capacity == 0 {
            // QEMU would read the descriptor instead, and open the files that it names.
            refuse!("the vmdk image has a disk of 0 bytes, or is part of a split one: {ADVICE}");
        }
        if self.compression > 1 {
            refuse!("the vmdk image is compressed in a way that is not known here: {ADVICE}");
        }
        if !self.grain.is_power_of_two() || self.grain > MOST_GRAIN {
            return Err(damaged("the size of its grains is impossible"));
        }
        if !(1..=512).contains(&self.entries_per_table) {
            return Err(damaged("the size of its tables is impossible"));
        }
        let entries = self.capacity.div_ceil(self.grain * u64::from(self.entries_per_table));
        if entries > MOST_DIRECTORY {
            return Err(damaged("the size of its disk is impossible"));
        }
        let directory = self.grain_directory.checked_mul(SECTOR);
        match directory.and_then(|at| at.checked_add(entries * 4)) {
            Some(end) if end <= bytes && self.grain_directory > 0 => Ok(()),
            _ => Err(cut_off()),
        }
    }
}

/// Where all who write such files put it, and where QEMU looks for the parent.
const DESCRIPTOR: u64 = 1;
/// What QEMU reads of it.
const DESCRIPTOR_SECTORS: u64 = 20;
const MOST_DESCRIPTOR_SECTORS: u64 = 128;

fn read_descriptor(image: &impl ReadAt, header: &Header) -> Result<Vec<u8>, InspectError> {
    let (offset, sectors) = header.descriptor;
    if offset == 0 {
        return Err(part_of_split());
    }
    if offset != DESCRIPTOR || !(1..=MOST_DESCRIPTOR_SECTORS).contains(&sectors) {
        return Err(damaged("its descriptor is in an odd place"));
    }
    let most = image.len() - SECTOR; // at least a header was read
    let length = (sectors.max(DESCRIPTOR_SECTORS) * SECTOR).min(most);
    let mut bytes = piece(image, SECTOR, usize::try_from(length).unwrap_or(usize::MAX))?;
    // Also behind what the header calls the descriptor, because QEMU looks there.
    let read_by_qemu = usize::try_from(DESCRIPTOR_SECTORS * SECTOR).unwrap_or(usize::MAX);
    let looked_at = &bytes[..bytes.len().min(read_by_qemu)];
    if has_word(looked_at, b"parentFileNameHint") {
        return Err(has_parent());
    }
    bytes.truncate(usize::try_from(sectors * SECTOR).unwrap_or(usize::MAX));
    Ok(bytes)
}

fn has_word(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

fn check_descriptor(bytes: &[u8], capacity: u64) -> Result<(), InspectError> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    if end == 0 {
        // qemu-img leaves room for one in each part of a split disk.
        return Err(part_of_split());
    }
    let text = String::from_utf8_lossy(&bytes[..end]);
    let (mut create_type, mut parent, mut extents) = (None, None, Vec::new());
    for line in text.lines().map(str::trim) {
        if let Some(extent) = Extent::parse(line) {
            extents.push(extent);
        } else if let Some((key, value)) = line.split_once('=') {
            let value = value.trim().trim_matches('"');
            match key.trim().to_ascii_lowercase().as_str() {
                "createtype" => create_type = Some(value),
                "parentcid" => parent = Some(value),
                _ => {}
            }
        }
    }
    match create_type {
        Some("monolithicSparse" | "streamOptimized") => {}
        Some(other) => {
            refuse!("a vmdk of the type {} has its bytes in other files: {ADVICE}", shown(other))
        }
        None => return Err(damaged("its descriptor has no createType")),
    }
    if !parent.is_some_and(|cid| cid.eq_ignore_ascii_case("ffffffff")) {
        return Err(has_parent());
    }
    let [extent] = extents.as_slice() else {
        refuse!(
            "the vmdk image has {} extents instead of the one that it is: {ADVICE}",
            extents.len()
        );
    };
    if extent.kind != "SPARSE" {
        refuse!(
            "the vmdk image keeps its bytes in an extent of the kind {}: {ADVICE}",
            shown(extent.kind)
        );
    }
    if extent.sectors != capacity {
        return Err(damaged("its descriptor and its header tell of two disks"));
    }
    Ok(())
}

/// `RW 4194304 SPARSE "disk.vmdk"`: the name is what the file was called once, and means nothing.
struct Extent<'a> {
    sectors: u64,
    kind: &'a str,
}

impl<'a> Extent<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let access = words.next()?;
        if !["RW", "RDONLY", "NOACCESS"].contains(&access) {
            return None;
        }
        let sectors = words.next().and_then(|sectors| sectors.parse().ok()).unwrap_or(0);
        Some(Self { sectors, kind: words.next().unwrap_or("") })
    }
}

fn has_parent() -> InspectError {
    Refused::new(
        "the vmdk image has a parent: flatten it with `qemu-img convert -O qcow2 in.vmdk \
         out.qcow2`",
    )
    .into()
}

fn part_of_split() -> InspectError {
    Refused::new(format!(
        "this vmdk is one part of a disk that is split into several files: {ADVICE}"
    ))
    .into()
}

fn damaged(what: &str) -> InspectError {
    Refused::new(format!("the vmdk image is damaged: {what}; export it again")).into()
}

fn cut_off() -> InspectError {
    Refused::new("the vmdk image was cut off: what it refers to is behind its end; send it again")
        .into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::PIECE;
    use super::super::read_at::testing::{Watched, mutated};
    use super::*;

    const DESCRIPTION: &str = "# Disk DescriptorFile\nversion=1\nCID=12345678\n\
         parentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
         RW 128 SPARSE \"x.vmdk\"\n\nddb.adapterType = \"ide\"\n";

    /// A stream of a disk of 64 KiB: header, descriptor, grain directory, footer.
    fn good() -> Vec<u8> {
        described_as(DESCRIPTION)
    }

    fn described_as(text: &str) -> Vec<u8> {
        let header = |directory: u64| {
            let mut bytes = vec![0; 512];
            let mut put =
                |at: usize, number: &[u8]| bytes[at..at + number.len()].copy_from_slice(number);
            put(0, MAGIC);
            put(4, &3u32.to_le_bytes());
            put(12, &128u64.to_le_bytes());
            put(20, &128u64.to_le_bytes());
            put(28, &1u64.to_le_bytes());
            put(36, &2u64.to_le_bytes());
            put(44, &512u32.to_le_bytes());
            put(56, &directory.to_le_bytes());
            put(77, &1u16.to_le_bytes());
            bytes
        };
        let mut image = header(AT_END);
        image.extend(text.as_bytes());
        image.resize(21 * 512, 0);
        image.extend([0; 512]); // the grain directory
        let mut mark = vec![0; 512];
        mark[0] = 1;
        mark[12] = 3;
        image.extend(mark);
        image.extend(header(21));
        image.extend([0; 512]);
        image
    }

    #[test]
    fn a_stream_says_at_its_end_how_large_its_disk_is() {
        assert_eq!(check(&good().as_slice()).unwrap(), 65_536);
    }

    #[test]
    fn descriptors_that_lead_to_other_files_are_refused() {
        for (from, to, words) in [
            ("ffffffff", "12345678", "has a parent"),
            ("parentCID=ffffffff\n", "", "has a parent"),
            ("\n\nRW", "\nparentfilenamehint=\"/etc/passwd\"\nRW", "has a parent"),
            ("streamOptimized", "monolithicFlat", "in other files"),
            ("createType", "creator", "no createType"),
            ("SPARSE", "FLAT", "of the kind FLAT"),
            ("RW 128", "RW 129", "two disks"),
            ("RW", "#RW", "0 extents"),
            ("\n\nRW", "\nRW 128 SPARSE \"/dev/sda\"\nRW", "2 extents"),
        ] {
            let image = described_as(&DESCRIPTION.replace(from, to));

            let error = check(&image.as_slice()).unwrap_err().to_string();

            assert!(error.contains(words), "{from} -> {to}: {error}");
        }
    }

    #[test]
    fn a_parent_behind_the_descriptor_is_found_too() {
        let mut image = good();
        image[15 * 512..15 * 512 + 18].copy_from_slice(b"parentFileNameHint");

        let error = check(&image.as_slice()).unwrap_err().to_string();

        assert!(error.contains("has a parent"), "{error}");
    }

    /// With a capacity of 0, QEMU would open the extents that the descriptor names.
    #[test]
    fn a_disk_of_no_bytes_is_refused() {
        let mut image = good();
        let footer = image.len() - 1024;
        for header in [0, footer] {
            image[header + 12] = 0;
        }

        let error = check(&image.as_slice()).unwrap_err().to_string();

        assert!(error.contains("0 bytes"), "{error}");
    }

    proptest! {
        /// Whatever is taken has a disk, and a grain directory in its own bytes.
        #[test]
        fn what_is_taken_stands_alone(bytes in mutated(good(), 700)) {
            let watched = Watched::new(&bytes);

            let verdict = check(&watched);

            prop_assert!(watched.most_at_once() <= PIECE && watched.reads() < 16);
            if let Ok(size) = verdict {
                prop_assert!(size > 0 && size.is_multiple_of(SECTOR));
                prop_assert!(has_word(&bytes, b"parentCID=ffffffff"));
            }
        }
    }
}
