//! Several guests with one command: survey, decide, show, and then one move after the other.
//!
//! One guest's failure does not stop the others; the exit code is the worst. Read next: `mod.rs`.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

use super::hosts::Hosts;
use super::survey::{self, Derive, Sections};
use super::{GuestMove, MoveError, Mover, Stopped, resume};
use crate::cluster::Api;
use crate::config::Config;
use crate::error::{ExitCode, Failure};
use crate::plan::aftermath::{SourceLeft, describe, source_left};
use crate::plan::decide::{Decision, decide, hosts_to_ask};
use crate::plan::facts::{Existing, ExistingMoves};
use crate::plan::mark::Mark;
use crate::plan::{DriveAction, GuestPlan, MoveRequest, Severity, back, show};
use crate::report::Event;
use crate::transfer::Pair;

/// What a batch needs beside the mover.
pub struct Batch<'a> {
    /// Moves one guest.
    pub mover: Mover,
    /// Connections to the storage hosts.
    pub hosts: Arc<Hosts>,
    /// proxmoverc.
    pub config: &'a Config,
    /// Derives storage sections that proxmoverc does not have.
    pub derive: &'a Derive<'a>,
    /// Who runs this, `user@machine`, for the marks.
    pub identity: String,
    /// The former selves that guests go back to.
    pub former: ExistingMoves,
}

