//! Performing the steps of the ladder, one function each.
//!
//! A step's calls may be repeated without harm and are the smallest that leave a rung that can be derived.
//! Read next: `precopy.rs`.

use std::collections::BTreeMap;
use std::time::Instant;

use super::claim::{ATTEMPTS, is_late};
use super::observe::missing_drives;
use super::precopy::QUIET;
use super::{Account, GuestMove, MoveError, Mover};
use crate::cluster::ConfigChange;
use crate::plan::back::judge;
use crate::plan::evacuate::note::{self, Away};
use crate::plan::mark::{
    CLONING, CREATING, MIGRATED, Mark, NameMark, with_moving_note, with_retired_note,
    without_retired_note,
};
use crate::plan::state::{Data, Rung, derive};
use crate::plan::step::Step;
use crate::plan::{Back, MoveRequest, Severity};
use crate::pve::guest::Power;
use crate::report::{Event, PassKind};
use crate::transfer::{EngineKind, Pass};

/// The keys that make a guest bootable; they name devices, so they follow the drives.
///
/// Not in the same call: Proxmox VE appends a new CD drive to the boot order the guest had before the call, and takes
/// the keys of a call in no particular order, so the order in the call may be lost. They are set with the target's name,
/// which nothing that runs can be without.
const WITH_DRIVES: [&str; 2] = ["boot", "bootdisk"];

impl Mover {
    /// Carries one step out.
    pub(super) async fn perform(
        &self,
        step: Step,
        job: &GuestMove,
        request: &MoveRequest,
        account: &mut Account,
    ) -> Result<(), MoveError> {
        let plan = &job.plan;
        let (name, source, target) = (&plan.name, &plan.source_cluster, &plan.target_cluster);
        let say = |text: String| {
            self.reporter.tell(&Event::StepStarted {
                guest: name.clone(),
                step: step.to_string(),
                text,
            });
        };
        match step {
            Step::AwaitTask => {
                say(format!(
                    "waiting for the task that is starting or stopping {name}"
                ));
                self.await_tasks(job, step).await
            }
            Step::Place => {
                say(match plan.back {
                    Some(_) => format!(
                        "making {name}{MIGRATED} on {} {name}{CREATING}",
                        job.target()
                    ),
                    None => format!("creating {name}{CREATING} on {}", job.target()),
                });
                self.place(job).await
            }
            Step::Precopy => self.precopy(job, request, account).await,
            Step::StopSource => {
                if self.await_replication(job).await? >= QUIET {
                    // So long a wait has made the delta large again; nothing was stopped yet.
                    account.settled = false;
                    return Ok(());
                }
                // What is new since would be left behind.
                self.same_source(job).await?;
                self.suspend_ha(job, request).await?;
                say(format!("shutting {name} down on {source}"));
                account.stopped_at = Some(Instant::now());
                self.interrupt.set_down(true);
                self.source
                    .shutdown(&plan.source, request.stop_timeout)
                    .await
                    .map_err(job.api(step))
            }
            Step::MarkSource => {
                // One that did not run is HA's as well.
                self.suspend_ha(job, request).await?;
                say(format!(
                    "renaming the source to {name}{CLONING}, onboot off"
                ));
                let (name, id) = (format!("{name}{CLONING}"), job.mark.id.as_deref());
                self.rename_source(job, step, NameMark::Plain, &name, |description| {
                    with_moving_note(description, &job.target(), id)
                })
                .await
            }
            Step::FinalDelta => {
                say(format!(
                    "copying what changed since and verifying {} volume(s)",
                    job.pairs.len()
                ));
                self.final_delta(job, request, account).await
            }
            Step::Attach => {
                let snapshots = match plan.snapshots.travelling.len() {
                    0 => String::new(),
                    some => format!(" and entering {some} snapshot(s) there"),
                };
                say(format!(
                    "attaching the drives to {name}{CREATING} on {target}{snapshots}"
                ));
                self.attach(job).await
            }
            Step::NameTarget => {
                say(format!("giving the target its name {name}"));
                let mut change = self.newer_configuration(job).await?;
                change.set.insert("name".to_owned(), name.clone());
                change.set.extend(boot(job));
                self.configure_target(job, step, change).await
            }
            Step::RetireSource => {
                say(format!("retiring the source as {name}{MIGRATED}"));
                self.retire(job).await
            }
            Step::StartTarget => {
                say(format!("starting {name} on {target}"));
                self.start(job, account).await
            }
            Step::Tidy => {
                say("removing the move's notes and temporary files".to_owned());
                self.tidy(job).await
            }
        }
    }

