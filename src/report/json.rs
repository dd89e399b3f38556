//! Events for machines: one JSON object a line on standard output, each with its `time` in RFC 3339.
//!
//! An object is the [`Event`] as it is serialised; fields are only ever added. Progress is told once a second for each
//! drive. Read next: `mod.rs`, for the events.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Event, Now, Reporter};

/// The time between two progress objects of a drive: engines tell several times a second, which no reader needs.
const PAUSE: Duration = Duration::from_secs(1);

/// Tells in JSON lines.
pub struct Json {
    inner: Mutex<Inner>,
}

struct Inner {
    out: Box<dyn Write + Send>,
    told: BTreeMap<(String, String), Instant>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    event: &'a Event,
}

impl Json {
    /// Tells to a writer.
    pub fn new(out: Box<dyn Write + Send>) -> Json {
        Json {
            inner: Mutex::new(Inner {
                out,
                told: BTreeMap::new(),
            }),
        }
    }

    pub(super) fn tell_at(&self, event: &Event, now: &Now) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Event::Progress { guest, drive, .. } = event {
            let key = (guest.clone(), drive.clone());
            let last = inner.told.get(&key);
            if last.is_some_and(|last| now.tick.saturating_duration_since(*last) < PAUSE) {
                return;
            }
            inner.told.insert(key, now.tick);
        }
        let line = Line {
            time: format!("{:.3}", now.timestamp),
            event,
        };
        if let Ok(mut text) = serde_json::to_vec(&line) {
            text.push(b'\n');
            let _ = inner.out.write_all(&text);
            let _ = inner.out.flush();
        }
    }
}

impl Reporter for Json {
    fn tell(&self, event: &Event) {
        self.tell_at(event, &Now::read());
    }
}
