//! Acting on one guest: observe, derive the rung, take the next step, observe again.
//!
//! The loop has no memory that matters: started later, on another machine, it continues. It never talks to a shell
//! (volumes are the engine's business, and a node's file is that of `host/node_file.rs`) and decides nothing itself
//! (`plan` does). Read next: `perform.rs`, the steps; `precopy.rs`, the rounds while the guest runs; `resume.rs`,
//! finding interrupted moves; `claim.rs` and `lost.rs`, two operators at once; `meanwhile.rs`, what others change;
//! `abort.rs`, giving a move up; `back.rs`, finding a guest's former self; `boot.rs`, whether the guest comes up, and
//! `returning.rs`, going back when it does not; `batch.rs`, several guests; `status.rs`, all moves there are;
//! `cleanup.rs`, what they left behind.

pub mod abort;
pub mod again;
mod anew;
pub mod back;
pub mod batch;
mod boot;
pub mod check;
pub mod claim;
pub mod cleanup;
mod failure;
mod ha;
pub mod hosts;
pub mod interrupt;
mod lost;
mod meanwhile;
mod observe;
mod perform;
mod precopy;
mod replication;
pub mod resume;
mod returning;
mod sections;
mod settle;
mod shelve;
mod space;
pub mod status;
pub mod survey;
pub mod verify;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::cluster::{Api, ApiError};
use crate::host::node_file::{NodeFile, NodeFileError};
use crate::plan::aftermath::source_left;
use crate::plan::claim::Claimant;
use crate::plan::mark::Mark;
use crate::plan::state::{Data, Facts, Rung, derive};
use crate::plan::step::{Round, Step, Wishes, next};
use crate::plan::{DriveAction, GuestPlan, MoveRequest};
use crate::report::{Event, Operator, Reporter, Summary};
use crate::transfer::{Engine, Pair, PassReport, TransferError};
use interrupt::Interrupt;
use observe::Volumes;
use tokio::sync::watch;

/// Everything a move acts through.
#[derive(Clone)]
pub struct Mover {
    /// The source cluster.
    pub source: Arc<dyn Api>,
    /// The target cluster.
    pub target: Arc<dyn Api>,
    /// Copies volumes.
    pub engine: Arc<dyn Engine>,
    /// Is told everything.
    pub reporter: Arc<dyn Reporter>,
    /// Answers questions.
    pub operator: Arc<dyn Operator>,
    /// Says when the operator wants to stop.
    pub interrupt: Interrupt,
    /// Who this run is.
    pub claimant: Claimant,
    /// `--take-over`: a move that somebody else works on is taken from them.
    pub take_over: bool,
}

/// One guest's move: what was planned, and the volumes it is about.
pub struct GuestMove {
    /// The plan.
    pub plan: GuestPlan,
    /// What the placeholder's notes say, or will say.
    pub mark: Mark,
    /// The volumes that are copied.
    pub pairs: Vec<Pair>,
    /// The target's configuration file, where snapshots are entered into it.
    pub file: Option<NodeFile>,
    /// Whether the direct route turned out not to work, so that this run relays.
    relays: Arc<AtomicBool>,
    /// Whether its mark says that it is being returned to its source.
    returning: Arc<AtomicBool>,
    /// Whether its mark says what HA had for the source.
    from_ha: Arc<AtomicBool>,
    /// Whether somebody else was seen to have taken it over.
    lost: Arc<watch::Sender<bool>>,
    /// Whether this run has held it.
    hold: Arc<lost::Hold>,
}

