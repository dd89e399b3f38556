//! Nodes and storages on the wire: notes, state, and the cluster's list of resources.
//!
//! Never asks a cluster. Read next: `migration.rs`.

use std::time::Duration;

use serde_json::Value;

use super::{Entry, Odd, list, words};
use crate::pve::node::{NodeConfig, NodeResources, NodeStatus, StorageResources};
use crate::units::{Bytes, Cores};

/// Decodes `GET /nodes/{node}/config`; empty where nothing was ever written.
pub fn config(value: &Value) -> Result<NodeConfig, Odd> {
    if value.is_null() {
        return Ok(NodeConfig::default());
    }
    let entry = Entry::of(value)?;
    Ok(NodeConfig {
        description: entry.text("description").unwrap_or_default(),
        digest: entry.text("digest"),
    })
}

/// Decodes `GET /nodes/{node}/status`.
pub fn status(value: &Value) -> Result<NodeStatus, Odd> {
    let entry = Entry::of(value)?;
    let memory = entry
        .entry("memory")
        .ok_or_else(|| Odd("no memory in the node's status".to_owned()))?;
    let bytes = |key: &str| memory.count(key).map(Bytes);
    let missing = |what: &str| Odd(format!("no {what} in the node's status"));
    let cpus = entry
        .entry("cpuinfo")
        .and_then(|info| info.count("cpus"))
        .and_then(|cpus| u32::try_from(cpus).ok())
        .ok_or_else(|| missing("number of CPUs"))?;
    Ok(NodeStatus {
        cpus,
        cpu_used: Cores::share(entry.fraction("cpu").unwrap_or(0.0), cpus),
        memory_total: bytes("total").ok_or_else(|| missing("amount of memory"))?,
        memory_used: bytes("used").ok_or_else(|| missing("use of memory"))?,
        memory_available: bytes("available"),
        uptime: Duration::from_secs(entry.count("uptime").unwrap_or(0)),
        version: entry.text("pveversion").unwrap_or_default(),
    })
}

/// Decodes `GET /cluster/resources`, with or without `type=node`: the nodes among the entries.
pub fn resources(value: &Value) -> Result<Vec<NodeResources>, Odd> {
    let nodes = list(value, "resources", |entry| {
        if entry.text("type")? != "node" {
            return Some(None);
        }
        let cpus = entry.count("maxcpu").and_then(|n| u32::try_from(n).ok());
        let share = entry.fraction("cpu");
        Some(Some(NodeResources {
            name: entry.id("node")?,
            online: entry.text("status").as_deref() == Some("online"),
            cpus,
            cpu_used: share
                .zip(cpus)
                .map(|(share, cpus)| Cores::share(share, cpus)),
            memory_total: entry.count("maxmem").map(Bytes),
            memory_used: entry.count("mem").map(Bytes),
            uptime: entry.count("uptime").map(Duration::from_secs),
            ha_state: entry.text("hastate"),
        }))
    })?;
    Ok(nodes.into_iter().flatten().collect())
}

/// Decodes `GET /cluster/resources`, with or without `type=storage`: the storages among the entries, once for each node.
pub fn storages(value: &Value) -> Result<Vec<StorageResources>, Odd> {
    let storages = list(value, "resources", |entry| {
        if entry.text("type")? != "storage" {
            return Some(None);
        }
        let content = entry.text("content").unwrap_or_default();
        Some(Some(StorageResources {
            storage: entry.id("storage")?,
            node: entry.id("node")?,
            kind: entry.text("plugintype").unwrap_or_default(),
            content: words(&content).map(str::to_owned).collect(),
            shared: entry.flag("shared").unwrap_or(false),
            available: entry.text("status").as_deref() == Some("available"),
            used: entry.count("disk").map(Bytes),
            total: entry.count("maxdisk").map(Bytes),
        }))
    })?;
    Ok(storages.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn notes_may_never_have_been_written() {
        assert_eq!(config(&json!({})), Ok(NodeConfig::default()));
        assert_eq!(config(&json!(null)), Ok(NodeConfig::default()));
        let read = config(&json!({"description": "rack 4\n", "digest": "ab"})).expect("settings");
        assert_eq!(
            (read.description.as_str(), read.digest.as_deref()),
            ("rack 4\n", Some("ab"))
        );
    }

    #[test]
    fn a_status_has_what_the_release_tells() {
        let old = json!({"cpu": 0.5, "cpuinfo": {"cpus": "8"}, "memory": {"total": 100, "used": 40, "free": 60},
            "uptime": 7, "pveversion": "pve-manager/6.4-15/af7986e6"});
        let read = status(&old).expect("a status");
        assert_eq!((read.cpus, read.cpu_used), (8, Cores::whole(4)));
        assert_eq!(
            (read.memory_total, read.memory_available),
            (Bytes(100), None)
        );
        assert_eq!(read.uptime, Duration::from_secs(7));
        assert!(status(&json!({"cpuinfo": {"cpus": 8}})).is_err());
    }

    #[test]
    fn lists_keep_their_own_kind_and_unseen_numbers_are_missing() {
        let value = json!([
            {"type": "node", "node": "n1", "status": "online", "maxcpu": 4, "cpu": 0.25, "mem": 1, "maxmem": 2,
                "uptime": 3, "hastate": "maintenance", "id": "node/n1", "level": ""},
            {"type": "node", "node": "n2", "status": "offline", "id": "node/n2", "level": ""},
            {"type": "storage", "storage": "san", "node": "n1", "plugintype": "nfs", "status": "available",
                "shared": 1, "content": "images,rootdir", "disk": 10, "maxdisk": 30, "id": "storage/n1/san"},
            {"type": "storage", "storage": "san", "node": "n2", "plugintype": "nfs", "status": "unknown",
                "shared": 1, "content": "images,rootdir", "id": "storage/n2/san"},
            {"type": "qemu", "vmid": 100, "node": "n1"}, {"type": "later"}, 7]);
        let nodes = resources(&value).expect("nodes");
        assert_eq!(nodes.len(), 2);
        assert_eq!(nodes[0].cpu_used, Some(Cores::whole(1)));
        assert_eq!(nodes[0].ha_state.as_deref(), Some("maintenance"));
        assert_eq!((nodes[1].online, nodes[1].memory_total), (false, None));
        let found = storages(&value).expect("storages");
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].free(), found[1].free()), (Some(Bytes(20)), None));
        assert!(found[0].content.contains("rootdir") && found[0].available && !found[1].available);
    }
}
