//! Workers that die, nodes without quorum, answers that are lost: what stays behind.

use std::time::Duration;

use pve_sim::{Config, FaultKind, FaultRule, File, Guest, Health, Sim};
use serde_json::json;

use crate::images::{Images, Manner, qcow2, sha512};
use crate::templates::{GIB, IMPORT, done, download, empty, ended, log, refused, task_path, upid};
use crate::{call, data, wait_until};

const DIR: &[(&str, &str)] = &[("scsi0", "dir:0,import-from=local:import/a.qcow2")];
const EVERYTHING: &str = "?purge=1&destroy-unreferenced-disks=1";

/// A cluster with an image on every node, a storage of folders, and an empty machine 300.
fn with_shell() -> Sim {
    let config = Config::quick().guests(0);
    let sim = Sim::start(config).unwrap();
    sim.put_storage(pve_sim::Storage::new("dir", "dir", &["images"]));
    for node in ["pve1", "pve2", "pve3"] {
        sim.put_file(File::new("local", Some(node), "a.qcow2", &qcow2(1000, GIB)));
    }
    done(&sim, "POST", "/nodes/pve1/qemu", &[("vmid", "300"), ("description", "marker")]);
    sim
}

fn begin(sim: &Sim, method: &str, path: &str, form: &[(&str, &str)]) -> String {
    upid(&call(sim, "pve1", method, path, form).unwrap())
}

/// Does it; returns how the task ended.
fn end_of(sim: &Sim, method: &str, path: &str, form: &[(&str, &str)]) -> String {
    let upid = begin(sim, method, path, form);
    ended(sim, &upid)
}

#[test]
fn a_killed_import_leaves_a_disk_that_its_child_goes_on_writing() {
    let sim = with_shell();
    sim.kill_next_task("qmconfig", Duration::from_hours(1));

    let killed = begin(&sim, "POST", "/nodes/pve1/qemu/300/config", DIR);

    assert_eq!(ended(&sim, &killed), "unexpected status");
    let config = data(&sim, "/nodes/pve1/qemu/300/config");
    assert_eq!((&config["description"], &config["lock"]), (&json!("marker"), &json!(null)));
    assert_eq!(config["scsi0"], json!(null));
    let path = "/nodes/pve1/storage/dir/content?content=images&vmid=300";
    let (status, reason) = refused(&sim, "GET", path, &[]);
    assert_eq!(status, 500);
    assert_eq!(
        reason,
        "qemu-img: Could not open '/mnt/pve/dir/images/300/vm-300-disk-0.qcow2': Failed to get \
         shared \"write\" lock"
    );
    let delete = format!("/nodes/pve1/qemu/300{EVERYTHING}");
    let end = end_of(&sim, "DELETE", &delete, &[]);
    assert!(end.contains("Failed to get shared \"write\" lock Is another process"), "{end}");
    assert!(sim.guest(300).is_some());

    sim.skip(Duration::from_hours(1));
    assert_eq!(sim.leftovers().len(), 1, "{:?}", sim.leftovers());
    assert_eq!(data(&sim, path)[0]["volid"], "dir:300/vm-300-disk-0.qcow2");
    // Another import takes another disk; the flag collects both.
    done(&sim, "POST", "/nodes/pve1/qemu/300/config", DIR);
    let config = data(&sim, "/nodes/pve1/qemu/300/config");
    assert_eq!(config["scsi0"], "dir:300/vm-300-disk-1.qcow2,size=1G");
    done(&sim, "DELETE", &delete, &[]);
    assert_eq!((sim.guests(), sim.volumes()), (vec![], vec![]));
}

#[test]
fn a_killed_create_leaves_a_lock_that_no_token_can_take_away() {
    let sim = empty();
    sim.kill_next_task("qmcreate", Duration::ZERO);

    let end = end_of(&sim, "POST", "/nodes/pve1/qemu", &[("vmid", "300"), ("name", "a")]);

    assert_eq!(end, "unexpected status");
    let config = data(&sim, "/nodes/pve1/qemu/300/config");
    assert_eq!(config.as_object().unwrap().keys().collect::<Vec<_>>(), ["digest", "lock"]);
    let path = format!("/nodes/pve1/qemu/300{EVERYTHING}");
    assert_eq!(end_of(&sim, "DELETE", &path, &[]), "VM is locked (create)");
    let again = refused(&sim, "POST", "/nodes/pve1/qemu", &[("vmid", "300")]);
    let text = "unable to create VM 300 - VM 300 already exists on node 'pve1'";
    assert_eq!(again, (500, text.to_owned()));
    let skip = refused(&sim, "DELETE", "/nodes/pve1/qemu/300?skiplock=1", &[]);
    assert_eq!(skip, (400, "Parameter verification failed.".to_owned()));
    assert_eq!(sim.leftovers(), ["guest 300 locked (create)"]);
}

