//! Running a restore: wait until the node is back and healthy, end maintenance, bring each guest home in its start order,
//! open the node.
//!
//! Each guest loses its note only when it is home and runs as before, so that a restore that ended anywhere is gone on
//! with by the same command. Read next: `go.rs`, `plan/restore.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::go::{Journey, Stranded, way_now};
use super::ha::Waiting;
use super::outcome::{Outcome, Outcomes, Result as Fate};
use super::{EvacuationError, Evacuator, chain, observe};
use crate::plan::evacuate::facts::Inventory;
use crate::plan::evacuate::note::{Closed, Stage};
use crate::plan::restore::{self, Action, Request, Restore, Return};
use crate::pve::guest::{GuestRef, Power};
use crate::pve::id::{NodeName, StorageId, Vmid};

/// One restore that was decided and consented to.
pub struct RestoreJob {
    /// What it is done with.
    pub evacuator: Evacuator,
    /// What was asked for.
    pub request: Request,
    /// The plan that was shown.
    pub plan: Restore,
    /// How many guests of one place in the start order come back at one time.
    pub parallel: usize,
}

impl Evacuator {
    /// Waits until a node is a healthy member again. Returns what is known of the cluster then.
    pub async fn await_health(&self, node: &NodeName) -> Result<Inventory, EvacuationError> {
        let mut waiting = Waiting::new(self.pace.patience);
        let mut said = String::new();
        loop {
            let inventory = observe::restore(&self.api, node)
                .await
                .map_err(EvacuationError::api("look at the cluster"))?;
            let storages: BTreeSet<StorageId> = inventory
                .guests
                .iter()
                .filter_map(|guest| guest.seen.as_ref())
                .filter(|seen| seen.away.as_ref().is_some_and(|away| away.origin == *node))
                .flat_map(|seen| seen.storages.clone())
                .collect();
            let unhealthy = restore::unhealthy(&inventory, node, &storages);
            if unhealthy.is_empty() || !inventory.nodes.contains_key(node) {
                return Ok(inventory);
            }
            let text = unhealthy.join("; ");
            if said != text {
                self.notice(None, format!("waiting for {node}: {text}"));
                said.clone_from(&text);
            }
            let what = format!("the return of {node} ({text})");
            self.pause(&mut waiting, &what, &text).await?;
        }
    }
}

impl RestoreJob {
    /// Brings everything back.
    pub async fn run(self) -> Result<Outcomes, EvacuationError> {
        let node = self.plan.node.clone();
        let tools = self.evacuator.clone();
        let closed = tools.closed(&node).await?;
        let mut done = Vec::new();
        let mut interrupted = false;
        if self.request.move_guests {
            tools.set_stage(&node, Stage::Restoring).await?;
        }
        self.end_maintenance(&node, closed.as_ref()).await?;
        let managed: BTreeSet<Vmid> = restore::acting(&self.plan)
            .filter(|(_, guest)| matches!(guest.action, Action::HaManager { .. }))
            .map(|(vmid, _)| vmid)
            .collect();
        if !managed.is_empty() {
            match tools.await_return(&node, &managed).await {
                Ok(()) => {}
                Err(EvacuationError::Interrupted) => interrupted = true,
                Err(error) => return Err(error),
            }
        }
        let job = Arc::new(self);
        interrupted |= job.in_order(&node, interrupted, &mut done).await;
        if !interrupted {
            tools.step(node.as_str(), "uncordon", "opening the node");
            tools.open(&node).await?;
        }
        Ok(Outcomes {
            what: "restore",
            node,
            guests: done,
            problems: job
                .plan
                .guests
                .iter()
                .filter(|guest| guest.action == Action::Stuck)
                .map(|guest| format!("{} cannot come back: {}", guest.place.vmid, guest.why))
                .collect(),
            kept: Vec::new(),
            interrupted,
        })
    }

    /// Brings guests home in the start order, those of one place in it as many at one time as is allowed. Says whether the
    /// operator ended it.
    async fn in_order(
        self: &Arc<Self>,
        node: &NodeName,
        mut interrupted: bool,
        done: &mut Vec<Outcome>,
    ) -> bool {
        let mut waiting: VecDeque<&Return> = self.plan.guests.iter().collect();
        let mut running: JoinSet<Outcome> = JoinSet::new();
        let mut busy: BTreeMap<Vmid, &Return> = BTreeMap::new();
        loop {
            interrupted |= self.evacuator.interrupt.is_asked();
            while let Some(next) = waiting.front().copied()
                && !interrupted
                && next.may_join(busy.values().copied(), self.parallel)
            {
                waiting.pop_front();
                busy.insert(next.place.vmid, next);
                let (job, guest, node) = (Arc::clone(self), next.clone(), node.clone());
                running.spawn(async move { job.guest(&guest, &node).await });
            }
            let ended = running.join_next().await;
            let Some(Ok(outcome)) = ended else {
                break;
            };
            busy.remove(&outcome.vmid);
            done.push(outcome);
        }
        done.extend(waiting.into_iter().map(|guest| {
            let here = Some(guest.place.node.clone());
            result(guest, here, Fate::Left, "was not begun: interrupted", false)
        }));
        let place = |outcome: &Outcome| {
            let mut guests = self.plan.guests.iter();
            guests.position(|guest| guest.place.vmid == outcome.vmid)
        };
        done.sort_by_key(place);
        interrupted
    }

