//! One guest leaves its node, or comes back: note it, move it, look where it is.
//!
//! A guest is noted before it is touched, so that a run that ends anywhere leaves nothing unknown. After a failure the
//! guest is brought back into the state it was in, where it is. Read next: `mark.rs`, `cluster/migrate.rs`.

use std::collections::BTreeMap;
use std::time::Instant;

use super::outcome::{Outcome, Result as Fate};
use super::{Evacuator, chain, now};
use crate::cluster::ApiError;
use crate::plan::evacuate::note::{Away, Sent};
use crate::plan::evacuate::way::Way;
use crate::plan::evacuate::{Action, GuestPlan};
use crate::pve::guest::{GuestKind, GuestRef, Power};
use crate::pve::id::{NodeName, StorageId};
use crate::pve::migration::{MigrateRequest, StorageMap};

/// How a guest goes from one node to another.
pub(super) struct Journey<'a> {
    pub(super) place: &'a GuestRef,
    pub(super) name: &'a str,
    pub(super) target: &'a NodeName,
    pub(super) way: Way,
    pub(super) storages: &'a BTreeMap<StorageId, StorageId>,
}

/// Why a journey ended early, and where the guest is in which state, as far as is known.
pub(super) struct Stranded {
    pub(super) reason: String,
    pub(super) at: Option<GuestRef>,
    pub(super) running: bool,
}

impl Evacuator {
    /// Does with one guest what its plan says.
    pub(super) async fn leave(&self, plan: &GuestPlan) -> Outcome {
        if let Action::Across { to, .. } = &plan.action {
            return self.cross(plan, to).await;
        }
        let began = Instant::now();
        let (result, target, reason, down) = self.leave_node(plan).await;
        Outcome {
            vmid: plan.place.vmid,
            name: plan.name.clone(),
            source: plan.place.node.clone(),
            target,
            cluster: None,
            result,
            reason,
            down,
            took: began.elapsed(),
        }
    }

    async fn leave_node(&self, plan: &GuestPlan) -> (Fate, Option<NodeName>, String, bool) {
        let here = Some(plan.place.node.clone());
        let name = plan.name.as_str();
        let was_running = match self.api.guest(&plan.place).await {
            Ok(detail) => detail.power == Power::Running,
            Err(error) => return (Fate::Failed, here, chain(&error), false),
        };
        if plan.action == Action::Start {
            self.step(name, "start", "starting it");
            return match self.make_run(&plan.place, true).await {
                Ok(()) => (Fate::Ok, here, plan.why.clone(), false),
                Err(stranded) => (Fate::Failed, here, stranded.reason, true),
            };
        }
        let (to, act) = match &plan.action {
            Action::Go { way, storages } => match &plan.target {
                Some(target) => (target.clone(), Some((way, storages))),
                None => return (Fate::Left, here, "it has no target".to_owned(), false),
            },
            Action::Stop { .. } => (plan.place.node.clone(), None),
            Action::Across { .. } | Action::HaManager | Action::Start | Action::Stay => {
                return (Fate::Left, here, plan.why.clone(), false);
            }
        };
        let away = Away {
            origin: plan.place.node.clone(),
            to: Sent::Node(to.clone()),
            running: was_running,
            bridges: BTreeMap::new(),
            by: self.identity.clone(),
            since: now(),
        };
        if act.is_some() {
            match self.wait_for_others(&plan.place, name, &to).await {
                Ok(None) => {}
                Ok(Some(remark)) => return self.arrived_by_others(plan, &away, remark).await,
                Err(stranded) => {
                    let at = stranded.at.map(|place| place.node);
                    let down = was_running && !stranded.running;
                    return (Fate::Failed, at, stranded.reason, down);
                }
            }
        }
        let noted = match self.mark(&plan.place, &away).await {
            Ok(noted) => noted,
            Err(error) => {
                // Somebody may have moved it in this very moment.
                return match self.find(&plan.place).await {
                    Ok(place) if place != plan.place => {
                        let reason = format!("somebody else moved it to {}", place.node);
                        (Fate::Ok, Some(place.node), reason, false)
                    }
                    Ok(_) | Err(_) => {
                        let reason = format!("its origin could not be noted: {}", chain(&error));
                        (Fate::Failed, here, reason, false)
                    }
                };
            }
        };
        let Some((way, storages)) = act else {
            return self.stop_here(plan, noted.running).await;
        };
        let journey = Journey {
            place: &plan.place,
            name,
            target: &to,
            way: *way,
            storages,
        };
        // A run before this one may have shut it down.
        let start = noted.running && noted.origin == plan.place.node;
        match self.travel(&journey, was_running || start).await {
            Ok(note) => (Fate::Ok, Some(to), note.unwrap_or_default(), false),
            Err(stranded) => {
                let down = (was_running || start) && !stranded.running;
                let home = stranded.at.as_ref() == Some(&plan.place);
                if home && !down && noted == away {
                    // It is as it was, so that nothing has to come back. Its note would only mislead.
                    if let Err(error) = self.unmark(&plan.place).await {
                        self.warn(
                            Some(name),
                            format!("its note could not be removed: {}", chain(&error)),
                        );
                    }
                }
                let at = stranded.at.map(|place| place.node);
                (Fate::Failed, at, stranded.reason, down)
            }
        }
    }

