//! Changing a VM's configuration, at once or by a task; resizing a disk.
//!
//! On a running VM most changes wait for its next start. A drive that is taken out keeps its volume as `unusedN`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::check::{Errors, boot_order, format_size, parse_size, split_list};
use super::create::cleaned;
use super::drives::{self, Parts};
use super::{Call, Refusal, Reply, config_keys, rights, vm_on};
use crate::sim::world::Cluster;
use crate::sim::world::guest::{is_cdrom, is_drive, volume_of};

/// A change, checked for rights.
#[derive(Clone, Debug)]
struct Change {
    node: String,
    vmid: u32,
    set: BTreeMap<String, String>,
    delete: Vec<String>,
    revert: Vec<String>,
    force: bool,
}

/// `PUT qemu/ID/config`.
pub(super) fn change(call: &mut Call<'_>) -> Reply {
    let change = prepare(call)?;
    call.guest()?;
    call.wait_for_lock()?;
    before_change(call)?;
    match apply(call.cluster, &change) {
        Ok(errors) if errors.is_empty() => Ok(Value::Null),
        Ok(errors) => Err(Refusal::params(errors)),
        Err(text) => Err(Refusal::died(text)),
    }
}

/// `POST qemu/ID/config`.
pub(super) fn change_by_task(call: &mut Call<'_>) -> Reply {
    let change = prepare(call)?;
    before_change(call)?;
    let id = change.vmid.to_string();
    let done = call.start_task(
        "qmconfig",
        &id,
        Box::new(move |stage| {
            let guest = match vm_on(stage.cluster, &change.node, change.vmid) {
                Ok(guest) => guest,
                Err(text) => return Some(Err(text)),
            };
            if guest.holder.is_some() {
                let patience = std::time::Duration::from_millis(stage.pace.lock_wait);
                return (stage.elapsed > patience).then(|| Err(super::lock_timeout(guest)));
            }
            if let Err(text) = guest.check_lock() {
                return Some(Err(text));
            }
            if stage.elapsed < std::time::Duration::from_millis(stage.pace.task) {
                return None;
            }
            Some(apply(stage.cluster, &change).and_then(|errors| {
                match errors.is_empty() {
                    true => Ok(()),
                    false => Err(errors
                        .iter()
                        .map(|(key, text)| format!("Parameter verification failed. {key}: {text}"))
                        .collect::<String>()),
                }
            }))
        }),
    );
    Ok(done)
}

/// The state the guest must be in: the digest the client knows, and no lock.
fn before_change(call: &Call<'_>) -> Result<(), Refusal> {
    let guest = call.guest()?;
    if let Some(digest) = call.text("digest")
        && digest != guest.digest()
    {
        return Err(Refusal::died(
            "checksum mismatch (file change by other user?)",
        ));
    }
    match call.flag("skiplock") {
        true => Ok(()),
        false => Ok(guest.check_lock()?),
    }
}

const NOT_KEYS: &[&str] = &[
    "node",
    "vmid",
    "digest",
    "skiplock",
    "force",
    "delete",
    "revert",
    "background_delay",
    "import-working-storage",
];

fn prepare(call: &Call<'_>) -> Result<Change, Refusal> {
    call.only_root(&["skiplock"])?;
    let list = |name: &str| -> Vec<String> {
        split_list(call.text(name).unwrap_or_default())
            .map(str::to_owned)
            .collect()
    };
    let set: BTreeMap<String, String> = call
        .params
        .iter()
        .filter(|(key, _)| !NOT_KEYS.contains(&key.as_str()))
        .map(|(key, value)| {
            let key = if key == "cdrom" { "ide2" } else { key };
            (key.to_owned(), cleaned(key, value))
        })
        .collect();
    let change = Change {
        node: call.node.clone(),
        vmid: call.vmid(),
        set,
        delete: list("delete"),
        revert: list("revert"),
        force: call.flag("force"),
    };
    if change.set.is_empty() && change.delete.is_empty() && change.revert.is_empty() {
        return Err(Refusal::died("no options specified"));
    }
    for (name, keys) in [("delete", &change.delete), ("revert", &change.revert)] {
        for key in keys {
            if change.set.contains_key(key) {
                return Err(Refusal::param(
                    name,
                    format!("you can't use '-{key}' and -{name} {key}' at the same time"),
                ));
            }
            if config_keys::key(key).is_none() && !matches!(key.as_str(), "parent" | "vmstate") {
                return Err(Refusal::param(name, format!("unknown option '{key}'")));
            }
        }
    }
    if let Some(script) = change.set.get("hookscript") {
        return Err(Refusal::param(
            "hookscript",
            format!("script '{script}' does not exist\n"),
        ));
    }
    let guest = call.guest().ok();
    let old = |key: &str| {
        guest.and_then(|guest| {
            guest
                .pending
                .get(key)
                .or(guest.config.get(key))
                .map(String::as_str)
        })
    };
    for key in change.delete.iter().chain(&change.revert) {
        rights::may_change(call, change.vmid, None, key, None, old(key))?;
    }
    for (key, value) in &change.set {
        rights::may_change(call, change.vmid, None, key, Some(value), old(key))?;
        if is_drive(key) {
            drives::may_use(call, change.vmid, key, value)?;
        }
        if key.starts_with("net") {
            rights::may_use_bridge(call, value)?;
        }
    }
    Ok(change)
}

