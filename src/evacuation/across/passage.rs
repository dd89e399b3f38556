//! Acting: one guest moves to another cluster, comes back from there, or its move is given up.
//!
//! Each may be repeated: the mover goes on with what ended early. Read next: `moves/batch.rs`, `moves/back.rs`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::ExitCode;
use crate::evacuation::go::Stranded;
use crate::evacuation::outcome::{Outcome, Result as Fate};
use crate::evacuation::{Evacuator, chain, now};
use crate::moves::abort::Return as Walk;
use crate::moves::again::Which;
use crate::plan::evacuate::GuestPlan;
use crate::plan::evacuate::note::{Away, Sent};
use crate::plan::facts::ExistingMoves;
use crate::plan::mark::{MIGRATED, NameMark};
use crate::plan::restore::Passage;
use crate::pve::destination::Destination;
use crate::pve::guest::{GuestRef, Power};
use crate::report::{Event, Reporter};

/// Passes everything on, and keeps how a move ended.
struct Overhearing {
    reporter: Arc<dyn Reporter>,
    heard: Mutex<Heard>,
}

#[derive(Clone, Default)]
struct Heard {
    failed: Option<String>,
    target: Option<String>,
}

impl Reporter for Overhearing {
    fn tell(&self, event: &Event) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::MoveFailed { error, .. } => heard.failed = Some(error.join(": ")),
            Event::MoveDone(summary) => heard.target = Some(summary.target.clone()),
            _ => {}
        }
        drop(heard);
        self.reporter.tell(event);
    }
}

impl Overhearing {
    fn heard(&self) -> Heard {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.clone()
    }
}

impl Evacuator {
    /// Moves one guest to another cluster, or goes on with that.
    pub(in crate::evacuation) async fn cross(&self, plan: &GuestPlan, to: &Destination) -> Outcome {
        let began = Instant::now();
        let mut outcome = Outcome {
            vmid: plan.place.vmid,
            name: plan.name.clone(),
            source: plan.place.node.clone(),
            target: Some(plan.place.node.clone()),
            cluster: None,
            result: Fate::Failed,
            reason: String::new(),
            down: false,
            took: Duration::ZERO,
        };
        match self.try_cross(plan, to).await {
            Ok(reason) => {
                outcome.target = Some(to.node.clone());
                outcome.cluster = Some(to.cluster.clone());
                outcome.result = Fate::Ok;
                outcome.reason = reason;
            }
            Err((fate, reason, down)) => {
                outcome.result = fate;
                outcome.reason = reason;
                outcome.down = down;
            }
        }
        outcome.took = began.elapsed();
        outcome
    }

    async fn try_cross(
        &self,
        plan: &GuestPlan,
        to: &Destination,
    ) -> Result<String, (Fate, String, bool)> {
        let failed = |reason: String| (Fate::Failed, reason, false);
        let seen = self.api.guest(&plan.place).await;
        let seen = seen.map_err(|error| failed(chain(&error)))?;
        let (own, mark) = NameMark::split(seen.name());
        let away = Away {
            origin: plan.place.node.clone(),
            to: Sent::Cluster(to.clone()),
            running: seen.power == Power::Running,
            bridges: self
                .movers
                .as_ref()
                .map(|movers| movers.bridges.clone())
                .unwrap_or_default(),
            by: self.identity.clone(),
            since: now(),
        };
        // From its first step on the mover changes these notes, too.
        let noted = match Away::parse(seen.description()) {
            Some(known) if known.to == away.to && mark != NameMark::Plain => known,
            _ => self.mark(&plan.place, &away).await.map_err(|error| {
                failed(format!("its origin could not be noted: {}", chain(&error)))
            })?,
        };
        let overhearing = Arc::new(Overhearing {
            reporter: Arc::clone(&self.reporter),
            heard: Mutex::default(),
        });
        let reporter = Arc::clone(&overhearing) as Arc<dyn Reporter>;
        let none = ExistingMoves::new();
        let batch = self
            .batch(self.api.alias(), &to.cluster, none, reporter)
            .ok_or_else(|| failed(format!("proxmoverc has no [pve:{}]", to.cluster)))?;
        let mut request = self.move_request(self.api.alias(), to, vec![own.to_owned()]);
        request.bridges.clone_from(&noted.bridges);
        let ends = batch.ends(&request).await;
        let exit = ends.first().map_or(ExitCode::Bug, |end| end.exit);
        let heard = overhearing.heard();
        if exit == ExitCode::Done {
            let target = heard.target.unwrap_or_else(|| to.to_string());
            return Ok(format!(
                "moved to {target}; {own}{MIGRATED} stays as the way back"
            ));
        }
        let runs = self
            .api
            .guest(&plan.place)
            .await
            .is_ok_and(|guest| guest.power == Power::Running);
        let down = exit == ExitCode::SourceDown
            || (noted.running
                && !runs
                && matches!(exit, ExitCode::Refused | ExitCode::Interrupted));
        if exit == ExitCode::Refused && noted == away && mark == NameMark::Plain && !down {
            // Nothing was changed, so that nothing has to come back. Its note would only mislead.
            if let Err(error) = self.unmark(&plan.place).await {
                let text = format!("its note could not be removed: {}", chain(&error));
                self.warn(Some(own), text);
            }
        }
        let reason = heard.failed.unwrap_or_else(|| "was not moved".to_owned());
        let fate = match exit {
            ExitCode::Interrupted => Fate::Left,
            _ => Fate::Failed,
        };
        Err((fate, reason, down))
    }