#[test]
fn a_stopped_import_gives_its_disk_back() {
    let sim = with_shell();
    sim.hang_next_task("qmconfig");
    let upid = begin(&sim, "POST", "/nodes/pve1/qemu/300/config", IMPORT);
    wait_until(|| !sim.volumes().is_empty());

    // Somebody else cannot have the machine meanwhile.
    let put = refused(&sim, "PUT", "/nodes/pve1/qemu/300/config", &[("cores", "2")]);
    let text = "can't lock file '/var/lock/qemu-server/lock-300.conf' - got timeout";
    assert_eq!(put, (500, text.to_owned()));
    let other = begin(&sim, "POST", "/nodes/pve1/qemu/300/config", &[("cores", "2")]);
    assert_eq!(ended(&sim, &other), text);
    assert_eq!(log(&sim, &other)[0], "trying to acquire lock...");
    call(&sim, "pve1", "DELETE", &task_path(&upid), &[]).unwrap();

    let end = ended(&sim, &upid);
    assert!(end.starts_with("cannot import from 'local:import/a.qcow2' - copy failed: "), "{end}");
    assert!(end.ends_with("failed: received interrupt"), "{end}");
    assert_eq!(sim.volumes(), []);
    assert_eq!(sim.guest(300).unwrap().lock, None);
}

#[test]
fn a_planned_end_comes_word_for_word_and_only_once() {
    let sim = with_shell();
    let path = "/nodes/pve1/qemu/300/config";
    sim.fail_next_task("qmconfig", "it was not to be");

    assert_eq!(end_of(&sim, "POST", path, DIR), "it was not to be");
    assert_eq!(sim.volumes(), []);
    sim.warn_next_task("qmconfig", 2);
    assert_eq!(end_of(&sim, "POST", path, DIR), "WARNINGS: 2");
    assert!(sim.guest(300).unwrap().config.contains_key("scsi0"));
    assert_eq!(sim.plans_left(), 0);
    assert_eq!(end_of(&sim, "POST", path, &[("cores", "4")]), "OK");
}

#[test]
fn without_quorum_changes_fail_half_way_and_a_delete_destroys_the_disks() {
    let sim = with_shell();
    sim.add_guest(Guest::qemu(301, "pve1"));
    sim.add_guest(Guest::qemu(302, "pve1"));
    let before = sim.volumes().len();
    sim.set_quorum(false);
    let denied = |vmid: u32| format!("unable to open file '/etc/pve/nodes/pve1/qemu-server/{vmid}");

    let create = refused(&sim, "POST", "/nodes/pve1/qemu", &[("vmid", "310")]);
    assert_eq!(create, (500, "cluster not ready - no quorum?".to_owned()));
    let clone = refused(&sim, "POST", "/nodes/pve1/qemu/301/clone", &[("newid", "310")]);
    assert_eq!(clone, (500, "cluster not ready - no quorum?".to_owned()));
    let (status, reason) =
        refused(&sim, "PUT", "/nodes/pve1/qemu/300/config", &[("description", "x")]);
    assert!(status == 500 && reason.starts_with(&denied(300)), "{reason}");
    assert!(reason.ends_with("- Permission denied"), "{reason}");
    let end = end_of(&sim, "POST", "/nodes/pve1/qemu/300/config", DIR);
    assert!(end.starts_with(&denied(300)), "{end}");
    assert_eq!(sim.volumes().len(), before + 1, "the copy stays");
    let end = end_of(&sim, "POST", "/nodes/pve1/qemu/301/template", &[]);
    assert!(end.starts_with(&denied(301)), "{end}");
    assert!(!sim.guest(301).unwrap().template);
    let path = format!("/nodes/pve1/qemu/302{EVERYTHING}");
    let end = end_of(&sim, "DELETE", &path, &[]);
    assert!(end.starts_with(&denied(302)), "{end}");
    assert_eq!(sim.volumes_of(302), []);
    assert!(sim.guest(302).unwrap().config.contains_key("scsi0"));
    let image = qcow2(1000, GIB);
    let images = Images::serve(image.clone(), Manner::Good);
    let fetched = download(&sim, "pve1", &images, "b.qcow2", &sha512(&image));
    assert_eq!(ended(&sim, &fetched), "OK");

    sim.set_quorum(true);
    done(&sim, "DELETE", &path, &[]);
    assert!(sim.guest(302).is_none());
}

