//! Running an evacuation: close the node, let the HA manager move its guests, then guest by guest, then look whether the
//! node is empty.
//!
//! The plan that was shown is the plan that runs; each placement is judged again just before it begins, and a guest for
//! which it does not hold any more is left, unless a new choice was asked for. A failure of one guest does not stop the
//! others. Read next: `go.rs`, `plan/evacuate/schedule.rs`.

mod ha;
mod turn;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::task::JoinSet;

use super::ha::Waiting;
use super::outcome::{Outcome, Outcomes, Result as Fate};
use super::{EvacuationError, Evacuator};
use crate::plan::evacuate::budget::Protected;
use crate::plan::evacuate::facts::Inventory;
use crate::plan::evacuate::note::{self, Stage};
use crate::plan::evacuate::schedule::{Parallel, Schedule};
use crate::plan::evacuate::{Action, Evacuation, GuestPlan, Request};
use crate::plan::mark::MIGRATED;
use crate::pve::guest::{GuestSummary, Power};
use crate::pve::id::{NodeName, Vmid};
use crate::units::Bytes;

/// One evacuation that was decided and consented to.
pub struct EvacuationJob {
    /// What it is done with.
    pub evacuator: Evacuator,
    /// What was asked for.
    pub request: Request,
    /// What the plan was made from.
    pub inventory: Inventory,
    /// The plan that was shown.
    pub plan: Evacuation,
    /// How much at one time.
    pub parallel: Parallel,
    /// Whether another node may be chosen where the planned one does not do any more.
    pub replan: bool,
    /// Whether the first failure ends it.
    pub fail_fast: bool,
}

impl EvacuationJob {
    /// Closes the node and does what the plan says.
    pub async fn run(self) -> Result<Outcomes, EvacuationError> {
        let mut work = Work {
            schedule: Schedule::new(
                &self.plan.guests,
                self.request
                    .budgets
                    .iter()
                    .map(|budget| Protected::new(budget, &self.inventory))
                    .collect(),
                self.parallel,
            ),
            on_the_way: BTreeMap::new(),
            done: Vec::new(),
            locked: BTreeMap::new(),
            said: BTreeMap::new(),
            across: BTreeSet::new(),
            cut_short: false,
            job: self,
        };
        work.run().await
    }
}

struct Work {
    job: EvacuationJob,
    schedule: Schedule,
    /// Guests that began to move, and where they go.
    on_the_way: BTreeMap<Vmid, NodeName>,
    done: Vec<Outcome>,
    /// Guests that could not begin in this round, and what they are locked by.
    locked: BTreeMap<Vmid, String>,
    /// What was last said about a guest that waits.
    said: BTreeMap<Vmid, String>,
    /// Guests that run on another cluster by now.
    across: BTreeSet<Vmid>,
    /// Whether the operator ended a move to another cluster.
    cut_short: bool,
}

impl Work {
    async fn run(&mut self) -> Result<Outcomes, EvacuationError> {
        let node = self.job.plan.node.clone();
        let tools = self.job.evacuator.clone();
        if self.job.plan.ha_maintenance {
            tools.try_maintenance(&node).await?;
        }
        self.close(Stage::Evacuating).await?;
        let mut interrupted = false;
        if self.job.plan.ha_maintenance {
            match self.by_ha().await {
                Ok(()) => {}
                Err(EvacuationError::Interrupted) => interrupted = true,
                Err(error) => return Err(error),
            }
        }
        if !interrupted {
            interrupted = self.one_by_one().await?;
        }
        for plan in self.schedule.give_up() {
            self.left(&plan, "was not begun".to_owned());
        }
        self.list_the_rest();
        let (problems, kept) = self.check_empty().await?;
        interrupted |= self.cut_short;
        let empty = problems.is_empty() && !interrupted;
        let failed = self.done.iter().any(|guest| guest.result == Fate::Failed);
        if empty && !failed {
            tools.set_stage(&node, Stage::Evacuated).await?;
        }
        self.done.sort_by_key(|guest| guest.vmid);
        Ok(Outcomes {
            what: "evacuate",
            node,
            guests: std::mem::take(&mut self.done),
            problems,
            kept,
            interrupted,
        })
    }

