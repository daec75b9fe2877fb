//! qcow2, versions 2 and 3 (QEMU: docs/interop/qcow2.txt).
//!
//! Only the header and the first table are read. That is enough for what matters: QEMU opens no
//! other file on its behalf, and its tables lie inside of the file.

use super::InspectError;
use super::read_at::{PIECE, ReadAt, be32, be64, piece, prefix};
use super::refused::{refuse, shown};

pub(super) const MAGIC: &[u8] = b"QFI\xfb";

pub(super) fn has_magic(begin: &[u8]) -> bool {
    begin.starts_with(MAGIC)
}

const HEADER_V2: usize = 72;
const HEADER_V3: usize = 104;

// Incompatible features of version 3: who does not know one must not open the image.
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2;

// QEMU's own limits (block/qcow2.h).
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
const MOST_L1_BYTES: u64 = 32 * 1024 * 1024;
const MOST_REFCOUNT_TABLE_BYTES: u64 = 8 * 1024 * 1024;
const MOST_SNAPSHOTS: u32 = 65_536;
const L1_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// The bytes of the disk.
pub(super) fn check(image: &impl ReadAt) -> Result<u64, InspectError> {
    let header = Header::read(image)?;
    header.stands_alone(image)?;
    header.is_sane(image.len())?;
    check_l1(image, &header)?;
    Ok(header.size)
}

struct Header {
    backing_file: (u64, u32),
    cluster_bits: u32,
    size: u64,
    crypt_method: u32,
    l1_entries: u32,
    l1_offset: u64,
    refcount_table: (u64, u32),
    snapshots: (u64, u32),
    features: u64,
    refcount_order: u32,
    length: u32,
    compression_type: u8,
}

impl Header {
    fn read(image: &impl ReadAt) -> Result<Self, InspectError> {
        let bytes = piece(image, 0, HEADER_V2)?;
        let mut header = Self {
            backing_file: (be64(&bytes, 8), be32(&bytes, 16)),
            cluster_bits: be32(&bytes, 20),
            size: be64(&bytes, 24),
            crypt_method: be32(&bytes, 32),
            l1_entries: be32(&bytes, 36),
            l1_offset: be64(&bytes, 40),
            refcount_table: (be64(&bytes, 48), be32(&bytes, 56)),
            snapshots: (be64(&bytes, 64), be32(&bytes, 60)),
            features: 0,
            refcount_order: 4,
            length: 104,
            compression_type: 0,
        };
        match be32(&bytes, 4) {
            2 => {}
            3 => {
                let bytes = piece(image, 0, HEADER_V3)?;
                header.features = be64(&bytes, 72);
                header.refcount_order = be32(&bytes, 96);
                header.length = be32(&bytes, 100);
                if header.length > 104 {
                    header.compression_type = piece(image, 104, 1)?[0];
                }
            }
            1 => refuse!(
                "this is a qcow image of version 1: convert it with `qemu-img convert -f qcow -O \
                 qcow2 in.qcow out.qcow2`"
            ),
            other => refuse!("qcow2 has the versions 2 and 3, and this image says {other}"),
        }
        Ok(header)
    }

    /// QEMU needs nothing but this file to open it.
    fn stands_alone(&self, image: &impl ReadAt) -> Result<(), InspectError> {
        let (offset, length) = self.backing_file;
        if offset != 0 || length != 0 {
            let name = backing_file_name(image, offset, length);
            refuse!(
                "the qcow2 image has a backing file ({name}): flatten it with `qemu-img convert -O \
                 qcow2 in.qcow2 out.qcow2`"
            );
        }
        let features = self.features;
        if features & DATA_FILE != 0 {
            refuse!(
                "the qcow2 image keeps its data in another file: bring them together with \
                 `qemu-img convert -O qcow2 in.qcow2 out.qcow2`"
            );
        }
        if self.crypt_method != 0 {
            refuse!(
                "the qcow2 image is encrypted, and nodes have no key: decrypt it with `qemu-img \
                 convert -O qcow2` and its secret"
            );
        }
        if features & (DIRTY | CORRUPT) != 0 {
            refuse!(
                "the qcow2 image was not closed properly, or is in use: stop its guest and repair \
                 it with `qemu-img check -r all in.qcow2`"
            );
        }
        if features & !KNOWN != 0 {
            refuse!(
                "the qcow2 image needs features that are not known here (bits {:#x}): convert it \
                 with `qemu-img convert -O qcow2 in.qcow2 out.qcow2`",
                features & !KNOWN
            );
        }
        let compressed = features & COMPRESSION_TYPE != 0;
        if self.compression_type > 1 || compressed != (self.compression_type != 0) {
            refuse!(
                "the qcow2 image is compressed in a way that is not known here (type {}): convert \
                 it with `qemu-img convert -O qcow2 in.qcow2 out.qcow2`",
                self.compression_type
            );
        }
        Ok(())
    }

