//! Starting and stopping guests. What goes wrong is never in the answer: it is in the exit status of the task.
//!
//! Read next: `containers.rs`, `lrm.rs`.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Call, Refusal, Reply, guest_on, lock_timeout, missing};
use crate::sim::world::guest::{Guest, Run, holds_volume, volume_of};
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

/// What is to be done to which guest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Order {
    pub(crate) node: String,
    pub(crate) vmid: u32,
    pub(crate) container: bool,
    pub(crate) skip_lock: bool,
    pub(crate) timeout: Option<u64>,
    pub(crate) force: bool,
}

pub(super) fn order(call: &Call<'_>) -> Result<Order, Refusal> {
    call.only_root(ROOT_ONLY)?;
    Ok(Order {
        node: call.node.clone(),
        vmid: call.vmid(),
        container: false,
        skip_lock: call.flag("skiplock"),
        timeout: call.number("timeout"),
        force: call.flag("forceStop"),
    })
}

/// Starts a task, or has HA do it: it only takes the request, and acts when it comes to it.
pub(super) fn begin(call: &mut Call<'_>, kind: &str, wish: Wanted, work: Work) -> Value {
    let vmid = call.vmid();
    if call.cluster.managed(vmid).is_none() {
        return call.start_task(kind, &vmid.to_string(), work);
    }
    let sid = call.cluster.sid(vmid);
    let word = if sid.starts_with("ct") { "CT" } else { "VM" };
    let (kind, what) = match wish {
        Wanted::Started => {
            let resource = call.cluster.ha.iter_mut().find(|ha| ha.guest == vmid);
            if let Some(resource) = resource {
                resource.state = "started".to_owned();
            }
            ("hastart", "start")
        }
        Wanted::Stopped(timeout) => {
            let commands = &mut call.cluster.manager.commands;
            commands.push(format!("stop {sid} {timeout}"));
            ("hastop", "stop")
        }
    };
    let line = format!("Requesting HA {what} for {word} {vmid}");
    let work: Work = Box::new(move |stage| {
        stage.log.push(line.clone());
        Some(Ok(()))
    });
    call.start_task(kind, &vmid.to_string(), work)
}

/// What HA is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    Started,
    /// With the seconds it may take; 0 for at once.
    Stopped(u64),
}

