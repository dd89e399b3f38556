//! Observing one guest's move: both guests through the API, the volumes through the engine.
//!
//! Changes nothing. Read next: `plan/state.rs`, which derives the rung.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::{GuestMove, MoveError, Mover};
use crate::cluster::{Api, ApiError};
use crate::plan::mark::{Mark, NameMark, noted_move};
use crate::plan::state::{Data, Facts, Seen};
use crate::plan::{DriveAction, GuestPlan};
use crate::pve::guest::{GuestDetail, GuestRef, Power};
use crate::transfer::VolumeState;

/// When the volumes are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Volumes {
    /// Where the next step depends on them: those of a stopped source under its own name are passed again in any case.
    WhereTheyMatter,
    /// Whenever there is a placeholder.
    Always,
}

/// The source, and the target with the mark of this move; `None` for one that is not there.
pub(super) type Guests = (Option<GuestDetail>, Option<GuestDetail>);

impl Mover {
    /// Looks at both guests and at the volumes, and makes sure that the move is still ours.
    pub(super) async fn observe(&self, job: &GuestMove) -> Result<Facts, MoveError> {
        let changing = self.changing(job).await?;
        let (source, target) = self.guests_of_ours(job).await?;
        self.facts(job, source, target, changing, Volumes::WhereTheyMatter)
            .await
    }

    /// Looks at both guests and at the volumes, whoever works on the move.
    pub(super) async fn look(&self, job: &GuestMove, volumes: Volumes) -> Result<Facts, MoveError> {
        let changing = self.changing(job).await?;
        let (source, target) = self.guests(job).await?;
        self.facts(job, source, target, changing, volumes).await
    }

    /// Says whether a task is starting or stopping the source, and the target.
    ///
    /// Asked before the guests are: a task that ends in between is then one that is waited for in vain, and not one that
    /// nobody saw.
    async fn changing(&self, job: &GuestMove) -> Result<(bool, bool), MoveError> {
        let plan = &job.plan;
        let (source, target) = tokio::join!(
            self.source.power_task(&plan.source),
            self.target.power_task(&plan.target)
        );
        let source = source.map_err(job.api("observing the tasks of the source"))?;
        let target = target.map_err(job.api("observing the tasks of the target"))?;
        Ok((source.is_some(), target.is_some()))
    }

    /// Looks at both guests.
    pub(super) async fn guests(&self, job: &GuestMove) -> Result<Guests, MoveError> {
        let plan = &job.plan;
        let (source, target) = tokio::join!(
            seen(self.source.as_ref(), &plan.source),
            seen(self.target.as_ref(), &plan.target)
        );
        let source = source.map_err(job.api("observing the source"))?;
        let target = target
            .map_err(job.api("observing the target"))?
            .filter(|target| is_of(target, job));
        Ok((source, target))
    }

    /// Says why a move is not ours to go on with: somebody else has taken it over, or another move stopped the guest.
    pub(super) fn not_ours(
        &self,
        job: &GuestMove,
        source: Option<&GuestDetail>,
        target: Option<&GuestDetail>,
    ) -> Option<MoveError> {
        let mark = target.and_then(|target| Mark::parse(target.description()));
        let taken = mark.and_then(|mark| self.taken_over(job, &mark));
        if taken.is_some() {
            return taken;
        }
        let source = source.filter(|_| target.is_some())?;
        if NameMark::split(source.name()).1 == NameMark::Plain {
            return None;
        }
        match (noted_move(source.description()), &job.mark.id) {
            (Some((noted, place)), Some(id)) if noted != id => Some(MoveError::Contradiction {
                guest: job.plan.name.clone(),
                facts: format!("the source was stopped by another move of it, to {place}"),
            }),
            _ => None,
        }
    }