    /// The header's numbers are possible, and its tables lie in the file.
    fn is_sane(&self, bytes: u64) -> Result<(), InspectError> {
        if !CLUSTER_BITS.contains(&self.cluster_bits) {
            return Err(damaged("the size of its clusters is impossible"));
        }
        let cluster = 1u64 << self.cluster_bits;
        if self.extended() && self.cluster_bits < 14 {
            return Err(damaged("its clusters are too small for their tables"));
        }
        if self.length < 104 || u64::from(self.length) > cluster {
            return Err(damaged("the length of its header is impossible"));
        }
        if self.refcount_order > 6 {
            return Err(damaged("the width of its reference counts is impossible"));
        }
        if self.size == 0 {
            refuse!("the qcow2 image has a disk of 0 bytes");
        }
        let aligned = |offset: u64| offset != 0 && offset.is_multiple_of(cluster);
        let inside =
            |offset: u64, length: u64| offset.checked_add(length).is_some_and(|end| end <= bytes);

        let (offset, clusters) = self.refcount_table;
        let length = u64::from(clusters) * cluster;
        if length == 0 || length > MOST_REFCOUNT_TABLE_BYTES.max(cluster) || !aligned(offset) {
            return Err(damaged("its table of reference counts is impossible"));
        }
        if !inside(offset, length) {
            return Err(cut_off("its table of reference counts"));
        }

        let length = u64::from(self.l1_entries) * 8;
        if length > MOST_L1_BYTES || !aligned(self.l1_offset) {
            return Err(damaged("its first table is impossible"));
        }
        if !inside(self.l1_offset, length) {
            return Err(cut_off("its first table"));
        }
        if u64::from(self.l1_entries) < self.l1_entries_needed(cluster) {
            return Err(damaged("its first table is too small for its disk"));
        }

        let (offset, count) = self.snapshots;
        if count > MOST_SNAPSHOTS || (count > 0 && !(aligned(offset) && inside(offset, 40))) {
            return Err(damaged("its table of snapshots is impossible"));
        }
        Ok(())
    }

    fn extended(&self) -> bool {
        self.features & EXTENDED_L2 != 0
    }

    fn l1_entries_needed(&self, cluster: u64) -> u64 {
        let entry = if self.extended() { 16 } else { 8 };
        // At most 2^42, so no multiplication overflows.
        self.size.div_ceil(cluster * (cluster / entry))
    }
}

/// Each second table lies on a cluster of the file.
fn check_l1(image: &impl ReadAt, header: &Header) -> Result<(), InspectError> {
    let cluster = 1u64 << header.cluster_bits;
    let mut offset = header.l1_offset;
    let end = offset + u64::from(header.l1_entries) * 8;
    while offset < end {
        let length = usize::try_from(end - offset).map_or(PIECE, |rest| rest.min(PIECE));
        for entry in piece(image, offset, length)?.chunks_exact(8) {
            let table = be64(entry, 0) & L1_OFFSET;
            if !table.is_multiple_of(cluster) {
                return Err(damaged("an entry of its first table is impossible"));
            }
            if table >= image.len() {
                return Err(cut_off("a part of its map"));
            }
        }
        offset += length as u64;
    }
    Ok(())
}

/// For a message only, so whatever is wrong with it does not matter.
fn backing_file_name(image: &impl ReadAt, offset: u64, length: u32) -> String {
    let length = usize::try_from(length).map_or(1023, |length| length.min(1023));
    let name = if offset == 0 { prefix(image, 0) } else { piece(image, offset, length) };
    match name {
        Ok(name) if !name.is_empty() => shown(&String::from_utf8_lossy(&name)),
        _ => "without a name".to_owned(),
    }
}

