//! The zvols of a pair that the image engine copies: made, found, sealed, removed. Over SSH, before and after porters.
//!
//! *Whose a zvol is* stands on the zvol itself, in the user property `proxmove:move`, set by the very command that makes
//! it; a value that is inherited counts for nothing. The mark goes last when a move is done. Nothing is ever done to a
//! target zvol without the mark, nor to a snapshot without it, and a source zvol is never changed but for the snapshot.
//!
//! *Whether a zvol was written to* is a fact that only ZFS knows. A file's times tell it; a device has none. So a final
//! pass is framed by snapshots, named `@proxmove-PAIR-seal`:
//!
//! ```text
//!  source: snapshot S --> read everything --> written@S is 0, else the pass failed --> ... still 0: not written since
//!  target:                write, read back --> snapshot T, which bears the digest   --> written@T 0: not written since
//! ```
//! S comes before the reading, so a write at any time after it shows: what is read is what S holds. The seal in the
//! target's temp directory names S by its guid, and T bears the digest of that seal, so neither vouches for another pass
//! than its own; each pass removes both before anything is written. ZFS counts only what has reached the pool: before
//! it is asked, the device's cached pages and the pool's open transaction are written out. No snapshot or another one
//! proves nothing, and counts as a partial copy: then one more pass compares everything.
//!
//! A pre-copy takes S and drops it at once: where the pool has no room for a snapshot (of a volume with a reservation,
//! it may take as much as the volume again), this shows while the guest still runs. On the target, where T may meet the
//! same, the reservation of our own volume is given up until the snapshot is gone; nothing uses it before.
//!
//! Never reads or writes a volume and never decides about a guest. Read next: `zvol.rs` (the command lines), `image.rs`,
//! `porter/device.rs`.

use std::time::Duration;

use super::image::{end_of, failed, host, operation};
use super::lines::Side;
use super::upload::PATIENCE;
use super::zvol::{self, Seen};
use super::{Pair, Pass, PassReport, TransferError, Zvol};
use crate::host::command::Command;
use crate::host::{Exit, Output};
use crate::porter::SourceState;
use crate::units::Bytes;

/// How often and for how long a busy dataset is tried again: a receiver whose operator was killed needs a moment to
/// notice, and ZFS itself holds on to what was just closed.
const RETRIES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(500);

/// What a pass has to know of its zvols; the default when there are none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Zvols {
    /// The target's guid.
    pub(crate) target: Option<u64>,
    /// Whether the target was made for this pass.
    pub(crate) fresh: bool,
    /// The guid of the source's snapshot, for a final pass.
    pub(crate) snapshot: Option<u64>,
}

/// Whose a target zvol is.
pub(crate) enum Whose {
    /// There is none.
    Nobodys,
    /// It bears our mark.
    Ours(Seen),
    /// Somebody else's, or no zvol.
    Foreign {
        /// Whether it is a zvol without any mark of ours, which the mark of the move may vouch for.
        adoptable: bool,
    },
}

/// Gets the zvols of a pair ready for a pass.
pub(crate) async fn before(pair: &Pair, pass: Pass) -> Result<Zvols, TransferError> {
    let operation = operation(pass);
    let mut zvols = Zvols::default();
    if let Some(zvol) = &pair.target.zvol {
        let (seen, fresh) = possess(pair, zvol, operation).await?;
        unseal(pair, Side::Target, zvol, operation).await?;
        if seen.size < pair.size {
            let grow = zvol::grow(&zvol.dataset, pair.size);
            succeed(pair, Side::Target, operation, &grow).await?;
        }
        let wait = zvol::await_device(&pair.target.path);
        succeed(pair, Side::Target, operation, &wait).await?;
        (zvols.target, zvols.fresh) = (Some(seen.guid), fresh);
    }
    if let Some(zvol) = &pair.source.zvol {
        unseal(pair, Side::Source, zvol, operation).await?;
        let snapshot = zvol::seal_name(&zvol.dataset, &pair.name);
        let path = &pair.source.path;
        let take = zvol::seal(&zvol.dataset, path, &snapshot, &pair.name, None);
        succeed(pair, Side::Source, operation, &take).await?;
        match pass {
            Pass::Precopy => unseal(pair, Side::Source, zvol, operation).await?,
            Pass::Final(_) => {
                let look = zvol::look_at_seal(&snapshot);
                let printed = succeed(pair, Side::Source, operation, &look).await?;
                let seen = zvol::seen_seal(&printed)
                    .map_err(|why| strange(pair, Side::Source, operation, why))?;
                zvols.snapshot = Some(seen.guid);
            }
        }
    }
    Ok(zvols)
}