/// What stopped a move. Display is a lowercase fragment without its source.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// A cluster did not do what it was asked.
    #[error("{step} of {guest} failed")]
    Api {
        /// What was being done.
        step: String,
        /// The guest.
        guest: String,
        /// Why.
        #[source]
        source: ApiError,
    },
    /// A volume could not be copied.
    #[error("{step} of {guest} failed")]
    Transfer {
        /// What was being done.
        step: String,
        /// The guest.
        guest: String,
        /// Why.
        #[source]
        source: TransferError,
    },
    /// A storage, or a directory for proxmove's own files, has no space left.
    #[error("{step} of {guest} failed: {place} is full")]
    NoSpace {
        /// What was being done.
        step: String,
        /// The guest.
        guest: String,
        /// What is full, and on which host.
        place: String,
        /// What could not be written.
        #[source]
        source: TransferError,
    },
    /// The snapshots could not be entered into the target's configuration.
    #[error("entering the snapshots of {guest} failed")]
    NodeFile {
        /// The guest.
        guest: String,
        /// Why.
        #[source]
        source: NodeFileError,
    },
    /// The snapshots were entered, and Proxmox VE does not show them.
    #[error(
        "the target of {guest} does not show the snapshots that were entered into its configuration"
    )]
    NotShown {
        /// The guest.
        guest: String,
    },
    /// The source is not any more what the move was planned from.
    #[error("{guest} has changed since its move was planned: {how}")]
    SourceChanged {
        /// The guest.
        guest: String,
        /// In what.
        how: String,
    },
    /// The facts are no rung of the ladder.
    #[error("{guest}: {facts}")]
    Contradiction {
        /// The guest.
        guest: String,
        /// What was seen.
        facts: String,
    },
    /// The final delta would take longer than `--max-downtime`.
    #[error("the final delta of {guest} would take about {}, longer than --max-downtime {}",
        humantime::format_duration(Duration::from_secs(downtime.as_secs().max(1))), humantime::format_duration(*allowed))]
    TooSlow {
        /// The guest.
        guest: String,
        /// The estimate.
        downtime: Duration,
        /// What is allowed.
        allowed: Duration,
    },
    /// The operator said no.
    #[error("{guest} was not stopped: the operator said no")]
    Declined {
        /// The guest.
        guest: String,
    },
    /// Somebody else works on it.
    #[error("{guest} is being moved by {holder}")]
    Held {
        /// The guest.
        guest: String,
        /// Who, since when, and when the last sign was.
        holder: String,
    },
    /// Somebody else took it over while we worked on it.
    #[error("{by} has taken the move of {guest} over")]
    TakenOver {
        /// The guest.
        guest: String,
        /// Who.
        by: String,
    },
    /// There is no way back by `proxmove abort`.
    #[error("{guest} is not brought back: {reason}")]
    NoWayBack {
        /// The guest.
        guest: String,
        /// Why.
        reason: String,
        /// What to do instead.
        remedy: String,
    },
    /// The source is back, but what was copied could not be removed.
    #[error("what was copied of {guest} could not be removed: {reason}")]
    NotRemoved {
        /// The guest.
        guest: String,
        /// Why.
        reason: String,
        /// What to do about it.
        remedy: String,
        /// Whether it may be otherwise in a while, without anybody doing anything here.
        passes: bool,
    },
    /// It does not come up on the target.
    #[error("{guest} did not come up on its target: {reason}")]
    NotUp {
        /// The guest.
        guest: String,
        /// What was seen.
        reason: String,
    },
    /// It did not come up on the target, and runs on the source again.
    #[error("{guest} was returned to its source")]
    Returned {
        /// The guest.
        guest: String,
        /// Why; `None` when an earlier run began to return it.
        #[source]
        why: Option<Box<MoveError>>,
    },
    /// A replication of the source does not come to its end.
    #[error("the replication {jobs} of {guest} has been copying for longer than it was waited for")]
    Replicating {
        /// The guest.
        guest: String,
        /// The jobs.
        jobs: String,
    },
    /// HA still acts on the source.
    #[error("HA does not let go of {guest}: its manager still has it on its list")]
    HaDoesNotLetGo {
        /// The guest.
        guest: String,
    },
    /// The operator interrupted.
    #[error("interrupted during {step} of {guest}")]
    Interrupted {
        /// The guest.
        guest: String,
        /// What was being done.
        step: String,
    },
}

/// A move that stopped: why, and on which rung.
#[derive(Debug)]
pub struct Stopped {
    /// Why.
    pub error: MoveError,
    /// Where it was seen last.
    pub rung: Rung,
    /// Whether it is on its way back to the source, as was asked for.
    pub returning: bool,
}

/// What one run has done so far; none of it decides anything another run would decide differently.
#[derive(Default)]
struct Account {
    rounds: Vec<Round>,
    /// Whether pre-copying has settled and the operator agreed to the stop.
    settled: bool,
    carried: u64,
    wire: u64,
    final_carried: u64,
    digests: Vec<(String, String)>,
    stopped_at: Option<Instant>,
    downtime: Option<Duration>,
    /// Whether the data were equal when this run started the target; `None` when it did not.
    started_equal: Option<bool>,
    /// The target's uptime when it was first watched.
    uptime: Option<u64>,
    /// By what the guest was seen to be up.
    up: Option<String>,
}

impl Account {
    fn add(&mut self, report: &PassReport) {
        self.carried += report.progress.carried.0;
        self.wire += report.progress.wire.0;
    }
}

