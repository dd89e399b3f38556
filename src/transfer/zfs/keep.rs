//! What of ours stays on the hosts and what goes: marks, holds, bookmarks, reservations, superseded snapshots.
//!
//! A snapshot is destroyed only when its name is one of ours and it carries our mark; a volume only when it carries the
//! mark and nothing on it is anybody else's. Whatever somebody else holds, clones or uses stays, and that is no failure
//! of the move. Read next: `name.rs` (whose is it), `pass.rs`.

use std::time::Duration;

use super::decide::{Claim, Refusal, evidence, is_marked};
use super::look::{dataset, look, must, must_or, refused, run, words};
use super::name;
use super::read::{self, Snapshot, Volume};
use super::{syntax, travel};
use crate::host::Exit;
use crate::host::command::Command;
use crate::transfer::image::end_of;
use crate::transfer::lines::Side;
use crate::transfer::{Pair, TransferError};

/// How often something busy is tried to be destroyed: udev looks into a new device for a moment.
const TRIES: u32 = 10;
const BETWEEN: Duration = Duration::from_millis(500);
/// What zfs says of a hold that is there.
const HELD: &str = "tag already exists";
/// What zfs says of a snapshot that is not there.
const GONE: &str = "could not find any snapshots to destroy";

/// Marks and holds snapshots on the target that came from this move and do not say so yet: the next increment starts
/// from the newest of them.
pub(crate) async fn mark_received(
    pair: &Pair,
    operation: &'static str,
    claim: &Claim,
    source: &Volume,
    target: &mut Volume,
) -> Result<(), TransferError> {
    let marked = is_marked(target, claim);
    for snapshot in &mut target.snapshots {
        let sent = source.snapshot(snapshot.guid);
        let is_sent = sent.is_some_and(|sent| name::is_of(&claim.of, sent));
        let named = name::number(&claim.of, &snapshot.name).is_some();
        // On a volume that is not ours, a guest's snapshot may have been before: only on ours it came by this move.
        let carried = marked && sent.is_some() && claim.snapshots.contains(&snapshot.name);
        let came = named && (marked || is_sent);
        if snapshot.mark.is_some() || !(came || carried) {
            continue;
        }
        let what = format!("{}@{}", target.dataset, snapshot.name);
        must(
            pair,
            Side::Target,
            operation,
            &syntax::mark(&what, &claim.of),
        )
        .await?;
        snapshot.mark = Some(claim.of.clone());
    }
    Ok(())
}

/// Holds a snapshot on the target, should nobody do so.
pub(crate) async fn hold(
    pair: &Pair,
    operation: &'static str,
    target: &Volume,
    snapshot: &Snapshot,
) -> Result<(), TransferError> {
    if snapshot.held {
        return Ok(());
    }
    let command = syntax::hold(&[&target.dataset], &snapshot.name);
    must_or(pair, Side::Target, operation, &command, &[HELD]).await
}

/// Remembers the place of a snapshot on the source: a second way to the next increment.
pub(crate) async fn bookmark(
    pair: &Pair,
    operation: &'static str,
    source: &Volume,
    snapshot: &Snapshot,
) -> Result<(), TransferError> {
    if source
        .bookmarks
        .iter()
        .any(|known| known.guid == snapshot.guid)
    {
        return Ok(());
    }
    let command = syntax::bookmark(&source.dataset, &snapshot.name);
    let output = run(pair, Side::Source, operation, &command).await?;
    if output.exit != Exit::Code(0) {
        // Not every pool has bookmarks of every volume.
        log::debug!("{}", words(&output));
    }
    Ok(())
}

/// Reserves as much on the target as its storage asks for.
pub(crate) async fn reserve(
    pair: &Pair,
    operation: &'static str,
    target: &Volume,
) -> Result<(), TransferError> {
    let Some(zvol) = &pair.target.zvol else {
        return Ok(());
    };
    if zvol.sparse == (target.reserved == 0) {
        return Ok(());
    }
    let command = syntax::reserve(&target.dataset, zvol.sparse);
    must(pair, Side::Target, operation, &command)
        .await
        .map(|_| ())
}

/// Destroys the snapshots and bookmarks of this move on one side, but for those named `keep`.
///
/// Older moves' snapshots that `superseded` says so of go as well.
pub(crate) async fn prune(
    pair: &Pair,
    side: Side,
    operation: &'static str,
    claim: &Claim,
    volume: &Volume,
    keep: Option<&str>,
    superseded: &(dyn Fn(&Snapshot) -> bool + Sync),
) -> Result<(), TransferError> {
    for snapshot in &volume.snapshots {
        let ours = name::is_of(&claim.of, snapshot);
        let kept = keep == Some(snapshot.name.as_str());
        let goes = ours || (name::is_ours(snapshot) && superseded(snapshot));
        if !kept && goes {
            destroy_snapshot(pair, side, operation, &volume.dataset, snapshot).await?;
        }
    }
    for bookmark in &volume.bookmarks {
        // A bookmark bears no mark; that of an older move's snapshot is known by both its name and its guid.
        let of_gone = |snapshot: &&Snapshot| {
            name::is_ours(snapshot)
                && superseded(snapshot)
                && (&snapshot.name, snapshot.guid) == (&bookmark.name, bookmark.guid)
        };
        let ours = name::number(&claim.of, &bookmark.name).is_some()
            || volume.snapshots.iter().any(|snapshot| of_gone(&snapshot));
        if ours && keep != Some(bookmark.name.as_str()) {
            let command = syntax::destroy_bookmark(&volume.dataset, &bookmark.name);
            attempt(pair, side, operation, &command).await?;
        }
    }
    Ok(())
}

