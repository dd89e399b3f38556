//! Pure: what both sides show of a volume, to what is done next, or why nothing may be.
//!
//! ```text
//!  target                                             next
//!  none                                               full, of the oldest snapshot that is to travel
//!  not ours                                           refused
//!  ours, interrupted                                  resume by its token; when that is stale: abandon, look again
//!  ours, with a guest's snapshot the source lost      destroyed, look again
//!  ours, newest snapshot is the goal, unchanged       nothing
//!  ours, newest snapshot is on the source             increment from it, or from a bookmark of it
//!  ours, a guest's snapshot lacks                     back to a common one that is older, increment to it
//!  ours, newer snapshots of ours or written since     back to the newest common one, look again
//!  ours, nothing in common, nothing but ours on it    destroyed and begun again
//!  ours, anything else                                refused
//! ```
//! Identity is the guid, order is createtxg; names only tell what they are called. Each decision carries the sentence that
//! says why, each refusal the evidence. Nothing is ever decided that changes a volume which does not carry our mark,
//! and nothing that takes data from a target that was used after its final snapshot. Never asks a host. Read next:
//! `travel.rs` (the guest's
//! own snapshots), `mod.rs`, which acts on it.

use std::collections::BTreeSet;
use std::fmt;

use super::read::{Snapshot, Volume};
pub(crate) use super::refusals::Refusal;
use super::syntax::{Base, Stream};
use super::{name, travel};
use crate::units::Bytes;

/// What is done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The target has the goal.
    Nothing,
    /// A stream is carried.
    Carry(Stream),
    /// What an interrupted receive left is thrown away.
    Abandon,
    /// The target goes back to this snapshot; newer ones, all of them ours, are destroyed first.
    Back { to: String, newer: Vec<String> },
    /// Snapshots of the guest that were carried and that the source no longer has are destroyed.
    Drop(Vec<String>),
    /// The target volume, which has nothing but ours, is destroyed.
    Restart,
}

/// What is done next, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) next: Next,
    pub(crate) because: String,
}

/// Whose a target may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The move's name, as in the marks.
    pub(crate) of: String,
    /// Whether the move's own notes name this volume. That makes it a target, but nothing on it ours to destroy.
    pub(crate) adopt: bool,
    /// The names of the guest's own snapshots that travel with this volume.
    pub(crate) snapshots: BTreeSet<String>,
}

/// Says whether a volume may be received into.
pub(crate) fn is_target(volume: &Volume, claim: &Claim) -> bool {
    is_marked(volume, claim) || claim.adopt
}

/// Says whether a volume may be destroyed, or lose what was written to it.
pub(crate) fn is_marked(volume: &Volume, claim: &Claim) -> bool {
    volume.mark.as_deref() == Some(claim.of.as_str())
}

/// Returns the newest snapshot of this move on the source: what a pass carries.
pub(crate) fn goal<'a>(source: &'a Volume, claim: &Claim) -> Option<&'a Snapshot> {
    let ours = |snapshot: &&Snapshot| name::is_of(&claim.of, snapshot);
    source.snapshots.iter().rev().find(ours)
}

/// Returns the newest snapshot that both sides have, as the source and as the target know it.
pub(crate) fn common<'a>(
    source: &'a Volume,
    target: &'a Volume,
) -> Option<(&'a Snapshot, &'a Snapshot)> {
    let both = |of_target: &'a Snapshot| Some((source.snapshot(of_target.guid)?, of_target));
    target.snapshots.iter().rev().find_map(both)
}

/// Returns the newest common snapshot, as both sides know it, when it is the final one of this move and nothing is on
/// its way.
pub(crate) fn sealed<'a>(
    source: &'a Volume,
    target: &'a Volume,
    claim: &Claim,
) -> Option<(&'a Snapshot, &'a Snapshot)> {
    let sealed = |(here, _): &(&Snapshot, &Snapshot)| {
        name::is_of(&claim.of, here) && name::is_final(&claim.of, &here.name)
    };
    let common = common(source, target).filter(sealed);
    common.filter(|_| target.token.is_none())
}

