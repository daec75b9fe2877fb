//! Every query of every dashboard, asked of a real Prometheus that scrapes a working operator.

use std::{net::SocketAddr, path::Path};

use pve_sim::Config;
use schema::testing::TestDatabase;
use tokio::process::Command;

use super::{
    manifests::{DASHBOARDS, Query, queries},
    prometheus::{INTERVAL, Prometheus},
};
use crate::support::{Followed, LATER, Mirror, eventually, get, simulate};

/// How dashboards that people made for prometheus-pve-exporter put its metrics together: by
/// `instance`, with names and nodes joined to numbers by `id`, and by ratios of two metrics.
const MADE_FOR_THE_EXPORTER: [&str; 16] = [
    r#"sum by (id, name, type) (pve_guest_info{instance="sim"})"#,
    r#"sum by (id) (pve_up{instance="sim"} and on (id, instance) pve_guest_info)"#,
    r#"sum by (id) (pve_cpu_usage_limit{instance="sim"} and on (id, instance) pve_guest_info)"#,
    r#"pve_cpu_usage_ratio{instance="sim"} / pve_cpu_usage_limit and on (id) pve_node_info"#,
    r#"pve_memory_usage_bytes{instance="sim"} / pve_memory_size_bytes and on (id) pve_node_info"#,
    r#"(pve_cpu_usage_ratio{instance="sim"} * on (id, instance) group_left (name, type) pve_guest_info) and on (id, instance) pve_up == 1"#,
    r#"(pve_memory_usage_bytes{instance="sim"} / pve_memory_size_bytes * on (id, instance) group_left (name, type) pve_guest_info) and on (id, instance) pve_up == 1"#,
    r#"pve_disk_usage_bytes{instance="sim", id=~"storage/.+"} / pve_disk_size_bytes * on (id, instance) group_left (storage) pve_storage_info"#,
    r#"pve_disk_usage_bytes{instance="sim"} / pve_disk_size_bytes * on (id, instance) group_left (name, type) pve_guest_info{type="lxc"}"#,
    r#"(rate(pve_network_receive_bytes{instance="sim"}[5m]) * on (id, instance) group_left (name, type) pve_guest_info) and on (id, instance) pve_up == 1"#,
    r#"(rate(pve_network_transmit_bytes{instance="sim"}[5m]) * on (id, instance) group_left (name, type) pve_guest_info) and on (id, instance) pve_up == 1"#,
    r#"((rate(pve_disk_write_bytes{instance="sim"}[5m]) + rate(pve_disk_read_bytes{instance="sim"}[5m])) * on (id, instance) group_left (name, type) pve_guest_info) and on (id, instance) pve_up == 1"#,
    r#"pve_uptime_seconds{instance="sim", id=~"node/.+"}"#,
    r#"count(pve_node_info{instance="sim"})"#,
    r#"max by (release, version) (pve_version_info{instance="sim"})"#,
    r#"pve_cluster_info{instance="sim", quorate="1"}"#,
];

fn filled_in(query: &str) -> String {
    query
        .replace("$__rate_interval", &format!("{}s", INTERVAL.as_secs()))
        .replace("$cluster", ".*")
        .replace("$instance", ".*")
}

/// Has a template made on two nodes, as a person does.
async fn make_a_template(mirror: &Mirror, it: &Followed, api: SocketAddr, folder: &Path) {
    let image = folder.join("debian.qcow2");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", &image.display().to_string(), "1G"])
        .status();
    assert!(made.await.expect("there is qemu-img").success());
    let storages = mirror.storages(it.id).await;
    let storage = storages.iter().find(|row| {
        row.synced.key.node_name == "pve1" && row.synced.key.storage_name == "local-lvm"
    });
    let storage = storage.expect("the first node has its storage").id;
    let upload = Command::new("curl")
        .args(["--silent", "--show-error", "--fail-with-body", "--noproxy", "*"])
        .args(["-F", "template_name=debian", "-F", "auto_sync=true"])
        .args(["-F", &format!("cluster_id={}", it.id)])
        .args(["-F", &format!("storage_id={storage}")])
        .args(["-F", &format!("file=@{}", image.display())])
        .arg(format!("http://{api}/api/v1/templates/upload"))
        .kill_on_drop(true)
        .output();
    let upload = upload.await.expect("there is curl");
    assert!(upload.status.success(), "{upload:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_a_dashboard_brings_something() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut mirror = Mirror::stopped(TestDatabase::sqlite("dashboards").await);
    mirror.option("--api", "127.0.0.1:0");
    mirror.option("--api-auth", "off");
    mirror.option("--images", &format!("file://{}", folder.path().join("images").display()));
    mirror.option("--task-interval", "100ms");
    mirror.option("--retry-base", "200ms");
    let it = mirror.follow("sim", simulate(Config::quick().guests(30))).await;
    mirror.start().await;
    mirror.until_equal(&it).await;
    let (admin, api) = {
        let operator = mirror.operator();
        (operator.admin, operator.api.expect("the API is served"))
    };
    let prometheus = Prometheus::start(admin, api).await;
    let mut wanted: Vec<Query> = DASHBOARDS.into_iter().flat_map(queries).collect();
    assert!(wanted.len() > 60, "{}", wanted.len());
    wanted.extend(MADE_FOR_THE_EXPORTER.map(|text| Query {
        panel: "of a dashboard made for the exporter".to_owned(),
        text: text.to_owned(),
    }));

    make_a_template(&mirror, &it, api, folder.path()).await;
    for path in ["/api/v1/vms", "/api/v1/templates", "/api/v1/nowhere"] {
        get(api, path).await.expect("the API answers");
    }

    eventually("every query brings something", LATER, || async {
        let mut empty = Vec::new();
        for query in &wanted {
            let text = filled_in(&query.text);
            match prometheus.series(&text).await {
                Ok(0) => empty.push(format!("{}: {text}", query.panel)),
                Ok(_) => {}
                Err(error) => panic!("{}: {text}: {error}", query.panel),
            }
        }
        if empty.is_empty() { Ok(()) } else { Err(empty) }
    })
    .await;
}
