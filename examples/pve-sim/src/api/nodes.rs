//! `/version`, `/nodes` and what a node tells of itself.

use serde_json::json;

use crate::json::Rows;

use super::answer::{Body, Refusal};
use super::call::Call;
use super::resources::node_row;

pub(super) fn version(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let node = call.path.get("node").map_or(call.entry, String::as_str);
    let node = if node == "localhost" { call.entry } else { node };
    let version = &call.world.nodes[node].version;
    let release: Vec<&str> = version.splitn(3, '.').take(2).collect();
    Ok(Body::of(&json!({
        "version": version,
        "release": release.join("."),
        "repoid": "14a22df35955d97d",
    })))
}

/// Names, states and certificates for everybody; numbers with Sys.Audit.
pub(super) fn list(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let tick = call.tick();
    let mut rows = Rows::with_capacity(call.world.nodes.len());
    for node in call.world.nodes.values() {
        let mut row = rows.row();
        node_row(call, node, tick, &mut row);
        row.str("ssl_fingerprint", &node.certificate.certificate.fingerprint);
    }
    Ok(call.shuffled(rows))
}
