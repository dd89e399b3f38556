//! A guest's HA resource on the way: set to `ignored` before the stop, put back by an abort, made anew on the target.
//!
//! What it was is written into the mark before it is changed, so nobody has to remember it. Each call may be repeated. It
//! does nothing for guests that HA does not manage. Read next: `plan/ha.rs`.

use std::time::{Duration, Instant};

use super::{GuestMove, MoveError, Mover};
use crate::cluster::Api;
use crate::plan::MoveRequest;
use crate::plan::ha::{HaWish, on_target};
use crate::plan::mark::Mark;
use crate::pve::guest::Power;
use crate::pve::ha::{HaRuleKind, HaSettings, HaSid};
use crate::report::Event;

/// What HA ignores.
const IGNORED: &str = "ignored";
/// How long the HA manager may take to forget a guest that it is to ignore: it looks every ten seconds.
const NOTICE: Duration = Duration::from_secs(120);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(500);

const SUSPEND: &str = "suspending HA";
const RESTORE: &str = "giving the source back to HA";
const RECREATE: &str = "giving the target to HA";

impl Mover {
    /// Sees to it that HA ignores the source, and waits until HA has taken notice.
    pub(super) async fn suspend_ha(
        &self,
        job: &GuestMove,
        request: &MoveRequest,
    ) -> Result<(), MoveError> {
        if request.ha == HaWish::Refuse {
            return Ok(());
        }
        let sid = HaSid::of(&job.plan.source);
        let failed = || job.api(SUSPEND);
        let Some(found) = self.source.ha_resource(sid).await.map_err(failed())? else {
            return Ok(());
        };
        if found.state == IGNORED {
            return Ok(());
        }
        // First what it was, lest a crash forgets it.
        self.change_mark(job, SUSPEND, |mark| Mark {
            ha: Some(mark.ha.clone().unwrap_or_else(|| found.clone())),
            ..mark.clone()
        })
        .await?;
        self.tell_step(
            job,
            format!(
                "HA on {} ignores {} from now on (it was {})",
                job.plan.source_cluster, job.plan.name, found.state
            ),
        );
        let set = self.source.set_ha_state(sid, IGNORED).await;
        set.map_err(failed())?;
        let began = Instant::now();
        // Until then a node may still be told to start it.
        while self.source.ha_acts_on(sid).await.map_err(failed())? {
            if began.elapsed() >= NOTICE {
                return Err(MoveError::HaDoesNotLetGo {
                    guest: job.plan.name.clone(),
                });
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = self.interrupt.asked() => return Err(job.interrupted(SUSPEND)),
            }
        }
        Ok(())
    }

    /// Gives the source back to HA as it was, where a move has taken it from it. It must be back under its name.
    ///
    /// HA starts what it is to keep running; so a source that shall stay stopped stays ignored, which is returned.
    pub(super) async fn restore_ha(
        &self,
        job: &GuestMove,
        start: bool,
    ) -> Result<Option<String>, MoveError> {
        if !job.is_from_ha() {
            return Ok(None);
        }
        let Some(before) = self.mark_now(job).await?.and_then(|mark| mark.ha) else {
            return Ok(None);
        };
        let sid = HaSid::of(&job.plan.source);
        let wants_it_running = matches!(before.state.as_str(), "started" | "enabled");
        if wants_it_running && job.mark.running && !start {
            return Ok(Some(format!(
                "HA on {} ignores it, since it is to stay stopped: ha-manager set {sid} --state {}",
                job.plan.source_cluster, before.state
            )));
        }
        self.tell_step(
            job,
            format!(
                "giving {} back to HA on {} ({})",
                job.plan.name, job.plan.source_cluster, before.state
            ),
        );
        self.take_target_from_ha(job).await?;
        let given = put(self.source.as_ref(), sid, &before).await;
        given.map_err(job.api(RESTORE))?;
        self.change_mark(job, RESTORE, |mark| Mark {
            ha: None,
            ..mark.clone()
        })
        .await?;
        Ok(None)
    }

