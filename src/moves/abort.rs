//! Walking one guest's move back: look, take the next step back, look again.
//!
//! It never starts a source without having looked at the target right before, and removes nothing that does not carry our
//! mark. A cluster that cannot be reached is waited for as long as the operator allows; steps that got on begin that time
//! anew. Read next: `plan/abort.rs`, which decides.

use std::time::{Duration, Instant};

use super::claim::{ATTEMPTS, is_late};
use super::observe::Volumes;
use super::perform::change;
use super::shelve::former_self;
use super::{GuestMove, MoveError, Mover, Stopped};
use crate::cluster::ApiError;
use crate::plan::abort::{Back, Before, Placeholder, StepBack, back};
use crate::plan::aftermath::source_left;
use crate::plan::mark::{CLONING, CREATING, MIGRATED, NameMark, without_retired_note};
use crate::plan::state::{Data, Facts, Rung, derive};
use crate::pve::drive::DriveKey;
use crate::pve::guest::Power;
use crate::pve::id::Volid;
use crate::report::Event;
use crate::transfer::TransferError;

/// Between two looks at a cluster that cannot be reached.
const PAUSE: Duration = Duration::from_secs(5);

/// How to walk back.
#[derive(Clone, Copy, Debug)]
pub struct Return {
    /// Whether a source that ran before is to be started.
    pub start: bool,
    /// How long a cluster that cannot be reached is waited for.
    pub patience: Duration,
    /// Whether what is only on the target is given up (`--discard-target`).
    pub give_up: bool,
}

/// What one walk back has done so far.
pub(super) struct Walk {
    before: Before,
    /// Whether the hosts were prepared for a look at the volumes, or cannot be.
    prepared: bool,
    /// Volumes that are not ours, and stay.
    left: Vec<String>,
}

impl Walk {
    /// Returns a walk that has done nothing yet.
    pub(super) fn new(job: &GuestMove, start: bool) -> Walk {
        Walk {
            before: Before {
                start: job.mark.running && start,
                discarded: false,
                placeholder: Placeholder::of(&job.mark),
            },
            prepared: job.pairs.is_empty(),
            left: Vec::new(),
        }
    }
}

impl Mover {
    /// Brings the source of one move back as it was.
    pub async fn abort(&self, job: &GuestMove, wanted: Return) -> Result<(), Stopped> {
        let result = match self.claim(job).await {
            Ok(()) => {
                let signs = self.give_signs(job);
                let result = self.walk_claimed(job, wanted).await;
                drop(signs);
                result
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(left) => {
                self.reporter.tell(&Event::MoveAborted {
                    guest: job.plan.name.clone(),
                    source: job.source(),
                    target: job.target(),
                    left,
                });
                Ok(())
            }
            Err(error) => Err(self.stopped(job, error, Rung::Untouched).await),
        }
    }

    /// Gives up what is on the target first, where that was asked for, now or before the boot that failed.
    async fn walk_claimed(
        &self,
        job: &GuestMove,
        wanted: Return,
    ) -> Result<Vec<String>, MoveError> {
        if wanted.give_up {
            self.begin_return(job).await?;
        }
        if job.is_returning() {
            self.return_within(job, wanted.start, wanted.patience)
                .await?;
        }
        self.walk(job, wanted).await
    }

    async fn walk(&self, job: &GuestMove, wanted: Return) -> Result<Vec<String>, MoveError> {
        let mut walk = Walk::new(job, wanted.start);
        let mut got_on = Instant::now();
        loop {
            match self.step_back(job, &mut walk).await {
                Ok(true) => got_on = Instant::now(),
                Ok(false) => break,
                Err(error) => self.wait_or(error, job, got_on, wanted.patience).await?,
            }
        }
        walk.left.extend(former_self(job));
        Ok(walk.left)
    }

    /// Waits a moment before what may pass is tried again.
    pub(super) async fn wait_or(
        &self,
        error: MoveError,
        job: &GuestMove,
        got_on: Instant,
        patience: Duration,
    ) -> Result<(), MoveError> {
        if !may_pass(&error) || got_on.elapsed() >= patience {
            return Err(error);
        }
        self.reporter.tell(&Event::Notice {
            guest: Some(job.plan.name.clone()),
            text: format!(
                "{}; trying again",
                crate::transfer::probe::with_causes(&error)
            ),
        });
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => Ok(()),
            () = self.interrupt.asked() => Err(error),
        }
    }

