//! Ways off a node: how a guest could get to another one, and what stands against it.
//!
//! Pure. It repeats what Proxmox VE itself would refuse, before anything is changed, so that a task does not fail half-way
//! with the same words. Room and affinity are judged elsewhere. Read next: `place.rs`.

use std::collections::BTreeMap;

use super::facts::{GuestFacts, GuestSeen, Inventory, LocalVolume, NodeFacts, kind_word};
use crate::pve::evacuation::Policy;
use crate::pve::guest::GuestKind;
use crate::pve::id::{NodeName, StorageId};
use crate::units::Bytes;

/// How a guest gets to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// A VM, while it runs.
    Live,
    /// A running VM: shut down, migrated, started there.
    Cold,
    /// A running container: stopped, migrated and started there in one task.
    Restart,
    /// Something that does not run.
    Offline,
}

impl Way {
    /// Says whether a running guest is down for some time.
    pub fn disrupts(self) -> bool {
        matches!(self, Way::Cold | Way::Restart)
    }
}

/// What the operator allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Whether volumes on storages that are not shared may be carried along.
    pub local_disks: bool,
    /// Which storage the volumes of a storage that is not shared go to; the one of the same name otherwise.
    pub storages: BTreeMap<StorageId, StorageId>,
}

impl Allowed {
    /// Returns the storage that the volumes of a storage go to.
    pub fn target<'a>(&'a self, storage: &'a StorageId) -> &'a StorageId {
        self.storages.get(storage).unwrap_or(storage)
    }
}

/// Returns the ways a policy allows for a guest as it is now, the best first.
pub fn ways(guest: &GuestFacts, policy: Policy) -> &'static [Way] {
    match (policy, guest.runs(), guest.place.kind) {
        (Policy::Stop | Policy::ForceStop | Policy::Ignore, _, _) => &[],
        (_, false, _) => &[Way::Offline],
        (Policy::LiveMigrate, true, GuestKind::Qemu) => &[Way::Live],
        // There is no live migration of containers.
        (Policy::LiveMigrate, true, GuestKind::Lxc) => &[],
        (Policy::Migrate, true, GuestKind::Qemu) => &[Way::Cold],
        (Policy::Auto, true, GuestKind::Qemu) => &[Way::Live, Way::Cold],
        (Policy::Auto | Policy::Migrate, true, GuestKind::Lxc) => &[Way::Restart],
    }
}

/// Returns what keeps a guest from going this way, whatever the node.
pub fn obstacles(seen: &GuestSeen, way: Way, allowed: &Allowed) -> Vec<String> {
    let mut found = Vec::new();
    if !seen.devices.is_empty() {
        found.push(format!(
            "uses devices of its node: {}",
            seen.devices.join(", ")
        ));
    }
    if way == Way::Live && !seen.only_stopped.is_empty() {
        found.push(format!(
            "uses mapped devices that cannot be migrated while it runs: {}",
            seen.only_stopped.join(", ")
        ));
    }
    for medium in seen.local.iter().filter(|volume| volume.cdrom) {
        found.push(format!(
            "has {} in a CD-ROM drive, which other nodes do not have (eject it)",
            medium.volid
        ));
    }
    let disks = || seen.local.iter().filter(|volume| !volume.cdrom);
    if disks().next().is_none() {
        return found;
    }
    if !allowed.local_disks {
        let storages: Vec<&str> = disks()
            .filter_map(|volume| volume.storage.as_ref())
            .map(StorageId::as_str)
            .collect();
        found.push(format!(
            "has disks on storages that are not shared ({}), and they are not to be carried",
            unique(storages).join(", ")
        ));
    }
    if disks().any(|volume| volume.storage.is_none()) {
        found.push("has disks that belong to no storage".to_owned());
    }
    if seen.snapshots && way == Way::Live {
        found.push("has snapshots on disks that are not shared".to_owned());
    }
    found
}

