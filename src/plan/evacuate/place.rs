//! Placing: which node a guest, or a group that belongs together, goes to.
//!
//! Pure, greedy and explainable: the node with the most free memory that nothing stands against, counting what this plan
//! has placed already; and the runner-up with what made it lose. Nodes in the order of their names decide a draw, so
//! that the same inventory gives the same plan. Read next: `decide.rs`.

use std::collections::{BTreeMap, BTreeSet};

use super::affinity::Affinity;
use super::closed_because;
use super::facts::{GuestFacts, GuestSeen, Inventory};
use super::room::{Lack, Need, Room};
use super::way::{self, Allowed, Way};
use crate::pve::id::{NodeName, Vmid};
use crate::units::Bytes;

/// One guest that is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Mover<'a> {
    /// The guest.
    pub guest: &'a GuestFacts,
    /// What its configuration says.
    pub seen: &'a GuestSeen,
    /// The ways it may go, the best first.
    pub ways: &'a [Way],
}

/// Where a group goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The node.
    pub node: NodeName,
    /// The way of each guest.
    pub ways: BTreeMap<Vmid, Way>,
    /// Why this node.
    pub why: String,
    /// The next best, and why it lost.
    pub runner_up: Option<String>,
}

/// Why a group goes nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unplaced {
    /// What stands against each node.
    pub reasons: BTreeMap<NodeName, String>,
    /// The least memory that is lacking on a node where nothing else stands against it; `None` when it is not about room.
    pub lacking: Option<Lack>,
}

/// Everything placing depends on.
#[derive(Debug)]
pub struct Placing<'a> {
    /// The cluster.
    pub inventory: &'a Inventory,
    /// The nodes that may be chosen.
    pub candidates: Vec<NodeName>,
    /// What is free.
    pub room: Room,
    /// Who belongs where.
    pub affinity: Affinity,
    /// What may be carried.
    pub allowed: &'a Allowed,
    /// Guests that are going to leave where they are.
    pub leaving: BTreeSet<Vmid>,
    /// Nodes that were looked at closely, and of which something is not known.
    pub unseen: BTreeSet<NodeName>,
    /// A node that is closed only until these guests are back.
    pub reopened: Option<NodeName>,
}

/// How good a node is; compared from the first part to the last.
type Score = (
    bool,
    i64,
    std::cmp::Reverse<usize>,
    Bytes,
    std::cmp::Reverse<NodeName>,
);