    async fn place(&self, job: &GuestMove) -> Result<(), MoveError> {
        let plan = &job.plan;
        // The guests before it in the batch may have taken hours.
        self.same_as_planned(job).await?;
        if let Some(back) = &plan.back {
            return self.place_back(job, back).await;
        }
        let mut config = plan.create.clone();
        config.insert("name".to_owned(), format!("{}{CREATING}", plan.name));
        config.insert("description".to_owned(), job.mark.render());
        config.insert("onboot".to_owned(), "0".to_owned());
        self.target
            .create(&plan.target, &config)
            .await
            .map_err(job.api(Step::Place))?;
        if let Some(pool) = &plan.pool {
            // Joining later would fail after hours of copying.
            self.target
                .join_pool(pool, plan.target.vmid)
                .await
                .map_err(job.api("joining the pool"))?;
        }
        self.give_way(job).await
    }

    /// Makes the guest's former self the placeholder: the mark, the present configuration, and no drives, in one call.
    async fn place_back(&self, job: &GuestMove, back: &Back) -> Result<(), MoveError> {
        let plan = &job.plan;
        // Between deciding and now somebody may have revived it.
        let former = self
            .target
            .guest(&plan.target)
            .await
            .map_err(job.api("observing the former self"))?;
        let retired = format!("{}{MIGRATED}", plan.name);
        let contradiction = |facts: String| MoveError::Contradiction {
            guest: plan.name.clone(),
            facts,
        };
        if former.name() != retired || former.power != Power::Stopped || former.lock.is_some() {
            return Err(contradiction(format!(
                "{} on {} is not the stopped, unlocked {retired} any more; somebody uses it",
                plan.target.vmid, plan.target_cluster
            )));
        }
        for pair in job.pairs.iter().filter(|pair| pair.kept) {
            let kept = self.engine.look_back(pair).await;
            let kept =
                kept.map_err(|source| job.transfer("looking at the former volumes", source))?;
            let now = jiff::Timestamp::now().as_second();
            let judged = judge(plan, pair.drive, &kept, now).verdict;
            if let Some(verdict) = judged.filter(|verdict| verdict.severity == Severity::Refuse) {
                return Err(contradiction(verdict.reason));
            }
            // What a way back that was given up has left on the host is from before: somebody may have used the volume since.
            // ZFS tells that by itself.
            if pair.engine == EngineKind::Image {
                let doubted = self.engine.take_back(pair).await;
                doubted.map_err(|source| job.transfer(Step::Place, source))?;
            }
        }
        if back.protected {
            let unprotect = change([("protection", "0".to_owned())]);
            self.configure_target(job, Step::Place, unprotect).await?;
        }
        let mut set = plan.create.clone();
        set.insert("name".to_owned(), format!("{}{CREATING}", plan.name));
        set.insert("description".to_owned(), job.mark.over(&back.notes));
        set.insert("onboot".to_owned(), "0".to_owned());
        let mut delete = back.delete.clone();
        // That of an evacuation goes with the end of the restore, which would not find the guest without it.
        if let Some(tag) = note::tag_in(former.config.value("tags").unwrap_or_default()) {
            let tags = set.get("tags").map_or("", String::as_str);
            set.insert("tags".to_owned(), note::with_tag(tags, tag));
            delete.retain(|key| key != "tags");
        }
        let change = ConfigChange {
            set,
            delete,
            digest: None,
        };
        self.configure_target(job, Step::Place, change).await?;
        if let Some(pool) = &plan.pool {
            self.target
                .join_pool(pool, plan.target.vmid)
                .await
                .map_err(job.api("joining the pool"))?;
        }
        Ok(())
    }

    async fn final_delta(
        &self,
        job: &GuestMove,
        request: &MoveRequest,
        account: &mut Account,
    ) -> Result<(), MoveError> {
        // A resumed move starts its clock here: the guest was down already.
        account.stopped_at.get_or_insert_with(Instant::now);
        let pass = Pass::Final(request.verify);
        let reports = self
            .pass(job, pass, PassKind::Final, 1, request, Step::FinalDelta)
            .await?;
        account.digests.clear();
        for (drive, report) in &reports {
            account.add(report);
            account.final_carried += report.progress.carried.0;
            if let Some(digest) = &report.digest {
                account.digests.push((drive.to_string(), digest.clone()));
            }
        }
        Ok(())
    }

    async fn attach(&self, job: &GuestMove) -> Result<(), MoveError> {
        let plan = &job.plan;
        let target = self
            .target
            .guest(&plan.target)
            .await
            .map_err(job.api("observing the target"))?;
        let set: BTreeMap<String, String> = missing_drives(plan, &target).into_iter().collect();
        if !set.is_empty() {
            let change = ConfigChange {
                set,
                ..ConfigChange::default()
            };
            self.configure_target(job, Step::Attach, change).await?;
        }
        self.enter_snapshots(job).await
    }

