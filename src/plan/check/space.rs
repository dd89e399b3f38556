//! Space on the target's storages, counting all guests of the batch.
//!
//! Pure. Copies are sparse, so what is occupied must fit; what the guests may grow to is worth a warning. Read next:
//! `hosts.rs`.

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
}

impl Demand {
    /// Adds one volume.
    pub fn add(&mut self, used: Option<Bytes>, size: Bytes) {
        // A sparse file can occupy no more than it has; some storages report more (snapshots inside qcow2).
        let used = used.unwrap_or(size);
        self.used = Bytes(self.used.0.saturating_add(used.0));
        self.size = Bytes(self.size.0.saturating_add(size.0));
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
        .and_then(|host| host.path.as_ref())
        .and_then(|path| path.free);
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
            if demand.used > free {
                let short = demand.used.saturating_sub(free);
                return Some(
                    Verdict::refuse(
                        "",
                        "space-short",
                        format!(
                            "storage {id} has {free} free, and the guests occupy {}",
                            demand.used
                        ),
                        format!(
                            "free {short}, choose another storage, or move fewer guests at once"
                        ),
                    )
                    .of_request(),
                );
            }
            (demand.size > free).then(|| {
                Verdict::warn(
                    "",
                    "space-overcommitted",
                    format!(
                        "storage {id} has {free} free; the guests occupy {} but may grow to {}",
                        demand.used, demand.size
                    ),
                    "watch its free space",
                )
                .of_request()
            })
        })
        .collect()
}