impl Mover {
    /// Moves one guest, from wherever it is on the ladder to the end.
    pub async fn run(&self, job: &GuestMove, request: &MoveRequest) -> Result<Summary, Stopped> {
        let mut rung = Rung::Untouched;
        let result = match self.claim(job).await {
            Ok(()) => {
                let signs = self.give_signs(job);
                let result = self.run_claimed(job, request, &mut rung).await;
                drop(signs);
                result
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(summary) => Ok(summary),
            Err(error) => {
                let error = self.or_lost(job, error).await;
                Err(self.stopped(job, error, rung).await)
            }
        }
    }

    /// Looks where a move stands that stopped, and leaves the claim.
    async fn stopped(&self, job: &GuestMove, error: MoveError, mut rung: Rung) -> Stopped {
        // The failed call may have had its effect; what the clusters show now is what counts.
        match self.look(job, Volumes::WhereTheyMatter).await {
            Ok(facts) => {
                rung = derive(&facts);
                if matches!(rung, Rung::Contradiction(_))
                    && !matches!(error, MoveError::Contradiction { .. })
                {
                    // Hosts that were not prepared do not see all that proves what is there.
                    rung = derive(&facts.at_most());
                }
            }
            // A silent host: names and power are told by the clusters all the same.
            Err(_) => rung = self.without_hosts(job).await.unwrap_or(rung),
        }
        if !matches!(error, MoveError::Held { .. } | MoveError::TakenOver { .. }) {
            self.leave(job).await;
        }
        Stopped {
            error,
            rung,
            returning: job.is_returning(),
        }
    }

    /// Goes on with a return that was interrupted, or else with the move.
    async fn run_claimed(
        &self,
        job: &GuestMove,
        request: &MoveRequest,
        rung: &mut Rung,
    ) -> Result<Summary, MoveError> {
        if job.is_returning() && self.return_to_source(job).await? > 0 {
            return Err(MoveError::Returned {
                guest: job.plan.name.clone(),
                why: None,
            });
        }
        let mut account = Account::default();
        match self.climb(job, request, rung, &mut account).await {
            Ok(summary) => Ok(summary),
            Err(error) => Err(self.unless_returned(job, request, &account, error).await),
        }
    }

    /// Returns the lowest rung that both clusters allow, without the hosts being asked.
    async fn without_hosts(&self, job: &GuestMove) -> Option<Rung> {
        let facts = self.look_without_volumes(job).await.ok()?;
        let rung = derive(&Facts {
            data: vec![Data::Partial; job.pairs.len()],
            ..facts
        });
        // Data that nobody has looked at contradict nothing.
        (!matches!(rung, Rung::Contradiction(_))).then_some(rung)
    }

    async fn climb(
        &self,
        job: &GuestMove,
        request: &MoveRequest,
        at: &mut Rung,
        account: &mut Account,
    ) -> Result<Summary, MoveError> {
        let began = Instant::now();
        let wishes = Wishes {
            start: job.mark.running && !request.skip_start && !request.skip_disks,
        };
        let mut first = true;
        loop {
            let facts = self.observe(job).await?;
            let mut rung = derive(&facts);
            if first && matches!(rung, Rung::Contradiction(_)) {
                // Hosts that are not prepared do not see what proves that the data are equal: the porter may have gone
                // with the end of another move.
                rung = derive(&facts.at_most());
            }
            *at = rung.clone();
            let left = source_left(&rung, job.mark.running);
            self.interrupt.set_down(left.may_be_down());
            if std::mem::take(&mut first) {
                self.tell_started(job, &rung);
                if !matches!(rung, Rung::Done | Rung::Contradiction(_)) {
                    self.engine
                        .prepare(&job.pairs)
                        .await
                        .map_err(|source| job.transfer("preparing the hosts", source))?;
                    // Prepared hosts see more than unprepared ones.
                    continue;
                }
            }
            let step = match next(&rung, wishes) {
                Some(Step::StopSource) if !account.settled => Step::Precopy,
                Some(step) => step,
                None => match rung {
                    Rung::Contradiction(facts) => {
                        let guest = job.plan.name.clone();
                        return Err(MoveError::Contradiction { guest, facts });
                    }
                    _ => break,
                },
            };
            if self.interrupt.is_asked() {
                return Err(job.interrupted(step));
            }
            if rung == Rung::Started && account.up.is_none() {
                self.check_boot(job, request, account).await?;
            }
            if step == Step::Tidy {
                self.recreate_ha(job, request).await?;
            }
            self.perform(step, job, request, account).await?;
        }
        let mut summary = self.summary(job, account, began);
        summary.left.extend(self.ha_left(job, request).await);
        self.reporter.tell(&Event::MoveDone(summary.clone()));
        Ok(summary)
    }

    fn tell_started(&self, job: &GuestMove, rung: &Rung) {
        self.reporter.tell(&Event::MoveStarted {
            guest: job.plan.name.clone(),
            source: job.source(),
            target: job.target(),
            rung: rung.to_string(),
        });
    }

    fn summary(&self, job: &GuestMove, account: &mut Account, began: Instant) -> Summary {
        let plan = &job.plan;
        let mut left = vec![format!(
            "{}{} on {} ({}): stopped, onboot off, all volumes kept",
            plan.name,
            crate::plan::mark::MIGRATED,
            plan.source_cluster,
            plan.source.vmid
        )];
        if !plan.replication.is_empty() {
            left.push(format!(
                "replication {} goes on with it, until it is removed on {}: pvesr delete {}",
                plan.replication.join(", "),
                plan.source_cluster,
                plan.replication.join(" && pvesr delete ")
            ));
        }
        if plan
            .drives
            .iter()
            .any(|drive| matches!(drive.action, DriveAction::Leave))
        {
            left.push("drives that were not copied stay with the source".to_owned());
        }
        Summary {
            guest: plan.name.clone(),
            source: job.source(),
            target: job.target(),
            downtime_seconds: account.downtime.map(|downtime| downtime.as_secs_f64()),
            seconds: began.elapsed().as_secs_f64(),
            rounds: u32::try_from(account.rounds.len()).unwrap_or(u32::MAX),
            carried: account.carried,
            wire: account.wire,
            final_carried: account.final_carried,
            verified: std::mem::take(&mut account.digests),
            up: account.up.take(),
            left,
        }
    }
}

impl GuestMove {
    /// Returns a move that has not looked at anything yet.
    pub fn new(plan: GuestPlan, mark: Mark, pairs: Vec<Pair>) -> GuestMove {
        GuestMove {
            plan,
            mark,
            pairs,
            file: None,
            relays: Arc::default(),
            returning: Arc::default(),
            from_ha: Arc::default(),
            lost: Arc::new(watch::channel(false).0),
            hold: Arc::default(),
        }
    }

