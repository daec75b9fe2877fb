//! PVE's words for failures, as a real PVE 9.2.11 said them. The number is that of the recording.

use pve_operator::pve::{
    Again, DownloadFailure, PveError, Refusal as R, classify, classify_task, error_text,
    without_url_secrets,
};

use crate::recorded::log_lines;

/// B05
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_recorded_text_has_its_meaning() {
    let texts = [
        (
            87,
            "hostname lookup 'nope' failed - failed to get address info for: nope: Temporary failure in name resolution",
            R::NodeMissing,
        ),
        (
            88,
            "hostname lookup 'no_pe!' failed - failed to get address info for: no_pe!: Name or service not known",
            R::NodeMissing,
        ),
        (
            137,
            "checksum mismatch: got 'c4cc…' != expect '0000…'",
            R::ChecksumMismatch { existing: false },
        ),
        (
            140,
            "qemu-img: Could not open '/var/tmp/pveupload-63c397b0a9527f6583003fe57c76d857': Image is not in qcow2 format",
            R::NotAnImage,
        ),
        (
            147,
            "command 'tar -t -f /var/tmp/pveupload-7258e24e2bb8d831d965cb31f5d392e4' failed: exit code 2",
            R::NotAnImage,
        ),
        (
            150,
            "qemu-img: Could not open '/var/tmp/pveupload-d66e1f1668630089ee61553a78aa98c7': invalid VMDK image descriptor",
            R::NotAnImage,
        ),
        (171, "storage 'nope' does not exist", R::StorageMissing),
        (172, "storage 'local2' does not support 'vztmpl' content", R::ContentNotEnabled),
        (181, "volume_size_info on 'local:import/none.qcow2' failed - no format", R::VolumeMissing),
        (189, "refusing to override existing file '/var/lib/vz/import/dl1.qcow2'", R::FileExists),
        (
            195,
            "checksum mismatch: got 'c4cc…' != expect '0000…', aborting",
            R::ChecksumMismatch { existing: true },
        ),
        (204, "download failed: exit code 8", R::DownloadFailed(DownloadFailure::Exit(8))),
        (
            213,
            "download failed: Connecting to 127.0.0.1:1... failed: Connection refused.",
            R::DownloadFailed(DownloadFailure::ConnectionRefused),
        ),
        (
            216,
            "download failed: wget: unable to resolve host address 'nope.invalid'",
            R::DownloadFailed(DownloadFailure::Unresolved),
        ),
        (
            219,
            "failed to verify file: qemu-img: Could not open '/var/lib/vz/import/dl7.qcow2.tmp_dwnl.23495': Image is not in qcow2 format",
            R::NotAnImage,
        ),
        (236, "storage 'local2' is not configured for content-type 'vztmpl'", R::ContentNotEnabled),
        (247, "download failed: received interrupt", R::Interrupted),
        (271, "unable to create VM 100 - VM 100 already exists on node 'pve1'", R::VmidTaken),
        (
            280,
            "unable to create VM 150 - failed to stat '/var/lib/vz/import/none.qcow2'",
            R::VolumeMissing,
        ),
        (
            282,
            "Only root can pass arbitrary filesystem paths. at /usr/share/perl5/PVE/Storage.pm line 651.",
            R::Other,
        ),
        (
            286,
            "unable to create VM 150 - volume 'local:iso/nope.iso' does not exist",
            R::VolumeMissing,
        ),
        (289, "Permission check failed (pool 'nope' does not exist)", R::PoolMissing),
        (316, "checksum mismatch (file change by other user?)", R::ConfigChanged),
        (324, "you can't convert a template to a template", R::AlreadyTemplate),
        (337, "unable to create VM 200: config file already exists", R::VmidTaken),
        (338, "unable to find configuration file for VM 999 on node 'pve1'", R::GuestMissing),
        (339, "parameter 'storage' not allowed for linked clones", R::NoLinkedClone),
        (341, "no such cluster node 'nope'", R::NodeMissing),
        (
            350,
            "Linked clone feature is not supported for 'local2:101/vm-101-disk-0.raw' (virtio0)",
            R::NoLinkedClone,
        ),
        (
            356,
            "base volume 'local:100/base-100-disk-0.qcow2' is still in use by linked cloned",
            R::BaseInUse,
        ),
        (
            358,
            "Configuration file 'nodes/pve1/qemu-server/999.conf' does not exist",
            R::GuestMissing,
        ),
        (
            374,
            "org.freedesktop.DBus.Error.FileNotFound: Failed to connect to socket /run/dbus/system_bus_socket: No such file or directory",
            R::Other,
        ),
        (383, "you can't start a vm if it's a template", R::Other),
        (392, "VM is locked (clone)", R::Locked { lock: "clone".into() }),
        (394, "can't lock file '/var/lock/qemu-server/lock-210.conf' - got timeout", R::Timeout),
        (
            402,
            "qemu-img: Could not open '/var/lib/vz/images/210/vm-210-disk-0.qcow2': Failed to get shared \"write\" lock\nIs another process using the image [/var/lib/vz/images/210/vm-210-disk-0.qcow2]?",
            R::WriteLock,
        ),
        (
            404,
            "clone failed: copy failed: command '/usr/bin/qemu-img convert -p -n -r 8000K -f qcow2 -O qcow2 /var/lib/vz/images/100/base-100-disk-0.qcow2 zeroinit:/var/lib/vz/images/210/vm-210-disk-0.qcow2' failed: interrupted by signal",
            R::Interrupted,
        ),
        (
            451,
            "base volume '100/base-100-disk-0.qcow2' is still in use by linked clones",
            R::BaseInUse,
        ),
        (455, "snapshot feature is not available", R::Other),
        (
            458,
            "command '/usr/bin/qemu-img snapshot -c s1 /var/lib/vz/images/200/vm-200-disk-0.qcow2' failed: exit code 1",
            R::Other,
        ),
        (
            461,
            "file_size_info on '100/base-100-disk-0.qcow2/200/vm-200-disk-0.qcow2' failed",
            R::VolumeMissing,
        ),
        (
            467,
            "create storage failed: unable to activate storage 'inact' - directory is expected to be a mount point but is not mounted: '/mnt/none'",
            R::StorageOffline,
        ),
        (468, "create storage failed: storage 'nfsx' is not online", R::StorageOffline),
        (470, "storage 'inact' does not exist", R::StorageMissing),
        (478, "storage 'local2' is not available on node 'pve1'", R::StorageMissing),
        (538, "can't clone VM to node 'pve1' (VM uses local storage)", R::NotShared),
        (539, "can't clone to non-shared storage 'local'", R::NotShared),
        (585, "cluster not ready - no quorum?", R::NoQuorum),
        (
            586,
            "unable to open file '/etc/pve/nodes/pve3/qemu-server/311.conf.tmp.1452' - Permission denied",
            R::ConfigPermissionDenied,
        ),
        (598, "VM 202 already running", R::AlreadyRunning),
        (600, "VM 202 is running - destroy failed", R::GuestRunning),
        (601, "you can't convert a VM to template if VM is running", R::GuestRunning),
        (609, "clone failed: drive-scsi0: throttle node without file child node name!", R::Other),
        (
            639,
            "VM 205 qmp command 'query-savevm' failed - The command query-savevm has not been found",
            R::Other,
        ),
        (641, "VM is locked (snapshot)", R::Locked { lock: "snapshot".into() }),
        (650, "bridge 'vmbr99' does not exist", R::BridgeMissing),
        (
            671,
            "import failed: cp: error writing '/mnt/tiny/import/t.qcow2': No space left on device",
            R::NoSpace,
        ),
        (
            674,
            "download failed: Cannot write to '/mnt/tiny/import/t.qcow2.tmp_dwnl.14505' (No space left on device).",
            R::NoSpace,
        ),
        (
            677,
            "unable to create VM 250 - cannot import from 'local:import/x.qcow2' - copy failed: command '/usr/bin/qemu-img convert -p -n -f qcow2 -O qcow2 /var/lib/vz/import/x.qcow2 zeroinit:/mnt/tiny/images/250/vm-250-disk-0.qcow2' failed: exit code 1",
            R::Other,
        ),
        (
            682,
            "clone failed: copy failed: command '/usr/bin/qemu-img convert -p -n -f qcow2 -O qcow2 /var/lib/vz/images/100/base-100-disk-0.qcow2 zeroinit:/mnt/tiny/images/251/vm-251-disk-0.qcow2' failed: exit code 1",
            R::Other,
        ),
        (972, "unexpected status", R::Killed),
        (
            985,
            "qemu-img: Could not open '/var/lib/vz/images/320/vm-320-disk-0.qcow2': Failed to get shared \"write\" lock Is another process using the image [/var/lib/vz/images/320/vm-320-disk-0.qcow2]?",
            R::WriteLock,
        ),
        (
            1140,
            "cannot import from 'local2:import/kill.qcow2' - copy failed: command '/usr/bin/qemu-img convert -p -n -r 40960K -f qcow2 -O qcow2 /var/lib/vz2/import/kill.qcow2 zeroinit:/var/lib/vz/images/322/vm-322-disk-0.qcow2' failed: got signal 9",
            R::Killed,
        ),
        (
            1155,
            "cannot import from 'local2:import/kill.qcow2' - copy failed: command '/usr/bin/qemu-img convert -p -n -r 40960K -f qcow2 -O qcow2 /var/lib/vz2/import/kill.qcow2 zeroinit:/var/lib/vz/images/322/vm-322-disk-0.qcow2' failed: received interrupt",
            R::Interrupted,
        ),
        (1194, "VM is locked (create)", R::Locked { lock: "create".into() }),
        (
            1203,
            "unable to create VM 324 - cannot import from 'local2:import/kill.qcow2' - copy failed: command '/usr/bin/qemu-img convert -p -n -r 40960K -f qcow2 -O qcow2 /var/lib/vz2/import/kill.qcow2 zeroinit:/var/lib/vz/images/324/vm-324-disk-0.qcow2' failed: received interrupt",
            R::Interrupted,
        ),
        (
            1341,
            "invalid server response: '403 Forbidden'",
            R::DownloadFailed(DownloadFailure::Status(403)),
        ),
        (
            1342,
            "invalid server response: '503 Service Unavailable'",
            R::DownloadFailed(DownloadFailure::Status(503)),
        ),
        (
            1343,
            "invalid server response: '500 Can't connect to 127.0.0.1:9 (Connection refused)'",
            R::DownloadFailed(DownloadFailure::ConnectionRefused),
        ),
        (
            1352,
            "checksum mismatch: got '1011…' != expect '1011…'",
            R::ChecksumMismatch { existing: false },
        ),
        (
            1356,
            "checksum mismatch: got '1011…' != expect '1011…', aborting",
            R::ChecksumMismatch { existing: true },
        ),
        (
            1384,
            "unable to parse directory volume name 'import/d-kill.qcow2.tmp_dwnl.11242'",
            R::Other,
        ),
        (1468, "migration aborted", R::Other),
        (
            1528,
            "unable to create VM 511 - close (rename) atomic file '/etc/pve/nodes/pve2/qemu-server/511.conf' failed: File exists",
            R::VmidTaken,
        ),
        (1533, "VM 510 already exists", R::VmidTaken),
        (1541, "unable to get any free VMID in range [9000, 9002]", R::NoFreeVmid),
        (
            1647,
            "checksum mismatch: got '537f…' != expect '1011…'",
            R::ChecksumMismatch { existing: false },
        ),
        (
            1888,
            "base volume 'local:800/base-800-disk-0.qcow2/802/base-802-disk-0.qcow2' is still in use by linked cloned",
            R::BaseInUse,
        ),
        (
            1959,
            "invalid server response: '500 Can't connect to 127.0.0.1:8006 (certificate verify failed)'",
            R::DownloadFailed(DownloadFailure::Certificate),
        ),
        (
            1960,
            "invalid server response: '501 method 'HEAD' not available'",
            R::DownloadFailed(DownloadFailure::Status(501)),
        ),
        (
            1962,
            "download failed: ERROR: The certificate of '127.0.0.1' doesn't have a known issuer.",
            R::DownloadFailed(DownloadFailure::Certificate),
        ),
        (
            2015,
            "clone failed: unable to open file '/etc/pve/nodes/pve3/qemu-server/901.conf.tmp.26709' - Permission denied",
            R::ConfigPermissionDenied,
        ),
        (
            2017,
            "unable to create VM 902 - unable to open file '/etc/pve/nodes/pve3/qemu-server/902.conf.tmp.26718' - Permission denied",
            R::ConfigPermissionDenied,
        ),
        (2078, "failed to stat '/var/lib/vz2/import/nope.qcow2'", R::VolumeMissing),
    ];
    for (number, text, meaning) in texts {
        assert_eq!(classify(text), meaning, "{number}: {text}");
        assert!(!meaning.advice().is_empty());
    }
}

