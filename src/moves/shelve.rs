//! Retiring a guest's former self again, when a way back to it is given up.
//!
//! It and its volumes stay. Its name, onboot and notes change in one call, so that there is nothing in between that a crash
//! could leave. Read next: `plan/back.rs`, by which the next way back finds and judges it.

use super::claim::{ATTEMPTS, is_late};
use super::perform::change;
use super::{GuestMove, MoveError, Mover};
use crate::plan::abort::StepBack;
use crate::plan::back::shelved;
use crate::plan::mark::{MIGRATED, Mark, NameMark};
use crate::pve::guest::Power;

impl Mover {
    /// Gives the former self its name `--MIGRATED` again, once the source is back under its own. A repeat is harmless.
    pub(super) async fn shelve(&self, job: &GuestMove) -> Result<(), MoveError> {
        let step = StepBack::Shelve;
        let mut attempt = 1;
        loop {
            let (source, target) = self.still_ours(job).await?;
            let named = source.is_some_and(|source| source.name() == job.plan.name);
            let former = target.filter(|former| {
                let placeholder = NameMark::split(former.name()).1 == NameMark::Creating;
                placeholder && former.power == Power::Stopped
            });
            let (true, Some(former)) = (named, former) else {
                // The next look says what else it is.
                return Ok(());
            };
            let Some(mark) = Mark::parse(former.description()) else {
                return Ok(());
            };
            let mut change = change([
                ("name", format!("{}{MIGRATED}", job.plan.name)),
                ("onboot", "0".to_owned()),
                ("description", shelved(former.description(), &mark)),
            ]);
            change.digest = former.config.value("digest").map(str::to_owned);
            match self.target.configure(&job.plan.target, &change).await {
                Ok(()) => return Ok(()),
                // A sign of the claim, for one, came before.
                Err(error) if is_late(&error) && attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(job.api(step)(error)),
            }
        }
    }
}

/// Says what a way back that was given up leaves: the guest's former self, retired again.
pub(super) fn former_self(job: &GuestMove) -> Option<String> {
    let plan = &job.plan;
    job.mark.kept.as_ref()?;
    Some(format!(
        "{}{MIGRATED} on {}, stopped, with its volumes: partly overwritten, so no fallback any more; `proxmove back {} {}` goes \
         back to it",
        plan.name,
        job.target(),
        plan.source_cluster,
        plan.name
    ))
}
