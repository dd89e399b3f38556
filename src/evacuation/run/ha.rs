//! The part of an evacuation that the HA manager does, and what it leaves to us.
//!
//! Read next: `evacuation/ha.rs`.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Work, outcome};
use crate::evacuation::go::{Journey, way_now};
use crate::evacuation::outcome::{Outcome, Result as Fate};
use crate::evacuation::{EvacuationError, chain, now};
use crate::plan::evacuate::note::{Away, Sent};
use crate::plan::evacuate::{Action, GuestPlan};

impl Work {
    /// Lets the HA manager move its guests; what it leaves is moved by us, to where room was kept.
    pub(super) async fn by_ha(&mut self) -> Result<(), EvacuationError> {
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
                to: Sent::ByHa,
                running: guest.power == crate::pve::guest::Power::Running,
                bridges: BTreeMap::new(),
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
}
