//! Migration within a cluster: what a cluster says beforehand, what is asked of it, and what became of it.
//!
//! Pure. Moving a guest to *another* cluster is something else, see `plan/mod.rs`. Read next: `ha.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::id::{NodeName, StorageId, Volid};
use crate::units::Bytes;

/// What a cluster says about migrating a guest, before anything is done.
///
/// It looks at storages, mapped devices and HA rules only: neither at memory, space, CPUs and bridges of a target, nor at
/// whether it is up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigratePreconditions {
    /// Whether the guest runs.
    pub running: bool,
    /// The nodes it may go to; `None` where the cluster does not say, as up to 8.3 for a running VM.
    pub allowed_nodes: Option<BTreeSet<NodeName>>,
    /// The nodes it may not go to, and why.
    pub not_allowed: BTreeMap<NodeName, NodeObstacles>,
    /// Its volumes on storages that are not shared, ISO images among them. Containers never list any.
    pub local_disks: Vec<LocalDisk>,
    /// Configuration keys of devices of the node itself, such as `hostpci0` or `usb1`.
    pub local_resources: Vec<String>,
    /// Configuration keys of devices by a mapping, and whether they can be migrated while the guest runs.
    pub mapped_resources: BTreeMap<String, MappedResource>,
    /// HA resources that would come along, because a rule keeps them together.
    pub dependent_resources: Vec<String>,
}

/// Why a guest may not go to a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeObstacles {
    /// Storages of the guest that the node does not have.
    pub storages: Vec<String>,
    /// Mapped devices that the node does not have.
    pub resources: Vec<String>,
    /// HA resources in the way, each with the kind of rule that says so.
    pub ha: Vec<(String, String)>,
}

impl NodeObstacles {
    /// Says whether nothing is in the way.
    pub fn is_empty(&self) -> bool {
        self.storages.is_empty() && self.resources.is_empty() && self.ha.is_empty()
    }
}

/// A device by a mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MappedResource {
    /// The mapping's name; empty where the release does not say.
    pub name: String,
    /// Whether it can be migrated while the guest runs.
    pub live_migration: bool,
}

/// A volume of a guest on a storage that is not shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalDisk {
    /// Its id.
    pub volid: Volid,
    /// The drive it is in, if it is in one.
    pub drive: Option<String>,
    /// Its size, where the configuration says.
    pub size: Option<Bytes>,
    /// Whether it is in a CD drive.
    pub cdrom: bool,
    /// Whether it is the cloud-init drive, which is made anew on the target.
    pub cloud_init: bool,
    /// Whether the guest has it without using it (`unused0`).
    pub unused: bool,
    /// Whether it is the state of a TPM.
    pub tpm_state: bool,
    /// The snapshots that need it.
    pub snapshots: Vec<String>,
}

/// What is asked of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrateRequest {
    /// The node to go to.
    pub target: NodeName,
    /// For a VM: migrate while it runs. Harmless for a stopped one.
    pub online: bool,
    /// For a VM: copy disks of storages that are not shared.
    pub with_local_disks: bool,
    /// For a container: shut it down, migrate, start it again. Harmless for a stopped one.
    pub restart: bool,
    /// For a container: how long it may take to shut down.
    pub timeout: Option<Duration>,
    /// Which storage the volumes of which storage go to. Storages that are shared are never mapped.
    pub target_storage: StorageMap,
}

/// Which storage volumes go to, by the storage they are on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StorageMap {
    /// The storage of the same name; the cluster's default.
    #[default]
    Same,
    /// One storage for all of them.
    All(StorageId),
    /// By storage; what is not named keeps its name.
    Each(BTreeMap<StorageId, StorageId>),
}

impl StorageMap {
    /// Returns where the volumes of a storage go.
    pub fn target<'a>(&'a self, storage: &'a StorageId) -> &'a StorageId {
        match self {
            StorageMap::Same => storage,
            StorageMap::All(target) => target,
            StorageMap::Each(map) => map.get(storage).unwrap_or(storage),
        }
    }

    /// Returns it as Proxmox VE writes it; `None` when there is nothing to write.
    pub fn written(&self) -> Option<String> {
        match self {
            StorageMap::Same => None,
            StorageMap::All(target) => Some(target.to_string()),
            StorageMap::Each(map) if map.is_empty() => None,
            StorageMap::Each(map) => {
                let pairs: Vec<_> = map
                    .iter()
                    .map(|(from, to)| format!("{from}:{to}"))
                    .collect();
                Some(pairs.join(","))
            }
        }
    }
}

/// What became of a migration after which the guest is on its target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migrated {
    /// What the cluster complained about although the guest arrived, such as a volume that it could not remove.
    pub problem: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> StorageId {
        text.parse().expect("a storage")
    }

    #[test]
    fn storages_are_mapped_and_written() {
        assert_eq!(StorageMap::Same.written(), None);
        assert_eq!(StorageMap::Same.target(&id("a")), &id("a"));
        let all = StorageMap::All(id("b"));
        assert_eq!(all.target(&id("a")), &id("b"));
        assert_eq!(all.written(), Some("b".to_owned()));
        let each = StorageMap::Each([(id("a"), id("b")), (id("c"), id("d"))].into());
        assert_eq!(each.target(&id("a")), &id("b"));
        assert_eq!(each.target(&id("x")), &id("x"));
        assert_eq!(each.written(), Some("a:b,c:d".to_owned()));
        assert_eq!(StorageMap::Each(BTreeMap::new()).written(), None);
    }
}
