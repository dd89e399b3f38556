//! Facts: everything that was observed before anything is decided.
//!
//! Pure values. They never ask anybody: `moves/survey.rs` fills them through the clusters' APIs, `transfer/probe.rs`
//! through the storage hosts. What could not be observed stands here as the reason why, so that `check` can say it.
//! Read next: `facts/zfs.rs` (what a host says about ZFS), `check/mod.rs`.

pub mod zfs;

use std::collections::{BTreeMap, BTreeSet};

use self::zfs::ZfsFacts;
use crate::config::{SshAddress, StorageConfig, StoragePath};
use crate::plan::mark::Mark;
use crate::pve::drive::DriveKey;
use crate::pve::guest::{GuestConfig, GuestDetail, GuestRef, GuestSummary};
use crate::pve::id::{ClusterAlias, NodeName, PoolId, StorageId, Vmid, owner};
use crate::pve::inventory::{
    ConfigSchema, Node, Permissions, Release, ReplicationJob, Storage, Volume,
};
use crate::units::Bytes;

/// Something that was asked for and not answered, but that a decision can do without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// What was asked: `guests of node3`, `bridges of node2` ...
    pub what: String,
    /// Why there is no answer.
    pub why: String,
}

/// What the source cluster showed.
#[derive(Clone, Debug)]
pub struct SourceFacts {
    /// Its alias.
    pub alias: ClusterAlias,
    /// The release of the node that answered.
    pub release: Release,
    /// Who asked.
    pub user: String,
    /// What the asker may do.
    pub permissions: Permissions,
    /// Its members.
    pub nodes: Vec<Node>,
    /// All guests, as immediate as the nodes allow.
    pub guests: Vec<GuestSummary>,
    /// The guests that were asked for and found exactly once, by the name that was asked for.
    pub wanted: BTreeMap<String, WantedGuest>,
    /// What was not answered.
    pub unanswered: Vec<Unanswered>,
}

/// Everything about one guest that is to be moved.
#[derive(Clone, Debug)]
pub struct WantedGuest {
    /// Configuration, pending changes, snapshots, status.
    pub detail: GuestDetail,
    /// Its resource pool.
    pub pool: Option<PoolId>,
    /// Its HA state, such as `started` or `ignored`.
    pub ha_state: Option<String>,
    /// The HA rules or groups it is in, where it is to be given to HA on the target.
    pub ha_rules: Vec<String>,
    /// Its replication jobs.
    pub replication: Vec<ReplicationJob>,
    /// Those of them that are copying just now.
    pub replicating: Vec<String>,
    /// Its configuration as each of its snapshots has it, where they are to travel; or why it would not be told.
    pub sections: BTreeMap<String, Result<GuestConfig, String>>,
    /// The volume behind each drive that has one and would be copied.
    pub volumes: BTreeMap<DriveKey, VolumeFacts>,
}

/// One volume of a guest, and where it can be read.
#[derive(Clone, Debug)]
pub struct VolumeFacts {
    /// The volume as its storage describes it, or why it would not.
    pub volume: Result<Volume, String>,
    /// The type name of its storage, when known.
    pub storage_kind: Option<String>,
    /// The proxmoverc section of its storage, or why there is none.
    pub section: Result<StorageConfig, String>,
}

/// What the target cluster showed.
#[derive(Clone, Debug)]
pub struct TargetFacts {
    /// Its alias.
    pub alias: ClusterAlias,
    /// The release of the node that answered.
    pub release: Release,
    /// Who asked.
    pub user: String,
    /// What the asker may do.
    pub permissions: Permissions,
    /// Its members.
    pub nodes: Vec<Node>,
    /// All guests, as immediate as the nodes allow.
    pub guests: Vec<GuestSummary>,
    /// The storages of the target node.
    pub storages: Vec<Storage>,
    /// The proxmoverc section of each storage of the target node, or why there is none.
    pub sections: BTreeMap<StorageId, Result<StorageConfig, String>>,
    /// The names of the volumes on the storages in use.
    pub volumes: BTreeMap<StorageId, BTreeSet<String>>,
    /// The bridges of the target node; `None` when the node would not say.
    pub bridges: Option<Vec<String>>,
    /// The machine types of the target node; empty when unknown.
    pub machines: Vec<String>,
    /// The pools the asker may see.
    pub pools: Vec<PoolId>,
    /// The configuration keys the target knows, when it says.
    pub schema: Option<ConfigSchema>,
    /// The login that may write the configuration files of a node's guests, where snapshots are to travel to it; or why
    /// there is none.
    pub node_files: BTreeMap<NodeName, Result<SshAddress, String>>,
    /// VMIDs that are free, the cluster's own suggestion first; at least one per guest.
    pub free_vmids: Vec<Vmid>,
    /// What was not answered.
    pub unanswered: Vec<Unanswered>,
}

