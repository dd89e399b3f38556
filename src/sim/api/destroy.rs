//! Destroying a VM: its configuration and the volumes it owns, which are really removed.

use std::time::Duration;

use super::{Call, Refusal, Reply, vm_on};
use crate::sim::world::Cluster;
use crate::sim::world::guest::owner_of;

/// `DELETE qemu/ID`.
pub(super) fn destroy(call: &mut Call<'_>) -> Reply {
    call.only_root(&["skiplock"])?;
    let guest = call.guest()?;
    let (vmid, node) = (guest.vmid, guest.node.clone());
    if guest
        .config
        .get("protection")
        .is_some_and(|value| value == "1")
    {
        return Err(Refusal::died(format!(
            "can't remove VM {vmid} - protection mode enabled"
        )));
    }
    let purge = call.flag("purge");
    if !purge {
        if call.cluster.ha.iter().any(|ha| ha.guest == vmid) {
            return Err(Refusal::died(format!(
                "unable to remove VM {vmid} - used in HA resources and purge parameter not set."
            )));
        }
        if call.cluster.replication.iter().any(|job| job.guest == vmid) {
            return Err(Refusal::died(format!(
                "There is a replication job '{vmid}-0' for guest '{vmid}' - Please remove that first."
            )));
        }
    }
    if guest.run.is_some() {
        return Err(Refusal::died(format!(
            "VM {vmid} is running - destroy failed"
        )));
    }
    // Before 7.0 volumes that nothing names are destroyed unless asked not to.
    let unreferenced = match call.text("destroy-unreferenced-disks") {
        Some(value) => value == "1",
        None => call.release() < (7, 0),
    };
    let skip_lock = call.flag("skiplock");
    Ok(call.start_task(
        "qmdestroy",
        &vmid.to_string(),
        Box::new(move |stage| {
            if stage.elapsed < Duration::from_millis(stage.pace.task) {
                return None;
            }
            let outcome = remove(stage.cluster, &node, vmid, unreferenced, skip_lock);
            if outcome.is_ok() && purge {
                stage
                    .log
                    .push(format!("purging VM {vmid} from related configurations.."));
                stage.cluster.ha.retain(|ha| ha.guest != vmid);
                stage.cluster.replication.retain(|job| job.guest != vmid);
            }
            Some(outcome)
        }),
    ))
}

fn remove(
    cluster: &mut Cluster,
    node: &str,
    vmid: u32,
    unreferenced: bool,
    skip_lock: bool,
) -> Result<(), String> {
    let guest = vm_on(cluster, node, vmid)?;
    if guest.holder.is_some() {
        return Err(super::lock_timeout(guest));
    }
    if !skip_lock {
        guest.check_lock()?;
    }
    if guest.run.is_some() {
        return Err(format!("VM {vmid} is running - destroy failed"));
    }
    let owned: Vec<String> = guest
        .volumes()
        .into_iter()
        .filter(|volume| owner_of(volume) == Some(vmid))
        .collect();
    for volume in owned {
        // As on a real node, a volume that cannot be removed does not keep the guest alive.
        if let Ok(name) = cluster.parse_volume(&volume) {
            let _ = cluster.free(&name, node);
        }
    }
    if unreferenced {
        for storage in &cluster.storages {
            if !cluster.storage_serves(storage, node) || !storage.content.contains("images") {
                continue;
            }
            cluster.active_storage(&storage.id, node)?;
            for volume in cluster.volumes(storage, node) {
                if volume.name.owner == Some(vmid) {
                    cluster.free(&volume.name, node)?;
                }
            }
        }
    }
    cluster.guests.remove(&vmid);
    cluster.forget_rights(vmid);
    for pool in cluster.pools.values_mut() {
        pool.members.remove(&vmid);
    }
    Ok(())
}
