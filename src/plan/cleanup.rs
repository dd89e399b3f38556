//! Deciding what of ours may be removed: leftovers of moves, judged by the moves that are in progress.
//!
//! Pure. A leftover is known by its mark or name alone, and belongs to the move between two VMIDs; it goes when no such
//! move is in progress on any configured cluster. As long as a cluster did not answer, nobody can say that, and everything
//! stays. Guests and volumes never go. Read next: `transfer/leftovers.rs` (finding and removing), `moves/cleanup.rs`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::mark::{MIGRATED, Mark};
use super::status::MoveStatus;
use crate::pve::guest::GuestRef;
use crate::pve::id::ClusterAlias;

/// What a leftover is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A snapshot with our mark, and our hold on it.
    Snapshot,
    /// A bookmark with one of our names.
    Bookmark,
    /// A file or directory of ours in a temp directory.
    File,
    /// The uploaded porter, or a draft of it.
    Porter,
    /// A zvol with our mark: the target of a move.
    Volume,
    /// A guest with our mark: the placeholder of a move.
    Placeholder,
}

/// Something of ours on a storage host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// What it is.
    pub kind: Kind,
    /// Its whole name: `tank/vm-565-disk-0@proxmove-565-126-3-final`, or a path.
    pub name: String,
    /// What its mark says: `565-126`, or with a drive behind it. For files what their name says; empty for a porter.
    pub of: String,
    /// Bytes that are free when it is gone.
    pub bytes: u64,
    /// How long ago it was made, in seconds by its host's clock.
    pub age: i64,
    /// Whether a process uses it now.
    pub used: bool,
}

/// A move in progress: its mark, and the guest that bears it.
#[derive(Clone, Debug)]
pub struct InProgress {
    /// The target cluster.
    pub cluster: ClusterAlias,
    /// The guest with the mark.
    pub target: GuestRef,
    /// Its present name.
    pub present: String,
    /// The mark.
    pub mark: Mark,
}

impl InProgress {
    /// Returns the move's name in marks and files: `565-126`.
    pub fn name(&self) -> String {
        format!("{}-{}", self.mark.source.vmid, self.target.vmid)
    }

    fn told(&self) -> String {
        let Mark {
            name,
            source_cluster,
            source,
            by,
            since,
            ..
        } = &self.mark;
        format!(
            "the move of {name} ({source_cluster}/{} -> {}/{}) is in progress, begun by {by} on {since}",
            source.vmid, self.cluster, self.target.vmid
        )
    }
}

/// Everything that decides what may go.
#[derive(Clone, Debug, Default)]
pub struct Moves {
    /// The moves in progress on all configured clusters.
    pub in_progress: Vec<InProgress>,
    /// Clusters that did not answer, and why.
    pub unanswered: BTreeMap<ClusterAlias, String>,
}

/// What is done about a leftover, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes.
    Remove {
        /// What it was for.
        why: String,
    },
    /// It stays.
    Keep {
        /// Why.
        why: String,
    },
}

/// A porter this young may belong to a move that has not written its mark yet: it is uploaded right before.
const BEGINNING: i64 = 600;