/// B18: inside a task too, and whatever is checked.
#[test]
fn a_missing_privilege_is_named() {
    for (number, text, path, privileges) in [
        (102, "Permission check failed (/, Sys.Audit)\n", "/", &["Sys.Audit"][..]),
        (
            296,
            "Permission check failed (/sdn/zones/localnetwork/vmbr0, SDN.Use)",
            "/sdn/zones/localnetwork/vmbr0",
            &["SDN.Use"],
        ),
        (
            1510,
            "unable to create VM 505 - 403 Permission check failed (/vms/505, VM.Config.Options)",
            "/vms/505",
            &["VM.Config.Options"],
        ),
        (
            1912,
            "Permission check failed (/storage/local2, Datastore.AllocateSpace|Datastore.Audit)",
            "/storage/local2",
            &["Datastore.AllocateSpace", "Datastore.Audit"],
        ),
    ] {
        let R::Permission { path: found, privileges: all } = classify(text) else {
            panic!("{number}: {:?}", classify(text));
        };
        assert_eq!(
            (found.as_deref(), &all[..]),
            (Some(path), &privileges.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>()[..])
        );
    }
    let unnamed = classify("Permission check failed");
    assert_eq!(unnamed, R::Permission { path: None, privileges: vec![] });
    assert_eq!(unnamed.again(), Again::Never);
}