    async fn retire(&self, job: &GuestMove) -> Result<(), MoveError> {
        let plan = &job.plan;
        let since = jiff::Timestamp::now()
            .strftime("%Y-%m-%d %H:%M:%S UTC")
            .to_string();
        let (name, id) = (format!("{}{MIGRATED}", plan.name), job.mark.id.as_deref());
        self.rename_source(
            job,
            Step::RetireSource,
            NameMark::Cloning,
            &name,
            |description| with_retired_note(description, &job.target(), &since, id),
        )
        .await
    }

    async fn start(&self, job: &GuestMove, account: &mut Account) -> Result<(), MoveError> {
        // Between deciding and starting somebody may have revived the source: look once more (tests/crash_model.rs).
        let facts = self.observe(job).await?;
        if derive(&facts) != Rung::SwitchedOver {
            return Ok(());
        }
        let equal = facts.data.iter().all(|data| *data == Data::Equal);
        account.started_equal.get_or_insert(equal);
        self.target
            .start(&job.plan.target)
            .await
            .map_err(job.api(Step::StartTarget))?;
        account.downtime = account.stopped_at.map(|since| since.elapsed());
        Ok(())
    }

    async fn tidy(&self, job: &GuestMove) -> Result<(), MoveError> {
        let plan = &job.plan;
        // Whatever somebody else has finished or given up is not tidied a second time: its files may be those of a newer move.
        self.guests_of_ours(job).await?;
        let finishing = |mark: &Mark| Mark {
            finishing: true,
            ..mark.clone()
        };
        self.change_mark(job, &Step::Tidy.to_string(), finishing)
            .await?;
        for pair in &job.pairs {
            self.engine
                .tidy(pair)
                .await
                .map_err(|source| job.transfer(Step::Tidy, source))?;
        }
        let mut set: BTreeMap<String, String> = plan
            .finish
            .iter()
            .filter(|(key, _)| !WITH_DRIVES.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        set.insert("onboot".to_owned(), u8::from(job.mark.onboot).to_string());
        let mut delete = Vec::new();
        // Bound to what was read while the move is still ours: whoever takes it over now keeps its mark.
        let (source, target) = self.guests_of_ours(job).await?;
        let present = target.as_ref().map_or("", |target| target.description());
        // Notes that were written while the move was under way go with it.
        let newest = source.map_or_else(
            || plan.description.clone(),
            |source| Away::remove(source.description()),
        );
        let description = Away::carry(&without_retired_note(&newest), present);
        if description.is_empty() {
            delete.push("description".to_owned());
        } else {
            set.insert("description".to_owned(), description);
        }
        let digest = target.and_then(|target| target.config.value("digest").map(str::to_owned));
        let change = ConfigChange {
            set,
            delete,
            digest,
        };
        job.hold.set_ended(true);
        match self.target.configure(&plan.target, &change).await {
            // The next look tells what was changed meanwhile; this step is taken again if it is still to be taken.
            Err(error) if is_late(&error) => {
                job.hold.set_ended(false);
                Ok(())
            }
            other => other.map_err(job.api(Step::Tidy)),
        }
    }

    /// Renames the source, with onboot=0 and a note in the same call, if it still has the name it was seen with.
    ///
    /// The change is bound to the digest of what was read: of two moves of one guest only one can do this. When somebody
    /// else came first nothing is done, and the next look tells.
    async fn rename_source(
        &self,
        job: &GuestMove,
        step: Step,
        from: NameMark,
        name: &str,
        note: impl Fn(&str) -> String,
    ) -> Result<(), MoveError> {
        let place = &job.plan.source;
        let mut attempt = 1;
        loop {
            let source = self.source.guest(place).await.map_err(job.api(step))?;
            if NameMark::split(source.name()).1 != from {
                return Ok(());
            }
            let mut change = change([("name", name.to_owned()), ("onboot", "0".to_owned())]);
            let description = note(source.description());
            if description != source.description() {
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

    pub(super) async fn configure_target(
        &self,
        job: &GuestMove,
        step: impl ToString + Send,
        change: ConfigChange,
    ) -> Result<(), MoveError> {
        self.target
            .configure(&job.plan.target, &change)
            .await
            .map_err(job.api(step))
    }
}

/// Returns the boot order, and what else can only be set when the drives are there.
fn boot(job: &GuestMove) -> impl Iterator<Item = (String, String)> {
    WITH_DRIVES.into_iter().filter_map(|key| {
        let value = job.plan.finish.get(key)?;
        Some((key.to_owned(), value.clone()))
    })
}

pub(super) fn change<const N: usize>(set: [(&str, String); N]) -> ConfigChange {
    ConfigChange {
        set: set
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
        ..ConfigChange::default()
    }
}