/// Decides about a leftover.
pub fn decide(leftover: &Leftover, moves: &Moves) -> Fate {
    let keep = |why: String| Fate::Keep { why };
    let remove = |why: &str| Fate::Remove {
        why: why.to_owned(),
    };
    if leftover.used {
        return keep("a process uses it".to_owned());
    }
    if let Some((cluster, why)) = moves.unanswered.iter().next() {
        return keep(format!(
            "{cluster} cannot be asked whether a move in progress needs it: {why}"
        ));
    }
    if leftover.kind == Kind::Porter {
        return match moves.in_progress.first() {
            Some(at_work) => keep(format!("{}, and may need it", at_work.told())),
            None if leftover.age < BEGINNING => {
                keep("it was uploaded minutes ago; a move may be about to begin".to_owned())
            }
            None => remove("uploaded for a move, and no move is in progress"),
        };
    }
    let needs = |known: &&InProgress| belongs(&leftover.of, &known.name());
    if let Some(at_work) = moves.in_progress.iter().find(needs) {
        return keep(at_work.told());
    }
    match leftover.kind {
        Kind::Snapshot | Kind::Bookmark => Fate::Remove {
            why: format!(
                "kept by the move {}, so that the way back is an increment; without it everything is sent",
                between(&leftover.of)
            ),
        },
        Kind::File => Fate::Remove {
            why: format!("left by the move {}, which is over", between(&leftover.of)),
        },
        Kind::Volume => keep(format!(
            "a volume of the move {}, whose placeholder is gone; volumes are never removed here: if no guest has it, \
             zfs destroy it",
            between(&leftover.of)
        )),
        Kind::Placeholder | Kind::Porter => keep("guests are never removed here".to_owned()),
    }
}

/// Says whether a move may be given up although nobody said so of it by name: nobody works on it, and its source never
/// stopped for it, or is as it was again. An operator may still mean to go on with it, so that it is asked for.
pub fn is_abandoned(found: &MoveStatus) -> bool {
    found.certain
        && found.left == "as-it-was"
        && found.abort.is_some()
        && found.held.as_ref().is_none_or(|held| !held.alive)
}

/// Says why the guest that bears the mark of an abandoned move goes.
pub fn given_up(known: &InProgress) -> String {
    let end = match known.mark.kept {
        Some(_) => "the former self is retired again, and keeps its volumes",
        None => "what was copied goes with it",
    };
    format!(
        "{}; nobody works on it, and the source is as it was: {end}",
        known.told()
    )
}

/// Says what to do about the guest that bears the mark of a move.
pub fn placeholder(known: &InProgress) -> String {
    let source = &known.mark.source_cluster;
    let command = |verb: &str| {
        format!(
            "`proxmove {verb} {source} {} {}`",
            known.cluster, known.mark.name
        )
    };
    let undo = match &known.mark.kept {
        Some(_) => format!(
            "it is the guest's own former self: never delete it; {} gives the move up and retires it again, as \
             {}{MIGRATED}",
            command("abort"),
            known.mark.name
        ),
        None => format!("{} gives it up", command("abort")),
    };
    format!(
        "{}; {} finishes it ({undo})",
        known.told(),
        command("resume")
    )
}

