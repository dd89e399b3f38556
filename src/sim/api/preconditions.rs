//! What a cluster says about migrating a guest before anything is done.
//!
//! It looks at storages, mappings and HA rules only, as the real thing does: a node that is down may be "allowed". Read
//! next: `migrate.rs`.

use serde_json::{Map, Value, json};

use super::check::parse_size;
use super::{Call, Reply, check_quorum};
use crate::sim::world::Cluster;
use crate::sim::world::guest::{Guest, option_of, volume_of};
use crate::sim::world::migration::references;

/// `GET qemu/ID/migrate`.
pub(super) fn of_vm(call: &mut Call<'_>) -> Reply {
    check_quorum(call.cluster)?;
    let release = call.release();
    let guest = call.guest()?;
    guest.check_lock()?;
    let (local, mapped) = call.cluster.local_resources(guest);
    let mut reply = json!({
        "running": u8::from(guest.run.is_some()), "local_disks": local_disks(call.cluster, guest),
        "local_resources": local,
    });
    if release >= (8, 0) {
        reply["mapped-resources"] = json!(mapped.keys().collect::<Vec<_>>());
    }
    if release >= (8, 4) {
        let about = mapped.iter().map(|(key, id)| {
            let mut about = json!({"name": id});
            let mut known = call.cluster.mappings.iter();
            if known.any(|known| known.id == *id && known.live_migration) {
                about["live-migration"] = json!(1);
            }
            (key.clone(), about)
        });
        reply["mapped-resource-info"] = Value::Object(about.collect());
    }
    let managed = release >= (9, 0) && call.cluster.managed(guest.vmid).is_some();
    if release >= (9, 0) {
        reply["has-dbus-vmstate"] = json!(1);
    }
    if managed {
        reply["dependent-ha-resources"] = json!(dependent(call.cluster, guest));
    }
    if release >= (8, 4) || guest.run.is_none() {
        let (mut allowed, mut others) = (Vec::new(), Map::new());
        for node in call
            .cluster
            .nodes
            .iter()
            .filter(|node| node.name != guest.node)
        {
            let mut obstacles = Map::new();
            let storages = unavailable(call.cluster, guest, &node.name);
            if !storages.is_empty() {
                obstacles.insert("unavailable_storages".to_owned(), json!(storages));
            }
            let missing = call.cluster.missing_mappings(&mapped, &node.name);
            if !missing.is_empty() && release >= (8, 0) {
                obstacles.insert("unavailable-resources".to_owned(), json!(missing));
            }
            if managed {
                add_blocking(call.cluster, guest, &node.name, &mut obstacles);
            }
            if obstacles.is_empty() {
                allowed.push(node.name.clone());
            }
            // Allowed nodes are in it as well, with nothing against them.
            others.insert(node.name.clone(), Value::Object(obstacles));
        }
        reply["allowed_nodes"] = json!(allowed);
        reply["not_allowed_nodes"] = Value::Object(others);
    }
    Ok(reply)
}

/// `GET lxc/ID/migrate`, which only knows HA rules.
pub(super) fn of_container(call: &mut Call<'_>) -> Reply {
    check_quorum(call.cluster)?;
    let guest = call.container()?;
    guest.check_lock()?;
    let (mut allowed, mut others) = (Vec::new(), Map::new());
    let managed = call.cluster.managed(guest.vmid).is_some();
    for node in call
        .cluster
        .nodes
        .iter()
        .filter(|node| node.name != guest.node)
    {
        let mut obstacles = Map::new();
        if managed {
            add_blocking(call.cluster, guest, &node.name, &mut obstacles);
        }
        match obstacles.is_empty() {
            true => allowed.push(node.name.clone()),
            false => {
                others.insert(node.name.clone(), Value::Object(obstacles));
            }
        }
    }
    let mut reply = json!({
        "running": u8::from(guest.run.is_some()), "allowed-nodes": allowed, "not-allowed-nodes": others,
    });
    if managed {
        reply["dependent-ha-resources"] = json!(dependent(call.cluster, guest));
    }
    Ok(reply)
}

fn dependent(cluster: &Cluster, guest: &Guest) -> Vec<String> {
    let others = cluster.dependent(guest.vmid);
    others.into_iter().map(|vmid| cluster.sid(vmid)).collect()
}

fn add_blocking(cluster: &Cluster, guest: &Guest, node: &str, obstacles: &mut Map<String, Value>) {
    if cluster.manager.node_state(node) != "online" {
        return;
    }
    let blocking = cluster.blocking(guest.vmid, node);
    if !blocking.is_empty() {
        let rows: Vec<Value> = blocking
            .into_iter()
            .map(|vmid| json!({"sid": cluster.sid(vmid), "cause": "resource-affinity"}))
            .collect();
        obstacles.insert("blocking-ha-resources".to_owned(), json!(rows));
    }
}

/// Returns the storages of a VM's drives that a node does not have. Whether they are up is not looked at.
fn unavailable(cluster: &Cluster, guest: &Guest, node: &str) -> Vec<String> {
    let mut found: Vec<String> = guest
        .drives()
        .filter_map(|(_, value)| volume_of(value).split_once(':'))
        .filter(|(storage, _)| {
            let storage = cluster.storage(storage);
            storage.is_ok_and(|storage| !cluster.storage_serves(storage, node))
        })
        .map(|(storage, _)| storage.to_owned())
        .collect();
    found.sort();
    found.dedup();
    found
}

fn local_disks(cluster: &Cluster, guest: &Guest) -> Vec<Value> {
    let release = cluster.release();
    let mut disks = Vec::new();
    for (volume, reference) in references(guest) {
        let shared = match volume.split_once(':') {
            Some((storage, _)) => match cluster.storage(storage) {
                Ok(storage) => storage.shared,
                Err(_) => continue,
            },
            None => false,
        };
        if shared {
            continue;
        }
        let key = reference.keys.first();
        let value = key
            .and_then(|key| guest.config.get(key))
            .map_or("", String::as_str);
        let unused = key.is_some_and(|key| key.starts_with("unused"));
        let attached = key.is_some() && !unused;
        let mut disk = json!({
            "volid": volume, "cdrom": u8::from(reference.cdrom), "shared": 0, "is_vmstate": 0,
            "is_unused": u8::from(unused), "is_attached": u8::from(attached),
            "is_tpmstate": u8::from(key.is_some_and(|key| key == "tpmstate0")),
            "replicate": u8::from(option_of(value, "replicate") != Some("0")),
        });
        if let Some(key) = key {
            disk["drivename"] = json!(key);
        }
        if !reference.snapshots.is_empty() {
            let names = reference
                .snapshots
                .iter()
                .map(|name| (name.clone(), json!(1)));
            disk["referenced_in_snapshot"] = Value::Object(names.collect());
        }
        if release >= (9, 0) {
            disk["is_cloudinit"] = json!(u8::from(volume.contains("-cloudinit")));
        }
        if let Some(size) = option_of(value, "size").and_then(parse_size) {
            disk["size"] = json!(size);
        }
        disks.push(disk);
    }
    disks
}
