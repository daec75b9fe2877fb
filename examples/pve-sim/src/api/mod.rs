//! PVE's API: which paths there are, who may ask, which daemon answers, and the answers.
//!
//! ```text
//! request --token--> route --privileges--> node in the path --parameters--> handler
//!            401       501        403          500, 595, 596        400
//! ```
//!
//! That order is PVE's own (pve-manager: PVE/HTTPServer.pm, `rest_handler`). Each area of the
//! API has a module; a new endpoint is a line in [`routes`] and a function.

#![expect(clippy::unnecessary_wraps, reason = "handlers share one signature")]

mod access;
pub(crate) mod answer;
pub(crate) mod call;
mod change;
mod clone;
mod cluster;
mod content;
mod create;
mod destroy;
pub(crate) mod download;
mod guests;
mod nodes;
mod power;
mod resources;
pub(crate) mod routes;
mod storages;
mod tasks;
mod template;
pub(crate) mod upload;

use std::collections::BTreeMap;

use answer::{Answer, Connection, Refusal};
use call::Call;
use routes::{Daemon, Needs, Route};

use crate::world::Health;
use crate::world::file::Digest;

/// Answers a request whose token was good.
pub(crate) fn handle(call: &mut Call<'_>, route: &Route) -> Answer {
    if let Err(refusal) = permitted(call, route) {
        return Answer::refused(refusal);
    }
    let remote = match reach(call, route) {
        Ok(remote) => remote,
        Err(answer) => return answer,
    };
    let connection = match (route.daemon, remote) {
        (Daemon::Proxy, false) => Connection::KeepAlive,
        (Daemon::Proxy, true) => Connection::KeepAliveTwice,
        (Daemon::Root, false) => Connection::CloseAndKeepAlive,
        (Daemon::Root, true) => Connection::CloseViaNode,
    };
    let outcome = verify(call, route).and_then(|()| (route.handler)(call));
    match outcome {
        Ok(body) => Answer::ok(&body, connection),
        Err(refusal) => Answer::refused(refusal),
    }
}

/// Answers an upload whose privileges were looked at before its body came.
///
/// It is not passed on to the node in the path: the node that was asked takes it.
pub(crate) fn handle_upload(call: &mut Call<'_>, route: &Route, digest: Digest) -> Answer {
    if let Err(refusal) = permitted(call, route) {
        return Answer::refused(refusal);
    }
    if let Err(answer) = reach(call, route) {
        return answer;
    }
    match verify(call, route).and_then(|()| upload::with_file(call, digest)) {
        Ok(body) => Answer::ok(&body, Connection::Close),
        Err(refusal) => Answer::refused(refusal),
    }
}

pub(crate) fn permitted(call: &Call<'_>, route: &Route) -> Result<(), Refusal> {
    let (path, wanted, any) = match route.needs {
        Needs::Nothing => return Ok(()),
        Needs::All(path, wanted) => (path, wanted, false),
        Needs::Any(path, wanted) => (path, wanted, true),
    };
    let path = call.fill(path);
    let has = |privilege: &&&str| call.may(&path, privilege);
    if any {
        if !wanted.iter().any(|privilege| has(&privilege)) {
            return Err(Refusal::forbidden(&path, &wanted.join("|")));
        }
    } else if let Some(missing) = wanted.iter().find(|privilege| !has(privilege)) {
        return Err(Refusal::forbidden(&path, missing));
    }
    Ok(())
}

/// Finds out whether the node in the path, and the daemon there, can answer; says whether the
/// node is another one than the one that was asked.
fn reach(call: &Call<'_>, route: &Route) -> Result<bool, Answer> {
    let entry = call.entry;
    let target = call.path.get("node").map_or(entry, String::as_str);
    let target = if target == "localhost" { entry } else { target };
    let remote = target != entry;
    let Some(node) = call.world.nodes.get(target) else {
        return Err(Answer::refused(unknown_node(target)));
    };
    let daemon = match node.health {
        Health::Off => return Err(Answer::no_route(call.config.unreachable_delay)),
        Health::Isolated if remote => {
            return Err(Answer::no_route(call.config.unreachable_delay));
        }
        _ if remote && !call.world.is_online(entry, target) => {
            return Err(Answer::no_route(call.config.unreachable_delay));
        }
        Health::ProxyDown if remote => return Err(Answer::connection_refused()),
        health => health,
    };
    match (daemon, route.daemon) {
        (Health::DaemonDown, Daemon::Root) => Err(Answer::connection_refused()),
        (Health::DaemonHung, Daemon::Root) => Err(Answer::timed_out(call.config.hung_delay)),
        _ => Ok(remote),
    }
}

/// PVE resolves the name like any host's, so what it says depends on how the name looks.
fn unknown_node(name: &str) -> Refusal {
    let host_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    let cause = if host_name {
        "Temporary failure in name resolution"
    } else {
        "Name or service not known"
    };
    Refusal::error(format!(
        "hostname lookup '{name}' failed - failed to get address info for: {name}: {cause}"
    ))
}

fn verify(call: &Call<'_>, route: &Route) -> Result<(), Refusal> {
    let mut errors = BTreeMap::new();
    for (name, value) in &call.query {
        match route.params.iter().find(|(known, _)| names(known, name)) {
            None => {
                let text = "property is not defined in schema and the schema does not allow \
                            additional properties";
                errors.insert(name.clone(), text.to_owned());
            }
            Some((_, form)) => {
                if let Err(text) = form.check(value) {
                    errors.insert(name.clone(), text);
                }
            }
        }
    }
    for name in route.required {
        if !call.query.contains_key(*name) {
            let text = "property is missing and it is not optional";
            errors.insert((*name).to_owned(), text.to_owned());
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Refusal::parameters(errors)) }
}

/// Whether a known parameter is the one given; `scsi#` is `scsi0`, `scsi1`, …
fn names(known: &str, given: &str) -> bool {
    match known.strip_suffix('#') {
        None => known == given,
        Some(stem) => given.strip_prefix(stem).is_some_and(|n| n.parse::<u32>().is_ok()),
    }
}