/// Proves that a final pass read what the source still is, and seals the target.
pub(crate) async fn after(
    pair: &Pair,
    pass: Pass,
    zvols: Zvols,
    report: &PassReport,
) -> Result<(), TransferError> {
    let operation = operation(pass);
    let Some(digest) = &report.digest else {
        return Ok(());
    };
    if let (Some(zvol), Some(_)) = (&pair.source.zvol, zvols.snapshot) {
        let written = written(pair, Side::Source, zvol, operation).await?;
        if written != Bytes::ZERO {
            let why = format!(
                "{} was written to during the final pass; is the guest really stopped?",
                zvol.dataset
            );
            return Err(strange(pair, Side::Source, operation, why));
        }
    }
    if let Some(zvol) = &pair.target.zvol {
        let snapshot = zvol::seal_name(&zvol.dataset, &pair.name);
        let path = &pair.target.path;
        let take = zvol::seal(&zvol.dataset, path, &snapshot, &pair.name, Some(digest));
        let output = run(pair, Side::Target, operation, &take).await?;
        match output.exit {
            Exit::Code(0) => {}
            Exit::Code(_) if !zvol.sparse && zvol::is_full(&words(&output)) => {
                let give_up = zvol::reserve(&zvol.dataset, false);
                succeed(pair, Side::Target, operation, &give_up).await?;
                succeed(pair, Side::Target, operation, &take).await?;
            }
            Exit::Code(_) | Exit::Signal(_) => {
                return Err(failed(pair, Side::Target, operation, &output));
            }
        }
    }
    Ok(())
}

/// Finds out whose the target zvol is; `None` when the target is none.
pub(crate) async fn target(pair: &Pair) -> Result<Option<Whose>, TransferError> {
    match &pair.target.zvol {
        Some(zvol) => whose(pair, zvol, "look at the target").await.map(Some),
        None => Ok(None),
    }
}

/// Says whether the source zvol is what the seal speaks of; `None` when nothing proves either.
pub(crate) async fn source_same(
    pair: &Pair,
    sealed: &SourceState,
) -> Result<Option<bool>, TransferError> {
    let (Some(zvol), Some(guid)) = (&pair.source.zvol, sealed.snapshot) else {
        return Ok(None);
    };
    let seal = seal(pair, Side::Source, zvol, "look at the source").await?;
    match seal {
        Some(seal) if seal.guid == guid && is_ours(pair, &seal.pair) => {}
        Some(_) | None => return Ok(None),
    }
    let written = written(pair, Side::Source, zvol, "look at the source").await?;
    Ok(Some(written == Bytes::ZERO))
}

/// Says whether the target zvol is as the seal with that digest left it; `None` when nothing proves either.
pub(crate) async fn target_kept(pair: &Pair, digest: &str) -> Result<Option<bool>, TransferError> {
    let Some(zvol) = &pair.target.zvol else {
        return Ok(None);
    };
    let seal = seal(pair, Side::Target, zvol, "look at the target").await?;
    match seal {
        Some(seal) if seal.digest.as_deref() == Some(digest) && is_ours(pair, &seal.pair) => {}
        Some(_) | None => return Ok(None),
    }
    let written = written(pair, Side::Target, zvol, "look at the target").await?;
    Ok(Some(written == Bytes::ZERO))
}