/// Carries a change out. Complaints by key are for what could not be done while the VM runs.
fn apply(cluster: &mut Cluster, change: &Change) -> Result<Errors, String> {
    let mut created = Vec::new();
    let result = record(cluster, change, &mut created);
    if result.is_err() {
        for name in created {
            cluster.free(&name, &change.node)?;
        }
    }
    let touched = result?;
    let guest = cluster
        .guests
        .get_mut(&change.vmid)
        .ok_or_else(|| "no such VM".to_owned())?;
    let mut errors = Errors::new();
    if guest.run.is_none() {
        guest.settle_all();
        return Ok(errors);
    }
    let boot_disk = guest.boot_disk();
    for key in touched {
        let old = guest.config.get(&key).map(String::as_str);
        let gone = guest.pending_delete.contains_key(&key) && !guest.pending.contains_key(&key);
        let new = guest.pending.get(&key).map(String::as_str);
        if old.is_none() && new.is_none() {
            guest.pending_delete.remove(&key);
            continue;
        }
        if !guest.is_hot(&key, old, new) {
            continue;
        }
        if gone && boot_disk.as_deref() == Some(key.as_str()) {
            errors.insert(
                key.clone(),
                format!("hotplug problem - can't unplug bootdisk '{key}'\n"),
            );
            continue;
        }
        guest.settle(&key);
    }
    Ok(errors)
}

/// Writes a change down as pending; returns the keys it touches.
fn record(
    cluster: &mut Cluster,
    change: &Change,
    created: &mut Vec<crate::sim::world::storage::VolumeName>,
) -> Result<Vec<String>, String> {
    let mut guest = vm_on(cluster, &change.node, change.vmid)?.clone();
    let mut touched: Vec<String> = Vec::new();
    for key in &change.revert {
        guest.pending.remove(key);
        guest.pending_delete.remove(key);
    }
    let mut order = boot_order(guest.effective().get("boot").map_or("", String::as_str));
    for key in &change.delete {
        let Some(value) = guest.pending.get(key).or(guest.config.get(key)).cloned() else {
            continue;
        };
        let protected = guest
            .config
            .get("protection")
            .is_some_and(|value| value == "1");
        if protected && key.starts_with("unused") {
            return Err(format!(
                "can't remove unused disk '{}' - protection mode enabled",
                volume_of(&value)
            ));
        }
        if protected && is_drive(key) {
            return Err(format!(
                "can't remove drive '{key}' - protection mode enabled"
            ));
        }
        if let Some(order) = order.as_mut().filter(|order| order.contains(key)) {
            order.retain(|device| device != key);
            guest.pending.insert("boot".to_owned(), print_order(order));
            touched.push("boot".to_owned());
        }
        if key.starts_with("unused") {
            release_unused(cluster, &guest, &value)?;
            guest.config.remove(key);
            continue;
        }
        if let Some(value) = guest.pending.remove(key)
            && is_drive(key)
        {
            guest.keep_as_unused(&value);
        }
        let how = if change.force { 2 } else { 1 };
        guest.pending_delete.insert(key.clone(), how);
        touched.push(key.clone());
    }
    for (key, value) in &change.set {
        if guest.pending.get(key) == Some(value) {
            continue;
        }
        let mut value = value.clone();
        if is_drive(key) {
            let mut log = Vec::new();
            value = drives::resolve(
                cluster,
                &change.node,
                change.vmid,
                key,
                &value,
                created,
                &mut log,
            )?;
            if let Some(order) = order.as_mut()
                && is_cdrom(&value)
                && !key.starts_with("virtio")
                && !order.contains(key)
            {
                order.push(key.clone());
                guest.pending.insert("boot".to_owned(), print_order(order));
                touched.push("boot".to_owned());
            }
        }
        if key == "boot" {
            check_order(&guest.effective(), change, &value)?;
            // The two ways to say what to boot from exclude each other.
            if boot_order(&value).is_some() && guest.config.contains_key("bootdisk") {
                guest.pending_delete.insert("bootdisk".to_owned(), 1);
                touched.push("bootdisk".to_owned());
            }
        }
        // A CD in a virtio slot is accepted, and is gone when the file is read again.
        if key.starts_with("virtio") && is_drive(key) && is_cdrom(&value) {
            continue;
        }
        if guest.config.get(key) == Some(&value) {
            guest.pending.remove(key);
        } else {
            guest.pending.insert(key.clone(), value);
        }
        guest.pending_delete.remove(key);
        touched.push(key.clone());
    }
    cluster.guests.insert(change.vmid, guest);
    Ok(touched)
}

