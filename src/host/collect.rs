//! Collecting: a [`Stream`] driven to its end by the one that started it, for short commands.
//!
//! Knows no transport; [`super::local`] and [`super::ssh`] both end here. Never decides whether an exit is a success.
//! Read next: `local.rs`.

use std::time::Duration;

use tokio::time::timeout;

use super::command::Command;
use super::{Exit, Output, ShellError, Stream};

/// How much of standard error is kept: the end of it, where programs say why they gave up.
const STDERR_KEPT: usize = 64 << 10;

/// How much input is handed over at once.
const INPUT_CHUNK: usize = 256 << 10;

/// Feeds `input`, gathers both outputs and waits for the exit.
///
/// Fails with [`ShellError::Silent`] when nothing moved in either direction for `patience`; the stream is then dropped,
/// which ends its connection.
pub(super) async fn collect(
    stream: Stream,
    address: &str,
    command: &Command,
    input: &[u8],
    patience: Duration,
) -> Result<Output, ShellError> {
    let Stream {
        input: sender,
        mut output,
        mut errors,
        mut exit,
    } = stream;
    let mut sender = Some(sender);
    let mut rest = input;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let (mut output_open, mut errors_open) = (true, true);

    loop {
        if rest.is_empty() {
            sender = None;
        }
        let step = async {
            tokio::select! {
                permit = reserve(&sender), if sender.is_some() => Moved::Input(permit),
                chunk = output.recv(), if output_open => Moved::Output(chunk),
                chunk = errors.recv(), if errors_open => Moved::Errors(chunk),
                exit = &mut exit, if !output_open && !errors_open => Moved::Exit(exit.ok()),
            }
        };
        let Ok(moved) = timeout(patience, step).await else {
            return Err(ShellError::Silent {
                address: address.to_owned(),
                command: command.brief(),
                silence: patience,
            });
        };
        match moved {
            Moved::Input(Some(permit)) => {
                let (now, later) = rest.split_at(rest.len().min(INPUT_CHUNK));
                permit.send(now.to_vec());
                rest = later;
            }
            // The command reads no more; what it says and how it ends still counts.
            Moved::Input(None) => rest = &[],
            Moved::Output(Some(chunk)) => stdout.extend(chunk),
            Moved::Output(None) => output_open = false,
            Moved::Errors(Some(chunk)) => {
                stderr.extend(chunk);
                if stderr.len() > 2 * STDERR_KEPT {
                    keep_end(&mut stderr);
                }
            }
            Moved::Errors(None) => errors_open = false,
            Moved::Exit(exit) => {
                keep_end(&mut stderr);
                return match exit {
                    Some(Ok(exit)) => Ok(Output {
                        exit,
                        stdout,
                        stderr,
                    }),
                    Some(Err(error)) => Err(error),
                    None => Err(ShellError::Lost {
                        address: address.to_owned(),
                        command: command.brief(),
                        reason: "the connection's thread ended".to_owned(),
                    }),
                };
            }
        }
    }
}

/// What happened in one turn of the loop.
enum Moved<'a> {
    Input(Option<tokio::sync::mpsc::Permit<'a, Vec<u8>>>),
    Output(Option<Vec<u8>>),
    Errors(Option<Vec<u8>>),
    Exit(Option<Result<Exit, ShellError>>),
}

/// Waits for room in the input; `None` when nobody reads it any more.
async fn reserve(
    sender: &Option<tokio::sync::mpsc::Sender<Vec<u8>>>,
) -> Option<tokio::sync::mpsc::Permit<'_, Vec<u8>>> {
    match sender {
        Some(sender) => sender.reserve().await.ok(),
        None => None,
    }
}

/// Drops all but the last [`STDERR_KEPT`] bytes.
fn keep_end(stderr: &mut Vec<u8>) {
    stderr.drain(..stderr.len().saturating_sub(STDERR_KEPT));
}
