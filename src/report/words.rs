//! Events in words: what every reader for people says.
//!
//! Pure: no clock, no printing. Progress is not here, because how often it is told is up to each reader. Read next:
//! `lines.rs`.

use std::fmt::Write;
use std::time::Duration;

use super::{Event, GuestEnd, PassKind, Summary};
use crate::error::{self, Colour, GREEN, YELLOW};
use crate::units::Bytes;

/// An event as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// One line, to be shown with the time.
    Line(String),
    /// Whole lines, each ended, to be shown as they are.
    Block(String),
}

/// Returns an event in words; `None` for progress.
pub(super) fn words(event: &Event, colour: Colour) -> Option<Words> {
    Some(match event {
        Event::MoveStarted {
            guest,
            source,
            target,
            rung,
        } => Words::Line(match rung.as_str() {
            "untouched" | "" => format!("{guest}: moving {source} => {target}"),
            rung => format!("{guest}: continuing the move {source} => {target}, found it {rung}"),
        }),
        Event::StepStarted { guest, text, .. } => Words::Line(format!("{guest}: {text}")),
        Event::Progress { .. } => return None,
        Event::PassDone {
            guest,
            drive,
            pass,
            round,
            carried,
            wire,
            seconds,
        } => {
            let took = Duration::try_from_secs_f64(*seconds).unwrap_or_default();
            let rate = Bytes(*carried)
                .per(took)
                .map(|rate| format!(", {rate}"))
                .unwrap_or_default();
            Words::Line(format!(
                "{guest} {drive}: {} done: {} carried ({} on the wire) in {}{rate}",
                pass_name(*pass, *round),
                Bytes(*carried),
                Bytes(*wire),
                time(took)
            ))
        }
        Event::Notice { guest, text } => Words::Line(about(guest.as_deref(), text)),
        Event::Warning { guest, text } => Words::Line(about(
            guest.as_deref(),
            &format!("{} {text}", colour.paint(YELLOW, "warning:")),
        )),
        Event::MoveDone(summary) => Words::Block(summary_text(summary, colour)),
        Event::MoveAborted {
            guest,
            source,
            target,
            left,
        } => {
            let done = colour.paint(GREEN, "brought back");
            let rest = if left.is_empty() {
                "nothing"
            } else {
                "something"
            };
            let mut out = format!(
                "{guest}: {done} to {source}, as it was; {rest} of the move is left on {target}\n"
            );
            for left in left {
                let _ = writeln!(out, "  {:<9} {left}", "left");
            }
            Words::Block(out)
        }
        Event::BatchDone { guests, .. } => Words::Block(batch_text(guests, colour)),
        Event::MoveFailed {
            error,
            state,
            next,
            exit_code: _,
            guest: _,
        } => Words::Block(error::render(error, Some(state), Some(next), colour)),
    })
}

fn about(guest: Option<&str>, text: &str) -> String {
    match guest {
        Some(guest) => format!("{guest}: {text}"),
        None => text.to_owned(),
    }
}

/// Returns how several guests ended, a line each, and what to type next for those that did not end well.
fn batch_text(guests: &[GuestEnd], colour: Colour) -> String {
    let good = guests.iter().filter(|end| end.exit_code == 0).count();
    let mut out = format!(
        "{} guests: {good} done, {} not\n",
        guests.len(),
        guests.len() - good
    );
    let width = guests
        .iter()
        .map(|end| end.guest.chars().count())
        .max()
        .unwrap_or(0);
    for end in guests {
        let word = match end.exit_code {
            0 => colour.paint(GREEN, "done"),
            code => colour.paint(YELLOW, &format!("exit {code}")),
        };
        let _ = writeln!(out, "  {:<width$}  {word}  {}", end.guest, end.state);
        if end.exit_code != 0 && !end.next.is_empty() {
            let _ = writeln!(out, "  {:<width$}  next: {}", "", end.next);
        }
    }
    out
}

/// Returns what a pass is called: `pre-copy 2`, `final delta`.
pub(super) fn pass_name(pass: PassKind, round: u32) -> String {
    match pass {
        PassKind::Precopy => format!("pre-copy {round}"),
        PassKind::Final => "final delta".to_owned(),
    }
}

/// Returns a duration for people: `0.8 s`, `42 s`, `4 min 3 s`, `2 h 5 min`.
pub(super) fn time(duration: Duration) -> String {
    // Rounded first, so that 59.99 s is a minute and no "60 s".
    let seconds = duration.as_secs_f64().round() as u64;
    match seconds {
        _ if duration.as_secs_f64() < 9.95 => format!("{:.1} s", duration.as_secs_f64()),
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

fn seconds(seconds: f64) -> String {
    time(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// Returns the end of a good move as a few lines.
pub(super) fn summary_text(summary: &Summary, colour: Colour) -> String {
    let mut out = String::new();
    let mut line = |label: &str, text: String| {
        let _ = writeln!(out, "  {label:<9} {text}");
    };
    match summary.downtime_seconds {
        Some(downtime) => line(
            "downtime",
            format!(
                "{} (the whole move took {})",
                seconds(downtime),
                seconds(summary.seconds)
            ),
        ),
        None => line(
            "took",
            format!(
                "{} (the guest was not running, or was not started)",
                seconds(summary.seconds)
            ),
        ),
    }
    let passes = match summary.rounds {
        0 => "in one pass".to_owned(),
        1 => format!(
            "in 1 pre-copy and a final delta of {}",
            Bytes(summary.final_carried)
        ),
        rounds => format!(
            "in {rounds} pre-copies and a final delta of {}",
            Bytes(summary.final_carried)
        ),
    };
    let rate = summary
        .rate()
        .map(|rate| format!(", {rate} on average"))
        .unwrap_or_default();
    line(
        "copied",
        format!(
            "{} {passes}; {} on the wire{rate}",
            Bytes(summary.carried),
            Bytes(summary.wire)
        ),
    );
    for (drive, digest) in &summary.verified {
        // A digest of the content is bare hexadecimal; any other proof says itself what it is.
        let kind = if digest.contains(' ') { "" } else { "blake3 " };
        line("verified", format!("{drive} {kind}{digest}"));
    }
    if let Some(how) = &summary.up {
        line("up", how.clone());
    }
    for left in &summary.left {
        line("left", left.clone());
    }
    let done = colour.paint(GREEN, "moved");
    format!(
        "{}: {done} {} => {}\n{out}",
        summary.guest, summary.source, summary.target
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_for_people() {
        let check =
            |seconds: f64, expect: &str| assert_eq!(time(Duration::from_secs_f64(seconds)), expect);
        check(0.0, "0.0 s");
        check(0.84, "0.8 s");
        check(9.949, "9.9 s");
        check(9.96, "10 s");
        check(59.4, "59 s");
        check(59.6, "1 min 0 s");
        check(243.0, "4 min 3 s");
        check(3599.7, "1 h 0 min");
        check(7501.0, "2 h 5 min");
    }

    #[test]
    fn odd_seconds_do_no_harm() {
        for odd in [-1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(seconds(odd), "0.0 s");
        }
    }
}
