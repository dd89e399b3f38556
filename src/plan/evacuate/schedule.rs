//! The schedule: which part of a plan may begin now.
//!
//! Pure: whoever acts says what has ended and what runs, and asks what may begin. Never more at one time than allowed, in
//! all and for each target; never below a budget; nothing is stopped for good as long as another guest of its budget waits
//! that is only restarted. Read next: `evacuation/run.rs`.

use std::collections::{BTreeMap, BTreeSet};

use super::budget::Protected;
use super::{Action, GuestPlan};
use crate::pve::guest::Power;
use crate::pve::id::{NodeName, Vmid};

/// How much may happen at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parallel {
    /// Guests leaving the node.
    pub total: usize,
    /// Guests arriving at one node.
    pub per_target: usize,
}

impl Default for Parallel {
    fn default() -> Parallel {
        Parallel {
            total: 1,
            per_target: 2,
        }
    }
}

/// What is still to be done, and what is being done.
#[derive(Clone, Debug)]
pub struct Schedule {
    parallel: Parallel,
    waiting: Vec<GuestPlan>,
    busy: BTreeMap<Vmid, GuestPlan>,
    budgets: Vec<Protected>,
}

impl Schedule {
    /// Takes on the plans that somebody has to act on; the HA manager's guests are its own.
    pub fn new(plans: &[GuestPlan], budgets: Vec<Protected>, parallel: Parallel) -> Schedule {
        Schedule {
            parallel: Parallel {
                total: parallel.total.max(1),
                per_target: parallel.per_target.max(1),
            },
            waiting: plans
                .iter()
                .filter(|plan| !matches!(plan.action, Action::HaManager | Action::Stay))
                .cloned()
                .collect(),
            busy: BTreeMap::new(),
            budgets,
        }
    }

    /// Returns what may begin now, and takes it as begun.
    pub fn begin(&mut self) -> Vec<GuestPlan> {
        let mut begun = Vec::new();
        let mut at = 0;
        while at < self.waiting.len() {
            if self.busy.len() >= self.parallel.total {
                break;
            }
            if self.refuses(&self.waiting[at]).is_some() {
                at += 1;
                continue;
            }
            let plan = self.waiting.remove(at);
            if disrupts(&plan) {
                for budget in &mut self.budgets {
                    budget.running.remove(&plan.place.vmid);
                }
            }
            self.busy.insert(plan.place.vmid, plan.clone());
            begun.push(plan);
        }
        begun
    }

    /// Takes note that something ended, and whether its guest runs now.
    pub fn ended(&mut self, vmid: Vmid, running: bool) {
        self.busy.remove(&vmid);
        for budget in &mut self.budgets {
            if running && budget.members.contains(&vmid) {
                budget.running.insert(vmid);
            } else {
                budget.running.remove(&vmid);
            }
        }
    }

    /// Puts something back that could not begin after all; it is the last to be tried again.
    pub fn postpone(&mut self, plan: GuestPlan, running: bool) {
        self.ended(plan.place.vmid, running);
        self.waiting.push(plan);
    }

    /// Takes note of which guests of the cluster run, for what happens beside this evacuation.
    pub fn observed(&mut self, running: &BTreeSet<Vmid>) {
        let down: BTreeSet<Vmid> = self
            .busy
            .values()
            .filter(|plan| disrupts(plan))
            .map(|plan| plan.place.vmid)
            .collect();
        for budget in &mut self.budgets {
            budget.running = budget
                .members
                .intersection(running)
                .filter(|vmid| !down.contains(vmid))
                .copied()
                .collect();
        }
    }

    /// Returns what waits and for what.
    pub fn waits(&self) -> Vec<(GuestPlan, String)> {
        self.waiting
            .iter()
            .map(|plan| {
                let reason = self
                    .refuses(plan)
                    .unwrap_or_else(|| "others are being moved".to_owned());
                (plan.clone(), reason)
            })
            .collect()
    }

    /// Gives up on everything that has not begun, and returns it.
    pub fn give_up(&mut self) -> Vec<GuestPlan> {
        std::mem::take(&mut self.waiting)
    }

    /// Says whether nothing is being done.
    pub fn is_idle(&self) -> bool {
        self.busy.is_empty()
    }

    /// Says whether nothing waits and nothing is being done.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.busy.is_empty()
    }

    /// Returns why something must not begin now.
    fn refuses(&self, plan: &GuestPlan) -> Option<String> {
        if let Some(target) = &plan.target
            && self.arriving(target) >= self.parallel.per_target
        {
            return Some(format!(
                "{target} takes {} at one time",
                self.parallel.per_target
            ));
        }
        if let Action::Across { to, .. } = &plan.action
            && self
                .busy
                .values()
                .any(|other| matches!(other.action, Action::Across { .. }))
        {
            // Each move takes the next free number there, and the whole of the link.
            return Some(format!("{} takes one at one time", to.cluster));
        }
        if !disrupts(plan) {
            return None;
        }
        let stops = matches!(plan.action, Action::Stop { .. });
        let restarts =
            |plan: &GuestPlan| disrupts(plan) && !matches!(plan.action, Action::Stop { .. });
        let together = |other: &GuestPlan| {
            self.budgets.iter().any(|budget| {
                budget.members.contains(&plan.place.vmid)
                    && budget.members.contains(&other.place.vmid)
            })
        };
        let mut others = self.waiting.iter().chain(self.busy.values());
        if stops && others.any(|other| restarts(other) && together(other)) {
            return Some("others of its budget are restarted first".to_owned());
        }
        self.budgets
            .iter()
            .find_map(|budget| budget.refuses(plan.place.vmid))
    }

    fn arriving(&self, node: &NodeName) -> usize {
        self.busy
            .values()
            .filter(|plan| plan.target.as_ref() == Some(node))
            .count()
    }
}

/// Says whether a running guest is down for some time, or for good.
fn disrupts(plan: &GuestPlan) -> bool {
    match &plan.action {
        Action::Go { way, .. } => way.disrupts(),
        Action::Stop { .. } => true,
        Action::Across { .. } => plan.power == Power::Running,
        Action::HaManager | Action::Start | Action::Stay => false,
    }
}
