//! Going back to the source when the target does not come up: the walk back, where it was asked for beforehand.
//!
//! ```text
//! seen                                                step
//! --------------------------------------------------  ------------------------------------------------------
//! source --MIGRATED and stopped, target runs          StopTarget: killed, since nothing of it is wanted
//! anything else                                       what `abort.rs` does, as if the data were equal
//! the source is back, the placeholder stopped         settled: the placeholder and its volumes stay
//! ```
//! That it was asked for stands in the mark, so it is gone on with wherever it was interrupted. Without that, nothing that
//! is only on the target is ever given up: that rule is `abort.rs`'s, and is not touched here. Two things are refused in any
//! case: two running copies, and a retired source that somebody has used.
//!
//! Pure. Read next: `moves/returning.rs`, which performs the steps.

use super::abort::{Back, Before, Placeholder, StepBack, back};
use super::mark::NameMark;
use super::state::{Data, Facts};
use crate::pve::guest::Power;

/// `--on-failure`: what happens when a guest does not come up on its target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Everything stays as it is, and the failure says what to type.
    #[default]
    Keep,
    /// The source is given back and started; what was copied stays for another try.
    Return,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The target is killed.
    StopTarget,
    /// A step of the way back.
    Step(StepBack),
    /// The source is back, and nothing but the mark says that it was ever away.
    Settled,
    /// It cannot go on: why, and what to do.
    Refuse {
        /// What was seen.
        reason: String,
        /// What to do instead.
        remedy: String,
    },
}

/// Returns the next step of a return. `start` says whether the source is to run at its end.
pub fn next(facts: &Facts, start: bool) -> Next {
    if let (Some(source), Some(target)) = (&facts.source, &facts.target) {
        let retired = source.name == NameMark::Migrated;
        let stopped = source.power == Power::Stopped;
        let named = target.name == NameMark::Plain;
        if retired && stopped && facts.data.contains(&Data::SourceNewer) {
            return Next::Refuse {
                reason: "the retired source was written to after it had been compared: somebody used it meanwhile"
                    .to_owned(),
                remedy: "look at both guests, stop the one that is not wanted, and give the other its name".to_owned(),
            };
        }
        // One that is finishing is the guest already: `back` refuses.
        if retired && stopped && named && target.power == Power::Running && !facts.finishing {
            return Next::StopTarget;
        }
    }
    // What the target holds is given up: that was asked for.
    let before = Before {
        start,
        discarded: false,
        // With what was copied.
        placeholder: Placeholder::Left,
    };
    match back(&facts.at_most(), before) {
        Back::Step(step) => Next::Step(step),
        Back::Done => Next::Settled,
        Back::Refuse { reason, remedy } => Next::Refuse { reason, remedy },
    }
}

