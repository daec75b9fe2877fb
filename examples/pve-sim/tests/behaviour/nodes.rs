//! Nodes go away, come back, join and leave.

use std::time::Duration;

use pve_sim::{Config, Health, Kind, Sim, Storage};
use serde_json::{Value, json};

use crate::client::{Connection, get};
use crate::{data, data_from, refusal, resources, sim};

fn some_guest_on(sim: &Sim, node: &str) -> String {
    let guests = sim.guests();
    let guest = guests.iter().find(|guest| guest.node == node).expect("a guest on each node");
    format!("{}/{}", guest.kind.as_str(), guest.vmid)
}

#[test]
fn a_node_that_is_off_refuses_connections_and_shows_as_offline() {
    let sim = sim();
    let guest = some_guest_on(&sim, "pve2");
    let named = resources(&sim)[&guest]["name"].clone();

    sim.node_down("pve2");
    let rows = resources(&sim);

    assert!(Connection::open(&sim, "pve2").is_err());
    let node = &rows["node/pve2"];
    assert_eq!(node["status"], "offline");
    assert!(node["maxmem"].is_u64());
    for key in ["cpu", "mem", "uptime", "disk"] {
        assert!(node.get(key).is_none(), "{key}");
    }
    // Its guests and storages look well for five minutes.
    assert_eq!(rows[&guest]["name"], named);
    assert_eq!(rows["storage/pve2/local"]["status"], "available");
    let refused = refusal(&sim, "/nodes/pve2/status");
    assert_eq!(refused, (595, "No route to host".to_owned()));

    sim.skip(Duration::from_mins(5));
    let rows = resources(&sim);

    assert_eq!(rows[&guest]["status"], "unknown");
    assert!(rows[&guest].get("name").is_none());
    assert_eq!(rows["storage/pve2/local"]["status"], "unknown");
    assert!(rows["storage/pve2/local"].get("maxdisk").is_none());

    sim.node_up("pve2");
    assert_eq!(resources(&sim)[&guest]["name"], named);
    assert!(data_from(&sim, "pve2", "/version").is_object());
    // The next five minutes begin with the next absence.
    sim.node_down("pve2");
    assert_eq!(resources(&sim)[&guest]["name"], named);
}

#[test]
fn connections_end_when_their_node_goes_off() {
    let sim = sim();
    let mut connection = Connection::open(&sim, "pve1").unwrap();
    connection.send(&crate::client::request(&sim, "/version")).unwrap();
    connection.reply().unwrap();

    sim.node_down("pve1");

    assert!(connection.ends());
}

#[test]
fn other_nodes_answer_on_the_addresses_that_the_status_tells() {
    let sim = sim();
    let rows = data(&sim, "/cluster/status");
    let nodes: Vec<&Value> =
        rows.as_array().unwrap().iter().filter(|row| row["type"] == "node").collect();

    assert_eq!(nodes.len(), 3);
    let port = sim.url().rsplit(':').next().unwrap().to_owned();
    for row in nodes {
        let node = row["name"].as_str().unwrap();
        let url = format!("https://{}:{port}", row["ip"].as_str().unwrap());
        assert_eq!(url, sim.url_of(node));
        assert_eq!(data_from(&sim, node, "/cluster/status").as_array().unwrap().len(), 4);
    }
}

#[test]
fn daemons_fail_one_by_one() {
    let sim = sim();

    sim.set_health("pve2", Health::ProxyDown);
    assert_eq!(refusal(&sim, "/nodes/pve2/status"), (595, "Connection refused".to_owned()));
    assert_eq!(resources(&sim)["node/pve2"]["status"], "online");

    sim.set_health("pve2", Health::DaemonHung);
    assert_eq!(refusal(&sim, "/nodes/pve2/qemu"), (596, "Connection timed out".to_owned()));
    assert!(data(&sim, "/nodes/pve2/version").is_object());

    sim.set_health("pve1", Health::DaemonDown);
    assert_eq!(refusal(&sim, "/nodes/pve1/storage"), (595, "Connection refused".to_owned()));
    assert!(!resources(&sim).is_empty());
}