/// Returns the newest snapshot of a kept target that its source can send from, and how the source knows it, when the
/// target may be received into as it is.
pub(crate) fn kept(
    source: &Volume,
    target: &Volume,
    claim: &Claim,
) -> Result<(String, Base), Refusal> {
    if target.kind != "volume" {
        return Err(Refusal::Kind {
            target: target.dataset.clone(),
            kind: target.kind.clone(),
        });
    }
    let Some(start) = start(source, target, None, &[]) else {
        return Err(diverged(source, target));
    };
    // It carries no mark of this move: whatever would have to be undone is somebody's.
    match back(target, start.of_target, &[], claim)? {
        None => Ok((start.of_target.name.clone(), start.base)),
        Some(_) => Err(diverged(source, target)),
    }
}

/// Returns the final snapshot that a target goes back to, when it was written to since and that is given up; `None` when
/// there is nothing to give up.
///
/// The caller vouches for the target, and that nobody wants what was written.
pub(crate) fn given_up(
    source: &Volume,
    target: &Volume,
    claim: &Claim,
) -> Result<Option<String>, Refusal> {
    let Some((_, there)) = sealed(source, target, claim) else {
        return Ok(None);
    };
    let newer: Vec<&Snapshot> = target
        .snapshots
        .iter()
        .filter(|snapshot| snapshot.created > there.created)
        .collect();
    if !newer.is_empty() {
        // Not even then: a snapshot is something that somebody wanted to keep.
        return Err(Refusal::Newer {
            target: target.dataset.clone(),
            common: told(there),
            evidence: list(&newer),
        });
    }
    Ok((target.written > 0).then(|| there.name.clone()))
}

/// Decides. `failed` are streams that turned out to be impossible since both sides were first looked at.
pub(crate) fn decide(
    source: &Volume,
    target: Option<&Volume>,
    claim: &Claim,
    failed: &[Stream],
) -> Result<Decision, Refusal> {
    let goal = goal(source, claim).ok_or_else(|| Refusal::NoGoal {
        source_volume: source.dataset.clone(),
    })?;
    if let Some(snapshot) = travel::gone(source, claim) {
        return Err(Refusal::Gone {
            source_volume: source.dataset.clone(),
            snapshot: snapshot.to_owned(),
        });
    }
    let Some(target) = target else {
        let first = travel::before(travel::wanted(source, claim), goal);
        let first = first.first().copied();
        let to = first.map_or(goal, |first| first).name.clone();
        let full = Next::Carry(Stream::Full { to });
        return decision(full, "the target has nothing yet".to_owned());
    };
    if !is_target(target, claim) {
        return Err(Refusal::Foreign {
            target: target.dataset.clone(),
            evidence: evidence(target),
        });
    }
    if target.kind != "volume" {
        return Err(Refusal::Kind {
            target: target.dataset.clone(),
            kind: target.kind.clone(),
        });
    }
    if let Some(token) = &target.token {
        let resume = Stream::Resume {
            token: token.clone(),
        };
        // Abandoning what was never complete leaves nothing of the volume.
        let ours = is_marked(target, claim) || !target.snapshots.is_empty();
        return if failed.contains(&resume) && !ours {
            Err(Refusal::Foreign {
                target: target.dataset.clone(),
                evidence: evidence(target),
            })
        } else if failed.contains(&resume) {
            decision(
                Next::Abandon,
                "the interrupted stream cannot be continued: the source no longer has what it was made of".to_owned(),
            )
        } else {
            decision(
                Next::Carry(resume),
                "an interrupted stream is continued where it broke off".to_owned(),
            )
        };
    }
    let stale = travel::stale(source, target, claim);
    if !stale.is_empty() {
        let because = format!("the source no longer has {}", list(&stale));
        let names = stale.iter().map(|snapshot| snapshot.name.clone());
        return decision(Next::Drop(names.collect()), because);
    }
    let missing = travel::before(travel::missing(source, target, claim), goal);
    let Some(start) = start(source, target, missing.first().copied(), failed) else {
        return restart(source, target, missing.first().copied(), claim);
    };
    if let Some(back) = back(target, start.of_target, &missing, claim)? {
        return Ok(back);
    }
    if missing.is_empty() && start.of_target.guid == goal.guid {
        return decision(
            Next::Nothing,
            format!("the target has {} already", goal.name),
        );
    }
    let because = match &start.base {
        Base::Snapshot(name) => format!("both sides have {name} (guid {})", start.of_target.guid),
        Base::Bookmark(name) => format!(
            "the source has a bookmark, {name}, of the target's {} (guid {})",
            start.of_target.name, start.of_target.guid
        ),
    };
    let to = missing.first().map_or(goal, |first| first).name.clone();
    decision(
        Next::Carry(Stream::Increment {
            base: start.base,
            to,
        }),
        because,
    )
}

