//! Restoring a node: what comes back to it, in which order, what stays away, and why.
//!
//! Pure. Everything is decided from the notes that the evacuation left on the guests, so that any proxmove on any machine
//! can restore, also only a part of it, also again. Guests that somebody has moved on are left and listed. Read next:
//! `evacuate/mod.rs`.

mod abroad;
mod rights;
mod show;
mod turn;

use std::collections::{BTreeMap, BTreeSet};

pub use abroad::Passage;
pub use rights::judge_rights;
pub use show::{json, text};

use super::evacuate::affinity::Affinity;
use super::evacuate::decide::{is_managed, label};
use super::evacuate::facts::{GuestFacts, Inventory};
use super::evacuate::note::{self, Away, Closed};
use super::evacuate::place::{Mover, Placing};
use super::evacuate::room::{Need, Room};
use super::evacuate::select::Selection;
use super::evacuate::way::{self, Allowed, Way};
use super::{Severity, Verdict};
use crate::pve::destination::Destination;
use crate::pve::evacuation::{Limits, Policy};
use crate::pve::guest::GuestRef;
use crate::pve::id::{ClusterAlias, NodeName, StorageId, Vmid};
use crate::units::Bytes;

/// What the operator wants back.
#[derive(Clone, Debug)]
pub struct Request {
    /// The node.
    pub node: NodeName,
    /// Whether guests come back; otherwise the node is only opened and the notes are removed.
    pub move_guests: bool,
    /// Whether guests that somebody has moved on come back too.
    pub also_moved_on: bool,
    /// Which guests.
    pub select: Selection,
    /// How full the node may be made.
    pub limits: Limits,
    /// How volumes may travel.
    pub allowed: Allowed,
    /// The note of the node, by which it may be as full again as it was.
    pub closed: Option<Closed>,
}

/// What will be done.
#[derive(Clone, Debug)]
pub struct Restore {
    /// The cluster.
    pub cluster: ClusterAlias,
    /// The node.
    pub node: NodeName,
    /// All guests that belong to the node and have a note, in the order in which they are taken on.
    pub guests: Vec<Return>,
    /// What is wrong or odd.
    pub verdicts: Vec<Verdict>,
}

/// What will be done about one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Return {
    /// Where it is.
    pub place: GuestRef,
    /// Its name.
    pub name: String,
    /// What happens.
    pub action: Action,
    /// Whether it has to run at the end; it is started if it does not.
    pub start: bool,
    /// Why.
    pub why: String,
    /// Its place in the start order; one without any is among the last.
    pub order: Option<u32>,
    /// Seconds to wait after its start before the next one.
    pub up_delay: u64,
}

/// What happens to one guest that belongs to the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It comes back.
    Back {
        /// How.
        way: Way,
        /// Storages of volumes that travel, from and to.
        storages: BTreeMap<StorageId, StorageId>,
    },
    /// The HA manager brings it back when maintenance ends; if it does not, it is brought back.
    HaManager {
        /// How, if it has to be.
        way: Way,
    },
    /// It was sent to another cluster, and comes back from there.
    FromCluster {
        /// Where it was sent.
        from: Destination,
        /// How it comes back.
        passage: Passage,
    },
    /// It is there; only its note goes.
    AtHome,
    /// It stays where it is, and only its note goes.
    Forget,
    /// It is left as it is, with its note, because that is wanted: it was not selected, or somebody moved it on.
    Left,
    /// It should come back or be started, and cannot.
    Stuck,
}

impl Action {
    /// Returns the word of the table.
    pub fn as_str(&self) -> &'static str {
        match self {
            Action::Back { way: Way::Live, .. } => "live-migrate",
            Action::Back {
                way: Way::Cold | Way::Offline,
                ..
            } => "move",
            Action::Back {
                way: Way::Restart, ..
            } => "restart",
            Action::HaManager { .. } => "HA manager",
            Action::FromCluster { passage, .. } => passage.as_str(),
            Action::AtHome => "at home",
            Action::Forget => "forget",
            Action::Left | Action::Stuck => "left",
        }
    }
}