impl Batch<'_> {
    /// Observes and decides; changes nothing.
    pub async fn decide(
        &self,
        request: &MoveRequest,
    ) -> Result<(Decision, ExistingMoves), Failure> {
        let failed = |what: &str, error: &(dyn std::error::Error + 'static)| {
            // Not "failed": whoever reads the code alone shall know that no placeholder is left anywhere.
            Failure::new(ExitCode::Refused, error)
                .context(format!("{what} failed"))
                .state("nothing was changed")
                .next("mend that and run the same command again; `proxmove check` looks at everything at once")
        };
        let sections = Sections {
            config: self.config,
            derive: self.derive,
        };
        let (source, target): (&dyn Api, &dyn Api) = (&*self.mover.source, &*self.mover.target);
        let target_facts = survey::target(target, request, sections)
            .await
            .map_err(|error| failed("looking at the target cluster", &error))?;
        let mut existing = resume::find(&request.guests, &target_facts.guests, target)
            .await
            .map_err(|error| failed("looking for interrupted moves", &error))?;
        for (name, former) in &self.former {
            existing
                .entry(name.clone())
                .or_insert_with(|| former.clone());
        }
        let source_facts = survey::source(source, request, sections, &existing)
            .await
            .map_err(|error| failed("looking at the source cluster", &error))?;
        let ask = hosts_to_ask(request, &source_facts, &target_facts, &existing);
        let addresses: BTreeSet<_> = ask.keys().map(|key| key.ssh.clone()).collect();
        let shells = self.hosts.connect(addresses).await;
        let hosts = survey::hosts(&ask, &shells).await;
        let mut decision = decide(request, &source_facts, &target_facts, &hosts, &existing);
        if !decision.refused() {
            self.look_back(request, &mut decision, &existing)
                .await
                .map_err(|error| failed("looking at the former volumes", error.as_ref()))?;
        }
        Ok((decision, existing))
    }

    /// Asks the hosts of former selves whether their volumes are as they were left, and tells the plans.
    async fn look_back(
        &self,
        request: &MoveRequest,
        decision: &mut Decision,
        existing: &ExistingMoves,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let now = jiff::Timestamp::now().as_second();
        for plan in &mut decision.plans {
            let Some(former) = existing.get(&plan.name).filter(|known| !known.begun()) else {
                continue;
            };
            let mut pairs = self.hosts.pairs(plan, request)?;
            adopt(&mut pairs, plan, former);
            for pair in pairs.iter().filter(|pair| pair.kept) {
                let kept = self.mover.engine.look_back(pair).await?;
                let judged = back::judge(plan, pair.drive, &kept, now);
                plan.verdicts.extend(judged.verdict);
                let drives = plan.drives.iter_mut();
                for drive in drives.filter(|drive| drive.key == pair.drive) {
                    if let DriveAction::Copy(volume) = &mut drive.action {
                        volume.changed = judged.changed;
                        volume.because = format!("{}; {}", judged.because, volume.because);
                    }
                }
            }
        }
        Ok(())
    }

    /// Prints the plan to `out` and changes nothing.
    pub async fn dry_run(
        &self,
        request: &MoveRequest,
        json: bool,
        out: &mut dyn Write,
    ) -> Result<ExitCode, Failure> {
        let (decision, _) = self.decide(request).await?;
        let text = if json {
            serde_json::to_string_pretty(&show::shown(request, &decision)).unwrap_or_default()
                + "\n"
        } else {
            show::text(request, &decision)
        };
        // A reader that closed the pipe has seen enough.
        let _ = out.write_all(text.as_bytes());
        Ok(if decision.refused() {
            ExitCode::Refused
        } else {
            ExitCode::Done
        })
    }

    /// Moves all guests of the request, and tells whatever goes wrong.
    pub async fn run(&self, request: &MoveRequest) -> ExitCode {
        match self.try_run(request).await {
            Ok(exit) => exit,
            Err(failure) => self.tell_failed(&request.guests.join(", "), failure),
        }
    }

    /// Refuses before anything is written when one of the guests must not be moved.
    async fn try_run(&self, request: &MoveRequest) -> Result<ExitCode, Failure> {
        if request.wait_before_stop && !self.mover.operator.is_there() {
            return Err(nobody_to_ask());
        }
        let (decision, existing) = self.decide(request).await?;
        if decision.refused() {
            return Err(refusal(&decision));
        }
        for problem in &self.config.warnings {
            let text = problem.to_string();
            self.mover
                .reporter
                .tell(&Event::Warning { guest: None, text });
        }
        for verdict in decision.all_verdicts() {
            self.mover.reporter.tell(&Event::Warning {
                guest: verdict.guest.clone(),
                text: format!("{} ({})", verdict.reason, verdict.remedy),
            });
        }
        let mut worst = Vec::new();
        for plan in decision.plans {
            if self.mover.interrupt.is_asked() {
                worst.push(ExitCode::Interrupted);
                break;
            }
            let began = existing.get(&plan.name);
            worst.push(self.guest(plan, began, request).await);
        }
        Ok(ExitCode::worst(worst))
    }

    async fn guest(
        &self,
        plan: GuestPlan,
        began: Option<&Existing>,
        request: &MoveRequest,
    ) -> ExitCode {
        let begun = began.filter(|began| began.begun());
        if let Some(began) = begun
            && !self.may_continue(&plan, &began.mark).await
        {
            return ExitCode::Interrupted;
        }
        let was_running = began.map_or(plan.running, |began| began.mark.running);
        let mark = begun.map_or_else(|| self.mark(&plan), |began| began.mark.clone());
        let mut pairs = match self.hosts.pairs(&plan, request) {
            Ok(pairs) => pairs,
            Err(error) => {
                let failure = Failure::new(ExitCode::Failed, &error);
                return self.tell_failed(&plan.name, failure);
            }
        };
        if let Some(began) = began {
            adopt(&mut pairs, &plan, began);
        }
        let job = GuestMove::new(plan, mark, pairs);
        match self.mover.run(&job, request).await {
            Ok(_) => ExitCode::Done,
            Err(stopped) => {
                self.tell_failed(&job.plan.name, failure(&stopped, &job.plan, was_running))
            }
        }
    }

    /// Asks whether to continue an interrupted move; without anybody to ask it is continued.
    async fn may_continue(&self, plan: &GuestPlan, mark: &Mark) -> bool {
        let question = format!(
            "{}: {} began to move it on {} and did not finish. Continue?",
            plan.name, mark.by, mark.since
        );
        let operator = Arc::clone(&self.mover.operator);
        // Asking blocks its thread. Without anybody to ask it is continued: the same command was typed again.
        let agreed = tokio::task::spawn_blocking(move || operator.confirm(&question))
            .await
            .unwrap_or(None)
            .unwrap_or(true);
        if !agreed {
            self.mover.reporter.tell(&Event::Notice {
                guest: Some(plan.name.clone()),
                text: "left as it is; nothing was changed".to_owned(),
            });
        }
        agreed
    }

    fn mark(&self, plan: &GuestPlan) -> Mark {
        let volumes = plan
            .drives
            .iter()
            .filter_map(|drive| match &drive.action {
                DriveAction::Copy(volume) => Some((drive.key, volume.target.clone())),
                DriveAction::Set { .. } | DriveAction::Leave => None,
            })
            .collect();
        Mark {
            source_cluster: plan.source_cluster.clone(),
            source: plan.source.clone(),
            name: plan.name.clone(),
            running: plan.running,
            onboot: plan.onboot,
            by: self.identity.clone(),
            since: jiff::Timestamp::now()
                .strftime("%Y-%m-%dT%H:%M:%SZ")
                .to_string(),
            volumes,
            kept: plan.back.as_ref().map(|back| back.kept.clone()),
        }
    }

    fn tell_failed(&self, guest: &str, failure: Failure) -> ExitCode {
        self.mover.reporter.tell(&Event::MoveFailed {
            guest: guest.to_owned(),
            error: failure.error,
            state: failure.state.unwrap_or_default(),
            next: failure.next.unwrap_or_default(),
            exit_code: failure.exit.code(),
        });
        failure.exit
    }
}

