//! What a scrape says of answers of PVE.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use informer::Store;

use super::{chunks::Chunks, families::FAMILIES, shown::Shown};
use crate::{
    inventory::{
        guard::Quorum,
        objects::Guest,
        poll::{Membership, Poll},
    },
    pve::{ClusterStatus, GuestKind, Resources, Version},
};

const STATUS: &str = r#"{"data":[
    {"type":"cluster","id":"cluster","name":"lab","quorate":1,"nodes":2,"version":4},
    {"type":"node","id":"node/a","name":"a","online":1,"nodeid":1,"level":"c","local":1},
    {"type":"node","id":"node/b","name":"b","online":0,"nodeid":2,"level":""}
]}"#;

const RESOURCES: &str = r#"{"data":[
    {"type":"node","id":"node/a","node":"a","status":"online","maxcpu":8,"cpu":0.25,"maxmem":100},
    {"type":"node","id":"node/b","node":"b","status":"offline"},
    {"type":"qemu","id":"qemu/100","vmid":100,"node":"a","name":"we\"b","status":"running",
     "template":0,"tags":"b;a","maxcpu":2,"cpu":0.5,"netin":7,"lock":"backup","hastate":"started"},
    {"type":"lxc","id":"lxc/101","vmid":101,"node":"b","name":"ct","status":"running","template":0},
    {"type":"qemu","id":"qemu/102","vmid":102,"node":"a","status":"unknown"},
    {"type":"storage","id":"storage/a/local","node":"a","storage":"local","status":"available",
     "plugintype":"dir","content":"iso,backup","shared":0,"maxdisk":10,"disk":4}
]}"#;

fn poll(resources: &'static str, status: Option<&str>) -> Arc<Poll> {
    let status = status.map(|it| ClusterStatus::parse("GET", it.as_bytes()).unwrap());
    let membership = Membership {
        quorum: Quorum::Yes,
        status: status.unwrap_or_default(),
        ..Membership::default()
    };
    let version = Version {
        version: "9.2.11".to_owned(),
        release: "9.2".to_owned(),
        repoid: "14a2".to_owned(),
    };
    let resources = Resources::parse(Bytes::from_static(resources.as_bytes())).unwrap();
    Arc::new(Poll::new(resources, Arc::new(membership), Some(Arc::new(version))))
}

fn text(shown: Vec<Shown>) -> String {
    Chunks::new(shown).collect()
}

fn lab() -> Shown {
    Shown::new(poll(RESOURCES, Some(STATUS)), Store::new().0, "")
}

#[track_caller]
fn has(text: &str, line: &str) {
    assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
}

#[test]
fn rows_are_named_and_labelled_as_by_the_exporter() {
    let text = text(vec![lab()]);

    for line in [
        r#"pve_up{id="cluster/lab"} 1"#,
        r#"pve_up{id="node/a"} 1"#,
        r#"pve_up{id="qemu/100"} 1"#,
        r#"pve_up{id="storage/a/local"} 1"#,
        r#"pve_cpu_usage_ratio{id="qemu/100"} 0.5"#,
        r#"pve_cpu_usage_limit{id="node/a"} 8"#,
        r#"pve_network_receive_bytes_total{id="qemu/100"} 7"#,
        r#"pve_disk_usage_bytes{id="storage/a/local"} 4"#,
        r#"pve_storage_shared{id="storage/a/local"} 0"#,
        r#"pve_ha_state{id="qemu/100",state="started"} 1"#,
        r#"pve_ha_state{id="node/a",state="online"} 0"#,
        r#"pve_lock_state{id="qemu/100",state="backup"} 1"#,
        r#"pve_lock_state{id="lxc/101",state="backup"} 0"#,
        r#"pve_guest_info{id="qemu/100",node="a",name="we\"b",type="qemu",template="0",tags="a;b"} 1"#,
        r#"pve_storage_info{id="storage/a/local",node="a",storage="local",plugintype="dir",content="backup,iso"} 1"#,
        r#"pve_node_info{id="node/a",level="c",name="a",nodeid="1"} 1"#,
        r#"pve_cluster_info{id="cluster/lab",nodes="2",quorate="1",version="4"} 1"#,
        r#"pve_version_info{release="9.2",repoid="14a2",version="9.2.11"} 1"#,
        "# TYPE pve_network_receive_bytes_total counter",
    ] {
        has(&text, line);
    }
}

