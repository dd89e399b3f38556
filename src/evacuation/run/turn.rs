//! A guest's turn: its placement is judged again with what is true now, then it begins, waits, or is left.
//!
//! Read next: `evacuation/go.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::{Work, outcome};
use crate::evacuation::outcome::{Outcome, Result as Fate};
use crate::evacuation::{EvacuationError, chain, observe};
use crate::plan::evacuate::facts::{GuestFacts, Inventory};
use crate::plan::evacuate::note::TAG_PREFIX;
use crate::plan::evacuate::{Action, GuestPlan, decide};
use crate::pve::id::{NodeName, Vmid};

/// What a second look says.
enum Judged {
    Go(GuestPlan),
    Locked(String),
    Gone(NodeName),
    Left(String),
}

impl Work {
    /// Lets everything begin that may, and puts back what is locked.
    pub(super) async fn begin_what_may(&mut self, busy: &mut JoinSet<Outcome>) {
        self.locked.clear();
        loop {
            let begun = self.schedule.begin();
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
                    // The mover says itself when its guest is down.
                    Action::Across { .. } => false,
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
        let wanted = |guest: &GuestFacts| {
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
}

fn unlock(inventory: &mut Inventory, vmid: Vmid) {
    let found = inventory
        .guests
        .binary_search_by_key(&vmid, |guest| guest.place.vmid);
    if let Ok(at) = found {
        inventory.guests[at].lock = None;
    }
}
