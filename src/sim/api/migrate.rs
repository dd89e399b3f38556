//! Migrating guests between the nodes of a cluster.
//!
//! What is refused early is in the answer, the rest in the task, whose exit status is only ever `migration aborted` or
//! `migration problems`: the cause is in its log. Read next: `migrate/task.rs`,
//! `../world/migration.rs`, `lrm.rs`.

pub(crate) mod task;

use serde_json::Value;

use super::{Call, Refusal, Reply, check_quorum};
use crate::sim::world::Cluster;
use crate::sim::world::guest::{Guest, volume_of};
use crate::sim::world::migration::{StorageMap, Wish};
use crate::sim::world::task::Work;
use task::{container_work, vm_work};

/// `POST qemu/ID/migrate`.
pub(super) fn vm(call: &mut Call<'_>) -> Reply {
    let target = target_of(call)?;
    call.only_root(&["force", "migration_type", "migration_network"])?;
    let guest = call.guest()?.clone();
    let mut wish = Wish {
        target,
        online: call.flag("online"),
        with_local_disks: call.flag("with-local-disks"),
        force: call.flag("force"),
        storages: StorageMap::default(),
    };
    before_vm(call.cluster, &guest, &wish)?;
    match call.text("targetstorage").map(str::to_owned) {
        None => same_storages(call.cluster, &guest, &wish.target)?,
        Some(text) => {
            wish.storages = storages(call, "targetstorage", &text, &wish.target)?;
            if wish.storages.identity {
                same_storages(call.cluster, &guest, &wish.target)?;
            }
        }
    }
    let work = vm_work(guest.node.clone(), guest.vmid, wish.clone());
    Ok(begin(call, "qmigrate", &wish.target, work))
}

/// `POST lxc/ID/migrate`.
pub(super) fn container(call: &mut Call<'_>) -> Reply {
    let target = target_of(call)?;
    let guest = call.container()?.clone();
    let (online, restart) = (call.flag("online"), call.flag("restart"));
    if guest.run.is_some() && !online && !restart {
        return Err(Refusal::died(
            "can't migrate running container without --online or --restart",
        ));
    }
    let mut wish = Wish {
        target,
        online,
        ..Wish::default()
    };
    if let Some(text) = call.text("target-storage").map(str::to_owned) {
        wish.storages = storages(call, "target-storage", &text, &wish.target)?;
    }
    let timeout = restart.then(|| call.number("timeout").unwrap_or(180));
    let work = container_work(guest.node.clone(), guest.vmid, wish.clone(), timeout);
    Ok(begin(call, "vzmigrate", &wish.target, work))
}

fn target_of(call: &Call<'_>) -> Result<String, Refusal> {
    let target = call.text("target").unwrap_or_default().to_owned();
    if target == call.node {
        return Err(Refusal::param("target", "target is local node."));
    }
    check_quorum(call.cluster)?;
    match call.cluster.nodes.iter().any(|node| node.name == target) {
        true => Ok(target),
        false => Err(Refusal::died(format!("no such cluster node '{target}'"))),
    }
}

/// What refuses a VM's migration early; also when HA asks for it.
pub(crate) fn before_vm(cluster: &Cluster, guest: &Guest, wish: &Wish) -> Result<(), String> {
    guest.check_lock()?;
    if guest.run.is_some() && !wish.online {
        return Err("can't migrate running VM without --online".to_owned());
    }
    let mut jobs = cluster
        .replication
        .iter()
        .filter(|job| job.guest == guest.vmid)
        .peekable();
    let replicated = jobs.peek().is_some();
    if guest.run.is_some()
        && replicated
        && !wish.force
        && !jobs.any(|job| job.target == wish.target)
    {
        return Err(format!(
            "Cannot live-migrate replicated VM to node '{}' - not a replication target. Use 'force' to override.",
            wish.target
        ));
    }
    Ok(())
}

/// Checks that the target has the storages of a VM's drives.
pub(crate) fn same_storages(cluster: &Cluster, guest: &Guest, target: &str) -> Result<(), String> {
    for (_, value) in guest.drives() {
        if let Some((storage, _)) = volume_of(value).split_once(':') {
            cluster.usable_storage(storage, &guest.node)?;
            cluster.usable_storage(storage, target)?;
        }
    }
    Ok(())
}

fn storages(call: &Call<'_>, name: &str, text: &str, target: &str) -> Result<StorageMap, Refusal> {
    let map = StorageMap::parse(text)
        .map_err(|error| Refusal::param(name, format!("failed to parse storage map: {error}")))?;
    if !map.identity {
        call.require(&format!("/vms/{}", call.vmid()), &["VM.Config.Disk"])?;
    }
    for storage in map.targets() {
        let found = call.cluster.usable_storage(storage, target)?;
        call.require(&format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
        let wanted = if name == "targetstorage" {
            "images"
        } else {
            "rootdir"
        };
        if !found.content.split(',').any(|word| word == wanted) {
            return Err(Refusal::died(match wanted {
                "images" => format!("storage '{storage}' does not support vm images"),
                _ => format!("storage '{storage}' does not support CT rootdirs"),
            }));
        }
    }
    Ok(map)
}

/// Starts the task, or puts the guest on the list of HA.
fn begin(call: &mut Call<'_>, kind: &str, target: &str, work: Work) -> Value {
    let vmid = call.vmid();
    if call.cluster.managed(vmid).is_none() {
        return call.start_task(kind, &vmid.to_string(), work);
    }
    let sid = call.cluster.sid(vmid);
    let word = if sid.starts_with("ct") { "CT" } else { "VM" };
    let line = format!("Requesting HA migration for {word} {vmid} to node {target}");
    let target = target.to_owned();
    let work: Work = Box::new(move |stage| {
        stage.log.push(line.clone());
        let manager = &mut stage.cluster.manager;
        let service = manager.services.get(&vmid);
        if service.is_some_and(|service| service.state == "error") {
            let why = "in error state, must be disabled and fixed first";
            stage.log.push(format!("service '{sid}' {why}"));
            let command = format!("ha-manager migrate {sid} {target}");
            return Some(Err(format!("command '{command}' failed: exit code 255")));
        }
        manager.commands.push(format!("migrate {sid} {target}"));
        Some(Ok(()))
    });
    call.start_task("hamigrate", &vmid.to_string(), work)
}
