//! Pure: the guest's own snapshots that travel with a volume, beside those that proxmove takes.
//!
//! ```text
//!  source   s1      s2    s3          proxmove-3      s1, s2 and s3 are the guest's, and the claim names them
//!  target   s1                                        next: increment s1 -> s2, then s3, then proxmove-3
//! ```
//! Each is a step of its own, so that nothing between them travels that nobody asked for, and that each can be resumed
//! by its token. On the target they carry our mark until the move is tidied up: a snapshot that bears it came by this
//! move and may be taken back; any other is somebody's. Never asks a host. Read next: `decide.rs`.

use super::decide::Claim;
use super::name;
use super::read::{Snapshot, Volume};

/// Says whether a snapshot of the target is a guest's own that this move has carried there.
pub(crate) fn is_carried(of: &str, snapshot: &Snapshot) -> bool {
    snapshot.mark.as_deref() == Some(of) && name::number(of, &snapshot.name).is_none()
}

/// Says whether a snapshot of the target came by this move: one that proxmove took, or one of the guest's own.
pub(crate) fn came(of: &str, snapshot: &Snapshot) -> bool {
    name::is_of(of, snapshot) || is_carried(of, snapshot)
}

/// Returns the guest's snapshots that are to travel, as the source has them, oldest first.
pub(crate) fn wanted<'a>(source: &'a Volume, claim: &Claim) -> Vec<&'a Snapshot> {
    let wanted = |snapshot: &&Snapshot| claim.snapshots.contains(&snapshot.name);
    source.snapshots.iter().filter(wanted).collect()
}

/// Returns the first of the names that are to travel which the source does not have.
pub(crate) fn gone<'a>(source: &Volume, claim: &'a Claim) -> Option<&'a str> {
    let there = |name: &&String| source.snapshots.iter().any(|known| known.name == **name);
    claim
        .snapshots
        .iter()
        .find(|name| !there(name))
        .map(String::as_str)
}

/// Returns those that are to travel and that the target lacks, oldest first.
pub(crate) fn missing<'a>(source: &'a Volume, target: &Volume, claim: &Claim) -> Vec<&'a Snapshot> {
    let lacks = |snapshot: &&Snapshot| target.snapshot(snapshot.guid).is_none();
    wanted(source, claim).into_iter().filter(lacks).collect()
}

/// Returns those of some snapshots of the source that were taken before another one of it; the others have to wait for
/// the next pass.
pub(crate) fn before<'a>(mut snapshots: Vec<&'a Snapshot>, goal: &Snapshot) -> Vec<&'a Snapshot> {
    snapshots.retain(|snapshot| snapshot.created < goal.created);
    snapshots
}

/// Returns what was carried of snapshots that the source no longer has: their names may be those of others by now.
pub(crate) fn stale<'a>(source: &Volume, target: &'a Volume, claim: &Claim) -> Vec<&'a Snapshot> {
    let stale = |snapshot: &&Snapshot| {
        is_carried(&claim.of, snapshot) && source.snapshot(snapshot.guid).is_none()
    };
    target.snapshots.iter().filter(stale).collect()
}
