//! The rest of a cluster on the wire: members, storages, volumes, bridges, machines, rights, pools, replication.
//!
//! Never asks a cluster. Read next: `schema.rs`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Entry, Odd, list, text, words};
use crate::pve::id::{NodeName, PoolId, StorageId, Vmid, Volid};
use crate::pve::inventory::{Node, Permissions, ReplicationJob, Storage, Volume};
use crate::units::Bytes;

/// Decodes `GET /cluster/status`: the members, as corosync sees them. Maintenance is not in it.
pub fn cluster_status(value: &Value) -> Result<Vec<Node>, Odd> {
    list(value, "cluster status", |entry| {
        (entry.text("type")? == "node").then_some(())?;
        Some(Node {
            name: entry.id("name")?,
            online: entry.flag("online").unwrap_or(false),
            address: entry.text("ip"),
            maintenance: false,
        })
    })
}

/// Decodes `GET /nodes`: the members without addresses.
pub fn nodes(value: &Value) -> Result<Vec<Node>, Odd> {
    list(value, "nodes", |entry| {
        Some(Node {
            name: entry.id("node")?,
            online: entry.text("status").as_deref() == Some("online"),
            address: None,
            maintenance: false,
        })
    })
}

/// Decodes `GET /cluster/ha/status/manager_status`: the nodes in maintenance, or for which it was asked.
pub fn maintenance(value: &Value) -> Result<BTreeSet<NodeName>, Odd> {
    let entry = Entry::of(value)?;
    let manager = entry.entry("manager_status");
    let mut found = BTreeSet::new();
    let mut add = |name: &str| match name.parse() {
        Ok(node) => {
            found.insert(node);
        }
        Err(error) => log::debug!("skipping a node of the HA manager: {error}"),
    };
    let states = manager.and_then(|manager| manager.entry("node_status"));
    for (name, state) in states.iter().flat_map(Entry::fields) {
        if state.as_str() == Some("maintenance") {
            add(name);
        }
    }
    let requests = manager.and_then(|manager| manager.entry("node_request"));
    for (name, request) in requests.iter().flat_map(Entry::fields) {
        let request = Entry::of(request).ok();
        if request.and_then(|request| request.flag("maintenance")) == Some(true) {
            add(name);
        }
    }
    for (name, state) in entry.entry("lrm_status").iter().flat_map(Entry::fields) {
        let mode = Entry::of(state).ok().and_then(|state| state.text("mode"));
        if mode.as_deref() == Some("maintenance") {
            add(name);
        }
    }
    Ok(found)
}

/// Merges what corosync and the status broadcast say about the members; corosync is right where both speak.
pub fn merge_nodes(
    status: Vec<Node>,
    nodes: Vec<Node>,
    maintenance: &BTreeSet<NodeName>,
) -> Vec<Node> {
    let mut merged: BTreeMap<NodeName, Node> = BTreeMap::new();
    for node in status.into_iter().chain(nodes) {
        merged.entry(node.name.clone()).or_insert(node);
    }
    let mut nodes: Vec<_> = merged.into_values().collect();
    for node in &mut nodes {
        node.maintenance = maintenance.contains(&node.name);
    }
    nodes
}

/// Decodes `GET /nodes/{node}/storage`, without settings.
pub fn storages(value: &Value) -> Result<Vec<Storage>, Odd> {
    list(value, "storages", |entry| {
        Some(Storage {
            id: entry.id("storage")?,
            kind: entry.text("type").unwrap_or_default(),
            content: entry
                .text("content")
                .map(|content| words(&content).map(str::to_owned).collect())
                .unwrap_or_default(),
            enabled: entry.flag("enabled").unwrap_or(true),
            active: entry.flag("active").unwrap_or(false),
            shared: entry.flag("shared").unwrap_or(false),
            available: Bytes(entry.count("avail").unwrap_or(0)),
            total: Bytes(entry.count("total").unwrap_or(0)),
            settings: BTreeMap::new(),
        })
    })
}

/// Decodes `GET /storage`: the plain keys of each entry of storage.cfg.
///
/// An object such as `content-dirs` becomes `images=img,iso=iso`.
pub fn storage_settings(
    value: &Value,
) -> Result<BTreeMap<StorageId, BTreeMap<String, String>>, Odd> {
    let entries = list(value, "storage settings", |entry| {
        let settings = entry
            .fields()
            .filter(|(key, _)| !matches!(key.as_str(), "storage" | "digest"))
            .filter_map(|(key, value)| Some((key.clone(), setting(value)?)))
            .collect();
        Some((entry.id("storage")?, settings))
    })?;
    Ok(entries.into_iter().collect())
}

