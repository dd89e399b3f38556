//! What others change at the source while a move of it is planned, waits for its turn, or copies.
//!
//! The source is looked at right before the placeholder is made, before each round and right before the stop. What has
//! changed since it was planned stops the run there, and `anew.rs` plans anew. Read next: `plan/source.rs`.

use super::{GuestMove, MoveError, Mover};
use crate::cluster::ConfigChange;
use crate::plan::back::obsolete;
use crate::plan::step::Step;
use crate::pve::guest::{GuestDetail, Power};

impl Mover {
    /// Fails when the source is not any more what the move was planned from, or runs when it did not, or the other way
    /// around.
    pub(super) async fn same_as_planned(&self, job: &GuestMove) -> Result<(), MoveError> {
        let source = self.look_at_source(job).await?;
        let power = match (job.mark.running, source.power) {
            (true, Power::Stopped) => Some("it was stopped".to_owned()),
            (false, Power::Running) => Some("it was started".to_owned()),
            _ => None,
        };
        changed(job, &source, power).map_or(Ok(()), Err)
    }

    /// Fails when the configuration of the source or its snapshots are others than those that were planned: the target
    /// would miss what is new.
    pub(super) async fn same_source(&self, job: &GuestMove) -> Result<(), MoveError> {
        let source = self.look_at_source(job).await?;
        changed(job, &source, None).map_or(Ok(()), Err)
    }

    async fn look_at_source(&self, job: &GuestMove) -> Result<GuestDetail, MoveError> {
        let source = self.source.guest(&job.plan.source).await;
        source.map_err(job.api("observing the source"))
    }

    /// Returns what a placeholder lacks that was made from another configuration than the source has now.
    pub(super) async fn newer_configuration(
        &self,
        job: &GuestMove,
    ) -> Result<ConfigChange, MoveError> {
        let plan = &job.plan;
        let made_from = job.mark.made_from.as_ref();
        if made_from.is_none_or(|made_from| *made_from == plan.planned.fingerprint()) {
            return Ok(ConfigChange::default());
        }
        let target = self.target.guest(&plan.target).await;
        let target = target.map_err(job.api(Step::NameTarget))?;
        let mut keys = plan.create.clone();
        keys.extend(plan.finish.clone());
        let differs = |(key, value): &(&String, &String)| target.config.value(key) != Some(*value);
        Ok(ConfigChange {
            set: plan
                .create
                .iter()
                .filter(differs)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            delete: obsolete(&target.config, &keys),
            digest: None,
        })
    }
}

/// Returns what keeps a plan from being carried out that the source does not fit any more.
fn changed(job: &GuestMove, source: &GuestDetail, power: Option<String>) -> Option<MoveError> {
    let plan = &job.plan;
    let changed = [
        power,
        plan.planned.changed(source),
        plan.snapshots.changed(source),
    ];
    let told: Vec<String> = changed.into_iter().flatten().collect();
    (!told.is_empty()).then(|| MoveError::SourceChanged {
        guest: plan.name.clone(),
        how: told.join(", "),
    })
}
