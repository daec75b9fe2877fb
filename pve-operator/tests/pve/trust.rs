//! Who gets the token, and who does not.

use pve_operator::pve::{ErrorClass, FirstUse, Learned, PveError, Retry, Trust};

use crate::server::{Authority, Identity, Reply, SECRET, Server};

fn version(_: &str) -> Reply {
    Reply::json(r#"{"data":{"version":"9.2.11","release":"9.2","repoid":"x"}}"#)
}

fn pinned(fingerprints: &str) -> Trust {
    Trust::parse(Some(fingerprints), None, false, FirstUse::Refuse).unwrap()
}

fn signed_by(authority: &Authority) -> Trust {
    Trust::parse(None, Some(&authority.pem), false, FirstUse::Refuse).unwrap()
}

/// The one who answered was not trusted: nothing was sent, and what it showed is known.
async fn assert_refused(server: &Server, identity: &Identity, trust: Trust) {
    let error = server.reader(trust).version().await.unwrap_err();

    assert_eq!(error.class(), ErrorClass::Tls, "{}", error.report());
    assert_eq!(error.presented_fingerprint(), Some(identity.fingerprint()));
    assert!(error.to_string().contains(&identity.fingerprint().to_string()));
    assert_eq!(error.retry(), Retry::Fix);
    assert!(!format!("{error:?}").contains(SECRET));
    assert!(server.requests().is_empty(), "nothing may be sent before trust");
}

async fn assert_accepted(server: &Server, trust: Trust) {
    let version = server.reader(trust).version().await;

    assert_eq!(version.map_err(|error| error.report()).unwrap().version, "9.2.11");
    assert!(server.requests()[0].contains(&format!("PVEAPIToken=root@pam!test={SECRET}")));
}

/// C05
#[tokio::test]
async fn a_certificate_other_than_the_pinned_one_gets_no_token() {
    let (identity, other) = (Identity::self_signed(&["pve1"]), Identity::self_signed(&["pve1"]));
    let server = Server::start(&identity, version).await;

    assert_refused(&server, &identity, pinned(&other.fingerprint().to_string())).await;
}

#[tokio::test]
async fn a_pinned_certificate_is_accepted_whatever_its_name_and_however_it_is_written() {
    let (identity, other) = (Identity::self_signed(&["x"]), Identity::self_signed(&["y"]));
    let server = Server::start(&identity, version).await;
    let fingerprint = identity.fingerprint().to_string();

    assert_accepted(&server, pinned(&fingerprint)).await;
    let lower = fingerprint.replace(':', "").to_lowercase();
    assert_accepted(&server, pinned(&format!("{}, {lower}", other.fingerprint()))).await;
}

/// C05
#[tokio::test]
async fn without_any_setting_a_self_signed_certificate_gets_no_token() {
    let identity = Identity::self_signed(&["127.0.0.1"]);
    let server = Server::start(&identity, version).await;

    assert_refused(&server, &identity, Trust::default()).await;
}

/// C05
#[tokio::test]
async fn a_company_ca_vouches_for_names_and_pves_own_for_its_nodes() {
    let (company, pve) = (Authority::new("Example Ltd"), Authority::of_pve());

    let right = company.issue(&["127.0.0.1"]);
    assert_accepted(&Server::start(&right, version).await, signed_by(&company)).await;
    let elsewhere = company.issue(&["mail.example.com"]);
    let server = Server::start(&elsewhere, version).await;
    assert_refused(&server, &elsewhere, signed_by(&company)).await;
    let node = pve.issue(&["pve1", "10.0.0.1"]);
    let server = Server::start(&node, version).await;
    assert_refused(&server, &node, signed_by(&company)).await;
    assert_accepted(&server, signed_by(&pve)).await;
    let old = pve.issue_expired(&["pve1"]);
    assert_refused(&Server::start(&old, version).await, &old, signed_by(&pve)).await;
}

#[tokio::test]
async fn a_servers_own_certificate_given_as_its_ca_is_a_pin() {
    let identity = Identity::self_signed(&["pve1"]);
    let server = Server::start(&identity, version).await;
    let trust = Trust::parse(None, Some(&identity.pem), false, FirstUse::Refuse).unwrap();

    assert_accepted(&server, trust).await;
}

#[tokio::test]
async fn insecure_accepts_anyone_and_learns_nothing() {
    let server = Server::start(&Identity::self_signed(&["x"]), version).await;
    let trust = Trust::parse(None, None, true, FirstUse::Refuse).unwrap();
    let reader = server.reader(trust);

    reader.version().await.unwrap();

    assert_eq!(reader.learn_trust().await.unwrap(), Learned::default());
}

#[tokio::test]
async fn the_first_certificate_is_pinned_and_the_next_one_is_not() {
    let (first, second) = (Identity::self_signed(&["x"]), Identity::self_signed(&["x"]));
    let trust = Trust::parse(None, None, false, FirstUse::Pin).unwrap();
    let server = Server::start(&first, version).await;
    let reader = server.reader(trust.clone());
    assert!(reader.learned().is_empty());

    reader.version().await.unwrap();

    let learned = reader.learned();
    assert_eq!(learned.fingerprints, [first.fingerprint()].into());
    let impostor = Server::start(&second, version).await;
    let reader = impostor.reader(trust);
    reader.trust_learned(learned).unwrap();
    let error = reader.version().await.unwrap_err();
    assert_eq!(error.presented_fingerprint(), Some(second.fingerprint()));
    assert!(impostor.requests().is_empty());
}

#[tokio::test]
async fn what_stands_before_the_cluster_stays_pinned_beside_its_nodes() {
    let (proxy, node) = (Identity::self_signed(&["x"]), Identity::self_signed(&["pve1"]));
    let nodes = format!(
        r#"{{"data":[{{"node":"pve1","status":"online","ssl_fingerprint":"{}"}}]}}"#,
        node.fingerprint()
    );
    let server = Server::start(&proxy, move |path| match path {
        "/nodes" => Reply::json(&nodes),
        _ => Reply::json(r#"{"data":[]}"#),
    })
    .await;
    let reader = server.reader(Trust::parse(None, None, false, FirstUse::Pin).unwrap());

    for _ in 0..3 {
        let learned = reader.learn_trust().await.unwrap();

        assert_eq!(learned.fingerprints, [proxy.fingerprint(), node.fingerprint()].into());
    }
}

#[tokio::test]
async fn a_pin_that_is_configured_wins_over_first_use() {
    let (identity, other) = (Identity::self_signed(&["x"]), Identity::self_signed(&["x"]));
    let server = Server::start(&identity, version).await;
    let fingerprint = other.fingerprint().to_string();

    let trust = Trust::parse(Some(&fingerprint), None, false, FirstUse::Pin).unwrap();

    assert_refused(&server, &identity, trust).await;
}

#[tokio::test]
async fn a_renewed_certificate_is_accepted_through_the_ca_that_was_learned() {
    let pve = Authority::of_pve();
    let (old, new) = (pve.issue(&["pve1"]), pve.issue(&["pve1"]));
    let nodes = format!(
        r#"{{"data":[{{"node":"pve1","status":"online","ssl_fingerprint":"{}"}}]}}"#,
        old.fingerprint()
    );
    let pem = serde_json::to_string(&pve.pem).unwrap();
    let certificates = format!(r#"{{"data":[{{"filename":"pve-root-ca.pem","pem":{pem}}}]}}"#);
    let answer = move |path: &str| match path {
        "/nodes" => Reply::json(&nodes),
        "/nodes/pve1/certificates/info" => Reply::json(&certificates),
        _ => version(path),
    };
    let server = Server::start(&old, answer).await;
    let trust = pinned(&old.fingerprint().to_string());
    let reader = server.reader(trust.clone());

    let learned = reader.learn_trust().await.unwrap();

    assert_eq!(learned, reader.learned());
    assert_eq!(learned.fingerprints, [old.fingerprint()].into());
    let renewed = Server::start(&new, version).await;
    assert_refused(&renewed, &new, trust.clone()).await;
    let reader = renewed.reader(trust);
    reader.trust_learned(learned).unwrap();
    reader.version().await.unwrap();
}

#[tokio::test]
async fn something_that_is_no_tls_is_told_apart_from_a_wrong_certificate() {
    let server = Server::start_plain(|_| Reply::answer("301 Moved Permanently", "", "")).await;

    let error = server.reader(pinned("")).version().await.unwrap_err();

    assert_eq!(error.class(), ErrorClass::Tls);
    assert_eq!(error.presented_fingerprint(), None);
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_says_to_use_https() {
    let identity = Identity::self_signed(&["x"]);
    let moved = |_: &str| Reply::answer("301 Moved", "Location: https://127.0.0.1:1/\r\n", "");
    let server = Server::start(&identity, moved).await;

    let error =
        server.reader(pinned(&identity.fingerprint().to_string())).version().await.unwrap_err();

    assert!(matches!(error, PveError::NotHttps { .. }));
    assert!(error.to_string().contains("use https://HOST:8006"), "{error}");
}

#[test]
fn a_setting_that_cannot_be_read_never_means_less_verification() {
    fn bad(fingerprint: Option<&str>, ca: Option<&str>) -> bool {
        Trust::parse(fingerprint, ca, false, FirstUse::Refuse).is_err()
    }

    assert!(bad(Some("AA:BB"), None));
    assert!(bad(Some(&"zz".repeat(32)), None));
    assert!(bad(Some(&"+1".repeat(32)), None));
    assert!(bad(None, Some("no pem")));
    assert!(bad(None, Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----")));
    let empty = Trust::parse(Some(" "), Some("\n"), false, FirstUse::Refuse).unwrap();
    assert_eq!(empty, Trust::default());
}

#[test]
fn another_setting_is_another_trust() {
    let pins = [pinned(&"aa".repeat(32)), pinned(&"bb".repeat(32)), Trust::default()];

    assert_eq!(pins[0].identity(), pinned(&"AA:".repeat(32)[..95]).identity());
    assert_ne!(pins[0].identity(), pins[1].identity());
    assert_ne!(pins[0].identity(), pins[2].identity());
}
