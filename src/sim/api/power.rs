//! Starting and stopping VMs. What goes wrong is never in the answer: it is in the exit status of the task.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Call, Refusal, Reply, lock_timeout, vm_on};
use crate::sim::world::guest::{Guest, Run, volume_of};
use crate::sim::world::rights::Identity;
use crate::sim::world::task::{Stage, Work};

const ROOT_ONLY: &[&str] = &[
    "skiplock",
    "keepActive",
    "stateuri",
    "migratedfrom",
    "migration_type",
    "migration_network",
    "targetstorage",
    "nets-host-mtu",
];

/// What a task does to the guest, and for how long it may.
#[derive(Clone, Debug)]
struct Order {
    node: String,
    vmid: u32,
    skip_lock: bool,
    timeout: Option<u64>,
    force: bool,
}

fn order(call: &Call<'_>) -> Result<Order, Refusal> {
    call.only_root(ROOT_ONLY)?;
    Ok(Order {
        node: call.node.clone(),
        vmid: call.vmid(),
        skip_lock: call.flag("skiplock"),
        timeout: call.number("timeout"),
        force: call.flag("forceStop"),
    })
}

/// Starts the task, or hands it to HA when HA manages the guest.
fn begin(call: &mut Call<'_>, kind: &str, ha_state: &str, work: Work) -> Value {
    let vmid = call.vmid();
    let managed = call
        .cluster
        .ha
        .iter_mut()
        .find(|ha| ha.guest == vmid && ha.state != "ignored");
    let Some(resource) = managed else {
        return call.start_task(kind, &vmid.to_string(), work);
    };
    // HA only takes the request; it acts later, as root.
    resource.state = ha_state.to_owned();
    let upid = call.start_task(
        if ha_state == "started" {
            "hastart"
        } else {
            "hastop"
        },
        &vmid.to_string(),
        Box::new(|_| Some(Ok(()))),
    );
    let root = Identity {
        user: "root@pam".to_owned(),
        token: None,
    };
    let later = call
        .cluster
        .add_task(&call.node, kind, &vmid.to_string(), &root);
    call.jobs.push((later, work));
    upid
}

/// Takes the lock on the guest's file for a task; `None`: still waiting.
fn take_lock(stage: &mut Stage<'_>, order: &Order) -> Option<Result<(), String>> {
    let upid = stage.upid.to_owned();
    let waited = stage.elapsed > Duration::from_millis(stage.pace.lock_wait);
    let guest = match stage.cluster.guests.get_mut(&order.vmid) {
        Some(guest) if guest.node == order.node => guest,
        _ => {
            return Some(Err(format!(
                "Configuration file 'nodes/{}/qemu-server/{}.conf' does not exist",
                order.node, order.vmid
            )));
        }
    };
    match &guest.holder {
        Some(holder) if *holder != upid => {
            return waited.then(|| Err(lock_timeout(order.vmid)));
        }
        _ => guest.holder = Some(upid),
    }
    match order.skip_lock {
        true => Some(Ok(())),
        false => Some(guest.check_lock()),
    }
}

/// `POST status/start`.
pub(super) fn start(call: &mut Call<'_>) -> Reply {
    let order = order(call)?;
    let work: Work = Box::new(move |stage| {
        match take_lock(stage, &order) {
            None => return None,
            Some(Err(text)) => return Some(Err(text)),
            Some(Ok(())) => {}
        }
        let running = stage
            .cluster
            .guests
            .get(&order.vmid)
            .is_some_and(|guest| guest.run.is_some());
        if running {
            return Some(Err(format!("VM {} already running", order.vmid)));
        }
        if stage.elapsed < Duration::from_millis(stage.pace.start) {
            return None;
        }
        Some(launch(stage, &order.node, order.vmid))
    });
    Ok(begin(call, "qmstart", "started", work))
}

/// Starts a VM now, when it can start at all.
pub(super) fn launch(stage: &mut Stage<'_>, node: &str, vmid: u32) -> Result<(), String> {
    let cluster = &mut *stage.cluster;
    if let Some(guest) = cluster.guests.get_mut(&vmid) {
        guest.settle_all();
    }
    let guest = vm_on(cluster, node, vmid)?.clone();
    can_start(cluster, &guest)?;
    let pid = cluster.next_pid();
    stage.machine.start(&cluster.running_guest(&guest));
    if let Some(guest) = cluster.guests.get_mut(&vmid) {
        guest.run = Some(Run {
            pid,
            since: Instant::now(),
            qmp_status: "running".to_owned(),
        });
    }
    Ok(())
}

