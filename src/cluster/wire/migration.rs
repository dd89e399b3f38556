//! The preconditions of a migration on the wire, in the shapes of all releases and both kinds of guests.
//!
//! Never asks a cluster. Read next: `ha.rs`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Entry, Odd, list, text};
use crate::pve::migration::{LocalDisk, MappedResource, MigratePreconditions, NodeObstacles};
use crate::units::Bytes;

/// Decodes `GET /nodes/{node}/{qemu,lxc}/{vmid}/migrate`. VMs write `allowed_nodes`, containers `allowed-nodes`.
pub fn preconditions(value: &Value) -> Result<MigratePreconditions, Odd> {
    let entry = Entry::of(value)?;
    let either = |one: &str, other: &str| entry.value(one).or_else(|| entry.value(other));
    let allowed = either("allowed_nodes", "allowed-nodes");
    let mut not_allowed = BTreeMap::new();
    let refused = either("not_allowed_nodes", "not-allowed-nodes").map(Entry::of);
    for (name, why) in refused.transpose()?.iter().flat_map(Entry::fields) {
        let obstacles = Entry::of(why).map(obstacles).unwrap_or_default();
        // Up to 7.4 allowed nodes are listed here as well, with nothing against them.
        match name.parse() {
            Ok(node) if !obstacles.is_empty() => {
                not_allowed.insert(node, obstacles);
            }
            Ok(_) => {}
            Err(error) => log::debug!("skipping a node that is not allowed: {error}"),
        }
    }
    Ok(MigratePreconditions {
        running: entry.flag("running").unwrap_or(false),
        allowed_nodes: allowed.map(|names| {
            texts(Some(names))
                .filter_map(|name| name.parse().ok())
                .collect()
        }),
        not_allowed,
        local_disks: list(
            entry.value("local_disks").unwrap_or(&Value::Null),
            "local disks",
            local_disk,
        )?,
        local_resources: texts(entry.value("local_resources")).collect(),
        mapped_resources: mapped(entry),
        dependent_resources: texts(entry.value("dependent-ha-resources")).collect(),
    })
}

fn texts(value: Option<&Value>) -> impl Iterator<Item = String> {
    let entries = value.and_then(Value::as_array).into_iter().flatten();
    entries.filter_map(text)
}

fn obstacles(entry: Entry<'_>) -> NodeObstacles {
    let blocking = entry.value("blocking-ha-resources").unwrap_or(&Value::Null);
    let ha = list(blocking, "blocking HA resources", |entry| {
        Some((entry.text("sid")?, entry.text("cause").unwrap_or_default()))
    });
    NodeObstacles {
        storages: texts(entry.value("unavailable_storages")).collect(),
        resources: texts(entry.value("unavailable-resources")).collect(),
        ha: ha.unwrap_or_default(),
    }
}

fn mapped(entry: Entry<'_>) -> BTreeMap<String, MappedResource> {
    let names = texts(entry.value("mapped-resources"));
    let mut found: BTreeMap<_, _> = names.map(|key| (key, MappedResource::default())).collect();
    // Since 8.3.9 there is more about each.
    for (key, about) in entry
        .entry("mapped-resource-info")
        .iter()
        .flat_map(Entry::fields)
    {
        let Ok(about) = Entry::of(about) else {
            continue;
        };
        let resource = MappedResource {
            name: about.text("name").unwrap_or_default(),
            live_migration: about.flag("live-migration").unwrap_or(false),
        };
        found.insert(key.clone(), resource);
    }
    found
}

fn local_disk(entry: Entry<'_>) -> Option<LocalDisk> {
    let flag = |key: &str| entry.flag(key).unwrap_or(false);
    let snapshots = entry.entry("referenced_in_snapshot");
    let volid = entry.text("volid")?;
    Some(LocalDisk {
        cloud_init: flag("is_cloudinit") || volid.contains("-cloudinit"),
        volid: volid.parse().ok()?,
        drive: entry.text("drivename"),
        size: entry.count("size").map(Bytes),
        cdrom: flag("cdrom"),
        unused: flag("is_unused"),
        tpm_state: flag("is_tpmstate"),
        snapshots: snapshots
            .iter()
            .flat_map(Entry::fields)
            .map(|(name, _)| name.clone())
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_vm_of_the_newest_release() {
        let value = json!({"running": 1, "allowed_nodes": ["n2"], "has-dbus-vmstate": 1,
            "not_allowed_nodes": {"n3": {"unavailable_storages": ["tank"], "unavailable-resources": ["hostpci0"],
                "blocking-ha-resources": [{"sid": "vm:101", "cause": "resource-affinity"}]}, "n4": {}},
            "local_disks": [
                {"volid": "data:100/vm-100-disk-0.raw", "size": 107374592, "drivename": "virtio0", "cdrom": 0,
                    "is_attached": 1, "referenced_in_snapshot": {"before": 1}},
                {"volid": "iso:iso/tiny.iso", "cdrom": 1, "drivename": "ide2"},
                {"volid": "data:100/vm-100-cloudinit.qcow2", "cdrom": 1}, {"cdrom": 1}],
            "local_resources": ["usb0"], "mapped-resources": ["hostpci0", "usb1"],
            "mapped-resource-info": {"hostpci0": {"name": "gpu", "live-migration": 1}},
            "dependent-ha-resources": ["vm:102"]});
        let read = preconditions(&value).expect("preconditions");
        let n3 = &read.not_allowed[&"n3".parse().expect("a node")];
        assert_eq!(n3.storages, ["tank"]);
        assert_eq!(n3.resources, ["hostpci0"]);
        assert_eq!(
            n3.ha,
            [("vm:101".to_owned(), "resource-affinity".to_owned())]
        );
        assert_eq!(read.not_allowed.len(), 1);
        assert_eq!(read.allowed_nodes.map(|nodes| nodes.len()), Some(1));
        assert_eq!(read.local_disks.len(), 3);
        assert_eq!(read.local_disks[0].size, Some(Bytes(107_374_592)));
        assert_eq!(read.local_disks[0].snapshots, ["before"]);
        assert!(read.local_disks[1].cdrom && read.local_disks[1].size.is_none());
        assert!(read.local_disks[2].cloud_init);
        assert!(read.mapped_resources["hostpci0"].live_migration);
        assert!(!read.mapped_resources["usb1"].live_migration);
        assert_eq!(read.dependent_resources, ["vm:102"]);
    }

    #[test]
    fn older_releases_and_containers() {
        let running = json!({"running": 1, "local_disks": [], "local_resources": []});
        assert_eq!(
            preconditions(&running)
                .expect("preconditions")
                .allowed_nodes,
            None
        );
        let stopped = json!({"running": 0, "allowed_nodes": ["n2"], "not_allowed_nodes": {"n2": {}, "n3":
            {"unavailable_storages": ["tank"]}}, "local_disks": [], "local_resources": []});
        let read = preconditions(&stopped).expect("preconditions");
        assert_eq!(read.not_allowed.len(), 1);
        let container = json!({"allowed-nodes": ["n2"], "not-allowed-nodes": {"n3": {"blocking-ha-resources":
            [{"sid": "ct:101", "cause": "node-affinity"}]}}, "running": 0});
        let read = preconditions(&container).expect("preconditions");
        assert_eq!(read.allowed_nodes.map(|nodes| nodes.len()), Some(1));
        assert_eq!(read.not_allowed.len(), 1);
        assert!(preconditions(&json!(null)).is_err());
    }
}
