//! Storages and the volumes on them.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::check::{parse_size, split_list};
use super::{Call, Refusal, Reply, drives};
use crate::sim::world::images;
use crate::sim::world::scenario::StorageSpec;
use crate::sim::world::storage::VolumeName;

const USE: &[&str] = &["Datastore.Audit", "Datastore.AllocateSpace"];

fn may_use(call: &Call<'_>, storage: &StorageSpec) -> bool {
    call.cluster
        .may(&call.who, &format!("/storage/{}", storage.id), USE)
}

/// Returns a storage's configuration; the path is the one on this machine.
fn settings(call: &Call<'_>, storage: &StorageSpec) -> Value {
    let mut row = json!({"storage": storage.id, "type": storage.kind, "content": storage.content});
    if storage.kind == "dir" {
        let path = call.cluster.storage_path(storage, &call.node);
        row["path"] = json!(path.display().to_string());
    }
    let mut hash = Sha256::new();
    for storage in &call.cluster.storages {
        hash.update(format!("{storage:?}"));
    }
    let digest: String = hash
        .finalize()
        .iter()
        .take(20)
        .map(|b| format!("{b:02x}"))
        .collect();
    row["digest"] = json!(digest);
    if storage.shared {
        row["shared"] = json!(1);
    }
    if storage.disabled {
        row["disable"] = json!(1);
    }
    if storage.unmounted {
        row["is_mountpoint"] = json!("1");
    }
    if !storage.nodes.is_empty() {
        row["nodes"] = json!(storage.nodes.join(","));
    }
    for (key, value) in &storage.extra {
        row[key] = value
            .parse::<i64>()
            .map_or(json!(value), |number| json!(number));
    }
    row
}

/// `GET /storage`.
pub(super) fn configs(call: &mut Call<'_>) -> Reply {
    let kind = call.text("type");
    let rows: Vec<Value> = call
        .cluster
        .storages
        .iter()
        .filter(|storage| may_use(call, storage))
        .filter(|storage| kind.is_none_or(|kind| storage.kind == kind))
        .map(|storage| settings(call, storage))
        .collect();
    Ok(json!(rows))
}

/// `GET /storage/ID`.
pub(super) fn config(call: &mut Call<'_>) -> Reply {
    let storage = call
        .cluster
        .storage(call.text("storage").unwrap_or_default())?;
    Ok(settings(call, storage))
}

/// Returns a storage's state on the node; everything is zero where it is not active.
fn state(call: &Call<'_>, storage: &StorageSpec) -> Value {
    let enabled = call.cluster.storage_serves(storage, &call.node);
    let space = call.cluster.space(storage, &call.node);
    let active = space.is_some();
    let space = space.unwrap_or_default();
    json!({
        "type": storage.kind, "content": storage.content, "shared": u8::from(storage.shared),
        "enabled": u8::from(enabled), "active": u8::from(active), "total": space.total,
        "used": space.used, "avail": space.available,
    })
}

/// `GET /nodes/N/storage`.
pub(super) fn of_node(call: &mut Call<'_>) -> Reply {
    let mut rows = Vec::new();
    for storage in &call.cluster.storages {
        let content = call.text("content").unwrap_or_default();
        let holds =
            split_list(content).all(|word| storage.content.split(',').any(|has| has == word));
        let named = call.text("storage").is_none_or(|id| storage.id == id);
        let on_target = call
            .text("target")
            .is_none_or(|node| call.cluster.storage_serves(storage, node));
        let active = call.cluster.storage_serves(storage, &call.node) && !storage.unmounted;
        let shown = !call.flag("enabled") || active;
        if !may_use(call, storage) || !holds || !named || !on_target || !shown {
            continue;
        }
        let mut row = state(call, storage);
        row["storage"] = json!(storage.id);
        let total = row["total"].as_u64().unwrap_or(0);
        if total > 0 {
            row["used_fraction"] = json!(row["used"].as_u64().unwrap_or(0) as f64 / total as f64);
        }
        if call.flag("format") {
            let (old, new) = match storage.kind.as_str() {
                "zfspool" => (json!({"raw": 1, "subvol": 1}), json!(["raw", "subvol"])),
                _ => (
                    json!({"raw": 1, "qcow2": 1, "vmdk": 1}),
                    json!(["raw", "qcow2", "vmdk"]),
                ),
            };
            row["format"] = json!([old, "raw"]);
            if call.release() >= (9, 0) {
                row["formats"] = json!({"supported": new, "default": "raw"});
            }
        }
        rows.push(row);
    }
    Ok(json!(rows))
}

/// `GET /nodes/N/storage/ID/status`.
pub(super) fn status(call: &mut Call<'_>) -> Reply {
    match call
        .cluster
        .storage(call.text("storage").unwrap_or_default())
    {
        Ok(storage) => Ok(state(call, storage)),
        Err(_) => Err(Refusal::param("storage", "No such storage.")),
    }
}

