//! Reading guests: lists, configuration, what is pending, snapshots, state. All of it is up to date at once.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{Call, Refusal, Reply};
use crate::sim::world::guest::Guest;

/// `GET /nodes/N/qemu`.
pub(super) fn list_vms(call: &mut Call<'_>) -> Reply {
    Ok(list(call, false))
}

/// `GET /nodes/N/lxc`.
pub(super) fn list_containers(call: &mut Call<'_>) -> Reply {
    Ok(list(call, true))
}

fn list(call: &Call<'_>, containers: bool) -> Value {
    let full = call.flag("full");
    let mut rows = Vec::new();
    for guest in call.cluster.guests.values() {
        if guest.container != containers
            || guest.node != call.node
            || !call
                .cluster
                .may(&call.who, &format!("/vms/{}", guest.vmid), &["VM.Audit"])
        {
            continue;
        }
        let mut row = guest.list_row(call.release());
        if full && !containers {
            row.insert("qmpstatus".to_owned(), json!(qmp_status(guest)));
            add_process(call, guest, &mut row);
        }
        rows.push(Value::Object(row));
    }
    json!(rows)
}

fn qmp_status(guest: &Guest) -> &str {
    guest
        .run
        .as_ref()
        .map_or("stopped", |run| run.qmp_status.as_str())
}

/// Returns a configuration as JSON.
fn shown(call: &Call<'_>, config: &BTreeMap<String, String>) -> Map<String, Value> {
    config
        .iter()
        .map(|(key, value)| (key.clone(), Guest::shown(key, value, call.release())))
        .collect()
}

/// `GET qemu/ID/config`.
pub(super) fn config(call: &mut Call<'_>) -> Reply {
    let guest = call.guest()?;
    if let Some(name) = call.text("snapshot") {
        let mut map = snapshot_map(call, guest, name)?;
        map.insert("digest".to_owned(), json!(guest.digest()));
        return Ok(Value::Object(map));
    }
    let config = match call.flag("current") {
        true => guest.config.clone(),
        false => guest.effective(),
    };
    let mut map = shown(call, &config);
    map.insert("digest".to_owned(), json!(guest.digest()));
    Ok(Value::Object(map))
}

fn snapshot_map(call: &Call<'_>, guest: &Guest, name: &str) -> Result<Map<String, Value>, Refusal> {
    let snapshot = guest
        .snapshots
        .iter()
        .find(|snapshot| snapshot.name == name)
        .ok_or_else(|| Refusal::died(format!("snapshot '{name}' does not exist")))?;
    let mut map = shown(call, &snapshot.config);
    map.insert("snaptime".to_owned(), json!(snapshot.taken));
    if !snapshot.description.is_empty() {
        map.insert("description".to_owned(), json!(snapshot.description));
    }
    if let Some(parent) = &snapshot.parent {
        map.insert("parent".to_owned(), json!(parent));
    }
    Ok(map)
}

/// `GET qemu/ID/snapshot/NAME/config`.
pub(super) fn snapshot_config(call: &mut Call<'_>) -> Reply {
    let name = call.text("snapname").unwrap_or_default();
    Ok(Value::Object(snapshot_map(call, call.guest()?, name)?))
}

/// `GET qemu/ID/pending`.
pub(super) fn pending(call: &mut Call<'_>) -> Reply {
    let release = call.release();
    let shown = |key: &str, value: &str| Guest::shown(key, value, release);
    Ok(pending_rows(call.guest()?, shown))
}

/// Lists a guest's keys with what they are and will be.
pub(super) fn pending_rows(guest: &Guest, shown: impl Fn(&str, &str) -> Value) -> Value {
    let keys: BTreeSet<&String> = guest
        .config
        .keys()
        .chain(guest.pending.keys())
        .chain(guest.pending_delete.keys())
        .collect();
    let mut rows = Vec::new();
    for key in keys {
        let mut row = json!({"key": key});
        if let Some(value) = guest.config.get(key) {
            row["value"] = shown(key, value);
        }
        if let Some(value) = guest.pending.get(key) {
            row["pending"] = shown(key, value);
        }
        if let Some(how) = guest.pending_delete.get(key) {
            row["delete"] = json!(how);
        }
        rows.push(row);
    }
    rows.push(json!({"key": "digest", "value": guest.digest()}));
    json!(rows)
}

/// `GET qemu/ID/snapshot`.
pub(super) fn snapshots(call: &mut Call<'_>) -> Reply {
    Ok(snapshot_rows(call.guest()?))
}

