//! The example, run against an API server that lists in pages, sends bookmarks, hangs up and
//! forgets.

#[expect(dead_code, reason = "its `main` is run as a program of its own")]
#[path = "../../src/main.rs"]
mod example;
mod fake;

use std::process::Stdio;
use std::time::Duration;

use kube::{Api, Client, Config};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::example::Pods;
use crate::fake::Fake;

/// Far more than it takes on the slowest machine.
const LIMIT: Duration = Duration::from_mins(1);

/// The example as a program; killed when this is dropped.
struct Example {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Example {
    fn start(fake: &Fake) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_example-kubernetes"))
            .arg(fake.url())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("cargo has built it");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { lines, _child: child }
    }

    /// The next lines, sorted.
    async fn prints(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.len() < count {
            let line = timeout(LIMIT, self.lines.next_line()).await;
            lines.push(line.expect("a line in time").unwrap().expect("it goes on"));
        }
        lines.sort();
        lines
    }
}

#[tokio::test]
async fn it_prints_pods_as_they_come_change_and_go() {
    let fake = Fake::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        fake.set(name, "Running");
    }
    let mut example = Example::start(&fake);
    let added = ["a", "b", "c", "d", "e"].map(|name| format!("added {name} Running"));
    assert_eq!(example.prints(5).await, added);

    fake.set("a", "Failed");
    assert_eq!(example.prints(1).await, ["modified a Failed"]);
    fake.remove("a");
    assert_eq!(example.prints(1).await, ["deleted a Failed"]);
    assert_eq!(fake.lists(), 1, "three pages are one list");
}

#[tokio::test]
async fn after_a_hang_up_it_goes_on_from_the_last_bookmark() {
    let fake = Fake::start().await;
    fake.set("a", "Pending");
    let mut example = Example::start(&fake);
    assert_eq!(example.prints(1).await, ["added a Pending"]);

    let mark = fake.bookmark();
    fake.set("a", "Running");
    assert_eq!(example.prints(1).await, ["modified a Running"]);
    // Who goes on from anything before the bookmark has expired.
    fake.compact(mark);
    fake.hang_up();
    fake.set("b", "Pending");

    assert_eq!(example.prints(1).await, ["added b Pending"]);
    assert_eq!(fake.lists(), 1);
}

#[tokio::test]
async fn when_its_cursor_has_expired_it_lists_again_and_notices_what_is_gone() {
    let fake = Fake::start().await;
    fake.set("a", "Running");
    fake.set("b", "Running");
    let mut example = Example::start(&fake);
    assert_eq!(example.prints(2).await, ["added a Running", "added b Running"]);

    fake.hang_up();
    fake.remove("a");
    fake.set("b", "Succeeded");
    fake.compact(fake.revision());

    assert_eq!(example.prints(2).await, ["deleted a Running", "modified b Succeeded"]);
    assert_eq!(fake.lists(), 2);
}

#[tokio::test]
async fn its_source_keeps_the_promises_of_a_source() {
    let fake = Fake::start().await;
    for name in ["a", "b", "c"] {
        fake.set(name, "Running");
    }
    let config = Config::new(fake.url().parse().unwrap());
    let pods = Pods(Api::default_namespaced(Client::try_from(config).unwrap()));

    let kept = informer::testing::conformance(&pods).await;

    kept.unwrap();
}