#[test]
fn a_create_that_loses_the_quorum_gives_its_disks_back_and_leaves_its_lock() {
    let sim = with_shell();
    sim.hang_next_task("qmcreate");
    let upid = begin(&sim, "POST", "/nodes/pve1/qemu", &[("vmid", "301"), DIR[0]]);
    wait_until(|| !sim.volumes().is_empty());

    sim.set_quorum(false);
    call(&sim, "pve1", "DELETE", &task_path(&upid), &[]).unwrap();

    let end = ended(&sim, &upid);
    assert!(end.starts_with("unable to create VM 301 - cannot import from"), "{end}");
    let told = "failed to remove config file: Permission denied".to_owned();
    assert!(log(&sim, &upid).contains(&told));
    assert_eq!(sim.volumes(), []);
    assert_eq!(sim.leftovers(), ["guest 301 locked (create)"]);
}

#[test]
fn each_machine_has_its_own_disk_for_cloud_init() {
    let sim = with_shell();
    let form = [("ide2", "dir:cloudinit"), ("ciuser", "admin"), ("cipassword", "x"), DIR[0]];
    done(&sim, "POST", "/nodes/pve1/qemu/300/config", &form);
    done(&sim, "POST", "/nodes/pve1/qemu/300/template", &[]);
    done(&sim, "POST", "/nodes/pve1/qemu/300/clone", &[("newid", "301")]);

    let config = data(&sim, "/nodes/pve1/qemu/301/config");
    assert_eq!(config["ide2"], "dir:301/vm-301-cloudinit.qcow2,media=cdrom");
    assert_eq!(config["cipassword"], "**********");
    done(&sim, "DELETE", "/nodes/pve1/qemu/301?purge=1", &[]);
    assert_eq!(sim.volumes_of(300).len(), 2);
    assert_eq!(sim.leftovers(), Vec::<String>::new());
}

#[test]
fn a_machine_that_names_a_strangers_disk_does_not_destroy_it() {
    let sim = with_shell();
    done(&sim, "POST", "/nodes/pve1/qemu/300/config", DIR);
    let disk = sim.guest(300).unwrap().config["scsi0"].clone();
    done(&sim, "POST", "/nodes/pve1/qemu", &[("vmid", "301")]);
    sim.change_guest(301, |guest| {
        guest.config.insert("scsi1".to_owned(), disk);
    });

    done(&sim, "DELETE", &format!("/nodes/pve1/qemu/301{EVERYTHING}"), &[]);

    assert_eq!(sim.volumes_of(300).len(), 1);
}

#[test]
fn a_node_that_loses_its_power_takes_its_workers_along() {
    let sim = with_shell();
    sim.hang_next_task("qmconfig");
    let upid = begin(&sim, "POST", "/nodes/pve1/qemu/300/config", DIR);
    wait_until(|| !sim.volumes().is_empty());

    sim.set_health("pve1", Health::Off);
    assert_eq!(sim.running_tasks(), Vec::<String>::new());
    sim.node_up("pve1");

    assert_eq!(ended(&sim, &upid), "unexpected status");
    assert_eq!(sim.leftovers().len(), 1);
}

#[test]
fn a_596_says_nothing_about_the_work_which_begins_later() {
    let sim = empty();
    let late = FaultKind::Late { ms: 0, after_ms: 50 };
    sim.fault(FaultRule::new("/nodes/pve1/qemu", late).method("POST").times(1));

    let lost = refused(&sim, "POST", "/nodes/pve1/qemu", &[("vmid", "300"), ("name", "late")]);

    assert_eq!(lost, (596, "Connection timed out".to_owned()));
    wait_until(|| sim.guest(300).is_some_and(|guest| guest.name == "late"));
}

