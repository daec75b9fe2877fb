//! What a token with rights on one pool and two storages can do, and what it cannot see.

use pve_sim::{Config, File, Sim, Token};

use crate::images::qcow2;
use crate::templates::{GIB, ended};
use crate::{call, call_as, data};

const SECRET: &str = "00000000-0000-0000-0000-000000000001";
const ID: &str = "tmpl@pve!tk";

/// The minimal privileges that were tried one by one on PVE 9.2.
fn with_token() -> Sim {
    let sim = Sim::start(Config::quick().guests(0)).unwrap();
    let pool = [
        "VM.Allocate",
        "VM.Audit",
        "VM.Clone",
        "VM.Config.Disk",
        "VM.Config.Options",
        "VM.Config.CPU",
        "VM.Config.Memory",
        "VM.Config.HWType",
        "VM.Config.Network",
    ];
    let staging = ["Datastore.AllocateTemplate", "Datastore.Audit", "Datastore.Allocate"];
    sim.put_token(
        Token::new(ID, SECRET)
            .granted("/storage/local", &staging)
            .granted("/storage/local-lvm", &["Datastore.AllocateSpace"])
            .granted("/pool/lab", &pool)
            .granted("/sdn/zones/localnetwork/vmbr0", &["SDN.Use"])
            .granted("/nodes", &["Sys.AccessNetwork"]),
    );
    sim.put_file(File::new("local", Some("pve1"), "a.qcow2", &qcow2(1000, GIB)));
    sim
}

fn ask(sim: &Sim, method: &str, path: &str, form: &[(&str, &str)]) -> (u16, String, String) {
    let token = format!("{ID}={SECRET}");
    let reply = call_as(sim, &token, "pve1", method, path, form).unwrap();
    let data = reply.json()["data"].as_str().unwrap_or_default().to_owned();
    (reply.status, reply.reason, data)
}

/// Does it and waits; how the task ended.
fn task(sim: &Sim, method: &str, path: &str, form: &[(&str, &str)]) -> String {
    let (status, reason, upid) = ask(sim, method, path, form);
    assert_eq!(status, 200, "{method} {path}: {reason}");
    ended(sim, &upid)
}

const SHELL: &[(&str, &str)] = &[
    ("vmid", "300"),
    ("name", "a"),
    ("description", "d"),
    ("memory", "512"),
    ("cores", "1"),
    ("scsihw", "virtio-scsi-single"),
    ("serial0", "socket"),
    ("net0", "virtio,bridge=vmbr0"),
    ("pool", "lab"),
];

#[test]
fn the_least_that_was_proven_is_enough_for_the_whole_pipeline() {
    let sim = with_token();

    assert_eq!(task(&sim, "POST", "/nodes/pve1/qemu", SHELL), "OK");
    let import = [
        ("scsi0", "local-lvm:0,import-from=local:import/a.qcow2"),
        ("boot", "order=scsi0"),
        ("tags", "pvet"),
    ];
    assert_eq!(task(&sim, "POST", "/nodes/pve1/qemu/300/config", &import), "OK");
    assert_eq!(task(&sim, "POST", "/nodes/pve1/qemu/300/template", &[]), "OK");
    let clone = [("newid", "301"), ("pool", "lab")];
    assert_eq!(task(&sim, "POST", "/nodes/pve1/qemu/300/clone", &clone), "OK");
    for vmid in [301, 300] {
        let path = format!("/nodes/pve1/qemu/{vmid}?purge=1&destroy-unreferenced-disks=1");
        assert_eq!(task(&sim, "DELETE", &path, &[]), "OK");
    }
    let path = "/nodes/pve1/storage/local/content/local:import%2Fa.qcow2";
    assert_eq!(task(&sim, "DELETE", path, &[]), "OK");
    assert_eq!((sim.guests(), sim.volumes(), sim.all_files()), (vec![], vec![], vec![]));
}

#[test]
fn without_the_pool_nothing_is_made_and_tags_on_create_fail_when_it_is_too_late() {
    let sim = with_token();
    let bare = ask(&sim, "POST", "/nodes/pve1/qemu", &SHELL[..8]);
    let tagged = [("vmid", "301"), ("tags", "x"), ("pool", "lab")];

    assert_eq!((bare.0, bare.1.as_str()), (403, "Permission check failed"));
    let end = task(&sim, "POST", "/nodes/pve1/qemu", &tagged);
    assert_eq!(
        end,
        "unable to create VM 301 - 403 Permission check failed (/vms/301, VM.Config.Options)"
    );
    assert_eq!(sim.guests(), []);
}

