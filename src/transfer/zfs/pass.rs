//! One pass over one pair: look at both sides, decide, do the one thing, and look again, until the target has the goal.
//!
//! What went wrong is never guessed: a base that vanished, a token that became stale or a receive that still runs show at
//! the next look. A final pass ends with the proof (`verify`). Read next: `decide.rs`, `stream.rs`, `keep.rs`.

use std::time::Duration;

use tokio::time::Instant;

use super::decide::{self, Claim, Decision, Next, Refusal};
use super::look::{self, look_closely, run, trouble, words};
use super::read::{self, Snapshot, Volume};
use super::syntax::{self, Stream};
use super::{ZfsEngine, keep, refusal, travel};
use crate::host::Exit;
use crate::transfer::carry::PATIENCE;
use crate::transfer::image::operation;
use crate::transfer::lines::Side;
use crate::transfer::{News, Pair, Pass, PassReport, Progress, Tell, TransferError};
use crate::units::Bytes;

/// More steps than any fallback takes: resume, abandon, back, restart, full, and some that others make necessary.
const STEPS: u32 = 16;
/// How often a receive that still runs is looked at.
const LOOK: Duration = Duration::from_secs(3);

/// Runs a pass.
pub(crate) async fn carry(
    engine: &ZfsEngine,
    pair: &Pair,
    pass: Pass,
    tell: Tell<'_>,
) -> Result<PassReport, TransferError> {
    let started = std::time::Instant::now();
    let mut work = Work {
        engine,
        pair,
        claim: super::claim(pair),
        operation: operation(pass),
        tell,
        progress: Progress::default(),
        failed: Vec::new(),
        trouble: None,
        busy: None,
        told: None,
    };
    let (source, target) = work.reach().await?;
    let digest = match pass {
        Pass::Precopy => None,
        Pass::Final(_) => Some(work.verify(&source, &target)?),
    };
    work.settle(pass, &source, &target).await?;
    Ok(PassReport {
        progress: work.progress,
        duration: started.elapsed(),
        digest,
        repaired: Bytes::ZERO,
        repaired_at: None,
    })
}

struct Work<'a> {
    engine: &'a ZfsEngine,
    pair: &'a Pair,
    claim: Claim,
    operation: &'static str,
    tell: Tell<'a>,
    /// Of the streams that are through.
    progress: Progress,
    /// Streams that cannot be made any more.
    failed: Vec<Stream>,
    /// A stream that failed, and why: told when nothing better is decided after it.
    trouble: Option<(Stream, TransferError)>,
    /// Since when another receive works on the target without a sign of life, and how the target looked.
    busy: Option<(Instant, Volume)>,
    /// What the operator was told last.
    told: Option<String>,
}

