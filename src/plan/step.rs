//! The next step of a move, and when pre-copying has gone on long enough.
//!
//! Pure. Read next: `moves/perform.rs`, which carries each step out.

use std::fmt;
use std::time::Duration;

use super::state::Rung;
use crate::units::Bytes;

/// One step of the ladder. Each may be repeated without harm, and leaves a rung that can be derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Wait until a task has ended that is starting or stopping one of the guests.
    AwaitTask,
    /// Create the placeholder.
    Place,
    /// One pre-copy round over all volumes.
    Precopy,
    /// Shut the source down.
    StopSource,
    /// Rename the source `--CLONING`, with onboot=0.
    MarkSource,
    /// Copy what differs and verify it.
    FinalDelta,
    /// Attach the volumes to the target.
    Attach,
    /// Give the target its name.
    NameTarget,
    /// Rename the source `--MIGRATED`.
    RetireSource,
    /// Start the target.
    StartTarget,
    /// Remove our own files, then the mark.
    Tidy,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Step::AwaitTask => "await-task",
            Step::Place => "place",
            Step::Precopy => "precopy",
            Step::StopSource => "stop-source",
            Step::MarkSource => "mark-source",
            Step::FinalDelta => "final-delta",
            Step::Attach => "attach",
            Step::NameTarget => "name-target",
            Step::RetireSource => "retire-source",
            Step::StartTarget => "start-target",
            Step::Tidy => "tidy",
        })
    }
}

/// What the operator's request means for the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wishes {
    /// Whether the target is to be started: it ran before, and nobody asked to leave it stopped.
    pub start: bool,
}

/// Returns the next step; `None` when the move is done or must not go on.
///
/// On [`Rung::Precopied`] this is the step after pre-copying has settled ([`settle`]).
pub fn next(rung: &Rung, wishes: Wishes) -> Option<Step> {
    match rung {
        Rung::Untouched => Some(Step::Place),
        Rung::Placed => Some(Step::Precopy),
        Rung::Precopied => Some(Step::StopSource),
        Rung::Stopped => Some(Step::MarkSource),
        Rung::Marked => Some(Step::FinalDelta),
        Rung::Synced => Some(Step::Attach),
        Rung::Attached => Some(Step::NameTarget),
        Rung::TargetNamed => Some(Step::RetireSource),
        Rung::SwitchedOver if wishes.start => Some(Step::StartTarget),
        Rung::SwitchedOver | Rung::Started => Some(Step::Tidy),
        Rung::Unsettled(_) => Some(Step::AwaitTask),
        Rung::Done | Rung::Contradiction(_) => None,
    }
}

/// One pre-copy round over all volumes of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// Content bytes that differed and were carried.
    pub carried: Bytes,
    /// How long the round took.
    pub duration: Duration,
}

/// Whether to pre-copy again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// Another round will make the final delta smaller.
    Again,
    /// The final delta is small enough, or does not become smaller.
    Enough {
        /// How long the final delta is estimated to take.
        downtime: Duration,
        /// Whether it fits what the operator allows.
        fits: bool,
    },
}

/// Rounds after which a guest that dirties faster than the link carries is not pre-copied any longer.
///
/// Each round of a converging guest shrinks by a factor; ten rounds without settling show that it does not converge.
const MOST_ROUNDS: usize = 10;

/// A final delta shorter than this is not worth another round: stopping and starting a guest takes longer.
const SMALL: Duration = Duration::from_secs(3);

/// Decides whether another pre-copy round pays, from the rounds of this run.
///
/// The final delta is estimated by the newest round: what was dirtied while it ran, at the rate of the dirtying, must be
/// carried again, and the whole source must be read once (`scan`, the time of reading without carrying).
pub fn settle(rounds: &[Round], max_downtime: Option<Duration>) -> Settle {
    let Some(last) = rounds.last() else {
        return Settle::Again;
    };
    let fits = |downtime: Duration| max_downtime.is_none_or(|most| downtime <= most);
    // The first round carries everything; what it leaves dirty is not known before a second one.
    if rounds.len() < 2 {
        return if last.duration <= SMALL && fits(last.duration) {
            Settle::Enough {
                downtime: last.duration,
                fits: true,
            }
        } else {
            Settle::Again
        };
    }
    let downtime = last.duration;
    let before = rounds[rounds.len() - 2];
    let gaining = last.duration.as_secs_f64() < before.duration.as_secs_f64() * 0.8;
    let wanted = match max_downtime {
        Some(most) => downtime > most,
        None => downtime > SMALL,
    };
    if wanted && gaining && rounds.len() < MOST_ROUNDS {
        Settle::Again
    } else {
        Settle::Enough {
            downtime,
            fits: fits(downtime),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(seconds: &[f64], max_downtime: Option<u64>) -> Settle {
        let rounds: Vec<Round> = seconds
            .iter()
            .map(|seconds| Round {
                carried: Bytes::mib(1),
                duration: Duration::from_secs_f64(*seconds),
            })
            .collect();
        settle(&rounds, max_downtime.map(Duration::from_secs))
    }

    #[test]
    fn precopying_goes_on_while_it_pays() {
        assert_eq!(check(&[], None), Settle::Again);
        assert_eq!(check(&[600.0], None), Settle::Again);
        assert_eq!(check(&[600.0, 60.0], None), Settle::Again);
        let enough = |seconds: f64, fits| Settle::Enough {
            downtime: Duration::from_secs_f64(seconds),
            fits,
        };
        assert_eq!(check(&[600.0, 60.0, 55.0], None), enough(55.0, true));
        assert_eq!(check(&[600.0, 2.0], None), enough(2.0, true));
        assert_eq!(check(&[1.5], None), enough(1.5, true));
        assert_eq!(check(&[600.0, 60.0], Some(90)), enough(60.0, true));
        assert_eq!(check(&[600.0, 60.0, 55.0], Some(30)), enough(55.0, false));
        assert_eq!(check(&[600.0, 60.0, 40.0], Some(30)), Settle::Again);
        let endless: Vec<f64> = (0..10).map(|round| 1e6 * 0.5f64.powi(round)).collect();
        assert_eq!(check(&endless, None), enough(endless[9], true));
    }

    #[test]
    fn a_finished_move_has_no_next_step() {
        for start in [true, false] {
            assert_eq!(next(&Rung::Done, Wishes { start }), None);
            assert_eq!(
                next(&Rung::Contradiction(String::new()), Wishes { start }),
                None
            );
        }
        assert_eq!(
            next(&Rung::SwitchedOver, Wishes { start: false }),
            Some(Step::Tidy)
        );
    }
}
