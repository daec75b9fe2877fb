//! The manifests say nothing that the documentation does not.

use std::{collections::BTreeSet, fs, path::PathBuf};

use serde_json::Value;

fn read(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(super) const RULES: &str = "manifests/alerts/pve-operator.rules.yaml";
pub(super) const DASHBOARDS: [&str; 2] =
    ["manifests/dashboards/operations.json", "manifests/dashboards/inventory.json"];

/// One query of one panel.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) panel: String,
    pub(super) text: String,
}

/// Every query of a dashboard, and how its variables get their values.
pub(super) fn queries(dashboard: &str) -> Vec<Query> {
    let dashboard: Value = serde_json::from_str(&read(dashboard)).expect("a dashboard is JSON");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut queries = Vec::new();
    for panel in list(&dashboard["panels"]) {
        for target in list(&panel["targets"]) {
            queries.push(Query {
                panel: panel["title"].as_str().unwrap_or_default().to_owned(),
                text: target["expr"].as_str().expect("a target has a query").to_owned(),
            });
        }
    }
    queries
}

/// The values of `key:` in the rules; those over several lines with each of them.
fn rules(key: &str) -> Vec<String> {
    let text = read(RULES);
    let mut found = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(value) = line.trim_start_matches([' ', '-']).strip_prefix(key) else { continue };
        let mut value = value.trim().trim_matches('\'').to_owned();
        if value == "|" {
            let deeper = |line: &&str| line.starts_with("          ");
            value = std::iter::from_fn(|| lines.next_if(deeper)).collect::<Vec<_>>().join("\n");
        }
        found.push(value);
    }
    found
}

/// The metrics that a query reads, histograms without what is added to their names.
fn metrics(query: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = query.split(|c| !is_word(c));
    words
        .filter(|word| ["pve_", "http_", "process_"].iter().any(|it| word.starts_with(it)))
        .map(|word| word.strip_suffix("_bucket").unwrap_or(word).to_owned())
        .collect()
}

fn documented() -> BTreeSet<String> {
    let text = read("docs/metrics.md");
    let names = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    names.map(str::to_owned).collect()
}

#[test]
fn every_metric_of_alerts_and_dashboards_is_documented() {
    let mut used = BTreeSet::new();
    for query in rules("expr:") {
        used.extend(metrics(&query));
    }
    for query in DASHBOARDS.into_iter().flat_map(queries) {
        used.extend(metrics(&query.text));
    }
    // Every Prometheus client has these.
    used.retain(|name| !name.starts_with("process_"));

    let documented = documented();
    let unknown: Vec<_> = used.difference(&documented).collect();
    assert!(used.len() > 50, "{used:?}");
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn every_alert_has_its_section_and_its_tests_and_no_section_is_of_none() {
    let alerts: BTreeSet<String> = rules("alert:").into_iter().collect();
    let (operations, tests) =
        (read("docs/operations.md"), read("manifests/alerts/pve-operator.test.yaml"));
    let sections: BTreeSet<String> = operations
        .lines()
        .filter_map(|line| line.strip_prefix("### ").filter(|it| it.starts_with("Pve")))
        .map(str::to_owned)
        .collect();

    assert!(alerts.len() > 10, "{alerts:?}");
    assert_eq!(sections, alerts);
    for (alert, link) in std::iter::zip(rules("alert:"), rules("runbook_url:")) {
        assert!(link.ends_with(&format!("/docs/operations.md#{}", alert.to_lowercase())), "{link}");
        let checks: Vec<&str> = tests.split(&format!("alertname: {alert}\n")).skip(1).collect();
        let silent = |check: &&&str| check.trim_start().starts_with("exp_alerts: []");
        let quiet = checks.iter().filter(silent).count();
        assert!(quiet > 0 && quiet < checks.len(), "{alert} is not tested both ways");
    }
}
