//! Schemathesis reads the OpenAPI document and sends what it thinks of, right and wrong, to a server
//! over a small lab: no answer is a 5xx, and none is one that the document does not know (C02).
//!
//! For `FUZZ_SECONDS`, or two minutes; `scripts/fuzz-api` gives it ten. `scripts/test` brings
//! schemathesis and says where in `API_CLIENTS`.

use std::process::Stdio;

use pve_api::Settings;
use tokio::process::Command;

use crate::templates::Lab;
use crate::tour::{self, Server};

/// What is checked of each answer. What schemathesis takes for wrong input is not always wrong
/// here, and the other way round, so that is not asked: `?page=01` is a page.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance";

/// Streams, which have no end.
const ENDLESS: [&str; 1] = ["watch_sync_tasks"];

fn tools() -> String {
    let missing = "API_CLIENTS is not set: it names a folder with schemathesis. `scripts/test -p pve-api fuzz` brings it";
    std::env::var("API_CLIENTS").expect(missing)
}

// C02
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_answered_with_5xx_or_otherwise_than_the_description_says() {
    let lab = Lab::one("fuzz", patient).await;
    tour::furnish(&lab).await;
    lab.template("debian-13", 5, "2,3").await;
    let server = Server::start(&lab).await;
    let seconds = std::env::var("FUZZ_SECONDS").unwrap_or_else(|_| "120".to_owned());
    let folder = tempfile::tempdir().unwrap();

    let mut python = Command::new("python3");
    python.args(["-m", "schemathesis.cli", "run"]);
    python.arg(format!("http://{}/openapi.json", server.address));
    python.args(["--checks", CHECKS, "--max-time", &seconds, "--request-timeout", "30"]);
    // One worker: Python 3.11 can not parse in two threads at once.
    python.args(["--workers", "1", "--generation-database", "none", "--warnings", "off"]);
    python.args(["--suppress-health-check", "all", "--continue-on-failure"]);
    for operation in ENDLESS {
        python.args(["--exclude-operation-id", operation]);
    }
    let hooks = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz");
    python.env("PYTHONPATH", format!("{}:{hooks}", tools()));
    python.env("SCHEMATHESIS_HOOKS", "fuzz_hooks");
    python.env("NO_PROXY", "*").env("PYTHONDONTWRITEBYTECODE", "1");
    python.current_dir(folder.path()).stdin(Stdio::null()).kill_on_drop(true);
    let output = python.output().await.expect("there is a python3");

    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("passed") || said.contains("generated"), "{said}");
}

fn patient(settings: &mut Settings) {
    settings.max_upload_bytes = 1 << 20;
}