/// Says whether a step is what everybody expects, rather than a way around something, which the operator should see.
pub(crate) fn is_usual(next: &Next, source: &Volume, claim: &Claim) -> bool {
    match next {
        Next::Nothing | Next::Carry(Stream::Full { .. }) => true,
        Next::Carry(Stream::Increment {
            base: Base::Snapshot(base),
            ..
        }) => {
            let mut snapshots = source.snapshots.iter();
            let expected = |known: &Snapshot| {
                name::is_of(&claim.of, known) || claim.snapshots.contains(&known.name)
            };
            snapshots.any(|known| known.name == *base && expected(known))
        }
        Next::Carry(Stream::Increment {
            base: Base::Bookmark(_),
            ..
        })
        | Next::Carry(Stream::Resume { .. })
        | Next::Abandon
        | Next::Back { .. }
        | Next::Drop(_)
        | Next::Restart => false,
    }
}

/// What an increment starts from.
struct Start<'a> {
    base: Base,
    of_target: &'a Snapshot,
}

/// Returns the newest snapshot of the target that the source still has, or has a bookmark of; it is older than `before`.
fn start<'a>(
    source: &Volume,
    target: &'a Volume,
    before: Option<&Snapshot>,
    failed: &[Stream],
) -> Option<Start<'a>> {
    let older = |created: u64| before.is_none_or(|before| created < before.created);
    let usable = |base: &Base| {
        !failed.iter().any(|stream| match stream {
            Stream::Increment { base: failed, .. } => failed == base,
            Stream::Full { .. } | Stream::Resume { .. } => false,
        })
    };
    target.snapshots.iter().rev().find_map(|of_target| {
        let snapshot = source.snapshot(of_target.guid);
        let snapshot = snapshot.filter(|found| older(found.created));
        let snapshot = snapshot.map(|found| Base::Snapshot(found.name.clone()));
        let mut marked = source.bookmarks.iter();
        let marked =
            marked.find(|bookmark| bookmark.guid == of_target.guid && older(bookmark.created));
        let marked = marked.map(|found| Base::Bookmark(found.name.clone()));
        let base = snapshot.into_iter().chain(marked).find(usable)?;
        Some(Start { base, of_target })
    })
}

/// Decides what to do about what the target has beyond the newest common snapshot, if anything.
///
/// What came by this move and is newer than a snapshot that lacks comes again after it.
fn back(
    target: &Volume,
    common: &Snapshot,
    missing: &[&Snapshot],
    claim: &Claim,
) -> Result<Option<Decision>, Refusal> {
    let newer: Vec<&Snapshot> = target
        .snapshots
        .iter()
        .filter(|snapshot| snapshot.created > common.created)
        .collect();
    let ours = |snapshot: &&Snapshot| travel::came(&claim.of, snapshot);
    if newer.is_empty() && target.written == 0 {
        return Ok(None);
    }
    if !newer.iter().all(ours) || (!newer.is_empty() && !is_marked(target, claim)) {
        return Err(Refusal::Newer {
            target: target.dataset.clone(),
            common: told(common),
            evidence: list(&newer),
        });
    }
    let written = |reason| Refusal::Written {
        target: target.dataset.clone(),
        common: told(common),
        written: Bytes(target.written),
        reason,
    };
    if target.written > 0 && !is_marked(target, claim) {
        return Err(written("and proxmove did not create it"));
    }
    let newest = target.newest().unwrap_or(common);
    if target.written > 0 && name::is_final(&claim.of, &newest.name) {
        return Err(written("after the final pass: was the target in use?"));
    }
    let because = if newer.is_empty() {
        format!(
            "the target was written to ({}) since {}, before it was complete",
            Bytes(target.written),
            common.name
        )
    } else if missing.is_empty() {
        format!(
            "the source no longer has {}, the target goes back to {}",
            list(&newer),
            common.name
        )
    } else {
        format!(
            "{} was taken before {}, so the target goes back to {} and takes both in their order",
            list(missing),
            list(&newer),
            common.name
        )
    };
    Ok(Some(Decision {
        next: Next::Back {
            to: common.name.clone(),
            newer: newer.iter().map(|snapshot| snapshot.name.clone()).collect(),
        },
        because,
    }))
}