/// Lists a guest's snapshots and its present state.
pub(super) fn snapshot_rows(guest: &Guest) -> Value {
    let mut rows: Vec<Value> = guest
        .snapshots
        .iter()
        .map(|snapshot| {
            let mut row = json!({
                "name": snapshot.name, "description": snapshot.description, "snaptime": snapshot.taken,
                "vmstate": u8::from(snapshot.with_memory),
            });
            if let Some(parent) = &snapshot.parent {
                row["parent"] = json!(parent);
            }
            row
        })
        .collect();
    let mut current = json!({
        "name": "current", "description": "You are here!", "digest": guest.digest(),
        "running": u8::from(guest.run.is_some()),
    });
    if let Some(parent) = guest.config.get("parent") {
        current["parent"] = json!(parent);
    }
    rows.push(current);
    json!(rows)
}

/// `GET qemu/ID/status/current`.
pub(super) fn current(call: &mut Call<'_>) -> Reply {
    let guest = call.guest()?;
    let release = call.release();
    let mut row = guest.list_row(release);
    let mut put = |key: &str, value: Value| {
        row.insert(key.to_owned(), value);
    };
    put("qmpstatus", json!(qmp_status(guest)));
    // One that is ignored is like any other guest.
    let ha = call.cluster.managed(guest.vmid);
    put(
        "ha",
        match ha {
            Some(ha) => json!({"managed": 1, "state": ha.state}),
            None => json!({"managed": 0}),
        },
    );
    if let Some(agent) = guest.config.get("agent")
        && (agent.starts_with('1') || agent.contains("enabled=1"))
    {
        put("agent", json!(1));
    }
    if let Some(vga) = guest.config.get("vga").filter(|vga| vga.starts_with("qxl")) {
        put("spice", json!(u8::from(!vga.is_empty())));
    }
    if guest.config.contains_key("vga") {
        put("clipboard", Value::Null);
    }
    add_process(call, guest, &mut row);
    Ok(Value::Object(row))
}

/// Adds what only a running QEMU can say.
fn add_process(call: &Call<'_>, guest: &Guest, row: &mut Map<String, Value>) {
    if guest.run.is_none() {
        return;
    }
    let mut put = |key: &str, value: Value| {
        row.insert(key.to_owned(), value);
    };
    let counters = guest
        .config
        .keys()
        .filter_map(|key| key.strip_prefix("net"));
    let nics: Map<String, Value> = counters
        .map(|n| {
            (
                format!("tap{}i{n}", guest.vmid),
                json!({"netin": 0, "netout": 0}),
            )
        })
        .collect();
    if !nics.is_empty() {
        put("nics", Value::Object(nics));
    }
    put("balloon", json!(guest.memory()));
    put(
        "ballooninfo",
        json!({"actual": guest.memory(), "max_mem": guest.memory()}),
    );
    put("proxmox-support", json!({}));
    let qemu = call.cluster.qemu_version(&guest.node);
    put("running-machine", json!(running_machine(guest, &qemu)));
    put("running-qemu", json!(qemu));
    let stats: Map<String, Value> = guest
        .drives()
        .filter(|(key, _)| !key.starts_with("tpm"))
        .map(|(key, _)| (key.clone(), block_statistics()))
        .collect();
    if !stats.is_empty() {
        put("blockstat", Value::Object(stats));
    }
}

pub(super) fn running_machine(guest: &Guest, qemu: &str) -> String {
    let configured = guest.config.get("machine").map_or("", String::as_str);
    let configured = configured.split(',').next().unwrap_or_default();
    let configured = configured.strip_prefix("type=").unwrap_or(configured);
    let numbers: Vec<&str> = qemu.split('.').take(2).collect();
    match configured {
        "" | "pc" => format!("pc-i440fx-{}+pve0", numbers.join(".")),
        "q35" => format!("pc-q35-{}+pve0", numbers.join(".")),
        pinned => pinned.to_owned(),
    }
}

/// The counters of one drive, all of them zero.
fn block_statistics() -> Value {
    let mut map = Map::new();
    for what in ["rd", "wr", "flush", "unmap", "zone_append"] {
        map.insert(format!("{what}_operations"), json!(0));
        map.insert(format!("{what}_total_time_ns"), json!(0));
        map.insert(format!("failed_{what}_operations"), json!(0));
        map.insert(format!("invalid_{what}_operations"), json!(0));
        if what != "flush" {
            map.insert(format!("{what}_bytes"), json!(0));
            map.insert(format!("{what}_merged"), json!(0));
        }
    }
    map.insert("wr_highest_offset".to_owned(), json!(0));
    map.insert("timed_stats".to_owned(), json!([]));
    map.insert("account_invalid".to_owned(), json!(true));
    map.insert("account_failed".to_owned(), json!(true));
    Value::Object(map)
}
