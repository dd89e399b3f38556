//! Plain lines, for logs and pipes: one line per event, and progress only now and then.
//!
//! Writes to whatever it is given (standard error, as all talk); a writer that fails is ignored, because telling
//! cannot fail. Read next: `terminal.rs`.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::words::{self, Words};
use super::{Event, Now, PassKind, Reporter};
use crate::error::Colour;
use crate::units::Bytes;

/// No drive has more than one progress line in this time.
const PAUSE: Duration = Duration::from_secs(10);
/// A drive has a progress line after this time even if it came no [`STEP`] further, so that a log shows life.
const LONG_PAUSE: Duration = Duration::from_secs(60);
/// Percent between two progress lines.
const STEP: u64 = 10;

/// Tells in plain lines.
pub struct Lines {
    colour: Colour,
    inner: Mutex<Inner>,
}

struct Inner {
    out: Box<dyn Write + Send>,
    drives: BTreeMap<(String, String), Drive>,
}

/// What was last said about a drive.
struct Drive {
    pass: (PassKind, u32),
    began: Instant,
    began_at: u64,
    said: Instant,
    said_percent: u64,
}

impl Lines {
    /// Tells to a writer.
    pub fn new(out: Box<dyn Write + Send>, colour: Colour) -> Lines {
        Lines {
            colour,
            inner: Mutex::new(Inner {
                out,
                drives: BTreeMap::new(),
            }),
        }
    }

    pub(super) fn tell_at(&self, event: &Event, now: &Now) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let text = match words::words(event, self.colour) {
            Some(Words::Line(text)) => format!("{} {text}\n", now.wall()),
            Some(Words::Block(text)) => text,
            None => match inner.progress(event, now.tick) {
                Some(text) => format!("{} {text}\n", now.wall()),
                None => return,
            },
        };
        let _ = inner.out.write_all(text.as_bytes());
        let _ = inner.out.flush();
    }
}

impl Reporter for Lines {
    fn tell(&self, event: &Event) {
        self.tell_at(event, &Now::read());
    }
}

impl Inner {
    /// Returns the line for a moment of a pass, when it is time for one.
    fn progress(&mut self, event: &Event, tick: Instant) -> Option<String> {
        let Event::Progress {
            guest,
            drive,
            pass,
            round,
            scanned,
            total,
            carried,
            ..
        } = event
        else {
            return None;
        };
        let percent = percent(*scanned, *total);
        let key = (guest.clone(), drive.clone());
        let known = self
            .drives
            .get_mut(&key)
            .filter(|known| known.pass == (*pass, *round));
        let Some(known) = known else {
            let pass = (*pass, *round);
            let drive = Drive {
                pass,
                began: tick,
                began_at: *scanned,
                said: tick,
                said_percent: percent,
            };
            self.drives.insert(key, drive);
            return None;
        };
        let silent = tick.saturating_duration_since(known.said);
        let further = percent.saturating_sub(known.said_percent);
        if silent < PAUSE || (further < STEP && silent < LONG_PAUSE) {
            return None;
        }
        (known.said, known.said_percent) = (tick, percent);
        let rate = Bytes(scanned.saturating_sub(known.began_at))
            .per(tick.saturating_duration_since(known.began))?;
        let rest = Bytes(total.saturating_sub(*scanned));
        // While nothing moves, nobody can say how long the rest takes.
        let left = match rate.as_bytes_per_second() {
            0 => String::new(),
            _ if rest == Bytes::ZERO => String::new(),
            _ => format!(", {} left", words::time(rate.time_for(rest))),
        };
        Some(format!(
            "{guest} {drive}: {}: {percent} % of {} read, {} carried, {rate}{left}",
            words::pass_name(*pass, *round),
            Bytes(*total),
            Bytes(*carried),
        ))
    }
}

/// Returns how much of `total` is done; nothing to do is done.
pub(super) fn percent(done: u64, total: u64) -> u64 {
    let percent = u128::from(done.min(total)) * 100 / u128::from(total.max(1));
    if total == 0 {
        100
    } else {
        u64::try_from(percent).unwrap_or(100)
    }
}
