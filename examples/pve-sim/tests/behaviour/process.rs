//! The binary and the control port.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::{resources, sim};

/// One request to a control port: status and JSON.
fn control(address: &str, request_line: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let request = format!(
        "{request_line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

#[test]
fn commands_change_the_cluster_and_the_state_shows_it() {
    let sim = sim();
    let address = sim.serve_control(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap().to_string();
    let run = |command: Value| control(&address, "POST /", &command.to_string());

    let added = run(json!([
        {"do": "add_guest", "vmid": 900, "kind": "lxc", "node": "pve1", "name": "x"},
        {"do": "migrate", "vmid": 900, "node": "pve2"},
        {"do": "node_down", "node": "pve3"},
        {"do": "fault", "path": "/nodes", "times": 1, "kind": {"status": {"code": 500, "reason": "no"}}},
        {"do": "withdraw", "path": "/vms", "privileges": ["VM.Clone"]},
    ]));

    assert_eq!(added.0, 200, "{}", added.1);
    let rows = resources(&sim);
    assert_eq!(rows["lxc/900"]["node"], "pve2");
    assert_eq!(rows["node/pve3"]["status"], "offline");
    let (_, state) = control(&address, "GET /state", "");
    assert_eq!(state["guests"].as_array().unwrap().len(), 41);
    let (_, counters) = control(&address, "GET /counters", "");
    assert_eq!(counters["by_path"]["GET /cluster/resources"], 1);
    let (_, rotated) = run(json!({"do": "rotate_token"}));
    assert_eq!(rotated["user_token"], sim.token());
}

#[test]
fn tasks_and_storages_are_commanded_too() {
    let sim = crate::templates::empty();
    let address = sim.serve_control(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap().to_string();
    let run = |command: Value| control(&address, "POST /", &command.to_string());

    let done = run(json!([
        {"do": "add_storage", "storage": "10", "type": "dir", "content": ["import", "images"]},
        {"do": "set_storage", "storage": "local", "content": ["iso"]},
        {"do": "set_free", "node": "pve1", "storage": "10", "bytes": 5000},
        {"do": "next_id", "lower": 9000, "upper": 9100},
        {"do": "hang_task", "kind": "qmcreate", "vmid": 9000},
        {"do": "fail_task", "kind": "qmcreate", "error": "no"},
    ]));
    assert_eq!(done.0, 200, "{}", done.1);
    assert_eq!(crate::data(&sim, "/cluster/nextid"), "9000");
    assert_eq!(crate::data(&sim, "/nodes/pve1/storage/10/status")["avail"], 5000);
    let form = [("vmid", "9000"), ("scsi0", "10:1")];
    let hanging = crate::call(&sim, "pve1", "POST", "/nodes/pve1/qemu", &form).unwrap();
    let upid = hanging.json()["data"].as_str().unwrap().to_owned();
    crate::wait_until(|| sim.volumes().len() == 1);

    let (_, state) = control(&address, "GET /state", "");
    assert_eq!(state["running_tasks"], json!([upid]));
    assert_eq!(state["volumes"][0]["name"], "vm-9000-disk-0.qcow2");
    let (_, killed) = run(json!({"do": "kill_task", "kind": "qmcreate", "vmid": 9000}));
    assert_eq!(killed["killed"], json!([upid]));
    let (_, state) = control(&address, "GET /state", "");
    assert_eq!(state["leftovers"].as_array().unwrap().len(), 2, "{}", state["leftovers"]);
    let (status, answer) = run(json!({"do": "kill_task", "upid": upid}));
    assert_eq!((status, answer["error"].as_str()), (400, Some(&*format!("no task {upid} runs"))));
    let (status, _) = run(json!({"do": "set_free", "node": "x", "storage": "10", "bytes": 1}));
    assert_eq!(status, 400);
}

#[test]
fn wrong_commands_are_refused_with_a_sentence() {
    let sim = sim();
    let address = sim.serve_control(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap().to_string();
    let refused = |command: Value| {
        let (status, answer) = control(&address, "POST /", &command.to_string());
        assert_eq!(status, 400, "{answer}");
        answer["error"].as_str().unwrap().to_owned()
    };

    assert_eq!(refused(json!({"do": "node_down", "node": "x"})), "there is no node x");
    assert_eq!(refused(json!({"do": "remove_guest", "vmid": 9})), "there is no guest 9");
    let grant = json!({"do": "grant", "path": "/", "privileges": ["VM.Fly"]});
    assert_eq!(refused(grant), "PVE 9.2 has no privilege VM.Fly");
    assert!(refused(json!({"do": "dance"})).contains("unknown variant `dance`"));
    assert_eq!(control(&address, "GET /", "").0, 404);
}

#[test]
fn the_binary_prints_a_line_per_cluster_and_ends_well_on_sigterm() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pve-sim"))
        .args(["--clusters", "3", "--nodes", "2", "--guests", "7"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut lines = Vec::new();
    for _ in 0..3 {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        lines.push(serde_json::from_str::<Value>(&line).unwrap());
    }

    for line in &lines {
        let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["control_url", "fingerprint", "url", "user_id", "user_token"]);
        let control_url = line["control_url"].as_str().unwrap();
        let (status, state) = control(control_url.trim_start_matches("http://"), "GET /state", "");
        assert_eq!((status, state["guests"].as_array().unwrap().len()), (200, 7));
    }
    let ended = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(ended.success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();

    assert_eq!(rest, "");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_binary_takes_storages_and_a_version_and_says_what_is_wrong_with_them() {
    let binary = env!("CARGO_BIN_EXE_pve-sim");
    let storages =
        ["--storage", "10=dir,content=import+iso", "--storage", "20=rbd,shared,total=2TiB"];
    let mut child = Command::new(binary)
        .args(["--nodes", "5", "--guests", "0", "--pve-version", "8.3.0", "--node-link", "50MiB"])
        .args(storages)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();

    let address = line["control_url"].as_str().unwrap().trim_start_matches("http://");
    let (_, state) = control(address, "GET /state", "");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(state["nodes"][4]["version"], "8.3.0");
    assert_eq!(state["storages"][0]["content"], json!(["import", "iso"]));
    let ceph = &state["storages"][1];
    assert_eq!((&ceph["name"], &ceph["shared"]), (&json!("20"), &json!(true)));
    assert_eq!(ceph["total"], 2_u64 << 40);

    let wrong = Command::new(binary).args(["--storage", "10"]).output().unwrap();
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(!wrong.status.success() && said.contains("write NAME=TYPE"), "{said}");
}
