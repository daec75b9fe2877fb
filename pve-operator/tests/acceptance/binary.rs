//! The command itself: exit codes, and what it says.

use std::{os::unix::fs::MetadataExt, process::Stdio};

use pve_sim::Config;
use schema::testing::TestDatabase;
use tokio::process::Command;

use crate::support::{Mirror, SOON, eventually, simulate};

pub(crate) const OPERATOR: &str = env!("CARGO_BIN_EXE_pve-operator");

/// Runs the command to its end; its words, if it failed.
pub(crate) async fn failing(line: &[&str]) -> String {
    failing_command(Command::new(OPERATOR).args(line)).await
}

async fn failing_command(command: &mut Command) -> String {
    let outcome = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let outcome = tokio::time::timeout(SOON, outcome).await;
    let outcome = outcome.expect("it ends by itself").expect("the command can be run");
    let said = String::from_utf8_lossy(&outcome.stderr).into_owned();
    assert!(!outcome.status.success(), "it should have failed: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// The same as a user to whom file permissions apply, which they do not to root.
pub(crate) async fn failing_as_somebody(line: &[&str]) -> String {
    const NOBODY: u32 = 65534;
    let mut command = Command::new(OPERATOR);
    command.args(line).current_dir("/");
    if std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0) {
        command.uid(NOBODY).gid(NOBODY);
    }
    failing_command(&mut command).await
}

#[tokio::test]
async fn an_unknown_flag_is_shown_with_the_usage() {
    let said = failing(&["run", "--polling", "5s"]).await;

    assert!(said.contains("--polling") && said.contains("Usage"), "{said}");
}

#[tokio::test]
async fn a_time_without_unit_is_shown_with_an_example() {
    let said = failing(&["run", "--database-url", "sqlite://x.db", "--poll-interval", "5"]).await;

    assert!(said.contains("--poll-interval") && said.contains("5s"), "{said}");
}

#[tokio::test]
async fn a_database_url_that_is_none_names_the_three_kinds() {
    let said = failing(&["run", "--database-url", "oracle://scott:tiger@host/db"]).await;

    for kind in ["sqlite", "mysql", "postgres"] {
        assert!(said.contains(kind), "{said}");
    }
    assert!(!said.contains("tiger"), "the password is told: {said}");
}

/// A15, C04
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a15_a_dead_cluster_is_a_few_lines_in_the_log_and_no_secret() {
    let mirror = Mirror::stopped(TestDatabase::sqlite("log").await);
    let it = mirror.follow("sim", simulate(Config::quick().guests(5))).await;
    let dead = mirror.follow("dead", simulate(Config::quick().guests(5))).await;
    let secrets = [it.sim.token(), dead.sim.token()];
    mirror
        .sql("UPDATE pve_cluster SET api_url = 'https://127.0.0.1:1' WHERE cluster_name = 'dead'")
        .await;
    let operator = Command::new(OPERATOR)
        .args(["run", "--database-url", &mirror.url, "--listen", "127.0.0.1:0"])
        .args(["--poll-interval", "50ms", "--details-interval", "1s", "--log", "info"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the command can be run");

    eventually("60 polls", SOON, || async {
        let polls = it.sim.counters().of("GET", "/cluster/resources");
        if polls >= 60 { Ok(()) } else { Err(polls) }
    })
    .await;
    let pid = operator.id().expect("it runs").to_string();
    assert!(Command::new("kill").arg(pid).status().await.unwrap().success());
    let said = operator.wait_with_output().await.unwrap();

    let log = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "SIGTERM is a good end: {log}");
    assert!(log.lines().count() <= 15, "{log}");
    assert!(secrets.iter().all(|secret| !log.contains(secret.as_str())), "{log}");
}

#[tokio::test]
async fn migrate_makes_the_tables_and_says_so_once() {
    for database in TestDatabase::all_empty("migrate").await {
        let migrate = async || {
            let line = ["migrate", "--database-url", &database.url];
            let outcome = Command::new(OPERATOR).args(line).output().await.unwrap();
            assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
            String::from_utf8_lossy(&outcome.stdout).into_owned()
        };

        let (first, second) = (migrate().await, migrate().await);

        assert!(first.contains("Applied"), "{first}");
        assert!(second.contains("up to date"), "{second}");
        database.db.check().await.unwrap();
    }
}
