//! The example, run against the simulator.

use std::process::Stdio;
use std::time::Duration;

use pve_operator::pve::{ApiToken, ClientConfig, FirstUse, Reader, Trust};
use pve_sim::{Config, Sim, Status};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

#[expect(dead_code, reason = "its `main` is run as a program of its own")]
#[path = "../src/main.rs"]
mod example;

/// Far more than it takes on the slowest machine.
const LIMIT: Duration = Duration::from_mins(1);

/// The example as a program; killed when this is dropped.
struct Example {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Example {
    fn start(sim: &Sim) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_example-pve-cluster"))
            .args([sim.url(), sim.user_id(), sim.token(), sim.fingerprint(sim.first_node())])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("cargo has built it");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { lines, _child: child }
    }

    async fn prints(&mut self) -> String {
        let line = timeout(LIMIT, self.lines.next_line()).await;
        line.expect("a line in time").unwrap().expect("it goes on")
    }
}

#[tokio::test]
async fn it_prints_guests_as_they_come_change_move_and_go() {
    let sim = Sim::start(Config::quick().nodes(2).guests(3).seed(7)).unwrap();
    let mut example = Example::start(&sim);
    let mut lines = Vec::new();
    for _ in 0..3 {
        lines.push(example.prints().await);
    }
    lines.sort();
    let mut there: Vec<String> = sim
        .guests()
        .iter()
        .map(|guest| format!("added {} on {}, {}", guest.vmid, guest.node, word(guest.status)))
        .collect();
    there.sort();
    assert_eq!(lines, there);

    let guest = sim.guests().remove(0);
    let other = if guest.node == "pve1" { "pve2" } else { "pve1" };
    sim.migrate_guest(guest.vmid, other);
    let moved = format!("{} on {other}, {}", guest.vmid, word(guest.status));
    assert_eq!(example.prints().await, format!("modified {moved}"));
    sim.remove_guest(guest.vmid);
    assert_eq!(example.prints().await, format!("deleted {moved}"));
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Running | Status::Paused => "running",
        Status::Stopped => "stopped",
    }
}

#[tokio::test]
async fn its_source_keeps_the_promises_of_a_source() {
    let sim = Sim::start(Config::quick().nodes(2).guests(10).seed(7)).unwrap();
    let token = ApiToken::parse(&sim.user_id(), &sim.token()).unwrap();
    let trust = Trust::parse(None, Some(&sim.ca_pem()), false, FirstUse::Refuse).unwrap();
    let config = ClientConfig::new(&sim.url(), token, trust).unwrap();
    let cluster = example::Cluster(Reader::new(config).unwrap());

    let kept = informer::testing::conformance(&cluster).await;

    kept.unwrap();
}