/// What QEMU and its helpers would stumble over.
fn can_start(cluster: &crate::sim::world::Cluster, guest: &Guest) -> Result<(), String> {
    if guest
        .config
        .get("template")
        .is_some_and(|value| value == "1")
    {
        return Err("you can't start a vm if it's a template".to_owned());
    }
    let modern = cluster.release() >= (9, 0);
    for (key, value) in guest.drives() {
        let volume = volume_of(value);
        if volume == "cdrom" {
            // There is no physical drive in a simulated node.
            return Err("start failed: QEMU exited with code 1".to_owned());
        }
        if volume == "none" || volume.starts_with('/') {
            continue;
        }
        let name = cluster.parse_volume(volume)?;
        let storage = cluster.active_storage(&name.storage, &guest.node)?;
        if let Some(zpool) = storage.zpool() {
            zpool.try_open(&name.file)?;
        }
        let missing = format!("volume '{volume}' does not exist");
        let found = cluster.look_at_volume(name, &guest.node)?.ok_or(missing)?;
        if found.facts.is_none() {
            return Err(format!("start failed: QEMU exited with code 1: {key}"));
        }
        let vars = option_size(guest, key);
        if key == "efidisk0"
            && found.name.format() == "qcow2"
            && found.facts.is_some_and(|f| f.size != vars)
        {
            return Err("start failed: QEMU exited with code 1".to_owned());
        }
    }
    let bridges = cluster
        .node(&guest.node)
        .map(|node| node.bridges.clone())
        .unwrap_or_default();
    for (_, value) in guest
        .config
        .iter()
        .filter(|(key, _)| key.starts_with("net"))
    {
        let bridge = value
            .split(',')
            .find_map(|part| part.strip_prefix("bridge="));
        if let Some(bridge) = bridge.filter(|bridge| !bridges.iter().any(|known| known == bridge)) {
            return Err(match modern {
                true => format!("bridge '{bridge}' does not exist"),
                false => "start failed: QEMU exited with code 1".to_owned(),
            });
        }
    }
    machine_exists(cluster, guest)
}

fn option_size(guest: &Guest, key: &str) -> u64 {
    let value = guest.config.get(key).map_or("", String::as_str);
    match value.contains("efitype=4m") {
        true => 540_672,
        false => 131_072,
    }
}

/// A pinned machine that is newer than the node's QEMU does not start.
fn machine_exists(cluster: &crate::sim::world::Cluster, guest: &Guest) -> Result<(), String> {
    let installed = cluster.qemu_version(&guest.node);
    let wanted = guest.config.get("machine").map_or("", String::as_str);
    let wanted = wanted.split(',').next().unwrap_or_default();
    let wanted = wanted.strip_prefix("type=").unwrap_or(wanted);
    let version = |text: &str| -> Option<(u32, u32)> {
        let mut parts = text.split('.').map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    };
    let pinned = wanted
        .rsplit_once('-')
        .map(|(_, text)| text.split('+').next().unwrap_or_default());
    match (pinned.and_then(version), version(&installed)) {
        (Some(pinned), Some(have)) if pinned > have => Err(format!(
            "Installed QEMU version '{installed}' is too old to run machine type '{wanted}', please upgrade node '{}'",
            guest.node
        )),
        _ => Ok(()),
    }
}

/// Ends a VM's process; `hard` without letting it finish what it writes.
fn end(stage: &mut Stage<'_>, vmid: u32, hard: bool) {
    let Some(guest) = stage.cluster.guests.get(&vmid).cloned() else {
        return;
    };
    stage
        .machine
        .stop(&stage.cluster.running_guest(&guest), hard);
    if let Some(guest) = stage.cluster.guests.get_mut(&vmid) {
        guest.run = None;
        guest.settle_all();
    }
}

/// `POST status/stop`.
pub(super) fn stop(call: &mut Call<'_>) -> Reply {
    let order = order(call)?;
    let overrule = call.flag("overrule-shutdown");
    if overrule {
        let id = order.vmid.to_string();
        let shutting = |task: &&mut crate::sim::world::task::Task| {
            task.kind == "qmshutdown" && task.id == id && task.ended.is_none()
        };
        if let Some(task) = call.cluster.tasks.iter_mut().find(shutting) {
            task.aborted = true;
        }
    }
    let work: Work = Box::new(move |stage| match take_lock(stage, &order) {
        Some(Ok(())) => {
            let running = stage
                .cluster
                .guests
                .get(&order.vmid)
                .is_some_and(|guest| guest.run.is_some());
            if running {
                end(stage, order.vmid, true);
            }
            Some(Ok(()))
        }
        other => other,
    });
    Ok(begin(call, "qmstop", "stopped", work))
}

