//! Volumes: what a drive points to, and whether it can be copied as it is.
//!
//! Pure. Read next: `space.rs`.

use super::request::mismatch;
use crate::config::StoragePath;
use crate::plan::Verdict;
use crate::plan::facts::zfs::DatasetKind;
use crate::plan::facts::{HostKey, Hosts, SourceFacts, VolumeFacts, WantedGuest};
use crate::plan::rights::{grant_command, refused_right};
use crate::plan::route::{self, Place};
use crate::pve::drive::{Bus, DriveKey};
use crate::pve::id::{Volid, owner};
use crate::units::Bytes;

/// The exact sizes of a firmware's variable store: QEMU insists on them for qcow2.
pub const EFI_SIZES: [Bytes; 2] = [Bytes(540_672), Bytes(131_072)];

/// Returns all verdicts on one volume that shall be copied.
pub fn all(
    name: &str,
    source: &SourceFacts,
    guest: &WantedGuest,
    key: DriveKey,
    volid: &Volid,
    facts: &VolumeFacts,
    hosts: &Hosts,
) -> Vec<Verdict> {
    let vmid = guest.detail.place.vmid;
    let refuse = |code, reason: String, remedy: String| Verdict::refuse(name, code, reason, remedy);
    let mut verdicts = Vec::new();
    let volume = match &facts.volume {
        Ok(volume) => Some(volume),
        Err(why) => {
            verdicts.push(refuse(
                "volume-unreadable",
                format!("{key}: {volid} cannot be examined: {why}"),
                match refused_right(why) {
                    Some((path, privilege)) => grant_command(&source.user, path, &[privilege]),
                    None => format!("see pvesm list {} --vmid {vmid}", volid.storage),
                },
            ));
            None
        }
    };
    let kind = facts.storage_kind.as_deref();
    match (kind, kind.and_then(route::place), &facts.section) {
        (Some(kind), None, _) => verdicts.push(refuse(
            "storage-kind",
            format!(
                "{key}: storage {} is of type {kind}, which this release does not copy from yet",
                volid.storage
            ),
            format!(
                "move the disk to a storage of another type first ({}): qm move-disk {vmid} {key} STORAGE",
                route::STORAGE_KINDS
            ),
        )),
        (_, _, Err(why)) => verdicts.push(refuse(
            "storage-unconfigured",
            format!(
                "{key}: it is not known how to reach storage {}: {why}",
                volid.storage
            ),
            format!(
                "add a section [storage:{}:{}] with ssh, path and temp to proxmoverc",
                source.alias, volid.storage
            ),
        )),
        (Some(kind), Some(place), Ok(section)) => {
            verdicts.extend(
                mismatch(place, kind, section)
                    .map(|(code, reason, remedy)| refuse(code, format!("{key}: {reason}"), remedy)),
            );
        }
        (None, _, Ok(_)) => {}
    }
    // BASE/OWN on block storages, BASEID/BASE/ID/OWN on file storages.
    let slashes = volid.volname.matches('/').count();
    let linked = (volid.volname.starts_with("base-") && slashes == 1) || slashes >= 3;
    let parent = volume.and_then(|volume| volume.parent.as_deref());
    if linked || parent.is_some_and(|parent| !parent.is_empty()) {
        verdicts.push(refuse(
            "linked-clone",
            format!(
                "{key}: {volid} is a linked clone{}",
                parent
                    .map(|parent| format!(" of {parent}"))
                    .unwrap_or_default()
            ),
            format!("make it whole first: qm move-disk {vmid} {key} STORAGE"),
        ));
    }
    if let Some(volume) = volume {
        if route::format(&volume.format).is_none() {
            verdicts.push(refuse(
                "format-unknown",
                format!(
                    "{key}: {volid} has the format {}, which is not copied",
                    volume.format
                ),
                format!(
                    "convert it first: qm move-disk {vmid} {key} {} --format qcow2",
                    volid.storage
                ),
            ));
        }
        if volume.size == Bytes::ZERO {
            verdicts.push(refuse(
                "volume-empty",
                format!("{key}: {volid} has no size"),
                "see whether its file exists and is readable".to_owned(),
            ));
        }
        if let Some(owner) = volume.owner.filter(|owner| *owner != vmid) {
            verdicts.push(refuse(
                "volume-of-other",
                format!("{key}: {volid} belongs to guest {owner}"),
                format!("give it to this guest first: qm move-disk {vmid} {key} STORAGE"),
            ));
        }
        if key.bus == Bus::EfiDisk && volume.format == "qcow2" && !EFI_SIZES.contains(&volume.size)
        {
            verdicts.push(Verdict::warn(
                name,
                "efidisk-size",
                format!("{key}: {volid} is {} bytes large; QEMU may refuse a variable store of that size in qcow2", volume.size.0),
                "see that the guest starts on the source first",
            ));
        }
    }
    verdicts.extend(not_on_host(name, guest, key, volid, facts, hosts));
    verdicts
}

/// Refuses a volume that is not where proxmoverc says.
fn not_on_host(
    name: &str,
    guest: &WantedGuest,
    key: DriveKey,
    volid: &Volid,
    facts: &VolumeFacts,
    hosts: &Hosts,
) -> Option<Verdict> {
    let section = facts.section.as_ref().ok()?;
    let host = hosts.get(&HostKey::of(section))?.as_ref().ok()?;
    let owner = owner(&volid.volname)?;
    // What stands below a base volume is a linked clone, which is refused as such.
    let parts = volid.volname.split('/').count();
    let simple = match Place::of(&section.path) {
        Place::Directory => parts == 2,
        Place::Zfs => parts == 1,
    };
    if owner != guest.detail.place.vmid || !simple {
        return None;
    }
    let last = volid.last_name();
    let (there, missing, hint) = match &section.path {
        StoragePath::Directory(directory) => {
            if !host.path.as_ref().is_some_and(|path| path.exists) {
                return None;
            }
            let listing = host.listing.get(&owner);
            (
                listing.is_some_and(|files| files.contains(last)),
                format!("{directory}/{}", volid.volname),
                "the directory that holds one directory per VMID",
            )
        }
        StoragePath::Zfs(dataset) => {
            let zfs = host.zfs.as_ref()?;
            if zfs.kind != Some(DatasetKind::Filesystem) {
                return None;
            }
            (
                zfs.zvols.contains_key(last),
                format!("zvol {dataset}/{last}"),
                "zfs: and the dataset that holds the zvols",
            )
        }
    };
    (!there).then(|| {
        Verdict::refuse(
            name,
            "volume-not-on-host",
            format!("{key}: there is no {missing} on {}", host.address),
            format!(
                "correct 'path' in [storage:{}:{}]: {hint}",
                section.cluster, section.storage
            ),
        )
    })
}
