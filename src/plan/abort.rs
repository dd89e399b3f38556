//! Walking back: which step takes a move one rung down, until the source is as it was.
//!
//! ```text
//! seen                                       step back
//! -----------------------------------------  ----------------------------------------------------------------
//! a task starts or stops one of them       AwaitTask: what is true then decides
//! source --MIGRATED, target stopped, data    UnretireSource: --CLONING, the note goes
//!   equal (the target never ran)
//! target has the guest's name                UnnameTarget: --CREATING
//! source --CLONING                           RestoreSource: its name, onboot and notes, in one call
//! source stopped, and ran before             StartSource
//! the placeholder, and what was copied       Discard: the copies and files of ours, while the source runs already
//! the placeholder alone                      Remove: the placeholder, and with it the mark
//! the placeholder is a former self           Shelve: --MIGRATED, onboot=0 and a note, in one call; nothing is removed
//! no mark, source under its name             done
//! ```
//! Each step is a rung of the ladder itself, so a move that is aborted half-way can be aborted again, or resumed. The
//! service comes first: the source runs again before anything is removed. Three things are never done: a source is not
//! given back while the target runs; a target that was written to after it had been compared is not removed; nothing is
//! removed while the source is not back under its name. A former self that a way back was going to is shelved: retired
//! again, with its volumes partly overwritten, and found by the next way back (`back.rs`).
//!
//! Pure. Read next: `moves/abort.rs`, which performs the steps; `tests/crash_model.rs`, where it is tried.

use std::fmt;

use super::mark::{Mark, NameMark};
use super::state::{Data, Facts, Rung, derive};
use crate::pve::guest::Power;

/// One step back. Each may be repeated without harm, and leaves a rung that can be derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepBack {
    /// Wait until a task has ended that is starting or stopping one of the guests.
    AwaitTask,
    /// Rename the source from `--MIGRATED` to `--CLONING`, and remove the note.
    UnretireSource,
    /// Rename the target to `--CREATING`.
    UnnameTarget,
    /// Give the source its name, its onboot and its notes back.
    RestoreSource,
    /// Start the source.
    StartSource,
    /// Remove what was copied.
    Discard,
    /// Remove the placeholder.
    Remove,
    /// Retire the guest's former self again, with all its volumes: it was the placeholder of a way back.
    Shelve,
}

impl fmt::Display for StepBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            StepBack::AwaitTask => "await-task",
            StepBack::UnretireSource => "unretire-source",
            StepBack::UnnameTarget => "unname-target",
            StepBack::RestoreSource => "restore-source",
            StepBack::StartSource => "start-source",
            StepBack::Discard => "discard",
            StepBack::Remove => "remove",
            StepBack::Shelve => "shelve",
        })
    }
}

/// What the walk back must know beside the facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// Whether the source is to run at the end: it ran before the move, and nobody asked to leave it stopped.
    pub start: bool,
    /// Whether this run has discarded the copies.
    pub discarded: bool,
    /// What becomes of the placeholder.
    pub placeholder: Placeholder,
}

/// What becomes of a placeholder once the source is back under its name, with its power as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// It goes, with what was copied.
    Removed,
    /// It is the guest's own former self, on a way back: neither it nor its volumes are ever removed, and it is retired again.
    Shelved,
    /// It stays as it is, with the mark, for another try.
    Left,
}

impl Placeholder {
    /// Returns what an abort does with the placeholder of a move.
    pub fn of(mark: &Mark) -> Placeholder {
        match mark.kept {
            Some(_) => Placeholder::Shelved,
            None => Placeholder::Removed,
        }
    }
}

/// What comes next on the way back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Back {
    /// This step.
    Step(StepBack),
    /// The source is as it was, and nothing of the move is left but a former self.
    Done,
    /// There is no way back by this: why, and what is.
    Refuse {
        /// What was seen.
        reason: String,
        /// What to do instead.
        remedy: String,
    },
}

