//! Moves that were begun earlier, by their marks alone: going on with them, and going back.
//!
//! What was asked for stands in the mark, so nobody has to type it again. A cluster that cannot be reached is waited for
//! on the way back; when that does not help, what can be seen is said, and what is left to type. Read next: `abort.rs`,
//! `plan/order.rs`.

use std::time::{Duration, Instant};

use super::abort::Return;
use super::batch::{Batch, End};
use super::failure::failure;
use super::{GuestMove, MoveError, Stopped, resume, survey};
use crate::cluster::{Api, ApiError};
use crate::error::{ExitCode, Failure};
use crate::plan::aftermath::{SourceLeft, describe, source_left};
use crate::plan::facts::{Existing, ExistingMoves};
use crate::plan::mark::{CLONING, MIGRATED, NameMark};
use crate::plan::order::Order;
use crate::plan::{GuestPlan, MoveRequest};
use crate::pve::guest::{GuestSummary, Power};
use crate::pve::id::{ClusterAlias, StorageId};
use crate::report::Event;

/// Between two attempts to reach a cluster.
const PAUSE: Duration = Duration::from_secs(5);

/// Which moves, and by what aliases they are known here.
#[derive(Clone, Debug)]
pub struct Which {
    /// The source cluster.
    pub source: ClusterAlias,
    /// The target cluster.
    pub target: ClusterAlias,
    /// The guests' names.
    pub guests: Vec<String>,
}