    async fn facts(
        &self,
        job: &GuestMove,
        source: Option<GuestDetail>,
        target: Option<GuestDetail>,
        changing: (bool, bool),
        volumes: Volumes,
    ) -> Result<Facts, MoveError> {
        let plan = &job.plan;
        let attached = target.as_ref().is_some_and(|target| {
            missing_drives(plan, target).is_empty() && plan.snapshots.recorded(target)
        });
        let mark = target
            .as_ref()
            .and_then(|target| Mark::parse(target.description()));
        let facts = Facts {
            source: source.as_ref().map(|seen| sighting(seen, changing.0)),
            target: target.as_ref().map(|seen| sighting(seen, changing.1)),
            data: Vec::new(),
            attached,
            finishing: mark.is_some_and(|mark| mark.finishing),
        };
        let passed_again = facts
            .source
            .as_ref()
            .is_none_or(|seen| seen.name == NameMark::Plain && seen.power != Power::Running);
        let matters = facts.target.is_some() && (volumes == Volumes::Always || !passed_again);
        // Nothing decides on them while they are being tidied.
        if !matters || facts.finishing {
            return Ok(facts);
        }
        // All at once: a stopped guest waits for this.
        let mut looks = JoinSet::new();
        for (place, pair) in job.pairs.iter().cloned().enumerate() {
            let engine = Arc::clone(&self.engine);
            looks.spawn(async move { (place, engine.observe(&pair).await) });
        }
        let mut data = BTreeMap::new();
        while let Some(look) = looks.join_next().await {
            let (place, state) = look.unwrap_or_else(|panic| resume_unwind(panic.into_panic()));
            let state = state.map_err(|source| job.transfer("observing the volumes", source))?;
            data.insert(place, judge(&state));
        }
        let data = data.into_values().collect();
        Ok(Facts { data, ..facts })
    }
}

pub(super) async fn seen(api: &dyn Api, place: &GuestRef) -> Result<Option<GuestDetail>, ApiError> {
    match api.guest(place).await {
        Ok(detail) => Ok(Some(detail)),
        Err(error) if error.says_no_such_guest() => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn is_of(target: &GuestDetail, job: &GuestMove) -> bool {
    // A former self keeps the mark of a way back that was given up, and its own name says that it was.
    NameMark::split(target.name()).1 != NameMark::Migrated
        && Mark::parse(target.description()).is_some_and(|mark| {
            mark.name == job.mark.name && mark.source.vmid == job.mark.source.vmid
        })
}

/// `changing` says whether a task is starting or stopping it.
pub(super) fn sighting(detail: &GuestDetail, changing: bool) -> Seen {
    Seen {
        name: NameMark::split(detail.name()).1,
        power: detail.power,
        changing,
    }
}

/// Returns the drives that the target lacks, with the values they are to have.
pub(super) fn missing_drives(plan: &GuestPlan, target: &GuestDetail) -> Vec<(String, String)> {
    let (present, _) = target.config.drives();
    let mut missing = Vec::new();
    for drive in &plan.drives {
        let at_target = present.iter().find(|there| there.key == drive.key);
        match &drive.action {
            DriveAction::Copy(volume) => {
                if at_target.and_then(|there| there.volume()) != Some(&volume.target) {
                    missing.push((drive.key.to_string(), volume.attach.clone()));
                }
            }
            // A cloud-init drive is created by the call and has another name afterwards.
            DriveAction::Set { value } => {
                if at_target.is_none() {
                    missing.push((drive.key.to_string(), value.clone()));
                }
            }
            DriveAction::Leave => {}
        }
    }
    missing
}

fn judge(state: &VolumeState) -> Data {
    match state {
        VolumeState::Absent => Data::Missing,
        VolumeState::Partial { .. } => Data::Partial,
        VolumeState::SourceNewer => Data::SourceNewer,
        VolumeState::TargetNewer => Data::TargetNewer,
        VolumeState::Synced { .. } => Data::Equal,
        VolumeState::Foreign => Data::Unjudged,
    }
}