/// Returns the next step back.
pub fn back(facts: &Facts, before: Before) -> Back {
    let refuse = |reason: &str, remedy: &str| Back::Refuse {
        reason: reason.to_owned(),
        remedy: remedy.to_owned(),
    };
    let rung = derive(facts);
    let (source, target) = match (&facts.source, &facts.target) {
        (Some(source), Some(target)) => (source, target),
        _ => {
            return match rung {
                Rung::Untouched => Back::Done,
                Rung::Done => refuse(
                    "the move is finished",
                    "move it back with its new data (proxmove back), or start the retired source by hand",
                ),
                Rung::Contradiction(seen) => refuse(&seen, "see what `proxmove status` says"),
                _ => refuse(
                    "nothing of this move was found",
                    "see what `proxmove status` says",
                ),
            };
        }
    };
    let unknown = source.power == Power::Unknown || target.power == Power::Unknown;
    if unknown {
        return refuse(
            "a node does not say whether the guest runs",
            "bring the node back, and run the same command again",
        );
    }
    if facts.is_changing() {
        return Back::Step(StepBack::AwaitTask);
    }
    if target.power == Power::Running {
        return if source.power == Power::Running {
            refuse(
                "the guest runs on both clusters",
                "stop the one that is not wanted, and run the same command again",
            )
        } else {
            refuse(
                "the guest runs on the target, and what it wrote there is only there",
                "move it back with its new data (proxmove back), or, if nothing of that is wanted, give it up: proxmove abort \
                 --discard-target",
            )
        };
    }
    if facts.finishing {
        return refuse(
            "the target is the guest already, and what it holds may be only there",
            "resume the move, or move it back with its new data (proxmove back)",
        );
    }
    if facts.data.contains(&Data::TargetNewer) {
        return refuse(
            "the target was written to after it had been compared: somebody used it, and what it holds is only there",
            "resume the move, move it back with its new data (proxmove back), or, if nothing of that is wanted, give it up: \
             proxmove abort --discard-target",
        );
    }
    match (source.name, target.name) {
        (NameMark::Migrated, NameMark::Plain | NameMark::Creating) => {
            if source.power == Power::Running {
                refuse(
                    "the retired source runs; somebody started it",
                    "stop it, or rename it to the guest's own name if it is the one that is wanted, and run the same \
                     command again",
                )
            } else if facts.data.iter().all(|data| *data == Data::Equal) {
                Back::Step(StepBack::UnretireSource)
            } else {
                refuse(
                    "the source is retired, and nothing proves any more that the target was never used",
                    "move it back with its data (proxmove back), or resume the move",
                )
            }
        }
        (NameMark::Cloning | NameMark::Plain, NameMark::Plain) => {
            Back::Step(StepBack::UnnameTarget)
        }
        (NameMark::Cloning, NameMark::Creating) => Back::Step(StepBack::RestoreSource),
        (NameMark::Plain, NameMark::Creating) if source.power == Power::Stopped && before.start => {
            Back::Step(StepBack::StartSource)
        }
        (NameMark::Plain, NameMark::Creating) => match before.placeholder {
            Placeholder::Left => Back::Done,
            Placeholder::Shelved => Back::Step(StepBack::Shelve),
            Placeholder::Removed if before.discarded => Back::Step(StepBack::Remove),
            Placeholder::Removed => Back::Step(StepBack::Discard),
        },
        (NameMark::Creating, _) | (_, NameMark::Cloning | NameMark::Migrated) => match rung {
            Rung::Contradiction(seen) => refuse(&seen, "see what `proxmove status` says"),
            _ => refuse(
                "the names do not belong together",
                "see what `proxmove status` says",
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::state::Seen;
    use NameMark::{Cloning, Creating, Migrated, Plain};
    use Power::{Running, Stopped};

    const BEFORE: Before = Before {
        start: true,
        discarded: false,
        placeholder: Placeholder::Removed,
    };

    fn seen(
        source: (NameMark, Power),
        target: Option<(NameMark, Power)>,
        data: Data,
        before: Before,
    ) -> Back {
        let seen = |(name, power)| Seen {
            name,
            power,
            changing: false,
        };
        back(
            &Facts {
                source: Some(seen(source)),
                target: target.map(seen),
                data: vec![data],
                attached: true,
                finishing: false,
            },
            before,
        )
    }

    #[test]
    fn every_row_of_the_table() {
        let check = |source, target, step: StepBack| {
            let found = seen(source, Some(target), Data::Equal, BEFORE);
            assert_eq!(found, Back::Step(step), "{source:?} {target:?}");
        };
        check(
            (Migrated, Stopped),
            (Plain, Stopped),
            StepBack::UnretireSource,
        );
        check((Cloning, Stopped), (Plain, Stopped), StepBack::UnnameTarget);
        check(
            (Cloning, Stopped),
            (Creating, Stopped),
            StepBack::RestoreSource,
        );
        check((Plain, Stopped), (Creating, Stopped), StepBack::StartSource);
        check((Plain, Running), (Creating, Stopped), StepBack::Discard);
        // Somebody helped by hand.
        check(
            (Cloning, Running),
            (Creating, Stopped),
            StepBack::RestoreSource,
        );
        check((Plain, Running), (Plain, Stopped), StepBack::UnnameTarget);
        let discarded = Before {
            discarded: true,
            ..BEFORE
        };
        let found = seen(
            (Plain, Running),
            Some((Creating, Stopped)),
            Data::Missing,
            discarded,
        );
        assert_eq!(found, Back::Step(StepBack::Remove));
        let stopped = Before {
            start: false,
            ..BEFORE
        };
        let found = seen(
            (Plain, Stopped),
            Some((Creating, Stopped)),
            Data::Missing,
            stopped,
        );
        assert_eq!(found, Back::Step(StepBack::Discard));
        // A former self is not removed, and retired again only when the source is as it was.
        let shelved = Before {
            placeholder: Placeholder::Shelved,
            ..BEFORE
        };
        for (source, step) in [
            ((Cloning, Stopped), StepBack::RestoreSource),
            ((Plain, Stopped), StepBack::StartSource),
            ((Plain, Running), StepBack::Shelve),
        ] {
            for data in [Data::Partial, Data::Equal, Data::Unjudged] {
                let found = seen(source, Some((Creating, Stopped)), data, shelved);
                assert_eq!(found, Back::Step(step), "{source:?}");
            }
        }
        assert_eq!(
            seen((Plain, Running), None, Data::Missing, BEFORE),
            Back::Done
        );
    }

    /// A shutdown outlives whoever asked for it.
    #[test]
    fn what_is_being_started_or_stopped_is_waited_for() {
        let check = |source: (NameMark, Power, bool), target: (NameMark, Power, bool)| {
            let seen = |(name, power, changing)| {
                Some(Seen {
                    name,
                    power,
                    changing,
                })
            };
            let facts = Facts {
                source: seen(source),
                target: seen(target),
                data: vec![Data::Equal],
                attached: true,
                finishing: false,
            };
            (derive(&facts).to_string(), back(&facts, BEFORE))
        };
        let wait = ("unsettled".to_owned(), Back::Step(StepBack::AwaitTask));
        for (source, target) in [
            ((Plain, Running, true), (Creating, Stopped, false)),
            ((Plain, Stopped, true), (Creating, Stopped, false)),
            ((Migrated, Stopped, false), (Plain, Stopped, true)),
            ((Cloning, Stopped, true), (Plain, Stopped, false)),
        ] {
            assert_eq!(check(source, target), wait, "{source:?} {target:?}");
        }
        // What the guest wrote on the target is only there, whether it is being stopped or not.
        let (rung, back) = check((Migrated, Stopped, false), (Plain, Running, true));
        assert_eq!(rung, "started");
        assert!(matches!(back, Back::Refuse { .. }));
    }

    #[test]
    fn what_is_only_on_the_target_is_never_thrown_away() {
        for source in [Plain, Cloning, Migrated] {
            for target in [Plain, Creating] {
                for power in [Stopped, Running] {
                    let newer = seen(
                        (source, power),
                        Some((target, Stopped)),
                        Data::TargetNewer,
                        BEFORE,
                    );
                    assert!(
                        matches!(newer, Back::Refuse { .. }),
                        "{source:?} {target:?} {power:?}"
                    );
                    let runs = seen(
                        (source, power),
                        Some((target, Running)),
                        Data::Equal,
                        BEFORE,
                    );
                    assert!(
                        matches!(runs, Back::Refuse { .. }),
                        "{source:?} {target:?} {power:?}"
                    );
                }
            }
        }
        for data in [
            Data::Unjudged,
            Data::SourceNewer,
            Data::Missing,
            Data::Partial,
        ] {
            let retired = seen((Migrated, Stopped), Some((Plain, Stopped)), data, BEFORE);
            assert!(matches!(retired, Back::Refuse { .. }), "{data:?}");
        }
        let done = seen((Migrated, Stopped), None, Data::Unjudged, BEFORE);
        assert!(matches!(done, Back::Refuse { .. }));
        for source in [Plain, Cloning, Migrated] {
            let seen = |name| Seen {
                name,
                power: Stopped,
                changing: false,
            };
            let finishing = Facts {
                source: Some(seen(source)),
                target: Some(seen(Plain)),
                data: vec![Data::Equal],
                attached: true,
                finishing: true,
            };
            let found = back(&finishing, BEFORE);
            assert!(matches!(found, Back::Refuse { .. }), "{source:?}");
        }
    }
}