    /// Looks, and takes one step back; `false` when there is none left.
    async fn step_back(&self, job: &GuestMove, walk: &mut Walk) -> Result<bool, MoveError> {
        let facts = self.look_back(job, walk).await?;
        let next = back(&facts, walk.before);
        if matches!(next, Back::Step(StepBack::Discard | StepBack::Shelve)) {
            // The source is back under its name, and the mark, which says what HA had, still there.
            let left = self.restore_ha(job, walk.before.start).await?;
            walk.left.extend(left);
        }
        let step = match next {
            Back::Step(step) => step,
            Back::Done => return Ok(false),
            Back::Refuse { reason, remedy } => return Err(job.no_way_back(reason, remedy)),
        };
        if let Some(error) = self.begin_step(job, step.to_string(), self.words(job, step)) {
            return Err(error);
        }
        self.undo(job, walk, step).await?;
        Ok(true)
    }

    /// Says what is done next; returns why not, when the operator wants it to end here.
    pub(super) fn begin_step(
        &self,
        job: &GuestMove,
        step: String,
        text: String,
    ) -> Option<MoveError> {
        let guest = job.plan.name.clone();
        if self.interrupt.is_asked() {
            return Some(job.interrupted(step));
        }
        self.reporter
            .tell(&Event::StepStarted { guest, step, text });
        None
    }

    /// Looks at everything, and takes note of whether the guest is down.
    pub(super) async fn look_back(
        &self,
        job: &GuestMove,
        walk: &mut Walk,
    ) -> Result<Facts, MoveError> {
        let facts = self.look_at_all(job, walk).await?;
        let left = source_left(&derive(&facts), job.mark.running);
        self.interrupt.set_down(left.may_be_down());
        Ok(facts)
    }

    /// Looks at everything. Volumes whose hosts do not answer count as not judged: the service can be brought back
    /// without them, and nothing is removed that was not looked at.
    async fn look_at_all(&self, job: &GuestMove, walk: &mut Walk) -> Result<Facts, MoveError> {
        let (_, target) = self.still_ours(job).await?;
        if target.is_some() && !std::mem::replace(&mut walk.prepared, true) {
            // Prepared hosts see more; those that cannot be prepared say so when they are looked at.
            if let Err(error) = self.engine.prepare(&job.pairs).await {
                log::debug!("{}: {error}", job.plan.name);
            }
        }
        match self.look(job, Volumes::Always).await {
            Err(MoveError::Transfer { source, .. }) if !walk.before.discarded => {
                log::debug!("{}: the volumes are not judged: {source}", job.plan.name);
                // Nothing decides on them but whether they may be thrown away.
                let facts = self.look_without_volumes(job).await?;
                Ok(Facts {
                    data: vec![Data::Unjudged; job.pairs.len()],
                    ..facts
                })
            }
            other => other,
        }
    }

    pub(super) async fn look_without_volumes(&self, job: &GuestMove) -> Result<Facts, MoveError> {
        let alone = job.without_volumes();
        self.look(&alone, Volumes::Always).await
    }

    pub(super) fn words(&self, job: &GuestMove, step: StepBack) -> String {
        let plan = &job.plan;
        let (name, source, target) = (&plan.name, &plan.source_cluster, &plan.target_cluster);
        match step {
            StepBack::AwaitTask => {
                format!("waiting for the task that is starting or stopping {name}")
            }
            StepBack::UnretireSource => {
                format!("taking the source {name} on {source} back from its retirement")
            }
            StepBack::UnnameTarget => {
                format!("renaming the target to {name}{CREATING} on {target}")
            }
            StepBack::RestoreSource => {
                format!("giving the source on {source} its name {name}, onboot and notes back")
            }
            StepBack::StartSource => format!("starting {name} on {source}"),
            StepBack::Discard => format!("removing what was copied to {target}"),
            StepBack::Remove => format!("removing {name}{CREATING} from {target}"),
            StepBack::Shelve => {
                format!("retiring the former self on {target} again, as {name}{MIGRATED}")
            }
        }
    }