#[test]
fn a_node_that_is_cut_off_sees_the_others_offline() {
    let sim = sim();
    sim.set_health("pve3", Health::Isolated);
    let seen_from = |node: &str| {
        let rows = data_from(&sim, node, "/cluster/status").as_array().unwrap().clone();
        let quorate = rows.iter().find(|row| row["type"] == "cluster").unwrap()["quorate"].clone();
        let online = rows.iter().filter(|row| row["online"] == 1).count();
        (quorate, online)
    };

    assert_eq!(seen_from("pve3"), (json!(0), 1));
    assert_eq!(seen_from("pve1"), (json!(1), 2));
    sim.set_quorum(false);
    assert_eq!(seen_from("pve1").0, json!(0));
}

#[test]
fn a_standalone_node_has_no_cluster() {
    let sim = Sim::start(Config::quick().node_names(&["pve"]).standalone()).unwrap();

    let rows = data(&sim, "/cluster/status");

    assert_eq!(rows.as_array().unwrap().len(), 1);
    assert_eq!((&rows[0]["name"], &rows[0]["nodeid"]), (&json!("pve"), &json!(0)));
}

#[test]
fn nodes_join_leave_and_join_again() {
    let sim = sim();

    sim.add_node("pve4").unwrap();
    let vmid = sim.create_guest(Kind::Qemu, "pve4");
    assert_eq!(resources(&sim)[&format!("qemu/{vmid}")]["node"], "pve4");
    assert!(data_from(&sim, "pve4", "/version").is_object());

    sim.remove_node("pve4");
    let rows = resources(&sim);
    assert!(!rows.contains_key("node/pve4") && !rows.contains_key(&format!("qemu/{vmid}")));
    let (status, reason) = refusal(&sim, "/nodes/pve4/status");
    assert_eq!(status, 500);
    assert!(reason.starts_with("hostname lookup 'pve4' failed"), "{reason}");

    sim.rejoin("pve4").unwrap();
    assert_eq!(resources(&sim)["node/pve4"]["status"], "online");
}

#[test]
fn a_renewed_certificate_is_presented_and_told() {
    let sim = sim();
    let before = sim.fingerprint("pve2");

    let after = sim.renew_certificate("pve2");

    assert_ne!(before, after);
    assert_eq!(Connection::open_and_greet(&sim, "pve2").presented(), after);
    let nodes = data(&sim, "/nodes").as_array().unwrap().clone();
    let row = nodes.iter().find(|row| row["node"] == "pve2").unwrap();
    assert_eq!(row["ssl_fingerprint"], after);
    let certificates = data(&sim, "/nodes/pve2/certificates/info");
    assert_eq!(certificates[0]["pem"], sim.ca_pem());
    assert_eq!(certificates[1]["fingerprint"], after);
}

#[test]
fn a_storage_has_a_row_for_each_node_that_has_it() {
    let sim = sim();
    sim.put_storage(Storage::new("fast", "lvm", &["images"]).only_on(&["pve2"]));
    let rows = resources(&sim);

    assert!(rows.contains_key("storage/pve2/fast") && !rows.contains_key("storage/pve1/fast"));
    for node in ["pve1", "pve2", "pve3"] {
        assert_eq!(rows[&format!("storage/{node}/nfs-shared")]["shared"], 1);
    }
    let mut disabled = Storage::new("fast", "lvm", &["images"]);
    disabled.enabled = false;
    sim.put_storage(disabled);
    assert!(!resources(&sim).contains_key("storage/pve2/fast"));
    let listed = data(&sim, "/nodes/pve2/storage").as_array().unwrap().clone();
    let row = listed.iter().find(|row| row["storage"] == "fast").unwrap();
    assert_eq!((&row["enabled"], row.get("used_fraction")), (&json!(0), None));
}

#[test]
fn fifty_clusters_live_side_by_side() {
    let config = Config::quick().nodes(3).guests(5);
    let sims: Vec<Sim> =
        (0..50).map(|seed| Sim::start(config.clone().seed(seed)).unwrap()).collect();

    for sim in &sims {
        assert_eq!(get(sim, "pve3", "/cluster/resources").unwrap().status, 200);
    }
}

#[test]
fn ports_close_with_the_last_handle() {
    let sim = sim();
    let address = sim.url().trim_start_matches("https://").to_owned();
    let other = sim.clone();

    drop(sim);
    assert_eq!(get(&other, "pve1", "/version").unwrap().status, 200);
    drop(other);

    // The port closes soon after, not at once.
    let refused = (0..1000).any(|_| {
        std::thread::yield_now();
        std::net::TcpStream::connect(&address).is_err()
    });
    assert!(refused);
}
