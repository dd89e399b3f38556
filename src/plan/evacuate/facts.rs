//! What was observed of a cluster before an evacuation or a restore is decided.
//!
//! Pure values, for one moment. Most comes from listings of the whole cluster; what needs a call to each node or guest
//! is optional, and asked only where the decision needs it. Read next: `mod.rs`.

use std::collections::{BTreeMap, BTreeSet};

use super::note::{Away, Closed, Sent};
use crate::plan::mark::NameMark;
use crate::pve::destination::Destination;
use crate::pve::guest::{GuestKind, GuestRef, Power};
use crate::pve::id::{ClusterAlias, NodeName, PoolId, StorageId, Vmid};
use crate::units::Bytes;

/// Everything that is known of a cluster.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// Its alias.
    pub cluster: ClusterAlias,
    /// Its members.
    pub nodes: BTreeMap<NodeName, NodeFacts>,
    /// All guests, in the order of their VMIDs.
    pub guests: Vec<GuestFacts>,
    /// Affinity, from the HA manager's rules and groups. That of tags is derived.
    pub rules: Vec<Rule>,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// Whether the cluster reaches it.
    pub online: bool,
    /// Whether HA has it in maintenance, or is asked to.
    pub maintenance: bool,
    /// Its processors; 0 where the cluster does not say.
    pub cores: u32,
    /// Processor time in use, in thousandths of one processor.
    pub load: u64,
    /// All its memory.
    pub memory: Bytes,
    /// Its memory in use.
    pub memory_used: Bytes,
    /// The storages it can use.
    pub storages: BTreeMap<StorageId, StorageFacts>,
    /// What only the node itself says; `None` when it was not asked yet.
    pub seen: Option<NodeSeen>,
}

/// What only a node itself says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSeen {
    /// Who closed it, by its notes.
    pub closed: Option<Closed>,
    /// Its bridges and virtual networks.
    pub bridges: BTreeSet<String>,
    /// Why it did not answer; it is as good as closed then.
    pub silent: Option<String>,
}

/// One storage as a node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageFacts {
    /// Proxmox VE's type name.
    pub kind: String,
    /// Whether all nodes see the same content.
    pub shared: bool,
    /// Whether the node can use it now.
    pub active: bool,
    /// What it may hold.
    pub content: BTreeSet<String>,
    /// Free space.
    pub available: Bytes,
    /// All space.
    pub total: Bytes,
}

/// One guest.
#[derive(Clone, Debug, PartialEq)]
pub struct GuestFacts {
    /// Where it is.
    pub place: GuestRef,
    /// Its name, or its VMID where it has none.
    pub name: String,
    /// Running or not.
    pub power: Power,
    /// Whether it is a template.
    pub template: bool,
    /// Its lock.
    pub lock: Option<String>,
    /// Its tags, in lower case.
    pub tags: BTreeSet<String>,
    /// Its pool.
    pub pool: Option<PoolId>,
    /// Its HA state, when it is managed by HA.
    pub ha: Option<String>,
    /// What it may use of memory at most.
    pub memory: Bytes,
    /// Its virtual processors.
    pub cores: u32,
    /// Processor time in use, in thousandths of one processor.
    pub load: u64,
    /// What only its configuration and its migration's preconditions say; `None` when they were not asked.
    pub seen: Option<GuestSeen>,
}

impl GuestFacts {
    /// Says whether its process exists.
    pub fn runs(&self) -> bool {
        self.power == Power::Running
    }

    /// Says whether it runs where it is going: one that an evacuation has shut down already is started there.
    pub fn will_run(&self) -> bool {
        let away = self.seen.as_ref().and_then(|seen| seen.away.as_ref());
        self.runs() || away.is_some_and(|away| away.running && away.origin == self.place.node)
    }

    /// Returns the node it is being migrated to just now, as its note says; whoever is moving it.
    pub fn on_its_way(&self) -> Option<&NodeName> {
        let to = self.seen.as_ref()?.away.as_ref()?.to.node()?;
        (self.lock.as_deref() == Some("migrate") && *to != self.place.node).then_some(to)
    }

