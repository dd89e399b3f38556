//! Space on the target's storages, counting all guests of the batch.
//!
//! Pure. Copies are sparse, so what is occupied must fit; what the guests may grow to is worth a warning. On a ZFS
//! storage that is not sparse, each volume's whole size is reserved. Read next: `hosts.rs`.

use std::collections::BTreeMap;

use crate::plan::Verdict;
use crate::plan::facts::{HostKey, Hosts, TargetFacts};
use crate::pve::id::StorageId;
use crate::units::Bytes;

/// What a batch will put on one storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Bytes occupied on the source; the size where that is not known.
    pub used: Bytes,
    /// Bytes the guests may fill.
    pub size: Bytes,
    /// Bytes that are reserved, whatever is occupied.
    pub reserved: Bytes,
}

impl Demand {
    /// Adds one volume.
    pub fn add(&mut self, used: Option<Bytes>, size: Bytes) {
        // A sparse file can occupy no more than it has; some storages report more (snapshots inside qcow2).
        let used = used.unwrap_or(size);
        self.used = Bytes(self.used.0.saturating_add(used.0));
        self.size = Bytes(self.size.0.saturating_add(size.0));
    }

    /// Adds one volume whose size is reserved.
    pub fn reserve(&mut self, size: Bytes) {
        // Beside the data ZFS reserves what its tables about them may take: 3 % with blocks of 8 KiB, less with larger
        // ones, and some MiB in any case.
        const TABLES: u64 = 3 << 20;
        let reserved = Bytes(size.0.saturating_add(size.0 / 32).saturating_add(TABLES));
        self.reserved = Bytes(self.reserved.0.saturating_add(reserved.0));
    }

    /// Returns what must be free.
    fn needed(&self) -> Bytes {
        Bytes(self.used.0.saturating_add(self.reserved.0))
    }

    /// Returns what may be taken in the end.
    fn most(&self) -> Bytes {
        Bytes(self.size.0.saturating_add(self.reserved.0))
    }
}

/// Returns what is free on a storage: the lower of what the cluster and what the storage's host say.
fn free(target: &TargetFacts, hosts: &Hosts, id: &StorageId) -> Option<Bytes> {
    let cluster = target.storage(id).map(|storage| storage.available);
    let host = target
        .sections
        .get(id)
        .and_then(|section| section.as_ref().ok())
        .and_then(|section| hosts.get(&HostKey::of(section)))
        .and_then(|host| host.as_ref().ok())
        .and_then(|host| match (&host.path, &host.zfs) {
            (Some(path), _) => path.free,
            (None, Some(zfs)) => zfs.available,
            (None, None) => None,
        });
    cluster.into_iter().chain(host).min()
}

/// Judges each storage's space.
pub fn all(
    demands: &BTreeMap<StorageId, Demand>,
    target: &TargetFacts,
    hosts: &Hosts,
) -> Vec<Verdict> {
    demands
        .iter()
        .filter_map(|(id, demand)| {
            let free = free(target, hosts, id)?;
            let needed = demand.needed();
            if needed > free {
                let short = needed.saturating_sub(free);
                let thin = demand.reserved > Bytes::ZERO;
                let (what, or) = if thin {
                    (
                        format!(
                            "need {needed}, of which {} are reserved, for the storage is not sparse",
                            demand.reserved
                        ),
                        format!("make the storage thin (pvesm set {id} --sparse 1), "),
                    )
                } else {
                    (format!("occupy {needed}"), String::new())
                };
                return Some(
                    Verdict::refuse(
                        "",
                        "space-short",
                        format!("storage {id} has {free} free, and the guests {what}"),
                        format!(
                            "free {short}, {or}choose another storage, or move fewer guests at once"
                        ),
                    )
                    .of_request(),
                );
            }
            (demand.most() > free).then(|| {
                Verdict::warn(
                    "",
                    "space-overcommitted",
                    format!(
                        "storage {id} has {free} free; the guests occupy {} but may grow to {}",
                        needed,
                        demand.most()
                    ),
                    "watch its free space",
                )
                .of_request()
            })
        })
        .collect()
}