    async fn close(&self, stage: Stage) -> Result<(), EvacuationError> {
        let (node, inventory) = (&self.job.plan.node, &self.job.inventory);
        let memory = inventory
            .nodes
            .get(node)
            .map_or(Bytes::ZERO, |facts| facts.memory);
        let assigned = inventory
            .guests
            .iter()
            .filter(|guest| guest.place.node == *node)
            .map(crate::plan::evacuate::facts::GuestFacts::memory_now)
            .sum();
        // Noted before it is switched, and only when it is ours: what was on before stays on.
        let on_already = inventory
            .nodes
            .get(node)
            .is_some_and(|facts| facts.maintenance);
        let maintenance = self.job.plan.ha_maintenance && !on_already;
        self.job
            .evacuator
            .step(node.as_str(), "cordon", "closing the node");
        self.job
            .evacuator
            .close(node, stage, maintenance, memory, assigned)
            .await
    }

    /// Moves the other guests as the schedule allows. Says whether the operator ended it.
    async fn one_by_one(&mut self) -> Result<bool, EvacuationError> {
        let tools = self.job.evacuator.clone();
        let mut busy: JoinSet<Outcome> = JoinSet::new();
        let mut waiting = Waiting::new(tools.pace.patience);
        let mut interrupted = false;
        while !self.schedule.is_done() {
            if tools.interrupt.is_asked() {
                interrupted = true;
                for plan in self.schedule.give_up() {
                    self.left(&plan, "was not begun: interrupted".to_owned());
                }
            }
            self.begin_what_may(&mut busy).await;
            self.tell_waits();
            if busy.is_empty() {
                if self.schedule.is_done() {
                    break;
                }
                self.wait_for_change(&mut waiting).await?;
                continue;
            }
            let ended = busy.join_next().await;
            let Some(ended) = ended.transpose().unwrap_or_else(|panic| {
                log::debug!("a guest's task ended oddly: {panic}");
                None
            }) else {
                break;
            };
            waiting = Waiting::new(tools.pace.patience);
            self.took_end(ended).await;
        }
        Ok(interrupted)
    }

    async fn took_end(&mut self, ended: Outcome) {
        let tools = &self.job.evacuator;
        let runs = ended.result == Fate::Ok && self.ran_before(ended.vmid);
        self.schedule.ended(
            ended.vmid,
            runs || (ended.result == Fate::Failed && !ended.down && self.ran_before(ended.vmid)),
        );
        if runs && ended.cluster.is_some() {
            self.across.insert(ended.vmid);
        }
        self.cut_short |= ended.result == Fate::Left && tools.interrupt.is_asked();
        if ended.result != Fate::Ok && ended.result != Fate::Stopped {
            self.on_the_way.remove(&ended.vmid);
        }
        let text = format!("{}: {}", ended.result.as_str(), ended.reason);
        match ended.result {
            Fate::Failed => tools.warn(Some(&ended.name), text),
            Fate::Ok | Fate::Stopped | Fate::Left => {
                tools.notice(Some(&ended.name), text.trim_end_matches(": ").to_owned())
            }
        }
        tools
            .interrupt
            .set_down(self.done.iter().any(|guest| guest.down) || ended.down);
        let failed = ended.result == Fate::Failed;
        self.done.push(ended);
        if failed && self.job.fail_fast {
            for plan in self.schedule.give_up() {
                self.left(
                    &plan,
                    "was not begun: another one failed (--fail-fast)".to_owned(),
                );
            }
        }
    }

    fn ran_before(&self, vmid: Vmid) -> bool {
        self.job.plan.guests.iter().any(|guest| {
            guest.place.vmid == vmid && guest.power == crate::pve::guest::Power::Running
        })
    }

