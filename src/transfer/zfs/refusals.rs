//! Pure: why a pass may not go on, with the evidence.
//!
//! Each says what was found, and nothing that was not. Never asks a host. Read next: `decide.rs`, which decides on them.

use crate::units::Bytes;

/// Why nothing may be done. Display is the evidence, a lowercase fragment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Something else is at the target's place.
    #[error("{target} is there and does not carry proxmove's mark: {evidence}")]
    Foreign { target: String, evidence: String },
    /// The target is not a volume.
    #[error("{target} is a {kind}, not a volume")]
    Kind { target: String, kind: String },
    /// There is nothing in common, and what is there is not only ours.
    #[error("{target} and {source_volume} have no snapshot in common: {evidence}")]
    Diverged {
        target: String,
        source_volume: String,
        evidence: String,
    },
    /// A snapshot of the guest can only be had by a copy from the beginning, which must not be made.
    #[error(
        "{target} lacks {snapshot}, which was taken before all that both sides have, and is not begun again: {evidence}; \
         go on without --with-snapshots, or delete what is there first"
    )]
    Missed {
        target: String,
        snapshot: String,
        evidence: String,
    },
    /// Somebody made snapshots on the target.
    #[error(
        "{target} has snapshots that are newer than the newest common one, {common}: {evidence}"
    )]
    Newer {
        target: String,
        common: String,
        evidence: String,
    },
    /// Somebody wrote to the target.
    #[error("{target} was written to ({written}) since {common}, {reason}")]
    Written {
        target: String,
        common: String,
        written: Bytes,
        reason: &'static str,
    },
    /// A snapshot of the guest that was to travel is gone.
    #[error(
        "{source_volume} has no snapshot {snapshot} any more, which was to travel; was it deleted meanwhile?"
    )]
    Gone {
        source_volume: String,
        snapshot: String,
    },
    /// A snapshot of the guest is newer than the one that a final pass carries.
    #[error(
        "{source_volume}@{snapshot} was taken after the guest had been stopped, and has not travelled"
    )]
    Late {
        source_volume: String,
        snapshot: String,
    },
    /// The snapshot that was to be carried is gone.
    #[error(
        "{source_volume} has no snapshot of this move; it was destroyed meanwhile, or never taken"
    )]
    NoGoal { source_volume: String },
}
