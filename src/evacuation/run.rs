//! Running an evacuation: close the node, let the HA manager move its guests, then guest by guest, then look whether the
//! node is empty.
//!
//! The plan that was shown is the plan that runs; each placement is judged again just before it begins, and a guest for
//! which it does not hold any more is left, unless a new choice was asked for. A failure of one guest does not stop the
//! others. Read next: `go.rs`, `plan/evacuate/schedule.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::go::{Journey, way_now};
use super::ha::Waiting;
use super::outcome::{Outcome, Outcomes, Result as Fate};
use super::{EvacuationError, Evacuator, chain, now, observe};
use crate::plan::evacuate::budget::Protected;
use crate::plan::evacuate::facts::Inventory;
use crate::plan::evacuate::note::{Away, Stage, TAG_PREFIX};
use crate::plan::evacuate::schedule::{Parallel, Schedule};
use crate::plan::evacuate::{Action, Evacuation, GuestPlan, Request, decide};
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
        let problems = self.check_empty().await?;
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

    /// Lets the HA manager move its guests; what it leaves is moved by us, to where room was kept.
    async fn by_ha(&mut self) -> Result<(), EvacuationError> {
        let tools = self.job.evacuator.clone();
        let node = self.job.plan.node.clone();
        let guests: Vec<GuestPlan> = self
            .job
            .plan
            .guests
            .iter()
            .filter(|guest| guest.action == Action::HaManager)
            .cloned()
            .collect();
        let began = Instant::now();
        for guest in &guests {
            let away = Away {
                origin: node.clone(),
                to: None,
                running: guest.power == crate::pve::guest::Power::Running,
                by: tools.identity.clone(),
                since: now(),
            };
            if let Err(error) = tools.mark(&guest.place, &away).await {
                tools.warn(
                    Some(&guest.name),
                    format!(
                        "its origin could not be noted, the HA manager moves it all the same: {}",
                        chain(&error)
                    ),
                );
            }
        }
        tools.maintenance(&node, true).await?;
        let vmids = guests.iter().map(|guest| guest.place.vmid).collect();
        let left = tools.await_departure(&node, &vmids).await?;
        for guest in &guests {
            let outcome = if left.contains(&guest.place.vmid) {
                self.bring(guest, began).await
            } else {
                self.arrived(guest, began).await
            };
            self.done.push(outcome);
        }
        Ok(())
    }

    async fn arrived(&self, guest: &GuestPlan, began: Instant) -> Outcome {
        let found = self.job.evacuator.find(&guest.place).await;
        outcome(
            guest,
            found.ok().map(|place| place.node),
            Fate::Ok,
            "moved by the HA manager".to_owned(),
            false,
            began.elapsed(),
        )
    }

    /// Moves a guest that the HA manager did not move, such as one that is stopped.
    async fn bring(&mut self, guest: &GuestPlan, began: Instant) -> Outcome {
        let tools = self.job.evacuator.clone();
        let here = Some(guest.place.node.clone());
        let Some(target) = guest.target.clone() else {
            return outcome(
                guest,
                here,
                Fate::Left,
                "has no target".to_owned(),
                false,
                began.elapsed(),
            );
        };
        let running = guest.power == crate::pve::guest::Power::Running;
        let storages = BTreeMap::new();
        let journey = Journey {
            place: &guest.place,
            name: &guest.name,
            target: &target,
            way: way_now(guest.place.kind, running),
            storages: &storages,
        };
        match tools.travel(&journey, false).await {
            Ok(remark) => {
                self.on_the_way.insert(guest.place.vmid, target.clone());
                let reason = remark.unwrap_or_else(|| "the HA manager left it to us".to_owned());
                outcome(
                    guest,
                    Some(target),
                    Fate::Ok,
                    reason,
                    false,
                    began.elapsed(),
                )
            }
            Err(stranded) => {
                let at = stranded.at.map(|place| place.node);
                outcome(
                    guest,
                    at,
                    Fate::Failed,
                    stranded.reason,
                    false,
                    began.elapsed(),
                )
            }
        }
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

    /// Lets everything begin that may, and puts back what is locked.
    async fn begin_what_may(&mut self, busy: &mut JoinSet<Outcome>) {
        self.locked.clear();
        loop {
            let begun = self.schedule.next();
            let mut locked = Vec::new();
            let mut tried = false;
            for plan in begun {
                if self.locked.contains_key(&plan.place.vmid) {
                    locked.push(plan);
                    continue;
                }
                tried = true;
                if let Some(lock) = self.begin(&plan, busy).await {
                    self.locked.insert(plan.place.vmid, lock);
                    locked.push(plan);
                }
            }
            for plan in locked {
                let running = self.ran_before(plan.place.vmid);
                self.schedule.postpone(plan, running);
            }
            // Only what is locked was left, or nothing.
            if !tried {
                return;
            }
        }
    }

    /// Judges a placement again and lets it begin, or leaves it. Returns what it is locked by, when it is.
    async fn begin(&mut self, plan: &GuestPlan, busy: &mut JoinSet<Outcome>) -> Option<String> {
        let tools = self.job.evacuator.clone();
        // What cannot be asked about one guest need not end the whole.
        let judged = self
            .judge_again(plan)
            .await
            .unwrap_or_else(|error| Judged::Left(chain(&error)));
        match judged {
            Judged::Locked(lock) => return Some(lock),
            Judged::Go(plan) => {
                if let Some(target) = &plan.target {
                    self.on_the_way.insert(plan.place.vmid, target.clone());
                }
                let disrupts = match &plan.action {
                    Action::Go { way, .. } => way.disrupts(),
                    Action::Stop { .. } | Action::HaManager | Action::Start | Action::Stay => false,
                };
                if disrupts {
                    tools.interrupt.set_down(true);
                }
                busy.spawn(async move { tools.leave(&plan).await });
            }
            Judged::Gone(node) => {
                self.schedule
                    .ended(plan.place.vmid, self.ran_before(plan.place.vmid));
                let reason = format!("somebody else moved it to {node}");
                let at = Some(node);
                self.done
                    .push(outcome(plan, at, Fate::Ok, reason, false, Duration::ZERO));
            }
            Judged::Left(reason) => {
                self.schedule
                    .ended(plan.place.vmid, self.ran_before(plan.place.vmid));
                tools.warn(Some(&plan.name), format!("LEFT: {reason}"));
                self.left(plan, reason);
            }
        }
        None
    }

    async fn judge_again(&mut self, plan: &GuestPlan) -> Result<Judged, EvacuationError> {
        self.refresh(plan).await?;
        let Some(guest) = self.job.inventory.guest(plan.place.vmid) else {
            return Ok(Judged::Left("it does not exist any more".to_owned()));
        };
        if guest.place.node != plan.place.node {
            return Ok(Judged::Gone(guest.place.node.clone()));
        }
        // A migration of somebody else is waited for where it is acted on; any other lock ends by itself, or not.
        match guest.lock.as_deref() {
            None | Some("migrate") => {}
            Some(lock) => return Ok(Judged::Locked(lock.to_owned())),
        }
        let mut inventory = self.job.inventory.clone();
        unlock(&mut inventory, plan.place.vmid);
        let judged = decide::again(
            &inventory,
            &self.job.request,
            plan,
            &self.on_the_way,
            &self.to_come(),
            self.job.replan,
        );
        Ok(match judged {
            Ok(plan) => Judged::Go(plan),
            Err(reason) => Judged::Left(format!(
                "the plan does not hold any more: {reason} (run it again, or use --replan)"
            )),
        })
    }

    /// Returns the guests that are going to leave and have not begun.
    fn to_come(&self) -> BTreeSet<Vmid> {
        let over: BTreeSet<Vmid> = self.done.iter().map(|guest| guest.vmid).collect();
        let planned = self.job.plan.guests.iter();
        planned
            .filter(|guest| guest.target.is_some())
            .map(|guest| guest.place.vmid)
            .filter(|vmid| !over.contains(vmid) && !self.on_the_way.contains_key(vmid))
            .collect()
    }

    /// Looks at the cluster, the guest and its target as they are now.
    async fn refresh(&mut self, plan: &GuestPlan) -> Result<(), EvacuationError> {
        let api = Arc::clone(&self.job.evacuator.api);
        let mut fresh = observe::listing(api.as_ref())
            .await
            .map_err(EvacuationError::api("look at the cluster again"))?;
        let vmid = plan.place.vmid;
        let wanted = |guest: &crate::plan::evacuate::facts::GuestFacts| {
            let this = guest.place.vmid == vmid && guest.place.node == plan.place.node;
            // What others are moving says in its notes where to.
            let moving = guest.lock.as_deref() == Some("migrate")
                && guest.tags.iter().any(|tag| tag.starts_with(TAG_PREFIX));
            this || moving
        };
        observe::read_guests(&api, &mut fresh, wanted)
            .await
            .map_err(EvacuationError::api(&format!("read guest {vmid} again")))?;
        observe::remember(&mut fresh, &self.job.inventory);
        let look: BTreeSet<NodeName> = if self.job.replan {
            fresh
                .nodes
                .iter()
                .filter(|(_, node)| node.seen.is_some())
                .map(|(name, _)| name.clone())
                .collect()
        } else {
            plan.target.iter().cloned().collect()
        };
        observe::look_at(&api, &mut fresh, &look).await;
        self.job.inventory = fresh;
        Ok(())
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

    /// Looks at the node itself: only what was to stay may be there.
    async fn check_empty(&self) -> Result<Vec<String>, EvacuationError> {
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
            of_guest.all(|guest| guest.target.is_none())
        };
        let known: BTreeMap<Vmid, &Outcome> =
            self.done.iter().map(|guest| (guest.vmid, guest)).collect();
        Ok(there
            .iter()
            .filter_map(|guest| {
                let vmid = guest.place.vmid;
                match known.get(&vmid) {
                    None => Some(format!("{vmid} came to {node} meanwhile")),
                    Some(outcome) if stays(&vmid) || outcome.result == Fate::Failed => None,
                    Some(outcome) => Some(format!("{vmid} is still on {node}: {}", outcome.reason)),
                }
            })
            .collect())
    }
}

/// What a second look says.
enum Judged {
    Go(GuestPlan),
    Locked(String),
    Gone(NodeName),
    Left(String),
}

fn unlock(inventory: &mut Inventory, vmid: Vmid) {
    let found = inventory
        .guests
        .binary_search_by_key(&vmid, |guest| guest.place.vmid);
    if let Ok(at) = found {
        inventory.guests[at].lock = None;
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
        result,
        reason,
        down,
        took,
    }
}