/// Decides what comes back to a node.
pub fn decide(inventory: &Inventory, request: &Request) -> Restore {
    let mut verdicts = Vec::new();
    let node = inventory.nodes.get(&request.node);
    if node.is_none() {
        verdicts.push(Verdict {
            guest: None,
            severity: Severity::Refuse,
            code: "node-unknown",
            reason: format!("{} has no node {}", inventory.cluster, request.node),
            remedy: "correct its name".to_owned(),
        });
    }
    let mut away: Vec<(&GuestFacts, &Away)> = inventory
        .guests
        .iter()
        .filter_map(|guest| Some((guest, guest.seen.as_ref()?.away.as_ref()?)))
        .filter(|(_, away)| away.origin == request.node)
        .collect();
    away.sort_by_key(|(guest, _)| {
        let order = guest.seen.as_ref().and_then(|seen| seen.order);
        (order.is_none(), order, guest.place.vmid)
    });
    for (guest, _) in &away {
        if guest.lock.as_deref() == Some("migrate") {
            verdicts.push(Verdict {
                guest: Some(label(guest)),
                severity: Severity::Refuse,
                code: "still-moving",
                reason: "is being migrated just now; an evacuation may be under way".to_owned(),
                remedy: "wait for the end of that, or end it, and restore then".to_owned(),
            });
        }
    }
    let mut work = Work {
        request,
        placing: placing(inventory, request),
        verdicts,
    };
    let mut guests: Vec<Return> = away
        .into_iter()
        .map(|(guest, away)| work.guest(guest, away))
        .collect();
    // Their tags say that they belong here; what their notes say is not known.
    let tag = note::tag(&request.node);
    let unread = inventory.guests.iter();
    let unread = unread.filter(|guest| guest.seen.is_none() && guest.tags.contains(&tag));
    guests.extend(
        unread.map(|guest| match inventory.is_online(&guest.place.node) {
            true => work.left(
                guest,
                Action::Stuck,
                "has a configuration that could not be read".to_owned(),
            ),
            false => work.left(
                guest,
                Action::Stuck,
                format!("is on {}, which is offline", guest.place.node),
            ),
        }),
    );
    Restore {
        cluster: inventory.cluster.clone(),
        node: request.node.clone(),
        guests,
        verdicts: work.verdicts,
    }
}

/// Returns what is not as it must be before guests come back to a node.
pub fn unhealthy(
    inventory: &Inventory,
    name: &NodeName,
    storages: &BTreeSet<StorageId>,
) -> Vec<String> {
    let Some(node) = inventory.nodes.get(name) else {
        return vec![format!("{name} is not a member of the cluster")];
    };
    if !node.online {
        return vec![format!("{name} is offline")];
    }
    let mut found = Vec::new();
    if node.memory == Bytes::ZERO {
        found.push(format!("{name} does not report its memory yet"));
    }
    for storage in storages {
        // A storage that is not in its list any more was taken away for good, and is no reason to wait.
        if node
            .storages
            .get(storage)
            .is_some_and(|facts| !facts.active)
        {
            found.push(format!("storage {storage} is not active yet"));
        }
    }
    found
}

struct Work<'a> {
    request: &'a Request,
    placing: Placing<'a>,
    verdicts: Vec<Verdict>,
}

fn placing<'a>(inventory: &'a Inventory, request: &'a Request) -> Placing<'a> {
    let mut room = Room::new(inventory, request.limits);
    if let (Some(closed), Some(facts)) = (&request.closed, inventory.nodes.get(&request.node))
        // With less memory than before, what it once held says nothing.
        && facts.memory >= closed.memory
    {
        let taken = inventory
            .guests
            .iter()
            .filter(|guest| guest.place.node == request.node)
            .map(GuestFacts::memory_now)
            .sum();
        room.allow(&request.node, closed.assigned, taken);
    }
    Placing {
        inventory,
        candidates: vec![request.node.clone()],
        room,
        affinity: Affinity::new(inventory),
        allowed: &request.allowed,
        // All that come back leave where they are, so that none has to wait for another that it belongs to.
        leaving: inventory
            .guests
            .iter()
            .filter(|guest| guest.place.node != request.node)
            .filter(|guest| {
                let away = guest.seen.as_ref().and_then(|seen| seen.away.as_ref());
                away.is_some_and(|away| away.origin == request.node)
            })
            .map(|guest| guest.place.vmid)
            .collect(),
        unseen: BTreeSet::new(),
        reopened: Some(request.node.clone()),
    }
}

