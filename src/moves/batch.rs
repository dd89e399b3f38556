//! Several guests with one command: survey, decide, show, and then one move after the other.
//!
//! One guest's failure does not stop the others, unless that was asked for; the exit code is the worst, and at the end it
//! is said how each was left. Read next: `mod.rs`; `again.rs`, which resumes and aborts by the marks alone.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::failure::failure;
use super::hosts::Hosts;
use super::survey::{self, Derive, Sections};
use super::{GuestMove, MoveError, Mover, claim, resume};
use crate::cluster::Api;
use crate::config::{Config, SshAddress};
use crate::error::{ExitCode, Failure};
use crate::plan::claim::Claim;
use crate::plan::decide::{Decision, decide, hosts_to_ask, storages_in_use};
use crate::plan::facts::{Existing, ExistingMoves, TargetFacts};
use crate::plan::mark::Mark;
use crate::plan::order::Order;
use crate::plan::{DriveAction, GuestPlan, MoveRequest, Severity, back, show};
use crate::pve::drive::DriveKey;
use crate::pve::id::{NodeName, Volid};
use crate::report::{Event, GuestEnd};
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
    /// The former selves that guests go back to.
    pub former: ExistingMoves,
    /// `--fail-fast`: after the first guest that does not end well, the others are not begun.
    pub fail_fast: bool,
    /// `--wait-for-locks`: how long guests are waited for that something else has locked.
    pub wait_for_locks: Duration,
}

/// What was decided, and what it takes to carry it out.
pub struct Decided {
    /// The plans.
    pub decision: Decision,
    /// The moves that began earlier.
    pub existing: ExistingMoves,
    /// Who may write the configuration files of a node's guests.
    pub node_files: BTreeMap<NodeName, Result<SshAddress, String>>,
}

/// How often a guest is planned that others change all the time.
const ATTEMPTS: u32 = 4;

/// Between two looks at a guest that is locked.
const LOCK_PAUSE: Duration = Duration::from_secs(5);

