//! What a migration inside the cluster would meet. Migrating itself is not simulated.

use serde_json::{Map, Value, json};

use super::check::parse_size;
use super::{Call, Reply};
use crate::pve::drive::DriveKey;
use crate::sim::world::guest::{is_cdrom, option_of, volume_of};

/// `GET qemu/ID/migrate`.
pub(super) fn preconditions(call: &mut Call<'_>) -> Reply {
    let release = call.release();
    let guest = call.guest()?;
    guest.check_lock()?;
    let mut disks = Vec::new();
    for (key, value) in &guest.config {
        let volume = volume_of(value);
        if key.parse::<DriveKey>().is_err() || !volume.contains(':') {
            continue;
        }
        let Ok(name) = call.cluster.parse_volume(volume) else {
            continue;
        };
        let shared = call
            .cluster
            .storage(&name.storage)
            .is_ok_and(|storage| storage.shared);
        if shared {
            continue;
        }
        let unused = key.starts_with("unused");
        let mut disk = json!({
            "volid": volume, "cdrom": u8::from(is_cdrom(value)), "shared": 0, "is_vmstate": 0,
            "is_unused": u8::from(unused), "is_attached": u8::from(!unused), "drivename": key,
            "is_tpmstate": u8::from(key == "tpmstate0"),
            "replicate": u8::from(option_of(value, "replicate") != Some("0")),
        });
        if release >= (9, 0) {
            disk["is_cloudinit"] = json!(u8::from(volume.contains("-cloudinit")));
        }
        if let Some(size) = option_of(value, "size").and_then(parse_size) {
            disk["size"] = json!(size);
        }
        disks.push(disk);
    }
    let mut reply = json!({
        "running": u8::from(guest.run.is_some()), "local_disks": disks, "local_resources": [],
    });
    if release >= (8, 0) {
        reply["mapped-resources"] = json!([]);
    }
    if release >= (8, 4) {
        reply["mapped-resource-info"] = json!({});
    }
    if release >= (9, 0) {
        reply["has-dbus-vmstate"] = json!(1);
    }
    if release >= (8, 4) || guest.run.is_none() {
        let others = call
            .cluster
            .nodes
            .iter()
            .filter(|node| node.name != guest.node);
        let allowed: Vec<&str> = others.clone().map(|node| node.name.as_str()).collect();
        reply["allowed_nodes"] = json!(allowed);
        let refused: Map<String, Value> = match release < (8, 0) {
            true => others.map(|node| (node.name.clone(), json!({}))).collect(),
            false => Map::new(),
        };
        reply["not_allowed_nodes"] = Value::Object(refused);
    }
    Ok(reply)
}
