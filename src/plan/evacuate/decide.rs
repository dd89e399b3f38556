//! The decision: policies, ways, placement and budgets put together into one plan.
//!
//! Pure. All mistakes are collected, so that the operator reads them once. Read next: `place.rs`, `schedule.rs`.

use std::collections::{BTreeMap, BTreeSet};

use super::affinity::Affinity;
use super::budget::Protected;
use super::facts::{GuestFacts, GuestSeen, Inventory, kind_word};
use super::note::Stage;
use super::place::{Mover, Placed, Placing, Unplaced};
use super::room::{Lack, Need, Room};
use super::way::{self, Way};
use super::{Action, Capacity, Evacuation, GuestPlan, Request, closed_because};
use crate::plan::{Severity, Verdict};
use crate::pve::evacuation::Policy;
use crate::pve::guest::GuestKind;
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

/// What is known to happen to a guest before anything is placed.
#[derive(Clone, Debug, PartialEq)]
struct Draft<'a> {
    guest: &'a GuestFacts,
    policy: Policy,
    fate: Fate,
    ways: Vec<Way>,
    /// Why the better ways are closed.
    because: String,
}

#[derive(Clone, Debug, PartialEq)]
enum Fate {
    Stay(String),
    Stop {
        force: bool,
        why: String,
    },
    HaManager,
    Place,
    /// Refused; the verdict is written already.
    Refused,
}

