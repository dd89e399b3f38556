//! The cluster as a whole: release, members, resources, free ids, jobs.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Call, Refusal, Reply, nodes};
use crate::sim::world::guest::Guest;
use crate::sim::world::scenario::ReplicationSpec;

/// `GET /version` and `GET /nodes/N/version`.
pub(super) fn version(call: &mut Call<'_>) -> Reply {
    let cluster = &call.cluster;
    let mut reply = json!({"version": cluster.version, "release": cluster.release_text()});
    let id = match cluster.release() >= (7, 0) {
        true => "2a5fa54a8503f96d",
        false => "2a5fa54a",
    };
    reply["repoid"] = json!(id);
    Ok(reply)
}

/// `GET /cluster/status`.
pub(super) fn status(call: &mut Call<'_>) -> Reply {
    let cluster = &call.cluster;
    let several = cluster.nodes.len() > 1;
    let mut rows = Vec::new();
    if several {
        rows.push(json!({
            "type": "cluster", "id": "cluster", "name": cluster.alias, "version": 3,
            "nodes": cluster.nodes.len(), "quorate": u8::from(cluster.is_quorate()),
        }));
    }
    for (number, node) in cluster.nodes.iter().enumerate() {
        rows.push(json!({
            "type": "node", "id": format!("node/{}", node.name), "name": node.name, "ip": node.ip,
            "nodeid": if several { number + 1 } else { 0 }, "local": u8::from(number == 0),
            "online": u8::from(node.online), "level": "",
        }));
    }
    Ok(json!(rows))
}

/// `GET /cluster/resources`: what was broadcast last, except for a few things that every node knows at once.
pub(super) fn resources(call: &mut Call<'_>) -> Reply {
    let wanted = call.text("type");
    let wants = |kind: &str| wanted.is_none_or(|wanted| wanted == kind);
    let mut rows = Vec::new();
    if wanted.is_none() {
        for name in call.cluster.pools.keys() {
            if call
                .cluster
                .may(&call.who, &format!("/pool/{name}"), &["Pool.Audit"])
            {
                rows.push(json!({"id": format!("/pool/{name}"), "type": "pool", "pool": name}));
            }
        }
    }
    if wants("vm") {
        let online = call.cluster.nodes.iter().filter(|node| node.online);
        let online: BTreeSet<&str> = online.map(|node| node.name.as_str()).collect();
        for guest in call.cluster.guests.values() {
            if call
                .cluster
                .may(&call.who, &format!("/vms/{}", guest.vmid), &["VM.Audit"])
            {
                let online = online.contains(guest.node.as_str());
                rows.push(Value::Object(guest_row(call, guest, online)));
            }
        }
    }
    if wants("node") {
        let used = call.cluster.guest_use();
        for node in &call.cluster.nodes {
            rows.push(Value::Object(nodes::row(call, node, &used, true)));
        }
    }
    if wants("storage") {
        rows.extend(storage_rows(call));
    }
    if wants("sdn") && call.release() >= (7, 0) {
        for node in &call.cluster.nodes {
            let path = "/sdn/zones/localnetwork";
            if node.online && call.cluster.may(&call.who, path, &["SDN.Audit", "SDN.Use"]) {
                rows.push(json!({
                    "id": format!("sdn/{}/localnetwork", node.name), "type": "sdn",
                    "node": node.name, "sdn": "localnetwork", "status": "ok",
                }));
            }
        }
    }
    Ok(json!(rows))
}

fn guest_row(call: &Call<'_>, guest: &Guest, online: bool) -> Map<String, Value> {
    let kind = if guest.container { "lxc" } else { "qemu" };
    let mut row = match call.cluster.broadcasts.get(&guest.vmid) {
        Some(broadcast) if online => broadcast.row.clone(),
        _ => Map::from_iter([("status".to_owned(), json!("unknown"))]),
    };
    row.insert("id".to_owned(), json!(format!("{kind}/{}", guest.vmid)));
    row.insert("type".to_owned(), json!(kind));
    row.insert("vmid".to_owned(), json!(guest.vmid));
    row.insert("node".to_owned(), json!(guest.node));
    if let Some(lock) = guest.lock() {
        row.insert("lock".to_owned(), json!(lock));
    }
    if let Some(tags) = guest
        .config
        .get("tags")
        .filter(|_| call.release() >= (7, 3))
    {
        row.insert("tags".to_owned(), json!(tags));
    }
    if let Some(pool) = call.cluster.pool_of(guest.vmid)
        && call
            .cluster
            .may(&call.who, &format!("/pool/{pool}"), &["Pool.Audit"])
    {
        row.insert("pool".to_owned(), json!(pool));
    }
    if let Some(ha) = call.cluster.ha.iter().find(|ha| ha.guest == guest.vmid) {
        // What the manager does with it, or what is asked of it where the manager has not looked yet.
        let service = call.cluster.manager.services.get(&guest.vmid);
        let state = service.map_or(&ha.state, |service| &service.state);
        row.insert("hastate".to_owned(), json!(state));
    }
    row
}