async fn destroy_snapshot(
    pair: &Pair,
    side: Side,
    operation: &'static str,
    dataset: &str,
    snapshot: &Snapshot,
) -> Result<(), TransferError> {
    let name = &snapshot.name;
    let destroy = syntax::destroy_snapshot(dataset, name);
    let command = if snapshot.held {
        syntax::release(dataset, name).and(&destroy)
    } else {
        destroy.clone()
    };
    if attempt(pair, side, operation, &command).await? || !snapshot.held {
        return Ok(());
    }
    // Held by others, or by us no longer.
    if attempt(pair, side, operation, &destroy).await? {
        return Ok(());
    }
    let holders = run(pair, side, operation, &syntax::holds(dataset, name)).await?;
    let holders = read::read_holds(&String::from_utf8_lossy(&holders.stdout));
    log::warn!("{dataset}@{name} stays, held by {}", holders.join(", "));
    Ok(())
}

/// Runs a command that tidies, more than once when something is busy; of what it cannot do only a note is made.
async fn attempt(
    pair: &Pair,
    side: Side,
    operation: &'static str,
    command: &Command,
) -> Result<bool, TransferError> {
    for _ in 0..TRIES {
        let output = run(pair, side, operation, command).await?;
        let said = words(&output);
        if output.exit == Exit::Code(0) {
            return Ok(true);
        }
        if !said.contains("busy") {
            let address = end_of(pair, side).shell.address();
            log::warn!("{} on {address}: {said}", command.brief());
            return Ok(false);
        }
        tokio::time::sleep(BETWEEN).await;
    }
    Ok(false)
}

/// Takes a target of ours back to a snapshot, after destroying newer ones of ours.
pub(crate) async fn back(
    pair: &Pair,
    operation: &'static str,
    target: &Volume,
    to: &str,
    newer: &[String],
) -> Result<(), TransferError> {
    let gone = |snapshot: &&Snapshot| newer.contains(&snapshot.name);
    for snapshot in target.snapshots.iter().rev().filter(gone) {
        destroy_snapshot(pair, Side::Target, operation, &target.dataset, snapshot).await?;
    }
    let command = syntax::rollback(&target.dataset, to);
    must(pair, Side::Target, operation, &command)
        .await
        .map(|_| ())
}

/// Destroys snapshots of the target that this move has carried and whose originals are gone.
pub(crate) async fn drop_carried(
    pair: &Pair,
    operation: &'static str,
    target: &Volume,
    names: &[String],
) -> Result<(), TransferError> {
    for name in names {
        let command = syntax::destroy_snapshot(&target.dataset, name);
        must_or(pair, Side::Target, operation, &command, &[GONE]).await?;
    }
    Ok(())
}

/// Destroys what was carried of snapshots that are not to travel any more.
pub(crate) async fn drop_unwanted(
    pair: &Pair,
    operation: &'static str,
    claim: &Claim,
    target: &Volume,
) -> Result<(), TransferError> {
    let unwanted = |snapshot: &&Snapshot| {
        travel::is_carried(&claim.of, snapshot) && !claim.snapshots.contains(&snapshot.name)
    };
    let names = target.snapshots.iter().filter(unwanted);
    let names: Vec<String> = names.map(|snapshot| snapshot.name.clone()).collect();
    drop_carried(pair, operation, target, &names).await
}

/// Takes our mark off the guest's own snapshots: they are as on the source then.
pub(crate) async fn hand_over(
    pair: &Pair,
    operation: &'static str,
    claim: &Claim,
    target: &Volume,
) -> Result<(), TransferError> {
    let carried = |snapshot: &&Snapshot| {
        travel::is_carried(&claim.of, snapshot) && claim.snapshots.contains(&snapshot.name)
    };
    for snapshot in target.snapshots.iter().filter(carried) {
        let what = format!("{}@{}", target.dataset, snapshot.name);
        must(pair, Side::Target, operation, &syntax::unmark(&what)).await?;
    }
    Ok(())
}

/// Throws away what an interrupted receive left on a target of ours.
pub(crate) async fn abandon(pair: &Pair, operation: &'static str) -> Result<(), TransferError> {
    let command = syntax::abandon(dataset(pair, Side::Target, operation)?);
    let nothing = ["does not have any resumable", "dataset does not exist"];
    must_or(pair, Side::Target, operation, &command, &nothing).await
}

/// Destroys a target that carries our mark and has nothing of anybody else's on it.
pub(crate) async fn destroy_target(
    pair: &Pair,
    operation: &'static str,
    claim: &Claim,
    target: &Volume,
) -> Result<(), TransferError> {
    let ours = |snapshot: &Snapshot| travel::came(&claim.of, snapshot);
    if !is_marked(target, claim) || !target.snapshots.iter().all(ours) {
        let refusal = Refusal::Foreign {
            target: target.dataset.clone(),
            evidence: evidence(target),
        };
        return Err(super::refusal(pair, operation, &refusal));
    }
    if target.token.is_some() {
        abandon(pair, operation).await?;
        // Without an older snapshot, that was all of it.
        let left = look(&[pair], Side::Target, operation).await?;
        if left.into_iter().flatten().next().is_none() {
            return Ok(());
        }
    }
    for snapshot in target.snapshots.iter().rev() {
        destroy_snapshot(pair, Side::Target, operation, &target.dataset, snapshot).await?;
    }
    let command = syntax::destroy_volume(&target.dataset);
    let mut tries = 0;
    loop {
        let output = run(pair, Side::Target, operation, &command).await?;
        tries += 1;
        if output.exit == Exit::Code(0) || words(&output).contains("dataset does not exist") {
            return Ok(());
        }
        if !words(&output).contains("busy") || tries == TRIES {
            return Err(refused(pair, Side::Target, operation, &command, &output));
        }
        tokio::time::sleep(BETWEEN).await;
    }
}
