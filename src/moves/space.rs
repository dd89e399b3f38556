//! Which storage is full, when a copy ended for want of space: the error's words and the plan's volumes put together.
//!
//! Pure. Read next: `batch.rs` (`failure`), which says what to do.

use crate::plan::{DriveAction, GuestPlan};
use crate::transfer::{Pair, TransferError};

/// What the programs on a host say when a file system or a pool is full: the C library's words, in which the porter's own
/// errors and the shell's end, and those of `zfs receive`.
const FULL: [&str; 3] = [
    "No space left on device",
    "Disk quota exceeded",
    "out of space",
];

/// Returns what is full, and on which host; `None` when the error is about something else.
pub(super) fn full_place(
    plan: &GuestPlan,
    pairs: &[Pair],
    error: &TransferError,
) -> Option<String> {
    let TransferError::Porter {
        operation,
        drive,
        address,
        reason,
    } = error
    else {
        return None;
    };
    if !FULL.iter().any(|words| reason.contains(words)) {
        return None;
    }
    let pair = pairs.iter().find(|pair| pair.drive == *drive)?;
    let on_target = pair.target.shell.address() == address;
    let end = if on_target {
        &pair.target
    } else {
        &pair.source
    };
    // Who puts the porter there speaks of it without its path.
    let own_files =
        *operation == crate::transfer::UPLOAD || reason.contains(&format!("{}/", end.temp));
    if own_files {
        return Some(format!(
            "the directory for proxmove's own files, {} on {address},",
            end.temp
        ));
    }
    let planned = plan.drives.iter().find(|planned| planned.key == *drive)?;
    let DriveAction::Copy(volume) = &planned.action else {
        return None;
    };
    let (storage, cluster) = if on_target {
        (&volume.target.storage, &plan.target_cluster)
    } else {
        (&volume.source.storage, &plan.source_cluster)
    };
    Some(format!("storage {storage} of {cluster}, on {address},"))
}