fn storage_rows(call: &Call<'_>) -> Vec<Value> {
    let mut rows = Vec::new();
    for node in &call.cluster.nodes {
        for storage in &call.cluster.storages {
            let path = format!("/storage/{}", storage.id);
            if !call.cluster.storage_serves(storage, &node.name)
                || !call.cluster.may(&call.who, &path, &["Datastore.Audit"])
            {
                continue;
            }
            let space = call.cluster.space(storage, &node.name);
            let space = space.filter(|_| node.online);
            let mut row = json!({
                "id": format!("storage/{}/{}", node.name, storage.id), "type": "storage",
                "storage": storage.id, "node": node.name, "plugintype": storage.kind,
                "shared": u8::from(storage.shared), "content": storage.content,
                "status": if space.is_some() { "available" } else { "unknown" },
            });
            if let Some(space) = space {
                row["maxdisk"] = json!(space.total);
                row["disk"] = json!(space.used);
            }
            rows.push(row);
        }
    }
    rows
}

/// `GET /cluster/nextid`. Nothing is reserved.
pub(super) fn next_id(call: &mut Call<'_>) -> Reply {
    let taken = &call.cluster.guests;
    match call.text("vmid").and_then(|text| text.parse::<u32>().ok()) {
        Some(vmid) if taken.contains_key(&vmid) => {
            Err(Refusal::param("vmid", format!("VM {vmid} already exists")))
        }
        Some(vmid) => Ok(json!(vmid.to_string())),
        None => {
            let free = (100..)
                .find(|vmid| !taken.contains_key(vmid))
                .unwrap_or(100);
            Ok(json!(free.to_string()))
        }
    }
}

/// `GET /cluster/options`.
pub(super) fn options(call: &mut Call<'_>) -> Reply {
    call.require("/", &["Sys.Audit"])?;
    Ok(json!({"keyboard": "en-us"}))
}

/// `GET /cluster/replication`.
pub(super) fn replication(call: &mut Call<'_>) -> Reply {
    let rows = jobs(call).into_iter().map(|(_, row)| row);
    Ok(json!(rows.collect::<Vec<_>>()))
}

/// `GET /nodes/N/replication`: the jobs of the guests on that node, with their states.
pub(super) fn replication_states(call: &mut Call<'_>) -> Reply {
    let wanted = call.number("guest");
    let mut rows = Vec::new();
    for (job, mut row) in jobs(call) {
        let on_node = call
            .cluster
            .guests
            .get(&job.guest)
            .is_some_and(|guest| guest.node == call.node);
        if !on_node || wanted.is_some_and(|wanted| wanted != u64::from(job.guest)) {
            continue;
        }
        row["vmtype"] = json!("qemu");
        row["source"] = json!(call.node);
        row["fail_count"] = json!(0);
        row["last_sync"] = json!(0);
        row["last_try"] = json!(0);
        if job.running {
            row["pid"] = json!(4_242);
        }
        rows.push(row);
    }
    Ok(json!(rows))
}

/// Returns the jobs that the caller may see, as the configuration shows them.
fn jobs(call: &Call<'_>) -> Vec<(ReplicationSpec, Value)> {
    let all = &call.cluster.replication;
    let visible = all.iter().enumerate().filter(|(_, job)| {
        call.cluster
            .may(&call.who, &format!("/vms/{}", job.guest), &["VM.Audit"])
    });
    visible
        .map(|(place, job)| {
            let number = all[..place]
                .iter()
                .filter(|other| other.guest == job.guest)
                .count();
            let row = json!({
                "id": format!("{}-{number}", job.guest), "guest": job.guest, "jobnum": number,
                "target": job.target, "type": "local", "schedule": job.schedule,
            });
            (job.clone(), row)
        })
        .collect()
}
