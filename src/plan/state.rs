//! The ladder of a move: which rung the facts stand for.
//!
//! ```text
//! rung          source shows       target shows                 next step
//! ------------  -----------------  ---------------------------  -----------------------------------------------
//! Untouched     web1               nothing                      Place: web1--CREATING, real configuration, no drives
//! Placed        web1 running       --CREATING, a volume lacks   Precopy
//!                                  its first copy
//! Precopied     web1 running       --CREATING, all have data    Precopy until small enough, confirm, StopSource
//! Stopped       web1 stopped       --CREATING                   MarkSource: --CLONING and onboot=0 in one call
//! Marked        --CLONING          a volume lacks source data   FinalDelta (with verification)
//! Synced        --CLONING          data equal, drives missing   Attach
//! Attached      --CLONING          data equal, drives present   NameTarget: web1
//! TargetNamed   --CLONING          web1 stopped                 RetireSource: --MIGRATED, onboot=0, note, in one call
//! SwitchedOver  --MIGRATED         web1 stopped, marked         StartTarget, unless told not to
//! Started       --MIGRATED         web1 running, marked         Tidy: own files, then notes and onboot in one call
//! Done          --MIGRATED         web1, no mark                nothing
//! ```
//! A guest that a task is starting or stopping just now is on no rung (Unsettled): the task is waited for.
//! Anything else is a contradiction: nothing is touched, the facts are listed.
//!
//! Rules, each found by running a model of this table over tens of thousands of schedules (tests/crash_model.rs):
//! 1. *Synced is a fact, never a flag*: the source was not written to since the pass that compared it.
//! 2. *Data is judged before configuration*: drives that are present prove nothing about their content.
//! 3. The mark goes last: as long as it is there, somebody has to finish the move.
//! 4. onboot=0 goes with MarkSource, in the same call: a node that reboots must not start the source again.
//! 5. Never two running copies: the target is started only when the source is stopped and retired, and the source is
//!    asked once more right before.
//! 6. A target is started on proof, not on trust: a pass of somebody who was taken over from may end late and take the
//!    proof with it. Once our own files are being removed the proof goes with them, so the mark says that first.
//! 7. A task outlives whoever began it: a source that is being shut down does not run any more, whatever its status says,
//!    and an abort that left it to that would leave it stopped.
//!
//! Pure. Read next: `step.rs`.

use std::fmt;

use super::mark::NameMark;
use crate::pve::guest::Power;

/// What was seen of one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The mark in its name.
    pub name: NameMark,
    /// Whether it runs.
    pub power: Power,
    /// Whether a task is starting or stopping it just now, so that `power` will not be true for long.
    pub changing: bool,
}

/// What was seen of one copied volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nothing was copied yet.
    Missing,
    /// Some or all was copied, but nobody compared it with a stopped source.
    Partial,
    /// It was compared equal once; the source was written to since.
    SourceNewer,
    /// It was compared equal once; the target was written to since, the source was not.
    TargetNewer,
    /// It was compared equal, and neither was written to since.
    Equal,
    /// There is a volume, and nothing of ours to judge it by: already tidied.
    Unjudged,
}

/// Everything the rung is derived from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The source guest, by its VMID; `None` when it is gone.
    pub source: Option<Seen>,
    /// The target guest that carries the mark of this move.
    pub target: Option<Seen>,
    /// All volumes that are copied.
    pub data: Vec<Data>,
    /// Whether every drive of the plan is on the target with its planned volume.
    pub attached: bool,
    /// Whether the mark says that the target is the guest, and that only our own things are still to be removed.
    pub finishing: bool,
}

impl Facts {
    /// Returns the same with all data taken for equal: no higher rung is possible, whatever the hosts will tell.
    pub fn at_most(&self) -> Facts {
        Facts {
            data: vec![Data::Equal; self.data.len()],
            ..self.clone()
        }
    }

    /// Says whether a task is at work whose end decides where the guest runs. What stops a target that runs does not: its
    /// data is the guest's already.
    pub fn is_changing(&self) -> bool {
        let target = self.target.as_ref();
        self.source.as_ref().is_some_and(|source| source.changing)
            || target.is_some_and(|target| target.changing && target.power != Power::Running)
    }
}

