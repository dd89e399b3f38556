//! What a storage host said about a ZFS dataset, its pool, and what the login may do there.
//!
//! Pure values and questions about them. It never judges; `check/zfs.rs` does. Read next: `transfer/probe/zfs.rs`, which
//! reads the host's answer.

use std::collections::{BTreeMap, BTreeSet};

use crate::units::Bytes;

/// What a storage host said about one dataset. What it would not say is `None` or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZfsFacts {
    /// The version of OpenZFS: the older one of the programs' and the kernel module's.
    pub version: Option<(u32, u32)>,
    /// What the dataset is; `None` when there is none of that name.
    pub kind: Option<DatasetKind>,
    /// Bytes that may still be used below the dataset, with quotas and reservations.
    pub available: Option<Bytes>,
    /// Its encryption; `None` when it is not encrypted.
    pub encryption: Option<Encryption>,
    /// The zvols directly below it of the VMIDs that were asked about, by their last name.
    pub zvols: BTreeMap<String, ZvolFacts>,
    /// The snapshots of these zvols, oldest first, by the zvol's last name.
    pub snapshots: BTreeMap<String, Vec<SnapshotFacts>>,
    /// Other datasets directly below it of these VMIDs: their names are taken as well.
    pub others: BTreeSet<String>,
    /// The pool's health: `ONLINE`, `DEGRADED` ...
    pub health: Option<String>,
    /// Whether the pool was imported to be read only.
    pub read_only: bool,
    /// The pool's features; `None` when it did not say.
    pub features: Option<Features>,
    /// What the login may do.
    pub rights: ZfsRights,
    /// What zfs or zpool complained about, in their words; the first complaint.
    pub complaint: Option<String>,
}

/// What a dataset is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatasetKind {
    /// It can hold zvols.
    Filesystem,
    /// It is a zvol itself.
    Volume,
}

/// The features of a pool, by their names without `feature@`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Those that may be used.
    pub enabled: BTreeSet<String>,
    /// Those of them that something in the pool makes use of.
    pub active: BTreeSet<String>,
}

/// How a dataset is encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encryption {
    /// The dataset whose key it is.
    pub root: String,
    /// Whether the key is loaded.
    pub key_loaded: bool,
}

/// One snapshot of a zvol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotFacts {
    /// What follows the `@`.
    pub name: String,
    /// Bytes written between the one before and it.
    pub written: Bytes,
    /// Bytes of its content in the pool.
    pub referenced: Bytes,
}

/// One zvol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZvolFacts {
    /// The size the guest sees.
    pub size: Bytes,
    /// Bytes of its present content in the pool, compressed.
    pub referenced: Option<Bytes>,
    /// Bytes of its present content as the guest wrote them.
    pub logical: Option<Bytes>,
    /// The size of its blocks.
    pub block_size: Option<Bytes>,
    /// Whether nothing is reserved for it.
    pub sparse: bool,
    /// How it is compressed: `lz4`, `zstd-3`, `off` ...
    pub compression: String,
    /// Its encryption; `None` when it is not encrypted.
    pub encryption: Option<Encryption>,
}

/// What a login may do with a dataset and what is below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ZfsRights {
    /// Everything: it is root.
    Root,
    /// What was delegated to it.
    Delegated {
        /// The login's name.
        user: String,
        /// Whether it is in the group that may open block devices.
        devices: bool,
        /// What `zfs allow` grants it.
        allowed: BTreeSet<String>,
    },
}

impl Default for ZfsRights {
    fn default() -> ZfsRights {
        ZfsRights::Delegated {
            user: String::new(),
            devices: false,
            allowed: BTreeSet::new(),
        }
    }
}

impl ZfsFacts {
    /// Says whether a name directly below the dataset is taken.
    pub fn is_taken(&self, name: &str) -> bool {
        self.zvols.contains_key(name) || self.others.contains(name)
    }

    /// Says whether the pool may make use of a feature; one that did not say is taken not to.
    pub fn has(&self, feature: &str) -> bool {
        self.features
            .as_ref()
            .is_some_and(|features| features.enabled.contains(feature))
    }

    /// Says whether something in the pool makes use of a feature; in one that did not say, something may.
    pub fn uses(&self, feature: &str) -> bool {
        self.features
            .as_ref()
            .is_none_or(|features| features.active.contains(feature))
    }
}
