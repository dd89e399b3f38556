//! Snapshots of VMs: taken, deleted, rolled back to. They are real on a real pool, and for an image of a stopped VM.
//!
//! Memory is never saved, and volume chains are not simulated. What Proxmox VE refuses, it refuses in the task. Read
//! next: `world/zpool.rs`, `guests.rs` (listing them).

use std::process::Command;
use std::time::Duration;

use super::{Call, Refusal, Reply, vm_on};
use crate::sim::world::Cluster;
use crate::sim::world::guest::{Guest, Snapshot, is_cdrom, volume_of};
use crate::sim::world::storage::VolumeName;
use crate::sim::world::task::{Stage, Work, unix_now};

/// What a snapshot of a volume is made of, for what is done to one.
enum Data {
    /// A zvol of a real pool.
    Zvol(VolumeName),
    /// A qcow2 image that nobody has open.
    Image(std::path::PathBuf),
}

/// `POST qemu/ID/snapshot`.
pub(super) fn take(call: &mut Call<'_>) -> Reply {
    let name = call.text("snapname").unwrap_or_default().to_owned();
    for reserved in ["current", "pending"] {
        if name.eq_ignore_ascii_case(reserved) {
            let text = format!("unable to use snapshot name '{name}' (reserved name)");
            return Err(Refusal::died(text));
        }
    }
    let description = call.text("description").unwrap_or_default().to_owned();
    let memory = call.flag("vmstate");
    let (node, vmid) = (call.node.clone(), call.vmid());
    let work = after_a_while(move |stage| {
        let guest = vm_on(stage.cluster, &node, vmid)?;
        guest.check_lock()?;
        if guest.snapshots.iter().any(|snapshot| snapshot.name == name) {
            return Err(format!("snapshot name '{name}' already used"));
        }
        let data = data_of(stage.cluster, guest, &guest.config)?;
        if memory && guest.run.is_some() {
            return Err("saving the memory of a VM is not simulated".to_owned());
        }
        for data in &data {
            act(stage.cluster, data, &["snapshot"], "-c", &name)?;
        }
        let guest = stage.cluster.guests.get_mut(&vmid).ok_or("no such VM")?;
        let parent = guest.config.insert("parent".to_owned(), name.clone());
        let mut config = guest.config.clone();
        config.retain(|key, _| !is_own(key) && !key.starts_with("unused"));
        guest.snapshots.push(Snapshot {
            name: name.clone(),
            description: description.clone(),
            with_memory: false,
            taken: unix_now(),
            parent,
            config,
        });
        Ok(())
    });
    Ok(call.start_task("qmsnapshot", &vmid.to_string(), work))
}

/// `DELETE qemu/ID/snapshot/NAME`.
pub(super) fn delete(call: &mut Call<'_>) -> Reply {
    let name = call.text("snapname").unwrap_or_default().to_owned();
    let (node, vmid) = (call.node.clone(), call.vmid());
    let work = after_a_while(move |stage| {
        let guest = vm_on(stage.cluster, &node, vmid)?;
        guest.check_lock()?;
        let snapshot = find(guest, &name)?;
        let (parent, data) = (
            snapshot.parent.clone(),
            data_of(stage.cluster, guest, &snapshot.config)?,
        );
        for data in &data {
            act(stage.cluster, data, &["destroy"], "-d", &name)?;
        }
        let guest = stage.cluster.guests.get_mut(&vmid).ok_or("no such VM")?;
        guest.snapshots.retain(|snapshot| snapshot.name != name);
        let own = std::iter::once(guest.config.remove("parent")).flatten();
        for own in own.filter(|own| *own != name).chain(parent.clone()).take(1) {
            guest.config.insert("parent".to_owned(), own);
        }
        for snapshot in &mut guest.snapshots {
            if snapshot.parent.as_deref() == Some(&name) {
                snapshot.parent.clone_from(&parent);
            }
        }
        Ok(())
    });
    Ok(call.start_task("qmdelsnapshot", &vmid.to_string(), work))
}

