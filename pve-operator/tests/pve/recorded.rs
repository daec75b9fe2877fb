//! Answers of a real PVE 9.2.11, byte for byte where it matters, through TLS and HTTP.

use std::path::Path;

use pve_operator::pve::{
    Effect, ErrorClass, FirstUse, Interfaces, MIRROR, NodeName, Outcome, PveError, Reader,
    Resources, TaskLog, TaskState, Trust, Upid, Vmid,
};
use serde_json::Value;

use crate::server::{Identity, Reply, Server};

pub(crate) struct Recording {
    pub(crate) status: u64,
    pub(crate) reason: String,
    pub(crate) body: String,
}

pub(crate) fn recording(name: &str) -> Recording {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded").join(name);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let response = &serde_json::from_str::<Value>(&text).unwrap()["response"];
    let body = match &response["body"] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        json => json.to_string(),
    };
    Recording {
        status: response["status"].as_u64().unwrap(),
        reason: response["reason"].as_str().unwrap().to_owned(),
        body,
    }
}

/// The lines of a recorded log.
pub(crate) fn log_lines(name: &str) -> Vec<String> {
    let body: Value = serde_json::from_str(&recording(name).body).unwrap();
    let lines = body["data"].as_array().unwrap().iter();
    lines.map(|line| line["t"].as_str().unwrap().to_owned()).collect()
}

fn resources(name: &str) -> Resources {
    Resources::parse(recording(name).body.into()).unwrap()
}

/// A reader of a server that answers everything with one recording.
async fn replay(name: &str) -> (Reader, Server) {
    let Recording { status, reason, body } = recording(name);
    serve(move || Reply::answer(&format!("{status} {reason}"), "Connection: close\r\n", &body))
        .await
}

async fn serve(answer: impl Fn() -> Reply + Send + Sync + 'static) -> (Reader, Server) {
    let identity = Identity::self_signed(&["pve1"]);
    let server = Server::start(&identity, move |_| answer()).await;
    let fingerprint = identity.fingerprint().to_string();
    let trust = Trust::parse(Some(&fingerprint), None, false, FirstUse::default()).unwrap();
    (server.reader(trust), server)
}

fn pve1() -> NodeName {
    NodeName::new("pve1").unwrap()
}

fn vmid(number: u32) -> Vmid {
    Vmid::new(number).unwrap()
}

#[test]
fn a_cluster_with_an_offline_node_is_read_whole() {
    let it = resources("594_off_t30_resources.json");

    assert_eq!(it.skipped(), 0);
    assert_eq!((it.nodes().len(), it.guests().len()), (3, 12));
    let offline = it.nodes().iter().find(|it| it.status.as_deref() == Some("offline"));
    assert!(offline.is_some_and(|it| it.cpu.is_none() && it.uptime.is_none()));
    assert!(it.storages().iter().any(|it| it.shared == Some(true) && it.plugintype.is_some()));
}

/// A12
#[test]
fn a_guest_in_the_making_has_no_name_and_is_still_there() {
    let it = resources("412_import_slow_resources.json");

    let fresh: Vec<_> =
        it.guests().iter().filter(|it| it.status.as_deref() == Some("unknown")).collect();
    assert_eq!((it.skipped(), fresh.len()), (0, 2));
    assert!(fresh.iter().all(|it| it.name.is_none() && it.template.is_none()));
}

#[tokio::test]
async fn membership_says_quorum_and_who_answered() {
    let (reader, _server) = replay("508_c3_cluster_status.json").await;
    let it = reader.cluster_status().await.unwrap();
    assert!(it.quorate());
    assert_eq!(it.nodes.len(), 3);
    assert_eq!(it.nodes.iter().filter(|it| it.local).count(), 1);
    assert_eq!(reader.addresses().len(), 3, "api_url and the two others");

    let (reader, _server) = replay("583_noquorum_pve3_cluster_status.json").await;
    let it = reader.cluster_status().await.unwrap();
    assert!(!it.quorate());
    assert_eq!(it.nodes.iter().filter(|it| it.online).count(), 1);

    let (reader, _server) = replay("005_get_cluster_status_fresh.json").await;
    let it = reader.cluster_status().await.unwrap();
    assert!(it.cluster.is_none() && it.quorate(), "a single node is its own quorum");
}

#[tokio::test]
async fn every_node_shows_the_fingerprint_of_its_certificate() {
    let (reader, _server) = replay("510_c3_nodes.json").await;
    let nodes = reader.nodes().await.unwrap();
    assert_eq!((nodes.rows.len(), nodes.skipped), (3, 0));
    assert!(nodes.rows.iter().all(|it| it.ssl_fingerprint.is_some()));

    let (reader, _server) = replay("2114_z_certs.json").await;
    let certificates = reader.certificates(&pve1()).await.unwrap();
    let ca = certificates.rows.iter().find(|it| it.filename.as_deref() == Some("pve-root-ca.pem"));
    let pem = ca.and_then(|it| it.pem.as_deref()).unwrap();
    assert!(Trust::parse(None, Some(pem), false, FirstUse::default()).is_ok());
}