/// Says whether a guest that does not come up may be given up for its source without anybody looking at it.
///
/// Only a start of this very run from data that were equal counts, or one that is not older than the check would have
/// watched: then nothing is on the target but the boot that failed. `equal` is `None` when this run did not start it.
pub fn may_give_up(
    equal: Option<bool>,
    uptime: Option<u64>,
    watched: Option<std::time::Duration>,
) -> bool {
    match (equal, uptime, watched) {
        (Some(equal), _, _) => equal,
        (None, Some(uptime), Some(watched)) => uptime <= watched.as_secs(),
        (None, _, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan::abort::StepBack;
    use crate::plan::state::Seen;
    use NameMark::{Cloning, Creating, Migrated, Plain};
    use Power::{Running, Stopped};

    fn seen(source: (NameMark, Power), target: (NameMark, Power), data: Data, start: bool) -> Next {
        let seen = |(name, power)| {
            Some(Seen {
                name,
                power,
                changing: false,
            })
        };
        next(
            &Facts {
                source: seen(source),
                target: seen(target),
                data: vec![data],
                attached: true,
                finishing: false,
            },
            start,
        )
    }

    #[test]
    fn the_source_is_never_started_before_the_target_has_stopped_and_given_its_name_back() {
        let mut source = (Migrated, Stopped);
        let mut target = (Plain, Running);
        let mut steps = Vec::new();
        loop {
            match seen(source, target, Data::TargetNewer, true) {
                Next::StopTarget => {
                    steps.push("stop-target".to_owned());
                    target.1 = Stopped;
                }
                Next::Step(step) => {
                    steps.push(step.to_string());
                    match step {
                        StepBack::UnretireSource => source.0 = Cloning,
                        StepBack::UnnameTarget => target.0 = Creating,
                        StepBack::RestoreSource => source.0 = Plain,
                        StepBack::StartSource => source.1 = Running,
                        StepBack::Discard | StepBack::Remove | StepBack::Shelve => {
                            panic!("the placeholder stays")
                        }
                        StepBack::AwaitTask => panic!("no task is at work"),
                    }
                }
                Next::Settled => break,
                Next::Refuse { reason, .. } => panic!("{reason}"),
            }
            assert!(
                !(source.1 == Running && (target.1 == Running || target.0 == Plain)),
                "{steps:?}"
            );
        }
        assert_eq!(
            steps,
            [
                "stop-target",
                "unretire-source",
                "unname-target",
                "restore-source",
                "start-source"
            ]
        );
        assert_eq!((source, target), ((Plain, Running), (Creating, Stopped)));
    }

    #[test]
    fn it_goes_on_from_wherever_it_was_interrupted() {
        let step = Next::Step;
        for (source, target, expect) in [
            (
                (Migrated, Stopped),
                (Plain, Stopped),
                step(StepBack::UnretireSource),
            ),
            (
                (Cloning, Stopped),
                (Plain, Stopped),
                step(StepBack::UnnameTarget),
            ),
            (
                (Cloning, Stopped),
                (Creating, Stopped),
                step(StepBack::RestoreSource),
            ),
            (
                (Plain, Stopped),
                (Creating, Stopped),
                step(StepBack::StartSource),
            ),
            ((Plain, Running), (Creating, Stopped), Next::Settled),
        ] {
            for data in [
                Data::TargetNewer,
                Data::Partial,
                Data::Unjudged,
                Data::Equal,
            ] {
                assert_eq!(
                    seen(source, target, data, true),
                    expect,
                    "{source:?} {target:?}"
                );
            }
        }
        // A guest that did not run before is not started.
        let at_rest = seen(
            (Plain, Stopped),
            (Creating, Stopped),
            Data::TargetNewer,
            false,
        );
        assert_eq!(at_rest, Next::Settled);
    }

    #[test]
    fn contradictions_are_refused() {
        for (source, target, data) in [
            ((Migrated, Running), (Plain, Running), Data::TargetNewer),
            ((Migrated, Stopped), (Plain, Running), Data::SourceNewer),
            ((Migrated, Stopped), (Plain, Stopped), Data::SourceNewer),
            ((Migrated, Running), (Plain, Stopped), Data::TargetNewer),
            ((Cloning, Stopped), (Plain, Running), Data::TargetNewer),
            ((Plain, Running), (Creating, Running), Data::TargetNewer),
            (
                (Migrated, Stopped),
                (Plain, Power::Unknown),
                Data::TargetNewer,
            ),
        ] {
            let next = seen(source, target, data, true);
            assert!(
                matches!(next, Next::Refuse { .. }),
                "{source:?} {target:?}: {next:?}"
            );
        }
    }

    #[test]
    fn only_a_failed_boot_is_given_up_unseen() {
        let watched = Some(Duration::from_secs(120));
        assert!(may_give_up(Some(true), Some(9_999), None));
        // It ran there before, and what it wrote then is more than a failed boot.
        assert!(!may_give_up(Some(false), Some(3), watched));
        assert!(may_give_up(None, Some(119), watched));
        assert!(!may_give_up(None, Some(8 * 3_600), watched));
        assert!(!may_give_up(None, None, watched));
        assert!(!may_give_up(None, Some(3), None));
    }
}
