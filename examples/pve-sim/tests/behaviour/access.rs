//! Tokens and privileges.

use std::sync::Arc;

use pve_sim::{Config, Sim, Token};
use serde_json::json;

use crate::client::{Connection, request};
use crate::{data, refusal, resources, sim};

#[test]
fn guests_vanish_with_the_privilege_and_come_back_with_it() {
    let sim = sim();
    let whole = resources(&sim).len();

    sim.withdraw("/", &["VM.Audit"]);
    let rows = resources(&sim);
    assert!(rows.keys().all(|id| !id.starts_with("qemu/") && !id.starts_with("lxc/")));
    assert!(rows.contains_key("node/pve1") && rows.contains_key("storage/pve1/local"));
    assert!(data(&sim, "/access/permissions")["/"].get("VM.Audit").is_none());

    sim.grant("/vms/100", &["VM.Audit"]);
    assert_eq!(resources(&sim).keys().filter(|id| id.ends_with("/100")).count(), 1);

    sim.grant("/", &["VM.Audit"]);
    assert_eq!(resources(&sim).len(), whole);
}

#[test]
fn without_sys_audit_nodes_have_no_numbers_and_the_status_is_refused() {
    let sim = sim();

    sim.withdraw("/", &["Sys.Audit", "Datastore.Audit"]);

    let rows = resources(&sim);
    assert_eq!(rows["node/pve1"]["status"], "online");
    assert!(rows["node/pve1"].get("maxmem").is_none());
    assert!(!rows.contains_key("storage/pve1/local"));
    let refused = (403, "Permission check failed (/, Sys.Audit)".to_owned());
    assert_eq!(refusal(&sim, "/cluster/status"), refused);
    assert!(data(&sim, "/nodes")[0]["ssl_fingerprint"].is_string());
}

#[test]
fn a_pool_grants_what_its_guests_need() {
    let sim = sim();
    let pooled = sim.guests().iter().filter(|g| g.pool.as_deref() == Some("prod")).count();
    let id = sim.user_id();
    let token = Token::new(&id, &sim.token()).granted("/pool/prod", &["VM.Audit"]);
    sim.put_token(token);

    let rows = resources(&sim);

    let guests = rows.values().filter(|row| row.get("vmid").is_some()).count();
    assert!(pooled > 0);
    assert_eq!(guests, pooled);
    assert_eq!(data(&sim, "/access/permissions"), json!({"/pool/prod": {"VM.Audit": 1}}));
}

#[test]
fn a_rotated_token_leaves_the_old_one_worthless() {
    let sim = sim();
    let old = request(&sim, "/version");

    let fresh = sim.rotate_token();

    assert_eq!(fresh, sim.token());
    let mut connection = Connection::open(&sim, "pve1").unwrap();
    connection.send(&old).unwrap();
    let reply = connection.reply().unwrap();
    assert_eq!((reply.status, reply.reason.as_str()), (401, "Authentication failed!"));
    assert!(reply.body.is_empty() && connection.ends());
    assert!(data(&sim, "/version").is_object());
}

#[test]
fn a_revoked_token_is_refused_until_it_is_restored() {
    let sim = sim();

    sim.revoke_token();
    assert_eq!(refusal(&sim, "/version"), (401, "Authentication failed!".to_owned()));
    sim.restore_token();
    assert!(data(&sim, "/version").is_object());
}

#[test]
fn debug_output_has_no_secret() {
    let sim = Sim::start(Config { token: Some("s3cret".into()), ..Config::quick() }).unwrap();

    assert_eq!(sim.token(), "s3cret");
    assert!(!format!("{sim:?}").contains("s3cret"));
    assert!(!format!("{:?}", Arc::new(Token::new("a@pve!t", "s3cret"))).contains("s3cret"));
}