/// Texts of storages that the recordings have none of, from pve-storage and the tools it calls.
#[test]
fn a_full_storage_of_another_type_is_full() {
    for text in [
        "lvcreate 'pve/vm-100-disk-0' error:   Cannot create new thin volume, free space in thin pool pve/data reached threshold.",
        "lvcreate 'vg/vm-100-disk-0' error:   Volume group \"vg\" has insufficient free space (10 extents): 256 required.",
        "not enough free space (10737418240 < 21474836480)",
        "zfs error: cannot create 'rpool/data/vm-100-disk-0': out of space",
        "copy failed: command 'qemu-img convert' failed: Disk quota exceeded",
    ] {
        assert_eq!(classify(text), R::NoSpace, "{text}");
    }
}

/// B05, B20: wget's answer and qemu-img's reason stand in the log only.
#[test]
fn the_log_says_what_the_exit_status_does_not() {
    let meaning = |name: &str, status: &str| classify_task(status, &log_lines(name));

    let failed = R::DownloadFailed(DownloadFailure::Status(503));
    assert_eq!(meaning("1331_d_http503_task_log.json", "download failed: exit code 8"), failed);
    let status = error_text(&log_lines("1331_d_http503_task_log.json")).unwrap();
    assert!(status.starts_with("download failed: exit code 8: "), "{status}");
    assert!(status.ends_with(" ERROR 503: Service Unavailable."), "{status}");

    let full = log_lines("678_tiny_import_too_big_task_log.json");
    let error = error_text(&full).unwrap();
    assert!(error.contains("cannot import from 'local:import/x.qcow2'"), "{error}");
    assert!(error.ends_with("error while writing at byte 39845888: No space left on device"));
    assert_eq!(classify_task(error.split(": qemu-img: ").next().unwrap(), &full), R::NoSpace);
    assert_eq!(classify(&error), R::NoSpace);

    let log = log_lines("1963_x_tls_selfsigned_task_log.json");
    assert_eq!(
        classify(&error_text(&log).unwrap()),
        R::DownloadFailed(DownloadFailure::Certificate)
    );
    assert_eq!(error_text(&log_lines("777_glocal_download_final_log.json")), None);
    assert_eq!(
        classify_task("download failed: exit code 4", &[""; 0]),
        R::DownloadFailed(DownloadFailure::Exit(4))
    );
}