/// A place on the ladder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rung {
    /// Nothing done yet.
    Untouched,
    /// The placeholder is there.
    Placed,
    /// All volumes have been copied once while the guest runs.
    Precopied,
    /// The source is stopped under its own name.
    Stopped,
    /// The source is stopped and marked.
    Marked,
    /// The data is equal.
    Synced,
    /// The drives are attached.
    Attached,
    /// The target has the guest's name.
    TargetNamed,
    /// The source is retired.
    SwitchedOver,
    /// The target runs; our own things are still there.
    Started,
    /// Finished.
    Done,
    /// No rung yet: a task that starts or stops one of the guests is still at work. Holds what was seen.
    Unsettled(String),
    /// Facts that no move of ours leaves behind.
    Contradiction(String),
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Rung::Untouched => "untouched",
            Rung::Placed => "placed",
            Rung::Precopied => "precopied",
            Rung::Stopped => "stopped",
            Rung::Marked => "marked",
            Rung::Synced => "synced",
            Rung::Attached => "attached",
            Rung::TargetNamed => "target-named",
            Rung::SwitchedOver => "switched-over",
            Rung::Started => "started",
            Rung::Done => "done",
            Rung::Unsettled(_) => "unsettled",
            Rung::Contradiction(_) => "contradiction",
        })
    }
}

