//! A command of the host's own whose standard input or output is a stream: `zfs send`, `zfs receive`.
//!
//! Its last words are kept for the error. The command line was quoted by the engine (`host/command.rs`); nothing is
//! added to it here. A program that is no longer wanted loses its streams, and is killed when it only reads. Read next:
//! `pour.rs`, `catch.rs`.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::error::PorterError;

/// Lines kept for the error.
const WORDS: usize = 8;
/// Longer lines than any program's words are cut.
const LONGEST: usize = 2000;

/// A running program.
pub(crate) struct Program {
    name: String,
    child: Child,
    words: Arc<Mutex<VecDeque<String>>>,
    listening: Option<JoinHandle<()>>,
}

/// Which stream of a program is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// What it writes.
    Output,
    /// What it reads.
    Input,
}

impl Program {
    /// Runs a command line of a POSIX shell, in place of that shell; `name` is what errors call it.
    pub(crate) fn start(line: &str, name: &str, want: Want) -> Result<Program, PorterError> {
        let (input, output) = match want {
            Want::Output => (Stdio::null(), Stdio::piped()),
            Want::Input => (Stdio::piped(), Stdio::null()),
        };
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(format!("exec {line}"))
            .stdin(input)
            .stdout(output)
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| PorterError::Program {
                program: name.to_owned(),
                how: format!("cannot be run: {error}"),
                words: String::new(),
            })?;
        let words = Arc::new(Mutex::new(VecDeque::new()));
        let listening = child
            .stderr
            .take()
            .map(|errors| listen(errors, Arc::clone(&words)));
        Ok(Program {
            name: name.to_owned(),
            child,
            words,
            listening,
        })
    }

    /// Hands out what it writes, once.
    pub(crate) fn output(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Hands out what it reads, once.
    pub(crate) fn input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Returns how it ended, when it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end; an end other than success is an error with its last words.
    pub(crate) fn finish(&mut self) -> Result<(), PorterError> {
        match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(self.error(how(status))),
            Err(error) => Err(self.error(format!("cannot be waited for: {error}"))),
        }
    }

    /// Ends it.
    pub(crate) fn kill(&mut self) {
        // One that has ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Returns an error about it with its last words.
    pub(crate) fn error(&mut self, how: String) -> PorterError {
        if self.ended().is_some()
            && let Some(listening) = self.listening.take()
        {
            // Its other end is closed.
            let _ = listening.join();
        }
        let words = self
            .words
            .lock()
            .map(|words| Vec::from_iter(words.iter().cloned()))
            .unwrap_or_default();
        PorterError::Program {
            program: self.name.clone(),
            how,
            words: words.join("; "),
        }
    }
}

fn how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => String::from("ended, nobody knows how"),
    }
}

fn listen(
    errors: impl Read + Send + 'static,
    words: Arc<Mutex<VecDeque<String>>>,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(errors).split(b'\n') {
            let Ok(mut line) = line else { break };
            line.truncate(LONGEST);
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            if let (false, Ok(mut words)) = (text.is_empty(), words.lock()) {
                if words.len() == WORDS {
                    words.pop_front();
                }
                words.push_back(text);
            }
        }
    })
}