impl Batch<'_> {
    /// Finds the moves of the named guests on the target.
    async fn begun(&self, which: &Which) -> Result<ExistingMoves, ApiError> {
        let target = self.mover.target.as_ref();
        let nodes = target.nodes().await?;
        let (guests, _) = survey::guests(target, &nodes).await?;
        resume::find(&which.guests, &guests, target).await
    }

    /// Goes on with moves that were begun earlier, with what was asked for then; `change` may change what does not shape
    /// the result.
    pub async fn resume(&self, which: &Which, change: impl Fn(&mut MoveRequest)) -> ExitCode {
        let existing = match self.begun(which).await {
            Ok(existing) => existing,
            Err(error) => return self.not_found(which, "looking for interrupted moves", &error),
        };
        let mut requests = Vec::new();
        let mut refused = Vec::new();
        for name in &which.guests {
            match existing.get(name).map(|began| &began.mark.order) {
                Some(Some(order)) => {
                    let mut request = order.request(&which.source, &which.target, name);
                    change(&mut request);
                    requests.push(request);
                }
                Some(None) => refused.push(format!(
                    "{name}: its move was begun by another release, and its notes do not say all that was asked for"
                )),
                None => refused.push(format!("{name}: no move of it to {} is under way", which.target)),
            }
        }
        if !refused.is_empty() {
            let mut failure = Failure::message(
                ExitCode::Refused,
                "these moves cannot be resumed by their notes",
            );
            failure.error.extend(refused);
            let failure = failure.state("nothing was changed").next(
                "see `proxmove status`; the command a move was begun with, typed again, continues any move",
            );
            return self.tell_failed(&which.guests.join(", "), failure).exit;
        }
        let mut ends: Vec<End> = Vec::new();
        for request in requests {
            let guest = request.guests.first().cloned().unwrap_or_default();
            if let Some(end) = self.not_begun(&guest, &ends) {
                ends.push(end);
                continue;
            }
            let ended = self.ends(&request).await;
            ends.extend(ended);
        }
        self.tell_ends(ends)
    }

    /// Brings the sources of moves back as they were.
    pub async fn abort(&self, which: &Which, wanted: Return) -> ExitCode {
        if let Err(exit) = self.reach(which, wanted.patience).await {
            return exit;
        }
        let existing = match self.begun(which).await {
            Ok(existing) => existing,
            Err(error) => return self.not_found(which, "looking for interrupted moves", &error),
        };
        let mut ends: Vec<End> = Vec::new();
        for name in &which.guests {
            if let Some(end) = self.not_begun(name, &ends) {
                ends.push(end);
                continue;
            }
            let end = match existing.get(name) {
                Some(began) => self.abort_one(which, name, began, wanted).await,
                None => self.nothing_to_abort(which, name).await,
            };
            ends.push(end);
        }
        self.tell_ends(ends)
    }

    async fn abort_one(&self, which: &Which, name: &str, began: &Existing, wanted: Return) -> End {
        let Some(order) = began.mark.order.clone().or_else(|| older(which, began)) else {
            let text = format!(
                "the notes of {name} on {} do not say which storage it was for",
                which.target
            );
            return self.tell_failed(name, Failure::message(ExitCode::Bug, text));
        };
        let mut request = order.request(&which.source, &which.target, name);
        // The placeholder may have been moved to another node meanwhile.
        request.node = began.target.node.clone();
        let since = Instant::now();
        loop {
            let job = match self.job_to_abort(which, name, began, &request).await {
                Ok(job) => job,
                Err(end) => return end,
            };
            let Err(stopped) = self.mover.abort(&job, wanted).await else {
                return End::good(name, "brought back");
            };
            // The hosts are found anew in each round: one that comes back is seen then.
            let waits = matches!(stopped.error, MoveError::NotRemoved { passes: true, .. })
                && since.elapsed() < wanted.patience
                && !self.mover.interrupt.is_asked();
            if !waits {
                let failure = not_back(&stopped, &job.plan, job.mark.running, which);
                return self.tell_failed(name, failure);
            }
            self.mover.reporter.tell(&Event::Notice {
                guest: Some(name.to_owned()),
                text: format!("{}; trying again", stopped.error),
            });
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = self.mover.interrupt.asked() => {}
            }
        }
    }

    /// Puts together what is to be given up. What forbids a move does not forbid that: only what the plan is about counts.
    async fn job_to_abort(
        &self,
        which: &Which,
        name: &str,
        began: &Existing,
        request: &MoveRequest,
    ) -> Result<GuestMove, End> {
        let decision = match self.decide(request).await {
            Ok(decided) => decided.decision,
            Err(failure) => return Err(self.tell_failed(name, failure)),
        };
        let Some(plan) = decision.plans.into_iter().next() else {
            let mut failure = Failure::message(
                ExitCode::SourceDown,
                format!("the source of {name} was not found on {}", which.source),
            );
            let reasons = decision
                .verdicts
                .iter()
                .map(|verdict| verdict.reason.clone());
            failure.error.extend(reasons);
            let failure = failure
                .state(format!(
                    "unclear, nothing was touched; the placeholder is guest {} on {}",
                    began.target.vmid, which.target
                ))
                .next("bring back what cannot be asked, and run the same command again");
            return Err(self.tell_failed(name, failure));
        };
        // Snapshots are not written down any more: the placeholder goes.
        self.job(plan, Some(began), None, request).await
    }

    /// Says how a guest is that has no placeholder.
    async fn nothing_to_abort(&self, which: &Which, name: &str) -> End {
        let seen = match sightings(self.mover.source.as_ref(), name).await {
            Ok(seen) => seen,
            Err(error) => {
                let failure = Failure::new(ExitCode::Refused, &error)
                    .context(format!("looking for {name} failed"))
                    .state("nothing was changed")
                    .next("run the same command again");
                return self.tell_failed(name, failure);
            }
        };
        if let [only] = seen.as_slice()
            && only.name.as_deref() == Some(name)
        {
            // A rerun of an abort that ended: this is how it should be.
            let text = format!(
                "no move of it is under way; it is {} on {} under its own name",
                power(only.power),
                which.source
            );
            self.mover.reporter.tell(&Event::Notice {
                guest: Some(name.to_owned()),
                text: text.clone(),
            });
            return End::good(name, &text);
        }
        let text = format!("no move of {name} to {} is under way", which.target);
        let failure = Failure::message(ExitCode::Refused, text)
            .state(described(&seen, &which.source, name))
            .next("see `proxmove status`; a finished move is brought back with its new data by `proxmove back`");
        self.tell_failed(name, failure)
    }

    /// Waits until both clusters can be reached, as long as the operator allows.
    async fn reach(&self, which: &Which, patience: Duration) -> Result<(), ExitCode> {
        let began = Instant::now();
        let mover = &self.mover;
        let mut told = false;
        loop {
            let (source, target) = tokio::join!(mover.source.nodes(), mover.target.nodes());
            let (alias, error) = match (source, target) {
                (Ok(_), Ok(_)) => return Ok(()),
                (Err(error), _) => (&which.source, error),
                (_, Err(error)) => (&which.target, error),
            };
            let may_pass = matches!(error, ApiError::Unreachable { .. });
            if !may_pass || began.elapsed() >= patience || mover.interrupt.is_asked() {
                return Err(self.out_of_reach(which, alias, &error).await);
            }
            if !std::mem::replace(&mut told, true) {
                mover.reporter.tell(&Event::Warning {
                    guest: None,
                    text: format!(
                        "{error}; trying again for {}",
                        humantime::format_duration(patience)
                    ),
                });
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = mover.interrupt.asked() => {}
            }
        }
    }

    /// Says what is known while a cluster cannot be asked, and what is left to type.
    async fn out_of_reach(
        &self,
        which: &Which,
        alias: &ClusterAlias,
        error: &ApiError,
    ) -> ExitCode {
        let mut worst = Vec::new();
        for name in &which.guests {
            let mut failure = Failure::new(ExitCode::Refused, error).context(format!(
                "{name} was not brought back: {alias} cannot be asked"
            ));
            let again = format!("proxmove abort {} {} {name}", which.source, which.target);
            let seen = match alias == &which.source {
                true => Err(()),
                false => sightings(self.mover.source.as_ref(), name)
                    .await
                    .map_err(drop),
            };
            failure = match seen {
                Err(()) => failure
                    .state(format!(
                        "nothing was changed; it is not known how {name} is on {}",
                        which.source
                    ))
                    .next(format!("{again}, as soon as {alias} answers")),
                Ok(seen) => {
                    let by_hand = by_hand(&seen, name, &which.target);
                    if by_hand.is_some() {
                        failure.exit = ExitCode::SourceDown;
                    }
                    failure
                        .state(format!(
                            "nothing was changed; {}",
                            described(&seen, &which.source, name)
                        ))
                        .next(match by_hand {
                            Some(text) => format!("{again}, as soon as {alias} answers; or {text}"),
                            None => format!("{again}, as soon as {alias} answers"),
                        })
                }
            };
            worst.push(self.tell_failed(name, failure));
        }
        self.tell_ends(worst)
    }

    fn not_found(&self, which: &Which, what: &str, error: &ApiError) -> ExitCode {
        let failure = Failure::new(ExitCode::Refused, error)
            .context(format!("{what} failed"))
            .state("nothing was changed")
            .next("mend that and run the same command again");
        self.tell_failed(&which.guests.join(", "), failure).exit
    }
}

