//! Faults of commands on request, and the list of every command line that was run.
//!
//! A rule hits the n-th command of a host; tests use it to break a move at every single command. Never decides by what a
//! command does. Read next: `embedded.rs`.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sim::world::faults::Callback;

/// What happens to a command.
#[derive(Clone)]
pub enum CommandFault {
    /// It is not run; another one that fails takes its place.
    Error,
    /// It is run, but nobody learns how it ended.
    LostAnswer,
    /// It is not run; what takes its place says nothing and never ends.
    Hang,
    /// It is run, and the callback is called when it was started.
    Started(Callback),
}

impl fmt::Debug for CommandFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CommandFault::Error => "Error",
            CommandFault::LostAnswer => "LostAnswer",
            CommandFault::Hang => "Hang",
            CommandFault::Started(_) => "Started",
        })
    }
}

/// The rules and the record of one host.
#[derive(Debug, Default)]
pub struct CommandFaults(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rules: Vec<(usize, CommandFault)>,
    lines: Vec<String>,
}

impl CommandFaults {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Breaks the n-th command, counted from 1 since the record was forgotten last.
    pub fn add(&self, nth: usize, fault: CommandFault) {
        self.inner().rules.push((nth, fault));
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.inner().rules.clear();
    }

    /// Returns all command lines, oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.inner().lines.clone()
    }

    /// Forgets the command lines so far.
    pub fn forget(&self) {
        self.inner().lines.clear();
    }

    /// Records a command line, and returns what happens to it.
    pub(super) fn hit(&self, line: &str) -> Option<CommandFault> {
        let mut inner = self.inner();
        inner.lines.push(line.to_owned());
        let count = inner.lines.len();
        let rule = inner.rules.iter().find(|(nth, _)| *nth == count);
        rule.map(|(_, fault)| fault.clone())
    }
}