#[test]
fn a_machine_that_is_not_there_is_forbidden_and_one_being_made_is_too() {
    let sim = with_token();
    let config = "/nodes/pve1/qemu/300/config";
    let gone = ask(&sim, "GET", config, &[]);
    assert_eq!((gone.0, gone.1.as_str()), (403, "Permission check failed (/vms/300, VM.Audit)"));
    let delete = ask(&sim, "DELETE", "/nodes/pve1/qemu/300", &[]);
    assert_eq!(delete.1, "Permission check failed (/vms/300, VM.Allocate)");
    let change = ask(&sim, "POST", config, &[("cores", "2")]);
    assert!(change.1.starts_with("Permission check failed (/vms/300, VM.Config.Disk|VM.Config.CD"));

    sim.kill_next_task("qmcreate", std::time::Duration::ZERO);
    assert_eq!(task(&sim, "POST", "/nodes/pve1/qemu", SHELL), "unexpected status");
    assert_eq!(ask(&sim, "GET", config, &[]).0, 403);
    assert_eq!(data(&sim, config)["lock"], "create");
    // Even unlocked it stays out of reach: it never came into the pool.
    sim.set_lock(300, None);
    assert_eq!(ask(&sim, "DELETE", "/nodes/pve1/qemu/300", &[]).0, 403);
}

/// Path and privilege that are taken away, a request, and what its refusal ends with.
type Case<'a> = (&'a str, &'a str, &'a str, &'a str, &'a [(&'a str, &'a str)], &'a str);

#[test]
fn each_privilege_that_is_missing_is_named() {
    let import = [("scsi0", "local-lvm:0,import-from=local:import/a.qcow2")];
    let url = [("url", "http://127.0.0.1:9/"), ("content", "import"), ("filename", "b.qcow2")];
    let download = "/nodes/pve1/storage/local/download-url";
    let config = "/nodes/pve1/qemu/300/config";
    let image = "/nodes/pve1/storage/local/content/local:import%2Fa.qcow2";
    let cases: [Case<'_>; 9] = [
        ("/nodes", "Sys.AccessNetwork", "POST", download, &url, ""),
        (
            "/storage/local",
            "Datastore.AllocateTemplate",
            "POST",
            download,
            &url,
            " (/storage/local, Datastore.AllocateTemplate)",
        ),
        (
            "/storage/local",
            "Datastore.Audit",
            "POST",
            config,
            &import,
            " (/storage/local, Datastore.AllocateSpace|Datastore.Audit)",
        ),
        (
            "/storage/local",
            "Datastore.Allocate",
            "DELETE",
            image,
            &[],
            " (/storage/local, Datastore.Allocate)",
        ),
        (
            "/storage/local-lvm",
            "Datastore.AllocateSpace",
            "POST",
            config,
            &import,
            " (/storage/local-lvm, Datastore.AllocateSpace)",
        ),
        (
            "/storage/local-lvm",
            "Datastore.AllocateSpace",
            "POST",
            "/nodes/pve1/qemu/300/clone",
            &[("newid", "301"), ("pool", "lab")],
            " (/storage/local-lvm, Datastore.AllocateSpace)",
        ),
        (
            "/sdn/zones/localnetwork/vmbr0",
            "SDN.Use",
            "POST",
            config,
            &[("net1", "virtio,bridge=vmbr0")],
            " (/sdn/zones/localnetwork/vmbr0, SDN.Use)",
        ),
        (
            "/pool/lab",
            "VM.Config.CPU",
            "POST",
            config,
            &[("cores", "2")],
            " (/vms/300, VM.Config.CPU)",
        ),
        (
            "/pool/lab",
            "VM.Clone",
            "POST",
            "/nodes/pve1/qemu/300/clone",
            &[("newid", "301"), ("pool", "lab")],
            " (/vms/300, VM.Clone)",
        ),
    ];
    for (path, privilege, method, what, form, text) in cases {
        let sim = with_token();
        let disk = ("scsi0", "local-lvm:1");
        assert_eq!(task(&sim, "POST", "/nodes/pve1/qemu", &[SHELL, &[disk]].concat()), "OK");
        sim.change_token(ID, |token| token.withdraw(path, &[privilege]));

        let (status, reason, _) = ask(&sim, method, what, form);

        assert_eq!((status, reason), (403, format!("Permission check failed{text}")), "{what}");
    }
}

#[test]
fn tasks_are_for_their_owner_and_can_be_stopped_by_nobody_else() {
    let sim = with_token();
    sim.hang_next_task("qmcreate");
    let reply = call(&sim, "pve1", "POST", "/nodes/pve1/qemu", &[("vmid", "300")]).unwrap();
    let upid = reply.json()["data"].as_str().unwrap().to_owned();

    let stop = ask(&sim, "DELETE", &crate::templates::task_path(&upid), &[]);

    assert_eq!(
        (stop.0, stop.1.as_str()),
        (403, "Permission check failed (/nodes/pve1, Sys.Modify)")
    );
    assert_eq!(sim.running_tasks(), [upid]);
}
