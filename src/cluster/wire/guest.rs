//! Guests on the wire: lists, configuration, pending changes, snapshots, status.
//!
//! Never asks a cluster. Read next: `inventory.rs`.

use serde_json::Value;

use super::{Entry, Odd, list, text, words};
use crate::pve::guest::{
    GuestConfig, GuestKind, GuestRef, GuestSnapshot, GuestSummary, PendingChange, Power, Vitals,
};
use crate::pve::id::NodeName;
use crate::units::{Bytes, Cores};

/// What `status/current` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Running or stopped.
    pub power: Power,
    /// QEMU's own word; empty for a stopped guest.
    pub qmp_status: String,
    /// Its lock.
    pub lock: Option<String>,
    /// Whether HA manages it.
    pub ha_managed: bool,
    /// The QEMU machine it runs with.
    pub running_machine: Option<String>,
}

fn power(entry: Entry<'_>) -> Power {
    match entry.text("status").as_deref() {
        Some("running") => Power::Running,
        Some("stopped") => Power::Stopped,
        _ => Power::Unknown,
    }
}

fn summary(entry: Entry<'_>, node: NodeName, kind: GuestKind) -> Option<GuestSummary> {
    let memory = entry.count("maxmem");
    // `memhost` is 0 for containers, and unknown before 9.0.
    let memory_used = entry.count("memhost").filter(|bytes| *bytes > 0);
    // The cluster's list says `maxcpu`, the node's list `cpus`.
    let cpus = entry.count("maxcpu").or_else(|| entry.count("cpus"));
    let cpus = cpus.and_then(|cpus| u32::try_from(cpus).ok());
    let share = entry.fraction("cpu");
    Some(GuestSummary {
        place: GuestRef {
            node,
            kind,
            vmid: entry.id("vmid")?,
        },
        name: entry.text("name"),
        power: power(entry),
        template: entry.flag("template").unwrap_or(false),
        lock: entry.text("lock"),
        tags: entry
            .text("tags")
            .map(|tags| words(&tags).map(str::to_owned).collect())
            .unwrap_or_default(),
        pool: entry.id("pool"),
        ha_state: entry.text("hastate"),
        memory: memory.map(Bytes),
        memory_used: memory_used.or_else(|| entry.count("mem")).map(Bytes),
        cpus,
        cpu_used: share
            .zip(cpus)
            .map(|(share, cpus)| Cores::share(share, cpus)),
    })
}

/// Decodes `GET /cluster/resources`, with or without `type=vm`: the guests among the entries.
pub fn resources(value: &Value) -> Result<Vec<GuestSummary>, Odd> {
    list(value, "resources", |entry| {
        let kind = match entry.text("type")?.as_str() {
            "qemu" => GuestKind::Qemu,
            "lxc" => GuestKind::Lxc,
            _ => return None,
        };
        summary(entry, entry.id("node")?, kind)
    })
}

/// Decodes `GET /nodes/{node}/qemu` or `.../lxc`.
pub fn guests_on(
    value: &Value,
    node: &NodeName,
    kind: GuestKind,
) -> Result<Vec<GuestSummary>, Odd> {
    list(value, "guests", |entry| summary(entry, node.clone(), kind))
}

/// Decodes `GET .../config`: every key, numbers as text. Structured values are kept as JSON text.
pub fn config(value: &Value) -> Result<GuestConfig, Odd> {
    let entry = Entry::of(value)?;
    let shown = |value: &Value| text(value).unwrap_or_else(|| value.to_string());
    Ok(GuestConfig(
        entry
            .fields()
            .map(|(key, value)| (key.clone(), shown(value)))
            .collect(),
    ))
}

/// Decodes `GET .../pending`: only what waits for the next start. A key with a new value and a deletion is a new value.
pub fn pending(value: &Value) -> Result<Vec<PendingChange>, Odd> {
    let keys = list(value, "pending changes", |entry| {
        let key = entry.text("key")?;
        let new = entry.value("pending").and_then(text);
        // `delete` is 1, or 2 when it is forced.
        let changes = new.is_some() || entry.count("delete").unwrap_or(0) > 0;
        Some(changes.then_some(PendingChange { key, value: new }))
    })?;
    Ok(keys.into_iter().flatten().collect())
}

/// Decodes `GET .../snapshot`, without the entry `current`.
pub fn snapshots(value: &Value) -> Result<Vec<GuestSnapshot>, Odd> {
    let mut snapshots = list(value, "snapshots", |entry| {
        Some(GuestSnapshot {
            name: entry.text("name")?,
            parent: entry.text("parent"),
            taken: entry.count("snaptime").unwrap_or(0),
            with_memory: entry.flag("vmstate").unwrap_or(false),
        })
    })?;
    snapshots.retain(|snapshot| snapshot.name != "current");
    Ok(snapshots)
}

/// Decodes `GET .../status/current`: what changes while a guest runs.
pub fn vitals(value: &Value) -> Result<Vitals, Odd> {
    let Status {
        power, qmp_status, ..
    } = status(value)?;
    Ok(Vitals {
        power,
        qmp_status,
        uptime: Entry::of(value)?.count("uptime"),
    })
}

/// Decodes `GET .../status/current`.
pub fn status(value: &Value) -> Result<Status, Odd> {
    let entry = Entry::of(value)?;
    if entry.text("status").is_none() {
        return Err(Odd("no status in the guest's status".to_owned()));
    }
    let power = power(entry);
    let qmp_status = match power {
        Power::Stopped => String::new(),
        Power::Running | Power::Unknown => entry.text("qmpstatus").unwrap_or_default(),
    };
    Ok(Status {
        power,
        qmp_status,
        lock: entry.text("lock"),
        ha_managed: entry
            .entry("ha")
            .and_then(|ha| ha.flag("managed"))
            .unwrap_or(false),
        running_machine: entry.text("running-machine"),
    })
}
