//! Short zfs commands on the hosts of a pair: run, judged, read.
//!
//! It knows how to ask and how a failure is told; what to ask is `syntax.rs`, what follows from the answer is decided
//! elsewhere. A command that is repeated does no harm. Read next: `keep.rs`, `pass.rs`.

use super::read::{self, Volume};
use super::syntax;
use crate::host::command::Command;
use crate::host::{Exit, Output};
use crate::transfer::image::{end_of, host};
use crate::transfer::lines::Side;
use crate::transfer::upload::PATIENCE;
use crate::transfer::{End, Pair, TransferError};

/// Returns the dataset of one end of a pair.
pub(crate) fn dataset<'a>(
    pair: &'a Pair,
    side: Side,
    operation: &'static str,
) -> Result<&'a str, TransferError> {
    let end: &End = end_of(pair, side);
    match &end.zvol {
        Some(zvol) => Ok(&zvol.dataset),
        None => Err(trouble(
            pair,
            side,
            operation,
            format!("{} is no volume of ZFS", end.path),
        )),
    }
}

/// Runs a command, whatever its exit.
pub(crate) async fn run(
    pair: &Pair,
    side: Side,
    operation: &'static str,
    command: &Command,
) -> Result<Output, TransferError> {
    log::debug!("{}: {command}", end_of(pair, side).shell.address());
    end_of(pair, side)
        .shell
        .run(command, &[], PATIENCE)
        .await
        .map_err(|error| host(operation, pair, error))
}

/// Runs a command that has to succeed, and returns what it printed.
pub(crate) async fn must(
    pair: &Pair,
    side: Side,
    operation: &'static str,
    command: &Command,
) -> Result<String, TransferError> {
    let output = run(pair, side, operation, command).await?;
    if output.exit == Exit::Code(0) {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(refused(pair, side, operation, command, &output))
    }
}

/// Runs a command that may find its work done: its failure counts as success when it says one of these words.
pub(crate) async fn must_or(
    pair: &Pair,
    side: Side,
    operation: &'static str,
    command: &Command,
    done: &[&str],
) -> Result<(), TransferError> {
    let output = run(pair, side, operation, command).await?;
    let words = String::from_utf8_lossy(&output.stderr);
    if output.exit == Exit::Code(0) || done.iter().any(|done| words.contains(done)) {
        Ok(())
    } else {
        Err(refused(pair, side, operation, command, &output))
    }
}

/// Asks about the datasets of these pairs, which are on one host; `None` for one that does not exist.
pub(crate) async fn look(
    pairs: &[&Pair],
    side: Side,
    operation: &'static str,
) -> Result<Vec<Option<Volume>>, TransferError> {
    let Some(pair) = pairs.first() else {
        return Ok(Vec::new());
    };
    let mut datasets = Vec::new();
    for pair in pairs {
        datasets.push(dataset(pair, side, operation)?);
    }
    let command = syntax::look(&datasets);
    asked(pair, side, operation, &command, &datasets).await
}

/// Asks about one end of a pair, after its pool wrote out what it only remembered, and how much was written to it since
/// a snapshot.
pub(crate) async fn look_closely(
    pair: &Pair,
    side: Side,
    operation: &'static str,
    since: Option<&str>,
) -> Result<Option<Volume>, TransferError> {
    let dataset = dataset(pair, side, operation)?;
    let command = syntax::look_closely(dataset, since);
    let found = asked(pair, side, operation, &command, &[dataset]).await?;
    Ok(found.into_iter().next().flatten())
}

async fn asked(
    pair: &Pair,
    side: Side,
    operation: &'static str,
    command: &Command,
    datasets: &[&str],
) -> Result<Vec<Option<Volume>>, TransferError> {
    let output = run(pair, side, operation, command).await?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.exit != Exit::Code(0) && !read::only_missing(&errors) {
        return Err(refused(pair, side, operation, command, &output));
    }
    let printed = String::from_utf8_lossy(&output.stdout);
    Ok(read::read_volumes(&printed, datasets))
}

/// Returns an error about a host.
pub(crate) fn trouble(
    pair: &Pair,
    side: Side,
    operation: &'static str,
    reason: String,
) -> TransferError {
    TransferError::Porter {
        operation,
        drive: pair.drive,
        address: end_of(pair, side).shell.address().to_owned(),
        reason,
    }
}

/// Returns the error of a command that failed.
pub(crate) fn refused(
    pair: &Pair,
    side: Side,
    operation: &'static str,
    command: &Command,
    output: &Output,
) -> TransferError {
    let brief = command.brief();
    let name: Vec<&str> = match brief.starts_with("zfs ") {
        true => brief.split(' ').take(2).collect(),
        false => vec!["zfs get"],
    };
    let reason = format!("{} {}: {}", name.join(" "), output.exit, words(output));
    trouble(pair, side, operation, reason)
}

/// Returns what a command said on standard error, as one line.
pub(crate) fn words(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("; ")
}