#[test]
fn the_loser_of_a_number_learns_it_in_one_of_two_ways() {
    let sim = empty();
    sim.hang_next_task("qmcreate");
    begin(&sim, "POST", "/nodes/pve1/qemu", &[("vmid", "300")]);
    let text =
        |node: &str| refused(&sim, "POST", &format!("/nodes/{node}/qemu"), &[("vmid", "300")]).1;

    assert_eq!(text("pve1"), "unable to create VM 300 - VM 300 already exists on node 'pve1'");
    assert_eq!(
        text("pve2"),
        "unable to create VM 300 - close (rename) atomic file \
         '/etc/pve/nodes/pve2/qemu-server/300.conf' failed: File exists"
    );
    let taken = refused(&sim, "GET", "/cluster/nextid?vmid=300", &[]);
    assert_eq!(taken.0, 400);
}

#[test]
fn a_base_with_linked_clones_is_not_deleted_where_the_storage_knows_of_them() {
    let sim = with_shell();
    done(&sim, "POST", "/nodes/pve1/qemu/300/config", DIR);
    done(&sim, "POST", "/nodes/pve1/qemu/300/template", &[]);
    done(&sim, "POST", "/nodes/pve1/qemu/300/clone", &[("newid", "301")]);
    let linked = data(&sim, "/nodes/pve1/qemu/301/config");
    let volid = "dir:300/base-300-disk-0.qcow2/301/vm-301-disk-0.qcow2";
    assert_eq!(linked["scsi0"], format!("{volid},size=1G"));

    let base = format!("/nodes/pve1/qemu/300{EVERYTHING}");
    let end = end_of(&sim, "DELETE", &base, &[]);
    let text = "base volume 'dir:300/base-300-disk-0.qcow2' is still in use by linked cloned";
    assert_eq!(end, text);
    let path = "/nodes/pve1/storage/dir/content/dir%3A300%2Fbase-300-disk-0.qcow2";
    let end = end_of(&sim, "DELETE", path, &[]);
    assert_eq!(end, "base volume '300/base-300-disk-0.qcow2' is still in use by linked clones");
    assert_eq!(sim.volumes().len(), 2);
    let away = [("newid", "302"), ("target", "pve2")];
    let text = "can't clone VM to node 'pve2' (VM uses local storage)".to_owned();
    assert_eq!(refused(&sim, "POST", "/nodes/pve1/qemu/300/clone", &away), (500, text));

    done(&sim, "DELETE", &format!("/nodes/pve1/qemu/301{EVERYTHING}"), &[]);
    done(&sim, "DELETE", &base, &[]);
    assert_eq!(sim.volumes(), []);
}

#[test]
fn a_clone_that_fails_gives_its_disks_back_and_keeps_its_lock_without_quorum() {
    let sim = with_shell();
    done(&sim, "POST", "/nodes/pve1/qemu/300/config", DIR);
    done(&sim, "POST", "/nodes/pve1/qemu/300/template", &[]);
    let clone = "/nodes/pve1/qemu/300/clone";

    sim.fail_next_task("qmclone", "no luck");
    assert_eq!(end_of(&sim, "POST", clone, &[("newid", "301")]), "no luck");
    assert_eq!((sim.guests().len(), sim.volumes().len()), (1, 1));
    sim.hang_next_task("qmclone");
    let upid = begin(&sim, "POST", clone, &[("newid", "301")]);
    wait_until(|| sim.volumes().len() == 2);
    assert_eq!(data(&sim, "/nodes/pve1/qemu/301/config")["description"], " qmclone temporary file");
    sim.set_quorum(false);
    call(&sim, "pve1", "DELETE", &task_path(&upid), &[]).unwrap();

    assert_eq!(ended(&sim, &upid), "clone failed: received interrupt");
    assert_eq!(sim.volumes().len(), 1);
    assert_eq!(sim.leftovers(), ["guest 301 locked (clone)"]);
}

