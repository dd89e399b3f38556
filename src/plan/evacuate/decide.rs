//! The decision: policies, ways, placement and budgets put together into one plan.
//!
//! Pure. All mistakes are collected, so that the operator reads them once. Read next: `place.rs`, `schedule.rs`.

mod draft;
mod judge;

use std::collections::{BTreeMap, BTreeSet};

pub use draft::is_managed;
use draft::{Draft, Fate};
pub(in crate::plan::evacuate) use judge::budget_verdicts;

use super::affinity::Affinity;
use super::facts::{GuestFacts, GuestSeen, Inventory};
use super::place::{Mover, Placed, Placing, Unplaced};
use super::room::{Need, Room};
use super::way::{self, Way};
use super::{Action, Capacity, Evacuation, GuestPlan, Request, closed_because};
use crate::plan::{Severity, Verdict};
use crate::pve::id::{NodeName, Vmid};
use crate::units::Bytes;

/// Decides what happens to every guest of a node.
pub fn decide(inventory: &Inventory, request: &Request) -> Evacuation {
    let here: Vec<&GuestFacts> = inventory
        .guests
        .iter()
        .filter(|guest| guest.place.node == request.node)
        .collect();
    let mut work = Work {
        inventory,
        request,
        verdicts: Vec::new(),
        plans: Vec::new(),
    };
    work.judge_request(&here);
    let drafts: Vec<Draft> = here.iter().map(|guest| work.draft(guest)).collect();
    let mut placing = work.placing(&drafts);
    let free_before: BTreeMap<NodeName, Bytes> = placing
        .candidates
        .iter()
        .map(|node| (node.clone(), placing.room.memory(node)))
        .collect();
    work.finish_begun(&mut placing);
    work.place(&drafts, &mut placing);
    work.judge_budgets();
    let ha_maintenance =
        request.ha_maintenance && drafts.iter().any(|draft| draft.fate == Fate::HaManager);
    let capacity = capacity(inventory, &placing, &free_before, &work.plans);
    Evacuation {
        cluster: inventory.cluster.clone(),
        node: request.node.clone(),
        guests: ordered(work.plans),
        capacity,
        verdicts: work.verdicts,
        ha_maintenance,
        unseen: placing.unseen,
    }
}

/// Judges one planned placement again, with what is true now: the same node must still do, or with `replan` any.
///
/// `on_the_way` are guests of this evacuation and where they go; they count as being there already. `leaving` are those
/// whose turn is still to come.
pub fn again(
    inventory: &Inventory,
    request: &Request,
    plan: &GuestPlan,
    on_the_way: &BTreeMap<Vmid, NodeName>,
    leaving: &BTreeSet<Vmid>,
    replan: bool,
) -> Result<GuestPlan, String> {
    let (Action::Go { .. }, Some(target)) = (&plan.action, &plan.target) else {
        return Ok(plan.clone());
    };
    let guest = inventory
        .guest(plan.place.vmid)
        .ok_or_else(|| "it does not exist any more".to_owned())?;
    if guest.place.node != plan.place.node {
        return Err(format!("it is on {} by now", guest.place.node));
    }
    let work = Work {
        inventory,
        request,
        verdicts: Vec::new(),
        plans: Vec::new(),
    };
    let draft = work.draft_again(guest)?;
    let mut placing = work.placing(std::slice::from_ref(&draft));
    for (vmid, node) in on_the_way
        .iter()
        .filter(|(vmid, _)| **vmid != plan.place.vmid)
    {
        placing.affinity.moved(*vmid, node);
        if let Some(other) = inventory
            .guest(*vmid)
            .filter(|other| other.place.node != *node)
        {
            let space = other
                .seen
                .as_ref()
                .map(|seen| way::space(seen, &request.allowed))
                .unwrap_or_default();
            let need = match other.on_its_way() {
                // Its memory is counted already.
                Some(to) if to == node => Need {
                    space,
                    ..Need::default()
                },
                _ => Need::of(other, space),
            };
            placing.room.take(node, &need);
        }
    }
    placing.leaving.clone_from(leaving);
    if !replan {
        placing.candidates.retain(|node| node == target);
    }
    let mover = draft
        .mover()
        .ok_or("nothing is known of its configuration")?;
    match placing.place(&[mover]) {
        Ok(placed) => Ok(go(guest, mover.seen, &placed, request, "")),
        Err(unplaced) => Err(unplaced
            .reasons
            .get(target)
            .map(|reason| format!("{target} {reason}"))
            .unwrap_or_else(|| format!("{target} is no choice any more"))),
    }
}