#[test]
fn what_is_on_a_silent_node_is_not_up_whatever_pve_repeats() {
    let text = text(vec![lab()]);

    has(&text, r#"pve_up{id="node/b"} 0"#);
    has(&text, r#"pve_up{id="lxc/101"} 0"#);
}

#[test]
fn a_guest_without_broadcast_keeps_the_name_of_its_series() {
    let (known, mut writer) = Store::new();
    writer.upsert(Guest {
        vmid: 102,
        kind: GuestKind::Qemu,
        template: true,
        node: "a".into(),
        name: Some("golden".into()),
        status: "stopped".into(),
        tags: None,
        pool: None,
        lock: None,
        ha_state: None,
        cpus: None,
        memory_bytes: None,
        disk_bytes: None,
        fingerprint: 1,
    });

    let text = text(vec![Shown::new(poll(RESOURCES, None), known, "")]);

    has(
        &text,
        r#"pve_guest_info{id="qemu/102",node="a",name="golden",type="qemu",template="1",tags=""} 1"#,
    );
}

#[test]
fn a_token_that_is_not_told_of_the_cluster_gets_the_rest() {
    let text = text(vec![Shown::new(poll(RESOURCES, None), Store::new().0, "")]);

    has(&text, r#"pve_up{id="node/a"} 1"#);
    assert!(!text.contains("pve_node_info{") && !text.contains("id=\"cluster/"), "{text}");
}

#[test]
fn several_clusters_are_told_apart_and_each_metric_stands_together() {
    let one = Shown::new(poll(RESOURCES, Some(STATUS)), Store::new().0, r#"cluster="one""#);
    let two = Shown::new(poll(RESOURCES, Some(STATUS)), Store::new().0, r#"cluster="two""#);

    let text = text(vec![one, two]);

    has(&text, r#"pve_up{cluster="one",id="qemu/100"} 1"#);
    has(&text, r#"pve_up{cluster="two",id="qemu/100"} 1"#);
    has(&text, r#"pve_version_info{cluster="two",release="9.2",repoid="14a2",version="9.2.11"} 1"#);
    let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let series: BTreeSet<&str> =
        samples.iter().filter_map(|it| Some(it.rsplit_once(' ')?.0)).collect();
    assert_eq!(series.len(), samples.len(), "no series comes twice");
    let mut names: Vec<&str> =
        samples.iter().map(|line| line.split('{').next().unwrap_or(line)).collect();
    names.dedup();
    let met: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(met.len(), names.len(), "{names:?}");
}

#[test]
fn no_cluster_is_an_empty_scrape_and_no_error() {
    let text = text(Vec::new());

    assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), 0);
    assert_eq!(text.lines().count(), 2 * FAMILIES.len());
}

/// However many guests there are, a piece is about as long as another, and nothing is lost between
/// two of them.
#[test]
fn a_scrape_comes_in_pieces_that_do_not_grow() {
    const GUESTS: usize = 5_000;
    let rows: Vec<String> = (100..100 + GUESTS)
        .map(|id| format!(r#"{{"type":"qemu","id":"qemu/{id}","vmid":{id},"node":"a"}}"#))
        .collect();
    let body: &'static str = format!(r#"{{"data":[{}]}}"#, rows.join(",")).leak();

    let pieces: Vec<String> =
        Chunks::new(vec![Shown::new(poll(body, None), Store::new().0, "")]).collect();

    let room = pieces[0].capacity();
    assert!(pieces.len() > 10 && pieces.iter().all(|it| it.capacity() == room));
    let up = pieces.concat().lines().filter(|it| it.starts_with("pve_up{")).count();
    assert_eq!(up, GUESTS);
}

#[test]
fn the_documentation_lists_every_metric_and_no_other() {
    let exported: BTreeSet<&str> = FAMILIES.iter().map(|it| it.name).collect();
    let table = include_str!("../../../docs/metrics.md");
    let names = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let documented: BTreeSet<&str> = names
        .filter(|name| name.starts_with("pve_"))
        .filter(|name| !name.starts_with("pve_operator_") && !name.starts_with("pve_api_"))
        .collect();

    assert_eq!(exported, documented);
}
