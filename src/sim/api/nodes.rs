//! Nodes: the list, their state, their network, what their QEMU can do.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::check::split_list;
use super::{Call, Refusal, Reply, check_quorum};
use crate::sim::world::Use;
use crate::sim::world::scenario::NodeSpec;

/// Returns a node's line, with the numbers only for those who may see them.
pub(super) fn row(
    call: &Call<'_>,
    node: &NodeSpec,
    used: &BTreeMap<&str, Use>,
    in_resources: bool,
) -> Map<String, Value> {
    let mut row = Map::new();
    let mut put = |key: &str, value: Value| {
        row.insert(key.to_owned(), value);
    };
    put("id", json!(format!("node/{}", node.name)));
    put("node", json!(node.name));
    put("type", json!("node"));
    put(
        "status",
        json!(if node.online { "online" } else { "offline" }),
    );
    put("level", json!(""));
    if !in_resources {
        put("ssl_fingerprint", json!(call.cluster.fingerprint));
    }
    let path = format!("/nodes/{}", node.name);
    if node.online && call.cluster.may(&call.who, &path, &["Sys.Audit"]) {
        let (memory, cpu) = in_use(node, used);
        put("cpu", json!(cpu));
        put("maxcpu", json!(node.cpus));
        put("mem", json!(memory));
        put("maxmem", json!(node.memory));
        put("disk", json!(4_u64 << 30));
        put("maxdisk", json!(100_u64 << 30));
        put("uptime", json!(call.cluster.node_uptime(&node.name)));
        if in_resources && call.release() >= (7, 0) {
            put("cgroup-mode", json!(2));
        }
    }
    if in_resources && !call.cluster.ha.is_empty() && call.release() >= (8, 3) {
        put(
            "hastate",
            json!(call.cluster.manager.node_state(&node.name)),
        );
    }
    row
}

/// What the guests of a node use, and the node itself: bytes of memory, and CPU from 0.0 to 1.0.
fn in_use(node: &NodeSpec, used: &BTreeMap<&str, Use>) -> (u64, f64) {
    let guests = used.get(node.name.as_str()).copied().unwrap_or_default();
    let cpu = node.cpu_used + guests.cpus / f64::from(node.cpus.max(1));
    (node.memory_used + guests.memory, cpu.min(1.0))
}

/// `GET /nodes/N/config`.
pub(super) fn config(call: &mut Call<'_>) -> Reply {
    let Some(node) = call.cluster.node(&call.node) else {
        return Ok(Value::Null);
    };
    // There is no file until something is written, and no digest of it.
    if node.description.is_empty() {
        return Ok(json!({}));
    }
    match call.text("property") {
        None => Ok(json!({"description": node.description, "digest": digest(&node.description)})),
        Some("description") => Ok(json!({"description": node.description})),
        Some(_) => Ok(json!({})),
    }
}