fn setting(value: &Value) -> Option<String> {
    match value {
        Value::Object(fields) => {
            let parts: Vec<_> = Entry(fields)
                .fields()
                .filter_map(|(key, value)| Some(format!("{key}={}", text(value)?)))
                .collect();
            Some(parts.join(","))
        }
        Value::Array(items) => {
            let parts: Vec<_> = items.iter().filter_map(text).collect();
            Some(parts.join(","))
        }
        scalar => text(scalar),
    }
}

fn volume_fields(entry: Entry<'_>, volid: Volid) -> Option<Volume> {
    Some(Volume {
        volid,
        format: entry.text("format").unwrap_or_default(),
        // 9.2 says `approximate-size` where the exact one would be expensive.
        size: Bytes(
            entry
                .count("size")
                .or_else(|| entry.count("approximate-size"))?,
        ),
        used: entry.count("used").map(Bytes),
        path: entry.text("path"),
        parent: entry.text("parent"),
        owner: entry.id("vmid"),
    })
}

/// Decodes `GET /nodes/{node}/storage/{storage}/content`.
///
/// A corrupt image is in the list as well, with the format `invalid`.
pub fn volumes(value: &Value) -> Result<Vec<Volume>, Odd> {
    list(value, "volumes", |entry| {
        volume_fields(entry, entry.id("volid")?)
    })
}

/// Decodes `GET /nodes/{node}/storage/{storage}/content/{volume}`, which does not repeat the volume's id.
pub fn volume(value: &Value, volid: &Volid) -> Result<Volume, Odd> {
    volume_fields(Entry::of(value)?, volid.clone())
        .ok_or_else(|| Odd("no size in the volume's description".to_owned()))
}

/// Decodes `GET /nodes/{node}/network`: the bridges and virtual networks, in the order of their names.
pub fn bridges(value: &Value) -> Result<Vec<String>, Odd> {
    let interfaces = list(value, "network interfaces", |entry| {
        let kind = entry.text("type")?;
        // `vnet` is what any_bridge adds for software-defined networks the user may use on that node.
        let usable = matches!(kind.as_str(), "bridge" | "OVSBridge" | "vnet");
        let name = entry.text("iface")?;
        Some(usable.then_some(name))
    })?;
    let names: BTreeSet<_> = interfaces.into_iter().flatten().collect();
    Ok(names.into_iter().collect())
}

/// Decodes `GET /nodes/{node}/capabilities/qemu/machines`.
pub fn machines(value: &Value) -> Result<Vec<String>, Odd> {
    list(value, "machine types", |entry| entry.text("id"))
}

/// Decodes `GET /access/permissions`.
pub fn permissions(value: &Value) -> Result<Permissions, Odd> {
    let mut permissions = BTreeMap::new();
    for (path, privileges) in Entry::of(value)?.fields() {
        let Ok(privileges) = Entry::of(privileges) else {
            log::debug!("skipping the rights on {path}: {privileges}");
            continue;
        };
        let privileges = privileges
            .fields()
            .filter_map(|(name, propagates)| Some((name.clone(), super::flag(propagates)?)))
            .collect();
        permissions.insert(path.clone(), privileges);
    }
    Ok(Permissions(permissions))
}

/// Decodes `GET /cluster/replication`.
pub fn replication_jobs(value: &Value) -> Result<Vec<ReplicationJob>, Odd> {
    list(value, "replication jobs", |entry| {
        let id = entry.text("id")?;
        let from_id = || id.split('-').next()?.parse().ok();
        let guest = entry.id::<Vmid>("guest").or_else(from_id)?;
        Some(ReplicationJob {
            target: entry.text("target").unwrap_or_default(),
            id,
            guest,
        })
    })
}

/// Decodes `GET /nodes/{node}/replication`: the jobs of a guest whose run is active, which have a process.
pub fn replicating(value: &Value, guest: Vmid) -> Result<Vec<String>, Odd> {
    let jobs = list(value, "replication states", |entry| {
        let id = entry.text("id")?;
        let of = entry.id::<Vmid>("guest");
        let of = of.or_else(|| id.split('-').next()?.parse().ok())?;
        let runs = entry.count("pid").is_some_and(|process| process > 0);
        Some((of == guest && runs).then_some(id))
    })?;
    Ok(jobs.into_iter().flatten().collect())
}

/// Decodes `GET /pools`.
pub fn pools(value: &Value) -> Result<Vec<PoolId>, Odd> {
    list(value, "pools", |entry| entry.id("poolid"))
}

/// Decodes the members of one pool, from `GET /pools/{pool}` (an object) or `GET /pools?poolid=` (a list of one).
pub fn pool_members(value: &Value) -> Result<BTreeSet<Vmid>, Odd> {
    let pools = list(value, "pools", |entry| {
        let members = entry.value("members").unwrap_or(&Value::Null);
        list(members, "pool members", |member| {
            // Storages are members as well; they have no VMID.
            Some(member.id::<Vmid>("vmid"))
        })
        .ok()
    })?;
    Ok(pools.into_iter().flatten().flatten().collect())
}