/// Takes the lock on the guest's file for a task; `None`: still waiting.
pub(in crate::sim::api) fn take_lock(
    stage: &mut Stage<'_>,
    order: &Order,
) -> Option<Result<(), String>> {
    let upid = stage.upid.to_owned();
    let waited = stage.elapsed > Duration::from_millis(stage.pace.lock_wait);
    let guest = match stage.cluster.guests.get_mut(&order.vmid) {
        Some(guest) if guest.node == order.node => guest,
        _ => return Some(Err(missing(&order.node, order.vmid, order.container))),
    };
    match &guest.holder {
        Some(holder) if *holder != upid => {
            return waited.then(|| Err(lock_timeout(guest)));
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
    let work = start_work(order(call)?);
    Ok(begin(call, "qmstart", Wanted::Started, work))
}

/// Returns the work of a start.
pub(crate) fn start_work(order: Order) -> Work {
    Box::new(move |stage| {
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
            let word = if order.container { "CT" } else { "VM" };
            return Some(Err(format!("{word} {} already running", order.vmid)));
        }
        if stage.elapsed < Duration::from_millis(stage.pace.start) {
            return None;
        }
        Some(launch(stage, &order.node, order.vmid))
    })
}

/// Starts a VM now, when it can start at all.
pub(in crate::sim::api) fn launch(
    stage: &mut Stage<'_>,
    node: &str,
    vmid: u32,
) -> Result<(), String> {
    let cluster = &mut *stage.cluster;
    if let Some(guest) = cluster.guests.get_mut(&vmid) {
        guest.settle_all();
    }
    let container = cluster
        .guests
        .get(&vmid)
        .is_some_and(|guest| guest.container);
    let guest = guest_on(cluster, node, vmid, container)?.clone();
    can_start(cluster, &guest)?;
    let boot = cluster.boots.get(&vmid).cloned().unwrap_or_default();
    if !boot.fails.is_empty() {
        return Err(boot.fails);
    }
    let guest = Guest {
        write_rate: guest.write_rate.max(boot.write_rate),
        ..guest
    };
    let pid = cluster.next_pid();
    stage.machine.start(&cluster.running_guest(&guest));
    if let Some(guest) = cluster.guests.get_mut(&vmid) {
        guest.run = Some(Run {
            pid,
            since: Instant::now(),
            qmp_status: match boot.status.is_empty() {
                true => "running".to_owned(),
                false => boot.status,
            },
        });
    }
    cluster.remember(vmid);
    Ok(())
}

/// What QEMU and its helpers would stumble over.
fn can_start(cluster: &crate::sim::world::Cluster, guest: &Guest) -> Result<(), String> {
    if guest
        .config
        .get("template")
        .is_some_and(|value| value == "1")
    {
        return Err(match guest.container {
            true => "you can't start a CT if it's a template".to_owned(),
            false => "you can't start a vm if it's a template".to_owned(),
        });
    }
    if guest.container {
        return can_start_container(cluster, guest);
    }
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
    check_bridges(cluster, guest)?;
    machine_exists(cluster, guest)
}

/// Volumes and bridges; what is inside a container is not looked at.
fn can_start_container(cluster: &crate::sim::world::Cluster, guest: &Guest) -> Result<(), String> {
    for (key, value) in guest
        .config
        .iter()
        .filter(|(key, _)| holds_volume(key) && !key.starts_with("unused"))
    {
        let volume = volume_of(value);
        if volume.starts_with('/') {
            continue;
        }
        let name = cluster.parse_volume(volume)?;
        cluster.active_storage(&name.storage, &guest.node)?;
        if cluster.look_at_volume(name, &guest.node)?.is_none() {
            return Err(format!(
                "startup for container '{}' failed: {key}",
                guest.vmid
            ));
        }
    }
    match check_bridges(cluster, guest) {
        Ok(()) => Ok(()),
        Err(_) => Err(format!("startup for container '{}' failed", guest.vmid)),
    }
}

/// Checks that a guest's node has the bridges it is connected to.
pub(in crate::sim::api) fn check_bridges(
    cluster: &crate::sim::world::Cluster,
    guest: &Guest,
) -> Result<(), String> {
    let modern = cluster.release() >= (9, 0);
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
    Ok(())
}

fn option_size(guest: &Guest, key: &str) -> u64 {
    let value = guest.config.get(key).map_or("", String::as_str);
    match value.contains("efitype=4m") {
        true => 540_672,
        false => 131_072,
    }
}

/// A pinned machine that is newer than the node's QEMU does not start.
pub(in crate::sim::api) fn machine_exists(
    cluster: &crate::sim::world::Cluster,
    guest: &Guest,
) -> Result<(), String> {
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
pub(in crate::sim::api) fn end(stage: &mut Stage<'_>, vmid: u32, hard: bool) {
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
    stage.cluster.remember(vmid);
}

/// `POST status/stop`.
pub(super) fn stop(call: &mut Call<'_>) -> Reply {
    let order = order(call)?;
    let overrule = call.flag("overrule-shutdown");
    if overrule && call.cluster.managed(order.vmid).is_some() {
        return Err(Refusal::param(
            "overrule-shutdown",
            "Not applicable for HA resources.",
        ));
    }
    if overrule {
        let id = order.vmid.to_string();
        let shutting = |task: &&mut crate::sim::world::task::Task| {
            task.kind == "qmshutdown" && task.id == id && task.ended.is_none()
        };
        if let Some(task) = call.cluster.tasks.iter_mut().find(shutting) {
            task.aborted = true;
        }
    }
    let work = stop_work(order);
    Ok(begin(call, "qmstop", Wanted::Stopped(0), work))
}

/// Returns the work of a stop.
pub(crate) fn stop_work(order: Order) -> Work {
    Box::new(move |stage| match take_lock(stage, &order) {
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
    })
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
    let seconds = order.timeout.or(down).unwrap_or(60);
    let work = shutdown_work(order, seconds);
    Ok(begin(call, "qmshutdown", Wanted::Stopped(seconds), work))
}

/// Returns the work of a shutdown that may take that many seconds.
pub(crate) fn shutdown_work(order: Order, seconds: u64) -> Work {
    let timeout = Duration::from_secs(seconds);
    let mut since: Option<Instant> = None;
    Box::new(move |stage| {
        match take_lock(stage, &order) {
            Some(Ok(())) => {}
            Some(Err(text)) if text.starts_with("Configuration file") && !order.container => {
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
        let paused = guest
            .run
            .as_ref()
            .is_some_and(|run| run.qmp_status == "paused");
        let obeys = !guest.ignores_shutdown && !paused;
        if obeys && waited >= Duration::from_millis(guest.shutdown) {
            end(stage, order.vmid, false);
            return Some(Ok(()));
        }
        if waited < timeout {
            return None;
        }
        if !order.force {
            return Some(Err(match order.container {
                true => "container did not stop".to_owned(),
                false => "VM quit/powerdown failed - got timeout".to_owned(),
            }));
        }
        stage
            .log
            .push("VM still running - terminating now with SIGTERM".to_owned());
        end(stage, order.vmid, true);
        Some(Ok(()))
    })
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