impl TargetFacts {
    /// Returns a storage of the target node.
    pub fn storage(&self, id: &StorageId) -> Option<&Storage> {
        self.storages.iter().find(|storage| storage.id == *id)
    }

    /// Says whether a storage holds volumes of that VMID already.
    pub fn has_volumes_of(&self, vmid: Vmid) -> bool {
        self.volumes
            .values()
            .flatten()
            .any(|name| owner(name) == Some(vmid))
    }
}

/// A place on a storage host: who to ask, and about which directories.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostKey {
    /// How the operator's machine reaches it.
    pub ssh: SshAddress,
    /// The directory with one directory per VMID; `None` for a ZFS dataset.
    pub directory: Option<String>,
    /// The ZFS dataset with the zvols; `None` for a directory.
    pub dataset: Option<String>,
    /// The directory for proxmove's own files.
    pub temp: String,
}

impl HostKey {
    /// Returns the place a storage section speaks of.
    pub fn of(section: &StorageConfig) -> HostKey {
        let (directory, dataset) = match &section.path {
            StoragePath::Directory(directory) => (Some(directory.clone()), None),
            StoragePath::Zfs(dataset) => (None, Some(dataset.clone())),
        };
        HostKey {
            ssh: section.ssh.clone(),
            directory,
            dataset,
            temp: section.temp.clone(),
        }
    }
}

/// What a directory on a storage host is like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectoryFacts {
    /// Whether it exists and is a directory.
    pub exists: bool,
    /// Whether the login may write into it; for a missing one, into the nearest directory above that exists.
    pub writable: bool,
    /// Whether programs may be run from its file system (no `noexec`).
    pub executable: bool,
    /// Free bytes of its file system, for the login.
    pub free: Option<Bytes>,
}

/// What a storage host said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// `user@host:port`, for messages.
    pub address: String,
    /// `uname -s`: `Linux`.
    pub system: String,
    /// `uname -m`: `x86_64`.
    pub architecture: String,
    /// The version of its ssh client, such as 8.9; `None` when there is none or it is not OpenSSH.
    pub ssh: Option<(u32, u32)>,
    /// The programs found, of those proxmove can use.
    pub tools: BTreeSet<String>,
    /// The storage's directory, unless it is a ZFS dataset.
    pub path: Option<DirectoryFacts>,
    /// The directory for proxmove's own files.
    pub temp: DirectoryFacts,
    /// The files in the directories of the VMIDs that were asked about.
    pub listing: BTreeMap<Vmid, BTreeSet<String>>,
    /// The storage's dataset, if it is one, and if the host has zfs.
    pub zfs: Option<ZfsFacts>,
}

/// What all storage hosts said, or why one could not be asked.
pub type Hosts = BTreeMap<HostKey, Result<HostFacts, String>>;

/// A guest of the target that a move goes on with: the placeholder of a move that began earlier, and what its notes say;
/// or the guest's own former self, with what its notes would say.
#[derive(Clone, Debug)]
pub struct Existing {
    /// The placeholder, or the finished guest.
    pub target: GuestRef,
    /// What its notes say.
    pub mark: Mark,
    /// The former self, on a way back that has not begun yet.
    pub former: Option<Box<GuestDetail>>,
}

impl Existing {
    /// Says whether a move has begun.
    pub fn begun(&self) -> bool {
        self.former.is_none()
    }
}

/// Moves that began earlier, by the guest's name.
pub type ExistingMoves = BTreeMap<String, Existing>;

/// Returns the member of that name.
pub fn member<'a>(nodes: &'a [Node], name: &NodeName) -> Option<&'a Node> {
    nodes.iter().find(|node| node.name == *name)
}
