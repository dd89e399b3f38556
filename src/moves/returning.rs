//! Going back to the source when the target does not come up: the intention in the mark, the steps, and its end.
//!
//! The intention is written before the first step and removed after the last one, so that whoever comes after a crash knows
//! that it was asked for. What was copied stays; the storage hosts are told not to believe anything of it. Read next:
//! `plan/returning.rs`, which decides; `abort.rs`, whose steps these are.

use std::time::{Duration, Instant};

use super::abort::{Walk, may_pass};
use super::{Account, GuestMove, MoveError, Mover};
use crate::plan::MoveRequest;
use crate::plan::mark::Mark;
use crate::plan::returning::{Next, OnFailure, may_give_up, next};
use crate::report::Event;

/// How long a cluster or host that cannot be reached is waited for; steps that got on begin that time anew.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// What this is called where steps are told.
const STEP: &str = "return";

impl Mover {
    /// Returns to the source after a start or a check that failed, where that was asked for; else gives the error back.
    pub(super) async fn unless_returned(
        &self,
        job: &GuestMove,
        request: &MoveRequest,
        account: &Account,
        error: MoveError,
    ) -> MoveError {
        if request.on_failure != OnFailure::Return || !self.did_not_come_up(&error, account) {
            return error;
        }
        if !may_give_up(account.started_equal, account.uptime, request.boot_check) {
            self.reporter.tell(&Event::Warning {
                guest: Some(job.plan.name.clone()),
                text: "it is not returned by itself: it has run on the target before, and what it wrote there would be given \
                       up"
                    .to_owned(),
            });
            return error;
        }
        self.reporter.tell(&Event::Warning {
            guest: Some(job.plan.name.clone()),
            text: format!(
                "{}; it returns to {}, and what it wrote on {} since its start is given up",
                crate::transfer::probe::with_causes(&error),
                job.plan.source_cluster,
                job.plan.target_cluster
            ),
        });
        let returned = match self.begin_return(job).await {
            Ok(()) => self.return_to_source(job).await,
            Err(error) => Err(error),
        };
        match returned {
            Ok(_) => MoveError::Returned {
                guest: job.plan.name.clone(),
                why: Some(Box::new(error)),
            },
            Err(failed) => failed,
        }
    }

    /// Says whether an error means that the target was asked to start and has not come up.
    fn did_not_come_up(&self, error: &MoveError, account: &Account) -> bool {
        match error {
            MoveError::NotUp { .. } => true,
            // A cluster that cannot be reached cannot be returned from either, and may have started it.
            MoveError::Api { step, .. } => {
                *step == crate::plan::step::Step::StartTarget.to_string()
                    && account.started_equal.is_some()
                    && !may_pass(error)
            }
            _ => false,
        }
    }

    /// Writes down that the guest is being returned.
    pub(super) async fn begin_return(&self, job: &GuestMove) -> Result<(), MoveError> {
        // What is finishing has no way back by this, which the walk says.
        self.change_mark(job, STEP, |mark| Mark {
            returning: !mark.finishing,
            ..mark.clone()
        })
        .await
    }

    /// Walks back to the source; returns how many steps that took.
    pub(super) async fn return_to_source(&self, job: &GuestMove) -> Result<u32, MoveError> {
        self.return_within(job, true, PATIENCE).await
    }

    /// Walks back to the source, waiting so long for what cannot be reached; returns how many steps that took.
    pub(super) async fn return_within(
        &self,
        job: &GuestMove,
        start: bool,
        patience: Duration,
    ) -> Result<u32, MoveError> {
        let mut walk = Walk::new(job, start);
        let mut steps = 0;
        let mut got_on = Instant::now();
        loop {
            match self.step_home(job, &mut walk, start).await {
                Ok(true) => {
                    steps += 1;
                    got_on = Instant::now();
                }
                Ok(false) => break,
                Err(error) => self.wait_or(error, job, got_on, patience).await?,
            }
        }
        if let Some(text) = self.restore_ha(job, start).await? {
            self.reporter.tell(&Event::Warning {
                guest: Some(job.plan.name.clone()),
                text,
            });
        }
        // The guest is up again; what is left is to keep the next try from believing what the failed one wrote.
        let since = Instant::now();
        while let Err(error) = self.give_up_copies(job).await {
            self.wait_or(error, job, since, patience).await?;
        }
        self.change_mark(job, STEP, |mark| Mark {
            returning: false,
            ..mark.clone()
        })
        .await?;
        Ok(steps)
    }

    /// Looks, and takes one step towards the source; `false` when it is back.
    async fn step_home(
        &self,
        job: &GuestMove,
        walk: &mut Walk,
        start: bool,
    ) -> Result<bool, MoveError> {
        let facts = self.look_back(job, walk).await?;
        let (step, text) = match next(&facts, job.mark.running && start) {
            Next::Settled => return Ok(false),
            Next::Refuse { reason, remedy } => return Err(job.no_way_back(reason, remedy)),
            Next::StopTarget => (
                None,
                format!(
                    "switching {} off on {}",
                    job.plan.name, job.plan.target_cluster
                ),
            ),
            Next::Step(step) => (Some(step), self.words(job, step)),
        };
        let name = step.map_or("stop-target".to_owned(), |step| step.to_string());
        if let Some(error) = self.begin_step(job, name.clone(), text) {
            return Err(error);
        }
        match step {
            Some(step) => self.undo(job, walk, step).await?,
            None => {
                self.still_ours(job).await?;
                self.take_target_from_ha(job).await?;
                // Not shut down: one that has not come up does not hear that, and nothing it would write out is wanted.
                self.target
                    .stop(&job.plan.target)
                    .await
                    .map_err(job.api(name))?;
            }
        }
        Ok(true)
    }

    async fn give_up_copies(&self, job: &GuestMove) -> Result<(), MoveError> {
        self.engine
            .prepare(&job.pairs)
            .await
            .map_err(|source| job.transfer(STEP, source))?;
        for pair in &job.pairs {
            self.still_ours(job).await?;
            self.engine
                .take_back(pair)
                .await
                .map_err(|source| job.transfer(STEP, source))?;
        }
        Ok(())
    }
}