    pub(super) async fn undo(
        &self,
        job: &GuestMove,
        walk: &mut Walk,
        step: StepBack,
    ) -> Result<(), MoveError> {
        let name = &job.plan.name;
        // Whoever took the move over a moment ago may be about to start the target (tests/crash_model.rs).
        self.still_ours(job).await?;
        match step {
            StepBack::AwaitTask => self.await_tasks(job, step).await,
            StepBack::UnretireSource => {
                let name = format!("{name}{CLONING}");
                self.give_back(job, step, NameMark::Migrated, &name, None)
                    .await
            }
            StepBack::UnnameTarget => {
                let change = change([("name", format!("{name}{CREATING}"))]);
                self.configure_target(job, step, change).await
            }
            StepBack::RestoreSource => {
                let onboot = Some((job.mark.onboot, job.mark.onboot_set));
                self.give_back(job, step, NameMark::Cloning, name, onboot)
                    .await
            }
            StepBack::StartSource => self.start_source(job).await,
            StepBack::Discard => self.discard(job, walk).await,
            StepBack::Remove => self
                .target
                .delete(&job.plan.target)
                .await
                .map_err(job.api(step)),
            StepBack::Shelve => self.shelve(job).await,
        }
    }

    /// Gives the source a former name, without the note of the move, in one call; also its onboot where that is given.
    async fn give_back(
        &self,
        job: &GuestMove,
        step: StepBack,
        from: NameMark,
        name: &str,
        onboot: Option<(bool, bool)>,
    ) -> Result<(), MoveError> {
        let place = &job.plan.source;
        let mut attempt = 1;
        loop {
            let source = self.source.guest(place).await.map_err(job.api(step))?;
            if NameMark::split(source.name()).1 != from {
                return Ok(());
            }
            let mut change = change([("name", name.to_owned())]);
            match onboot {
                Some((on, true)) => {
                    let value = u8::from(on).to_string();
                    change.set.insert("onboot".to_owned(), value);
                }
                Some((_, false)) => change.delete.push("onboot".to_owned()),
                None => {}
            }
            let noted = source.description();
            let description = without_retired_note(noted);
            if description.is_empty() && !noted.is_empty() {
                change.delete.push("description".to_owned());
            } else if description != noted {
                change.set.insert("description".to_owned(), description);
            }
            change.digest = source.config.value("digest").map(str::to_owned);
            match self.source.configure(place, &change).await {
                Ok(()) => return Ok(()),
                Err(error) if is_late(&error) && attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(job.api(step)(error)),
            }
        }
    }

    /// Starts the source, if the target still does not run and the move is still ours.
    async fn start_source(&self, job: &GuestMove) -> Result<(), MoveError> {
        let (source, target) = self.still_ours(job).await?;
        let target_rests = target.is_some_and(|target| target.power == Power::Stopped);
        let named = source.is_some_and(|source| source.name() == job.plan.name);
        if !(target_rests && named) {
            // The next look says what else it is.
            return Ok(());
        }
        self.source
            .start(&job.plan.source)
            .await
            .map_err(job.api(StepBack::StartSource))?;
        self.interrupt.set_down(false);
        Ok(())
    }