    /// Returns the place on another cluster that it was sent to, as its note says.
    pub fn sent_abroad(&self) -> Option<&Destination> {
        match &self.seen.as_ref()?.away.as_ref()?.to {
            Sent::Cluster(place) => Some(place),
            Sent::Node(_) | Sent::ByHa => None,
        }
    }

    /// Returns the name it has when no move is at work on it.
    pub fn own_name(&self) -> &str {
        NameMark::split(&self.name).0
    }

    /// Returns its memory as far as it takes any now.
    pub fn memory_now(&self) -> Bytes {
        if self.runs() {
            self.memory
        } else {
            Bytes::ZERO
        }
    }
}

/// What a guest's configuration and the preconditions of its migration say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestSeen {
    /// Volumes on storages that are not shared.
    pub local: Vec<LocalVolume>,
    /// All storages it has volumes on.
    pub storages: BTreeSet<StorageId>,
    /// Devices that keep it where it is, also when it is stopped: `hostpci0`, `usb1`, bind mounts ...
    pub devices: Vec<String>,
    /// Mapped devices that allow a move when it is stopped, but none while it runs.
    pub only_stopped: Vec<String>,
    /// Nodes that the cluster says it can go to; `None` where the release does not say.
    pub allowed: Option<BTreeSet<NodeName>>,
    /// Nodes that the cluster says it cannot go to, and why.
    pub refused: BTreeMap<NodeName, Vec<String>>,
    /// Bridges its interfaces are connected to.
    pub bridges: BTreeSet<String>,
    /// Whether it has snapshots.
    pub snapshots: bool,
    /// Its place in the start order; `None` for any.
    pub order: Option<u32>,
    /// Seconds to wait after its start before the next one, from `startup`.
    pub up_delay: u64,
    /// The note of an earlier evacuation.
    pub away: Option<Away>,
    /// What is true of it there, when it was sent to another cluster.
    pub abroad: Option<Abroad>,
}

/// What is true of a guest that was sent to another cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Abroad {
    /// Nothing is under way, and it is under its own name: it has not left, or is back.
    Home,
    /// Its move ended early.
    Begun {
        /// Who began it.
        by: String,
        /// Whether it runs there already.
        runs: bool,
    },
    /// It is there; what is here is its former self. Why there is no way back, when there is none.
    There(Result<String, String>),
    /// Its way back ended early. Why that cannot be gone on with, when that is so.
    Returning(Result<String, String>),
    /// The other cluster is not in the configuration.
    NoAlias,
    /// It could not be found out.
    Unknown(String),
}

/// One volume on a storage that is not shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalVolume {
    /// Its name for the cluster, `STORAGE:VOLNAME`, or the path of a file.
    pub volid: String,
    /// Its storage.
    pub storage: Option<StorageId>,
    /// `raw`, `qcow2`, `vmdk`, `subvol`.
    pub format: String,
    /// Its size.
    pub size: Bytes,
    /// Whether it is a medium in a CD-ROM drive, which no migration carries.
    pub cdrom: bool,
}

/// A rule about where guests may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name for people: `rule web-apart`, `tag plb_affinity_db`.
    pub name: String,
    /// The guests it binds.
    pub guests: BTreeSet<Vmid>,
    /// What it says.
    pub kind: RuleKind,
}

/// What a rule says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleKind {
    /// The guests belong on these nodes, the ones of higher priority first.
    Nodes {
        /// Node to priority.
        nodes: BTreeMap<NodeName, i64>,
        /// Whether they must never be elsewhere.
        strict: bool,
    },
    /// All on one node.
    Together,
    /// No two on one node.
    Apart,
}

/// Returns the word for a guest's kind that people use.
pub(super) fn kind_word(kind: GuestKind) -> &'static str {
    match kind {
        GuestKind::Qemu => "VM",
        GuestKind::Lxc => "container",
    }
}
