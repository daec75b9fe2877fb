//! An OVA: a tar archive of a description (.ovf) and the disk that it refers to.

use super::read_at::{PIECE, ReadAt, Window, piece, prefix};
use super::refused::{refuse, shown};
use super::{InspectError, Refused, ovf, tar, vmdk};

/// The name of the disk in the archive, and the bytes of that disk.
pub(super) fn check(archive: &impl ReadAt) -> Result<(String, u64), InspectError> {
    let entries = tar::entries(archive)?;
    let mut described = entries.iter().filter(|entry| has_extension(&entry.name, "ovf"));
    let (Some(description), None) = (described.next(), described.next()) else {
        refuse!(
            "an .ova holds exactly one .ovf, and this one does not: export the appliance again"
        );
    };
    let length = usize::try_from(description.bytes).unwrap_or(usize::MAX);
    if length > PIECE {
        refuse!("the .ovf in the archive has {length} bytes, and no appliance needs that many");
    }
    let disk = ovf::disk_name(&piece(archive, description.start, length)?)?;
    let Some(entry) = entries.iter().find(|entry| entry.name == disk) else {
        refuse!(
            "the .ovf says that the disk is {}, and there is no such file in the archive: export \
             the appliance as one .ova",
            shown(&disk)
        );
    };
    if !pve_can_name(&disk) {
        refuse!(
            "PVE finds a disk in an .ova only if its name has letters, digits, blanks and -.+=_ \
             and ends in .vmdk, and this one is called {}: rename it and pack it again",
            shown(&disk)
        );
    }
    let image = Window::new(archive, entry.start, entry.bytes);
    let begin = prefix(&image, 512)?;
    let verdict =
        if vmdk::has_magic(&begin) { vmdk::check(&image) } else { Err(vmdk::not_sparse(&begin)) };
    match verdict {
        Ok(virtual_size) => Ok((disk, virtual_size)),
        Err(InspectError::Refused(Refused { reason })) => {
            refuse!("the disk {} in the archive: {reason}", shown(&disk))
        }
        Err(error) => Err(error),
    }
}

/// pve-storage: src/PVE/Storage.pm, `OVA_CONTENT_RE_1`.
fn pve_can_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || " -.+=_".contains(c);
    let extension = name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty());
    extension.is_some_and(|(_, end)| end == "vmdk") && name.chars().all(plain)
}

fn has_extension(name: &str, extension: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, end)| end.eq_ignore_ascii_case(extension))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::read_at::testing::Watched;
    use super::super::tar::testing::{entry, file, octal};
    use super::*;

    fn described(ovf: &[u8]) -> Vec<u8> {
        [file("x.ovf", ovf), file("x.vmdk", &[0; 512])].concat()
    }

    #[test]
    fn an_endless_description_is_refused_before_it_is_read() {
        let size = PIECE + 1;
        let archive = entry("x.ovf", b'0', &octal(size), &vec![b' '; size]);
        let watched = Watched::new(&archive);

        let error = check(&watched).unwrap_err().to_string();

        assert!(error.contains("1048577 bytes"), "{error}");
        assert!(watched.most_at_once() <= 512);
    }

    #[test]
    fn only_disks_that_pve_can_name_are_taken() {
        for (name, can) in [
            ("a-b_c.1 x+=.vmdk", true),
            ("disk.VMDK", false),
            (".vmdk", false),
            ("disk.qcow2", false),
            ("d;rm.vmdk", false),
            ("d\u{e4}.vmdk", false),
        ] {
            assert_eq!(pve_can_name(name), can, "{name}");
        }
    }

    proptest! {
        /// Descriptions made of the words that matter, in any order and nesting.
        #[test]
        fn any_description_gets_an_answer(
            words in proptest::collection::vec(
                proptest::sample::select(vec![
                    "<File ", "<Disk ", "</File>", "<Envelope>", "/>", ">", "ovf:id=\"a\" ",
                    "href=\"x.vmdk\" ", "fileRef='a' ", "&lt;", "&#x110000;", "&e;", "<!--", "-->",
                    "<![CDATA[", "]]>", "<?xml ", "?>", "\u{0}", "=", "\"", "id=\"&e;\" ",
                ]),
                0..24,
            )
        ) {
            let archive = described(words.concat().as_bytes());

            // The disk in it is none, so nothing may be taken.
            prop_assert!(matches!(check(&archive.as_slice()), Err(InspectError::Refused(_))));
        }

        #[test]
        fn any_bytes_as_description_get_an_answer(
            ovf in proptest::collection::vec(any::<u8>(), 0..256),
        ) {
            prop_assert!(check(&described(&ovf).as_slice()).is_err());
        }
    }
}
