//! The storage configuration and what a node sees of it.

use crate::json::{Object, Rows, object};
use crate::world::Storage;

use super::answer::{Body, Refusal};
use super::call::Call;
use super::resources::storage_used;

/// `/storage`: sections of the configuration.
pub(super) fn configuration(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let kind = call.param("type").map(str::to_owned);
    let storages = call.world.storages.clone();
    let mut rows = Rows::with_capacity(storages.len());
    for storage in &storages {
        let wanted = kind.as_ref().is_none_or(|kind| *kind == storage.plugin);
        if wanted && is_seen(call, storage) {
            let content = call.joined(&storage.content);
            section(storage, &content, &mut rows.row());
        }
    }
    Ok(call.shuffled(rows))
}

/// `/storage/{storage}`.
pub(super) fn one(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let name = call.part("storage").to_owned();
    let found = call.world.storages.iter().find(|storage| storage.name == name).cloned();
    let storage =
        found.ok_or_else(|| Refusal::error(format!("storage '{name}' does not exist")))?;
    let content = call.joined(&storage.content);
    Ok(Body::raw(object(|row| section(&storage, &content, row))))
}

/// `/nodes/{node}/storage`: the configuration with numbers of that node.
pub(super) fn of_node(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let tick = call.tick();
    let node = call.node().to_owned();
    let only = call.param("storage").map(str::to_owned);
    let content = call.param("content").map(str::to_owned);
    let enabled_only = call.param("enabled").is_some_and(|value| value == "1");
    let storages = call.world.storages.clone();
    let mut rows = Rows::with_capacity(storages.len());
    for storage in &storages {
        let wanted = only.as_ref().is_none_or(|only| *only == storage.name)
            && content.as_ref().is_none_or(|kinds| {
                kinds.split(',').any(|kind| storage.content.iter().any(|own| own == kind))
            })
            && (storage.enabled || !enabled_only);
        if !wanted || !storage.is_on(&node) || !is_seen(call, storage) {
            continue;
        }
        let content = call.joined(&storage.content);
        let mut row = rows.row();
        let used = used(call, storage, &node, tick);
        state(storage, &content, used, &mut row);
        row.str("storage", &storage.name);
        if storage.enabled {
            #[expect(clippy::cast_precision_loss, reason = "a fraction for people")]
            let fraction = used as f64 / storage.total as f64;
            row.float("used_fraction", fraction);
        }
    }
    Ok(call.shuffled(rows))
}

/// `/nodes/{node}/storage/{storage}/status`.
pub(super) fn status(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let tick = call.tick();
    let (name, node) = (call.part("storage").to_owned(), call.node().to_owned());
    let found = call.world.storages.iter().find(|storage| storage.name == name).cloned();
    let storage = found
        .filter(|storage| storage.is_on(&node))
        .ok_or_else(|| Refusal::parameter("storage", "No such storage."))?;
    let content = call.joined(&storage.content);
    let used = used(call, &storage, &node, tick);
    Ok(Body::raw(object(|row| state(&storage, &content, used, row))))
}

/// Bytes in use as a node sees them; where a test has set the free space they do not drift.
fn used(call: &Call<'_>, storage: &Storage, node: &str, tick: u64) -> u64 {
    let other = call.world.ballast_of(&storage.name, node);
    let other = other.unwrap_or_else(|| storage_used(storage, tick));
    (other + call.world.stored(&storage.name, node)).min(storage.total)
}

fn is_seen(call: &Call<'_>, storage: &Storage) -> bool {
    let path = format!("/storage/{}", storage.name);
    call.may(&path, "Datastore.Audit") || call.may(&path, "Datastore.AllocateSpace")
}

fn section(storage: &Storage, content: &str, row: &mut Object<'_>) {
    row.str("storage", &storage.name).str("type", &storage.plugin).str("content", content);
    for (key, value) in &storage.options {
        row.json(key, value);
    }
    if storage.shared {
        row.num("shared", 1);
    }
    if !storage.nodes.is_empty() {
        row.str("nodes", &storage.nodes.join(","));
    }
    if !storage.enabled {
        row.num("disable", 1);
    }
    row.str("digest", "110ccf940c8cb48255ef45ff19d3563344c9df69");
}

fn state(storage: &Storage, content: &str, used: u64, row: &mut Object<'_>) {
    let (total, used) = if storage.enabled { (storage.total, used) } else { (0, 0) };
    row.str("type", &storage.plugin)
        .str("content", content)
        .flag("shared", storage.shared)
        .flag("enabled", storage.enabled)
        .flag("active", storage.enabled)
        .num("total", total)
        .num("used", used)
        .num("avail", total - used);
}
