//! Our series beside those of prometheus-pve-exporter itself, of the same simulated cluster.
//!
//! `scripts/test` brings the exporter and says where in `PVE_EXPORTER`.

use std::{collections::BTreeMap, time::Duration};

use pve_sim::Config;
use schema::testing::TestDatabase;

use super::series::{Scrape, Series};
use crate::support::{Mirror, SOON, eventually, get, simulate};

/// Runs the exporter's own collectors once: those whose answers a poll has.
const COLLECT: &str = r#"
import sys, urllib3
from pve_exporter.collector import collect_pve, CollectorsOptions
urllib3.disable_warnings()
host, user, secret = sys.argv[1:]
name, token = user.split("!")
ours = {"status", "version", "node", "cluster", "resources"}
options = CollectorsOptions(**{it: it in ours for it in CollectorsOptions._fields})
login = dict(user=name, token_name=token, token_value=secret, verify_ssl=False)
sys.stdout.write(collect_pve(login, host, True, False, options).decode())
"#;

async fn theirs(sim: &pve_sim::Sim) -> Scrape {
    let tools = std::env::var("PVE_EXPORTER").expect(
        "PVE_EXPORTER names a folder with prometheus-pve-exporter; `scripts/test -p pve-operator watching` brings it",
    );
    let mut python = tokio::process::Command::new("python3");
    python.args(["-c", COLLECT, sim.url().trim_start_matches("https://")]);
    python.args([sim.user_id(), sim.token()]);
    python.env("PYTHONPATH", tools).env("NO_PROXY", "*").env("PYTHONDONTWRITEBYTECODE", "1");
    let said = tokio::time::timeout(Duration::from_mins(1), python.kill_on_drop(true).output());
    let said = said.await.expect("it ends").expect("there is a python3");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let mut scrape = Scrape::parse(&String::from_utf8_lossy(&said.stdout));
    // It shows tags in whatever order PVE has them.
    scrape.values = scrape.values.into_iter().map(with_sorted_tags).collect();
    scrape
}

fn with_sorted_tags(((name, mut labels), value): (Series, f64)) -> (Series, f64) {
    if let Some(tags) = labels.get_mut("tags") {
        let mut words: Vec<&str> = tags.split(';').collect();
        words.sort_unstable();
        *tags = words.join(";");
    }
    ((name, labels), value)
}

/// Uptimes go on between two scrapes; the simulated numbers stand still otherwise.
fn without_uptime(scrape: &Scrape) -> BTreeMap<&Series, f64> {
    let still = scrape.values.iter().filter(|((name, _), _)| name != "pve_uptime_seconds");
    still.map(|(series, value)| (series, *value)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_series_is_the_exporters_with_the_same_value() {
    let mut config = Config::quick().guests(60);
    config.moving = false;
    let mut mirror = Mirror::stopped(TestDatabase::sqlite("exporter").await);
    let it = mirror.follow("sim", simulate(config)).await;
    it.sim.set_lock(101, Some("snapshot-delete"));
    it.sim.change_guest(102, |guest| guest.hastate = Some("started".to_owned()));
    mirror.start().await;
    mirror.until_equal(&it).await;

    let theirs = theirs(&it.sim).await;
    let ours = eventually("the version is known", SOON, || async {
        let admin = mirror.operator().admin;
        let (_, text) = get(admin, "/metrics/inventory?cluster=sim").await.unwrap();
        if text.contains("pve_version_info{") { Ok(Scrape::parse(&text)) } else { Err(text) }
    })
    .await;

    assert!(theirs.values.len() > 1_000, "{} series", theirs.values.len());
    assert_eq!(ours.heads, theirs.heads);
    let (mine, other) = (without_uptime(&ours), without_uptime(&theirs));
    let missing: Vec<_> = other.iter().filter(|it| mine.get(it.0) != Some(it.1)).collect();
    let more: Vec<_> = mine.iter().filter(|it| other.get(it.0) != Some(it.1)).collect();
    assert!(missing.is_empty() && more.is_empty(), "theirs {missing:#?}\nours {more:#?}");
    for (series, theirs) in theirs.values.iter().filter(|it| it.0.0 == "pve_uptime_seconds") {
        let ours = ours.values.get(series).copied().unwrap_or(-1.0);
        assert!((ours - theirs).abs() < 300.0, "{series:?}: {ours} and {theirs}");
    }
}