/// Removes our snapshots from both sides, and then our mark from the target.
pub(crate) async fn tidy(pair: &Pair) -> Result<(), TransferError> {
    const OPERATION: &str = "tidying up";
    if let Some(zvol) = &pair.source.zvol {
        unseal(pair, Side::Source, zvol, OPERATION).await?;
    }
    let Some(zvol) = &pair.target.zvol else {
        return Ok(());
    };
    match whose(pair, zvol, OPERATION).await? {
        Whose::Nobodys | Whose::Foreign { .. } => Ok(()),
        Whose::Ours(seen) => {
            unseal(pair, Side::Target, zvol, OPERATION).await?;
            if !zvol.sparse && !seen.reserved {
                let reserve = zvol::reserve(&zvol.dataset, true);
                succeed(pair, Side::Target, OPERATION, &reserve).await?;
            }
            let unmark = zvol::unmark(&zvol.dataset);
            succeed(pair, Side::Target, OPERATION, &unmark)
                .await
                .map(drop)
        }
    }
}

/// Removes the target zvol when it is ours. Does nothing when the target is no zvol.
pub(crate) async fn discard(pair: &Pair) -> Result<(), TransferError> {
    const OPERATION: &str = "removal of the copy";
    let Some(zvol) = &pair.target.zvol else {
        return Ok(());
    };
    match whose(pair, zvol, OPERATION).await? {
        Whose::Nobodys => Ok(()),
        Whose::Foreign { .. } => Err(foreign(pair, Side::Target, &pair.target.path)),
        Whose::Ours(_) => {
            unseal(pair, Side::Target, zvol, OPERATION).await?;
            destroy(pair, Side::Target, &zvol.dataset, OPERATION).await
        }
    }
}

/// Returns the target zvol after making sure that it is there and ours, and whether it was made just now.
async fn possess(
    pair: &Pair,
    zvol: &Zvol,
    operation: &'static str,
) -> Result<(Seen, bool), TransferError> {
    let mut fresh = false;
    match whose(pair, zvol, operation).await? {
        Whose::Ours(seen) => return Ok((seen, false)),
        Whose::Foreign { adoptable: true } if pair.adopt => {
            let mark = zvol::mark(&zvol.dataset, &pair.name);
            succeed(pair, Side::Target, operation, &mark).await?;
        }
        Whose::Foreign { .. } => return Err(foreign(pair, Side::Target, &pair.target.path)),
        Whose::Nobodys => {
            let create = zvol::create(zvol, pair.size, &pair.name);
            let output = run(pair, Side::Target, operation, &create).await?;
            match output.exit {
                Exit::Code(0) => fresh = true,
                // Somebody was faster, and is looked at again.
                Exit::Code(_) if zvol::is_taken(&words(&output)) => {}
                Exit::Code(_) | Exit::Signal(_) => {
                    return Err(failed(pair, Side::Target, operation, &output));
                }
            }
        }
    }
    match whose(pair, zvol, operation).await? {
        Whose::Ours(seen) => Ok((seen, fresh)),
        Whose::Nobodys | Whose::Foreign { .. } => {
            Err(foreign(pair, Side::Target, &pair.target.path))
        }
    }
}

async fn whose(pair: &Pair, zvol: &Zvol, operation: &'static str) -> Result<Whose, TransferError> {
    let look = zvol::look(&zvol.dataset);
    let Some(printed) = unless_missing(pair, Side::Target, operation, &look).await? else {
        return Ok(Whose::Nobodys);
    };
    let seen = zvol::seen(&printed).map_err(|why| strange(pair, Side::Target, operation, why))?;
    Ok(match seen {
        Some(seen) if is_ours(pair, &seen.pair) => Whose::Ours(seen),
        seen => Whose::Foreign {
            adoptable: seen.is_some_and(|seen| seen.pair.is_none()),
        },
    })
}

