//! The template pipeline: download, shell, import, template, clones, and back to nothing.

use pve_sim::{Config, Sim};
use serde_json::{Value, json};

use crate::client::{Reply, get};
use crate::images::{Images, Manner, qcow2, sha512};
use crate::{call, data, wait_until};

pub(crate) const GIB: u64 = 1 << 30;

pub(crate) fn empty() -> Sim {
    Sim::start(Config::quick().guests(0)).unwrap()
}

/// The UPID that a request is answered with.
pub(crate) fn upid(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.reason);
    reply.json()["data"].as_str().expect("a UPID").to_owned()
}

/// Waits for the end of a task; returns how it ended.
pub(crate) fn ended(sim: &Sim, upid: &str) -> String {
    let path = format!("{}/status", task_path(upid));
    let mut end = None;
    wait_until(|| {
        let status = data(sim, &path);
        end = status["exitstatus"].as_str().map(str::to_owned);
        status["status"] == "stopped"
    });
    end.expect("a stopped task has an end")
}

pub(crate) fn task_path(upid: &str) -> String {
    let node = upid.split(':').nth(1).expect("a node");
    let encoded: String = url::form_urlencoded::byte_serialize(upid.as_bytes()).collect();
    format!("/nodes/{node}/tasks/{encoded}")
}

/// All lines of a task's log.
pub(crate) fn log(sim: &Sim, upid: &str) -> Vec<String> {
    let rows = data(sim, &format!("{}/log?limit=0", task_path(upid)));
    rows.as_array().unwrap().iter().map(|row| row["t"].as_str().unwrap().to_owned()).collect()
}

/// Does it and waits until it is done well.
pub(crate) fn done(sim: &Sim, method: &str, path: &str, form: &[(&str, &str)]) -> String {
    let upid = upid(&call(sim, "pve1", method, path, form).unwrap());
    assert_eq!(ended(sim, &upid), "OK", "{:#?}", log(sim, &upid));
    upid
}

/// Status and reason of what is refused.
pub(crate) fn refused(sim: &Sim, method: &str, path: &str, form: &[(&str, &str)]) -> (u16, String) {
    let reply = call(sim, "pve1", method, path, form).unwrap();
    (reply.status, reply.reason)
}

/// Downloads an image to `local` on a node.
pub(crate) fn download(sim: &Sim, node: &str, images: &Images, name: &str, sum: &str) -> String {
    let path = format!("/nodes/{node}/storage/local/download-url");
    let form = [
        ("url", images.url()),
        ("content", "import".to_owned()),
        ("filename", name.to_owned()),
        ("checksum", sum.to_owned()),
        ("checksum-algorithm", "sha512".to_owned()),
    ];
    let form: Vec<(&str, &str)> = form.iter().map(|(key, value)| (*key, value.as_str())).collect();
    upid(&call(sim, "pve1", "POST", &path, &form).unwrap())
}

pub(crate) const IMPORT: &[(&str, &str)] = &[
    ("scsi0", "local-lvm:0,import-from=local:import/a.qcow2,discard=on"),
    ("boot", "order=scsi0"),
    ("tags", "pvet;pvet-v7"),
];