#[tokio::test]
async fn permissions_say_what_the_mirror_lacks() {
    let (reader, _server) = replay("083_perm_permissions_root.json").await;
    assert_eq!(reader.permissions().await.unwrap().missing(&MIRROR), []);

    let (reader, _server) = replay("112_perm_none_access_permissions.json").await;
    assert_eq!(reader.permissions().await.unwrap().missing(&MIRROR), MIRROR);

    let (reader, _server) = replay("759_p_permissions.json").await;
    let pool_only = reader.permissions().await.unwrap();
    assert_eq!(pool_only.missing(&MIRROR), MIRROR);
    assert!(pool_only.has_anywhere("VM.Audit") && pool_only.has("/pool/tmpl", "VM.Audit"));
    assert!(pool_only.has("/nodes/pve2", "Sys.AccessNetwork"));
}

#[tokio::test]
async fn guests_and_storages_are_read() {
    let (reader, _server) = replay("265_get_config_100.json").await;
    let config = reader.qemu_config(&pve1(), vmid(100)).await.unwrap();
    assert!(config.digest().is_some() && !config.is_template() && config.disks().count() > 0);

    let (reader, _server) = replay("325_get_config_100_template.json").await;
    assert!(reader.qemu_config(&pve1(), vmid(100)).await.unwrap().is_template());

    let (reader, _server) = replay("028_get_nodes_pve1_storage.json").await;
    let storages = reader.storages(&pve1()).await.unwrap();
    assert_eq!(storages.skipped, 0);
    assert!(storages.rows.iter().all(|it| it.kind.is_some() && it.enabled == Some(true)));
}

#[tokio::test]
async fn each_refusal_has_its_kind_its_words_and_its_effect() {
    for (name, class, effect, words) in [
        (
            "044_auth_token_bad_secret.json",
            ErrorClass::Unauthorized,
            Effect::None,
            "Authentication failed!",
        ),
        (
            "102_perm_none_cluster_status.json",
            ErrorClass::Forbidden,
            Effect::None,
            "(/, Sys.Audit)",
        ),
        (
            "089_param_extra.json",
            ErrorClass::Refused,
            Effect::None,
            "Parameter verification failed.",
        ),
        (
            "084_404_unknown_path.json",
            ErrorClass::Refused,
            Effect::None,
            "Method 'GET /foo/bar' not implemented",
        ),
        (
            "087_get_unknown_node.json",
            ErrorClass::Server,
            Effect::None,
            "hostname lookup 'nope' failed",
        ),
        ("358_novm_get_config.json", ErrorClass::Server, Effect::None, "999.conf' does not exist"),
        (
            "560_c3_pve2_proxy_down_status.json",
            ErrorClass::NodeUnreachable,
            Effect::None,
            "Connection refused",
        ),
        (
            "715_pvedaemon_hung_direct_via_8006_to_pve2.json",
            ErrorClass::NodeUnreachable,
            Effect::Unknown,
            "Connection timed out",
        ),
    ] {
        let (reader, _server) = replay(name).await;

        let error = reader.qemu_config(&pve1(), vmid(100)).await.unwrap_err();

        assert_eq!((error.class(), error.effect()), (class, effect), "{name}");
        assert!(error.message().unwrap().contains(words), "{name}: {error}");
        assert!(!format!("{error:?} {error}").contains(crate::server::SECRET));
    }
    let (reader, _server) = replay("102_perm_none_cluster_status.json").await;
    let error = reader.cluster_status().await.unwrap_err();
    assert!(matches!(error, PveError::Forbidden { privileges, .. } if privileges == ["Sys.Audit"]));
    let (reader, _server) = replay("250_task_unknown_status.json").await;
    let error = reader.task_state(&upid()).await.unwrap_err();
    assert!(matches!(error, PveError::Refused { errors, .. } if errors["upid"] == "no such task"));
}

fn upid() -> Upid {
    "UPID:pve1:00001C55:000768CE:6B0200D6:qmdestroy:300:tmpl@pve!tk:".parse().unwrap()
}

/// B20
#[tokio::test]
async fn a_log_whose_first_answer_is_made_up_still_shows_its_first_line() {
    let mut log = TaskLog::default();
    for name in [
        "924_glocal_delete_base_in_use_poll1_log.json",
        "926_glocal_delete_base_in_use_poll2_log.json",
        "927_glocal_delete_base_in_use_final_log.json",
    ] {
        assert_eq!(log.next_start(), 0, "nothing real was seen before {name}");
        let (reader, server) = replay(name).await;
        log.add(&reader.task_log(&upid(), log.next_start(), 500).await.unwrap());
        assert!(server.requests()[0].contains("/log?start=0&limit=500"));
        assert!(!log.lines().iter().any(|line| line == "no content"));
    }

    let why = "base volume 'local:300/base-300-disk-0.qcow2' is still in use by linked cloned";
    assert_eq!(log.error(), Some(why));
}

