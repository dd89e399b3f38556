//! Containers: their state, power and configuration. What differs from VMs is here, the rest is shared.
//!
//! Unlike a VM's, a request to start a container that runs, or to stop one that does not, is refused in the answer. Read
//! next: `power.rs`, `container_keys.rs`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::check::{Errors, split_list};
use super::create::cleaned;
use super::power::{self, Order, Wanted};
use super::{Call, Refusal, Reply, check_quorum, container_keys};
use crate::sim::world::guest::holds_volume;

/// Keys that take effect at once on a running container; others wait for its next start, unless a cgroup can be told.
const IMMEDIATE: &[&str] = &[
    "description",
    "onboot",
    "startup",
    "protection",
    "hostname",
    "hookscript",
    "cores",
    "tags",
    "lock",
    "memory",
    "swap",
    "cpulimit",
    "cpuunits",
];

/// `GET lxc/ID/status/current`.
pub(super) fn current(call: &mut Call<'_>) -> Reply {
    let guest = call.container()?;
    let mut row = guest.list_row(call.release());
    let ha = match call.cluster.managed(guest.vmid) {
        Some(ha) => json!({"managed": 1, "state": ha.state}),
        None => json!({"managed": 0}),
    };
    row.insert("ha".to_owned(), ha);
    Ok(Value::Object(row))
}

/// `GET lxc/ID/config`.
pub(super) fn config(call: &mut Call<'_>) -> Reply {
    let guest = call.container()?;
    let config = match call.flag("current") {
        true => guest.config.clone(),
        false => guest.effective(),
    };
    let mut map: Map<String, Value> = config
        .iter()
        .map(|(key, value)| (key.clone(), container_keys::shown(key, value)))
        .collect();
    map.insert("digest".to_owned(), json!(guest.digest()));
    Ok(Value::Object(map))
}

/// `GET lxc/ID/pending`.
pub(super) fn pending(call: &mut Call<'_>) -> Reply {
    let guest = call.container()?;
    Ok(super::guests::pending_rows(guest, container_keys::shown))
}

/// `GET lxc/ID/snapshot`.
pub(super) fn snapshots(call: &mut Call<'_>) -> Reply {
    Ok(super::guests::snapshot_rows(call.container()?))
}

fn order(call: &Call<'_>) -> Result<Order, Refusal> {
    Ok(Order {
        container: true,
        ..power::order(call)?
    })
}

fn is_running(call: &Call<'_>) -> bool {
    // The process is looked for, not the configuration.
    let guest = call.cluster.guests.get(&call.vmid());
    guest.is_some_and(|guest| guest.container && guest.node == call.node && guest.run.is_some())
}

/// `POST lxc/ID/status/start`.
pub(super) fn start(call: &mut Call<'_>) -> Reply {
    let order = order(call)?;
    if is_running(call) {
        return Err(Refusal::died(format!("CT {} already running", order.vmid)));
    }
    check_quorum(call.cluster)?;
    let work = power::start_work(order);
    Ok(power::begin(call, "vzstart", Wanted::Started, work))
}

/// `POST lxc/ID/status/stop`.
pub(super) fn stop(call: &mut Call<'_>) -> Reply {
    let order = order(call)?;
    if !is_running(call) {
        return Err(Refusal::died(format!("CT {} not running", order.vmid)));
    }
    if call.flag("overrule-shutdown") {
        if call.cluster.managed(order.vmid).is_some() {
            return Err(Refusal::param(
                "overrule-shutdown",
                "Not applicable for HA resources.",
            ));
        }
        let id = order.vmid.to_string();
        let mut tasks = call.cluster.tasks.iter_mut();
        if let Some(task) =
            tasks.find(|task| task.kind == "vzshutdown" && task.id == id && task.ended.is_none())
        {
            task.aborted = true;
        }
    }
    let work = power::stop_work(order);
    Ok(power::begin(call, "vzstop", Wanted::Stopped(0), work))
}

/// `POST lxc/ID/status/shutdown`.
pub(super) fn shutdown(call: &mut Call<'_>) -> Reply {
    let order = order(call)?;
    if !is_running(call) {
        return Err(Refusal::died(format!("CT {} not running", order.vmid)));
    }
    let seconds = order.timeout.unwrap_or(60);
    let work = power::shutdown_work(order, seconds);
    Ok(power::begin(
        call,
        "vzshutdown",
        Wanted::Stopped(seconds),
        work,
    ))
}

