//! The tasks of migrations: what they wait for, write into their logs, and leave behind when they fail.
//!
//! How long one takes follows from memory and disks. Read next: `../../world/migration.rs`.

use std::time::{Duration, Instant};

use crate::sim::api::guests;
use crate::sim::api::power::{self, Order, take_lock};
use crate::sim::world::Cluster;
use crate::sim::world::guest::{Guest, Run};
use crate::sim::world::migration::{Transfer, Wish};
use crate::sim::world::task::{Stage, Work};

/// How many lines about its progress a migration writes, whatever it takes.
const LINES: u32 = 10;

/// A migration that is under way.
struct Carrying {
    transfers: Vec<Transfer>,
    began: Instant,
    time: Duration,
    told: u32,
    /// Bytes of memory to carry; 0 for a guest that does not run.
    memory: u64,
}

fn now() -> String {
    jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn info(stage: &mut Stage<'_>, text: &str) {
    stage.log.push(format!("{} {text}", now()));
}

fn error(stage: &mut Stage<'_>, text: &str) {
    stage.log.push(format!("{} ERROR: {text}", now()));
}

fn duration(since: Duration) -> String {
    let seconds = since.as_secs();
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// Ends a migration that changed nothing: the cause goes into the log, the exit status says next to nothing.
fn aborted(stage: &mut Stage<'_>, cause: &str) -> Option<Result<(), String>> {
    let text = format!(
        "migration aborted (duration {}): {cause}",
        duration(stage.elapsed)
    );
    error(stage, &text);
    Some(Err("migration aborted".to_owned()))
}

/// Ends a migration that failed while the guest was on its way; it goes on where it was.
fn failed_online(stage: &mut Stage<'_>, cause: &str) -> Option<Result<(), String>> {
    error(stage, &format!("online migrate failure - {cause}"));
    info(stage, "aborting phase 2 - cleanup resources");
    info(stage, "migrate_cancel");
    let text = format!(
        "migration finished with problems (duration {})",
        duration(stage.elapsed)
    );
    error(stage, &text);
    Some(Err("migration problems".to_owned()))
}

/// Waits for the guest's lock; another migration of it is another matter.
fn lock(stage: &mut Stage<'_>, order: &Order) -> Option<Result<(), String>> {
    let upid = stage.upid.to_owned();
    let other = stage.cluster.guests.get(&order.vmid).is_some_and(|guest| {
        guest.migrating_to.is_some() && guest.holder.as_ref().is_some_and(|holder| *holder != upid)
    });
    if other {
        let waited = stage.elapsed > Duration::from_millis(stage.pace.lock_wait);
        let file = format!("/var/lock/pve-manager/pve-migrate-{}", order.vmid);
        return waited.then(|| Err(format!("can't lock file '{file}' - got timeout")));
    }
    take_lock(stage, order)
}

/// Marks a guest as migrating, and reckons how long it will take.
fn depart(stage: &mut Stage<'_>, vmid: u32, target: &str, transfers: Vec<Transfer>) -> Carrying {
    let mut memory = 0;
    if let Some(guest) = stage.cluster.guests.get_mut(&vmid) {
        guest.config.insert("lock".to_owned(), "migrate".to_owned());
        guest.migrating_to = Some(target.to_owned());
        memory = if guest.run.is_some() {
            guest.memory()
        } else {
            0
        };
    }
    stage.cluster.remember(vmid);
    let bytes = memory + transfers.iter().map(|transfer| transfer.size).sum::<u64>();
    let seconds = bytes as f64 / stage.pace.migration.max(1) as f64;
    Carrying {
        transfers,
        began: Instant::now(),
        time: Duration::from_secs_f64(seconds),
        told: 0,
        memory,
    }
}

/// Tells how far a migration is; true when it is through.
fn carry_on(stage: &mut Stage<'_>, carrying: &mut Carrying) -> bool {
    let part = carrying.began.elapsed().as_secs_f64() / carrying.time.as_secs_f64().max(1e-6);
    let due = ((part * f64::from(LINES)) as u32).min(LINES);
    while carrying.told < due {
        carrying.told += 1;
        let share = u64::from(carrying.told);
        let text = match (carrying.memory, carrying.transfers.first()) {
            (0, Some(transfer)) => format!(
                "{} bytes ({}%) copied",
                transfer.size * share / u64::from(LINES),
                share * 100 / u64::from(LINES)
            ),
            (0, None) => continue,
            (memory, _) => format!(
                "migration active, transferred {} of {} VM-state, {}/s",
                shown(memory * share / u64::from(LINES)),
                shown(memory),
                shown(stage.pace.migration)
            ),
        };
        info(stage, &text);
    }
    part >= 1.0
}

fn shown(bytes: u64) -> String {
    crate::units::Bytes(bytes).to_string()
}

/// Brings a guest to its target, where it goes on running when it did.
fn arrive(
    stage: &mut Stage<'_>,
    vmid: u32,
    target: &str,
    transfers: &[Transfer],
) -> Result<(), String> {
    let Some(guest) = stage.cluster.guests.get(&vmid).cloned() else {
        return Err(format!("no such guest {vmid}"));
    };
    if guest.run.is_some() {
        stage
            .machine
            .stop(&stage.cluster.running_guest(&guest), false);
    }
    let mut log = Vec::new();
    let moved = stage.cluster.relocate(vmid, target, transfers, &mut log);
    for line in log {
        info(stage, &line);
    }
    let pid = stage.cluster.next_pid();
    if let Some(guest) = stage.cluster.guests.get_mut(&vmid) {
        guest.config.remove("lock");
        guest.migrating_to = None;
        if let (Some(run), Ok(())) = (&mut guest.run, &moved) {
            *run = Run {
                pid,
                since: Instant::now(),
                qmp_status: run.qmp_status.clone(),
            };
        }
    }
    if let Some(guest) = stage.cluster.guests.get(&vmid).cloned()
        && guest.run.is_some()
    {
        stage.machine.start(&stage.cluster.running_guest(&guest));
    }
    stage.cluster.remember(vmid);
    moved
}

/// Says why a VM could not go on running on a node: a bridge it lacks, or an older QEMU than the VM was started with.
fn cannot_run(cluster: &Cluster, guest: &Guest, target: &str) -> Option<String> {
    let machine = guests::running_machine(guest, &cluster.qemu_version(&guest.node));
    let mut there = guest.clone();
    there.node = target.to_owned();
    there.config.insert("machine".to_owned(), machine);
    let starts =
        power::check_bridges(cluster, &there).and_then(|()| power::machine_exists(cluster, &there));
    starts.err()
}

/// Returns the work of a VM's migration.
pub(crate) fn vm_work(node: String, vmid: u32, wish: Wish) -> Work {
    let order = Order {
        node,
        vmid,
        ..Order::default()
    };
    let mut under_way: Option<Carrying> = None;
    Box::new(move |stage| {
        let target = wish.target.as_str();
        let Some(carrying) = &mut under_way else {
            match lock(stage, &order)? {
                Ok(()) => {}
                Err(text) => return aborted(stage, &text),
            }
            let guest = stage.cluster.guests.get(&vmid)?.clone();
            if !stage.cluster.is_online(target) {
                return aborted(
                    stage,
                    "Can't connect to destination address using public key",
                );
            }
            let mut log = Vec::new();
            let scanned = stage.cluster.scan_vm(&guest, &wish, &mut log);
            let ip = stage
                .cluster
                .node(target)
                .map_or(String::new(), |node| node.ip.clone());
            info(
                stage,
                &format!("starting migration of VM {vmid} to node '{target}' ({ip})"),
            );
            for line in log {
                info(stage, &line);
            }
            let transfers = match scanned {
                Ok(transfers) => transfers,
                Err(text) => return aborted(stage, &text),
            };
            for transfer in &transfers {
                if let Err(text) = stage.cluster.can_carry(&guest, transfer, target) {
                    return aborted(stage, &text);
                }
            }
            if guest.run.is_some() {
                info(
                    stage,
                    &format!("starting VM {vmid} on remote node '{target}'"),
                );
                if let Some(text) = cannot_run(stage.cluster, &guest, target) {
                    info(stage, &format!("[{target}] {text}"));
                    return failed_online(stage, "remote command failed with exit code 255");
                }
                info(
                    stage,
                    &format!(
                        "starting online/live migration on unix:/run/qemu-server/{vmid}.migrate"
                    ),
                );
            } else if !transfers.is_empty() {
                info(stage, "copying local disk images");
            }
            under_way = Some(depart(stage, vmid, target, transfers));
            return None;
        };
        let guest = stage.cluster.guests.get(&vmid)?.clone();
        let running = guest.run.is_some();
        let lost = !stage.cluster.is_online(target);
        let through = carry_on(stage, carrying);
        let broken = !guest.migration_fault.is_empty() && (through || carrying.told * 2 >= LINES);
        if lost || broken {
            let why = match lost {
                true => "connection to the target node was lost".to_owned(),
                false => guest.migration_fault.clone(),
            };
            info(stage, &format!("migration status error: failed - {why}"));
            return match running {
                true => failed_online(stage, "aborting"),
                false => aborted(stage, &why),
            };
        }
        if carrying.memory > 0 && !running {
            return failed_online(stage, "unable to parse migration status '' - aborting");
        }
        if !through {
            return None;
        }
        if carrying.memory > 0 {
            let speed = shown(stage.pace.migration);
            info(
                stage,
                &format!("average migration speed: {speed}/s - downtime 32 ms"),
            );
            info(stage, "migration status: completed");
        }
        let transfers = std::mem::take(&mut carrying.transfers);
        if let Err(text) = arrive(stage, vmid, target, &transfers) {
            return aborted(stage, &text);
        }
        let took = duration(stage.elapsed);
        info(
            stage,
            &format!("migration finished successfully (duration {took})"),
        );
        Some(Ok(()))
    })
}

/// Returns the work of a container's migration; `restart` is how many seconds a running one may take to shut down.
pub(crate) fn container_work(node: String, vmid: u32, wish: Wish, restart: Option<u64>) -> Work {
    let order = Order {
        node,
        vmid,
        container: true,
        ..Order::default()
    };
    let mut going_down: Option<Instant> = None;
    let mut under_way: Option<Carrying> = None;
    let mut restarts = false;
    Box::new(move |stage| {
        let target = wish.target.as_str();
        let Some(carrying) = &mut under_way else {
            match lock(stage, &order)? {
                Ok(()) => {}
                Err(text) => return aborted(stage, &text),
            }
            let guest = stage.cluster.guests.get(&vmid)?.clone();
            if guest.run.is_some() && going_down.is_none() {
                if wish.online {
                    return aborted(stage, "lxc live migration is currently not implemented");
                }
                if restart.is_none() {
                    return aborted(
                        stage,
                        "running container can only be migrated in restart mode",
                    );
                }
            }
            let mut log = Vec::new();
            let scanned = stage.cluster.scan_container(&guest, &wish, &mut log);
            let transfers = match scanned {
                Ok(transfers) => transfers,
                Err(text) => {
                    stage.log.extend(log);
                    return aborted(stage, &text);
                }
            };
            if !stage.cluster.is_online(target) {
                return aborted(
                    stage,
                    "Can't connect to destination address using public key",
                );
            }
            if guest.run.is_some() {
                if going_down.is_none() {
                    info(stage, &format!("shutdown CT {vmid}"));
                }
                let waited = going_down.get_or_insert_with(Instant::now).elapsed();
                if !guest.ignores_shutdown && waited >= Duration::from_millis(guest.shutdown) {
                    power::end(stage, vmid, false);
                    restarts = true;
                } else if waited >= Duration::from_secs(restart.unwrap_or(0)) {
                    return aborted(stage, "container did not stop");
                }
                return None;
            }
            let ip = stage
                .cluster
                .node(target)
                .map_or(String::new(), |node| node.ip.clone());
            info(
                stage,
                &format!("starting migration of CT {vmid} to node '{target}' ({ip})"),
            );
            for line in log {
                info(stage, &line);
            }
            for transfer in &transfers {
                if let Err(text) = stage.cluster.can_carry(&guest, transfer, target) {
                    error(stage, &text);
                    return give_up(stage, &order, restarts, &text);
                }
            }
            under_way = Some(depart(stage, vmid, target, transfers));
            return None;
        };
        let guest = stage.cluster.guests.get(&vmid)?.clone();
        let lost = !stage.cluster.is_online(target);
        let through = carry_on(stage, carrying);
        let broken = !guest.migration_fault.is_empty() && (through || carrying.told * 2 >= LINES);
        if lost || broken {
            let why = match lost {
                true => "connection to the target node was lost".to_owned(),
                false => guest.migration_fault.clone(),
            };
            error(stage, &why);
            return give_up(stage, &order, restarts, &why);
        }
        if !through {
            return None;
        }
        let transfers = std::mem::take(&mut carrying.transfers);
        if let Err(text) = arrive(stage, vmid, target, &transfers) {
            return give_up(stage, &order, restarts, &text);
        }
        info(stage, "start final cleanup");
        if restarts {
            info(stage, "start container on target node");
            if let Err(text) = power::launch(stage, target, vmid) {
                error(stage, &text);
                let took = duration(stage.elapsed);
                error(
                    stage,
                    &format!("migration finished with problems (duration {took})"),
                );
                return Some(Err("migration problems".to_owned()));
            }
        }
        let took = duration(stage.elapsed);
        info(
            stage,
            &format!("migration finished successfully (duration {took})"),
        );
        Some(Ok(()))
    })
}

/// Ends a container's migration where it began; one that was shut down for it is started again.
fn give_up(
    stage: &mut Stage<'_>,
    order: &Order,
    restarts: bool,
    cause: &str,
) -> Option<Result<(), String>> {
    info(stage, "aborting phase 1 - cleanup resources");
    info(stage, "start final cleanup");
    if let Some(guest) = stage.cluster.guests.get_mut(&order.vmid)
        && guest.migrating_to.take().is_some()
    {
        guest.config.remove("lock");
    }
    if restarts {
        info(stage, "start container on source node");
        if let Err(text) = power::launch(stage, &order.node, order.vmid) {
            error(stage, &text);
        }
    }
    aborted(stage, cause)
}