fn print_order(order: &[String]) -> String {
    match order.is_empty() {
        true => " ".to_owned(),
        false => format!("order={}", order.join(";")),
    }
}

fn check_order(
    config: &BTreeMap<String, String>,
    change: &Change,
    value: &str,
) -> Result<(), String> {
    let order = boot_order(value).unwrap_or_default();
    let wrong = order.iter().find(|device| {
        let there = config.contains_key(*device) || change.set.contains_key(*device);
        !there || change.delete.contains(device)
    });
    match wrong {
        Some(device) => Err(format!(
            "invalid bootorder: device '{device}' does not exist'"
        )),
        None => Ok(()),
    }
}

/// Removes the volume of an `unusedN` that nothing else needs.
fn release_unused(
    cluster: &Cluster,
    guest: &crate::sim::world::guest::Guest,
    value: &str,
) -> Result<(), String> {
    let volume = volume_of(value);
    let kept = guest.snapshots.iter().any(|snapshot| {
        snapshot
            .config
            .values()
            .any(|held| volume_of(held) == volume)
    });
    if kept {
        return Err(format!(
            "unable to delete '{volume}' - volume is still in use (snapshot?)"
        ));
    }
    let name = cluster.parse_volume(volume)?;
    match name.owner == Some(guest.vmid) {
        true => cluster.free(&name, &guest.node),
        false => Ok(()),
    }
}

/// `PUT qemu/ID/resize`. Only grows; from 8.0 on a task does it.
pub(super) fn resize(call: &mut Call<'_>) -> Reply {
    call.only_root(&["skiplock"])?;
    call.wait_for_lock()?;
    before_change(call)?;
    let key = call.text("disk").unwrap_or_default().to_owned();
    let size = call.text("size").unwrap_or_default().to_owned();
    let guest = call.guest()?;
    let vmid = guest.vmid;
    let node = guest.node.clone();
    let value = guest
        .config
        .get(&key)
        .ok_or_else(|| Refusal::died(format!("disk '{key}' does not exist")))?
        .clone();
    if is_cdrom(&value) {
        return Err(Refusal::died("you can't resize a cdrom"));
    }
    let name = call.cluster.parse_volume(volume_of(&value))?;
    let missing = || format!("volume '{}' does not exist", volume_of(&value));
    let volume = call
        .cluster
        .look_at_volume(name, &node)?
        .ok_or_else(missing)?;
    let old = volume.facts.as_ref().map_or(0, |facts| facts.size);
    let wanted = match size.strip_prefix('+') {
        Some(more) => old + parse_size(more).unwrap_or(0),
        None => parse_size(&size).unwrap_or(0),
    };
    if wanted < old {
        return Err(Refusal::died("shrinking disks is not supported"));
    }
    let by_task = call.release() >= (8, 0);
    call.cluster.resize(&volume, wanted)?;
    let mut parts = Parts::parse(&key, &value);
    parts.options.insert("size".to_owned(), format_size(wanted));
    let mut text = parts.volume.clone();
    for (name, value) in &parts.options {
        text.push_str(&format!(",{name}={value}"));
    }
    call.guest_mut()?.config.insert(key, text);
    match by_task {
        true => Ok(call.start_task("resize", &vmid.to_string(), Box::new(|_| Some(Ok(()))))),
        false => Ok(json!(null)),
    }
}
