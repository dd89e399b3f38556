//! Telling: events, and who reads them.
//!
//! Everything that happens is told as an [`Event`]; `terminal` (indicatif), `lines` and `json` read them. Telling
//! cannot fail and never decides. Only this module and `main` print. Talk goes to standard error; standard output is
//! for data: the plan of `-n`, and JSON. Read next: `words.rs`, `terminal.rs`.

pub mod json;
pub mod lines;
pub mod operator;
pub mod terminal;
mod words;

use std::io::{self, BufReader};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::error::Colour;
use crate::units::Bytes;

/// What a pass over a drive is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PassKind {
    /// While the guest runs.
    Precopy,
    /// After the stop, with verification.
    Final,
}

/// One thing that happened. All texts are ready for a person; all sizes are bytes.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A guest's move begins.
    MoveStarted {
        /// The guest's name.
        guest: String,
        /// `apple/565`.
        source: String,
        /// `banana/126 on node2`.
        target: String,
        /// The rung it starts at, `untouched` for a new move.
        rung: String,
    },
    /// A step of the ladder begins.
    StepStarted {
        /// The guest's name.
        guest: String,
        /// The step: `place`, `precopy`, `stop-source` ...
        step: String,
        /// A sentence for people.
        text: String,
    },
    /// A drive's pass makes progress; told several times a second.
    Progress {
        /// The guest's name.
        guest: String,
        /// The drive.
        drive: String,
        /// What the pass is for.
        pass: PassKind,
        /// 1 for the first pre-copy.
        round: u32,
        /// Bytes looked at.
        scanned: u64,
        /// Bytes to look at.
        total: u64,
        /// Content bytes carried.
        carried: u64,
        /// Bytes on the wire.
        wire: u64,
    },
    /// A drive's pass ended well.
    PassDone {
        /// The guest's name.
        guest: String,
        /// The drive.
        drive: String,
        /// What the pass was for.
        pass: PassKind,
        /// 1 for the first pre-copy.
        round: u32,
        /// Content bytes carried.
        carried: u64,
        /// Bytes on the wire.
        wire: u64,
        /// Seconds it took.
        seconds: f64,
    },
    /// Something to know that does not stop the move.
    Notice {
        /// The guest's name, when it is about one.
        guest: Option<String>,
        /// What.
        text: String,
    },
    /// Something worrying that does not stop the move.
    Warning {
        /// The guest's name, when it is about one.
        guest: Option<String>,
        /// What, and what to do about it.
        text: String,
    },
    /// A guest's move ended well.
    MoveDone(Summary),
    /// A guest's move was walked back: the source is as it was.
    MoveAborted {
        /// The guest's name.
        guest: String,
        /// `apple/565`.
        source: String,
        /// `banana/126 on node2`.
        target: String,
        /// What was left where.
        left: Vec<String>,
    },
    /// All guests of a command have been dealt with; told when there was more than one.
    BatchDone {
        /// How each guest ended, in order.
        guests: Vec<GuestEnd>,
        /// The exit code of all: the worst.
        exit_code: u8,
    },
    /// A guest's move ended badly or was refused.
    MoveFailed {
        /// The guest's name.
        guest: String,
        /// The error with its causes, one per line.
        error: Vec<String>,
        /// How things are now.
        state: String,
        /// What to type next.
        next: String,
        /// The exit code this failure stands for.
        exit_code: u8,
    },
}

/// How one guest of several ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GuestEnd {
    /// The guest's name.
    pub guest: String,
    /// The exit code this end stands for.
    pub exit_code: u8,
    /// How things are now.
    pub state: String,
    /// What to type next; empty for nothing.
    pub next: String,
}