#[test]
fn an_image_becomes_a_template_and_clones_of_it_and_nothing_is_left_at_the_end() {
    let sim = empty();
    let image = qcow2(3_000_000, 2 * GIB);
    let images = Images::serve(image.clone(), Manner::Good);

    assert_eq!(data(&sim, "/cluster/nextid?vmid=300"), "300");
    let url = format!("/nodes/pve2/query-url-metadata?url={}", images.url());
    let told = json!({
        "filename": "image.qcow2", "size": 3_000_000, "mimetype": "application/octet-stream",
    });
    assert_eq!(data(&sim, &url), told);

    let fetched = download(&sim, "pve2", &images, "a.qcow2", &sha512(&image));
    assert_eq!(ended(&sim, &fetched), "OK", "{:#?}", log(&sim, &fetched));
    assert_eq!(log(&sim, &fetched).last().unwrap(), "TASK OK");
    let listed = data(&sim, "/nodes/pve2/storage/local/content?content=import");
    assert_eq!(listed[0]["volid"], "local:import/a.qcow2");
    assert_eq!(listed[0]["size"], 3_000_000);
    assert_eq!(data(&sim, "/nodes/pve1/storage/local/content?content=import"), json!([]));
    // Again with the same sum: nothing is transferred.
    let again = download(&sim, "pve2", &images, "a.qcow2", &sha512(&image));
    assert_eq!(ended(&sim, &again), "OK");
    assert_eq!(images.asked.lock().unwrap().from.len(), 1);

    let shell = [
        ("vmid", "300"),
        ("name", "tmpl"),
        ("description", "marker"),
        ("memory", "512"),
        ("cores", "2"),
        ("net0", "virtio,bridge=vmbr0"),
        ("agent", "1"),
    ];
    done(&sim, "POST", "/nodes/pve2/qemu", &shell);
    let config = data(&sim, "/nodes/pve2/qemu/300/config");
    assert_eq!((&config["description"], &config["cores"]), (&json!("marker"), &json!(2)));
    assert_eq!(config["boot"], "order=net0");
    assert!(config["net0"].as_str().unwrap().starts_with("virtio=BC:24:11:"));

    let imported = done(&sim, "POST", "/nodes/pve2/qemu/300/config", IMPORT);
    assert!(log(&sim, &imported).iter().any(|line| line.contains("(100.00%)")));
    let config = data(&sim, "/nodes/pve2/qemu/300/config");
    assert_eq!(config["scsi0"], "local-lvm:vm-300-disk-0,discard=on,size=2G");
    assert_eq!(config["tags"], "pvet;pvet-v7");

    done(&sim, "POST", "/nodes/pve2/qemu/300/template", &[]);
    let config = data(&sim, "/nodes/pve2/qemu/300/config");
    assert_eq!(config["template"], 1);
    assert_eq!(config["scsi0"], "local-lvm:base-300-disk-0,discard=on,size=2G");

    let linked = [("newid", "301"), ("name", "linked"), ("description", "other")];
    done(&sim, "POST", "/nodes/pve2/qemu/300/clone", &linked);
    let full = [("newid", "302"), ("full", "1"), ("storage", "nfs-shared")];
    done(&sim, "POST", "/nodes/pve2/qemu/300/clone", &full);
    let config = data(&sim, "/nodes/pve2/qemu/302/config");
    assert_eq!(config["scsi0"], "nfs-shared:302/vm-302-disk-0.raw,discard=on,size=2G");
    assert_eq!(config["name"], "Copy-of-VM-tmpl");
    assert_eq!(data(&sim, "/nodes/pve2/qemu/301/config")["description"], "other");
    done(&sim, "POST", "/nodes/pve2/qemu/301/status/start", &[]);
    assert_eq!(data(&sim, "/nodes/pve2/qemu/301/status/current")["status"], "running");
    done(&sim, "POST", "/nodes/pve2/qemu/301/status/stop", &[]);
    assert_eq!(sim.leftovers(), Vec::<String>::new());

    for vmid in [301, 302, 300] {
        let path = format!("/nodes/pve2/qemu/{vmid}?purge=1&destroy-unreferenced-disks=1");
        done(&sim, "DELETE", &path, &[]);
    }
    let path = "/nodes/pve2/storage/local/content/local%3Aimport%2Fa.qcow2";
    done(&sim, "DELETE", path, &[]);
    assert_eq!(sim.guests(), []);
    assert_eq!(sim.volumes(), []);
    assert_eq!(sim.all_files(), []);
    assert_eq!(sim.counters().downloaded_by("pve2"), 3_000_000);
    assert_eq!(sim.counters().of("POST", "/nodes/{node}/qemu/{vmid}/clone"), 2);
}

#[test]
fn tasks_are_found_by_guest_and_kind_while_they_run_and_afterwards() {
    let sim = empty();
    sim.hang_next_task("qmcreate");
    let reply = call(&sim, "pve1", "POST", "/nodes/pve1/qemu", &[("vmid", "300")]).unwrap();
    let upid = upid(&reply);

    let running = data(&sim, "/nodes/pve1/tasks?source=all&vmid=300&typefilter=qmcreate");
    assert_eq!((&running[0]["upid"], &running[0]["status"]), (&json!(upid), &json!("RUNNING")));
    assert_eq!(data(&sim, "/nodes/pve1/tasks?vmid=300"), json!([]));
    let empty_log = get(&sim, "pve1", &format!("{}/log", task_path(&upid))).unwrap().json();
    assert_eq!(empty_log["data"], json!([{"n": 1, "t": "no content"}]));

    let stop = call(&sim, "pve1", "DELETE", &task_path(&upid), &[]).unwrap();
    assert_eq!((stop.status, &stop.json()["data"]), (200, &Value::Null));
    assert_eq!(ended(&sim, &upid), "unable to create VM 300 - received interrupt");
    assert_eq!(sim.guests(), []);
    let finished = data(&sim, "/nodes/pve1/tasks?vmid=300&statusfilter=error");
    assert_eq!(finished[0]["user"], "root@pam");
    assert_eq!(finished[0]["tokenid"], "sim");
}