    /// Removes what was copied. A volume that cannot be reached keeps the placeholder, which is what names it.
    async fn discard(&self, job: &GuestMove, walk: &mut Walk) -> Result<(), MoveError> {
        let place = &job.plan.target;
        for (drive, volid) in &job.mark.volumes {
            if job.pairs.iter().any(|pair| pair.drive == *drive) {
                continue;
            }
            // Whether there is anything that must be removed first.
            match self.target.volume(&place.node, volid).await {
                Ok(_) => return Err(self.without_pair(job, *drive, volid).await?),
                Err(ApiError::Unreachable { .. }) => {
                    let source = ApiError::Unreachable {
                        cluster: self.target.alias().clone(),
                        address: place.node.to_string(),
                        reason: format!("{volid} could not be looked for"),
                        maybe_done: false,
                    };
                    return Err(job.api(StepBack::Discard)(source));
                }
                Err(error) => log::debug!("{volid} is not there: {error}"),
            }
        }
        self.engine
            .prepare(&job.pairs)
            .await
            .map_err(|source| job.transfer(StepBack::Discard, source))?;
        let mut foreign = false;
        for pair in &job.pairs {
            // Whoever takes the move over now may be about to rely on this copy (tests/crash_model.rs).
            self.still_ours(job).await?;
            match self.engine.discard(pair).await {
                Ok(()) => {}
                Err(TransferError::Foreign { address, path }) => {
                    foreign = true;
                    walk.left
                        .push(format!("{path} on {address}: not known to be ours"));
                }
                Err(source) => return Err(job.transfer(StepBack::Discard, source)),
            }
        }
        // What else is left, such as HA that ignores the source, is no volume.
        if foreign {
            self.nothing_foreign_is_attached(job).await?;
        }
        walk.before.discarded = true;
        Ok(())
    }

    /// Returns why a copy cannot be removed whose drive is not known any more, or whose storage host is not.
    async fn without_pair(
        &self,
        job: &GuestMove,
        drive: DriveKey,
        volid: &Volid,
    ) -> Result<MoveError, MoveError> {
        let source = self.source.guest(&job.plan.source).await;
        let source = source.map_err(job.api(StepBack::Discard))?;
        let is_there = source.config.has_volume(drive);
        let node = &job.plan.target.node;
        let (reason, remedy) = match is_there {
            true => (
                format!("the storage host of {drive} ({volid}) does not answer, or is not known"),
                "when it answers (`proxmove check`), run the same command again".to_owned(),
            ),
            false => (
                format!(
                    "the guest has no {drive} any more, and without it nobody knows the host of its copy {volid}"
                ),
                format!(
                    "remove that copy by hand (on {node}: pvesm free {volid}), and run the same command again"
                ),
            ),
        };
        Ok(MoveError::NotRemoved {
            guest: job.plan.name.clone(),
            reason,
            remedy,
            passes: is_there,
        })
    }

    /// Refuses to remove a placeholder that has drives with volumes which are not ours: they would go with it.
    async fn nothing_foreign_is_attached(&self, job: &GuestMove) -> Result<(), MoveError> {
        let (_, target) = self.guests(job).await?;
        let drives = target
            .map(|target| target.config.drives().0)
            .unwrap_or_default();
        let attached: Vec<String> = drives
            .iter()
            .filter(|drive| drive.volume().is_some())
            .map(|drive| drive.key.to_string())
            .collect();
        if attached.is_empty() {
            return Ok(());
        }
        Err(MoveError::NotRemoved {
            guest: job.plan.name.clone(),
            reason: format!(
                "{} of the placeholder hold volumes that are not known to be ours, and would be removed with it",
                attached.join(", ")
            ),
            passes: false,
            remedy: format!(
                "the source is as it was; look at guest {} on {}, and delete it there if it is of no use",
                job.plan.target.vmid, job.plan.target_cluster
            ),
        })
    }
}

impl GuestMove {
    pub(super) fn no_way_back(&self, reason: String, remedy: String) -> MoveError {
        MoveError::NoWayBack {
            guest: self.plan.name.clone(),
            reason,
            remedy,
        }
    }
}

/// Says whether an error is one that may pass by waiting: something could not be reached.
pub(super) fn may_pass(error: &MoveError) -> bool {
    match error {
        MoveError::Api { source, .. } => match source {
            ApiError::Unreachable { .. } | ApiError::Stalled { .. } => true,
            // What a node's proxy says of a node it cannot reach.
            ApiError::Refused { status, .. } => (595..=599).contains(status),
            _ => false,
        },
        MoveError::Transfer { source, .. } => matches!(source, TransferError::Host { .. }),
        _ => false,
    }
}
