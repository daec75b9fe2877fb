//! The files of a tar archive: ustar, with GNU's and pax's long sizes.
//!
//! Stricter than `tar` is: plain files with plain names only, few of them, each once, and all of
//! it inside of the archive. What is refused here is nothing that OVF tools write.

use super::read_at::{ReadAt, piece};
use super::refused::{refuse, shown};
use super::{InspectError, Refused};

/// A file in the archive.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Where its bytes start in the archive, and how many they are.
    pub(super) start: u64,
    pub(super) bytes: u64,
}

const BLOCK: usize = 512;
const BLOCK_BYTES: u64 = BLOCK as u64;
const MOST_ENTRIES: usize = 64;
const MOST_PAX_BYTES: u64 = 16 * 1024;

/// ustar, POSIX's or GNU's.
pub(super) fn has_magic(begin: &[u8]) -> bool {
    begin.get(257..262).is_some_and(|magic| magic == b"ustar")
}

pub(super) fn entries(archive: &impl ReadAt) -> Result<Vec<Entry>, InspectError> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut long = Long::default();
    let mut at = 0;
    // Two headers for each file at most, so this ends.
    for _ in 0..=2 * MOST_ENTRIES {
        if at == archive.len() {
            return Ok(entries); // without the end mark; some tools leave it out
        }
        let header = piece(archive, at, BLOCK)?;
        if header.iter().all(|byte| *byte == 0) {
            return Ok(entries);
        }
        check_sum(&header)?;
        let start = at + BLOCK_BYTES;
        let kind = header[156];
        let bytes = match long.size.filter(|_| is_file(kind)) {
            Some(size) => size,
            None => size(&header[124..136])?,
        };
        let padded = bytes.checked_next_multiple_of(BLOCK_BYTES);
        let end = padded.and_then(|padded| start.checked_add(padded));
        let inside = |end: u64| end <= archive.len() || start + bytes == archive.len();
        let Some(end) = end.filter(|end| inside(*end)) else {
            refuse!("the archive ends within one of its files: it was cut off; send it again");
        };
        match kind {
            b'x' | b'L' => {
                if bytes > MOST_PAX_BYTES {
                    refuse!("the archive has an extended header of {bytes} bytes: {REPACK}");
                }
                let text = piece(archive, start, usize::try_from(bytes).unwrap_or(usize::MAX))?;
                if kind == b'x' { long.pax(&text)? } else { long.gnu(&text)? }
            }
            // For all files to come. Nothing in it is needed, and a size there is nonsense.
            b'g' => {}
            _ if is_file(kind) => {
                let name = match std::mem::take(&mut long).name {
                    Some(name) => name,
                    None => name(&header)?,
                };
                check_name(&name)?;
                if entries.iter().any(|entry| entry.name == name) {
                    refuse!("the archive has two files called {}: {REPACK}", shown(&name));
                }
                if entries.len() == MOST_ENTRIES {
                    break;
                }
                entries.push(Entry { name, start, bytes });
            }
            b'1' | b'2' => refuse!("the archive has links in it: {REPACK}"),
            b'5' => {
                refuse!("the archive has folders in it, and PVE finds no files in them: {REPACK}")
            }
            other => {
                refuse!("the archive has an entry that is no file (type {other:#04x}): {REPACK}")
            }
        }
        at = end.min(archive.len());
    }
    refuse!("the archive has more than {MOST_ENTRIES} files: {REPACK}")
}

const REPACK: &str = "pack the files themselves, as `tar cf x.ova x.ovf x-disk1.vmdk` does";

fn is_file(kind: u8) -> bool {
    matches!(kind, b'0' | 0)
}

/// What headers of their own say about the next file.
#[derive(Debug, Default)]
struct Long {
    name: Option<String>,
    size: Option<u64>,
}

