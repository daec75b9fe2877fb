//! A disk image made of nothing: a real qcow2 that any `qemu-img` reads.
//!
//! ```text
//! cluster  0       1                2               3         4 to 7     8 …
//!          header  refcount table   refcount block  L1 table  L2 tables  data
//! ```
//!
//! Layout: qemu's docs/interop/qcow2.rst.

/// Bytes of a cluster, and how many bits that is.
const CLUSTER: usize = 1 << CLUSTER_BITS;
const CLUSTER_BITS: u32 = 16;

/// What guests of it see as the size of their disk, in bytes.
pub(crate) const DISK: u64 = 2 << 30;

/// Clusters that hold data, spread over the disk.
const USED: usize = 128;

/// Where the data begins, in clusters.
const BEFORE_DATA: usize = 8;

/// Entries of an L2 table: it maps 512 MiB.
const PER_TABLE: usize = CLUSTER / 8;

/// The host's clusters are no copies of one another (the refcount is exactly one).
const COPIED: u64 = 1 << 63;

/// A disk of [`DISK`] bytes of which 8 MiB are used, as a qcow2 file.
pub(crate) fn qcow2() -> Vec<u8> {
    let mut file = vec![0; (BEFORE_DATA + USED) * CLUSTER];
    let at = |cluster: usize| (cluster * CLUSTER) as u64;
    let tables = usize::try_from(DISK).expect("the disk is small") / CLUSTER / PER_TABLE;

    put(&mut file, 0, b"QFI\xfb");
    put(&mut file, 4, &3_u32.to_be_bytes());
    put(&mut file, 20, &CLUSTER_BITS.to_be_bytes());
    put(&mut file, 24, &DISK.to_be_bytes());
    put(&mut file, 36, &u32::try_from(tables).expect("four").to_be_bytes());
    put(&mut file, 40, &at(3).to_be_bytes());
    put(&mut file, 48, &at(1).to_be_bytes());
    put(&mut file, 56, &1_u32.to_be_bytes());
    put(&mut file, 96, &4_u32.to_be_bytes()); // refcounts of 2^4 bits
    put(&mut file, 100, &104_u32.to_be_bytes()); // length of this header

    put(&mut file, CLUSTER, &at(2).to_be_bytes());
    for cluster in 0..BEFORE_DATA + USED {
        put(&mut file, 2 * CLUSTER + 2 * cluster, &1_u16.to_be_bytes());
    }
    for table in 0..tables {
        put(&mut file, 3 * CLUSTER + 8 * table, &(at(4 + table) | COPIED).to_be_bytes());
    }
    let every = tables * PER_TABLE / USED;
    for used in 0..USED {
        let (guest, host) = (used * every, BEFORE_DATA + used);
        put(&mut file, 4 * CLUSTER + 8 * guest, &(at(host) | COPIED).to_be_bytes());
        fill(&mut file[host * CLUSTER..][..CLUSTER], guest as u64);
    }
    file
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Bytes that do not compress, the same ones each time (xorshift64*).
fn fill(cluster: &mut [u8], seed: u64) {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for word in cluster.chunks_exact_mut(8) {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        word.copy_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn qemu_finds_nothing_wrong_with_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), qcow2()).unwrap();

        let mut qemu = Command::new("qemu-img");
        let check = qemu.args(["check", "--output=json"]).arg(file.path()).output();
        let check = check.expect("scripts/test installs qemu-img");

        let said = String::from_utf8_lossy(&check.stdout);
        assert!(check.status.success(), "{said}{}", String::from_utf8_lossy(&check.stderr));
        assert!(said.contains("\"allocated-clusters\": 128"), "{said}");
        assert!(said.contains("\"check-errors\": 0"), "{said}");
        assert!(!said.contains("leaks"), "{said}");
    }
}