/// `POST qemu/ID/snapshot/NAME/rollback`.
pub(super) fn rollback(call: &mut Call<'_>) -> Reply {
    let name = call.text("snapname").unwrap_or_default().to_owned();
    let start = call.flag("start");
    let (node, vmid) = (call.node.clone(), call.vmid());
    let work = after_a_while(move |stage| {
        let guest = vm_on(stage.cluster, &node, vmid)?.clone();
        guest.check_lock()?;
        let snapshot = find(&guest, &name)?.clone();
        if let Some(state) = snapshot.config.get("snapstate") {
            return Err(format!(
                "unable to rollback to incomplete snapshot (snapstate = {state})"
            ));
        }
        for (_, value) in snapshot
            .config
            .iter()
            .filter(|(key, value)| is_disk(key, value))
        {
            may_roll_back(stage.cluster, volume_of(value), &name)?;
        }
        if guest.run.is_some() {
            stage
                .machine
                .stop(&stage.cluster.running_guest(&guest), true);
            if let Some(guest) = stage.cluster.guests.get_mut(&vmid) {
                guest.run = None;
            }
        }
        let stopped = vm_on(stage.cluster, &node, vmid)?;
        for data in &data_of(stage.cluster, stopped, &snapshot.config)? {
            act(stage.cluster, data, &["rollback"], "-a", &name)?;
        }
        let guest = stage.cluster.guests.get_mut(&vmid).ok_or("no such VM")?;
        let unused = guest.config.clone();
        guest.config = snapshot.config.clone();
        guest.config.extend(
            unused
                .into_iter()
                .filter(|(key, _)| key.starts_with("unused")),
        );
        guest.config.insert("parent".to_owned(), name.clone());
        if guest.config.contains_key("vmgenid") {
            let new = crate::sim::world::setup::uuid();
            guest.config.insert("vmgenid".to_owned(), new);
        }
        guest.pending.clear();
        guest.pending_delete.clear();
        match start {
            true => super::power::launch(stage, &node, vmid),
            false => Ok(()),
        }
    });
    Ok(call.start_task("qmrollback", &vmid.to_string(), work))
}

/// Returns work that takes as long as other tasks do.
fn after_a_while(
    mut work: impl FnMut(&mut Stage<'_>) -> Result<(), String> + Send + 'static,
) -> Work {
    Box::new(move |stage| {
        let done = stage.elapsed >= Duration::from_millis(stage.pace.task);
        done.then(|| work(stage))
    })
}

fn find<'a>(guest: &'a Guest, name: &str) -> Result<&'a Snapshot, String> {
    let found = guest
        .snapshots
        .iter()
        .find(|snapshot| snapshot.name == name);
    found.ok_or_else(|| format!("snapshot '{name}' does not exist"))
}

/// Keys that are about the guest at present.
fn is_own(key: &str) -> bool {
    matches!(key, "parent" | "lock" | "digest")
}

fn is_disk(key: &str, value: &str) -> bool {
    crate::sim::world::guest::is_drive(key) && !is_cdrom(value)
}

/// Returns the data of all disks of a configuration; fails where one can have no snapshots.
fn data_of(
    cluster: &Cluster,
    guest: &Guest,
    config: &std::collections::BTreeMap<String, String>,
) -> Result<Vec<Data>, String> {
    let disks = config.iter().filter(|(key, value)| is_disk(key, value));
    disks
        .map(|(_, value)| {
            let name = cluster.parse_volume(volume_of(value))?;
            if cluster.storage(&name.storage)?.zpool().is_some() {
                return Ok(Data::Zvol(name));
            }
            match (name.format(), &guest.run) {
                ("qcow2", None) => Ok(Data::Image(cluster.volume_path(&name, &guest.node)?)),
                ("qcow2", Some(_)) => {
                    Err("snapshots of images of a running VM are not simulated".to_owned())
                }
                _ => Err("snapshot feature is not available".to_owned()),
            }
        })
        .collect()
}

fn may_roll_back(cluster: &Cluster, volume: &str, snapshot: &str) -> Result<(), String> {
    let name = cluster.parse_volume(volume)?;
    match cluster.storage(&name.storage)?.zpool() {
        Some(zpool) => zpool.may_roll_back(&name, snapshot),
        None => Ok(()),
    }
}

fn act(
    cluster: &Cluster,
    data: &Data,
    zfs: &[&str],
    image: &str,
    snapshot: &str,
) -> Result<(), String> {
    match data {
        Data::Zvol(name) => match cluster.storage(&name.storage)?.zpool() {
            Some(zpool) => zpool.on_snapshot(zfs, name, snapshot),
            None => Err("snapshot feature is not available".to_owned()),
        },
        Data::Image(path) => {
            let mut command = Command::new("qemu-img");
            command.args(["snapshot", image, snapshot]).arg(path);
            let output = command.output().map_err(|error| error.to_string())?;
            match output.status.success() {
                true => Ok(()),
                false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            }
        }
    }
}