/// Returns what keeps a guest that could go this way off a certain node.
pub fn obstacles_on(
    guest: &GuestFacts,
    seen: &GuestSeen,
    way: Way,
    allowed: &Allowed,
    inventory: &Inventory,
    name: &NodeName,
) -> Vec<String> {
    let Some(node) = inventory.nodes.get(name) else {
        return vec!["is not known".to_owned()];
    };
    let mut found = Vec::new();
    if let Some(reasons) = seen.refused.get(name).filter(|reasons| !reasons.is_empty()) {
        found.push(format!("the cluster refuses it ({})", reasons.join("; ")));
    } else if seen
        .allowed
        .as_ref()
        .is_some_and(|nodes| !nodes.contains(name))
        && !seen.refused.contains_key(name)
    {
        found.push("the cluster does not allow it".to_owned());
    }
    for storage in &seen.storages {
        let local = seen
            .local
            .iter()
            .any(|volume| volume.storage.as_ref() == Some(storage));
        let target = if local {
            allowed.target(storage)
        } else {
            storage
        };
        if !node.storages.get(target).is_some_and(|facts| facts.active) {
            found.push(format!("storage {target} cannot be used there"));
        }
    }
    if let Some(node) = &node.seen {
        for bridge in seen.bridges.difference(&node.bridges) {
            found.push(format!("has no bridge {bridge}"));
        }
    }
    for volume in seen.local.iter().filter(|volume| !volume.cdrom) {
        found.extend(carriage(guest, seen, volume, way, allowed, inventory, node));
    }
    found
}

/// Returns why one volume cannot be carried to a node.
fn carriage(
    guest: &GuestFacts,
    seen: &GuestSeen,
    volume: &LocalVolume,
    way: Way,
    allowed: &Allowed,
    inventory: &Inventory,
    node: &NodeFacts,
) -> Option<String> {
    let storage = volume.storage.as_ref()?;
    let target = node.storages.get(allowed.target(storage))?;
    let content = match guest.place.kind {
        GuestKind::Qemu => "images",
        GuestKind::Lxc => "rootdir",
    };
    if !target.content.contains(content) {
        return Some(format!(
            "storage {} holds no disks of a {}",
            allowed.target(storage),
            kind_word(guest.place.kind)
        ));
    }
    if way == Way::Live {
        // Disks of a running VM are mirrored block by block: any storage takes them.
        return None;
    }
    let source = inventory
        .nodes
        .get(&guest.place.node)?
        .storages
        .get(storage)?;
    (!streams(&source.kind, &target.kind, &volume.format, seen.snapshots)).then(|| {
        format!(
            "{} on {} ({}) cannot be carried to {} ({}) while the guest is stopped",
            volume.volid,
            storage,
            source.kind,
            allowed.target(storage),
            target.kind
        )
    })
}

/// Says whether the storage plugins have a common format to export and import a volume that is not in use.
fn streams(source: &str, target: &str, format: &str, snapshots: bool) -> bool {
    let files = ["dir", "nfs", "cifs", "btrfs"];
    let raw = |kind: &str| {
        matches!(
            kind,
            "dir" | "nfs" | "cifs" | "lvm" | "lvmthin" | "rbd" | "btrfs"
        )
    };
    match (source, target) {
        ("zfspool", _) | (_, "zfspool") => source == target,
        // Snapshots go along inside of a qcow2 file only.
        _ if snapshots => match format {
            "qcow2" => files.contains(&source) && files.contains(&target),
            _ => source == "btrfs" && target == "btrfs",
        },
        _ if matches!(format, "qcow2" | "vmdk") => {
            files.contains(&source) && files.contains(&target)
        }
        _ => raw(source) && raw(target),
    }
}

/// Returns the space that a guest's own volumes need on the storages they would go to.
pub fn space(seen: &GuestSeen, allowed: &Allowed) -> BTreeMap<StorageId, Bytes> {
    let mut space: BTreeMap<StorageId, Bytes> = BTreeMap::new();
    for volume in seen.local.iter().filter(|volume| !volume.cdrom) {
        if let Some(storage) = &volume.storage {
            *space.entry(allowed.target(storage).clone()).or_default() += volume.size;
        }
    }
    space
}

fn unique(mut words: Vec<&str>) -> Vec<&str> {
    words.sort_unstable();
    words.dedup();
    words
}