/// Says whether a mark is of this move, with or without a drive behind.
fn belongs(of: &str, name: &str) -> bool {
    of.strip_prefix(name)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Returns `565 -> 126` for `565-126` and `565-126-scsi0`.
fn between(of: &str) -> String {
    let mut numbers = of.split('-');
    match (numbers.next(), numbers.next()) {
        (Some(from), Some(to)) => format!("{from} -> {to}"),
        _ => of.to_owned(),
    }
}

/// Returns the move of one of our names, `565-126`, from what follows `proxmove-`; `None` for a name that is not ours.
pub fn move_in(rest: &str) -> Option<String> {
    let mut parts = rest.splitn(3, '-');
    let (from, to, more) = (parts.next()?, parts.next()?, parts.next()?);
    let number = |text: &str| {
        !text.is_empty() && text.len() < 10 && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    (number(from) && number(to) && !more.is_empty()).then(|| format!("{from}-{to}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::sample::{World, id};
    use crate::plan::status::HeldBy;

    fn in_progress() -> InProgress {
        let mut world = World::new();
        world.began(&[]);
        let existing = world.existing.remove("web1").expect("web1");
        InProgress {
            cluster: id("banana"),
            target: existing.target,
            present: "web1--CREATING".to_owned(),
            mark: existing.mark,
        }
    }

    fn leftover(kind: Kind, of: &str) -> Leftover {
        Leftover {
            kind,
            name: "x".to_owned(),
            of: of.to_owned(),
            bytes: 1,
            age: 100_000,
            used: false,
        }
    }

    fn goes(leftover: &Leftover, moves: &Moves) -> bool {
        matches!(decide(leftover, moves), Fate::Remove { .. })
    }

    #[test]
    fn what_a_move_in_progress_needs_stays() {
        let idle = Moves::default();
        let busy = Moves {
            in_progress: vec![in_progress()],
            ..Moves::default()
        };
        for kind in [Kind::Snapshot, Kind::Bookmark, Kind::File] {
            assert!(goes(&leftover(kind, "565-140"), &idle));
            assert!(!goes(&leftover(kind, "565-140"), &busy));
            assert!(!goes(&leftover(kind, "565-140-scsi0"), &busy));
            // Another move's, also when its numbers begin alike.
            assert!(goes(&leftover(kind, "565-1401"), &busy));
            assert!(goes(&leftover(kind, "140-565"), &busy));
        }
        let mut porter = leftover(Kind::Porter, "");
        assert!(goes(&porter, &idle));
        assert!(!goes(&porter, &busy));
        porter.age = 20;
        assert!(!goes(&porter, &idle));
        let used = Leftover {
            used: true,
            ..leftover(Kind::File, "1-2-scsi0")
        };
        assert!(!goes(&used, &idle));
    }

    #[test]
    fn nothing_goes_while_a_cluster_is_silent_and_guests_and_volumes_never() {
        let silent = Moves {
            unanswered: BTreeMap::from([(id("cherry"), "connection refused".to_owned())]),
            ..Moves::default()
        };
        for kind in [Kind::Snapshot, Kind::Bookmark, Kind::File, Kind::Porter] {
            let fate = decide(&leftover(kind, "565-140"), &silent);
            assert!(
                matches!(&fate, Fate::Keep { why } if why.contains("cherry")),
                "{fate:?}"
            );
        }
        for kind in [Kind::Volume, Kind::Placeholder] {
            assert!(!goes(&leftover(kind, "565-140"), &Moves::default()));
        }
    }

    #[test]
    fn only_a_move_whose_source_is_as_it_was_and_that_nobody_works_on_is_abandoned() {
        let abandoned = MoveStatus {
            guest: "web1".to_owned(),
            source_cluster: Some("apple".to_owned()),
            source_called: "apple".to_owned(),
            source_vmid: 565,
            source_name: Some("web1".to_owned()),
            target_cluster: "banana".to_owned(),
            target_vmid: 140,
            target_node: "node2".to_owned(),
            target_name: "web1--CREATING".to_owned(),
            rung: "precopied".to_owned(),
            certain: true,
            left: "as-it-was".to_owned(),
            state: String::new(),
            volumes: Vec::new(),
            by: "ann@laptop".to_owned(),
            since: String::new(),
            held: None,
            resume: None,
            abort: Some("proxmove abort apple banana web1".to_owned()),
        };
        let held = |alive| {
            let text = "ann@laptop".to_owned();
            Some(HeldBy { text, alive })
        };
        assert!(is_abandoned(&abandoned));
        let with = |change: &dyn Fn(&mut MoveStatus)| {
            let mut found = abandoned.clone();
            change(&mut found);
            is_abandoned(&found)
        };
        assert!(with(&|found| found.held = held(false)));
        assert!(!with(&|found| found.held = held(true)));
        assert!(!with(&|found| found.left = "down".to_owned()));
        assert!(!with(&|found| found.left = "unclear".to_owned()));
        assert!(!with(&|found| found.certain = false));
        assert!(!with(&|found| found.abort = None));
    }

    #[test]
    fn names_of_ours_are_told_from_others() {
        for (name, of) in [
            ("565-126-virtio0.manifest", Some("565-126")),
            ("565-126-3-final", Some("565-126")),
            ("565-126", None),
            ("565-126-", None),
            ("-126-3", None),
            ("565-x-3", None),
            ("porter-0123456789abcdef", None),
            ("5-12345678901-1", None),
        ] {
            assert_eq!(move_in(name).as_deref(), of, "{name}");
        }
    }
}