/// Takes those target volumes for ours that the mark of an interrupted move names, should our own files be lost; and those
/// of a former self.
fn adopt(pairs: &mut [Pair], plan: &GuestPlan, existing: &Existing) {
    let mark = &existing.mark;
    for pair in pairs {
        let planned = plan.drives.iter().find(|drive| drive.key == pair.drive);
        pair.adopt = match planned.map(|drive| &drive.action) {
            Some(DriveAction::Copy(volume)) => {
                mark.volumes.get(&pair.drive) == Some(&volume.target)
            }
            Some(DriveAction::Set { .. } | DriveAction::Leave) | None => false,
        };
        let kept = mark.kept.as_ref();
        pair.kept = pair.adopt && kept.is_some_and(|kept| kept.contains(&pair.drive));
    }
}

/// Turns a move that stopped into what the operator reads.
fn failure(stopped: &Stopped, plan: &GuestPlan, was_running: bool) -> Failure {
    let asked = matches!(
        stopped.error,
        MoveError::Interrupted { .. } | MoveError::Declined { .. }
    );
    let exit = match source_left(&stopped.rung, was_running) {
        SourceLeft::Down | SourceLeft::Unclear => ExitCode::SourceDown,
        SourceLeft::AsItWas | SourceLeft::TakenOver if asked => ExitCode::Interrupted,
        SourceLeft::AsItWas | SourceLeft::TakenOver => ExitCode::Failed,
    };
    let aftermath = describe(&stopped.rung, plan, was_running);
    let mut failure = Failure::new(exit, &stopped.error);
    failure.error[0] = format!(
        "{}: {} ({}/{} -> {}/{})",
        failure.error[0],
        plan.name,
        plan.source_cluster,
        plan.source.vmid,
        plan.target_cluster,
        plan.target.vmid
    );
    failure.state(aftermath.state).next(aftermath.next)
}

/// Said at once: after hours of copying the question would have no answer, and the move would end as if by a "no".
fn nobody_to_ask() -> Failure {
    Failure::message(
        ExitCode::Refused,
        "--wait-before-stop has nobody to ask: standard input and standard error must be a terminal",
    )
    .state("nothing was changed")
    .next("run it in a terminal (ssh -t, tmux), or give the answer now with --yes")
}

fn refusal(decision: &Decision) -> Failure {
    let refusals: Vec<_> = decision
        .all_verdicts()
        .filter(|verdict| verdict.severity == Severity::Refuse)
        .collect();
    let mut failure = Failure::message(
        ExitCode::Refused,
        format!(
            "refused for {} reason(s), nothing was changed",
            refusals.len()
        ),
    );
    for verdict in refusals {
        let guest = verdict.guest.as_ref();
        failure.error.push(format!(
            "{}{} [{}]\nremedy: {}",
            guest.map(|guest| format!("{guest}: ")).unwrap_or_default(),
            verdict.reason,
            verdict.code,
            verdict.remedy
        ));
    }
    failure
        .state("nothing was changed")
        .next("follow the remedies and run the same command again, with -n to see the whole plan")
}
