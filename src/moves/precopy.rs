//! Copying while the guest runs: rounds until the final delta is small, and the question before the stop.
//!
//! Read next: `plan/step.rs` (`settle`), which decides when it is enough.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Account, GuestMove, MoveError, Mover};
use crate::plan::MoveRequest;
use crate::plan::step::{Round, Settle, Step, settle};
use crate::pve::drive::DriveKey;
use crate::report::{Event, PassKind};
use crate::transfer::{News, Pair, Pass, PassReport, Route, TransferError};
use crate::units::Bytes;

/// Between two quiet rounds while the operator thinks: often enough for a small delta, seldom enough for the disks.
pub(super) const QUIET: Duration = Duration::from_secs(15);

impl Mover {
    /// Pre-copies until it has settled, then asks, where the operator wanted to be asked.
    pub(super) async fn precopy(
        &self,
        job: &GuestMove,
        request: &MoveRequest,
        account: &mut Account,
    ) -> Result<(), MoveError> {
        let name = &job.plan.name;
        loop {
            self.round(job, request, account).await?;
            match settle(&account.rounds, request.max_downtime) {
                Settle::Again => {}
                Settle::Enough {
                    fits: false,
                    downtime,
                } => {
                    return Err(MoveError::TooSlow {
                        guest: name.clone(),
                        downtime,
                        allowed: request.max_downtime.unwrap_or(downtime),
                    });
                }
                Settle::Enough { .. } => break,
            }
        }
        if request.wait_before_stop {
            self.wait_for_consent(job, request, account).await?;
        }
        account.settled = true;
        Ok(())
    }

    async fn round(
        &self,
        job: &GuestMove,
        request: &MoveRequest,
        account: &mut Account,
    ) -> Result<(), MoveError> {
        self.await_replication(job).await?;
        self.same_source(job).await?;
        let number = u32::try_from(account.rounds.len() + 1).unwrap_or(u32::MAX);
        self.reporter.tell(&Event::StepStarted {
            guest: job.plan.name.clone(),
            step: Step::Precopy.to_string(),
            text: match number {
                1 => format!("copying {} volume(s) while the guest runs", job.pairs.len()),
                _ => format!("copying what changed meanwhile (round {number})"),
            },
        });
        let began = Instant::now();
        let reports = self
            .pass(
                job,
                Pass::Precopy,
                PassKind::Precopy,
                number,
                request,
                Step::Precopy,
            )
            .await?;
        let mut carried = Bytes::ZERO;
        for (_, report) in &reports {
            account.add(report);
            carried += report.progress.carried;
        }
        account.rounds.push(Round {
            carried,
            duration: began.elapsed(),
        });
        Ok(())
    }

    /// Asks before the stop, and keeps the delta small while nobody answers.
    async fn wait_for_consent(
        &self,
        job: &GuestMove,
        request: &MoveRequest,
        account: &mut Account,
    ) -> Result<(), MoveError> {
        let operator = Arc::clone(&self.operator);
        let question = format!(
            "{} is copied and can be stopped now. Shut it down on {} and finish the move?",
            job.plan.name, job.plan.source_cluster
        );
        let mut answer = tokio::task::spawn_blocking(move || operator.confirm(&question));
        let agreed = loop {
            tokio::select! {
                answer = &mut answer => break answer.unwrap_or(None).unwrap_or(false),
                () = self.interrupt.asked() => return Err(job.interrupted(Step::Precopy)),
                () = tokio::time::sleep(QUIET) => self.round(job, request, account).await?,
            }
        };
        if agreed {
            // Whatever was written since the last quiet round is copied before the guest goes down.
            self.round(job, request, account).await
        } else {
            Err(MoveError::Declined {
                guest: job.plan.name.clone(),
            })
        }
    }