    /// Takes a target that is to be given up from HA, which would start it again. A former self was ignored before.
    pub(super) async fn take_target_from_ha(&self, job: &GuestMove) -> Result<(), MoveError> {
        if !job.is_from_ha() {
            return Ok(());
        }
        let there = HaSid::of(&job.plan.target);
        let failed = || job.api(RESTORE);
        let found = self.target.ha_resource(there).await.map_err(failed())?;
        match found {
            None => Ok(()),
            Some(found) if found.state == IGNORED => Ok(()),
            Some(_) if job.mark.kept.is_some() => {
                let ignored = self.target.set_ha_state(there, IGNORED).await;
                ignored.map_err(failed())
            }
            Some(_) => self.target.remove_ha(there).await.map_err(failed()),
        }
    }

    /// Gives the target to HA with the wishes that the source had, and removes the source's resource, where that was asked
    /// for.
    pub(super) async fn recreate_ha(
        &self,
        job: &GuestMove,
        request: &MoveRequest,
    ) -> Result<(), MoveError> {
        if request.ha != HaWish::Recreate || !job.is_from_ha() {
            return Ok(());
        }
        let Some(before) = self.mark_now(job).await?.and_then(|mark| mark.ha) else {
            return Ok(());
        };
        let failed = || job.api(RECREATE);
        let place = &job.plan.target;
        let release = self.target.release().await.map_err(failed())?;
        let groups: Vec<String> = match before.group {
            None => Vec::new(),
            Some(_) => {
                let rules = self.target.ha_rules().await.map_err(failed())?;
                let groups = rules
                    .into_iter()
                    .filter(|rule| matches!(rule.kind, HaRuleKind::NodeAffinity { .. }));
                groups.map(|rule| rule.name).collect()
            }
        };
        let vitals = self.target.vitals(place).await.map_err(failed())?;
        let settings = on_target(&before, release, &groups, vitals.power == Power::Running);
        if before.group.is_some() && settings.group.is_none() {
            self.reporter.tell(&Event::Warning {
                guest: Some(job.plan.name.clone()),
                text: format!(
                    "its HA group {} is not carried: {} has none of that name",
                    before.group.as_deref().unwrap_or_default(),
                    job.plan.target_cluster
                ),
            });
        }
        self.tell_step(
            job,
            format!(
                "giving {} to HA on {} ({}), and removing it from HA on {}",
                job.plan.name, job.plan.target_cluster, settings.state, job.plan.source_cluster
            ),
        );
        let given = put(self.target.as_ref(), HaSid::of(place), &settings).await;
        given.map_err(failed())?;
        let sid = HaSid::of(&job.plan.source);
        self.source.remove_ha(sid).await.map_err(failed())
    }

    /// Returns what the operator has to do about HA when a move has ended well.
    pub(super) async fn ha_left(&self, job: &GuestMove, request: &MoveRequest) -> Option<String> {
        if request.ha != HaWish::Suspend && !job.is_from_ha() {
            return None;
        }
        let sid = HaSid::of(&job.plan.source);
        let found = self.source.ha_resource(sid).await.ok()??;
        (found.state == IGNORED).then(|| {
            format!(
                "HA on {} ignores {sid}: ha-manager remove {sid} when you do not need it there any more",
                job.plan.source_cluster
            )
        })
    }

    /// Reads the mark as it is now.
    pub(super) async fn mark_now(&self, job: &GuestMove) -> Result<Option<Mark>, MoveError> {
        let (_, target) = self.guests(job).await?;
        Ok(target.and_then(|target| Mark::parse(target.description())))
    }

    fn tell_step(&self, job: &GuestMove, text: String) {
        self.reporter.tell(&Event::StepStarted {
            guest: job.plan.name.clone(),
            step: "ha".to_owned(),
            text,
        });
    }
}

/// Gives a guest to HA with these settings, whether HA has it already or not.
async fn put(
    api: &dyn Api,
    sid: HaSid,
    settings: &HaSettings,
) -> Result<(), crate::cluster::ApiError> {
    match api.ha_resource(sid).await? {
        Some(found) if found.state == settings.state => Ok(()),
        Some(_) => api.set_ha_state(sid, &settings.state).await,
        None => api.create_ha(sid, settings).await,
    }
}