    /// Returns the same move as if it had no volumes.
    fn without_volumes(&self) -> GuestMove {
        GuestMove {
            plan: self.plan.clone(),
            mark: self.mark.clone(),
            pairs: Vec::new(),
            file: None,
            relays: Arc::clone(&self.relays),
            returning: Arc::clone(&self.returning),
            from_ha: Arc::clone(&self.from_ha),
            lost: Arc::clone(&self.lost),
            hold: Arc::clone(&self.hold),
        }
    }

    /// Waits until somebody else has taken it over.
    async fn lost(&self) -> MoveError {
        let mut lost = self.lost.subscribe();
        if lost.wait_for(|lost| *lost).await.is_err() {
            std::future::pending::<()>().await;
        }
        self.taken_over("somebody else")
    }

    /// Takes note of what the mark says just now.
    fn note(&self, mark: &Mark) {
        self.returning.store(mark.returning, Ordering::Relaxed);
        self.from_ha.store(mark.ha.is_some(), Ordering::Relaxed);
    }

    fn is_returning(&self) -> bool {
        self.returning.load(Ordering::Relaxed)
    }

    fn is_from_ha(&self) -> bool {
        self.from_ha.load(Ordering::Relaxed)
    }

    fn taken_over(&self, by: &str) -> MoveError {
        MoveError::TakenOver {
            guest: self.plan.name.clone(),
            by: by.to_owned(),
        }
    }

    fn source(&self) -> String {
        format!("{}/{}", self.plan.source_cluster, self.plan.source.vmid)
    }

    fn target(&self) -> String {
        let target = &self.plan.target;
        format!(
            "{}/{} on {}",
            self.plan.target_cluster, target.vmid, target.node
        )
    }

    fn api(&self, step: impl ToString) -> impl FnOnce(ApiError) -> MoveError {
        let (step, guest) = (step.to_string(), self.plan.name.clone());
        move |source| MoveError::Api {
            step,
            guest,
            source,
        }
    }

    fn transfer(&self, step: impl ToString, source: TransferError) -> MoveError {
        let (step, guest) = (step.to_string(), self.plan.name.clone());
        match space::full_place(&self.plan, &self.pairs, &source) {
            Some(place) => MoveError::NoSpace {
                step,
                guest,
                place,
                source,
            },
            None => MoveError::Transfer {
                step,
                guest,
                source,
            },
        }
    }

    fn interrupted(&self, step: impl ToString) -> MoveError {
        MoveError::Interrupted {
            guest: self.plan.name.clone(),
            step: step.to_string(),
        }
    }
}