/// Decides about a target of ours that has nothing in common with the source.
fn restart(
    source: &Volume,
    target: &Volume,
    missing: Option<&Snapshot>,
    claim: &Claim,
) -> Result<Decision, Refusal> {
    let ours = |snapshot: &Snapshot| travel::came(&claim.of, snapshot);
    let used = |snapshot: &Snapshot| name::is_final(&claim.of, &snapshot.name);
    let last_used = target.newest().is_some_and(used) && target.written > 0;
    let missed = missing.filter(|_| common(source, target).is_some());
    let all_ours = is_marked(target, claim) && target.snapshots.iter().all(ours);
    if let Some(missed) = missed
        && (!all_ours || target.newest().is_some_and(used))
    {
        // After a final pass the guest is down: no time for a copy from the beginning.
        return Err(Refusal::Missed {
            target: target.dataset.clone(),
            snapshot: told(missed),
            evidence: evidence(target),
        });
    }
    if !all_ours || last_used {
        return Err(diverged(source, target));
    }
    let because = if target.snapshots.is_empty() {
        "the target volume of this move has no snapshot to continue from".to_owned()
    } else if let Some(missing) = missed {
        format!(
            "{} was taken before all that both sides have: {}",
            told(missing),
            list(&target.snapshots.iter().collect::<Vec<_>>())
        )
    } else {
        format!(
            "the source no longer has any of the snapshots that the target has: {}",
            list(&target.snapshots.iter().collect::<Vec<_>>())
        )
    };
    decision(Next::Restart, because)
}

fn diverged(source: &Volume, target: &Volume) -> Refusal {
    Refusal::Diverged {
        target: target.dataset.clone(),
        source_volume: source.dataset.clone(),
        evidence: format!(
            "{}; the source has {}",
            evidence(target),
            match source.snapshots.as_slice() {
                [] => "no snapshots".to_owned(),
                some => list(&some.iter().collect::<Vec<_>>()),
            }
        ),
    }
}

fn decision(next: Next, because: String) -> Result<Decision, Refusal> {
    Ok(Decision { next, because })
}

fn told(snapshot: &Snapshot) -> String {
    format!("{} (guid {})", snapshot.name, snapshot.guid)
}

/// Lists snapshots for people: a few of them, newest last, and how many there are.
fn list(snapshots: &[&Snapshot]) -> String {
    const FEW: usize = 4;
    let shown = &snapshots[snapshots.len().saturating_sub(FEW)..];
    let names: Vec<String> = shown.iter().map(|snapshot| told(snapshot)).collect();
    match snapshots.len() - shown.len() {
        0 => names.join(", "),
        more => format!("{more} more and {}", names.join(", ")),
    }
}

/// Says what is there.
pub(crate) fn evidence(volume: &Volume) -> String {
    let mark = match &volume.mark {
        Some(of) => format!(", marked as of the move {of}"),
        None => String::new(),
    };
    let snapshots = match volume.snapshots.as_slice() {
        [] => "no snapshots".to_owned(),
        some => format!("the snapshots {}", list(&some.iter().collect::<Vec<_>>())),
    };
    format!(
        "a {} (guid {}) with {} of content, {} of it newer than its snapshots{mark}, and {snapshots}",
        volume.kind,
        volume.guid,
        Bytes(volume.content),
        Bytes(volume.written),
    )
}

impl fmt::Display for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Next::Nothing => f.write_str("nothing"),
            Next::Carry(Stream::Full { to }) => write!(f, "full stream of {to}"),
            Next::Carry(Stream::Increment { base, to }) => match base {
                Base::Snapshot(base) => write!(f, "increment from @{base} to {to}"),
                Base::Bookmark(base) => write!(f, "increment from #{base} to {to}"),
            },
            Next::Carry(Stream::Resume { .. }) => f.write_str("rest of a stream"),
            Next::Abandon => f.write_str("abandon an interrupted stream"),
            Next::Back { to, .. } => write!(f, "back to {to}"),
            Next::Drop(names) => write!(f, "destroy the copies of {}", names.join(", ")),
            Next::Restart => f.write_str("begin again"),
        }
    }
}

#[cfg(test)]
#[path = "decide/tests.rs"]
mod tests;