impl Long {
    /// Lines of `LENGTH key=value\n`.
    fn pax(&mut self, mut text: &[u8]) -> Result<(), InspectError> {
        while !text.is_empty() {
            let Some(space) = text.iter().take(8).position(|byte| *byte == b' ') else {
                return Err(damaged());
            };
            let length = decimal(&text[..space]).and_then(|length| usize::try_from(length).ok());
            let line = length
                .and_then(|length| text.get(space + 1..length))
                .and_then(|line| line.strip_suffix(b"\n"));
            let Some((length, line)) = length.zip(line) else { return Err(damaged()) };
            text = &text[length..];
            let Some(equals) = line.iter().position(|byte| *byte == b'=') else {
                return Err(damaged());
            };
            let (key, value) = (&line[..equals], &line[equals + 1..]);
            match key {
                b"path" => self.name = Some(utf8(value)?),
                b"size" => self.size = Some(decimal(value).ok_or_else(damaged)?),
                key if key.starts_with(b"GNU.sparse") => {
                    refuse!("the archive has a sparse file in it: {REPACK}")
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn gnu(&mut self, text: &[u8]) -> Result<(), InspectError> {
        self.name = Some(utf8(until_nul(text))?);
        Ok(())
    }
}

fn name(header: &[u8]) -> Result<String, InspectError> {
    let name = utf8(until_nul(&header[..100]))?;
    // GNU's own format has times in the place of the prefix.
    let posix = &header[257..263] == b"ustar\0";
    let prefix = if posix { utf8(until_nul(&header[345..500]))? } else { String::new() };
    Ok(if prefix.is_empty() { name } else { format!("{prefix}/{name}") })
}

fn check_name(name: &str) -> Result<(), InspectError> {
    let odd = name.is_empty()
        || name.starts_with('.')
        || name.len() > 255
        || name.contains(['/', '\\'])
        || name.chars().any(char::is_control);
    if odd {
        refuse!(
            "the archive has a file called {}, and names may have no folders in them: {REPACK}",
            shown(name)
        );
    }
    Ok(())
}

/// The sum of all bytes of the header, its own place taken as blanks.
fn check_sum(header: &[u8]) -> Result<(), InspectError> {
    let said = octal(&header[148..156]);
    let sum = |at: usize, byte: u8| if (148..156).contains(&at) { 32 } else { u64::from(byte) };
    let is: u64 = header.iter().enumerate().map(|(at, byte)| sum(at, *byte)).sum();
    if said == Some(is) { Ok(()) } else { Err(damaged()) }
}

/// Octal digits; or, from 8 GiB on, a number of 11 bytes behind a byte of 0x80.
fn size(field: &[u8]) -> Result<u64, InspectError> {
    let size = match field {
        [0x80, 0, 0, 0, number @ ..] => number.try_into().ok().map(u64::from_be_bytes),
        _ => octal(field),
    };
    size.ok_or_else(damaged)
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_matches([' ', '\0']);
    // No sign, which the parser would take.
    if !digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte)) {
        return None;
    }
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn utf8(bytes: &[u8]) -> Result<String, InspectError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| damaged())
}

fn damaged() -> InspectError {
    Refused::new("the archive is damaged, or is not a tar archive: export the appliance again")
        .into()
}

#[cfg(test)]
pub(super) mod testing {
    /// One entry as ustar writes it, whatever it says.
    pub(crate) fn entry(name: &str, kind: u8, size: &[u8; 12], bytes: &[u8]) -> Vec<u8> {
        let mut header = vec![0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..136].copy_from_slice(size);
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        header.extend(bytes);
        header.resize(header.len().next_multiple_of(512), 0);
        header
    }

    pub(crate) fn file(name: &str, bytes: &[u8]) -> Vec<u8> {
        entry(name, b'0', &octal(bytes.len()), bytes)
    }

