//! Evacuating a node: what happens to each of its guests, where it goes, and why.
//!
//! Pure: an [`Inventory`] and a [`Request`] in, an [`Evacuation`] out; the same in, the same out. Everything that would
//! go wrong is found here, before the first change: wrong policies, missing room, budgets that can never be kept. The
//! plan that is shown is the plan that runs; `schedule` says when each part may begin. Read next: `facts.rs`, `place.rs`,
//! `schedule.rs`; and `plan/restore.rs` for the way back.

pub mod across;
pub mod affinity;
pub mod budget;
pub mod decide;
pub mod facts;
pub mod note;
pub mod place;
pub mod policy;
pub mod rights;
pub mod room;
pub mod schedule;
pub mod select;
pub mod show;
pub mod way;

use std::collections::{BTreeMap, BTreeSet};

use super::{Severity, Verdict};
use crate::pve::destination::Destination;
use crate::pve::evacuation::Limits;
use crate::pve::guest::{GuestKind, GuestRef, Power};
use crate::pve::id::{ClusterAlias, NodeName, StorageId, Vmid};
use crate::units::Bytes;
use across::Across;
use budget::Budget;
use facts::Inventory;
use policy::Policies;
use select::Selection;
use way::{Allowed, Way};

/// What the operator wants.
#[derive(Clone, Debug)]
pub struct Request {
    /// The node to empty.
    pub node: NodeName,
    /// The only nodes guests may go to; all others when empty.
    pub to: BTreeSet<NodeName>,
    /// Which guests.
    pub select: Selection,
    /// What happens to whom.
    pub policies: Policies,
    /// What is to be kept running.
    pub budgets: Vec<Budget>,
    /// How full nodes may be made.
    pub limits: Limits,
    /// How volumes of the node's own storages may travel.
    pub allowed: Allowed,
    /// Whether the HA manager is made to move its guests, by maintenance mode. Otherwise each is moved like any other.
    pub ha_maintenance: bool,
    /// Whether a guest that finds no room is stopped instead of being a reason to refuse.
    pub stop_unplaced: bool,
    /// Whether guests may go to another cluster.
    pub across: Option<Across>,
}

/// What will be done.
#[derive(Clone, Debug)]
pub struct Evacuation {
    /// The cluster.
    pub cluster: ClusterAlias,
    /// The node to empty.
    pub node: NodeName,
    /// Every guest of the node, in the order in which they are taken on.
    pub guests: Vec<GuestPlan>,
    /// The nodes that guests could go to.
    pub capacity: Vec<Capacity>,
    /// What is wrong or odd.
    pub verdicts: Vec<Verdict>,
    /// Whether HA maintenance has to be switched on.
    pub ha_maintenance: bool,
    /// Nodes whose notes and bridges the decision would need and does not know. With any, it is no decision yet.
    pub unseen: BTreeSet<NodeName>,
}

impl Evacuation {
    /// Says whether it must not begin.
    pub fn refused(&self) -> bool {
        self.verdicts
            .iter()
            .any(|verdict| verdict.severity == Severity::Refuse)
    }
}

/// What will be done about one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestPlan {
    /// Where it is.
    pub place: GuestRef,
    /// Its name.
    pub name: String,
    /// Running or not.
    pub power: Power,
    /// Its configured memory.
    pub memory: Bytes,
    /// What happens.
    pub action: Action,
    /// Where it goes; for the HA manager's guests, where this plan keeps room for it.
    pub target: Option<NodeName>,
    /// Why this, and why there.
    pub why: String,
    /// The next best node, and why it is that.
    pub runner_up: Option<String>,
}

impl GuestPlan {
    /// Says whether it leaves the node.
    pub fn leaves(&self) -> bool {
        self.target.is_some() || matches!(self.action, Action::Across { .. })
    }

    /// Returns where it goes, as the table has it.
    pub fn place_to(&self) -> Option<String> {
        match &self.action {
            Action::Across { to, .. } => Some(to.to_string()),
            Action::Go { .. }
            | Action::HaManager
            | Action::Start
            | Action::Stop { .. }
            | Action::Stay => self.target.as_ref().map(ToString::to_string),
        }
    }
}

/// What happens to one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes to another node.
    Go {
        /// How.
        way: Way,
        /// Storages of volumes that travel, from and to; empty when all storages are shared.
        storages: BTreeMap<StorageId, StorageId>,
    },
    /// It is moved to another cluster; what stays is its stopped former self.
    Across {
        /// Where.
        to: Destination,
        /// Whether it is stopped instead when that cannot be.
        else_stop: bool,
    },
    /// The HA manager moves it when the node goes into maintenance.
    HaManager,
    /// It is away already, and is started there, because an evacuation that ended early did not come to that.
    Start,
    /// It is shut down, or switched off, and stays.
    Stop {
        /// Without asking it.
        force: bool,
    },
    /// Nothing.
    Stay,
}

impl Action {
    /// Returns the word of the plan's table.
    pub fn as_str(&self) -> &'static str {
        match self {
            Action::Go { way: Way::Live, .. } => "live-migrate",
            Action::Go { way: Way::Cold, .. } => "migrate",
            Action::Go {
                way: Way::Restart, ..
            } => "restart",
            Action::Go {
                way: Way::Offline, ..
            }
            | Action::Across { .. } => "move",
            Action::HaManager => "HA manager",
            Action::Start => "start",
            Action::Stop { force: false } => "stop",
            Action::Stop { force: true } => "force-stop",
            Action::Stay => "stay",
        }
    }
}

/// How full a node is before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// The node.
    pub node: NodeName,
    /// All its memory.
    pub memory: Bytes,
    /// What it may still take, after the reserve.
    pub free_before: Bytes,
    /// The same when all planned guests are there.
    pub free_after: Bytes,
    /// The guests that come.
    pub arriving: usize,
    /// Why it takes none, when that is so.
    pub closed: Option<String>,
}

impl Inventory {
    /// Says whether a node can be reached.
    pub fn is_online(&self, node: &NodeName) -> bool {
        self.nodes.get(node).is_some_and(|facts| facts.online)
    }

    /// Finds a guest.
    pub fn guest(&self, vmid: Vmid) -> Option<&facts::GuestFacts> {
        self.guests
            .binary_search_by_key(&vmid, |guest| guest.place.vmid)
            .ok()
            .map(|at| &self.guests[at])
    }
}

/// Returns the word for a guest's kind in tables.
pub(super) fn kind_name(kind: GuestKind) -> &'static str {
    match kind {
        GuestKind::Qemu => "vm",
        GuestKind::Lxc => "ct",
    }
}

/// Returns why a node takes no guests, or nothing; what only the node itself says counts as far as it is known.
pub fn closed_because(inventory: &Inventory, name: &NodeName) -> Option<String> {
    let Some(node) = inventory.nodes.get(name) else {
        return Some("is not a member of the cluster".to_owned());
    };
    if !node.online {
        return Some("is offline".to_owned());
    }
    if node.maintenance {
        return Some("is in HA maintenance".to_owned());
    }
    let seen = node.seen.as_ref()?;
    if let Some(why) = &seen.silent {
        return Some(format!("cannot be asked whether it is closed ({why})"));
    }
    let closed = seen.closed.as_ref()?;
    Some(format!("is closed ({})", closed.describe()))
}
