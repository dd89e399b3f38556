//! Nodes as places for guests: what they have, what is in use, what their notes say; and storages as each node has them.
//!
//! Pure. Numbers are missing where the user may not see them or a node is down; nothing is made up. Read next: `ha.rs`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::id::{NodeName, StorageId};
use crate::units::{Bytes, Cores};

/// A node's own settings, as far as its notes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its notes; empty when there are none.
    pub description: String,
    /// The digest of the settings; `None` where they were never written.
    pub digest: Option<String>,
}

/// A node's state, from the node itself. Immediate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Logical CPUs.
    pub cpus: u32,
    /// How much of them is in use.
    pub cpu_used: Cores,
    /// All of its memory.
    pub memory_total: Bytes,
    /// Memory in use, which includes the cache of ZFS.
    pub memory_used: Bytes,
    /// Memory that could be had, caches given up; from Proxmox VE 9 on.
    pub memory_available: Option<Bytes>,
    /// Time since it booted.
    pub uptime: Duration,
    /// Its software, `pve-manager/8.4.1/2a5fa54a8503f96d`.
    pub version: String,
}

/// One node in the cluster's list of resources. Up to ten seconds old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeResources {
    /// Its name.
    pub name: NodeName,
    /// Whether the cluster sees it.
    pub online: bool,
    /// Logical CPUs.
    pub cpus: Option<u32>,
    /// How much of them is in use.
    pub cpu_used: Option<Cores>,
    /// All of its memory.
    pub memory_total: Option<Bytes>,
    /// Memory in use.
    pub memory_used: Option<Bytes>,
    /// Time since it booted.
    pub uptime: Option<Duration>,
    /// `online`, `maintenance`, `unknown`, `fence` ...; from 8.3 on, where HA is in use.
    pub ha_state: Option<String>,
}

/// One storage on one node, in the cluster's list of resources. Up to ten seconds old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageResources {
    /// The storage.
    pub storage: StorageId,
    /// The node.
    pub node: NodeName,
    /// Proxmox VE's type name: `dir`, `nfs`, `zfspool` ...
    pub kind: String,
    /// What it may hold: `images`, `rootdir`, `iso` ...
    pub content: BTreeSet<String>,
    /// Whether all nodes see the same content.
    pub shared: bool,
    /// Whether the node could use it when it last looked.
    pub available: bool,
    /// Space in use.
    pub used: Option<Bytes>,
    /// All of its space.
    pub total: Option<Bytes>,
}

impl StorageResources {
    /// Returns the space that is free; `None` where it is not known.
    pub fn free(&self) -> Option<Bytes> {
        Some(self.total?.saturating_sub(self.used?))
    }
}
