//! Evacuating a node and bringing everything back: acting on what `plan/evacuate` and `plan/restore` decided.
//!
//! Everything that must survive is written on the guests and on the node, so that a run that ended anywhere is gone on
//! with by the same command, or undone by a restore, on any machine. It never chooses: what a plan says is done, or left
//! with a reason. Read next: `run.rs`, `go.rs`, `restore.rs`; `across.rs`, other clusters.

pub mod across;
mod close;
mod go;
mod ha;
mod mark;
pub mod observe;
pub mod outcome;
pub mod restore;
pub mod rolling;
mod run;
mod seen;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use restore::RestoreJob;
pub use run::EvacuationJob;

use crate::cluster::{Api, ApiError};
use crate::config::SshAddress;
use crate::host::ShellError;
use crate::moves::hosts::Hosts;
use crate::moves::interrupt::Interrupt;
use crate::pve::id::NodeName;
use crate::report::{Event, Operator, Reporter};

/// What stops the work on a node as a whole. Display is a lowercase fragment without its source.
#[derive(Debug, thiserror::Error)]
pub enum EvacuationError {
    /// The cluster could not be asked, or refused something that is not about one guest.
    #[error("cannot {what}")]
    Api {
        /// What was tried: `list the guests` ...
        what: String,
        /// Why not.
        #[source]
        source: ApiError,
    },
    /// No host could be told to switch HA maintenance.
    #[error("cannot switch HA maintenance of {node} {}: {reason}", if *on { "on" } else { "off" })]
    Maintenance {
        /// The node.
        node: NodeName,
        /// On or off.
        on: bool,
        /// What each host said.
        reason: String,
    },
    /// The node's notes have no room, or were changed by somebody else again and again.
    #[error("cannot write the notes of {node}: {reason}")]
    Notes {
        /// The node.
        node: NodeName,
        /// Why.
        reason: String,
    },
    /// Something that is waited for did not happen.
    #[error("{what} did not happen, and nothing has changed for {silence:?}")]
    Waited {
        /// What: `the return of pve1: pve1 is offline` ...
        what: String,
        /// How long nothing has changed.
        silence: Duration,
    },
    /// The command on the node failed.
    #[error("the command on {node} failed: {reason}")]
    Command {
        /// The node.
        node: NodeName,
        /// Why.
        reason: String,
    },
    /// The operator wants to stop.
    #[error("interrupted")]
    Interrupted,
}

impl EvacuationError {
    fn api(what: &str) -> impl FnOnce(ApiError) -> EvacuationError {
        let what = what.to_owned();
        move |source| EvacuationError::Api { what, source }
    }
}

/// The least and the most time between two looks at something that is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two looks.
    pub look: Duration,
    /// How long nothing may change before waiting ends.
    pub patience: Duration,
    /// How long a guest may take to shut down.
    pub stop_timeout: Duration,
}

/// What evacuations and restores are done with.
#[derive(Clone)]
pub struct Evacuator {
    /// The cluster.
    pub api: Arc<dyn Api>,
    /// The machines of the cluster, for what its API cannot do.
    pub hosts: Arc<Hosts>,
    /// How to reach nodes by SSH, where that is configured; the others by their address, as root.
    pub addresses: BTreeMap<NodeName, SshAddress>,
    /// Who is told.
    pub reporter: Arc<dyn Reporter>,
    /// Who is asked.
    pub operator: Arc<dyn Operator>,
    /// Whether the operator wants to stop.
    pub interrupt: Interrupt,
    /// Who runs this, `user@machine`.
    pub identity: String,
    /// How patient to be.
    pub pace: Pace,
    /// What guests are moved to other clusters with; without it none are.
    pub movers: Option<Arc<across::Movers>>,
}

impl Evacuator {
    fn step(&self, guest: &str, step: &str, text: impl Into<String>) {
        self.reporter.tell(&Event::StepStarted {
            guest: guest.to_owned(),
            step: step.to_owned(),
            text: text.into(),
        });
    }

    fn notice(&self, guest: Option<&str>, text: impl Into<String>) {
        self.reporter.tell(&Event::Notice {
            guest: guest.map(str::to_owned),
            text: text.into(),
        });
    }

    fn warn(&self, guest: Option<&str>, text: impl Into<String>) {
        self.reporter.tell(&Event::Warning {
            guest: guest.map(str::to_owned),
            text: text.into(),
        });
    }

    /// Asks a question; `None` without anybody to ask.
    pub async fn ask(&self, question: String) -> Option<bool> {
        let operator = Arc::clone(&self.operator);
        // Asking blocks its thread.
        tokio::task::spawn_blocking(move || operator.confirm(&question))
            .await
            .unwrap_or(None)
    }
}

/// Returns the present time as notes have it.
fn now() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

/// Returns an error with all its causes in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    crate::error::Failure::new(crate::error::ExitCode::Failed, error)
        .error
        .join(": ")
}

/// Returns what a shell said, in one line.
fn shell_text(error: &ShellError) -> String {
    chain(error)
}
