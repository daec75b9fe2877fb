//! What PVE does below the API: keep-alive, gzip, odd methods, plain HTTP.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pve_sim::{Config, Sim, Token};
use serde_json::Value;

use crate::client::{Connection, Reply, get};
use crate::recording::raw;

fn sim() -> Sim {
    let config = Config { keep_alive: Duration::from_millis(300), ..Config::quick() };
    let sim = Sim::start(config.guests(10).standalone()).unwrap();
    let secret = "00000000-0000-0000-0000-000000000000";
    let token = Token::new("root@pam!full", secret).with_everything();
    sim.edit(|world| world.tokens.insert(token.id.clone(), Arc::new(token)));
    sim
}

fn text<'a>(recording: &'a Value, key: &str) -> &'a str {
    recording[key].as_str().expect("raw recordings are text")
}

/// Compares the status line, `Connection`, `Content-Encoding` and whether there is a body.
fn assert_same(reply: &Reply, recorded: &str, file: &str) {
    let (head, _) = recorded.split_once("\r\n\r\n").expect("a head");
    let line = head.lines().next().unwrap();
    let got = format!("{} {} {}", reply.version, reply.status, reply.reason);
    assert_eq!(got, line, "{file}");
    for name in ["Connection", "Content-Encoding", "Content-Type", "Server", "Pragma"] {
        let start = format!("{name}: ");
        let want = head.lines().find_map(|line| line.strip_prefix(&start)).map(str::to_owned);
        assert_eq!(reply.header(name), want, "{file}: {name}");
    }
}

#[test]
fn single_requests_look_the_same_on_the_wire() {
    for file in [
        "485_raw_get_version_close.json",
        "486_raw_get_gzip.json",
        "487_raw_get_http10.json",
        "488_raw_head.json",
        "489_raw_options.json",
    ] {
        let (sim, recording) = (sim(), raw(file));
        let mut connection = Connection::open(&sim, "pve1").unwrap();

        connection.send(text(&recording, "request_raw")).unwrap();

        let reply = connection.reply().unwrap();
        assert_same(&reply, text(&recording, "response_raw"), file);
        assert!(connection.ends(), "{file}: the connection goes on");
    }
}

#[test]
fn two_requests_on_one_connection_get_two_answers_in_order() {
    for file in ["490_raw_pipelined.json", "491_raw_two_reqs_seq.json"] {
        let (sim, recording) = (sim(), raw(file));
        let recorded = text(&recording, "response_raw");
        let second = recorded.rfind("HTTP/1.1").unwrap();
        let mut connection = Connection::open(&sim, "pve1").unwrap();

        connection.send(text(&recording, "request_raw")).unwrap();

        assert_same(&connection.reply().unwrap(), &recorded[..second], file);
        assert_same(&connection.reply().unwrap(), &recorded[second..], file);
        assert!(connection.ends());
    }
}

#[test]
fn an_idle_connection_is_closed_by_the_node() {
    let file = "484_raw_get_version_keepalive_idle.json";
    let (sim, recording) = (sim(), raw(file));
    let mut connection = Connection::open(&sim, "pve1").unwrap();

    connection.send(text(&recording, "request_raw")).unwrap();

    assert_same(&connection.reply().unwrap(), text(&recording, "response_raw"), file);
    assert!(connection.ends());
}

#[test]
fn a_connection_carries_as_many_requests_as_the_real_one_did() {
    let recording = raw("keepalive_count.json");
    let sim = sim();
    let mut connection = Connection::open(&sim, "pve1").unwrap();
    let request = crate::client::request(&sim, "/version");

    let mut carried = 0;
    loop {
        connection.send(&request).unwrap();
        let reply = connection.reply().unwrap();
        carried += 1;
        if reply.header("Connection").as_deref() == Some("close") {
            break;
        }
    }

    assert_eq!(Some(carried), recording["requests"].as_u64());
    assert!(connection.ends());
}

#[test]
fn plain_http_is_sent_to_https() {
    let recording = raw("plain_http_on_8006.json");
    let sim = sim();
    let mut stream = TcpStream::connect(sim.url().trim_start_matches("https://")).unwrap();
    let host = "127.0.0.1:8006";

    let request = format!("GET /api2/json/version HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();

    let lasting = |text: &str| -> Vec<String> {
        let moving = |line: &&str| !line.starts_with("Date:") && !line.starts_with("Expires:");
        text.split("\r\n").filter(moving).map(str::to_owned).collect()
    };
    assert_eq!(lasting(&answer), lasting(text(&recording, "response_raw")));
}

#[test]
fn the_certificate_that_is_presented_is_the_one_that_is_told() {
    let sim = sim();

    let presented = Connection::open_and_greet(&sim, "pve1").presented();

    let nodes = get(&sim, "pve1", "/nodes").unwrap().json();
    assert_eq!(nodes["data"][0]["ssl_fingerprint"], presented);
    assert_eq!(presented, sim.fingerprint("pve1"));
}

/// 401 takes three seconds on a real PVE; the simulator takes what it is told.
#[test]
fn a_401_comes_late() {
    let delay = Duration::from_millis(200);
    let sim = Sim::start(Config { auth_delay: delay, ..Config::quick() }).unwrap();
    let mut connection = Connection::open(&sim, "pve1").unwrap();
    let asked = SystemTime::now();

    connection.send("GET /api2/json/version HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();

    assert_eq!(connection.reply().unwrap().status, 401);
    assert!(asked.elapsed().unwrap() >= delay);
}