struct Work<'a> {
    inventory: &'a Inventory,
    request: &'a Request,
    verdicts: Vec<Verdict>,
    plans: Vec<GuestPlan>,
}

impl<'a> Work<'a> {
    fn refuse(
        &mut self,
        guest: Option<&GuestFacts>,
        code: &'static str,
        reason: String,
        remedy: &str,
    ) {
        self.verdict(Severity::Refuse, guest, code, reason, remedy);
    }

    fn verdict(
        &mut self,
        severity: Severity,
        guest: Option<&GuestFacts>,
        code: &'static str,
        reason: String,
        remedy: &str,
    ) {
        self.verdicts.push(Verdict {
            guest: guest.map(label),
            severity,
            code,
            reason,
            remedy: remedy.to_owned(),
        });
    }

    fn placing(&self, drafts: &[Draft<'_>]) -> Placing<'a> {
        let (inventory, request) = (self.inventory, self.request);
        let candidates = inventory
            .nodes
            .keys()
            .filter(|node| **node != request.node)
            .filter(|node| request.to.is_empty() || request.to.contains(*node))
            .cloned()
            .collect();
        Placing {
            inventory,
            candidates,
            room: Room::new(inventory, request.limits),
            affinity: Affinity::new(inventory),
            allowed: &request.allowed,
            leaving: drafts
                .iter()
                .filter(|draft| draft.is_placed())
                .map(|draft| draft.guest.place.vmid)
                .collect(),
            unseen: BTreeSet::new(),
            reopened: None,
        }
    }

    /// Places everything that goes, and writes down everything that stays.
    fn place(&mut self, drafts: &[Draft<'a>], placing: &mut Placing<'_>) {
        let mut order: Vec<&Draft> = drafts.iter().filter(|draft| draft.is_placed()).collect();
        order.sort_by_key(|draft| {
            let guest = draft.guest;
            (
                draft.fate != Fate::HaManager,
                !guest.runs(),
                std::cmp::Reverse(guest.memory),
                guest.place.vmid,
            )
        });
        let by_vmid: BTreeMap<Vmid, &Draft> = order
            .iter()
            .map(|draft| (draft.guest.place.vmid, *draft))
            .collect();
        let mut waiting: BTreeSet<Vmid> = by_vmid.keys().copied().collect();
        let mut lost: Vec<(&Draft, Unplaced)> = Vec::new();
        for draft in &order {
            if !waiting.contains(&draft.guest.place.vmid) {
                continue;
            }
            let unit = placing.affinity.unit(draft.guest.place.vmid, &waiting);
            waiting.retain(|vmid| !unit.contains(vmid));
            let members: Vec<&Draft> = unit.iter().map(|vmid| by_vmid[vmid]).collect();
            let movers: Vec<Mover> = members.iter().filter_map(|draft| draft.mover()).collect();
            match placing.place(&movers) {
                Ok(placed) => {
                    for draft in members {
                        self.placed(draft, &placed);
                    }
                }
                Err(unplaced) => {
                    lost.extend(members.into_iter().map(|draft| (draft, unplaced.clone())))
                }
            }
        }
        self.judge_lost(&lost, placing);
        for draft in drafts {
            let (action, why) = match &draft.fate {
                Fate::Stay(why) => (Action::Stay, why.clone()),
                Fate::Refused => (Action::Stay, "refused".to_owned()),
                Fate::Stop { force, why } => (Action::Stop { force: *force }, why.clone()),
                Fate::Across { to, else_stop, why } => (
                    Action::Across {
                        to: to.clone(),
                        else_stop: *else_stop,
                    },
                    why.clone(),
                ),
                Fate::Place | Fate::HaManager => continue,
            };
            self.plans.push(plan(draft.guest, action, None, why));
        }
    }

    fn placed(&mut self, draft: &Draft<'a>, placed: &Placed) {
        let Some(mover) = draft.mover() else {
            return;
        };
        let mut plan = go(
            draft.guest,
            mover.seen,
            placed,
            self.request,
            &draft.because,
        );
        if draft.fate == Fate::HaManager {
            plan.action = Action::HaManager;
            plan.why = format!("the HA manager chooses; room is kept here ({})", plan.why);
            plan.runner_up = None;
        }
        self.plans.push(plan);
    }
}

fn go(
    guest: &GuestFacts,
    seen: &GuestSeen,
    placed: &Placed,
    request: &Request,
    because: &str,
) -> GuestPlan {
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
        .map(|storage| (storage.clone(), request.allowed.target(&storage).clone()))
        .collect();
    let why = if because.is_empty() {
        placed.why.clone()
    } else {
        format!("{}; {because}", placed.why)
    };
    GuestPlan {
        runner_up: placed.runner_up.clone(),
        ..plan(
            guest,
            Action::Go { way, storages },
            Some(placed.node.clone()),
            why,
        )
    }
}

fn plan(guest: &GuestFacts, action: Action, target: Option<NodeName>, why: String) -> GuestPlan {
    GuestPlan {
        place: guest.place.clone(),
        name: guest.name.clone(),
        power: guest.power,
        memory: guest.memory,
        action,
        target,
        why,
        runner_up: None,
    }
}

/// Returns `101 (web1)`.
pub(in crate::plan) fn label(guest: &GuestFacts) -> String {
    format!("{} ({})", guest.place.vmid, guest.name)
}

/// Returns the reasons with the nodes they are about; many nodes may have the same one.
pub(in crate::plan) fn grouped(reasons: &BTreeMap<NodeName, String>) -> String {
    if reasons.is_empty() {
        return "there is no other node".to_owned();
    }
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (node, reason) in reasons {
        by_reason.entry(reason).or_default().push(node.as_str());
    }
    let mut parts: Vec<String> = by_reason
        .into_iter()
        .map(|(reason, nodes)| match nodes.as_slice() {
            [first, second, third, rest @ ..] if !rest.is_empty() => {
                format!(
                    "{first}, {second}, {third} and {} more {reason}",
                    rest.len()
                )
            }
            nodes => format!("{} {reason}", nodes.join(", ")),
        })
        .collect();
    if parts.len() > 8 {
        let more = parts.len() - 8;
        parts.truncate(8);
        parts.push(format!("and {more} more reasons"));
    }
    parts.join("; ")
}

/// Puts the plans into the order in which they are taken on.
fn ordered(mut plans: Vec<GuestPlan>) -> Vec<GuestPlan> {
    let rank = |plan: &GuestPlan| match &plan.action {
        Action::Start => 0,
        Action::HaManager => 0,
        Action::Go { way, .. } if *way != Way::Offline => 1,
        Action::Go { .. } => 2,
        Action::Across { .. } => 3,
        Action::Stop { .. } => 4,
        Action::Stay => 5,
    };
    plans.sort_by_key(|plan| (rank(plan), std::cmp::Reverse(plan.memory), plan.place.vmid));
    plans
}

fn capacity(
    inventory: &Inventory,
    placing: &Placing<'_>,
    free_before: &BTreeMap<NodeName, Bytes>,
    plans: &[GuestPlan],
) -> Vec<Capacity> {
    placing
        .candidates
        .iter()
        .map(|node| Capacity {
            node: node.clone(),
            memory: inventory
                .nodes
                .get(node)
                .map_or(Bytes::ZERO, |facts| facts.memory),
            free_before: free_before.get(node).copied().unwrap_or_default(),
            free_after: placing.room.memory(node),
            arriving: plans
                .iter()
                .filter(|plan| plan.target.as_ref() == Some(node))
                .count(),
            closed: closed_because(inventory, node),
        })
        .collect()
}
