//! What changes of the cluster, faults and counters look like to a client.

mod access;
mod faults;
mod guests;
mod nodes;
mod process;

#[path = "../client/mod.rs"]
mod client;

use std::collections::BTreeMap;

use pve_sim::{Config, Sim};
use serde_json::Value;

fn sim() -> Sim {
    Sim::start(Config::quick()).unwrap()
}

/// `data` of a GET that the first node answers with 200.
fn data(sim: &Sim, path: &str) -> Value {
    data_from(sim, sim.first_node(), path)
}

fn data_from(sim: &Sim, node: &str, path: &str) -> Value {
    let reply = client::get(sim, node, path).unwrap();
    assert_eq!(
        (reply.version.as_str(), reply.status),
        ("HTTP/1.1", 200),
        "{path}: {}",
        reply.reason
    );
    reply.json()["data"].clone()
}

/// `/cluster/resources` by id.
fn resources(sim: &Sim) -> BTreeMap<String, Value> {
    let rows = data(sim, "/cluster/resources");
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| (row["id"].as_str().unwrap().to_owned(), row.clone())).collect()
}

/// The refusal of a GET: status and reason phrase.
fn refusal(sim: &Sim, path: &str) -> (u16, String) {
    let reply = client::get(sim, sim.first_node(), path).unwrap();
    (reply.status, reply.reason)
}
