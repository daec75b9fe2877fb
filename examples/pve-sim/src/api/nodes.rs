//! `/version`, `/nodes` and what a node tells of itself.

use serde_json::json;

use crate::json::Rows;

use super::answer::{Body, Refusal};
use super::call::Call;
use super::resources::{node_row, node_usage};

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

/// `/nodes/{node}/status`.
pub(super) fn status(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let tick = call.tick();
    let node = &call.world.nodes[call.node()];
    let usage = node_usage(node, call.now, tick);
    let kernel = "6.17.4-1-pve";
    let built = "#1 SMP PREEMPT_DYNAMIC PMX 6.17.4-1";
    Ok(Body::of(&json!({
        "boot-info": {"mode": "legacy-bios"},
        "cpu": usage.cpu,
        "cpuinfo": {
            "cores": node.cpus, "cpus": node.cpus, "family": "6", "flags": "fpu vme de pse tsc",
            "hvm": "1", "mhz": "2100.000", "model": "Simulated CPU @ 2.10GHz", "sockets": 1,
            "user_hz": 100, "vendor": "GenuineIntel",
        },
        "current-kernel": {
            "machine": "x86_64", "release": kernel, "sysname": "Linux", "version": built,
        },
        "idle": 0,
        "ksm": {"shared": 0},
        "kversion": format!("Linux {kernel} {built}"),
        "loadavg": ["0.31", "0.42", "0.32"],
        "memory": {
            "available": node.maxmem - usage.mem, "free": (node.maxmem - usage.mem) / 2,
            "total": node.maxmem, "used": usage.mem,
        },
        "pveversion": format!("pve-manager/{}/14a22df35955d97d", node.version),
        "rootfs": {
            "avail": node.maxdisk - usage.disk, "free": node.maxdisk - usage.disk,
            "total": node.maxdisk, "used": usage.disk,
        },
        "swap": {"free": 0, "total": 0, "used": 0},
        "uptime": usage.uptime,
        "wait": 0.001,
    })))
}

/// `/nodes/{node}/certificates/info`: the authority's and the node's, for everybody.
pub(super) fn certificates(call: &mut Call<'_>) -> Result<Body, Refusal> {
    let node = &call.world.nodes[call.node()];
    let all = [&call.world.authority.certificate, &node.certificate.certificate];
    let rows: Vec<_> = all
        .into_iter()
        .map(|certificate| {
            json!({
                "filename": certificate.filename,
                "fingerprint": certificate.fingerprint,
                "issuer": certificate.issuer,
                "notafter": certificate.not_after,
                "notbefore": certificate.not_before,
                "pem": certificate.pem,
                "public-key-bits": 256,
                "public-key-type": "id-ecPublicKey",
                "san": certificate.san,
                "subject": certificate.subject,
            })
        })
        .collect();
    Ok(Body::of(&rows))
}