    /// Switches maintenance off, if an evacuation of ours switched it on.
    async fn end_maintenance(
        &self,
        node: &NodeName,
        closed: Option<&Closed>,
    ) -> Result<(), EvacuationError> {
        if closed.is_some_and(|closed| closed.maintenance) {
            self.evacuator.maintenance(node, false).await?;
        }
        Ok(())
    }

    async fn guest(&self, guest: &Return, node: &NodeName) -> Outcome {
        let tools = &self.evacuator;
        let began = Instant::now();
        let home = GuestRef {
            node: node.clone(),
            ..guest.place.clone()
        };
        let (place, travelled) = match &guest.action {
            Action::Left | Action::Stuck => {
                let at = Some(guest.place.node.clone());
                return result(guest, at, Fate::Left, &guest.why, false);
            }
            Action::Forget => (guest.place.clone(), Ok(None)),
            Action::AtHome => (home.clone(), Ok(None)),
            Action::Back { way, storages } => {
                let journey = Journey {
                    place: &guest.place,
                    name: &guest.name,
                    target: node,
                    way: *way,
                    storages,
                };
                (home, tools.travel(&journey, guest.start).await)
            }
            Action::FromCluster { from, passage } => {
                let back = tools.come_back(&home, &guest.name, from, *passage, guest.start);
                (home.clone(), back.await)
            }
            Action::HaManager { .. } => (home, self.by_ha(guest, node).await),
        };
        let remark = match travelled {
            Ok(remark) => remark.unwrap_or_default(),
            Err(stranded) => {
                let at = stranded.at.map(|place| place.node);
                let down = guest.start && !stranded.running;
                let mut outcome = result(guest, at, Fate::Failed, &stranded.reason, down);
                outcome.took = began.elapsed();
                return outcome;
            }
        };
        let mut outcome = self.finish(guest, &place, remark).await;
        outcome.took = began.elapsed();
        outcome
    }

    /// Starts a guest that is where it belongs, and removes its note.
    async fn finish(&self, guest: &Return, place: &GuestRef, remark: String) -> Outcome {
        let tools = &self.evacuator;
        let at = Some(place.node.clone());
        if guest.start {
            let ran = tools
                .api
                .guest(place)
                .await
                .is_ok_and(|now| now.power == Power::Running);
            if !ran {
                tools.step(&guest.name, "start", "starting it");
            }
            let mut started = tools.make_run(place, true).await;
            let elsewhere = |now: GuestRef| now.node != place.node;
            if started.is_err() && tools.find(place).await.is_ok_and(elsewhere) {
                // The HA manager took it away between the look and the start, by an order from before the restore.
                started = match self.by_ha(guest, &place.node).await {
                    Ok(_) => tools.make_run(place, true).await,
                    Err(stranded) => Err(stranded),
                };
            }
            if let Err(stranded) = started {
                return result(guest, at, Fate::Failed, &stranded.reason, true);
            }
            if !ran && guest.up_delay > 0 {
                tokio::time::sleep(Duration::from_secs(guest.up_delay)).await;
            }
        }
        match tools.unmark(place).await {
            Ok(()) => result(guest, at, Fate::Ok, &remark, false),
            Err(error) => {
                let reason = format!("its note could not be removed: {}", chain(&error));
                result(guest, at, Fate::Failed, &reason, false)
            }
        }
    }

    /// Brings home what the HA manager did not.
    async fn by_ha(&self, guest: &Return, node: &NodeName) -> Result<Option<String>, Stranded> {
        let tools = &self.evacuator;
        let unknown = |error: &crate::cluster::ApiError| Stranded {
            reason: chain(error),
            at: None,
            running: guest.start,
        };
        let place = tools
            .find(&guest.place)
            .await
            .map_err(|error| unknown(&error))?;
        if place.node == *node {
            return Ok(Some("moved by the HA manager".to_owned()));
        }
        let detail = tools
            .api
            .guest(&place)
            .await
            .map_err(|error| unknown(&error))?;
        let storages = BTreeMap::new();
        let running = detail.power == Power::Running;
        let journey = Journey {
            place: &place,
            name: &guest.name,
            target: node,
            way: way_now(place.kind, running),
            storages: &storages,
        };
        tools.travel(&journey, false).await
    }
}

/// Observes and decides a restore.
pub async fn plan(
    tools: &Evacuator,
    request: &mut Request,
    wait: bool,
) -> Result<Restore, EvacuationError> {
    let mut inventory = if wait && request.move_guests {
        tools.await_health(&request.node).await?
    } else {
        observe::restore(&Arc::clone(&tools.api), &request.node)
            .await
            .map_err(EvacuationError::api("look at the cluster"))?
    };
    let node = inventory.nodes.get(&request.node);
    request.closed = node.and_then(|facts| facts.seen.as_ref()?.closed.clone());
    tools.look_abroad(&mut inventory, request.move_guests).await;
    let mut plan = restore::decide(&inventory, request);
    let permissions = tools
        .api
        .permissions()
        .await
        .map_err(EvacuationError::api("ask for the rights"))?;
    plan.verdicts
        .extend(restore::judge_rights(&permissions, &plan));
    Ok(plan)
}

fn result(guest: &Return, at: Option<NodeName>, fate: Fate, reason: &str, down: bool) -> Outcome {
    Outcome {
        vmid: guest.place.vmid,
        name: guest.name.clone(),
        source: guest.place.node.clone(),
        target: at,
        cluster: None,
        result: fate,
        reason: reason.to_owned(),
        down,
        took: Duration::ZERO,
    }
}
