//! Nodes: the list, their state, their network, what their QEMU can do.

use serde_json::{Map, Value, json};

use super::{Call, Reply};
use crate::sim::world::scenario::NodeSpec;

/// Returns a node's line, with the numbers only for those who may see them.
pub(super) fn row(call: &Call<'_>, node: &NodeSpec, in_resources: bool) -> Map<String, Value> {
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
        put("cpu", json!(0.25));
        put("maxcpu", json!(node.cpus));
        put("mem", json!(used_memory(call, node)));
        put("maxmem", json!(node.memory));
        put("disk", json!(4_u64 << 30));
        put("maxdisk", json!(100_u64 << 30));
        put("uptime", json!(call.cluster.uptime()));
        if in_resources && call.release() >= (7, 0) {
            put("cgroup-mode", json!(2));
        }
    }
    if in_resources && !call.cluster.ha.is_empty() && call.release() >= (8, 3) {
        put(
            "hastate",
            json!(if node.online { "online" } else { "unknown" }),
        );
    }
    row
}

fn used_memory(call: &Call<'_>, node: &NodeSpec) -> u64 {
    let running = call
        .cluster
        .guests
        .values()
        .filter(|g| g.node == node.name && g.run.is_some());
    (2 << 30) + running.map(|guest| guest.memory()).sum::<u64>()
}

/// `GET /nodes`.
pub(super) fn list(call: &mut Call<'_>) -> Reply {
    let rows: Vec<Value> = call
        .cluster
        .nodes
        .iter()
        .map(|node| Value::Object(row(call, node, false)))
        .collect();
    Ok(json!(rows))
}

/// `GET /nodes/N/status`.
pub(super) fn status(call: &mut Call<'_>) -> Reply {
    let Some(node) = call.cluster.node(&call.node) else {
        return Ok(Value::Null);
    };
    let used = used_memory(call, node);
    let version = &call.cluster.version;
    let mut reply = json!({
        "uptime": call.cluster.uptime(), "cpu": 0.25, "wait": 0, "idle": 0,
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