impl Placing<'_> {
    /// Chooses a node for a group, and takes its room.
    pub fn place(&mut self, group: &[Mover<'_>]) -> Result<Placed, Unplaced> {
        let need = self.need(group);
        let mut fit: Vec<(Score, NodeName, Vec<Way>)> = Vec::new();
        let mut reasons = BTreeMap::new();
        let mut lacking: Option<Lack> = None;
        let mut leaving = self.leaving.clone();
        leaving.extend(group.iter().map(|mover| mover.guest.place.vmid));
        for node in &self.candidates {
            match self.judge(group, &need, &leaving, node) {
                Ok(ways) => fit.push((self.score(group, node, &ways), node.clone(), ways)),
                Err((text, lack)) => {
                    reasons.insert(node.clone(), text);
                    lacking = lesser(lacking, lack);
                }
            }
        }
        fit.sort_by(|one, other| other.0.cmp(&one.0));
        let mut fit = fit.into_iter();
        let Some((score, node, ways)) = fit.next() else {
            return Err(Unplaced { reasons, lacking });
        };
        let second = fit.next();
        for name in [Some(&node), second.as_ref().map(|(_, name, _)| name)]
            .into_iter()
            .flatten()
        {
            if self
                .inventory
                .nodes
                .get(name)
                .is_some_and(|facts| facts.seen.is_none())
            {
                self.unseen.insert(name.clone());
            }
        }
        let free = self.room.memory(&node);
        self.room.take(&node, &need);
        let mut chosen = BTreeMap::new();
        for (mover, way) in group.iter().zip(ways) {
            self.affinity.moved(mover.guest.place.vmid, &node);
            self.leaving.remove(&mover.guest.place.vmid);
            chosen.insert(mover.guest.place.vmid, way);
        }
        let runner_up = match second {
            Some((other, name, _)) => Some(format!(
                "{name}: {}",
                lost(&score, &other, &self.room, &name)
            )),
            // The nearest miss says more than nothing.
            None => reasons
                .iter()
                .next()
                .map(|(name, why)| format!("{name}: {why}")),
        };
        Ok(Placed {
            why: format!(
                "{free} free there, {} left after it",
                self.room.memory(&node)
            ),
            node,
            ways: chosen,
            runner_up,
        })
    }

    /// Returns what a group needs of its node.
    fn need(&self, group: &[Mover<'_>]) -> Need {
        let mut need = Need::default();
        for mover in group {
            need.add(&Need::of(mover.guest, way::space(mover.seen, self.allowed)));
        }
        need
    }

    /// Returns each guest's best way to a node, or what stands against that node.
    fn judge(
        &self,
        group: &[Mover<'_>],
        need: &Need,
        leaving: &BTreeSet<Vmid>,
        node: &NodeName,
    ) -> Result<Vec<Way>, (String, Option<Lack>)> {
        if self.reopened.as_ref() != Some(node)
            && let Some(closed) = closed_because(self.inventory, node)
        {
            return Err((closed, None));
        }
        let mut chosen = Vec::new();
        for mover in group {
            let vmid = mover.guest.place.vmid;
            if let Some(reason) = self.affinity.refuses(vmid, node, leaving) {
                return Err((reason, None));
            }
            let mut first = None;
            let found = mover.ways.iter().find(|way| {
                let against = way::obstacles_on(
                    mover.guest,
                    mover.seen,
                    **way,
                    self.allowed,
                    self.inventory,
                    node,
                );
                let free = against.is_empty();
                first = first.take().or(Some(against.join("; ")));
                free
            });
            match found {
                Some(way) => chosen.push(*way),
                None => return Err((first.unwrap_or_default(), None)),
            }
        }
        let lacks = self.room.lacks(node, need);
        if lacks.is_empty() {
            return Ok(chosen);
        }
        let text: Vec<String> = lacks.iter().map(Lack::to_string).collect();
        Err((text.join("; "), lacks.into_iter().next()))
    }

    fn score(&self, group: &[Mover<'_>], node: &NodeName, ways: &[Way]) -> Score {
        let mut wished = (true, 0);
        for mover in group {
            let wish = self.affinity.wish(mover.guest.place.vmid, node);
            wished = (wished.0 && wish.0, wished.1 + wish.1);
        }
        // A node that all can reach without being stopped is worth more than room.
        let disrupted = ways.iter().filter(|way| way.disrupts()).count();
        (
            wished.0,
            wished.1,
            std::cmp::Reverse(disrupted),
            self.room.memory(node),
            std::cmp::Reverse(node.clone()),
        )
    }
}

/// Returns why the second best node lost.
fn lost(best: &Score, other: &Score, room: &Room, name: &NodeName) -> String {
    if (best.0, best.1) != (other.0, other.1) {
        "affinity wishes for it less".to_owned()
    } else if best.2 != other.2 {
        "only with a restart".to_owned()
    } else {
        format!("{} free", room.memory(name))
    }
}

/// Returns the smaller lack of memory; a lack of memory tells more than another one.
fn lesser(known: Option<Lack>, found: Option<Lack>) -> Option<Lack> {
    match (known, found) {
        (Some(Lack::Memory(one)), Some(Lack::Memory(other))) => Some(Lack::Memory(one.min(other))),
        (Some(Lack::Memory(one)), _) => Some(Lack::Memory(one)),
        (known, found @ Some(Lack::Memory(_))) => found.or(known),
        (known, found) => known.or(found),
    }
}
