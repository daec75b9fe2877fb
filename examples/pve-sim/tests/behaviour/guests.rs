//! Guests come, change, move and go.

use std::time::Duration;

use pve_sim::{Agent, Config, Guest, Interface, Kind, Sim, Status};
use serde_json::{Value, json};

use crate::client::get;
use crate::{data, refusal, resources, sim};

#[test]
fn the_same_seed_makes_the_same_guests() {
    let (one, two) = (sim(), sim());

    assert_eq!(one.guests(), two.guests());
    assert_eq!(one.guests().len(), 40);
    assert!(one.guests().iter().any(|guest| guest.kind == Kind::Lxc));
    assert!(one.guests().iter().any(|guest| guest.template));
    assert!(one.guests().iter().any(|guest| guest.name == "sync-gateway"));
}

#[test]
fn order_and_usage_move_with_every_answer_and_nothing_else_does() {
    let sim = sim();
    let moving =
        ["cpu", "mem", "memhost", "disk", "uptime", "netin", "netout", "diskread", "diskwrite"];
    let asked = |sim: &Sim| -> (Vec<Value>, Vec<String>) {
        let rows = data(sim, "/cluster/resources").as_array().unwrap().clone();
        let order = rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
        (rows, order)
    };

    let ((first, order_1), (second, order_2)) = (asked(&sim), asked(&sim));

    assert_ne!(order_1, order_2);
    let mut moved = 0;
    for row in &first {
        let again = second.iter().find(|other| other["id"] == row["id"]).unwrap();
        for (key, value) in row.as_object().unwrap() {
            if moving.contains(&key.as_str()) {
                moved += usize::from(*value != again[key]);
            } else if key == "content" {
                assert_eq!(value.as_str().unwrap().len(), again[key].as_str().unwrap().len());
            } else {
                assert_eq!(*value, again[key], "{} of {}", key, row["id"]);
            }
        }
    }
    assert!(moved > 100, "only {moved} numbers moved");
}

#[test]
fn a_new_guest_is_bare_for_ten_seconds() {
    let sim = Sim::start(Config { settle: Duration::from_secs(10), ..Config::quick() }).unwrap();
    sim.add_guest(Guest::qemu(900, "pve2").named("web").running().tagged(&["a", "b"]));

    let bare = resources(&sim)["qemu/900"].clone();
    sim.skip(Duration::from_secs(10));
    let whole = resources(&sim)["qemu/900"].clone();

    let expected = json!({
        "id": "qemu/900", "type": "qemu", "vmid": 900, "node": "pve2", "tags": "a;b",
        "status": "unknown",
    });
    assert_eq!(bare, expected);
    assert_eq!(
        (&whole["name"], &whole["status"], &whole["template"]),
        (&json!("web"), &json!("running"), &json!(0))
    );
    assert!(whole["uptime"].as_u64().unwrap() >= 10);
}

#[test]
fn changes_are_seen_by_the_next_request() {
    let sim = sim();
    sim.add_guest(Guest::qemu(900, "pve1").named("web").in_pool("prod"));

    sim.migrate_guest(900, "pve3");
    sim.rename(900, "db");
    sim.set_lock(900, Some("backup"));
    sim.set_status(900, Status::Paused);
    sim.set_tags(900, &["x"]);
    let row = resources(&sim)["qemu/900"].clone();
    sim.remove_guest(900);

    assert_eq!(row["node"], "pve3");
    assert_eq!(row["name"], "db");
    assert_eq!(row["lock"], "backup");
    assert_eq!(row["status"], "paused");
    assert_eq!(row["tags"], "x");
    assert_eq!(row["pool"], "prod");
    assert!(!resources(&sim).contains_key("qemu/900"));
}

#[test]
fn a_number_that_is_used_again_is_another_incarnation() {
    let sim = sim();

    sim.add_guest(Guest::qemu(900, "pve1"));
    sim.add_guest(Guest::lxc(900, "pve2"));

    assert_eq!(sim.guest(900).unwrap().incarnation, 1);
    let rows = resources(&sim);
    assert!(rows.contains_key("lxc/900") && !rows.contains_key("qemu/900"));
}

#[test]
fn an_agent_answers_refuses_or_is_silent() {
    let sim = sim();
    let guest = Guest::qemu(900, "pve2").running().with_ips(&["10.0.0.5/24", "fe80::1%3/64"]);
    sim.add_guest(guest);
    sim.change_guest(900, |guest| {
        guest.interfaces.push(Interface::new("tun0", None, &[]));
    });
    let path = "/nodes/pve2/qemu/900/agent/network-get-interfaces";

    let list = data(&sim, path)["result"].clone();
    assert_eq!(list[1]["ip-addresses"][0]["ip-address"], "10.0.0.5");
    assert_eq!(list[1]["ip-addresses"][1]["ip-address"], "fe80::1%3");
    assert!(list[2].get("hardware-address").is_none() && list[2].get("ip-addresses").is_none());

    sim.set_agent(900, Agent::Refuses);
    assert_eq!(data(&sim, path)["result"]["error"]["class"], "CommandNotFound");
    sim.set_agent(900, Agent::Silent);
    assert_eq!(refusal(&sim, path), (500, "QEMU guest agent is not running".to_owned()));
    sim.set_agent(900, Agent::Absent);
    assert_eq!(refusal(&sim, path), (500, "No QEMU guest agent configured".to_owned()));
    sim.set_agent(900, Agent::Answers);
    sim.set_status(900, Status::Stopped);
    assert_eq!(refusal(&sim, path), (500, "VM 900 is not running".to_owned()));
}

#[test]
fn a_container_tells_its_addresses_while_it_runs() {
    let sim = sim();
    sim.add_guest(Guest::lxc(900, "pve1").running().with_ips(&["10.0.0.5/24"]));
    let path = "/nodes/pve1/lxc/900/interfaces";

    assert_eq!(data(&sim, path)[1]["inet"], "10.0.0.5/24");
    sim.set_status(900, Status::Stopped);
    assert_eq!(get(&sim, "pve1", path).unwrap().json(), json!({"data": null}));
    assert_eq!(data(&sim, "/nodes/pve1/lxc/900/config")["hostname"], "ct900");
}

#[test]
fn a_configuration_changes_its_digest_with_its_contents() {
    let sim = sim();
    sim.add_guest(Guest::qemu(900, "pve1").named("a"));
    let config = || data(&sim, "/nodes/pve1/qemu/900/config");

    let before = config();
    sim.rename(900, "b");

    assert_eq!(before["name"], "a");
    assert_eq!(before["memory"], "512");
    assert_ne!(before["digest"], config()["digest"]);
    assert_eq!(before["digest"].as_str().unwrap().len(), 40);
}
