//! A terminal: steps as lines, and below them a bar for each drive that is being copied, and one for all of them.
//!
//! While the operator is asked something, the bars are gone and lines wait, so that nothing is drawn over the
//! question; whoever tells is never held up by that. Read next: `operator.rs`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::words::{self, Words};
use super::{Event, Now, PassKind, Reporter};
use crate::error::Colour;
use crate::units::Bytes;

// Both fit into 80 columns with a bar that can still be seen; indicatif cuts what is longer.
const DRIVE_BAR: &str = "{prefix:>16} {msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
const OVERALL_BAR: &str = "{prefix:>16} [{wide_bar}] {percent} % of {binary_total_bytes}, {msg}";

/// Makes the place to draw to; asked again after each question.
type Target = Box<dyn Fn() -> ProgressDrawTarget + Send + Sync>;

/// Tells with bars.
pub struct Terminal {
    colour: Colour,
    target: Target,
    multi: MultiProgress,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    drives: BTreeMap<(String, String), Drive>,
    overall: Option<ProgressBar>,
    asking: bool,
    /// What was told while the operator was being asked.
    held: Vec<String>,
}

struct Drive {
    bar: ProgressBar,
    pass: (PassKind, u32),
    scanned: u64,
    total: u64,
    carried: u64,
    wire: u64,
}

impl Terminal {
    /// Tells on standard error.
    pub fn new(colour: Colour) -> Terminal {
        Terminal::on(Box::new(ProgressDrawTarget::stderr), colour)
    }

    pub(super) fn on(target: Target, colour: Colour) -> Terminal {
        let multi = MultiProgress::with_draw_target(target());
        Terminal {
            colour,
            target,
            multi,
            inner: Mutex::default(),
        }
    }

    /// Takes the bars away and holds back lines, until [`Terminal::resume`].
    pub(super) fn pause(&self) {
        let mut inner = self.lock();
        inner.asking = true;
        let _ = self.multi.clear();
        self.multi.set_draw_target(ProgressDrawTarget::hidden());
    }

    /// Brings the bars back and says what was held back.
    pub(super) fn resume(&self) {
        let mut inner = self.lock();
        inner.asking = false;
        self.multi.set_draw_target((self.target)());
        for line in std::mem::take(&mut inner.held) {
            let _ = self.multi.println(line);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell_at(&self, event: &Event, now: &Now) {
        let mut inner = self.lock();
        match event {
            Event::Progress { .. } => self.draw(&mut inner, event),
            Event::PassDone { guest, drive, .. } => {
                self.forget(&mut inner, |of, which| of == guest && which == drive);
            }
            Event::MoveDone(super::Summary { guest, .. })
            | Event::MoveAborted { guest, .. }
            | Event::MoveFailed { guest, .. } => {
                self.forget(&mut inner, |of, _| of == guest);
            }
            Event::MoveStarted { .. }
            | Event::StepStarted { .. }
            | Event::Notice { .. }
            | Event::BatchDone { .. }
            | Event::Warning { .. } => {}
        }
        let text = match words::words(event, self.colour) {
            Some(Words::Line(text)) => format!("{} {text}", now.wall()),
            Some(Words::Block(text)) => text.trim_end().to_owned(),
            None => return,
        };
        if inner.asking {
            inner.held.push(text);
        } else {
            let _ = self.multi.println(text);
        }
    }

    /// Moves a drive's bar, and makes it first when there is none.
    fn draw(&self, inner: &mut Inner, event: &Event) {
        let Event::Progress {
            guest,
            drive,
            pass,
            round,
            scanned,
            total,
            carried,
            wire,
        } = event
        else {
            return;
        };
        let overall = inner.overall.get_or_insert_with(|| {
            self.multi
                .add(styled(OVERALL_BAR, *total, "all drives".to_owned()))
        });
        let entry = inner
            .drives
            .entry((guest.clone(), drive.clone()))
            .or_insert_with(|| {
                let bar = self.multi.insert_before(
                    overall,
                    styled(DRIVE_BAR, *total, format!("{guest} {drive}"))
                        .with_message(words::pass_name(*pass, *round)),
                );
                Drive {
                    bar,
                    pass: (*pass, *round),
                    scanned: 0,
                    total: 0,
                    carried: 0,
                    wire: 0,
                }
            });
        if entry.pass != (*pass, *round) {
            // A new pass begins at nothing, and so does its rate.
            entry.bar.reset();
            entry.pass = (*pass, *round);
        }
        (entry.scanned, entry.total, entry.carried, entry.wire) =
            (*scanned, *total, *carried, *wire);
        entry.bar.set_length(*total);
        entry.bar.set_message(words::pass_name(*pass, *round));
        entry.bar.set_position(*scanned);
        inner.draw_overall();
    }

    fn forget(&self, inner: &mut Inner, which: impl Fn(&str, &str) -> bool) {
        inner.drives.retain(|(guest, drive), entry| {
            let goes = which(guest, drive);
            if goes {
                entry.bar.finish_and_clear();
                self.multi.remove(&entry.bar);
            }
            !goes
        });
        if inner.drives.is_empty() {
            if let Some(overall) = inner.overall.take() {
                overall.finish_and_clear();
                self.multi.remove(&overall);
            }
        } else {
            inner.draw_overall();
        }
    }
}

impl Inner {
    fn draw_overall(&self) {
        let Some(overall) = &self.overall else { return };
        let sum =
            |part: fn(&Drive) -> u64| self.drives.values().map(part).fold(0, u64::saturating_add);
        overall.set_length(sum(|drive| drive.total));
        overall.set_message(format!(
            "{} carried, {} on the wire",
            Bytes(sum(|drive| drive.carried)),
            Bytes(sum(|drive| drive.wire))
        ));
        overall.set_position(sum(|drive| drive.scanned));
    }
}

impl Reporter for Terminal {
    fn tell(&self, event: &Event) {
        self.tell_at(event, &Now::read());
    }
}

fn styled(template: &str, total: u64, prefix: String) -> ProgressBar {
    // The templates are constants; were one wrong, indicatif's own bar would do.
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total)
        .with_style(style.progress_chars("=> "))
        .with_prefix(prefix)
}
