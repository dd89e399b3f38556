//! SSH through libssh2: the only place that knows the crate ssh2.
//!
//! [`SshShell`] is a host behind sshd. Short commands share one session and wait for each other; each stream has a
//! session and a thread of its own, so that dropping it ends exactly its connection. A command is never sent twice.
//! Keys are verified against known_hosts, the login is by key only.
//!
//! Read next, in the order things happen: `environment.rs`, `settings.rs` (~/.ssh/config), `known_hosts.rs`,
//! `connect.rs`, `auth.rs`, `pump.rs`, `worker.rs`.

mod auth;
mod connect;
mod environment;
mod known_hosts;
mod pump;
mod settings;
mod worker;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

pub use auth::Identity;
pub use connect::Verified;
pub use environment::SshEnvironment;

use super::collect::collect;
use super::command::Command;
use super::{Output, Shell, ShellError, Stream};
use crate::config::SshAddress;
use crate::report::Operator;
use settings::Destination;
use worker::{Job, Refusal};

/// What all connections of one run of proxmove have in common.
#[derive(Clone)]
pub struct SshOptions {
    /// `--ssh-ciphers`: a list for both directions; `-` for the library's own order, `None` for AES-GCM before all
    /// others.
    pub ciphers: Option<String>,
    /// Who is asked about the key of an unknown host.
    pub operator: Arc<dyn Operator>,
    /// Where keys, known hosts and the agent are found.
    pub environment: SshEnvironment,
}

/// A host behind sshd.
pub struct SshShell {
    destination: Destination,
    address: String,
    options: SshOptions,
    /// The worker for short commands; the lock makes them wait for each other.
    short: tokio::sync::Mutex<Option<mpsc::Sender<Job>>>,
    verified: Mutex<Option<Verified>>,
}

impl SshShell {
    /// Completes the address from ~/.ssh/config; connects only when there is something to do.
    ///
    /// Fails with [`ShellError::Configuration`], also when this program is not fit for several connections at once.
    pub fn new(address: &SshAddress, options: SshOptions) -> Result<SshShell, ShellError> {
        if !knows_threads(openssl::version::c_flags()) {
            return Err(ShellError::Configuration(
                "this proxmove was built with an OpenSSL without threads, and its connections would damage each \
                 other's memory; build it with the command in README.rst"
                    .to_owned(),
            ));
        }
        let destination = settings::resolve(address, &options.environment)?;
        Ok(SshShell {
            address: destination.address(),
            destination,
            options,
            short: tokio::sync::Mutex::new(None),
            verified: Mutex::new(None),
        })
    }

    /// Returns what a login established about the host; connects if there was none yet.
    pub async fn verified(&self) -> Result<Verified, ShellError> {
        if let Some(verified) = self.remembered() {
            return Ok(verified);
        }
        let mut short = self.short.lock().await;
        if let Some(verified) = self.remembered() {
            return Ok(verified);
        }
        let (jobs, verified) = self.connect().await?;
        *short = Some(jobs);
        Ok(verified)
    }

    /// Returns the verified host key as a known_hosts line, under the name and port this shell reaches the host by.
    ///
    /// For another machine that calls the host differently, see [`Verified::known_hosts_line`].
    pub async fn known_host_line(&self) -> Result<String, ShellError> {
        let verified = self.verified().await?;
        Ok(known_hosts::line(&verified.name, &verified.host_key))
    }

    /// Returns the address this shell connects to, with everything ~/.ssh/config adds.
    pub fn resolved(&self) -> SshAddress {
        SshAddress {
            user: Some(self.destination.user.clone()),
            host: self.destination.host.clone(),
            port: Some(self.destination.port),
        }
    }

    /// Returns what the newest login established about the host; `None` before the first one.
    pub fn remembered(&self) -> Option<Verified> {
        // A poisoned lock only says that another thread panicked; the value is whole.
        let verified = self
            .verified
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        verified.clone()
    }

    /// Starts a worker with a session of its own.
    async fn connect(&self) -> Result<(mpsc::Sender<Job>, Verified), ShellError> {
        let (jobs, verified) =
            worker::start(self.destination.clone(), self.options.clone()).await?;
        *self
            .verified
            .lock()
            .unwrap_or_else(|poison| poison.into_inner()) = Some(verified.clone());
        Ok((jobs, verified))
    }

    /// Hands a command to a worker; the inner error says that the session was dead before the command was sent.
    async fn hand_over(
        &self,
        jobs: &mpsc::Sender<Job>,
        command: &Command,
    ) -> Result<Result<Stream, String>, ShellError> {
        let (job, stream, has_started) = worker::job(command.line(), command.brief());
        if jobs.send(job).await.is_err() {
            return Ok(Err("the session was closed".to_owned()));
        }
        match has_started.await {
            Ok(Ok(())) => Ok(Ok(stream)),
            Ok(Err(Refusal::Lost(reason))) => Err(self.lost(command, reason)),
            Ok(Err(Refusal::Stale(reason))) => Ok(Err(reason)),
            // The worker ended with the job still in its queue.
            Err(_) => Ok(Err("the session was closed".to_owned())),
        }
    }

    fn lost(&self, command: &Command, reason: String) -> ShellError {
        ShellError::Lost {
            address: self.address.clone(),
            command: command.brief(),
            reason,
        }
    }
}

/// Says whether an OpenSSL that was compiled like this keeps the state of threads apart.
///
/// Its own build script leaves threads out without a word when it is asked for a static *program*
/// (`RUSTFLAGS='-C target-feature=+crt-static'` does that), and then a single array serves all threads. On Linux, it is
/// compiled with this flag wherever threads are in.
fn knows_threads(compiler_flags: &str) -> bool {
    let linux = cfg!(target_os = "linux");
    !linux
        || compiler_flags
            .split_whitespace()
            .any(|flag| flag == "-pthread")
}

#[async_trait]
impl Shell for SshShell {
    fn address(&self) -> &str {
        &self.address
    }

    async fn run(
        &self,
        command: &Command,
        input: &[u8],
        patience: Duration,
    ) -> Result<Output, ShellError> {
        let mut short = self.short.lock().await;
        let kept = match short.take() {
            Some(jobs) => match self.hand_over(&jobs, command).await? {
                Ok(stream) => Some((jobs, stream)),
                Err(reason) => {
                    log::debug!("{}: {reason}, connecting again", self.address);
                    None
                }
            },
            None => None,
        };
        let (jobs, stream) = match kept {
            Some(kept) => kept,
            None => {
                let (jobs, _) = self.connect().await?;
                let handed_over = self.hand_over(&jobs, command).await?;
                (
                    jobs,
                    handed_over.map_err(|reason| self.lost(command, reason))?,
                )
            }
        };
        let output = collect(stream, &self.address, command, input, patience).await?;
        *short = Some(jobs);
        Ok(output)
    }

    async fn stream(&self, command: &Command) -> Result<Stream, ShellError> {
        let (jobs, _) = self.connect().await?;
        // The sender is dropped at the end of this function: the worker serves this one command.
        self.hand_over(&jobs, command)
            .await?
            .map_err(|reason| self.lost(command, reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_openssl_in_this_program_knows_threads() {
        assert!(knows_threads(openssl::version::c_flags()));
        assert!(!knows_threads(
            "compiler: cc -fPIC -static -O3 -DOPENSSL_PIC"
        ));
    }
}
