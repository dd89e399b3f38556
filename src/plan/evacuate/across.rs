//! Guests that go to another cluster: what the mover and that cluster say about them, put into the plan.
//!
//! Pure. The decision proposes who goes there; whoever observes asks the mover for its own plan, and here its refusals
//! become reasons of this one, before the first change. Read next: `evacuation/across.rs`.

use std::collections::BTreeMap;

use super::decide::{budget_verdicts, label};
use super::facts::{Abroad, Inventory};
use super::room::{Need, Room};
use super::{Action, Evacuation, Request, closed_because};
use crate::plan::{Severity, Verdict};
use crate::pve::destination::Destination;
use crate::pve::guest::Power;

/// Which guests may go to another cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Across {
    /// Where.
    pub to: Destination,
    /// Whether all VMs go there, and not only those that no node takes.
    pub all: bool,
}

/// What is said about a place on another cluster, and about the guests that are to go there.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// That cluster as it is now; `None` when it could not be asked, which a verdict says.
    pub inventory: Option<Inventory>,
    /// The mover's verdicts; those on a guest name it by its own name.
    pub verdicts: Vec<Verdict>,
    /// What the mover says about each guest that it would move, by its own name.
    pub remarks: BTreeMap<String, String>,
}

/// Puts into the plan what is said about each place. Guests that cannot go are refused, stopped or stay, with the reasons.
pub fn settle(
    plan: &mut Evacuation,
    inventory: &Inventory,
    request: &Request,
    said: &BTreeMap<Destination, Said>,
) {
    for (place, said) in said {
        settle_place(plan, inventory, request, place, said);
    }
    plan.verdicts.retain(|verdict| verdict.code != "budget");
    let verdicts = budget_verdicts(inventory, request, &plan.guests);
    plan.verdicts.extend(verdicts);
}

fn settle_place(
    plan: &mut Evacuation,
    inventory: &Inventory,
    request: &Request,
    place: &Destination,
    said: &Said,
) {
    let mut verdicts: Vec<Verdict> = Vec::new();
    for verdict in said
        .verdicts
        .iter()
        .filter(|verdict| verdict.guest.is_none())
    {
        verdicts.push(Verdict {
            reason: format!("{place}: {}", verdict.reason),
            ..verdict.clone()
        });
    }
    let mut room = said.inventory.as_ref().map(|other| {
        if let Some(why) = closed_because(other, &place.node) {
            verdicts.push(Verdict {
                guest: None,
                severity: Severity::Refuse,
                code: "target-closed",
                reason: format!("{place}: {} {why}", place.node),
                remedy: "name another node there, or open it".to_owned(),
            });
        }
        Room::new(other, request.limits)
    });
    for guest in &mut plan.guests {
        let Action::Across { to, else_stop } = &guest.action else {
            continue;
        };
        if to != place {
            continue;
        }
        let else_stop = *else_stop;
        let Some(facts) = inventory.guest(guest.place.vmid) else {
            continue;
        };
        let own = facts.own_name();
        let of_guest = |verdict: &&Verdict| verdict.guest.as_deref() == Some(own);
        let mut against: Vec<(String, String)> = Vec::new();
        for verdict in said.verdicts.iter().filter(of_guest) {
            match verdict.severity {
                Severity::Refuse => against.push((
                    format!("{} [{}]", verdict.reason, verdict.code),
                    verdict.remedy.clone(),
                )),
                Severity::Warn => verdicts.push(Verdict {
                    guest: Some(label(facts)),
                    ..verdict.clone()
                }),
            }
        }
        let there = matches!(
            facts.seen.as_ref().and_then(|seen| seen.abroad.as_ref()),
            Some(Abroad::Begun { runs: true, .. })
        );
        if let Some(room) = room.as_mut().filter(|_| facts.will_run() && !there) {
            let need = Need::running(facts, BTreeMap::new());
            match room.lacks(&place.node, &need).first() {
                Some(lack) => against.push((
                    format!("{} of {} {lack}", place.node, place.cluster),
                    "make room there, or name another node".to_owned(),
                )),
                None => room.take(&place.node, &need),
            }
        }
        if against.is_empty() {
            if let Some(remark) = said.remarks.get(own) {
                guest.why = format!("{}; {remark}", guest.why);
            }
            continue;
        }
        let reasons: Vec<&str> = against.iter().map(|(reason, _)| reason.as_str()).collect();
        let why = format!(
            "{}; and it cannot be moved to {place}: {}",
            guest.why,
            reasons.join("; ")
        );
        if else_stop {
            guest.action = Action::Stop { force: false };
            guest.why = why;
        } else if guest.power != Power::Running && !facts.will_run() {
            verdicts.push(Verdict {
                guest: Some(label(facts)),
                severity: Severity::Warn,
                code: "stays-stopped",
                reason: why.clone(),
                remedy: "none is needed if it may stay".to_owned(),
            });
            guest.action = Action::Stay;
            guest.why = why;
        } else {
            for (reason, remedy) in against {
                verdicts.push(Verdict {
                    guest: Some(label(facts)),
                    severity: Severity::Refuse,
                    code: "no-passage",
                    reason: format!("cannot be moved to {place}: {reason}"),
                    remedy: format!("{remedy}; or give it the policy 'stop' or 'ignore'"),
                });
            }
            guest.action = Action::Stay;
            guest.why = "refused".to_owned();
        }
    }
    plan.verdicts.extend(verdicts);
}