/// Derives the rung from what was seen.
pub fn derive(facts: &Facts) -> Rung {
    let contradiction = |text: &str| Rung::Contradiction(text.to_owned());
    let Some(source) = &facts.source else {
        return contradiction(match facts.target {
            Some(_) => "the source guest is gone, but a move of it is under way",
            None => {
                "the source guest is gone, and no target guest carries the mark of a move of it"
            }
        });
    };
    let Some(target) = &facts.target else {
        return match source.name {
            NameMark::Plain => Rung::Untouched,
            NameMark::Creating => {
                contradiction("the source guest is itself the placeholder of another move")
            }
            NameMark::Cloning => contradiction(
                "the source is marked --CLONING, but no target guest carries its mark",
            ),
            NameMark::Migrated => Rung::Done,
        };
    };
    if source.power == Power::Unknown || target.power == Power::Unknown {
        return contradiction("a node does not say whether the guest runs");
    }
    let source_runs = source.power == Power::Running;
    let target_runs = target.power == Power::Running;
    if source_runs && target_runs {
        return contradiction("the guest runs on both clusters");
    }
    if facts.is_changing() {
        return Rung::Unsettled(match source.changing {
            true => "a task is starting or stopping the source".to_owned(),
            false => "a task is starting the target".to_owned(),
        });
    }
    let equal = facts.data.iter().all(|data| *data == Data::Equal);
    let unproven = |data: &Data| matches!(data, Data::Missing | Data::Partial);
    match (source.name, target.name) {
        (NameMark::Plain | NameMark::Cloning, NameMark::Plain | NameMark::Creating)
            if facts.finishing =>
        {
            contradiction(
                "the target is the guest already, but the source is not retired; somebody gave it its name back",
            )
        }
        (NameMark::Plain, NameMark::Creating) if target_runs => {
            contradiction("the placeholder is running")
        }
        (NameMark::Plain, NameMark::Creating) if !source_runs => Rung::Stopped,
        (NameMark::Plain, NameMark::Creating) => {
            if facts.data.contains(&Data::Missing) {
                Rung::Placed
            } else {
                Rung::Precopied
            }
        }
        (NameMark::Cloning, NameMark::Creating | NameMark::Plain) if source_runs => {
            contradiction("the source runs although it is marked --CLONING; somebody started it")
        }
        (NameMark::Cloning, NameMark::Creating | NameMark::Plain) if target_runs => {
            contradiction("the target runs before the source was retired; somebody started it")
        }
        // Rule 2: whatever is attached or named, unequal data comes first.
        (NameMark::Cloning, NameMark::Creating | NameMark::Plain) if !equal => Rung::Marked,
        (NameMark::Cloning, NameMark::Creating | NameMark::Plain) if !facts.attached => {
            Rung::Synced
        }
        (NameMark::Cloning, NameMark::Creating) => Rung::Attached,
        (NameMark::Cloning, NameMark::Plain) => Rung::TargetNamed,
        (NameMark::Migrated, NameMark::Plain) if source_runs => {
            contradiction("the retired source --MIGRATED runs; somebody started it")
        }
        // From here on the target's data is the newer one: it is never copied again.
        (NameMark::Migrated, NameMark::Plain) if target_runs => Rung::Started,
        (NameMark::Migrated, NameMark::Plain) if facts.finishing => Rung::SwitchedOver,
        (NameMark::Migrated, NameMark::Plain) if facts.data.contains(&Data::SourceNewer) => {
            contradiction(
                "the retired source was written to after it had been compared; somebody used it meanwhile",
            )
        }
        // Rule 6.
        (NameMark::Migrated, NameMark::Plain) if facts.data.iter().any(unproven) => contradiction(
            "nothing proves any more that the target has all that the retired source has: somebody else's copy ended \
             late, or the proof was removed. If nobody has used the target, rename the source to --CLONING, and the same \
             command compares them again; if somebody has, start the target, and the same command tidies up",
        ),
        (NameMark::Migrated, NameMark::Plain) => Rung::SwitchedOver,
        (NameMark::Plain, NameMark::Plain) => {
            contradiction("both clusters have the guest under its own name")
        }
        (source, target) => Rung::Contradiction(format!(
            "the names do not belong together (source {source:?}, target {target:?})"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        source: Option<(NameMark, Power)>,
        target: Option<(NameMark, Power)>,
        data: &[Data],
        attached: bool,
    ) -> String {
        let seen = |seen: Option<(NameMark, Power)>| {
            seen.map(|(name, power)| Seen {
                name,
                power,
                changing: false,
            })
        };
        derive(&Facts {
            source: seen(source),
            target: seen(target),
            data: data.to_vec(),
            attached,
            finishing: false,
        })
        .to_string()
    }

    /// Our own files go one by one then, and the proof with them.
    #[test]
    fn a_move_that_is_finishing_is_not_judged_by_its_data() {
        use NameMark::{Cloning, Creating, Migrated, Plain};
        let at = |source, target, power| {
            let seen = |name, power| {
                Some(Seen {
                    name,
                    power,
                    changing: false,
                })
            };
            derive(&Facts {
                source: seen(source, Power::Stopped),
                target: seen(target, power),
                data: vec![Data::SourceNewer, Data::Partial, Data::Missing],
                attached: true,
                finishing: true,
            })
            .to_string()
        };
        assert_eq!(at(Migrated, Plain, Power::Stopped), "switched-over");
        assert_eq!(at(Migrated, Plain, Power::Running), "started");
        for source in [Plain, Cloning] {
            for target in [Plain, Creating] {
                assert_eq!(at(source, target, Power::Stopped), "contradiction");
            }
        }
    }

    #[test]
    fn every_row_of_the_table() {
        use NameMark::{Cloning, Creating, Migrated, Plain};
        use Power::{Running, Stopped};
        let up = |name| Some((name, Running));
        let down = |name| Some((name, Stopped));
        assert_eq!(check(up(Plain), None, &[], false), "untouched");
        assert_eq!(check(down(Plain), None, &[], false), "untouched");
        assert_eq!(
            check(
                up(Plain),
                down(Creating),
                &[Data::Partial, Data::Missing],
                false
            ),
            "placed"
        );
        assert_eq!(
            check(
                up(Plain),
                down(Creating),
                &[Data::Partial, Data::Equal],
                false
            ),
            "precopied"
        );
        assert_eq!(
            check(down(Plain), down(Creating), &[Data::Missing], false),
            "stopped"
        );
        assert_eq!(
            check(
                down(Cloning),
                down(Creating),
                &[Data::Equal, Data::SourceNewer],
                false
            ),
            "marked"
        );
        assert_eq!(
            check(down(Cloning), down(Creating), &[Data::Equal], false),
            "synced"
        );
        assert_eq!(
            check(down(Cloning), down(Creating), &[Data::Equal], true),
            "attached"
        );
        assert_eq!(
            check(down(Cloning), down(Plain), &[Data::Equal], true),
            "target-named"
        );
        assert_eq!(
            check(down(Cloning), down(Plain), &[Data::TargetNewer], true),
            "marked"
        );
        assert_eq!(
            check(down(Migrated), down(Plain), &[Data::TargetNewer], true),
            "switched-over"
        );
        assert_eq!(
            check(down(Migrated), down(Plain), &[Data::Unjudged], true),
            "switched-over"
        );
        for unproven in [Data::Partial, Data::Missing] {
            let data = [Data::Equal, unproven];
            let found = check(down(Migrated), down(Plain), &data, true);
            assert_eq!(found, "contradiction", "{unproven:?}");
        }
        assert_eq!(
            check(down(Migrated), down(Plain), &[Data::SourceNewer], true),
            "contradiction"
        );
        assert_eq!(
            check(down(Migrated), up(Plain), &[Data::TargetNewer], true),
            "started"
        );
        assert_eq!(check(down(Migrated), None, &[], false), "done");
        for (source, target) in [
            (None, down(Creating)),
            (up(Plain), up(Plain)),
            (up(Plain), down(Plain)),
            (up(Cloning), down(Creating)),
            (down(Cloning), up(Plain)),
            (up(Migrated), down(Plain)),
            (down(Migrated), down(Creating)),
            (down(Cloning), None),
            (down(Plain), up(Creating)),
            (Some((Plain, Power::Unknown)), down(Creating)),
        ] {
            assert_eq!(
                check(source, target, &[Data::Equal], true),
                "contradiction",
                "{source:?} {target:?}"
            );
        }
    }
}