/// `POST status/shutdown`.
pub(super) fn shutdown(call: &mut Call<'_>) -> Reply {
    let order = order(call)?;
    let guest = call.guest().ok();
    let paused = guest
        .and_then(|guest| guest.run.as_ref())
        .is_some_and(|run| run.qmp_status == "paused");
    if paused && !order.force {
        return Err(Refusal::died("VM is paused - cannot shutdown"));
    }
    let down = guest
        .and_then(|guest| guest.config.get("startup"))
        .and_then(|startup| {
            startup
                .split(',')
                .find_map(|part| part.strip_prefix("down="))
        })
        .and_then(|seconds| seconds.parse().ok());
    let timeout = Duration::from_secs(order.timeout.or(down).unwrap_or(60));
    let mut since: Option<Instant> = None;
    let work: Work = Box::new(move |stage| {
        match take_lock(stage, &order) {
            Some(Ok(())) => {}
            Some(Err(text)) if text.starts_with("Configuration file") => {
                return Some(Err(format!(
                    "unable to find configuration file for VM {} on node '{}'",
                    order.vmid, order.node
                )));
            }
            other => return other,
        }
        let guest = stage.cluster.guests.get(&order.vmid)?;
        if guest.run.is_none() {
            return Some(Ok(()));
        }
        let waited = since.get_or_insert_with(Instant::now).elapsed();
        let obeys = !guest.ignores_shutdown && !paused;
        if obeys && waited >= Duration::from_millis(guest.shutdown) {
            end(stage, order.vmid, false);
            return Some(Ok(()));
        }
        if waited < timeout {
            return None;
        }
        if !order.force {
            return Some(Err("VM quit/powerdown failed - got timeout".to_owned()));
        }
        stage
            .log
            .push("VM still running - terminating now with SIGTERM".to_owned());
        end(stage, order.vmid, true);
        Some(Ok(()))
    });
    Ok(begin(call, "qmshutdown", "stopped", work))
}

/// Returns the order for a VM that must be running.
fn order_for_running(call: &Call<'_>) -> Result<Order, Refusal> {
    let order = order(call)?;
    match call.guest()?.run {
        Some(_) => Ok(order),
        None => Err(Refusal::died(format!("VM {} not running", order.vmid))),
    }
}

/// Sets QEMU's word for a running VM, as pausing and resuming do.
fn set_qmp_status(call: &mut Call<'_>, kind: &str, order: Order, status: &'static str) -> Value {
    let id = order.vmid.to_string();
    call.start_task(
        kind,
        &id,
        Box::new(move |stage| match take_lock(stage, &order) {
            Some(Ok(())) => {
                let guest = stage.cluster.guests.get_mut(&order.vmid)?;
                if let Some(run) = &mut guest.run {
                    run.qmp_status = status.to_owned();
                }
                Some(Ok(()))
            }
            other => other,
        }),
    )
}

/// `POST status/reset`.
pub(super) fn reset(call: &mut Call<'_>) -> Reply {
    let order = order_for_running(call)?;
    Ok(set_qmp_status(call, "qmreset", order, "running"))
}

/// `POST status/suspend`: pauses. Hibernating to disk is not simulated.
pub(super) fn suspend(call: &mut Call<'_>) -> Reply {
    let order = order_for_running(call)?;
    if call.flag("todisk") {
        return Err(Refusal::died("hibernating is not simulated"));
    }
    Ok(set_qmp_status(call, "qmpause", order, "paused"))
}

/// `POST status/resume`.
pub(super) fn resume(call: &mut Call<'_>) -> Reply {
    let order = order_for_running(call)?;
    Ok(set_qmp_status(call, "qmresume", order, "running"))
}

/// `POST status/reboot`: down and up again, as soon as the guest obeys.
pub(super) fn reboot(call: &mut Call<'_>) -> Reply {
    let order = order_for_running(call)?;
    let timeout = Duration::from_secs(order.timeout.unwrap_or(60));
    let id = order.vmid.to_string();
    let work: Work = Box::new(move |stage| {
        match take_lock(stage, &order) {
            Some(Ok(())) => {}
            other => return other,
        }
        let guest = stage.cluster.guests.get(&order.vmid)?;
        if !guest.ignores_shutdown && stage.elapsed >= Duration::from_millis(guest.shutdown) {
            end(stage, order.vmid, false);
            return Some(launch(stage, &order.node, order.vmid));
        }
        (stage.elapsed > timeout).then(|| Err("VM quit/powerdown failed - got timeout".to_owned()))
    });
    Ok(call.start_task("qmreboot", &id, work))
}
