//! What is checked for is what `manifests/pve-role.sh` grants and `docs/privileges.md` explains.

use std::{collections::BTreeMap, process::Command};

use serde_json::{Map, Value, json};

use super::*;

/// The commands that the script prints.
fn commands(arguments: &[&str]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/pve-role.sh");
    let printed = Command::new("bash").arg(script).args(arguments).output().unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    String::from_utf8(printed.stdout).unwrap()
}

/// What a token may do after these commands: an ACL on a path replaces what is inherited there.
fn granted(commands: &str) -> Permissions {
    let mut roles: BTreeMap<&str, &str> = BTreeMap::new();
    let mut paths = Map::new();
    for line in commands.lines().filter(|line| line.starts_with("pveum ")) {
        let last = line.rsplit_once("--").map(|(_, last)| last).unwrap_or_default();
        let value = last.split_once(' ').map_or("", |(_, value)| value.trim_matches('\''));
        let words: Vec<&str> = line.split(' ').collect();
        match words[1..3] {
            ["role", "add"] => drop(roles.insert(words[3], value)),
            ["acl", "modify"] => {
                let privileges = value.split(',').flat_map(|role| roles[role].split(' '));
                let privileges: Map<String, Value> =
                    privileges.map(|it| (it.to_owned(), json!(1))).collect();
                paths.insert(words[3].to_owned(), Value::Object(privileges));
            }
            _ => {}
        }
    }
    let body = json!({ "data": paths }).to_string();
    Permissions::parse("GET /access/permissions", body.as_bytes()).unwrap()
}

const TEMPLATES: [&str; 5] = ["--templates", "--storage", "local-lvm", "--bridge", "vmbr0"];

fn lacks(permissions: &Permissions) -> Vec<String> {
    lacking(permissions, "/pool/templates", "local", "local-lvm", Some("vmbr0"))
}

/// B18
#[test]
fn the_role_grants_all_that_is_checked_for() {
    let permissions = granted(&commands(&TEMPLATES));

    assert_eq!(lacks(&permissions), Vec::<String>::new());
    assert!(permissions.has("/nodes/pve1", "Sys.AccessNetwork"));
    for need in crate::pve::MIRROR {
        assert!(permissions.has(need.path, need.privilege), "{need}");
    }
    for path in ["/storage/local", "/storage/local-lvm", "/pool/templates", "/nodes/pve1"] {
        assert!(permissions.has(path, "Sys.Audit"), "the mirror sees less below {path}");
    }
    let vmid = Vmid::new(9000).unwrap();
    assert_eq!(pool(&permissions, vmid).as_deref(), Some("templates"));
}

#[test]
fn the_reading_role_changes_nothing() {
    let reading = granted(&commands(&[]));

    assert!(lacks(&reading).len() > ON_GUEST.len());
    assert!(!lacks(&reading).iter().any(|it| it.contains("Audit")), "it may look");
}

#[test]
fn the_document_explains_each_of_them() {
    let document = include_str!("../../../docs/privileges.md");
    let nothing = granted("");

    let missing = lacks(&nothing);

    assert!(missing.len() > 12, "{missing:?}");
    for it in &missing {
        let privilege = it.split(' ').next().unwrap();
        let row = |line: &str| line.starts_with("| ") && line.contains(&format!("`{privilege}`"));
        assert!(document.lines().any(row), "{privilege} is in no row");
    }
    for line in commands(&TEMPLATES).lines().filter(|line| line.starts_with("pveum role add T")) {
        let document = document.replace("'`", "");
        for privilege in line.rsplit("--privs ").next().unwrap().trim_matches('\'').split(' ') {
            assert!(document.contains(&format!("`{privilege}`")), "{privilege} is not explained");
        }
    }
}