fn damaged(what: &str) -> InspectError {
    super::Refused::new(format!(
        "the qcow2 image is damaged: {what}; see what `qemu-img check` says of the original and \
         send it again"
    ))
    .into()
}

fn cut_off(what: &str) -> InspectError {
    super::Refused::new(format!(
        "the qcow2 image was cut off: {what} should be behind its end; send it again"
    ))
    .into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::read_at::testing::{Watched, mutated};
    use super::*;

    const CLUSTER: usize = 512;

    /// Version 3 with clusters of 512 bytes: header, reference counts, first table, one second
    /// table; a disk of 64 KiB.
    fn good() -> Vec<u8> {
        let mut bytes = vec![0; 5 * CLUSTER];
        let mut put =
            |at: usize, number: &[u8]| bytes[at..at + number.len()].copy_from_slice(number);
        put(0, MAGIC);
        put(4, &3u32.to_be_bytes());
        put(20, &9u32.to_be_bytes());
        put(24, &65_536u64.to_be_bytes());
        put(36, &2u32.to_be_bytes());
        put(40, &(2 * CLUSTER as u64).to_be_bytes());
        put(48, &(CLUSTER as u64).to_be_bytes());
        put(56, &1u32.to_be_bytes());
        put(96, &4u32.to_be_bytes());
        put(100, &104u32.to_be_bytes());
        put(2 * CLUSTER, &((3 * CLUSTER as u64) | (1 << 63)).to_be_bytes());
        bytes
    }

    #[test]
    fn the_size_of_the_disk_is_in_the_header() {
        assert_eq!(check(&good().as_slice()).unwrap(), 65_536);
    }

    #[test]
    fn a_hostile_name_of_a_backing_file_is_shown_harmlessly() {
        let mut image = good();
        image[8..16].copy_from_slice(&(4 * CLUSTER as u64).to_be_bytes());
        image[16..20].copy_from_slice(&12u32.to_be_bytes());
        image[4 * CLUSTER..4 * CLUSTER + 12].copy_from_slice(b"\x1b[2J/e<b>\n\xff!");

        let error = check(&image.as_slice()).unwrap_err().to_string();

        assert!(error.contains("(?[2J/e<b>??!)"), "{error}");
    }

    #[test]
    fn entries_of_the_first_table_lie_in_the_file() {
        let entry = |offset: u64| {
            let mut image = good();
            image[2 * CLUSTER + 8..2 * CLUSTER + 16].copy_from_slice(&offset.to_be_bytes());
            check(&image.as_slice()).map_err(|error| error.to_string())
        };

        assert_eq!(entry(4 * CLUSTER as u64), Ok(65_536));
        assert!(entry(5 * CLUSTER as u64).unwrap_err().contains("cut off"));
    }

    #[test]
    fn a_table_near_the_end_of_all_numbers_is_behind_the_file() {
        for field in [40, 48] {
            let mut image = good();
            image[field..field + 8].copy_from_slice(&(u64::MAX - 511).to_be_bytes());

            let error = check(&image.as_slice()).unwrap_err().to_string();

            assert!(error.contains("cut off: its"), "{error}");
        }
    }

    proptest! {
        /// Whatever is taken opens no other file and lies in its own bytes.
        #[test]
        fn what_is_taken_stands_alone(bytes in mutated(good(), HEADER_V3)) {
            let watched = Watched::new(&bytes);

            let verdict = check(&watched);

            prop_assert!(watched.most_at_once() <= PIECE && watched.reads() < 16);
            if let Ok(size) = verdict {
                let features = if be32(&bytes, 4) == 3 { be64(&bytes, 72) } else { 0 };
                prop_assert_eq!(size, be64(&bytes, 24));
                prop_assert_eq!(be64(&bytes, 8), 0);
                prop_assert_eq!(be32(&bytes, 32), 0);
                prop_assert_eq!(features & !(COMPRESSION_TYPE | EXTENDED_L2), 0);
                let l1_end = be64(&bytes, 40) + 8 * u64::from(be32(&bytes, 36));
                prop_assert!(l1_end <= bytes.len() as u64);
            }
        }
    }
}
