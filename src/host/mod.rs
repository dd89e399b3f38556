//! Machines reached over SSH: the trait [`Shell`], and who implements it.
//!
//! This module runs commands; it never decides which. `moves` never talks to a shell, only `transfer` and `check` do,
//! and [`node_file`], which enters snapshots into a guest's configuration.
//! Read next: [`command`], then [`ssh`] (the only place that knows ssh2), [`local`] (this machine, for tests and the
//! storage lab) and [`agent`] (the operator's key, lent for one login).

pub mod agent;
mod collect;
pub mod command;
pub mod local;
pub mod node_file;
pub mod ssh;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use command::Command;

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It ended by itself with this code.
    Code(i32),
    /// A signal ended it.
    Signal(String),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exited with {code}"),
            Exit::Signal(signal) => write!(f, "was killed by {signal}"),
        }
    }
}

/// What a short command gave back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error, at most the last 64 KiB.
    pub stderr: Vec<u8>,
}

/// What went wrong on the way to or from a host. Display is a lowercase fragment without its source.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// ~/.ssh/config cannot be understood, or asks for something that does not exist here.
    #[error("{0}")]
    Configuration(String),
    /// The host could not be reached.
    #[error("cannot connect to {address}")]
    Connect {
        /// `user@host:port`.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The host's key is unknown, or another one than remembered.
    #[error("{0}")]
    HostKey(String),
    /// No key or agent identity was accepted.
    #[error("login to {address} refused: {reason}")]
    Login {
        /// `user@host:port`.
        address: String,
        /// What was tried.
        reason: String,
    },
    /// The connection broke while a command ran; whether the command goes on is not known.
    #[error("connection to {address} lost while running '{command}': {reason}")]
    Lost {
        /// `user@host:port`.
        address: String,
        /// The command's first words.
        command: String,
        /// What the transport said.
        reason: String,
    },
    /// The command ended with something else than success.
    #[error("'{command}' on {address} {exit}: {stderr}")]
    Failed {
        /// `user@host:port`.
        address: String,
        /// The command's first words.
        command: String,
        /// How it ended.
        exit: Exit,
        /// The last lines of its standard error.
        stderr: String,
    },
    /// Nothing moved for too long.
    #[error("'{command}' on {address} gave no sign of life for {silence:?}")]
    Silent {
        /// `user@host:port`.
        address: String,
        /// The command's first words.
        command: String,
        /// How long it was silent.
        silence: Duration,
    },
}

/// The live streams of a running command. The caller drains `output` and `errors` and drops `input` for end of file.
///
/// Dropping the whole value ends the connection, and with it the command's standard input and output.
pub struct Stream {
    /// To the command's standard input; dropping it closes it.
    pub input: mpsc::Sender<Vec<u8>>,
    /// From the command's standard output; closed at its end.
    pub output: mpsc::Receiver<Vec<u8>>,
    /// From the command's standard error; closed at its end.
    pub errors: mpsc::Receiver<Vec<u8>>,
    /// How it ended, after both outputs ended.
    pub exit: oneshot::Receiver<Result<Exit, ShellError>>,
}

/// A machine that runs commands.
#[async_trait]
pub trait Shell: Send + Sync {
    /// Returns the address for messages, `user@host` or `user@host:port`.
    fn address(&self) -> &str;

    /// Runs a short command to its end, with `input` as its standard input.
    ///
    /// An exit other than 0 is an `Output`, not an error. Fails with [`ShellError::Silent`] when neither side moved a
    /// byte for `patience`.
    async fn run(
        &self,
        command: &Command,
        input: &[u8],
        patience: Duration,
    ) -> Result<Output, ShellError>;

    /// Starts a long-running command on a connection of its own.
    async fn stream(&self, command: &Command) -> Result<Stream, ShellError>;
}

/// How many bytes are read at once, and the size of one element of a [`Stream`]'s queues.
const CHUNK: usize = 256 << 10;

/// How many elements a [`Stream`]'s queues hold: enough to keep both sides busy, little enough to feel back-pressure.
const QUEUE: usize = 8;

/// Returns a signal's name without `SIG`, as SSH spells it (RFC 4254, 6.10).
fn signal_name(signal: i32) -> String {
    const NAMES: [(i32, &str); 13] = [
        (1, "HUP"),
        (2, "INT"),
        (3, "QUIT"),
        (4, "ILL"),
        (6, "ABRT"),
        (8, "FPE"),
        (9, "KILL"),
        (10, "USR1"),
        (11, "SEGV"),
        (12, "USR2"),
        (13, "PIPE"),
        (14, "ALRM"),
        (15, "TERM"),
    ];
    NAMES
        .iter()
        .find(|(number, _)| *number == signal)
        .map_or_else(
            || format!("signal {signal}"),
            |(_, name)| (*name).to_owned(),
        )
}
