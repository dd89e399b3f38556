//! Names of new volumes, as Proxmox VE would give them.
//!
//! Pure. A name that the storage, its host or this plan knows is taken. Read next: `volume.rs`.

use std::collections::BTreeSet;

use super::Deciding;
use crate::plan::facts::HostFacts;
use crate::plan::route::{self, Place};
use crate::pve::id::{StorageId, Vmid, Volid};
use crate::transfer::Format;

impl Deciding<'_> {
    /// Returns the volume with the lowest number that neither the storage, its host nor this plan knows.
    pub(super) fn name_volume(
        &mut self,
        storage: &StorageId,
        vmid: Vmid,
        place: Place,
        format: Format,
        host: &HostFacts,
    ) -> Volid {
        let names = self.names.entry(storage.clone()).or_default();
        names.extend(on_host(place, vmid, host));
        let mut number: u32 = 0;
        while is_taken(names, place, vmid, number) {
            number += 1;
        }
        let volname = match place {
            Place::Directory => format!(
                "{vmid}/vm-{vmid}-disk-{number}.{}",
                route::extension(format)
            ),
            Place::Zfs => format!("vm-{vmid}-disk-{number}"),
        };
        names.insert(volname.clone());
        Volid {
            storage: storage.clone(),
            volname,
        }
    }
}

/// Returns the names a host knows, as the cluster would write them.
fn on_host(place: Place, vmid: Vmid, host: &HostFacts) -> Vec<String> {
    match (place, &host.zfs) {
        (Place::Directory, _) => {
            let files = host.listing.get(&vmid).into_iter().flatten();
            files.map(|file| format!("{vmid}/{file}")).collect()
        }
        (Place::Zfs, Some(zfs)) => zfs.zvols.keys().chain(&zfs.others).cloned().collect(),
        (Place::Zfs, None) => Vec::new(),
    }
}

/// Says whether a number is taken. Proxmox VE counts it as taken whatever the extension, and on ZFS by templates and
/// containers as well.
fn is_taken(names: &BTreeSet<String>, place: Place, vmid: Vmid, number: u32) -> bool {
    let disk = format!("{vmid}-disk-{number}");
    match place {
        Place::Directory => {
            let stem = format!("{vmid}/vm-{disk}");
            names.iter().any(|name| {
                name.strip_prefix(&stem)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
        }
        Place::Zfs => names.iter().any(|name| {
            let last = name.rsplit('/').next().unwrap_or(name);
            ["vm", "base", "subvol", "basevol"].iter().any(|kind| {
                last.strip_prefix(kind)
                    .and_then(|rest| rest.strip_prefix('-'))
                    == Some(&disk)
            })
        }),
    }
}