    /// Nothing can begin: waits for something to change in the cluster, and gives up when nothing does.
    async fn wait_for_change(&mut self, waiting: &mut Waiting) -> Result<(), EvacuationError> {
        let tools = self.job.evacuator.clone();
        let guests = tools
            .api
            .guests()
            .await
            .map_err(EvacuationError::api("look whether guests run"))?;
        let running: BTreeSet<Vmid> = guests
            .iter()
            .filter(|guest| guest.power == crate::pve::guest::Power::Running)
            .map(|guest| guest.place.vmid)
            .chain(self.across.iter().copied())
            .collect();
        self.schedule.observed(&running);
        let waits = self.waits();
        let reasons: Vec<&str> = waits.iter().map(|(_, reason)| reason.as_str()).collect();
        let sign = reasons.join("; ");
        match tools.pause(waiting, "what is waited for", &sign).await {
            Ok(()) | Err(EvacuationError::Interrupted) => {}
            Err(EvacuationError::Waited { .. }) => {
                for (plan, reason) in waits {
                    self.left(&plan, format!("waited in vain: {reason}"));
                }
                self.schedule.give_up();
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Returns what waits and for what.
    fn waits(&self) -> Vec<(GuestPlan, String)> {
        let mut waits = self.schedule.waits();
        for (plan, reason) in &mut waits {
            if let Some(lock) = self.locked.get(&plan.place.vmid) {
                *reason = format!("is locked ({lock})");
            }
        }
        waits
    }

    /// Says what waits for what, once for each reason; waiting for one's turn goes without saying.
    fn tell_waits(&mut self) {
        for (plan, reason) in self.waits() {
            let of_interest = reason.starts_with("budget") || reason.starts_with("is locked");
            if of_interest && self.said.get(&plan.place.vmid) != Some(&reason) {
                let tools = &self.job.evacuator;
                tools.notice(Some(&plan.name), format!("waits: {reason}"));
                self.said.insert(plan.place.vmid, reason);
            }
        }
    }

    fn left(&mut self, plan: &GuestPlan, reason: String) {
        let here = Some(plan.place.node.clone());
        self.done.push(outcome(
            plan,
            here,
            Fate::Left,
            reason,
            false,
            Duration::ZERO,
        ));
    }

    /// Adds what the plan leaves where it is.
    fn list_the_rest(&mut self) {
        let listed: BTreeSet<Vmid> = self.done.iter().map(|guest| guest.vmid).collect();
        let rest: Vec<GuestPlan> = self
            .job
            .plan
            .guests
            .iter()
            .filter(|guest| !listed.contains(&guest.place.vmid))
            .cloned()
            .collect();
        for plan in rest {
            let reason = if plan.action == Action::Stay {
                plan.why.clone()
            } else {
                "was not begun".to_owned()
            };
            self.left(&plan, reason);
        }
    }

    /// Looks at the node itself: only what was to stay may be there. Returns what is wrong, and what is kept there because
    /// guests of other clusters come back to it.
    async fn check_empty(&self) -> Result<(Vec<String>, Vec<String>), EvacuationError> {
        let node = &self.job.plan.node;
        let there = self
            .job
            .evacuator
            .api
            .guests_on(node)
            .await
            .map_err(EvacuationError::api(&format!("list the guests on {node}")))?;
        let stays = |vmid: &Vmid| {
            let planned = self.job.plan.guests.iter();
            let mut of_guest = planned.filter(|guest| guest.place.vmid == *vmid);
            of_guest.all(|guest| !guest.leaves())
        };
        let is_former = |guest: &GuestSummary| {
            let name = guest.name.as_deref().unwrap_or_default();
            let tag = note::tag(node);
            guest.power == Power::Stopped
                && name.ends_with(MIGRATED)
                && guest
                    .tags
                    .iter()
                    .any(|known| known.to_ascii_lowercase() == tag)
        };
        let kept = there.iter().filter(|guest| is_former(guest)).map(|guest| {
            let name = guest.name.as_deref().unwrap_or_default();
            format!(
                "{} ({name}) stays on {node}, stopped: the guest comes back to it",
                guest.place.vmid
            )
        });
        let kept: Vec<String> = kept.collect();
        let known: BTreeMap<Vmid, &Outcome> =
            self.done.iter().map(|guest| (guest.vmid, guest)).collect();
        let problems = there
            .iter()
            .filter_map(|guest| {
                let vmid = guest.place.vmid;
                match known.get(&vmid) {
                    Some(outcome) if outcome.cluster.is_some() && is_former(guest) => None,
                    None => Some(format!("{vmid} came to {node} meanwhile")),
                    Some(outcome) if stays(&vmid) || outcome.result == Fate::Failed => None,
                    Some(outcome) => Some(format!("{vmid} is still on {node}: {}", outcome.reason)),
                }
            })
            .collect();
        Ok((problems, kept))
    }
}

fn outcome(
    plan: &GuestPlan,
    target: Option<NodeName>,
    result: Fate,
    reason: String,
    down: bool,
    took: Duration,
) -> Outcome {
    Outcome {
        vmid: plan.place.vmid,
        name: plan.name.clone(),
        source: plan.place.node.clone(),
        target,
        cluster: None,
        result,
        reason,
        down,
        took,
    }
}