    /// Notes the origin of a guest that somebody else brought to where it should go.
    async fn arrived_by_others(
        &self,
        plan: &GuestPlan,
        away: &Away,
        remark: String,
    ) -> (Fate, Option<NodeName>, String, bool) {
        let target = away.to.node().cloned();
        let there = GuestRef {
            node: target.clone().unwrap_or_else(|| plan.place.node.clone()),
            ..plan.place.clone()
        };
        match self.mark(&there, away).await {
            Ok(_) => (Fate::Ok, target, remark, false),
            Err(error) => {
                let reason = format!(
                    "{remark}, but its origin could not be noted: {}",
                    chain(&error)
                );
                (Fate::Failed, target, reason, false)
            }
        }
    }

    async fn stop_here(
        &self,
        plan: &GuestPlan,
        was_running: bool,
    ) -> (Fate, Option<NodeName>, String, bool) {
        let here = Some(plan.place.node.clone());
        let force = plan.action == (Action::Stop { force: true });
        self.step(&plan.name, plan.action.as_str(), "stopping it where it is");
        let stopped = if force {
            self.api.stop(&plan.place).await
        } else {
            self.api.shutdown(&plan.place, self.pace.stop_timeout).await
        };
        match stopped {
            Ok(()) if was_running => (Fate::Stopped, here, plan.why.clone(), false),
            Ok(()) => (Fate::Stopped, here, "was stopped already".to_owned(), false),
            Err(error) => (Fate::Failed, here, chain(&error), false),
        }
    }

    /// Brings a guest to another node, running there if it has to. On success a remark, if there is one.
    pub(super) async fn travel(
        &self,
        journey: &Journey<'_>,
        run: bool,
    ) -> Result<Option<String>, Stranded> {
        let there = GuestRef {
            node: journey.target.clone(),
            ..journey.place.clone()
        };
        let others = self
            .wait_for_others(journey.place, journey.name, journey.target)
            .await?;
        if let Some(remark) = others {
            self.make_run(&there, run).await?;
            return Ok(Some(remark));
        }
        let moved = self.migrate(journey).await;
        match moved {
            Ok(remark) => {
                self.make_run(&there, run).await?;
                Ok(remark)
            }
            Err(error) => Err(self.stranded(journey, run, &error).await),
        }
    }

    /// Waits for a migration that somebody else began; a remark when it brought the guest to where it should go.
    async fn wait_for_others(
        &self,
        from: &GuestRef,
        name: &str,
        target: &NodeName,
    ) -> Result<Option<String>, Stranded> {
        let lost = |error: &ApiError| Stranded {
            reason: chain(error),
            at: None,
            running: false,
        };
        let running = self.api.running_migration(from).await;
        let Some(upid) = running.map_err(|error| lost(&error))? else {
            return Ok(None);
        };
        self.step(
            name,
            "wait",
            format!("{} is migrating it already; waiting for that", upid.user()),
        );
        let tell = |line: &str| log::debug!("{name}: {line}");
        let followed = self.api.follow(&upid, &tell).await;
        match self.find(from).await {
            Ok(place) if place.node == *target => {
                Ok(Some(format!("was migrated there by {}", upid.user())))
            }
            Ok(place) if place.node == from.node => {
                if let Err(error) = followed {
                    self.notice(Some(name), format!("that failed: {}", chain(&error)));
                }
                Ok(None)
            }
            Ok(place) => {
                let running = self.runs(&place).await;
                Err(Stranded {
                    reason: format!("{} migrated it to {}", upid.user(), place.node),
                    at: Some(place),
                    running,
                })
            }
            Err(error) => Err(lost(&error)),
        }
    }