#[test]
fn a_url_in_a_text_loses_whatever_could_be_secret() {
    for (text, shown) in [
        (
            "downloading http://127.0.0.1:8898/x?t=s3cret to /var/x",
            "downloading http://127.0.0.1:8898/… to /var/x",
        ),
        ("--2026--  https://user:s3cret@host/s3cret", "--2026--  https://host/…"),
        ("'http://host?s3cret' and https://a@b/s3cret#s3cret.", "'http://host/…' and https://b/…"),
        ("ftp://s3cret@", "ftp://"),
        ("no URL: a//b ://", "no URL: a//b ://"),
    ] {
        assert_eq!(without_url_secrets(text), shown);
    }
    let error = error_text(&["TASK ERROR: http://u:s3cret@h/s3cret is bad"]).unwrap();
    assert_eq!(error, "http://h/… is bad");
    let real = log_lines("1319_d_userinfo_task_log.json")
        .iter()
        .map(|it| without_url_secrets(it))
        .collect::<Vec<_>>();
    assert!(!real.join("\n").contains("s3cret"), "{real:?}");
}

#[test]
fn a_refused_request_means_what_its_parameters_and_privileges_say() {
    let refused = |status, message: &str, errors: &[(&str, &str)]| PveError::Refused {
        request: "POST /x".to_owned(),
        status,
        message: message.to_owned(),
        errors: errors
            .iter()
            .map(|(name, words)| ((*name).to_owned(), (*words).to_owned()))
            .collect(),
    };

    let taken =
        refused(400, "Parameter verification failed.", &[("vmid", "VM 510 already exists")]);
    assert_eq!(R::of(&taken), Some(R::VmidTaken));
    let quorum = refused(500, "cluster not ready - no quorum?", &[]);
    assert_eq!(R::of(&quorum), Some(R::NoQuorum));
    assert_eq!(R::of(&refused(595, "No route to host", &[])), None, "that is the way, not PVE");
    let forbidden = PveError::Forbidden {
        request: "POST /x".to_owned(),
        message: "Permission check failed (pool 'nope' does not exist)".to_owned(),
        path: None,
        privileges: vec![],
    };
    assert_eq!(R::of(&forbidden), Some(R::PoolMissing));
}
