//! What changes of the cluster, faults and counters look like to a client.

mod access;
mod downloads;
mod failures;
mod faults;
mod guests;
mod images;
mod nodes;
mod privileges;
mod process;
mod templates;
mod uploads;

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

/// One request with a form, on a connection of its own, with the first token.
fn call(
    sim: &Sim,
    node: &str,
    method: &str,
    path: &str,
    form: &[(&str, &str)],
) -> std::io::Result<client::Reply> {
    let token = format!("{}={}", sim.user_id(), sim.token());
    call_as(sim, &token, node, method, path, form)
}

/// The same with another token: `user@realm!id=secret`.
fn call_as(
    sim: &Sim,
    token: &str,
    node: &str,
    method: &str,
    path: &str,
    form: &[(&str, &str)],
) -> std::io::Result<client::Reply> {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let mut connection = client::Connection::open(sim, node)?;
    connection.send(&format!(
        "{method} /api2/json{path} HTTP/1.1\r\nHost: x\r\nAuthorization: PVEAPIToken={token}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))?;
    connection.reply()
}

/// Waits until it is so.
#[expect(clippy::disallowed_methods, reason = "these tests have no runtime")]
fn wait_until(mut so: impl FnMut() -> bool) {
    for _ in 0..4000 {
        if so() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("it does not come to be so");
}

/// Lets so much time pass that what was sent has been read.
#[expect(clippy::disallowed_methods, reason = "these tests have no runtime")]
fn pause(time: std::time::Duration) {
    std::thread::sleep(time);
}
