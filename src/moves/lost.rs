//! Noticing that a move is somebody else's by now: taken over while we worked on it, finished, or given up.
//!
//! A machine may sleep for hours between two calls. Whoever goes on meanwhile leaves another claim in the mark, or none,
//! or no mark at all, and a run that had the claim takes each of them for what it is: not a move that has not begun yet.
//! Changes nothing. Read next: `claim.rs`.

use std::sync::atomic::{AtomicBool, Ordering};

use super::claim::taken_by;
use super::observe::Guests;
use super::{GuestMove, MoveError, Mover};
use crate::plan::mark::Mark;
use crate::pve::guest::GuestDetail;

/// Who has a claim that this run lost, when nothing tells.
const SOMEBODY: &str = "somebody else";

/// Whether a move has been this run's.
#[derive(Debug, Default)]
pub(super) struct Hold {
    /// Its mark was seen with this run's claim.
    held: AtomicBool,
    /// This run has asked for the removal of the mark.
    ended: AtomicBool,
}

impl Hold {
    /// Takes note of whether this run has asked for the removal of the mark.
    pub(super) fn set_ended(&self, ended: bool) {
        self.ended.store(ended, Ordering::Relaxed);
    }

    fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }
}

impl Mover {
    /// Says by whom a move was taken over, going by its mark.
    pub(super) fn taken_over(&self, job: &GuestMove, mark: &Mark) -> Option<MoveError> {
        if let Some(by) = taken_by(mark, &self.claimant) {
            return Some(job.taken_over(&by));
        }
        if mark.claim.is_some() {
            job.hold.held.store(true, Ordering::Relaxed);
            return None;
        }
        // Somebody took it over and has stopped working on it: how things are is for a new run to find out.
        job.hold.is_held().then(|| job.taken_over(SOMEBODY))
    }

    /// Says whether somebody else has finished a move that was this run's, or has given it up.
    fn ended_by_another(&self, job: &GuestMove, target: Option<&GuestDetail>) -> Option<MoveError> {
        let gone = target.is_none() && job.hold.is_held();
        (gone && !job.hold.ended.load(Ordering::Relaxed)).then(|| job.taken_over(SOMEBODY))
    }

    /// Looks at both guests, and makes sure that nobody else has taken the move over.
    pub(super) async fn still_ours(&self, job: &GuestMove) -> Result<Guests, MoveError> {
        let (source, target) = self.guests(job).await?;
        match self.not_ours(job, source.as_ref(), target.as_ref()) {
            Some(error) => Err(error),
            None => Ok((source, target)),
        }
    }

    /// Looks at both guests, and makes sure that the move is still to be gone on with by this run.
    pub(super) async fn guests_of_ours(&self, job: &GuestMove) -> Result<Guests, MoveError> {
        let (source, target) = self.still_ours(job).await?;
        match self.ended_by_another(job, target.as_ref()) {
            Some(error) => Err(error),
            None => Ok((source, target)),
        }
    }

    /// Returns what an error comes from: whoever has taken the move over is why our own calls and copies fail.
    pub(super) async fn or_lost(&self, job: &GuestMove, error: MoveError) -> MoveError {
        let told = matches!(
            error,
            MoveError::Held { .. }
                | MoveError::TakenOver { .. }
                | MoveError::Interrupted { .. }
                | MoveError::Declined { .. }
        );
        if told || !job.hold.is_held() {
            return error;
        }
        match self.guests_of_ours(job).await {
            Err(lost @ MoveError::TakenOver { .. }) => {
                log::debug!("{error}, and somebody else works on it");
                lost
            }
            _ => error,
        }
    }
}
