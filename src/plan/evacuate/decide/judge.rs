//! What is wrong with a plan: the request itself, guests that no node takes, budgets; and what an evacuation that ended
//! early left to do.
//!
//! Pure. Read next: `plan/evacuate/rights.rs`.

use std::collections::{BTreeMap, BTreeSet};

use super::draft::{Draft, Fate};
use super::{Work, grouped, plan};
use crate::plan::evacuate::budget::Protected;
use crate::plan::evacuate::facts::{GuestFacts, Inventory};
use crate::plan::evacuate::note::Stage;
use crate::plan::evacuate::place::{Placing, Unplaced};
use crate::plan::evacuate::room::{Lack, Need};
use crate::plan::evacuate::{Action, GuestPlan, Request};
use crate::plan::{Severity, Verdict};
use crate::pve::evacuation::Policy;
use crate::pve::guest::GuestKind;
use crate::pve::id::{NodeName, Vmid};
use crate::units::Bytes;

impl<'a> Work<'a> {
    pub(super) fn judge_request(&mut self, here: &[&GuestFacts]) {
        let (inventory, request) = (self.inventory, self.request);
        match inventory.nodes.get(&request.node) {
            None => {
                let known: Vec<&str> = inventory
                    .nodes
                    .keys()
                    .map(NodeName::as_str)
                    .take(20)
                    .collect();
                self.refuse(
                    None,
                    "node-unknown",
                    format!("{} has no node {}", inventory.cluster, request.node),
                    &format!("use one of {}", known.join(", ")),
                );
            }
            Some(node) if !node.online => self.refuse(
                None,
                "node-offline",
                format!(
                    "node {} is offline, and nothing can be moved off it",
                    request.node
                ),
                "bring it back, or let HA recover its guests",
            ),
            Some(_) => {}
        }
        for node in &request.to {
            if !inventory.nodes.contains_key(node) || *node == request.node {
                self.refuse(
                    None,
                    "target-unknown",
                    format!("--to {node} is no other node of {}", inventory.cluster),
                    "name other nodes of the same cluster",
                );
            }
        }
        if let Some(across) = &request.across
            && across.to.cluster == inventory.cluster
        {
            self.refuse(
                None,
                "target-unknown",
                format!("--to-cluster {} is this very cluster", across.to),
                "name another one, or use --to for other nodes of this one",
            );
        }
        let idle: Vec<String> = request.select.idle(here).map(ToString::to_string).collect();
        for selector in idle {
            self.refuse(
                None,
                "selects-nothing",
                format!("{selector} matches no guest on {}", request.node),
                "correct it, or leave it out",
            );
        }
        for target in request.allowed.storages.values() {
            let known = inventory
                .nodes
                .values()
                .any(|node| node.storages.contains_key(target));
            if !known {
                self.refuse(
                    None,
                    "storage-unknown",
                    format!("{} has no storage {target}", inventory.cluster),
                    "correct --map-storage or map_storage=",
                );
            }
        }
    }

    /// Plans the start of guests that an evacuation which ended early has moved, and not started yet.
    pub(super) fn finish_begun(&mut self, placing: &mut Placing<'_>) {
        let node = self.inventory.nodes.get(&self.request.node);
        let closed = node.and_then(|node| node.seen.as_ref()?.closed.as_ref());
        // After the end of an evacuation, whoever stops a guest wants it stopped.
        if closed.is_none_or(|closed| closed.stage != Stage::Evacuating) {
            return;
        }
        for guest in &self.inventory.guests {
            let Some(away) = guest.seen.as_ref().and_then(|seen| seen.away.as_ref()) else {
                continue;
            };
            let begun = away.running && away.origin == self.request.node;
            if guest.runs() || !begun || away.to.node() != Some(&guest.place.node) {
                continue;
            }
            if guest.place.node == self.request.node {
                continue;
            }
            let need = Need::running(guest, BTreeMap::new());
            if let Some(lack) = placing.room.lacks(&guest.place.node, &need).first() {
                let reason = format!(
                    "was moved and not started yet, and {} {lack}",
                    guest.place.node
                );
                let remedy = "make room there, or start it elsewhere";
                self.verdict(Severity::Warn, Some(guest), "not-started", reason, remedy);
                continue;
            }
            placing.room.take(&guest.place.node, &need);
            let why = format!("was moved by {}, and not started yet", away.by);
            self.plans.push(plan(guest, Action::Start, None, why));
        }
    }