/// `GET /nodes/N/storage/ID/content`.
pub(super) fn content(call: &mut Call<'_>) -> Reply {
    let id = call.text("storage").unwrap_or_default();
    let storage = call.cluster.active_storage(id, &call.node)?;
    let content = call.text("content");
    let vmid = call.text("vmid").and_then(|text| text.parse::<u32>().ok());
    let mut rows = Vec::new();
    for volume in call.cluster.volumes(storage, &call.node) {
        if content.is_some_and(|kind| kind != volume.name.content)
            || (vmid.is_some() && volume.name.owner != vmid)
            || drives::may_access(call, &volume.name, None).is_err()
        {
            continue;
        }
        let old = call.release() < (7, 0);
        let number = |n: u64| if old { json!(n.to_string()) } else { json!(n) };
        let size = volume
            .facts
            .as_ref()
            .map_or(volume.file_size, |facts| facts.size);
        let format = match &volume.facts {
            Some(_) => volume.name.format(),
            None => "invalid",
        };
        let mut row = json!({
            "volid": volume.name.volid(), "content": volume.name.content, "format": format,
            "size": number(size), "ctime": volume.changed,
        });
        if let Some(owner) = volume.name.owner {
            row["vmid"] = json!(owner);
            row["parent"] = Value::Null;
            if storage.kind == "zfspool" {
                row["name"] = json!(volume.name.file);
            } else {
                row["used"] = number(volume.used);
            }
        }
        if storage.kind == "zfspool"
            && let Some(row) = row.as_object_mut()
        {
            row.remove("ctime");
        }
        rows.push(row);
    }
    Ok(json!(rows))
}

/// Returns the volume a request names, by its id or by its name on the storage.
fn named(call: &Call<'_>) -> Result<VolumeName, Refusal> {
    let volume = call.text("volume").unwrap_or_default();
    let volid = match (volume.contains(':'), call.text("storage")) {
        (false, Some(storage)) => format!("{storage}:{volume}"),
        _ => volume.to_owned(),
    };
    let name = call.cluster.parse_volume(&volid)?;
    match call.text("storage") {
        Some(storage) if storage != name.storage => Err(Refusal::param(
            "storage",
            format!("storage ID mismatch ({storage} != {})", name.storage),
        )),
        _ => Ok(name),
    }
}

/// `GET .../content/VOLUME`.
pub(super) fn volume(call: &mut Call<'_>) -> Reply {
    let name = named(call)?;
    drives::may_access(call, &name, None)?;
    call.cluster.active_storage(&name.storage, &call.node)?;
    let volid = name.volid();
    let failed = || Refusal::died(format!("volume_size_info on '{volid}' failed - no format"));
    let found = call
        .cluster
        .look_at_volume(name, &call.node)?
        .ok_or_else(failed)?;
    let facts = found.facts.ok_or_else(failed)?;
    let old = call.release() < (7, 0);
    let number = |n: u64| if old { json!(n.to_string()) } else { json!(n) };
    Ok(json!({
        "path": found.path.display().to_string(), "format": found.name.format(),
        "size": number(facts.size), "used": number(facts.used),
    }))
}

/// `POST .../content`.
pub(super) fn allocate(call: &mut Call<'_>) -> Reply {
    let id = call.text("storage").unwrap_or_default().to_owned();
    let vmid = call.vmid();
    let file = call.text("filename").unwrap_or_default().to_owned();
    let size = match call.text("size").unwrap_or_default() {
        text if text.ends_with(['M', 'G']) => parse_size(text).unwrap_or(0),
        text => text.parse::<u64>().unwrap_or(0).saturating_mul(1024),
    };
    let by_name = images::format_of(&file);
    let format = call.text("format").or(by_name).unwrap_or("raw").to_owned();
    let zfs = call.cluster.storage(&id)?.kind == "zfspool";
    let file = match by_name {
        _ if zfs && format != "raw" => {
            return Err(Refusal::died(format!("unsupported format '{format}'")));
        }
        _ if zfs => file,
        Some(named) if named != format => {
            return Err(Refusal::param(
                "format",
                format!("different storage formats ({format} != {named})"),
            ));
        }
        Some(_) => file,
        None => format!("{file}.{format}"),
    };
    if file.contains('/') {
        return Err(Refusal::died(format!(
            "unable to parse volume filename '{file}'"
        )));
    }
    call.cluster.usable_storage(&id, &call.node)?;
    let name = VolumeName {
        storage: id,
        content: "images",
        owner: Some(vmid),
        file,
    };
    call.cluster.allocate(&name, &call.node, size)?;
    Ok(json!(name.volid()))
}

/// `DELETE .../content/VOLUME`.
pub(super) fn free(call: &mut Call<'_>) -> Reply {
    let name = named(call)?;
    let path = format!("/storage/{}", name.storage);
    if name.owner.is_some() {
        call.require(&path, &["Datastore.Allocate"])?;
    } else {
        call.require(&path, &["Datastore.AllocateTemplate"])?;
    }
    let user = call
        .cluster
        .guests
        .values()
        .find(|guest| guest.volumes().contains(&name.volid()));
    if let Some(guest) = user {
        return Err(Refusal::died(format!(
            "cannot remove volume '{}', used by VM with ID '{}'",
            name.volid(),
            guest.vmid
        )));
    }
    let id = name.owner.map_or(name.storage.clone(), |owner| {
        format!("{owner}@{}", name.storage)
    });
    let (node, delayed) = (call.node.clone(), call.number("delay").is_some());
    call.cluster.active_storage(&name.storage, &node)?;
    let upid = call.start_task(
        "imgdel",
        &id,
        Box::new(move |stage| Some(stage.cluster.free(&name, &node))),
    );
    Ok(if delayed { Value::Null } else { upid })
}
