//! This machine as a host: commands run by `sh -c`, for tests and the storage lab.
//!
//! Behaves as a host behind sshd does: a dropped [`Stream`] closes the command's standard input and outputs and sends no
//! signal. Never used for a move between clusters. Read next: `ssh.rs`.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin};
use tokio::sync::{mpsc, oneshot};

use super::collect::collect;
use super::command::Command;
use super::{CHUNK, Exit, Output, QUEUE, Shell, ShellError, Stream, signal_name};

/// The machine this process runs on.
#[derive(Clone, Debug)]
pub struct LocalShell {
    address: String,
}

impl LocalShell {
    /// Names this machine `address` in messages, `local` being the honest choice outside of tests.
    pub fn new(address: impl Into<String>) -> LocalShell {
        LocalShell {
            address: address.into(),
        }
    }
}

impl Default for LocalShell {
    fn default() -> LocalShell {
        LocalShell::new("local")
    }
}

#[async_trait]
impl Shell for LocalShell {
    fn address(&self) -> &str {
        &self.address
    }

    async fn run(
        &self,
        command: &Command,
        input: &[u8],
        patience: Duration,
    ) -> Result<Output, ShellError> {
        let stream = self.stream(command).await?;
        collect(stream, &self.address, command, input, patience).await
    }

    async fn stream(&self, command: &Command) -> Result<Stream, ShellError> {
        let connect = |source| ShellError::Connect {
            address: self.address.clone(),
            source,
        };
        let mut child = tokio::process::Command::new("sh")
            .arg("-c")
            .arg(command.line())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A Ctrl-C at the terminal reaches proxmove, not the commands, as it is with a remote host.
            .process_group(0)
            .spawn()
            .map_err(connect)?;
        let missing = || connect(std::io::Error::other("a standard stream is missing"));
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let stderr = child.stderr.take().ok_or_else(missing)?;

        let (input, input_receiver) = mpsc::channel(QUEUE);
        let (output_sender, output) = mpsc::channel(QUEUE);
        let (errors_sender, errors) = mpsc::channel(QUEUE);
        let (exit_sender, exit) = oneshot::channel();
        let lost = {
            let (address, command) = (self.address.clone(), command.brief());
            move |error: std::io::Error| ShellError::Lost {
                address,
                command,
                reason: error.to_string(),
            }
        };
        let feeding = tokio::spawn(feed(input_receiver, stdin));
        let draining = tokio::spawn(async move {
            tokio::join!(drain(stdout, output_sender), drain(stderr, errors_sender));
        });
        tokio::spawn(async move {
            let end = finish(child, draining, exit_sender).await;
            // Whoever still holds the input learns that nobody reads it.
            feeding.abort();
            if let Some((exit_sender, status)) = end {
                // A failed send means that nobody asks any more.
                let _ = exit_sender.send(status.map(exit_of).map_err(lost));
            }
        });
        Ok(Stream {
            input,
            output,
            errors,
            exit,
        })
    }
}

type ExitSender = oneshot::Sender<Result<Exit, ShellError>>;

/// Waits for both outputs and the process.
async fn finish(
    mut child: Child,
    draining: tokio::task::JoinHandle<()>,
    exit_sender: ExitSender,
) -> Option<(ExitSender, std::io::Result<ExitStatus>)> {
    // Both outputs end before the exit is told; a panic in there cannot happen and would only end them early.
    let _ = draining.await;
    let status = child.wait().await;
    Some((exit_sender, status))
}

/// Moves input into the command until the sender is dropped or the command reads no more.
async fn feed(mut input: mpsc::Receiver<Vec<u8>>, mut stdin: ChildStdin) {
    while let Some(chunk) = input.recv().await {
        if stdin.write_all(&chunk).await.is_err() {
            return;
        }
    }
}

/// Moves one of the command's outputs to its reader; closes the pipe when the reader is gone.
async fn drain(mut pipe: impl AsyncRead + Unpin, sender: mpsc::Sender<Vec<u8>>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = tokio::select! {
            count = pipe.read(&mut buffer) => count,
            () = sender.closed() => return,
        };
        match count {
            Ok(count) if count > 0 => {
                if sender.send(buffer[..count].to_vec()).await.is_err() {
                    return;
                }
            }
            // An error of a pipe is its end.
            Ok(_) | Err(_) => return,
        }
    }
}

/// Returns how a process ended.
fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal_name(signal)),
        (None, None) => Exit::Signal("an unknown signal".to_owned()),
    }
}

#[cfg(test)]
mod tests;