impl Batch<'_> {
    /// Observes and decides; changes nothing.
    pub async fn decide(&self, request: &MoveRequest) -> Result<Decided, Failure> {
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
        let mut target_facts = survey::target(target, request, sections)
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
        let travel = source_facts
            .wanted
            .values()
            .any(|guest| !guest.sections.is_empty());
        if request.with_snapshots && travel {
            self.find_node_files(request, &mut target_facts, &existing)
                .await;
        }
        let mut decision = decide(request, &source_facts, &target_facts, &hosts, &existing);
        if !decision.refused() {
            self.look_back(request, &mut decision, &existing)
                .await
                .map_err(|error| failed("looking at the former volumes", error.as_ref()))?;
        }
        Ok(Decided {
            decision,
            existing,
            node_files: target_facts.node_files,
        })
    }

    /// Finds out who may write the configuration files on the nodes where the guests go.
    async fn find_node_files(
        &self,
        request: &MoveRequest,
        target: &mut TargetFacts,
        existing: &ExistingMoves,
    ) {
        let storages = storages_in_use(request, existing);
        let begun = existing.values().map(|began| &began.target.node);
        let nodes: BTreeSet<_> = std::iter::once(&request.node)
            .chain(begun)
            .cloned()
            .collect();
        for node in nodes {
            let logins = survey::logins_of(&node, target, &storages);
            let shells = self.hosts.connect(logins.iter().cloned().collect()).await;
            let login = survey::node_file_login(&node, &logins, &shells).await;
            target.node_files.insert(node, login);
        }
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
        let decision = self.decide(request).await?.decision;
        let text = if json {
            serde_json::to_string_pretty(&show::shown(request, &decision)).unwrap_or_default()
                + "\n"
        } else {
            show::text(request, &decision)
        };
        Failure::unless_written(out.write_all(text.as_bytes()))
            .map_err(|failure| failure.state("nothing was changed"))?;
        Ok(if decision.refused() {
            ExitCode::Refused
        } else {
            ExitCode::Done
        })
    }

    /// Moves all guests of the request, and tells whatever goes wrong.
    pub async fn run(&self, request: &MoveRequest) -> ExitCode {
        match self.try_run(request).await {
            Ok(ends) => self.tell_ends(ends),
            // Refused as a whole: there is one answer, and nothing to sum up.
            Err(failure) => {
                let guests = request.guests.join(", ");
                self.tell_failed(&guests, failure).exit
            }
        }
    }

    /// Moves all guests of the request, and returns how each ended.
    pub async fn ends(&self, request: &MoveRequest) -> Vec<End> {
        match self.try_run(request).await {
            Ok(ends) => ends,
            Err(failure) => {
                let all = self.tell_failed(&request.guests.join(", "), failure);
                let one = |guest: &String| End {
                    guest: guest.clone(),
                    ..all.clone()
                };
                request.guests.iter().map(one).collect()
            }
        }
    }

    /// Tells how several guests ended, and returns the worst.
    pub(super) fn tell_ends(&self, ends: Vec<End>) -> ExitCode {
        let worst = ExitCode::worst(ends.iter().map(|end| end.exit));
        if ends.len() > 1 {
            let end = |end: End| GuestEnd {
                guest: end.guest,
                exit_code: end.exit.code(),
                state: end.state,
                next: end.next,
            };
            self.mover.reporter.tell(&Event::BatchDone {
                guests: ends.into_iter().map(end).collect(),
                exit_code: worst.code(),
            });
        }
        worst
    }

    /// Says whether the next guest is not to be begun, and if so how it ends by that.
    pub(super) fn not_begun(&self, guest: &str, ends: &[End]) -> Option<End> {
        let failed = ends.iter().find(|end| end.exit != ExitCode::Done);
        let why = if self.mover.interrupt.is_asked() {
            "you interrupted".to_owned()
        } else if self.fail_fast {
            format!("{} did not end well (--fail-fast)", failed?.guest)
        } else {
            return None;
        };
        Some(End {
            guest: guest.to_owned(),
            exit: ExitCode::Interrupted,
            state: format!("not begun, because {why}"),
            next: "run the same command again".to_owned(),
        })
    }

    /// Refuses before anything is written when one of the guests must not be moved.
    async fn try_run(&self, request: &MoveRequest) -> Result<Vec<End>, Failure> {
        if request.wait_before_stop && !self.mover.operator.is_there() {
            return Err(nobody_to_ask());
        }
        let Decided {
            decision,
            existing,
            node_files,
        } = self.decide_when_unlocked(request).await?;
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
        let mut ends: Vec<End> = Vec::new();
        for plan in decision.plans {
            if let Some(end) = self.not_begun(&plan.name, &ends) {
                ends.push(end);
                continue;
            }
            let began = existing.get(&plan.name);
            let login = node_files.get(&plan.target.node);
            let login = login.and_then(|login| login.as_ref().ok());
            ends.push(self.guest(plan, began, login, request).await);
        }
        Ok(ends)
    }

    /// Decides, and again as long as nothing but locks is in the way and the operator wants to wait for those.
    async fn decide_when_unlocked(&self, request: &MoveRequest) -> Result<Decided, Failure> {
        let began = Instant::now();
        let mut told = false;
        loop {
            let decided = self.decide(request).await?;
            let locked: Vec<String> = locked(&decided.decision);
            let over = began.elapsed() >= self.wait_for_locks || self.mover.interrupt.is_asked();
            if locked.is_empty() || over {
                return Ok(decided);
            }
            if !std::mem::replace(&mut told, true) {
                let text = format!(
                    "waiting for up to {}: {}",
                    humantime::format_duration(self.wait_for_locks),
                    locked.join(", ")
                );
                self.mover
                    .reporter
                    .tell(&Event::Notice { guest: None, text });
            }
            tokio::select! {
                () = tokio::time::sleep(LOCK_PAUSE) => {}
                () = self.mover.interrupt.asked() => {}
            }
        }
    }

    async fn guest(
        &self,
        plan: GuestPlan,
        began: Option<&Existing>,
        login: Option<&SshAddress>,
        request: &MoveRequest,
    ) -> End {
        if let Some(began) = began.filter(|began| began.begun())
            && !self.may_continue(&plan, &began.mark).await
        {
            return End {
                guest: plan.name.clone(),
                exit: ExitCode::Interrupted,
                state: "left as it is; nothing was changed".to_owned(),
                next: "run the same command again".to_owned(),
            };
        }
        let mut job = match self.job(plan, began, login, request).await {
            Ok(job) => job,
            Err(end) => return end,
        };
        for attempt in 1.. {
            let stopped = match self.mover.run(&job, request).await {
                Ok(_) => break,
                Err(stopped) => stopped,
            };
            let changed = matches!(stopped.error, MoveError::SourceChanged { .. });
            if !changed || attempt == ATTEMPTS || self.mover.interrupt.is_asked() {
                let failure = failure(&stopped, &job.plan, job.mark.running);
                return self.tell_failed(&job.plan.name, failure);
            }
            job = match self.plan_anew(&job, &stopped, request).await {
                Ok(job) => job,
                Err(end) => return end,
            };
        }
        End::good(&job.plan.name, "moved")
    }

    /// Puts together what is moved: the plan, the mark, and the volumes on their hosts.
    pub(super) async fn job(
        &self,
        plan: GuestPlan,
        began: Option<&Existing>,
        login: Option<&SshAddress>,
        request: &MoveRequest,
    ) -> Result<GuestMove, End> {
        let mut mark = match began.filter(|began| began.begun()) {
            Some(began) => began.mark.clone(),
            None => self.mark(&plan, request).await,
        };
        // The guest may have got drives since.
        for (drive, volume) in copies(&plan) {
            mark.volumes.entry(drive).or_insert(volume);
        }
        let mut pairs = match self.hosts.pairs(&plan, request) {
            Ok(pairs) => pairs,
            Err(error) => {
                let failure = Failure::new(ExitCode::Failed, &error);
                return Err(self.tell_failed(&plan.name, failure));
            }
        };
        if let Some(began) = began {
            adopt(&mut pairs, &plan, began);
        }
        let file = login
            .filter(|_| !plan.snapshots.travelling.is_empty())
            .map(|login| self.hosts.node_file(&plan, login));
        let file = match file.transpose() {
            Ok(file) => file,
            Err(error) => {
                let failure = Failure::new(ExitCode::Failed, &error);
                return Err(self.tell_failed(&plan.name, failure));
            }
        };
        let mut job = GuestMove::new(plan, mark, pairs);
        job.file = file;
        Ok(job)
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

    async fn mark(&self, plan: &GuestPlan, request: &MoveRequest) -> Mark {
        let now = claim::now(self.mover.target.as_ref()).await;
        let claimant = &self.mover.claimant;
        Mark {
            source_cluster: plan.source_cluster.clone(),
            source: plan.source.clone(),
            name: plan.name.clone(),
            running: plan.running,
            onboot: plan.onboot,
            onboot_set: plan.onboot_set,
            id: Some(format!("{:08x}", fastrand::u32(..))),
            made_from: Some(plan.planned.fingerprint()),
            by: claimant.by.clone(),
            since: jiff::Timestamp::now()
                .strftime("%Y-%m-%dT%H:%M:%SZ")
                .to_string(),
            volumes: copies(plan).collect(),
            kept: plan.back.as_ref().map(|back| back.kept.clone()),
            finishing: false,
            returning: false,
            ha: None,
            order: Some(Order::of(request)),
            claim: Some(Claim::new(claimant, now)),
        }
    }

    pub(super) fn tell_failed(&self, guest: &str, failure: Failure) -> End {
        let end = End {
            guest: guest.to_owned(),
            exit: failure.exit,
            state: failure.state.unwrap_or_default(),
            next: failure.next.unwrap_or_default(),
        };
        self.mover.reporter.tell(&Event::MoveFailed {
            guest: guest.to_owned(),
            error: failure.error,
            state: end.state.clone(),
            next: end.next.clone(),
            exit_code: failure.exit.code(),
        });
        end
    }
}

