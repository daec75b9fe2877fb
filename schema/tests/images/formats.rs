//! Images that the real `qemu-img` and `tar` make: what is taken, and what is refused and why.
//!
//! Needs qemu-img and tar (scripts/test installs them).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use schema::image_format::{Format, Image, InspectError, check, inspect};
use schema::images::ImageStore;
use tempfile::TempDir;

const MIB: u64 = 1024 * 1024;

/// A folder in which images are made.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, program: &str, args: &str) {
        let done = Command::new(program)
            .args(args.split(' '))
            .current_dir(self.0.path())
            .output()
            .unwrap_or_else(|error| {
                panic!("{program}: {error}; install it (Debian: apt-get install qemu-utils tar)")
            });
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{program} {args}: {said}");
    }

    fn qemu_img(&self, args: &str) {
        self.run("qemu-img", args);
    }

    /// A disk of 8 MiB with something in it.
    fn disk(&self) {
        let mut bytes = vec![0; 8 << 20];
        for (at, byte) in bytes.iter_mut().enumerate().take(3 << 20).skip(1 << 20) {
            *byte = u8::try_from(at * 7 % 251).unwrap();
        }
        fs::write(self.path("disk.raw"), bytes).unwrap();
    }

    fn check(&self, name: &str) -> Result<Image, InspectError> {
        self.check_as(name, name)
    }

    fn check_as(&self, name: &str, claimed: &str) -> Result<Image, InspectError> {
        let bytes = fs::read(self.path(name)).unwrap();
        check(&bytes.as_slice(), claimed)
    }

    #[track_caller]
    fn taken(&self, name: &str, format: Format, virtual_size: u64) {
        let image = self.check(name).unwrap();
        assert_eq!(image, Image { format, virtual_size, disk: None }, "{name}");
    }

    #[track_caller]
    fn refused(&self, name: &str, words: &str) {
        refused(self.check(name), words);
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.path(name)).unwrap();
        change(&mut bytes);
        fs::write(self.path(name), bytes).unwrap();
    }
}

