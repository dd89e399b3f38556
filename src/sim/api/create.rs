//! Creating a VM: the configuration file exists from the start, with a lock; a task fills it in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::check::{boot_order, split_list};
use super::{Call, Refusal, Reply, drives, power, rights};
use crate::sim::world::Cluster;
use crate::sim::world::guest::{Guest, is_cdrom, is_drive};
use crate::sim::world::setup;

const NOT_KEYS: &[&str] = &[
    "node",
    "vmid",
    "archive",
    "storage",
    "force",
    "unique",
    "live-restore",
    "start",
    "ha-managed",
    "pool",
    "bwlimit",
    "import-working-storage",
];

/// Returns a value as the server stores it: tags sorted, MAC addresses filled in, no blank line at the end of notes.
pub(super) fn cleaned(key: &str, value: &str) -> String {
    let is_card = key
        .strip_prefix("net")
        .is_some_and(|n| n.parse::<u32>().is_ok());
    match key {
        "tags" => {
            let tags: BTreeSet<String> = split_list(value).map(str::to_lowercase).collect();
            tags.into_iter().collect::<Vec<_>>().join(";")
        }
        "description" => value.strip_suffix('\n').unwrap_or(value).to_owned(),
        _ if is_card => with_mac(value),
        _ => value.to_owned(),
    }
}

fn with_mac(value: &str) -> String {
    let model = value.split(',').next().unwrap_or_default();
    let bare = model.strip_prefix("model=").unwrap_or(model);
    let missing = !bare.contains('=') && !value.contains("macaddr=");
    match missing {
        true => value.replacen(model, &format!("{bare}={}", setup::mac()), 1),
        false => value.to_owned(),
    }
}

/// `POST /nodes/N/qemu`.
pub(super) fn create(call: &mut Call<'_>) -> Reply {
    let vmid = call.vmid();
    let pool = call.text("pool").map(str::to_owned);
    if let Some(pool) = &pool
        && !call.cluster.pools.contains_key(pool)
    {
        return Err(bare_refusal(&format!(" (pool '{pool}' does not exist)")));
    }
    let allowed = call
        .cluster
        .may(&call.who, &format!("/vms/{vmid}"), &["VM.Allocate"])
        || pool.as_ref().is_some_and(|pool| {
            call.cluster
                .may(&call.who, &format!("/pool/{pool}"), &["VM.Allocate"])
        });
    if !allowed {
        return Err(bare_refusal(""));
    }
    if call.params.contains_key("archive") {
        return Err(Refusal::died("restoring backups is not simulated"));
    }
    if call.flag("ha-managed") {
        return Err(Refusal::died("creating HA resources is not simulated"));
    }
    let set: BTreeMap<String, String> = call
        .params
        .iter()
        .filter(|(key, _)| !NOT_KEYS.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), cleaned(key, value)))
        .collect();
    for (key, value) in &set {
        rights::may_change(call, vmid, pool.as_deref(), key, Some(value), None)?;
        if is_drive(key) {
            drives::may_use(call, vmid, key, value)?;
        }
        if key.starts_with("net") {
            rights::may_use_bridge(call, value)?;
        }
    }
    if call.flag("start") {
        call.require(&format!("/vms/{vmid}"), &["VM.PowerMgmt"])?;
    }
    if let Some(other) = call.cluster.guests.get(&vmid) {
        return Err(Refusal::died(format!(
            "unable to create VM {vmid} - VM {vmid} already exists on node '{}'",
            other.node
        )));
    }
    for device in set
        .get("boot")
        .and_then(|boot| boot_order(boot))
        .into_iter()
        .flatten()
    {
        if !set.contains_key(&device) {
            return Err(Refusal::died(format!(
                "invalid bootorder: device '{device}' does not exist'"
            )));
        }
    }
    reserve(call, vmid);
    let node = call.node.clone();
    let start = call.flag("start");
    Ok(call.start_task(
        "qmcreate",
        &vmid.to_string(),
        Box::new(move |stage| {
            // For a moment nothing holds the file but the word in it; then the worker does.
            let fresh = stage.elapsed < Duration::from_millis(15);
            let upid = stage.upid.to_owned();
            if let Some(guest) = stage.cluster.guests.get_mut(&vmid) {
                guest.holder = (!fresh).then_some(upid);
            }
            if stage.elapsed < Duration::from_millis(stage.pace.task) {
                return None;
            }
            let outcome = fill(
                stage.cluster,
                &node,
                vmid,
                &set,
                pool.as_deref(),
                &mut stage.log,
            );
            if outcome.is_err() {
                stage.cluster.guests.remove(&vmid);
                return Some(
                    outcome.map_err(|text| format!("unable to create VM {vmid} - {text}")),
                );
            }
            match start {
                true => Some(power::launch(stage, &node, vmid)),
                false => Some(Ok(())),
            }
        }),
    ))
}

fn bare_refusal(more: &str) -> Refusal {
    Refusal {
        status: 403,
        reason: format!("Permission check failed{more}"),
        ..Refusal::default()
    }
}

/// Writes the file with nothing but a lock, which is what makes a second create of the same id fail.
fn reserve(call: &mut Call<'_>, vmid: u32) {
    let mut guest = Guest::new(vmid, &call.node);
    guest.config.insert("lock".to_owned(), "create".to_owned());
    call.cluster.guests.insert(vmid, guest);
}

fn fill(
    cluster: &mut Cluster,
    node: &str,
    vmid: u32,
    set: &BTreeMap<String, String>,
    pool: Option<&str>,
    log: &mut Vec<String>,
) -> Result<(), String> {
    let mut created = Vec::new();
    let mut guest = Guest::new(vmid, node);
    for (key, value) in set {
        let stored = match is_drive(key) {
            true => drives::resolve(cluster, node, vmid, key, value, &mut created, log),
            false => Ok(value.clone()),
        };
        match stored {
            Ok(stored) => guest.config.insert(key.clone(), stored),
            Err(text) => {
                for name in created {
                    cluster.free(&name, node)?;
                }
                return Err(text);
            }
        };
    }
    if guest.config.get("vmgenid").is_some_and(|id| id == "1") {
        guest.config.remove("vmgenid");
    }
    setup::fill_in(cluster, &mut guest, node);
    if !guest.config.contains_key("boot") {
        let boot = default_boot(&guest);
        guest.config.insert("boot".to_owned(), boot);
    }
    cluster.guests.insert(vmid, guest);
    if let Some(pool) = pool.and_then(|pool| cluster.pools.get_mut(pool)) {
        pool.members.insert(vmid);
    }
    Ok(())
}

/// The order a new VM boots in: its first disk, its first CD drive, its first card.
fn default_boot(guest: &Guest) -> String {
    let bootable = |key: &String| !key.starts_with("efidisk") && !key.starts_with("tpmstate");
    let first = |cdrom: bool| {
        guest
            .drives()
            .find(|(key, value)| bootable(key) && is_cdrom(value) == cdrom)
            .map(|(key, _)| key.clone())
    };
    let card = guest.config.keys().find(|key| {
        key.strip_prefix("net")
            .is_some_and(|n| n.parse::<u32>().is_ok())
    });
    let order: Vec<String> = [first(false), first(true), card.cloned()]
        .into_iter()
        .flatten()
        .collect();
    match order.is_empty() {
        true => " ".to_owned(),
        false => format!("order={}", order.join(";")),
    }
}