/// B20
#[tokio::test]
async fn a_line_that_grew_is_seen_in_full() {
    let mut log = TaskLog::default();
    for name in
        ["781_glocal_download_again_poll1_log.json", "786_glocal_download_again_final_log.json"]
    {
        let (reader, _server) = replay(name).await;
        log.add(&reader.task_log(&upid(), 0, 500).await.unwrap());
    }

    assert!(log.lines()[1].ends_with("OK, got correct file already, no need to download"));
    assert_eq!(log.lines().last().unwrap(), "TASK OK");
}

#[tokio::test]
async fn how_a_task_ended_is_told() {
    for (data, state) in [
        (r#"{"status":"running"}"#, TaskState::Running),
        (r#"{"status":"stopped","exitstatus":"OK"}"#, TaskState::Stopped(Outcome::Ok)),
        (
            r#"{"status":"stopped","exitstatus":"WARNINGS: 2"}"#,
            TaskState::Stopped(Outcome::Warnings(2)),
        ),
        (
            r#"{"status":"stopped","exitstatus":"unexpected status"}"#,
            TaskState::Stopped(Outcome::Failed("unexpected status".into())),
        ),
    ] {
        let (reader, _server) = serve(move || Reply::json(&format!("{{\"data\":{data}}}"))).await;

        assert_eq!(reader.task_state(&upid()).await.unwrap(), state);
    }
}

/// A18
#[tokio::test]
async fn addresses_of_windows_have_no_zone_and_its_loopback_no_mac() {
    let body = r#"{"data":{"result":[
        {"name":"Ethernet","hardware-address":"BC:24:11:00:AA:10","ip-addresses":[
            {"ip-address":"fe80::1234%12","ip-address-type":"ipv6","prefix":-1},
            {"ip-address":"192.0.2.45","ip-address-type":"ipv4","prefix":"24"}, {"broken":1}]},
        {"name":"Loopback","ip-addresses":[{"ip-address":"::1","ip-address-type":"ipv6","prefix":128}]},
        {"name":"down","hardware-address":"00:00:00:00:00:01"}]}}"#;
    let (reader, _server) = serve(move || Reply::json(body)).await;

    let Interfaces::Known(found) = reader.agent_interfaces(&pve1(), vmid(100)).await.unwrap()
    else {
        panic!("the agent answered");
    };

    let shown: Vec<String> = found
        .iter()
        .map(|it| {
            let ips: Vec<_> =
                it.addresses.iter().map(|it| format!("{}/{:?}", it.ip, it.prefix)).collect();
            format!("{} {:?} {}", it.name, it.mac.as_deref(), ips.join(" "))
        })
        .collect();
    assert_eq!(
        shown,
        [
            "Ethernet Some(\"bc:24:11:00:aa:10\") fe80::1234/None 192.0.2.45/Some(24)",
            "Loopback None ::1/Some(128)",
            "down Some(\"00:00:00:00:00:01\") ",
        ]
    );
}

/// A18
#[tokio::test]
async fn containers_tell_their_addresses_in_the_old_way_and_in_the_new() {
    let old = r#"{"data":[{"name":"eth0","hwaddr":"bc:24:11:89:67:07","inet":"192.168.3.95/22","inet6":"fe80::be24/64"}]}"#;
    let new = r#"{"data":[{"name":"eth0","hwaddr":"bc:24:11:89:67:07","hardware-address":"bc:24:11:89:67:07","inet":"192.168.3.95/22","inet6":"fe80::be24/64",
        "ip-addresses":[{"ip-address-type":"inet","ip-address":"192.168.3.95","prefix":22},{"ip-address-type":"inet6","ip-address":"fe80::be24","prefix":"64"}]}]}"#;
    let (reader, _server) = serve(move || Reply::json(old)).await;
    let (newer, _other) = serve(move || Reply::json(new)).await;

    let one = reader.lxc_interfaces(&pve1(), vmid(101)).await.unwrap();

    assert_eq!(one, newer.lxc_interfaces(&pve1(), vmid(101)).await.unwrap());
    let Interfaces::Known(found) = one else { panic!("it answered") };
    assert_eq!((found.len(), found[0].addresses.len()), (1, 2));
}

/// A18
#[tokio::test]
async fn silence_is_no_error_and_says_nothing_of_addresses() {
    let error =
        r#"{"data":{"result":{"error":{"class":"CommandDisabled","desc":"has been disabled"}}}}"#;
    for (status, body) in [
        ("200 OK", error),
        ("500 QEMU guest agent is not running", r#"{"data":null}"#),
        ("500 No QEMU guest agent configured", r#"{"data":null}"#),
        ("500 VM 100 is not running", r#"{"data":null}"#),
    ] {
        let (reader, _server) = serve(move || Reply::answer(status, "", body)).await;
        let silent = reader.agent_interfaces(&pve1(), vmid(100)).await.unwrap();
        assert!(matches!(silent, Interfaces::Silent(_)));
    }
    let (reader, _server) = serve(|| Reply::json(r#"{"data":null}"#)).await;
    let stopped = reader.lxc_interfaces(&pve1(), vmid(100)).await.unwrap();
    assert!(matches!(stopped, Interfaces::Silent(_)));
}