/// `PUT lxc/ID/config`. New volumes cannot be made this way here.
pub(super) fn change(call: &mut Call<'_>) -> Reply {
    let list = |name: &str| -> Vec<String> {
        split_list(call.text(name).unwrap_or_default())
            .map(str::to_owned)
            .collect()
    };
    let (delete, revert) = (list("delete"), list("revert"));
    let set: BTreeMap<String, String> = call
        .params
        .iter()
        .filter(|(key, _)| {
            !matches!(
                key.as_str(),
                "node" | "vmid" | "digest" | "delete" | "revert"
            )
        })
        .map(|(key, value)| (key.clone(), cleaned(key, value)))
        .collect();
    if set.is_empty() && delete.is_empty() && revert.is_empty() {
        return Err(Refusal::died("no options specified"));
    }
    call.container()?;
    call.wait_for_lock()?;
    let guest = call.container()?;
    guest.check_lock()?;
    if call
        .text("digest")
        .is_some_and(|digest| digest != guest.digest())
    {
        return Err(Refusal::died(
            "checksum mismatch (file change by other user?)",
        ));
    }
    for (name, keys) in [("revert", &revert), ("delete", &delete)] {
        for key in keys {
            may_change(call, key)?;
            if !container_keys::exists(key) {
                return Err(Refusal::param(name, format!("unknown option '{key}'")));
            }
            if set.contains_key(key) {
                let text = format!("you can't use '-{key}' and -{name} {key}' at the same time");
                return Err(Refusal::param(name, text));
            }
        }
    }
    for (key, value) in &set {
        may_change(call, key)?;
        if holds_volume(key) && !value.contains(':') && !value.starts_with('/') {
            return Err(Refusal::died(format!(
                "'{key}' cannot be allocated: not simulated"
            )));
        }
    }
    if let Some(key) = delete.iter().find(|key| *key == "rootfs") {
        return Err(Refusal::params(Errors::from([(
            key.clone(),
            "unable to delete required option 'rootfs'\n".to_owned(),
        )])));
    }
    let vmid = call.vmid();
    let Some(guest) = call.cluster.guests.get_mut(&vmid) else {
        return Err(Refusal::died("no such CT"));
    };
    for key in &revert {
        guest.pending.remove(key);
        guest.pending_delete.remove(key);
    }
    let mut keys = delete.clone();
    for key in delete {
        guest.pending.remove(&key);
        if guest.config.contains_key(&key) {
            guest.pending_delete.insert(key, 1);
        }
    }
    for (key, value) in set {
        keys.push(key.clone());
        guest.pending_delete.remove(&key);
        match guest.config.get(&key) == Some(&value) {
            true => drop(guest.pending.remove(&key)),
            false => drop(guest.pending.insert(key, value)),
        }
    }
    let running = guest.run.is_some();
    for key in keys.iter().filter(|key| !running || is_immediate(key)) {
        guest.settle(key);
    }
    Ok(Value::Null)
}

fn is_immediate(key: &str) -> bool {
    IMMEDIATE.contains(&key) || key.starts_with("net") || key.starts_with("unused")
}

/// Checks the right behind a key.
fn may_change(call: &Call<'_>, key: &str) -> Result<(), Refusal> {
    if call.who.is_root() {
        return Ok(());
    }
    let only_root = |what: &str| Refusal {
        status: 403,
        reason: format!("Permission check failed ({what} is only allowed for root@pam)"),
        ..Refusal::default()
    };
    let privilege = match key.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "cores" | "cpuunits" | "cpulimit" => "VM.Config.CPU",
        "rootfs" | "mp" => "VM.Config.Disk",
        "memory" | "swap" => "VM.Config.Memory",
        "net" | "nameserver" | "searchdomain" | "hostname" => "VM.Config.Network",
        "dev" => return Err(only_root("configuring device passthrough")),
        "features" => return Err(only_root("changing feature flags (except nesting)")),
        "hookscript" => return Err(only_root("changing the hookscript")),
        _ => "VM.Config.Options",
    };
    call.require(&format!("/vms/{}", call.vmid()), &[privilege])
}
