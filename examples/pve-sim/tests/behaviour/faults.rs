//! Faults and counters.

use std::io::ErrorKind;

use pve_sim::{FaultKind, FaultRule, Sim};
use serde_json::Value;

use crate::client::{Connection, get, request};
use crate::{data, refusal, resources, sim};

const RESOURCES: &str = "/cluster/resources";

fn rows_with(sim: &Sim, kind: FaultKind) -> Vec<Value> {
    sim.fault(FaultRule::new(RESOURCES, kind).times(1));
    data(sim, RESOURCES).as_array().unwrap().clone()
}

#[test]
fn lists_are_spoilt_once_and_are_whole_again() {
    let sim = sim();
    let whole = resources(&sim).len();

    let garbage = rows_with(&sim, FaultKind::GarbageElement);
    assert_eq!(garbage.len(), whole + 1);
    assert_eq!(garbage.iter().filter(|row| row.get("id").is_none()).count(), 1);

    let loose = rows_with(&sim, FaultKind::LooseTypes);
    let guest = loose.iter().find(|row| row["id"] == "qemu/100").unwrap();
    assert_eq!((&guest["vmid"], &guest["template"]), (&"100".into(), &"".into()));

    assert!(rows_with(&sim, FaultKind::EmptyList).is_empty());

    let ids = |rows: &[Value]| -> Vec<String> {
        rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    let backwards = ids(&rows_with(&sim, FaultKind::WrongOrder));
    assert!(backwards.is_sorted_by(|a, b| a >= b));

    assert_eq!(resources(&sim).len(), whole);
}

#[test]
fn a_status_comes_instead_of_an_answer() {
    let sim = sim();
    let reason = "Connection timed out".to_owned();
    let kind = FaultKind::Status { code: 596, reason: reason.clone() };
    sim.fault(FaultRule::new("/", kind).at_node("pve1").method("GET"));

    assert_eq!(refusal(&sim, "/version"), (596, reason));
    assert_eq!(get(&sim, "pve2", "/version").unwrap().status, 200);
    sim.clear_faults();
    assert_eq!(refusal(&sim, "/version").0, 200);
}

#[test]
fn connections_break_before_and_within_the_answer() {
    let sim = sim();

    for kind in [FaultKind::DropBeforeAnswer, FaultKind::DropHalfBody] {
        sim.fault(FaultRule::new(RESOURCES, kind.clone()).times(1));
        let mut connection = Connection::open(&sim, "pve1").unwrap();
        connection.send(&request(&sim, RESOURCES)).unwrap();
        let error = connection.reply().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{kind:?}");
    }
}

#[test]
fn a_stalled_request_stays_in_flight() {
    let sim = sim();
    sim.fault(FaultRule::new("/version", FaultKind::StallForever).times(1));
    let mut stalled = Connection::open(&sim, "pve1").unwrap();
    stalled.send(&request(&sim, "/version")).unwrap();
    // The fault is spent by the first request that arrives.
    while sim.counters().of("GET", "/version") == 0 {
        std::thread::yield_now();
    }

    assert_eq!(get(&sim, "pve1", "/version").unwrap().status, 200);

    let counters = sim.counters();
    assert_eq!(counters.most_in_flight_by_node["pve1"], 2);
    assert_eq!((counters.requests, counters.answered(200)), (2, 1));
}

#[test]
fn a_page_of_some_proxy_is_not_json() {
    let sim = sim();
    sim.fault(FaultRule::new("/nodes", FaultKind::NotJson));

    let reply = get(&sim, "pve1", "/nodes").unwrap();

    assert_eq!((reply.status, reply.json()), (200, Value::Null));
}

#[test]
fn requests_are_counted_by_path_node_status_and_token() {
    let sim = sim();
    for path in [RESOURCES, "/cluster/status", "/nodes/pve2/qemu", "/nodes/pve1/qemu", "/version"] {
        get(&sim, "pve1", path).unwrap();
    }
    get(&sim, "pve2", "/foo/bar").unwrap();
    let mut anonymous = Connection::open(&sim, "pve3").unwrap();
    anonymous.send("GET /api2/json/version HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    anonymous.reply().unwrap();

    let counters = sim.counters();

    assert_eq!(counters.requests, 7);
    assert_eq!(counters.list_requests, 4);
    assert_eq!(counters.with_token, 6);
    assert_eq!(counters.connections, 7);
    assert_eq!(counters.of("GET", "/nodes/{node}/qemu"), 2);
    assert_eq!(counters.of("GET", "?"), 1);
    assert_eq!((counters.to_node("pve1"), counters.to_node("pve3")), (5, 1));
    assert_eq!((counters.answered(200), counters.answered(501), counters.answered(401)), (5, 1, 1));
    sim.reset_counters();
    assert_eq!(sim.counters().requests, 0);
}