/// The end of a good move.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The guest's name.
    pub guest: String,
    /// `apple/565`.
    pub source: String,
    /// `banana/126 on node2`.
    pub target: String,
    /// From the shutdown request to the start's success; `None` when it was not running or was not started.
    pub downtime_seconds: Option<f64>,
    /// From the first step to the last.
    pub seconds: f64,
    /// Number of pre-copy rounds.
    pub rounds: u32,
    /// Content bytes carried, all passes.
    pub carried: u64,
    /// Bytes on the wire, all passes.
    pub wire: u64,
    /// Content bytes of the final pass.
    pub final_carried: u64,
    /// Each drive and what proves that both sides are equal: the BLAKE3 digest they agreed on, in hexadecimal, or
    /// between ZFS and ZFS `zfs guid 1234`, the final snapshot that both stand at.
    pub verified: Vec<(String, String)>,
    /// By what the guest was seen to be up on the target (`--boot-check`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up: Option<String>,
    /// What was left where: the retired source, kept volumes.
    pub left: Vec<String>,
}

impl Summary {
    /// Returns the average rate of all content bytes over the whole time.
    pub fn rate(&self) -> Option<crate::units::Bandwidth> {
        Bytes(self.carried).per(Duration::try_from_secs_f64(self.seconds).unwrap_or_default())
    }

    /// Returns the summary for people, each line ended.
    pub fn render(&self, colour: Colour) -> String {
        words::summary_text(self, colour)
    }
}

/// Reads events. Cannot fail.
pub trait Reporter: Send + Sync {
    /// Takes note of one event.
    fn tell(&self, event: &Event);
}

/// The person in front of the terminal.
pub trait Operator: Send + Sync {
    /// Asks a yes/no question; `None` when nobody can answer (no terminal).
    fn confirm(&self, question: &str) -> Option<bool>;

    /// Says whether anybody would answer; known before the first question.
    fn is_there(&self) -> bool {
        true
    }
}

/// Who listens, as `main` finds it out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Audience {
    /// `--json`.
    pub json: bool,
    /// `--yes`.
    pub yes: bool,
    /// `--debug`: log lines come between, so there are no bars.
    pub debug: bool,
    /// Standard input is a terminal.
    pub stdin_is_terminal: bool,
    /// Standard error is a terminal.
    pub stderr_is_terminal: bool,
    /// The environment has a NO_COLOR that is not empty.
    pub no_color: bool,
}

impl Audience {
    /// Returns whether talk may be coloured.
    pub fn colour(&self) -> Colour {
        Colour::choose(self.stderr_is_terminal, self.no_color)
    }
}

/// Returns who tells, and who answers questions.
///
/// They belong together: while a question is asked, no bars are drawn over it.
pub fn choose(audience: &Audience) -> (Arc<dyn Reporter>, Arc<dyn Operator>) {
    let bars = (audience.stderr_is_terminal && !audience.json && !audience.debug)
        .then(|| Arc::new(terminal::Terminal::new(audience.colour())));
    let reporter: Arc<dyn Reporter> = match &bars {
        Some(terminal) => Arc::clone(terminal) as Arc<dyn Reporter>,
        None if audience.json => Arc::new(json::Json::new(Box::new(io::stdout()))),
        None => Arc::new(lines::Lines::new(Box::new(io::stderr()), audience.colour())),
    };
    let operator: Arc<dyn Operator> = if audience.yes {
        Arc::new(operator::AlwaysYes)
    } else if audience.stdin_is_terminal && audience.stderr_is_terminal {
        let input = Box::new(BufReader::new(io::stdin()));
        Arc::new(operator::Person::new(input, Box::new(io::stderr()), bars))
    } else {
        Arc::new(operator::Nobody)
    };
    (reporter, operator)
}

/// The moment an event is told.
#[derive(Clone, Debug)]
struct Now {
    timestamp: Timestamp,
    zone: TimeZone,
    tick: Instant,
}

impl Now {
    fn read() -> Now {
        Now {
            timestamp: Timestamp::now(),
            zone: TimeZone::system(),
            tick: Instant::now(),
        }
    }

    /// Returns the time of day, `12:12:27`.
    fn wall(&self) -> String {
        self.timestamp
            .to_zoned(self.zone.clone())
            .strftime("%H:%M:%S")
            .to_string()
    }
}

#[cfg(test)]
mod tests;
