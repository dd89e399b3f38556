//! The person in front of the terminal: asks, and reads the answer.
//!
//! Never takes silence for consent: end of input is no answer, and an empty line is a no. Asking blocks its thread;
//! async callers ask from `spawn_blocking`. Read next: `mod.rs`.

use std::io::{BufRead, Write};
use std::sync::{Arc, Mutex, PoisonError};

use super::Operator;
use super::terminal::Terminal;

/// Answers every question with yes (`--yes`).
pub struct AlwaysYes;

impl Operator for AlwaysYes {
    fn confirm(&self, _: &str) -> Option<bool> {
        Some(true)
    }
}

/// Nobody is there to answer.
pub struct Nobody;

impl Operator for Nobody {
    fn confirm(&self, _: &str) -> Option<bool> {
        None
    }

    fn is_there(&self) -> bool {
        false
    }
}

/// Somebody at a keyboard.
pub struct Person {
    streams: Mutex<(Box<dyn BufRead + Send>, Box<dyn Write + Send>)>,
    terminal: Option<Arc<Terminal>>,
}

impl Person {
    /// Asks on `output` and reads answers from `input`; `terminal` is what draws there otherwise.
    pub fn new(
        input: Box<dyn BufRead + Send>,
        output: Box<dyn Write + Send>,
        terminal: Option<Arc<Terminal>>,
    ) -> Person {
        Person {
            streams: Mutex::new((input, output)),
            terminal,
        }
    }
}

impl Operator for Person {
    fn confirm(&self, question: &str) -> Option<bool> {
        // Held for the whole question, so that two questions are asked one after the other.
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let (input, output) = &mut *streams;
        if let Some(terminal) = &self.terminal {
            terminal.pause();
        }
        let answer = ask(question, input.as_mut(), output.as_mut());
        if let Some(terminal) = &self.terminal {
            terminal.resume();
        }
        answer
    }
}

/// Asks until the answer is a yes or a no; `None` at the end of the input.
fn ask(question: &str, input: &mut dyn BufRead, output: &mut dyn Write) -> Option<bool> {
    loop {
        write!(output, "{question} [y/N] ").ok()?;
        output.flush().ok()?;
        let mut line = Vec::new();
        if input.read_until(b'\n', &mut line).ok()? == 0 {
            let _ = writeln!(output);
            return None;
        }
        match String::from_utf8_lossy(&line)
            .trim()
            .to_lowercase()
            .as_str()
        {
            "y" | "yes" => return Some(true),
            "" | "n" | "no" => return Some(false),
            _ => write!(output, "Please answer y or n. ").ok()?,
        }
    }
}