async fn seal(
    pair: &Pair,
    side: Side,
    zvol: &Zvol,
    operation: &'static str,
) -> Result<Option<zvol::SeenSeal>, TransferError> {
    let look = zvol::look_at_seal(&zvol::seal_name(&zvol.dataset, &pair.name));
    unless_missing(pair, side, operation, &look)
        .await?
        .map(|printed| zvol::seen_seal(&printed))
        .transpose()
        .map_err(|why| strange(pair, side, operation, why))
}

async fn written(
    pair: &Pair,
    side: Side,
    zvol: &Zvol,
    operation: &'static str,
) -> Result<Bytes, TransferError> {
    let snapshot = zvol::seal_name(&zvol.dataset, &pair.name);
    let ask = zvol::written_since(&zvol.dataset, &end_of(pair, side).path, &snapshot);
    let printed = succeed(pair, side, operation, &ask).await?;
    zvol::seen_written(&printed, &snapshot).map_err(|why| strange(pair, side, operation, why))
}

/// Removes a side's seal when there is one.
async fn unseal(
    pair: &Pair,
    side: Side,
    zvol: &Zvol,
    operation: &'static str,
) -> Result<(), TransferError> {
    let Some(seal) = seal(pair, side, zvol, operation).await? else {
        return Ok(());
    };
    let snapshot = zvol::seal_name(&zvol.dataset, &pair.name);
    if is_ours(pair, &seal.pair) {
        destroy(pair, side, &snapshot, operation).await
    } else {
        Err(foreign(pair, side, &snapshot))
    }
}

async fn destroy(
    pair: &Pair,
    side: Side,
    name: &str,
    operation: &'static str,
) -> Result<(), TransferError> {
    let command = zvol::destroy(name);
    for left in (0..=RETRIES).rev() {
        let output = run(pair, side, operation, &command).await?;
        match output.exit {
            Exit::Code(0) => return Ok(()),
            Exit::Code(_) if zvol::is_missing(&words(&output)) => return Ok(()),
            Exit::Code(_) if left > 0 && zvol::is_busy(&words(&output)) => {
                tokio::time::sleep(PAUSE).await;
            }
            Exit::Code(_) | Exit::Signal(_) => return Err(failed(pair, side, operation, &output)),
        }
    }
    Ok(())
}

fn is_ours(pair: &Pair, marked: &Option<String>) -> bool {
    marked.as_deref() == Some(pair.name.as_str())
}

async fn run(
    pair: &Pair,
    side: Side,
    operation: &'static str,
    command: &Command,
) -> Result<Output, TransferError> {
    end_of(pair, side)
        .shell
        .run(command, &[], PATIENCE)
        .await
        .map_err(|source| host(operation, pair, source))
}

async fn succeed(
    pair: &Pair,
    side: Side,
    operation: &'static str,
    command: &Command,
) -> Result<String, TransferError> {
    let output = run(pair, side, operation, command).await?;
    match output.exit {
        Exit::Code(0) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Exit::Code(_) | Exit::Signal(_) => Err(failed(pair, side, operation, &output)),
    }
}

/// Returns what was printed, `None` when ZFS says that there is no such thing.
async fn unless_missing(
    pair: &Pair,
    side: Side,
    operation: &'static str,
    command: &Command,
) -> Result<Option<String>, TransferError> {
    let output = run(pair, side, operation, command).await?;
    match output.exit {
        Exit::Code(0) => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
        Exit::Code(_) if zvol::is_missing(&words(&output)) => Ok(None),
        Exit::Code(_) | Exit::Signal(_) => Err(failed(pair, side, operation, &output)),
    }
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn foreign(pair: &Pair, side: Side, path: &str) -> TransferError {
    TransferError::Foreign {
        address: end_of(pair, side).shell.address().to_owned(),
        path: path.to_owned(),
    }
}

fn strange(pair: &Pair, side: Side, operation: &'static str, reason: String) -> TransferError {
    TransferError::Porter {
        operation,
        drive: pair.drive,
        address: end_of(pair, side).shell.address().to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests;