fn digest(description: &str) -> String {
    let hash = Sha256::digest(description.as_bytes());
    hash.iter()
        .take(20)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// `PUT /nodes/N/config`.
pub(super) fn configure(call: &mut Call<'_>) -> Reply {
    check_quorum(call.cluster)?;
    let name = call.node.clone();
    let (given, wanted) = (
        call.text("digest").map(str::to_owned),
        call.text("description").map(str::to_owned),
    );
    let deletes =
        split_list(call.text("delete").unwrap_or_default()).any(|key| key == "description");
    let Some(node) = call.cluster.nodes.iter_mut().find(|node| node.name == name) else {
        return Ok(Value::Null);
    };
    let known = (!node.description.is_empty()).then(|| digest(&node.description));
    // A file that is not there has no digest, and then none is compared.
    if let (Some(given), Some(known)) = (given, known)
        && given != known
    {
        return Err(Refusal::died(
            "detected modified configuration - file changed by other user? Try again.",
        ));
    }
    if let Some(text) = wanted {
        node.description = text;
    }
    if deletes {
        node.description.clear();
    }
    Ok(Value::Null)
}

/// `POST /nodes/N/status`: reboot or shut down, which begins a moment later.
pub(super) fn command(call: &mut Call<'_>) -> Reply {
    let reboots = call.text("command") == Some("reboot");
    let node = call.node.clone();
    call.cluster
        .power_requests
        .push((node, reboots, Instant::now()));
    Ok(Value::Null)
}

/// `GET /nodes`.
pub(super) fn list(call: &mut Call<'_>) -> Reply {
    let used = call.cluster.guest_use();
    let rows: Vec<Value> = call
        .cluster
        .nodes
        .iter()
        .map(|node| Value::Object(row(call, node, &used, false)))
        .collect();
    Ok(json!(rows))
}

/// `GET /nodes/N/status`.
pub(super) fn status(call: &mut Call<'_>) -> Reply {
    let Some(node) = call.cluster.node(&call.node) else {
        return Ok(Value::Null);
    };
    let (used, cpu) = in_use(node, &call.cluster.guest_use());
    let version = &call.cluster.version;
    let mut reply = json!({
        "uptime": call.cluster.node_uptime(&node.name), "cpu": cpu, "wait": 0, "idle": 0,
        "loadavg": ["0.50", "0.40", "0.30"],
        "memory": {"total": node.memory, "used": used, "free": node.memory.saturating_sub(used)},
        "swap": {"total": 0, "used": 0, "free": 0},
        "rootfs": {"total": 100_u64 << 30, "used": 4_u64 << 30, "free": 96_u64 << 30, "avail": 96_u64 << 30},
        "ksm": {"shared": 0},
        "cpuinfo": {
            "cpus": node.cpus, "cores": node.cpus, "sockets": 1, "model": "Simulated CPU", "mhz": "2000.000",
            "hvm": "1", "user_hz": 100, "flags": "fpu vme",
        },
        "kversion": "Linux 6.8.12-1-pve #1 SMP PREEMPT_DYNAMIC",
        "pveversion": format!("pve-manager/{version}/2a5fa54a8503f96d"),
    });
    if call.release() >= (8, 0) {
        reply["boot-info"] = json!({"mode": "legacy-bios"});
        reply["current-kernel"] = json!({
            "sysname": "Linux", "release": "6.8.12-1-pve", "machine": "x86_64",
            "version": "#1 SMP PREEMPT_DYNAMIC",
        });
    }
    if call.release() >= (9, 0) {
        reply["memory"]["available"] = json!(node.memory.saturating_sub(used));
    }
    Ok(reply)
}

/// `GET /nodes/N/network`.
pub(super) fn network(call: &mut Call<'_>) -> Reply {
    let Some(node) = call.cluster.node(&call.node) else {
        return Ok(Value::Null);
    };
    let wanted = call.text("type");
    let mut rows = Vec::new();
    if wanted.is_none_or(|kind| kind == "eth") {
        rows.push(json!({
            "iface": "eno1", "type": "eth", "method": "manual", "method6": "manual", "families": ["inet"],
            "active": 1, "exists": 1,
        }));
    }
    if wanted.is_none_or(|kind| {
        matches!(
            kind,
            "bridge" | "any_bridge" | "any_local_bridge" | "include_sdn"
        )
    }) {
        for (place, bridge) in node.bridges.iter().enumerate() {
            let path = format!("/sdn/zones/localnetwork/{bridge}");
            let guarded = call.release() >= (8, 0) && wanted.is_some_and(|kind| kind != "bridge");
            if guarded
                && !call
                    .cluster
                    .may(&call.who, &path, &["SDN.Audit", "SDN.Use"])
            {
                continue;
            }
            rows.push(json!({
                "iface": bridge, "type": "bridge", "method": "manual", "method6": "manual", "families": ["inet"],
                "active": 1, "autostart": 1, "priority": place + 4, "bridge_ports": "eno1", "bridge_stp": "off",
                "bridge_fd": "0",
            }));
        }
    }
    Ok(json!(rows))
}

/// `GET /nodes/N/capabilities/qemu/machines`.
pub(super) fn machines(call: &mut Call<'_>) -> Reply {
    let newest = call.cluster.qemu_version(&call.node);
    let number = |text: &str| -> Option<(u32, u32)> {
        let mut parts = text.split('.').map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    };
    let newest = number(&newest).unwrap_or((9, 0));
    let mut rows = Vec::new();
    for (kind, stem) in [("i440fx", "pc-i440fx"), ("q35", "pc-q35")] {
        for major in (4..=newest.0).rev() {
            for minor in (0..=2).rev() {
                if (major, minor) > newest {
                    continue;
                }
                let version = format!("{major}.{minor}");
                rows.push(
                    json!({"id": format!("{stem}-{version}"), "type": kind, "version": version}),
                );
            }
        }
    }
    Ok(json!(rows))
}

/// `GET /nodes/N/capabilities/qemu/cpu`.
pub(super) fn cpus(call: &mut Call<'_>) -> Reply {
    let mut names = vec!["host", "kvm64", "qemu64", "Skylake-Server", "EPYC"];
    if call.release() >= (8, 0) {
        names.extend(["x86-64-v2", "x86-64-v2-AES", "x86-64-v3", "x86-64-v4"]);
    }
    let rows: Vec<Value> = names
        .into_iter()
        .map(|name| json!({"name": name, "vendor": "default", "custom": 0}))
        .collect();
    Ok(json!(rows))
}
