//! The rest of a cluster: nodes, storages, volumes, bridges, rights, and the configuration keys it knows.
//!
//! Pure. Read next: `plan/mod.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use super::id::{InvalidId, NodeName, StorageId, Vmid, Volid};
use crate::units::Bytes;

/// A Proxmox VE release, `major.minor`, from `GET /version` (`release`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// 6, 7, 8, 9.
    pub major: u32,
    /// 0 to 4 so far.
    pub minor: u32,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Release {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Release, InvalidId> {
        let wrong = || InvalidId {
            kind: "release",
            text: text.to_owned(),
            hint: Some("such as 8.4"),
        };
        let mut numbers = text.split(['.', '-', '~']).map(str::parse);
        let major = numbers.next().and_then(Result::ok).ok_or_else(wrong)?;
        let minor = numbers.next().and_then(Result::ok).unwrap_or(0);
        Ok(Release { major, minor })
    }
}

/// One member of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Whether it can be reached.
    pub online: bool,
    /// Its address as the cluster knows it.
    pub address: Option<String>,
    /// Whether HA has it in maintenance, or asked for it.
    pub maintenance: bool,
}

/// One storage as a node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Its id.
    pub id: StorageId,
    /// Proxmox VE's type name: `dir`, `nfs`, `zfspool`, `lvmthin` ...
    pub kind: String,
    /// What it may hold: `images`, `iso`, `rootdir` ...
    pub content: BTreeSet<String>,
    /// Whether it is switched on in storage.cfg for this node.
    pub enabled: bool,
    /// Whether the node could activate it.
    pub active: bool,
    /// Whether all nodes see the same content.
    pub shared: bool,
    /// Free space for new volumes.
    pub available: Bytes,
    /// Total space.
    pub total: Bytes,
    /// All plain keys of its storage.cfg entry (`path`, `pool`, `vgname`, `content-dirs` as `images=img` ...).
    pub settings: BTreeMap<String, String>,
}

/// One volume as its storage describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its id.
    pub volid: Volid,
    /// `raw`, `qcow2`, `vmdk`, `subvol`.
    pub format: String,
    /// The size the guest sees.
    pub size: Bytes,
    /// Bytes really occupied, when the storage says.
    pub used: Option<Bytes>,
    /// Its path on the node, as `pvesm path` says; only for a single volume, not in lists.
    pub path: Option<String>,
    /// The base volume of a linked clone.
    pub parent: Option<String>,
    /// The guest that owns it.
    pub owner: Option<Vmid>,
}

/// The rights of the logged-in user: path to privileges.
///
/// From `GET /access/permissions`; a privilege counts on every path below it when it propagates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions(pub BTreeMap<String, BTreeMap<String, bool>>);

impl Permissions {
    /// Says whether `privilege` is held on `path`.
    ///
    /// Proxmox VE answers with every path that has an own entry; the nearest entry at or above `path` decides.
    pub fn allows(&self, path: &str, privilege: &str) -> bool {
        let mut at = path;
        loop {
            if let Some(privileges) = self.0.get(at) {
                return privileges
                    .get(privilege)
                    .is_some_and(|propagates| at == path || *propagates);
            }
            if at == "/" {
                return false;
            }
            at = match at.rfind('/') {
                Some(0) | None => "/",
                Some(place) => &at[..place],
            };
        }
    }
}

/// A replication job of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationJob {
    /// `VMID-NUMBER`.
    pub id: String,
    /// The guest.
    pub guest: Vmid,
    /// Where it replicates to.
    pub target: String,
}

/// The configuration keys a cluster's own published schema knows for a VM.
///
/// Served by every node without login; `None` values are plain keys, sets are the sub-keys of a property string.
/// Numbered keys stand as `net[n]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigSchema(pub BTreeMap<String, Option<BTreeSet<String>>>);

impl ConfigSchema {
    /// Returns the entry for a real key such as `net0`: `None` when the cluster does not know the key.
    pub fn entry(&self, key: &str) -> Option<&Option<BTreeSet<String>>> {
        let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
        self.0.get(key).or_else(|| {
            (stem.len() < key.len())
                .then(|| self.0.get(&format!("{stem}[n]")))
                .flatten()
        })
    }
}

#[cfg(test)]
mod tests;