/// Returns the order of a move whose mark has none: where it goes is known from the placeholder.
fn older(which: &Which, began: &Existing) -> Option<Order> {
    let storage: Option<StorageId> = began
        .mark
        .volumes
        .values()
        .next()
        .map(|volid| volid.storage.clone());
    // Without volumes the storage is asked for nothing.
    let storage = storage.or_else(|| "local".parse().ok())?;
    let mut order = Order::plain(which.target.clone(), began.target.node.clone(), storage);
    order.skip_disks = began.mark.volumes.is_empty();
    Some(order)
}

fn not_back(stopped: &Stopped, plan: &GuestPlan, was_running: bool, which: &Which) -> Failure {
    let mut told = failure(stopped, plan, was_running);
    let again = format!(
        "proxmove abort {} {} {}",
        which.source, which.target, plan.name
    );
    match &stopped.error {
        // The failure's own word says what goes on.
        _ if stopped.returning => told,
        MoveError::NoWayBack { remedy, .. } => {
            told.exit = match source_left(&stopped.rung, was_running) {
                SourceLeft::Down | SourceLeft::Unclear => ExitCode::SourceDown,
                SourceLeft::AsItWas | SourceLeft::TakenOver => ExitCode::Refused,
            };
            told.next(remedy.clone())
        }
        MoveError::NotRemoved { remedy, .. } => told.next(remedy.clone()),
        MoveError::Held { .. } | MoveError::TakenOver { .. } => told,
        _ => {
            let state = describe(&stopped.rung, plan, was_running).state;
            told.state(state).next(format!("{again} goes on with it"))
        }
    }
}

/// Returns the guests that are or were called so, by their node's own word.
async fn sightings(api: &dyn Api, name: &str) -> Result<Vec<GuestSummary>, ApiError> {
    let nodes = api.nodes().await?;
    let (mut guests, _) = survey::guests(api, &nodes).await?;
    guests.retain(|guest| {
        guest
            .name
            .as_deref()
            .is_some_and(|found| NameMark::split(found).0 == name)
    });
    Ok(guests)
}

fn power(power: Power) -> &'static str {
    match power {
        Power::Running => "RUNNING",
        Power::Stopped => "stopped",
        Power::Unknown => "in an unknown state",
    }
}

fn described(seen: &[GuestSummary], cluster: &ClusterAlias, name: &str) -> String {
    if seen.is_empty() {
        return format!("{cluster} has no guest {name}");
    }
    let each = seen.iter().map(|guest| {
        let name = guest.name.as_deref().unwrap_or_default();
        format!(
            "{name} ({}) is {} on {cluster}",
            guest.place.vmid,
            power(guest.power)
        )
    });
    each.collect::<Vec<_>>().join("; ")
}

/// Returns what brings a stopped guest back without proxmove, for when the other cluster is gone for good.
fn by_hand(seen: &[GuestSummary], name: &str, target: &ClusterAlias) -> Option<String> {
    let [only] = seen else { return None };
    let found = only.name.as_deref()?;
    let ours = [format!("{name}{CLONING}"), format!("{name}{MIGRATED}")];
    (only.power == Power::Stopped && ours.iter().any(|name| name == found)).then(|| {
        format!(
            "if {target} is gone for good and {name} runs nowhere: qm set {vmid} --name {name} --onboot 1 && qm start \
             {vmid} on node {}",
            only.place.node,
            vmid = only.place.vmid
        )
    })
}