    /// Runs one pass over all volumes, as many at a time as the request says.
    ///
    /// When one fails, the others are ended too: what they have copied stays in place.
    pub(super) async fn pass(
        &self,
        job: &GuestMove,
        pass: Pass,
        kind: PassKind,
        round: u32,
        request: &MoveRequest,
        step: Step,
    ) -> Result<Vec<(DriveKey, PassReport)>, MoveError> {
        let turns = Arc::new(Semaphore::new(request.parallel.max(1)));
        // A route the operator asked for is not exchanged for another one.
        let may_relay = request.route.is_none();
        // Rounds follow one another for hours where somebody waits with the stop: a machine may have slept meanwhile, and
        // a pass of whoever was taken over from would undo the proof of the newer one (tests/crash_model.rs).
        self.guests_of_ours(job).await?;
        self.engine
            .begin(&job.pairs, pass)
            .await
            .map_err(|source| job.transfer(step, source))?;
        let mut running = JoinSet::new();
        for (place, mut pair) in job.pairs.iter().cloned().enumerate() {
            let relays = Arc::clone(&job.relays);
            let (engine, reporter, turns) = (
                Arc::clone(&self.engine),
                Arc::clone(&self.reporter),
                Arc::clone(&turns),
            );
            let (guest, drive) = (job.plan.name.clone(), pair.drive.to_string());
            running.spawn(async move {
                // The semaphore is never closed.
                let _turn = turns.acquire().await;
                let tell = |news: News| {
                    let event = match news {
                        News::Progress(progress) => Event::Progress {
                            guest: guest.clone(),
                            drive: drive.clone(),
                            pass: kind,
                            round,
                            scanned: progress.scanned.0,
                            total: progress.total.0,
                            carried: progress.carried.0,
                            wire: progress.wire.0,
                        },
                        News::Decision(text) => Event::Notice {
                            guest: Some(guest.clone()),
                            text: format!("{drive}: {text}"),
                        },
                    };
                    reporter.tell(&event);
                };
                if relays.load(Ordering::Relaxed) {
                    pair.route = Route::Relay;
                }
                let report = match engine.carry(&pair, pass, &tell).await {
                    Err(error @ TransferError::DirectRoute { .. }) if may_relay => {
                        if !relays.swap(true, Ordering::Relaxed) {
                            let text = format!("{error}; relaying through this machine instead");
                            reporter.tell(&Event::Warning {
                                guest: Some(guest.clone()),
                                text,
                            });
                        }
                        pair.route = Route::Relay;
                        engine.carry(&pair, pass, &tell).await?
                    }
                    result => result?,
                };
                if report.repaired > Bytes::ZERO {
                    reporter.tell(&Event::Warning {
                        guest: Some(guest.clone()),
                        text: rotten(&pair, &report),
                    });
                }
                reporter.tell(&Event::PassDone {
                    guest: guest.clone(),
                    drive: drive.clone(),
                    pass: kind,
                    round,
                    carried: report.progress.carried.0,
                    wire: report.progress.wire.0,
                    seconds: report.duration.as_secs_f64(),
                });
                Ok((place, pair.drive, report))
            });
        }
        let mut reports = Vec::new();
        loop {
            let ended = tokio::select! {
                ended = running.join_next() => ended,
                // Dropping the set ends all streams; the hosts notice and keep what arrived.
                () = self.interrupt.asked() => return Err(job.interrupted(step)),
                error = job.lost() => return Err(error),
            };
            match ended {
                None => break,
                Some(Ok(Ok(report))) => reports.push(report),
                Some(Ok(Err(source))) => return Err(job.transfer(step, source)),
                Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
            }
        }
        reports.sort_by_key(|(place, ..)| *place);
        Ok(reports
            .into_iter()
            .map(|(_, drive, report)| (drive, report))
            .collect())
    }
}

/// Returns the words about a target's disk that did not keep what it was given.
fn rotten(pair: &Pair, report: &PassReport) -> String {
    let from = report
        .repaired_at
        .map(|offset| format!(", from offset {offset} on"))
        .unwrap_or_default();
    format!(
        "{}: {} of {} on {}{from} were not what had been written there; they were copied again and are right now, but \
         look after that machine's disks and memory, or for what else writes there",
        pair.drive,
        report.repaired,
        pair.target.path,
        pair.target.shell.address()
    )
}