    /// Brings one guest back from another cluster. On success a remark.
    pub(in crate::evacuation) async fn come_back(
        &self,
        place: &GuestRef,
        own: &str,
        from: &Destination,
        passage: Passage,
        start: bool,
    ) -> Result<Option<String>, Stranded> {
        match self.try_come_back(place, own, from, passage).await {
            Ok(remark) => Ok(Some(remark)),
            Err(reason) => {
                let runs = self
                    .api
                    .guest(place)
                    .await
                    .is_ok_and(|guest| guest.power == Power::Running);
                // What runs there is up, though not where it should be.
                let there = match self.find_back(own, from).await {
                    Ok(way) => way.existing.mark.running && way.existing.former.is_some(),
                    Err(_) => false,
                };
                Err(Stranded {
                    reason,
                    at: Some(place.clone()),
                    running: runs || there || !start,
                })
            }
        }
    }

    async fn try_come_back(
        &self,
        place: &GuestRef,
        own: &str,
        from: &Destination,
        passage: Passage,
    ) -> Result<String, String> {
        let overhearing = Arc::new(Overhearing {
            reporter: Arc::clone(&self.reporter),
            heard: Mutex::default(),
        });
        let reporter = || Arc::clone(&overhearing) as Arc<dyn Reporter>;
        let home = self.api.alias();
        let which = Which {
            source: home.clone(),
            target: from.cluster.clone(),
            guests: vec![own.to_owned()],
        };
        let unknown = || format!("proxmoverc has no [pve:{}]", from.cluster);
        let failed = |what: &str| {
            let heard = overhearing.heard().failed;
            format!(
                "{what}: {}",
                heard.unwrap_or_else(|| "it did not end well".to_owned())
            )
        };
        let forth = |reporter| self.batch(home, &from.cluster, ExistingMoves::new(), reporter);
        match passage {
            Passage::Back => {}
            Passage::Abort => {
                let walk = Walk {
                    start: true,
                    patience: self.pace.patience,
                    give_up: false,
                };
                let batch = forth(reporter()).ok_or_else(unknown)?;
                return match batch.abort(&which, walk).await {
                    ExitCode::Done => Ok(format!("its move to {from} was given up")),
                    _ => Err(failed("its move there could not be given up")),
                };
            }
            Passage::FinishAndBack => {
                let batch = forth(reporter()).ok_or_else(unknown)?;
                if batch.resume(&which, |_| {}).await != ExitCode::Done {
                    return Err(failed("its move there could not be finished"));
                }
            }
        }
        let detail = self.api.guest(place).await.map_err(|error| chain(&error))?;
        let bridges = Away::parse(detail.description()).map(|away| away.bridges);
        let way = self.find_back(own, from).await?;
        let request = self.back_request(own, &way, &bridges.unwrap_or_default())?;
        let batch = self
            .batch(&from.cluster, home, way.former(own), reporter())
            .ok_or_else(unknown)?;
        let ends = batch.ends(&request).await;
        match ends.first().map(|end| end.exit) {
            Some(ExitCode::Done) => Ok(format!(
                "came back from {from}; {own}{MIGRATED} stays there, stopped"
            )),
            _ => Err(failed("it could not come back")),
        }
    }
}