impl Work<'_> {
    /// Does what is to be done until the target has the goal; returns both sides as they are then.
    async fn reach(&mut self) -> Result<(Volume, Volume), TransferError> {
        let mut goal: Option<String> = None;
        let mut steps = 0;
        // Each snapshot that travels is a step, and may have to be taken back and come again.
        let most = STEPS + 3 * u32::try_from(self.claim.snapshots.len()).unwrap_or(STEPS);
        while steps < most {
            // Waiting for a receive that still runs has a limit of its own.
            steps += u32::from(self.busy.is_none());
            let since = goal.as_deref();
            let (source, mut target) = tokio::try_join!(
                self.source(since),
                look_closely(self.pair, Side::Target, self.operation, None)
            )?;
            goal = decide::goal(&source, &self.claim).map(|goal| goal.name.clone());
            if let Some(target) = &mut target {
                keep::mark_received(self.pair, self.operation, &self.claim, &source, target)
                    .await?;
            }
            let decided = decide::decide(&source, target.as_ref(), &self.claim, &self.failed);
            let Decision { next, because } =
                decided.map_err(|refused| refusal(self.pair, self.operation, &refused))?;
            let text = format!("{next}: {because}");
            match decide::is_usual(&next, &source, &self.claim) {
                true => log::info!("{}: {text}", self.pair.drive),
                false => self.explain(text),
            }
            match (next, target) {
                // Looked at once more when it was not known yet what may not have been written since.
                (Next::Nothing, Some(target)) if source.since.is_some() => {
                    return Ok((source, target));
                }
                (Next::Carry(stream), target) => {
                    if let Some((failed, error)) = self.trouble.take()
                        && failed == stream
                    {
                        return Err(error);
                    }
                    self.stream(stream, &source, target).await?;
                }
                (Next::Abandon, _) => keep::abandon(self.pair, self.operation).await?,
                (Next::Back { to, newer }, Some(target)) => {
                    keep::back(self.pair, self.operation, &target, &to, &newer).await?;
                }
                (Next::Drop(names), Some(target)) => {
                    keep::drop_carried(self.pair, self.operation, &target, &names).await?;
                }
                (Next::Restart, Some(target)) => {
                    keep::destroy_target(self.pair, self.operation, &self.claim, &target).await?;
                }
                (Next::Nothing, Some(_)) => {}
                // Decided of a target that is there.
                (Next::Nothing | Next::Back { .. } | Next::Drop(_) | Next::Restart, None) => {}
            }
        }
        let reason = "both sides change again and again; does somebody else work on these volumes?";
        Err(self.trouble(Side::Target, reason.to_owned()))
    }

    /// Tells the operator, once, of a decision that is not the usual course.
    fn explain(&mut self, text: String) {
        if self.told.as_ref() != Some(&text) {
            log::info!("{}: {text}", self.pair.drive);
            (self.tell)(News::Decision(text.clone()));
            self.told = Some(text);
        }
    }

    async fn source(&self, since: Option<&str>) -> Result<Volume, TransferError> {
        match look_closely(self.pair, Side::Source, self.operation, since).await? {
            Some(volume) => Ok(volume),
            None => {
                let name = look::dataset(self.pair, Side::Source, self.operation)?;
                Err(self.trouble(Side::Source, format!("there is no volume {name}")))
            }
        }
    }

    fn trouble(&self, side: Side, reason: String) -> TransferError {
        trouble(self.pair, side, self.operation, reason)
    }

    /// Carries one stream. Of a failure that another decision may avoid, only a note is made.
    async fn stream(
        &mut self,
        stream: Stream,
        source: &Volume,
        target: Option<Volume>,
    ) -> Result<(), TransferError> {
        let command = syntax::estimate(&source.dataset, &stream, self.pair.stream);
        let output = run(self.pair, Side::Source, self.operation, &command).await?;
        let printed = [&output.stdout[..], &output.stderr[..]].concat();
        if output.exit != Exit::Code(0) {
            let said = words(&output);
            let resumes = matches!(stream, Stream::Resume { .. });
            let error = look::refused(self.pair, Side::Source, self.operation, &command, &output);
            let what = Next::Carry(stream.clone());
            self.explain(format!("{what} cannot be made: {said}"));
            if resumes && is_stale(&said) {
                self.failed.push(stream);
            } else {
                self.trouble = Some((stream, error));
            }
            return Ok(());
        }
        let size = read::read_size(&String::from_utf8_lossy(&printed)).unwrap_or(0);
        let before = self.progress;
        let tell = self.tell;
        let told = move |now: Progress| {
            tell(News::Progress(Progress {
                scanned: before.scanned + now.scanned,
                total: before.total + now.total.max(Bytes(size)),
                carried: before.carried + now.carried,
                wire: before.wire + now.wire,
            }));
        };
        let is_new = target
            .as_ref()
            .is_none_or(|target| target.snapshots.is_empty() && target.mark.is_some());
        let carried = self
            .engine
            .stream(self.pair, self.operation, &stream, size, is_new, &told)
            .await;
        match carried {
            Ok(now) => {
                self.busy = None;
                self.progress = Progress {
                    scanned: before.scanned + now.scanned,
                    total: before.total + now.scanned,
                    carried: before.carried + now.carried,
                    wire: before.wire + now.wire,
                };
                Ok(())
            }
            Err(TransferError::Porter { reason, .. }) if read::still_receiving(&reason) => {
                self.explain(format!(
                    "waiting for an earlier receive that still runs there: {reason}"
                ));
                self.wait_for_receive(target, reason).await
            }
            Err(error @ TransferError::Porter { .. }) if may_be_avoided(&error) => {
                self.trouble = Some((stream, error));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Waits a moment for a receive that goes on after its connection was lost, as long as it gets on.
    async fn wait_for_receive(
        &mut self,
        target: Option<Volume>,
        reason: String,
    ) -> Result<(), TransferError> {
        let target = target.unwrap_or_default();
        match &self.busy {
            Some((since, seen)) if *seen == target => {
                if since.elapsed() > PATIENCE {
                    let reason = format!(
                        "another receive works on {} and does not get on: {reason}",
                        target.dataset
                    );
                    return Err(self.trouble(Side::Target, reason));
                }
            }
            Some(_) | None => self.busy = Some((Instant::now(), target)),
        }
        tokio::time::sleep(LOOK).await;
        Ok(())
    }

    /// Secures what was reached and lets go of what it supersedes; after a final pass that is left to tidying, since the
    /// guest waits.
    async fn settle(
        &self,
        pass: Pass,
        source: &Volume,
        target: &Volume,
    ) -> Result<(), TransferError> {
        let (pair, operation) = (self.pair, self.operation);
        let (here, there) = self.reached(source, target)?;
        keep::hold(pair, operation, target, there).await?;
        keep::reserve(pair, operation, target).await?;
        if pass != Pass::Precopy {
            return Ok(());
        }
        keep::bookmark(pair, operation, source, here).await?;
        let none = |_: &Snapshot| false;
        let prune = |side, volume, kept| {
            keep::prune(
                pair,
                side,
                operation,
                &self.claim,
                volume,
                Some(kept),
                &none,
            )
        };
        tokio::try_join!(
            prune(Side::Source, source, here.name.as_str()),
            prune(Side::Target, target, there.name.as_str())
        )?;
        keep::drop_unwanted(pair, operation, &self.claim, target).await
    }

    /// Returns the goal as both sides know it.
    fn reached<'a>(
        &self,
        source: &'a Volume,
        target: &'a Volume,
    ) -> Result<(&'a Snapshot, &'a Snapshot), TransferError> {
        let goal = decide::goal(source, &self.claim);
        let both = goal.and_then(|here| Some((here, target.snapshot(here.guid)?)));
        both.ok_or_else(|| {
            let gone = Refusal::NoGoal {
                source_volume: source.dataset.clone(),
            };
            refusal(self.pair, self.operation, &gone)
        })
    }

    /// Proves that the target equals the source and that neither was written to since; returns the proof.
    ///
    /// ZFS checked every record of the stream and checks every block it reads from a disk; what remains is that both
    /// sides stand at the same snapshot, which the guid says, and that nothing came after it. Both were looked at after
    /// the stream ended.
    fn verify(&self, source: &Volume, target: &Volume) -> Result<String, TransferError> {
        let (here, there) = self.reached(source, target)?;
        if target.newest() != Some(there) || target.written > 0 {
            let written = Refusal::Written {
                target: target.dataset.clone(),
                common: there.name.clone(),
                written: Bytes(target.written),
                reason: "while it was copied",
            };
            return Err(refusal(self.pair, self.operation, &written));
        }
        if let Some(late) = travel::missing(source, target, &self.claim).first() {
            let late = Refusal::Late {
                source_volume: source.dataset.clone(),
                snapshot: late.name.clone(),
            };
            return Err(refusal(self.pair, self.operation, &late));
        }
        if source.since == Some(0) {
            return Ok(super::proof(here.guid));
        }
        let reason = format!(
            "the source was written to ({}) after its final snapshot {}; is the guest really stopped?",
            Bytes(source.since.unwrap_or(0)),
            here.name
        );
        Err(self.trouble(Side::Source, reason))
    }
}

/// Says whether zfs means that a token leads nowhere, rather than that it could not be tried now.
fn is_stale(words: &str) -> bool {
    ["no longer", "is corrupt", "not the same"]
        .iter()
        .any(|stale| words.contains(stale))
}

/// Says whether a stream failed for something that the next look will show.
fn may_be_avoided(error: &TransferError) -> bool {
    let words = error.to_string();
    [
        "does not exist",
        "no longer",
        "does not match incremental source",
    ]
    .iter()
    .any(|part| words.contains(part))
}