#[track_caller]
fn refused(verdict: Result<Image, InspectError>, words: &str) {
    match verdict {
        Err(InspectError::Refused(refused)) => {
            assert!(refused.reason.contains(words), "{}", refused.reason);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn qcow2_images_of_qemu_img_are_taken() {
    let bench = Bench::new();
    bench.disk();
    for (name, options, mib) in [
        ("v3", "compat=1.1", 10_240),
        ("v2", "compat=0.10", 10_240),
        ("small", "cluster_size=512", 10_240),
        ("large", "cluster_size=2M", 10_240),
        ("extended", "extended_l2=on,cluster_size=16k", 10_240),
        ("narrow", "refcount_bits=1", 10_240),
        ("lazy", "lazy_refcounts=on", 10_240),
        ("metadata", "preallocation=metadata", 16),
        ("full", "preallocation=full", 16),
    ] {
        let name = format!("{name}.qcow2");
        bench.qemu_img(&format!("create -q -f qcow2 -o {options} {name} {mib}M"));
        bench.taken(&name, Format::Qcow2, mib * MIB);
    }
    for (name, options) in [("packed", "-c"), ("zstd", "-c -o compression_type=zstd")] {
        bench.qemu_img(&format!("convert -q {options} -O qcow2 disk.raw {name}.qcow2"));
        bench.taken(&format!("{name}.qcow2"), Format::Qcow2, 8 * MIB);
    }
    bench.qemu_img("snapshot -c before v3.qcow2");
    bench.taken("v3.qcow2", Format::Qcow2, 10 * 1024 * MIB);
}

#[test]
fn distributions_call_qcow2_images_img() {
    let bench = Bench::new();
    bench.qemu_img("create -q -f qcow2 cloud.qcow2 1G");

    let image = bench.check_as("cloud.qcow2", "jammy-server-cloudimg-amd64.img").unwrap();

    assert_eq!((image.format, image.virtual_size), (Format::Qcow2, 1024 * MIB));
}

// B02
#[test]
fn a_qcow2_image_with_a_backing_file_is_refused_by_its_name() {
    let bench = Bench::new();
    bench.qemu_img("create -q -f qcow2 base.qcow2 16M");
    bench.qemu_img("create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2");

    bench.refused("top.qcow2", "backing file (base.qcow2): flatten it with `qemu-img convert");
}

// B02
#[test]
fn a_qcow2_image_with_a_data_file_is_refused() {
    let bench = Bench::new();
    bench.qemu_img("create -q -f qcow2 -o data_file=data.raw,data_file_raw=on top.qcow2 16M");

    bench.refused("top.qcow2", "data in another file");
}

#[test]
fn an_encrypted_qcow2_image_is_refused() {
    let bench = Bench::new();
    bench.qemu_img(
        "create -q -f qcow2 --object secret,id=s,data=abc -o \
         encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 secret.qcow2 16M",
    );

    bench.refused("secret.qcow2", "encrypted");
}

#[test]
fn what_was_cut_off_is_refused() {
    let bench = Bench::new();
    bench.disk();
    bench.qemu_img("convert -O qcow2 disk.raw cut.qcow2");
    bench.qemu_img("convert -O vmdk -o subformat=streamOptimized disk.raw cut.vmdk");
    bench.qemu_img("convert -O vmdk disk.raw sparse.vmdk");

    bench.change("cut.qcow2", |bytes| bytes.truncate(200_000));
    bench.change("cut.vmdk", |bytes| bytes.truncate(10_000));
    bench.change("sparse.vmdk", |bytes| bytes.truncate(10_240));

    bench.refused("cut.qcow2", "cut off");
    bench.refused("cut.vmdk", "cut off");
    bench.refused("sparse.vmdk", "cut off");
}

#[test]
fn a_qcow2_image_that_was_not_closed_is_refused() {
    let bench = Bench::new();
    bench.qemu_img("create -q -f qcow2 dirty.qcow2 16M");

    bench.change("dirty.qcow2", |bytes| bytes[79] |= 1);

    bench.refused("dirty.qcow2", "qemu-img check -r all");
}

#[test]
fn a_qcow2_image_of_the_future_is_refused() {
    let bench = Bench::new();
    bench.qemu_img("create -q -f qcow2 new.qcow2 16M");

    bench.change("new.qcow2", |bytes| bytes[78] |= 1);

    bench.refused("new.qcow2", "not known here (bits 0x100)");
}

#[test]
fn a_map_too_small_for_its_disk_is_refused() {
    let bench = Bench::new();
    bench.qemu_img("create -q -f qcow2 tall.qcow2 16M");

    bench.change("tall.qcow2", |bytes| bytes[24..32].copy_from_slice(&(1u64 << 40).to_be_bytes()));

    bench.refused("tall.qcow2", "too small for its disk");
}

#[test]
fn vmdk_images_of_one_file_are_taken() {
    let bench = Bench::new();
    bench.disk();
    for kind in ["monolithicSparse", "streamOptimized"] {
        let name = format!("{kind}.vmdk");
        bench.qemu_img(&format!("convert -O vmdk -o subformat={kind} disk.raw {name}"));
        bench.taken(&name, Format::Vmdk, 8 * MIB);
    }
    bench.qemu_img("create -q -f vmdk large.vmdk 1T");
    bench.taken("large.vmdk", Format::Vmdk, 1024 * 1024 * MIB);
}

// B02
#[test]
fn vmdk_images_of_several_files_are_refused() {
    let bench = Bench::new();
    for (kind, words) in [
        ("monolithicFlat", "only the description"),
        ("twoGbMaxExtentFlat", "only the description"),
        ("twoGbMaxExtentSparse", "only the description"),
    ] {
        bench.qemu_img(&format!("create -q -f vmdk -o subformat={kind} {kind}.vmdk 16M"));
        bench.refused(&format!("{kind}.vmdk"), words);
    }
    bench.refused("twoGbMaxExtentSparse-s001.vmdk", "split into several files");
    refused(bench.check_as("monolithicFlat-flat.vmdk", "x.vmdk"), "does not begin as vmdk does");
}

// B02
#[test]
fn a_vmdk_image_with_a_parent_is_refused() {
    let bench = Bench::new();
    bench.qemu_img("create -q -f vmdk base.vmdk 16M");
    bench.qemu_img("create -q -f vmdk -b base.vmdk -F vmdk top.vmdk");

    bench.refused("top.vmdk", "has a parent");
}

#[test]
fn a_raw_image_that_is_something_else_is_refused() {
    let bench = Bench::new();
    bench.disk();
    bench.qemu_img("create -q -f qcow2 disk.qcow2 16M");

    bench.taken("disk.raw", Format::Raw, 8 * MIB);
    refused(bench.check_as("disk.qcow2", "disk.raw"), "it is a qcow2 image");
    refused(bench.check_as("disk.raw", "disk.qcow2"), "does not begin as qcow2 does");
}

const OVF: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<!-- made for a test -->
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
  <References><File ovf:href="disk one.vmdk" ovf:id="file1" ovf:size="1"/></References>
  <DiskSection><Info>Disks</Info>
    <Disk ovf:capacity="8" ovf:capacityAllocationUnits="byte * 2^20"
      ovf:diskId="vmdisk1" ovf:fileRef="file1"
      ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
    <Disk ovf:capacity="1" ovf:diskId="empty"/>
  </DiskSection>
</Envelope>
"#;

/// The parts of an appliance, not packed yet.
fn appliance() -> Bench {
    let bench = Bench::new();
    bench.disk();
    fs::write(bench.path("x.ovf"), OVF).unwrap();
    bench.qemu_img("convert -O vmdk -o subformat=streamOptimized disk.raw disk.vmdk");
    fs::rename(bench.path("disk.vmdk"), bench.path("disk one.vmdk")).unwrap();
    bench
}

fn packed(bench: &Bench, options: &[&str], files: &[&str]) {
    let done = Command::new("tar")
        .args(options)
        .args(["-cf", "x.ova"])
        .args(files)
        .current_dir(bench.0.path())
        .status()
        .unwrap();
    assert!(done.success());
}

#[test]
fn an_ova_of_any_tar_is_taken_with_the_name_of_its_disk() {
    let bench = appliance();
    for format in ["ustar", "gnu", "pax", "v7"] {
        packed(&bench, &["--format", format], &["x.ovf", "disk one.vmdk"]);

        let verdict = bench.check("x.ova");

        if format == "v7" {
            refused(verdict, "does not begin as ova does");
            continue;
        }
        let disk = Some("disk one.vmdk".to_owned());
        let image = Image { format: Format::Ova, virtual_size: 8 * MIB, disk };
        assert_eq!(verdict.unwrap(), image, "{format}");
    }
}

#[test]
fn an_ova_without_its_end_is_refused() {
    let bench = appliance();
    packed(&bench, &[], &["x.ovf", "disk one.vmdk"]);

    bench.change("x.ova", |bytes| bytes.truncate(bytes.len() / 2));

    bench.refused("x.ova", "cut off");
}

// B02
#[test]
fn hostile_archives_are_refused() {
    let bench = appliance();
    fs::create_dir(bench.path("sub")).unwrap();
    fs::copy(bench.path("x.ovf"), bench.path("y.ovf")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", bench.path("link.vmdk")).unwrap();
    for at in 0..70 {
        fs::write(bench.path(&format!("file{at}")), b"").unwrap();
    }
    let many: Vec<String> = (0..70).map(|at| format!("file{at}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let rename = |to: &'static str| ["--transform", to];
    for (options, files, words) in [
        (&[][..], &["x.ovf", "sub"][..], "folders in it"),
        (&[], &["./x.ovf"], "called ./x.ovf"),
        (&["-P"][..], &["/etc/passwd"][..], "called /etc/passwd"),
        (&rename("s,x.ovf,../x.ovf,"), &["x.ovf"], "names may have no folders"),
        (&[], &["x.ovf", "link.vmdk"], "links in it"),
        (&[], &["x.ovf", "x.ovf", "disk one.vmdk"], "two files called x.ovf"),
        (&[], &["x.ovf", "y.ovf", "disk one.vmdk"], "exactly one .ovf"),
        (&[], &["disk one.vmdk"], "exactly one .ovf"),
        (&[], &["x.ovf"], "no such file in the archive"),
        (&[], &many, "more than 64 files"),
    ] {
        let options = [&["-P", "--hard-dereference"], options].concat();
        packed(&bench, &options, files);
        refused(bench.check("x.ova"), words);
    }
}

#[test]
fn an_appliance_that_is_no_single_plain_disk_is_refused() {
    let bench = appliance();
    for (from, to, words) in [
        ("ovf:size=\"1\"", "ovf:compression=\"gzip\"", "packed once more"),
        ("ovf:size=\"1\"", "ovf:chunkSize=\"99\"", "cut in chunks"),
        ("ovf:diskId=\"empty\"", "ovf:fileRef=\"file1\"", "has 2 disks"),
        ("ovf:fileRef=\"file1\"", "", "has 0 disks"),
        ("ovf:fileRef=\"file1\"", "ovf:fileRef=\"file2\"", "no file for its disk"),
        ("ovf:diskId=\"vmdisk1\"", "ovf:parentRef=\"empty\"", "without snapshots"),
        ("disk one.vmdk", "../disk one.vmdk", "no such file"),
        ("disk one.vmdk", "http://example.com/x.vmdk", "no such file"),
        ("disk one.vmdk", "x.ovf", "ends in .vmdk"),
        ("<!-- made for a test -->", "<!DOCTYPE x [<!ENTITY a \"b\">]>", "document type"),
        ("</DiskSection>", "</Disk>", "can not be read"),
    ] {
        fs::write(bench.path("x.ovf"), OVF.replacen(from, to, 1)).unwrap();
        packed(&bench, &[], &["x.ovf", "disk one.vmdk"]);
        refused(bench.check("x.ova"), words);
    }
}

#[test]
fn the_disk_of_an_appliance_is_checked_too() {
    let bench = appliance();
    for (args, words) in [
        ("create -q -f vmdk -o subformat=monolithicFlat disk.vmdk 1M", "only the description"),
        ("create -q -f qcow2 disk.vmdk 1M", "it is a qcow2 image"),
    ] {
        bench.qemu_img(args);
        fs::rename(bench.path("disk.vmdk"), bench.path("disk one.vmdk")).unwrap();
        packed(&bench, &[], &["x.ovf", "disk one.vmdk"]);

        refused(bench.check("x.ova"), words);
        refused(bench.check("x.ova"), "the disk disk one.vmdk in the archive");
    }
}

#[tokio::test]
async fn an_image_in_the_store_is_looked_at_where_it_is() {
    let bench = appliance();
    packed(&bench, &[], &["x.ovf", "disk one.vmdk"]);
    let store = store(&bench.path("store"));
    let bytes = fs::read(bench.path("x.ova")).unwrap().into();
    let object = crate::stores::upload(&store, &bytes).await.object;

    let image = inspect(&store, &object, "X.OVA").await.unwrap();
    store.delete(&object).await.unwrap();
    let gone = inspect(&store, &object, "X.OVA").await.unwrap_err();

    assert_eq!((image.format, image.virtual_size), (Format::Ova, 8 * MIB));
    assert!(matches!(gone, InspectError::Store(_)), "{gone:?}");
}

fn store(folder: &Path) -> ImageStore {
    ImageStore::open(&format!("file://{}", folder.display())).unwrap()
}