    pub(crate) fn octal(size: usize) -> [u8; 12] {
        format!("{size:011o}\0").into_bytes().try_into().expect("12 bytes")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::read_at::testing::{Watched, mutated};
    use super::testing::{entry, file, octal};
    use super::*;

    fn names(archive: &[u8]) -> Result<Vec<String>, String> {
        match entries(&archive) {
            Ok(entries) => Ok(entries.into_iter().map(|entry| entry.name).collect()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// A header of more bytes than there are, as an archive of 9 GiB has it.
    fn large(size: u64) -> Vec<u8> {
        let mut field = [0; 12];
        field[0] = 0x80;
        field[4..].copy_from_slice(&size.to_be_bytes());
        entry("large.vmdk", b'0', &field, b"")
    }

    fn pax(lines: &[u8], next: &[u8]) -> Vec<u8> {
        [entry("PaxHeader", b'x', &octal(lines.len()), lines), next.to_vec()].concat()
    }

    #[test]
    fn names_and_sizes_come_from_whichever_header_has_them() {
        let plain = file("x", b"abc");
        let archive = [
            file("a.ovf", b"<x/>"),
            entry("././@LongLink", b'L', &octal(6), b"b.ova\0"),
            plain.clone(),
            pax(b"14 path=c.vmk\n10 size=3\n", &plain),
            entry("g", b'g', &octal(0), b""),
            file("d", b""),
        ]
        .concat();

        assert_eq!(names(&archive).unwrap(), ["a.ovf", "b.ova", "c.vmk", "d"]);
        assert_eq!(entries(&archive.as_slice()).unwrap()[2].bytes, 3);
    }

    #[test]
    fn a_size_beyond_8_gib_is_read_and_believed_only_if_the_bytes_are_there() {
        for size in [9 << 30, u64::MAX, u64::MAX - 511, u64::MAX - 1024] {
            let error = names(&large(size)).unwrap_err();
            assert!(error.contains("cut off"), "{size}: {error}");
        }
    }

    #[test]
    fn odd_entries_are_refused() {
        let plain = file("x", b"");
        for (archive, words) in [
            (entry("x", b'2', &octal(0), b""), "links"),
            (entry("x", b'1', &octal(0), b""), "links"),
            (entry("x", b'3', &octal(0), b""), "is no file (type 0x33)"),
            (entry("x", b'S', &octal(0), b""), "is no file"),
            (entry("x", b'L', &octal(99_999), &vec![b'a'; 99_999]), "extended header of 99999"),
            (file("..", b""), "called .."),
            (file("a/b", b""), "called a/b"),
            (file("a\\b", b""), "folders in them"),
            (file("\x1b[2J", b""), "called ?[2J"),
            (file("", b""), "folders in them"),
            (pax(b"19 path=../../evil\n", &plain), "called ../../evil"),
            (pax(b"22 GNU.sparse.major=1\n", &plain), "sparse"),
            (pax(b"99 path=x\n", &plain), "damaged"),
            (pax(b"0 path=x\n", &plain), "damaged"),
            (pax(b"path=x\n", &plain), "damaged"),
            (pax(b"11 size=-1\n", &plain), "damaged"),
            (entry("x", b'0', b"-0000000001\0", b""), "damaged"),
        ] {
            let error = names(&archive).unwrap_err();
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    #[test]
    fn a_header_whose_sum_is_wrong_is_refused() {
        let mut archive = file("x.ovf", b"");
        archive[0] = b'y';

        assert!(names(&archive).unwrap_err().contains("damaged"));
    }

    #[test]
    fn nothing_behind_the_end_mark_counts() {
        let archive = [file("a", b""), vec![0; 512], file("b", b"")].concat();

        assert_eq!(names(&archive).unwrap(), ["a"]);
    }

    /// With its sum put right, so that a change comes through.
    fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
        if bytes.len() >= 512 {
            bytes[148..156].fill(b' ');
            let sum: u32 = bytes[..512].iter().map(|byte| u32::from(*byte)).sum();
            bytes[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
        bytes
    }

    fn good() -> Vec<u8> {
        [file("a.ovf", b"<x/>"), pax(b"14 path=c.vmk\n", &file("x", &[7; 600]))].concat()
    }

    proptest! {
        /// Whatever is taken lies in the archive, under plain names, each once.
        #[test]
        fn what_is_taken_lies_in_the_archive(bytes in mutated(good(), 512).prop_map(summed)) {
            let watched = Watched::new(&bytes);

            let verdict = entries(&watched);

            prop_assert!(watched.most_at_once() <= 16 * 1024 && watched.reads() < 300);
            for entry in verdict.unwrap_or_default() {
                prop_assert!(entry.start + entry.bytes <= bytes.len() as u64);
                prop_assert!(!entry.name.contains('/') && !entry.name.starts_with('.'));
            }
        }

        #[test]
        fn any_pax_header_gets_an_answer(lines in proptest::collection::vec(any::<u8>(), 0..64)) {
            let archive = pax(&lines, &file("x", b""));

            if let Ok(names) = names(&archive) {
                prop_assert_eq!(names.len(), 1);
            }
        }
    }
}