    async fn migrate(&self, journey: &Journey<'_>) -> Result<Option<String>, ApiError> {
        let (place, target) = (journey.place, journey.target);
        if journey.way == Way::Cold {
            self.step(journey.name, "shutdown", "shutting it down");
            self.api.shutdown(place, self.pace.stop_timeout).await?;
        }
        let how = match journey.way {
            Way::Live => "migrating it live",
            Way::Cold | Way::Offline => "migrating it",
            Way::Restart => "restarting it there",
        };
        self.step(journey.name, "migrate", format!("{how} to {target}"));
        let mapped: BTreeMap<StorageId, StorageId> = journey
            .storages
            .iter()
            .filter(|(from, to)| from != to)
            .map(|(from, to)| (from.clone(), to.clone()))
            .collect();
        let request = MigrateRequest {
            target: target.clone(),
            online: journey.way == Way::Live,
            with_local_disks: journey.way == Way::Live && !journey.storages.is_empty(),
            restart: journey.way == Way::Restart,
            timeout: (journey.way == Way::Restart).then_some(self.pace.stop_timeout),
            target_storage: if mapped.is_empty() {
                StorageMap::Same
            } else {
                StorageMap::Each(mapped)
            },
        };
        let tell = |line: &str| log::debug!("{}: {line}", journey.name);
        let migrated = self.api.migrate(place, &request, &tell).await?;
        Ok(migrated.problem)
    }

    /// Starts a guest that has to run and does not.
    pub(super) async fn make_run(&self, place: &GuestRef, run: bool) -> Result<(), Stranded> {
        if !run {
            return Ok(());
        }
        self.api.start(place).await.map_err(|error| Stranded {
            reason: format!(
                "it is on {}, but does not start: {}",
                place.node,
                chain(&error)
            ),
            at: Some(place.clone()),
            running: false,
        })
    }

    /// Finds out where a guest is after a failure, and lets it run again if it did.
    async fn stranded(&self, journey: &Journey<'_>, run: bool, error: &ApiError) -> Stranded {
        let reason = chain(error);
        // It may still be under way; whoever starts it now would disturb that.
        if matches!(error, ApiError::Stalled { .. }) {
            return Stranded {
                reason,
                at: None,
                running: run,
            };
        }
        let Ok(place) = self.find(journey.place).await else {
            return Stranded {
                reason: format!("{reason}; where it is could not be found out"),
                at: None,
                running: false,
            };
        };
        let started = if run {
            self.api.start(&place).await
        } else {
            Ok(())
        };
        match started {
            Ok(()) => Stranded {
                reason,
                at: Some(place),
                running: run,
            },
            Err(again) => Stranded {
                reason: format!("{reason}; it does not start again: {}", chain(&again)),
                at: Some(place),
                running: false,
            },
        }
    }

    /// Returns where a guest is now.
    pub(super) async fn find(&self, place: &GuestRef) -> Result<GuestRef, ApiError> {
        // The list of guests has its node from the place of the configuration file, which does not lag.
        let guests = self.api.guests().await?;
        let found = guests
            .into_iter()
            .find(|guest| guest.place.vmid == place.vmid);
        Ok(found.map_or_else(|| place.clone(), |guest| guest.place))
    }

    async fn runs(&self, place: &GuestRef) -> bool {
        match self.api.guest(place).await {
            Ok(detail) => detail.power == Power::Running,
            Err(_) => false,
        }
    }
}

/// Returns the way of a guest as it is now, for guests that the HA manager should have moved.
pub(super) fn way_now(kind: GuestKind, running: bool) -> Way {
    match (kind, running) {
        (_, false) => Way::Offline,
        (GuestKind::Qemu, true) => Way::Live,
        (GuestKind::Lxc, true) => Way::Restart,
    }
}
