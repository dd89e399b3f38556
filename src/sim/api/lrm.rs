//! What the nodes do for the HA manager in one round: start, stop and migrate guests, in tasks of root.
//!
//! It decides nothing; the manager has. Read next: `../world/ha.rs`.

use super::migrate::task::{container_work, vm_work};
use super::migrate::{before_vm, same_storages};
use super::power::{Order, shutdown_work, start_work, stop_work};
use super::root;
use crate::sim::world::Cluster;
use crate::sim::world::guest::Guest;
use crate::sim::world::ha::Service;
use crate::sim::world::migration::Wish;
use crate::sim::world::task::Work;

/// How many guests a node works at, at one time.
const WORKERS: usize = 4;

/// What one guest needs next.
enum Next {
    Nothing,
    Task(&'static str, Work),
    /// It cannot even begin.
    Failed(String),
}

/// One round of all nodes; returns the tasks that were started.
pub(crate) fn round(cluster: &mut Cluster) -> Vec<(String, Work)> {
    let mut jobs = Vec::new();
    let vmids: Vec<u32> = cluster.manager.services.keys().copied().collect();
    for vmid in vmids {
        let Some(mut service) = cluster.manager.services.get(&vmid).cloned() else {
            continue;
        };
        let Some(guest) = cluster.guests.get(&vmid).cloned() else {
            continue;
        };
        if !cluster.is_online(&service.node) {
            continue;
        }
        if let Some(upid) = service.work.clone() {
            let task = cluster.tasks.iter().find(|task| task.upid == upid);
            if task.is_some_and(|task| task.ended.is_none()) {
                continue;
            }
            let kind = task.map_or("", |task| task.kind.as_str()).to_owned();
            service.work = None;
            judge(cluster, &kind, &guest, &mut service);
            // After a start that failed the manager decides what to try.
            if service.start_failed {
                cluster.manager.services.insert(vmid, service);
                continue;
            }
        }
        let services = cluster.manager.services.values();
        let busy = services
            .filter(|other| other.node == service.node && other.work.is_some())
            .count();
        if busy < WORKERS {
            match next(cluster, &guest, &service) {
                Next::Nothing => {}
                Next::Task(kind, work) => {
                    let upid = cluster.add_task(&service.node, kind, &vmid.to_string(), &root());
                    service.work = Some(upid.clone());
                    jobs.push((upid, work));
                }
                Next::Failed(text) => {
                    cluster
                        .manager
                        .log
                        .push(format!("service '{}': {text}", cluster.sid(vmid)));
                    stay(cluster, &guest, &mut service);
                }
            }
        }
        if service.state == "started" && service.work.is_none() {
            service.running = guest.run.is_some();
        }
        cluster.manager.services.insert(vmid, service);
    }
    jobs
}

/// Takes the end of a task into account.
fn judge(cluster: &Cluster, kind: &str, guest: &Guest, service: &mut Service) {
    match (service.state.as_str(), kind) {
        ("migrate" | "relocate", "qmigrate" | "vzmigrate") => {
            if service.target.as_ref() == Some(&guest.node) {
                service.node = guest.node.clone();
            }
            stay(cluster, guest, service);
        }
        ("started", "qmstart" | "vzstart") => {
            service.running = guest.run.is_some();
            service.start_failed = !service.running;
            service.failures = match service.running {
                true => 0,
                false => service.failures + 1,
            };
        }
        // One that could not be shut down cannot be relocated.
        ("relocate", _) if guest.run.is_some() => stay(cluster, guest, service),
        _ => {}
    }
}

/// Ends a motion, wherever the guest is now.
fn stay(cluster: &Cluster, guest: &Guest, service: &mut Service) {
    let started = cluster
        .managed(guest.vmid)
        .is_some_and(|ha| ha.state == "started");
    service.state = if started { "started" } else { "request_stop" }.to_owned();
    service.target = None;
    // It counts as running when its node says so again.
    service.running = false;
}

fn next(cluster: &Cluster, guest: &Guest, service: &Service) -> Next {
    let vmid = guest.vmid;
    let order = Order {
        node: service.node.clone(),
        vmid,
        container: guest.container,
        ..Order::default()
    };
    let task =
        |vm: &'static str, container: &'static str| if guest.container { container } else { vm };
    let running = guest.run.is_some();
    match service.state.as_str() {
        "started" if !running && service.command.is_none() => {
            let wanted = cluster
                .managed(vmid)
                .is_some_and(|ha| ha.state == "started");
            match wanted && !guest.is_template() {
                true => Next::Task(task("qmstart", "vzstart"), start_work(order)),
                false => Next::Nothing,
            }
        }
        "request_stop" if running => match service.stop_timeout {
            Some(0) => Next::Task(task("qmstop", "vzstop"), stop_work(order)),
            timeout => Next::Task(
                task("qmshutdown", "vzshutdown"),
                forced(order, timeout.unwrap_or(60)),
            ),
        },
        "relocate" if running => Next::Task(task("qmshutdown", "vzshutdown"), forced(order, 60)),
        "migrate" | "relocate" => {
            let wish = Wish {
                target: service.target.clone().unwrap_or_default(),
                online: service.state == "migrate" && !guest.container,
                with_local_disks: true,
                force: true,
                ..Wish::default()
            };
            if guest.container {
                return Next::Task("vzmigrate", container_work(order.node, vmid, wish, None));
            }
            let checked = before_vm(cluster, guest, &wish)
                .and_then(|()| same_storages(cluster, guest, &wish.target));
            match checked {
                Ok(()) => Next::Task("qmigrate", vm_work(order.node, vmid, wish)),
                Err(text) => Next::Failed(text),
            }
        }
        _ => Next::Nothing,
    }
}

/// HA does not wait for ever: what does not shut down is killed.
fn forced(order: Order, seconds: u64) -> Work {
    let order = Order {
        force: true,
        ..order
    };
    shutdown_work(order, seconds)
}