#[test]
fn shared_templates_are_cloned_to_other_nodes() {
    let sim = with_shell();
    let import = [("scsi0", "nfs-shared:0,import-from=local:import/a.qcow2")];
    done(&sim, "POST", "/nodes/pve1/qemu/300/config", &import);
    done(&sim, "POST", "/nodes/pve1/qemu/300/template", &[]);

    let upid = done(
        &sim,
        "POST",
        "/nodes/pve1/qemu/300/clone",
        &[("newid", "301"), ("target", "pve2"), ("name", "away")],
    );

    assert!(upid.starts_with("UPID:pve1:") && upid.contains(":qmclone:300:"), "{upid}");
    let config = data(&sim, "/nodes/pve2/qemu/301/config");
    assert_eq!(config["name"], "away");
    assert_eq!(sim.leftovers(), Vec::<String>::new());
}

#[test]
fn a_second_import_leaves_the_first_disk_unused_and_a_template_may_lack_a_disk() {
    let sim = with_shell();
    done(&sim, "POST", "/nodes/pve1/qemu/300/config", DIR);
    done(&sim, "POST", "/nodes/pve1/qemu/300/config", DIR);
    done(&sim, "POST", "/nodes/pve1/qemu/300/template", &[]);

    let config = data(&sim, "/nodes/pve1/qemu/300/config");
    assert_eq!(config["unused0"], "dir:300/vm-300-disk-0.qcow2");
    assert_eq!(config["scsi0"], "dir:300/base-300-disk-1.qcow2,size=1G");
    let again = refused(&sim, "POST", "/nodes/pve1/qemu/300/template", &[]);
    assert_eq!(again, (500, "you can't convert a template to a template".to_owned()));
    // Nothing protects a template's configuration.
    let put = refused(&sim, "PUT", "/nodes/pve1/qemu/300/config", &[("delete", "scsi0")]);
    assert_eq!(put.0, 200);
    assert_eq!(data(&sim, "/nodes/pve1/qemu/300/config")["boot"], " ");
    done(&sim, "POST", "/nodes/pve1/qemu/300/clone", &[("newid", "301")]);
    assert_eq!(data(&sim, "/nodes/pve1/qemu/301/config")["scsi0"], json!(null));
}

#[test]
fn a_template_that_was_made_without_the_endpoint_has_no_base() {
    let sim = with_shell();
    let form = [("vmid", "310"), ("template", "1"), DIR[0]];
    done(&sim, "POST", "/nodes/pve1/qemu", &form);

    let linked = refused(&sim, "POST", "/nodes/pve1/qemu/310/clone", &[("newid", "311")]);

    let text = "Linked clone feature is not supported for 'dir:310/vm-310-disk-0.qcow2' (scsi0)";
    assert_eq!(linked, (500, text.to_owned()));
    done(&sim, "POST", "/nodes/pve1/qemu/310/template", &[("disk", "scsi0")]);
    done(&sim, "POST", "/nodes/pve1/qemu/310/clone", &[("newid", "311")]);
}

#[test]
fn a_full_storage_ends_a_copy_in_the_words_of_qemu_img() {
    let sim = with_shell();
    sim.set_free_space("pve1", "dir", 100);

    let failed = begin(&sim, "POST", "/nodes/pve1/qemu/300/config", DIR);

    let end = ended(&sim, &failed);
    assert!(end.ends_with("failed: exit code 1"), "{end}");
    assert!(log(&sim, &failed).iter().any(|line| line.ends_with("No space left on device")));
    assert_eq!(sim.volumes(), []);
}

#[test]
fn what_is_not_there_or_not_allowed_is_not_imported() {
    let sim = with_shell();
    let import =
        |value: &str| refused(&sim, "POST", "/nodes/pve1/qemu/300/config", &[("scsi0", value)]).1;

    let end = end_of(
        &sim,
        "POST",
        "/nodes/pve1/qemu/300/config",
        &[("scsi0", "dir:0,import-from=local:import/none.qcow2")],
    );
    assert_eq!(end, "failed to stat '/var/lib/vz/import/none.qcow2'");
    assert_eq!(
        import("dir:0,import-from=/tmp/a.qcow2"),
        "Only root can pass arbitrary filesystem paths. at /usr/share/perl5/PVE/Storage.pm line \
         651."
    );
    assert_eq!(import("dir:1,import-from=local:import/a.qcow2"), "Parameter verification failed.");
    assert_eq!(import("nope:0,import-from=local:import/a.qcow2"), "storage 'nope' does not exist");
    sim.set_content("local", &["iso"]);
    assert!(import(DIR[0].1).contains("does not support"));
    assert_eq!(data(&sim, "/nodes/pve1/storage/local/content?content=import"), json!([]));
}
