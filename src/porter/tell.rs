//! What a porter tells the operator: one JSON object per line on standard error.
//!
//! Telling cannot fail and never decides. `transfer/lines.rs` reads these lines. Read next: `send.rs`.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::error::Report;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Line {
    /// The sender moves on.
    Progress(Counts),
    /// The receiver reads back what it wrote.
    Check {
        /// Bytes checked.
        done: u64,
    },
    /// What the receiver found on the target's disk was not what had been written there.
    Repaired {
        /// The first chunk of which that is so.
        offset: u64,
    },
    /// The sender ended well.
    Done {
        /// Totals.
        counts: Counts,
        /// Hexadecimal digest both sides agreed on.
        digest: String,
        /// Bytes on the target's disk that were not what the manifest said.
        repaired: u64,
    },
    /// This porter ended badly.
    Error(Report),
}

/// Where a pass is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Bytes of the source looked at.
    pub(crate) scanned: u64,
    /// Bytes to look at.
    pub(crate) total: u64,
    /// Content bytes that differed and were sent.
    pub(crate) carried: u64,
    /// Bytes on the wire, both ways.
    pub(crate) wire: u64,
}

/// Counts that several threads add to.
#[derive(Default)]
pub(crate) struct Meter {
    pub(crate) scanned: AtomicU64,
    pub(crate) total: AtomicU64,
    pub(crate) carried: AtomicU64,
    pub(crate) wire: AtomicU64,
}

impl Meter {
    /// Returns what was counted so far.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            scanned: self.scanned.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
            carried: self.carried.load(Ordering::Relaxed),
            wire: self.wire.load(Ordering::Relaxed),
        }
    }
}

/// Where the lines go.
pub(crate) struct Teller {
    output: Mutex<Box<dyn Write + Send>>,
    last: Mutex<Instant>,
}

/// A fifth of a second: fluent for the eye, nothing for the wire.
const INTERVAL: Duration = Duration::from_millis(200);

impl Teller {
    /// Tells to `output`.
    pub(crate) fn new(output: Box<dyn Write + Send>) -> Teller {
        Teller {
            output: Mutex::new(output),
            last: Mutex::new(Instant::now()),
        }
    }

    /// Writes one line, whole.
    pub(crate) fn tell(&self, line: &Line) {
        let Ok(mut json) = serde_json::to_vec(line) else {
            return;
        };
        json.push(b'\n');
        if let Ok(mut output) = self.output.lock() {
            // Who no longer listens is noticed on the data's own stream.
            let _ = output.write_all(&json);
            let _ = output.flush();
        }
    }

    /// Writes the line unless another one was written just before.
    pub(crate) fn tell_sometimes(&self, line: impl FnOnce() -> Line) {
        let due = match self.last.lock() {
            Ok(mut last) if last.elapsed() >= INTERVAL => {
                *last = Instant::now();
                true
            }
            Ok(_) | Err(_) => false,
        };
        if due {
            self.tell(&line());
        }
    }
}