impl Work<'_> {
    fn guest(&mut self, guest: &GuestFacts, away: &Away) -> Return {
        let result = |action: Action, start: bool, why: &str| Return {
            place: guest.place.clone(),
            name: guest.name.clone(),
            action,
            start,
            why: why.to_owned(),
            order: guest.seen.as_ref().and_then(|seen| seen.order),
            up_delay: guest.seen.as_ref().map_or(0, |seen| seen.up_delay),
        };
        if let Some(why) = self.request.select.refuses(guest) {
            return result(Action::Left, false, &why);
        }
        if let Some(decided) = self.sent_abroad(guest, away) {
            return decided;
        }
        if !self.request.move_guests {
            return result(Action::Forget, false, "its note is removed, as asked");
        }
        let start = away.running;
        if guest.place.node == self.request.node && self.may_leave(guest) {
            let action = Action::HaManager {
                way: way::ways(guest, Policy::Auto)
                    .first()
                    .copied()
                    .unwrap_or(Way::Offline),
            };
            return result(action, start, "the HA manager may be about to move it off");
        }
        if guest.place.node == self.request.node {
            if start
                && !guest.runs()
                && let Err(reason) = self.take_start(guest)
            {
                return self.left(guest, Action::Stuck, reason);
            }
            return result(Action::AtHome, start, "never left, or is back already");
        }
        let managed = is_managed(guest);
        let moved_on = |to: &&NodeName| **to != guest.place.node && **to != away.origin;
        if let Some(to) = away.to.node().filter(moved_on)
            && !managed
            && !self.request.also_moved_on
        {
            return self.left(
                guest,
                Action::Left,
                format!(
                    "was sent to {to}, and somebody moved it on to {}",
                    guest.place.node
                ),
            );
        }
        if let Some(lock) = guest.lock.as_deref().filter(|lock| *lock == "suspended") {
            return self.left(guest, Action::Stuck, format!("is locked ({lock})"));
        }
        match self.way_back(guest, start) {
            Ok((way, storages)) => {
                let action = if managed {
                    Action::HaManager { way }
                } else {
                    Action::Back { way, storages }
                };
                let why = format!("belongs here; moved by {} on {}", away.by, away.since);
                result(action, start, &why)
            }
            Err(reason) => self.left(guest, Action::Stuck, reason),
        }
    }

    fn left(&mut self, guest: &GuestFacts, action: Action, reason: String) -> Return {
        self.verdicts.push(Verdict {
            guest: Some(label(guest)),
            severity: Severity::Warn,
            code: "left",
            reason: reason.clone(),
            remedy: "restore again when that has changed; --also-moved-on brings back what was moved on, --no-move forgets"
                .to_owned(),
        });
        Return {
            place: guest.place.clone(),
            name: guest.name.clone(),
            action,
            start: false,
            why: reason,
            order: guest.seen.as_ref().and_then(|seen| seen.order),
            up_delay: 0,
        }
    }

    /// Says whether the HA manager may be about to move a guest off this node: an evacuation asked it to, and ended early.
    fn may_leave(&self, guest: &GuestFacts) -> bool {
        let node = self.placing.inventory.nodes.get(&self.request.node);
        let moving = matches!(guest.ha.as_deref(), Some("migrate" | "relocate"));
        is_managed(guest) && (moving || node.is_some_and(|node| node.maintenance))
    }

    /// Takes the room that a guest of this node needs when it is started there; the error says what is lacking.
    fn take_start(&mut self, guest: &GuestFacts) -> Result<(), String> {
        let need = Need::running(guest, BTreeMap::new());
        let node = &self.request.node;
        if let Some(lack) = self.placing.room.lacks(node, &need).first() {
            return Err(format!("cannot be started: its node {lack}"));
        }
        self.placing.room.take(node, &need);
        Ok(())
    }

    /// Finds the way back, and takes its room.
    fn way_back(
        &mut self,
        guest: &GuestFacts,
        start: bool,
    ) -> Result<(Way, BTreeMap<StorageId, StorageId>), String> {
        let seen = guest
            .seen
            .as_ref()
            .ok_or("has a configuration that could not be read")?;
        let mut ways = Vec::new();
        let mut closed = Vec::new();
        for way in way::ways(guest, Policy::Auto) {
            let against = way::obstacles(seen, *way, self.placing.allowed);
            if against.is_empty() {
                ways.push(*way);
            } else if closed.is_empty() {
                closed = against;
            }
        }
        if ways.is_empty() {
            return Err(closed.join("; "));
        }
        // What will be started at home needs its memory there, although it does not run now.
        let mut needs = guest.clone();
        if start {
            needs.power = crate::pve::guest::Power::Running;
        }
        let mover = Mover {
            guest: &needs,
            seen,
            ways: &ways,
        };
        let placed = self.placing.place(&[mover]).map_err(|unplaced| {
            let reasons: Vec<&str> = unplaced.reasons.values().map(String::as_str).collect();
            format!("{} {}", self.request.node, reasons.join("; "))
        })?;
        let way = placed
            .ways
            .get(&guest.place.vmid)
            .copied()
            .unwrap_or(Way::Offline);
        let storages = seen
            .local
            .iter()
            .filter(|volume| !volume.cdrom)
            .filter_map(|volume| volume.storage.clone())
            .map(|storage| {
                (
                    storage.clone(),
                    self.request.allowed.target(&storage).clone(),
                )
            })
            .collect();
        Ok((way, storages))
    }
}

/// Returns the guests that a restore moves or starts.
pub fn acting(plan: &Restore) -> impl Iterator<Item = (Vmid, &Return)> {
    plan.guests
        .iter()
        .filter(|guest| !matches!(guest.action, Action::Left | Action::Stuck))
        .map(|guest| (guest.place.vmid, guest))
}