    /// Decides about guests for which no node does.
    pub(super) fn judge_lost(&mut self, lost: &[(&Draft<'a>, Unplaced)], placing: &Placing<'_>) {
        let mut missing = Bytes::ZERO;
        for (draft, unplaced) in lost {
            let guest = draft.guest;
            let mut reasons = grouped(&unplaced.reasons);
            if let Some(across) = &self.request.across {
                match no_passage(draft) {
                    None => {
                        let else_stop = guest.runs()
                            && draft.policy == Policy::Auto
                            && (unplaced.lacking.is_none() || self.request.stop_unplaced);
                        let to = across.to.clone();
                        let why = format!("no node takes it: {reasons}");
                        let action = Action::Across { to, else_stop };
                        self.plans.push(plan(guest, action, None, why));
                        continue;
                    }
                    Some(why) => {
                        reasons = format!("{reasons}; it cannot go to {}: {why}", across.to);
                    }
                }
            }
            if !guest.runs() {
                let why = format!("is stopped, and no node takes it: {reasons}");
                self.verdict(
                    Severity::Warn,
                    Some(guest),
                    "stays-stopped",
                    why.clone(),
                    "none is needed if it may stay",
                );
                self.plans.push(plan(guest, Action::Stay, None, why));
                continue;
            }
            let stops = draft.fate == Fate::Place
                && draft.policy == Policy::Auto
                && (unplaced.lacking.is_none() || self.request.stop_unplaced);
            if stops && (!placing.candidates.is_empty() || self.request.across.is_some()) {
                let why = format!("no node takes it: {reasons}");
                self.plans
                    .push(plan(guest, Action::Stop { force: false }, None, why));
                continue;
            }
            self.plans
                .push(plan(guest, Action::Stay, None, "refused".to_owned()));
            if let Some(lack) = &unplaced.lacking {
                missing += guest.memory;
                let least = match lack {
                    Lack::Memory(bytes) => format!("{bytes} are missing where most is free"),
                    other => other.to_string(),
                };
                self.refuse(
                    Some(guest),
                    "no-room",
                    format!(
                        "no node has room for its {}: {least}; {reasons}",
                        guest.memory
                    ),
                    "make room, name more nodes, or use --to-cluster or --stop-unplaced",
                );
            } else {
                self.refuse(
                    Some(guest),
                    "no-target",
                    format!("no node takes it: {reasons}"),
                    "remove what stands against it, use --to-cluster, or give it the policy 'stop' or 'ignore'",
                );
            }
        }
        if missing > Bytes::ZERO {
            let left: Bytes = placing
                .candidates
                .iter()
                .map(|node| placing.room.memory(node))
                .sum();
            let short = missing.saturating_sub(left);
            let text = if short > Bytes::ZERO {
                format!(
                    "{short} of memory are missing in all: {missing} are needed beyond what was placed, {left} are left"
                )
            } else {
                format!(
                    "{missing} are needed beyond what was placed; {left} are left, but in pieces that are too small"
                )
            };
            self.refuse(
                None,
                "capacity",
                text,
                "make room, name more nodes, or use --to-cluster or --stop-unplaced",
            );
        }
    }

    pub(super) fn judge_budgets(&mut self) {
        let verdicts = budget_verdicts(self.inventory, self.request, &self.plans);
        self.verdicts.extend(verdicts);
    }
}

/// Returns why a guest cannot be moved to another cluster, or nothing.
fn no_passage(draft: &Draft<'_>) -> Option<&'static str> {
    let guest = draft.guest;
    if guest.place.kind == GuestKind::Lxc {
        return Some("containers cannot be moved to another cluster");
    }
    if draft.fate == Fate::HaManager {
        return Some("guests of HA cannot be moved to another cluster");
    }
    if guest.runs() && draft.policy == Policy::LiveMigrate {
        return Some("its policy is live-migrate, and it would be shut down for the last part");
    }
    (guest.own_name() != guest.name).then_some("it is part of another move")
}

/// Judges the budgets by what is planned for each guest.
pub(in crate::plan::evacuate) fn budget_verdicts(
    inventory: &Inventory,
    request: &Request,
    plans: &[GuestPlan],
) -> Vec<Verdict> {
    let of = |wanted: fn(&GuestPlan) -> bool| -> BTreeSet<Vmid> {
        plans
            .iter()
            .filter(|plan| wanted(plan))
            .map(|plan| plan.place.vmid)
            .collect()
    };
    let stopped = of(|plan| matches!(plan.action, Action::Stop { .. }));
    let restarted = of(|plan| match &plan.action {
        Action::Go { way, .. } => way.disrupts(),
        // The HA manager relocates containers, which stops them.
        Action::HaManager => plan.place.kind == GuestKind::Lxc,
        Action::Across { .. } => true,
        Action::Start | Action::Stop { .. } | Action::Stay => false,
    });
    request
        .budgets
        .iter()
        .filter_map(|budget| {
            let reason = Protected::new(budget, inventory).judge(&stopped, &restarted)?;
            Some(Verdict {
                guest: None,
                severity: Severity::Refuse,
                code: "budget",
                reason: format!("budget {} ({}): {reason}", budget.name, budget.guests),
                remedy: "start more of them elsewhere, or lower min_running".to_owned(),
            })
        })
        .collect()
}
