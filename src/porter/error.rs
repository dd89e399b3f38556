//! What can go wrong in a porter, and how it is told to the other side and to the operator.
//!
//! Read next: `tell.rs`.

use std::io;

use serde::{Deserialize, Serialize};

/// What went wrong. Display is a lowercase fragment; the cause stands in `source`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PorterError {
    /// The command line is not one of ours.
    #[error("{0}")]
    Usage(String),
    /// An operation on a file failed.
    #[error("{operation} {path}")]
    File {
        /// "open", "create" ...
        operation: &'static str,
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A volume could not be read or written at some place.
    #[error("{operation} {path} at offset {offset}")]
    Place {
        /// "read" or "write".
        operation: &'static str,
        /// The volume.
        path: String,
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that is not ours is at the target's path.
    #[error("{path} exists and is not proxmove's")]
    Foreign {
        /// The file.
        path: String,
    },
    /// What is on the disk is not what was written.
    #[error("{path} differs from its source at offset {offset}")]
    Differs {
        /// The volume.
        path: String,
        /// First offset that differs.
        offset: u64,
    },
    /// Both sides finished and do not agree.
    #[error("the digests of source and target differ")]
    Digest,
    /// The source was written to while it was passed for the last time.
    #[error("{path} was written to during the final pass; is the guest really stopped?")]
    SourceChanged {
        /// The volume.
        path: String,
    },
    /// Something proxmove does not carry.
    #[error("{0}")]
    Unsupported(String),
    /// Another pass works on the same target.
    #[error(
        "an earlier pass still works on {path}; one that was left alone ends by itself within {patience} seconds"
    )]
    Busy {
        /// The manifest.
        path: String,
        /// Seconds after which a silent receiver ends.
        patience: u64,
    },
    /// A command of the host's own did not do what it was run for.
    #[error("{program} {how}{}{words}", if .words.is_empty() { "" } else { ": " })]
    Program {
        /// Its first words.
        program: String,
        /// "exited with 1", "gave nothing for 300 seconds" ...
        how: String,
        /// The last lines it wrote to standard error.
        words: String,
    },
    /// The other side spoke something else than expected.
    #[error("the other side sent {0}")]
    Protocol(String),
    /// The other side is gone.
    #[error("the connection to the other side ended early")]
    Gone,
    /// The other side never spoke.
    #[error("the other side never answered")]
    NoAnswer,
    /// The direct connection never worked.
    #[error("ssh to the target host: {0}")]
    Direct(String),
    /// The target host's shell did not find the porter there.
    #[error("the porter is not there any more: {0}")]
    Missing(String),
    /// The other side reported an error.
    #[error("{}", .0.text)]
    Peer(Report),
}

/// An error as it travels: on the wire between porters, and as a JSON line to the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// A word for programs, see [`PorterError::kind`].
    pub(crate) kind: String,
    /// The sentence for people, with its causes.
    pub(crate) text: String,
    /// The file it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    /// The place in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) offset: Option<u64>,
    /// Whether the error comes from the other host.
    #[serde(default)]
    pub(crate) peer: bool,
}

impl PorterError {
    /// Returns the word that names this kind of error for the engine.
    pub(crate) fn kind(&self) -> &str {
        match self {
            PorterError::Usage(_) => "usage",
            PorterError::File { .. } | PorterError::Place { .. } => "file",
            PorterError::Foreign { .. } => "foreign",
            PorterError::Differs { .. } => "differs",
            PorterError::Digest => "digest",
            PorterError::SourceChanged { .. } => "source-changed",
            PorterError::Unsupported(_) => "unsupported",
            PorterError::Busy { .. } => "busy",
            PorterError::Program { .. } => "program",
            PorterError::Protocol(_) => "protocol",
            PorterError::Gone => "gone",
            PorterError::NoAnswer => "no-answer",
            PorterError::Direct(_) => "direct",
            PorterError::Missing(_) => "missing",
            PorterError::Peer(report) => &report.kind,
        }
    }

    /// Returns the error in the form in which it travels.
    pub(crate) fn report(&self) -> Report {
        if let PorterError::Peer(report) = self {
            let mut report = report.clone();
            report.peer = true;
            return report;
        }
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        let (path, offset) = match self {
            PorterError::File { path, .. }
            | PorterError::Foreign { path }
            | PorterError::SourceChanged { path }
            | PorterError::Busy { path, .. } => (Some(path.clone()), None),
            PorterError::Place { path, offset, .. } | PorterError::Differs { path, offset } => {
                (Some(path.clone()), Some(*offset))
            }
            PorterError::Usage(_)
            | PorterError::Digest
            | PorterError::Unsupported(_)
            | PorterError::Program { .. }
            | PorterError::Protocol(_)
            | PorterError::Gone
            | PorterError::NoAnswer
            | PorterError::Direct(_)
            | PorterError::Missing(_)
            | PorterError::Peer(_) => (None, None),
        };
        Report {
            kind: self.kind().to_owned(),
            text,
            path,
            offset,
            peer: false,
        }
    }

    /// Returns a function that says which operation on which file an I/O error belongs to.
    pub(crate) fn file(
        operation: &'static str,
        path: impl AsRef<std::path::Path>,
    ) -> impl FnOnce(io::Error) -> PorterError {
        let path = path.as_ref().display().to_string();
        move |source| PorterError::File {
            operation,
            path,
            source,
        }
    }
}