impl<'a> Draft<'a> {
    fn mover(&self) -> Option<Mover<'_>> {
        Some(Mover {
            guest: self.guest,
            seen: self.guest.seen.as_ref()?,
            ways: &self.ways,
        })
    }

    fn is_placed(&self) -> bool {
        matches!(self.fate, Fate::Place | Fate::HaManager)
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

    fn judge_request(&mut self, here: &[&GuestFacts]) {
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

    /// Says what happens to a guest, as far as that can be said without a node.
    fn draft(&mut self, guest: &'a GuestFacts) -> Draft<'a> {
        let chosen = match self.request.policies.choose(guest) {
            Ok(chosen) => chosen,
            Err(reason) => {
                self.refuse(
                    Some(guest),
                    "policy-wrong",
                    reason,
                    "correct the guest's tags or [evacuate:...] in proxmoverc",
                );
                return fixed(guest, Policy::Auto, Fate::Refused);
            }
        };
        let policy = chosen.policy;
        let stay = |why: &str| fixed(guest, policy, Fate::Stay(why.to_owned()));
        if guest.template {
            return stay("templates stay");
        }
        let by_ha = self.request.ha_maintenance && is_managed(guest);
        if let Some(why) = self.request.select.refuses(guest) {
            if by_ha {
                self.refuse(
                    Some(guest),
                    "ha-not-selected",
                    format!(
                        "{why}, but the HA manager moves it when the node goes into maintenance"
                    ),
                    "select it too, or use --no-ha-maintenance",
                );
            }
            return stay(&why);
        }
        if by_ha && !fits_ha(guest, policy) {
            self.refuse(
                Some(guest),
                "ha-policy",
                format!(
                    "its policy is {policy} ({}), but the HA manager moves it in its own way",
                    chosen.from
                ),
                "change the policy, or use --no-ha-maintenance",
            );
            return fixed(guest, policy, Fate::Refused);
        }
        let from = |what: &str| format!("{what} by policy ({})", chosen.from);
        match policy {
            Policy::Ignore => return stay(&from("ignored")),
            Policy::Stop | Policy::ForceStop if !guest.runs() => return stay("is stopped already"),
            Policy::Stop | Policy::ForceStop => {
                let force = policy == Policy::ForceStop;
                let why = from("stopped");
                return fixed(guest, policy, Fate::Stop { force, why });
            }
            Policy::Auto | Policy::LiveMigrate | Policy::Migrate => {}
        }
        if guest.lock.as_deref() == Some("suspended") {
            return stay("is hibernated, and cannot be moved before it was started");
        }
        if let Some(lock) = guest.lock.as_deref() {
            let reason = format!("is locked ({lock}); it is waited for before its turn");
            let remedy = "let the work that locked it end first";
            self.verdict(Severity::Warn, Some(guest), "guest-locked", reason, remedy);
        }
        let (ways, because) = match self.open_ways(guest, policy) {
            Ok(open) => open,
            Err(reason) => return self.nowhere(guest, policy, &chosen.from, &reason),
        };
        let fate = if by_ha { Fate::HaManager } else { Fate::Place };
        Draft {
            guest,
            policy,
            fate,
            ways,
            because,
        }
    }

    /// Says what happens to a guest that was planned to go, now.
    fn draft_again(&self, guest: &'a GuestFacts) -> Result<Draft<'a>, String> {
        let policy = self.request.policies.choose(guest)?.policy;
        if let Some(lock) = &guest.lock {
            return Err(format!("it is locked ({lock})"));
        }
        let (ways, because) = self.open_ways(guest, policy)?;
        Ok(Draft {
            guest,
            policy,
            fate: Fate::Place,
            ways,
            because,
        })
    }

    /// Returns the ways nothing stands against, and why better ones are closed; the error says why all are.
    fn open_ways(&self, guest: &GuestFacts, policy: Policy) -> Result<(Vec<Way>, String), String> {
        let Some(seen) = &guest.seen else {
            return Err("its configuration could not be read".to_owned());
        };
        let mut open = Vec::new();
        let mut closed = Vec::new();
        for way in way::ways(guest, policy) {
            let against = way::obstacles(seen, *way, &self.request.allowed);
            if against.is_empty() {
                open.push(*way);
            } else if closed.is_empty() {
                closed = against;
            }
        }
        if open.is_empty() && closed.is_empty() {
            closed.push(format!(
                "a {} cannot be migrated while it runs",
                kind_word(guest.place.kind)
            ));
        }
        if open.is_empty() {
            return Err(closed.join("; "));
        }
        let because = if closed.is_empty() {
            String::new()
        } else {
            format!("not live: {}", closed.join("; "))
        };
        Ok((open, because))
    }

    /// Decides about a guest that can go nowhere at all.
    fn nowhere(
        &mut self,
        guest: &'a GuestFacts,
        policy: Policy,
        from: &str,
        reason: &str,
    ) -> Draft<'a> {
        if !guest.runs() {
            return fixed(
                guest,
                policy,
                Fate::Stay(format!("is stopped, and cannot be moved: {reason}")),
            );
        }
        if policy == Policy::Auto && guest.seen.is_some() {
            let why = format!("cannot be moved: {reason}");
            return fixed(guest, policy, Fate::Stop { force: false, why });
        }
        self.refuse(
            Some(guest),
            "policy-impossible",
            format!("its policy is {policy} ({from}), but it {reason}"),
            "remove what keeps it, or give it the policy 'stop', 'ignore' or 'auto'",
        );
        fixed(guest, policy, Fate::Refused)
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
                Fate::Place | Fate::HaManager => continue,
            };
            self.plans.push(plan(draft.guest, action, None, why));
        }
    }

    /// Plans the start of guests that an evacuation which ended early has moved, and not started yet.
    fn finish_begun(&mut self, placing: &mut Placing<'_>) {
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
            if guest.runs() || !begun || away.to.as_ref() != Some(&guest.place.node) {
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

    /// Decides about guests for which no node does.
    fn judge_lost(&mut self, lost: &[(&Draft<'a>, Unplaced)], placing: &Placing<'_>) {
        let mut missing = Bytes::ZERO;
        for (draft, unplaced) in lost {
            let guest = draft.guest;
            let reasons = grouped(&unplaced.reasons);
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
            if stops && !placing.candidates.is_empty() {
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
                    "make room, name more nodes, or use --stop-unplaced",
                );
            } else {
                self.refuse(
                    Some(guest),
                    "no-target",
                    format!("no node takes it: {reasons}"),
                    "remove what stands against it, or give it the policy 'stop' or 'ignore'",
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
                "make room, name more nodes, or use --stop-unplaced",
            );
        }
    }

    fn judge_budgets(&mut self) {
        let of = |wanted: fn(&GuestPlan) -> bool| -> BTreeSet<Vmid> {
            self.plans
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
            Action::Start | Action::Stop { .. } | Action::Stay => false,
        });
        for budget in &self.request.budgets {
            let protected = Protected::new(budget, self.inventory);
            if let Some(reason) = protected.judge(&stopped, &restarted) {
                self.refuse(
                    None,
                    "budget",
                    format!("budget {} ({}): {reason}", budget.name, budget.guests),
                    "start more of them elsewhere, or lower min_running",
                );
            }
        }
    }
}

fn fixed<'a>(guest: &'a GuestFacts, policy: Policy, fate: Fate) -> Draft<'a> {
    Draft {
        guest,
        policy,
        fate,
        ways: Vec::new(),
        because: String::new(),
    }
}

/// Says whether the HA manager takes care of a guest.
pub fn is_managed(guest: &GuestFacts) -> bool {
    guest
        .ha
        .as_deref()
        .is_some_and(|state| !matches!(state, "ignored" | "disabled"))
}

/// Says whether what the HA manager would do is what the policy wants.
fn fits_ha(guest: &GuestFacts, policy: Policy) -> bool {
    match policy {
        Policy::Auto => true,
        Policy::LiveMigrate => guest.place.kind == GuestKind::Qemu,
        Policy::Migrate => guest.place.kind == GuestKind::Lxc,
        Policy::Stop | Policy::ForceStop | Policy::Ignore => false,
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
        Action::Stop { .. } => 3,
        Action::Stay => 4,
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
