//! Whether a guest comes up on its target: looking until `plan/boot.rs` has judged.
//!
//! Changes nothing. It says beforehand what it waits for, since not every guest has an agent. Read next: `plan/boot.rs`.

use std::time::{Duration, Instant};

use super::{Account, GuestMove, MoveError, Mover};
use crate::cluster::ApiError;
use crate::plan::MoveRequest;
use crate::plan::boot::{Judged, Watch, has_agent};
use crate::pve::guest::{AgentPing, Power, Vitals};
use crate::report::Event;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// What this is called where steps are told.
const STEP: &str = "boot-check";

impl Mover {
    /// Watches the started target, where that was asked for, until it is up or the time is over.
    pub(super) async fn check_boot(
        &self,
        job: &GuestMove,
        request: &MoveRequest,
        account: &mut Account,
    ) -> Result<(), MoveError> {
        let Some(limit) = request.boot_check else {
            return Ok(());
        };
        let (name, place) = (&job.plan.name, &job.plan.target);
        let failed = || job.api(STEP);
        let target = self.target.guest(place).await.map_err(failed())?;
        let mut watch = Watch::new(has_agent(target.config.value("agent")), limit);
        self.reporter.tell(&Event::StepStarted {
            guest: name.clone(),
            step: STEP.to_owned(),
            text: format!(
                "waiting for up to {} until {}",
                humantime::format_duration(limit),
                watch.what()
            ),
        });
        let began = Instant::now();
        loop {
            let judged = match self.look_at_boot(job, &watch).await {
                Ok((vitals, ping)) => {
                    account.uptime = account.uptime.or(vitals.uptime);
                    watch.look(began.elapsed(), &vitals, ping.as_ref())
                }
                // A cluster that cannot be asked says nothing about the guest.
                Err(error @ ApiError::Unreachable { .. }) if began.elapsed() < limit => {
                    log::debug!("{name}: {error}");
                    Judged::Unclear
                }
                Err(error) => return Err(failed()(error)),
            };
            match judged {
                Judged::Up(how) => {
                    self.reporter.tell(&Event::Notice {
                        guest: Some(name.clone()),
                        text: format!("it is up: {how}"),
                    });
                    account.up = Some(how);
                    return Ok(());
                }
                Judged::NotUp(reason) => {
                    return Err(MoveError::NotUp {
                        guest: name.clone(),
                        reason,
                    });
                }
                Judged::Unclear => {}
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = self.interrupt.asked() => {
                    return Err(job.interrupted(STEP));
                }
                error = job.lost() => return Err(error),
            }
        }
    }

    async fn look_at_boot(
        &self,
        job: &GuestMove,
        watch: &Watch,
    ) -> Result<(Vitals, Option<AgentPing>), ApiError> {
        let place = &job.plan.target;
        let vitals = self.target.vitals(place).await?;
        let running = vitals.power == Power::Running;
        let ping = match running && watch.asks_agent() {
            true => Some(self.target.ping_agent(place).await?),
            false => None,
        };
        Ok((vitals, ping))
    }
}