/// How one guest ended.
#[derive(Clone, Debug)]
pub struct End {
    /// The guest's name.
    pub guest: String,
    /// What the process would exit with.
    pub exit: ExitCode,
    /// In what state it was left.
    pub state: String,
    /// What to do about it.
    pub next: String,
}

impl End {
    pub(super) fn good(guest: &str, state: &str) -> End {
        End {
            guest: guest.to_owned(),
            exit: ExitCode::Done,
            state: state.to_owned(),
            next: String::new(),
        }
    }
}

/// Returns the locks that are in the way, if nothing else is.
fn locked(decision: &Decision) -> Vec<String> {
    let mut locked = Vec::new();
    for verdict in decision.all_verdicts() {
        match (verdict.severity, verdict.code) {
            (Severity::Warn, _) => {}
            (Severity::Refuse, "guest-locked" | "replication-running") => locked.push(format!(
                "{}: {}",
                verdict.guest.as_deref().unwrap_or_default(),
                verdict.reason
            )),
            (Severity::Refuse, _) => return Vec::new(),
        }
    }
    locked
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

/// Said at once: after hours of copying the question would have no answer, and the move would end as if by a "no".
fn nobody_to_ask() -> Failure {
    Failure::message(
        ExitCode::Refused,
        "--wait-before-stop has nobody to ask: standard input and standard error must be a terminal",
    )
    .state("nothing was changed")
    .next("run it in a terminal (ssh -t, tmux), or give the answer now with --yes")
}

/// Returns the volumes that a plan copies, by what they will be on the target.
fn copies(plan: &GuestPlan) -> impl Iterator<Item = (DriveKey, Volid)> {
    plan.drives.iter().filter_map(|drive| match &drive.action {
        DriveAction::Copy(volume) => Some((drive.key, volume.target.clone())),
        DriveAction::Set { .. } | DriveAction::Leave => None,
    })
}

pub(super) fn refusal(decision: &Decision) -> Failure {
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
