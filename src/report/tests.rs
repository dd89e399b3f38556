//! Every event in the words of every reader, told at moments the test chooses.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use expect_test::{Expect, expect};
use indicatif::{ProgressDrawTarget, TermLike};

use super::json::Json;
use super::lines::Lines;
use super::operator::{AlwaysYes, Nobody, Person};
use super::terminal::Terminal;
use super::*;

/// What was written, shared between the test and the reader.
#[derive(Clone, Debug, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Paper {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8(bytes.clone()).expect("it is text")
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A terminal that only remembers what was drawn.
impl TermLike for Paper {
    fn width(&self) -> u16 {
        80
    }
    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(text)?;
        self.write_str("\n")
    }
    fn write_str(&self, text: &str) -> io::Result<()> {
        self.clone().write_all(text.as_bytes())
    }
    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Moments counted in milliseconds from 12:12:27.
struct Clock(Instant);

impl Clock {
    fn at(&self, milliseconds: u64) -> Now {
        let start: Timestamp = "2024-02-29T12:12:27Z".parse().expect("a time");
        Now {
            timestamp: start + Duration::from_millis(milliseconds),
            zone: TimeZone::UTC,
            tick: self.0 + Duration::from_millis(milliseconds),
        }
    }
}

fn clock() -> Clock {
    Clock(Instant::now())
}

fn progress(drive: &str, round: u32, scanned: u64, total: u64) -> Event {
    Event::Progress {
        guest: "web1".to_owned(),
        drive: drive.to_owned(),
        pass: PassKind::Precopy,
        round,
        scanned,
        total,
        carried: scanned / 2,
        wire: scanned / 4,
    }
}

fn started(rung: &str) -> Event {
    Event::MoveStarted {
        guest: "web1".to_owned(),
        source: "apple/565".to_owned(),
        target: "banana/126 on node2".to_owned(),
        rung: rung.to_owned(),
    }
}

fn summary() -> Summary {
    Summary {
        guest: "web1".to_owned(),
        source: "apple/565".to_owned(),
        target: "banana/126 on node2".to_owned(),
        downtime_seconds: Some(8.24),
        seconds: 724.0,
        rounds: 3,
        carried: Bytes::mib(38_605).0,
        wire: Bytes::mib(20_582).0,
        final_carried: Bytes::mib(12).0,
        verified: vec![
            ("virtio0".to_owned(), "9f86d081".to_owned()),
            ("scsi1".to_owned(), "60303ae2".to_owned()),
        ],
        up: Some("its guest agent answered after 12 s".to_owned()),
        left: vec!["apple/565 is stopped as web1--MIGRATED".to_owned()],
    }
}

/// One event of each kind, except progress.
fn events() -> Vec<Event> {
    vec![
        started("untouched"),
        started("precopied"),
        Event::StepStarted {
            guest: "web1".to_owned(),
            step: "stop-source".to_owned(),
            text: "shutting down apple/565".to_owned(),
        },
        Event::PassDone {
            guest: "web1".to_owned(),
            drive: "virtio0".to_owned(),
            pass: PassKind::Precopy,
            round: 2,
            carried: Bytes::gib(10).0,
            wire: Bytes::gib(4).0,
            seconds: 243.0,
        },
        Event::PassDone {
            guest: "web1".to_owned(),
            drive: "virtio0".to_owned(),
            pass: PassKind::Final,
            round: 1,
            carried: 0,
            wire: 312,
            seconds: 0.0,
        },
        Event::Notice {
            guest: None,
            text: "clocks differ by 2 s".to_owned(),
        },
        Event::Notice {
            guest: Some("web1".to_owned()),
            text: "the agent is not running".to_owned(),
        },
        Event::Warning {
            guest: Some("web1".to_owned()),
            text: "net0 is down".to_owned(),
        },
        Event::MoveDone(summary()),
        Event::MoveDone(Summary {
            downtime_seconds: None,
            rounds: 0,
            verified: Vec::new(),
            left: Vec::new(),
            ..summary()
        }),
        Event::MoveFailed {
            guest: "web1".to_owned(),
            error: vec![
                "final delta of virtio0 failed: web1 (apple/565 -> banana/126)".to_owned(),
                "connection lost".to_owned(),
            ],
            state: "web1 is STOPPED on apple as web1--CLONING; no data is lost".to_owned(),
            next: "run the same command again to resume at the final delta".to_owned(),
            exit_code: 6,
        },
    ]
}

#[test]
fn every_event_in_plain_lines() {
    let (paper, clock) = (Paper::default(), clock());
    let lines = Lines::new(Box::new(paper.clone()), Colour::Never);
    for event in events() {
        lines.tell_at(&event, &clock.at(0));
    }
    expect![[r#"
        12:12:27 web1: moving apple/565 => banana/126 on node2
        12:12:27 web1: continuing the move apple/565 => banana/126 on node2, found it precopied
        12:12:27 web1: shutting down apple/565
        12:12:27 web1 virtio0: pre-copy 2 done: 10.0 GiB carried (4.0 GiB on the wire) in 4 min 3 s, 42.1 MiB/s
        12:12:27 web1 virtio0: final delta done: 0 B carried (312 B on the wire) in 0.0 s
        12:12:27 clocks differ by 2 s
        12:12:27 web1: the agent is not running
        12:12:27 web1: warning: net0 is down
        web1: moved apple/565 => banana/126 on node2
          downtime  8.2 s (the whole move took 12 min 4 s)
          copied    37.7 GiB in 3 pre-copies and a final delta of 12.0 MiB; 20.1 GiB on the wire, 53.3 MiB/s on average
          verified  virtio0 blake3 9f86d081
          verified  scsi1 blake3 60303ae2
          up        its guest agent answered after 12 s
          left      apple/565 is stopped as web1--MIGRATED
        web1: moved apple/565 => banana/126 on node2
          took      12 min 4 s (the guest was not running, or was not started)
          copied    37.7 GiB in one pass; 20.1 GiB on the wire, 53.3 MiB/s on average
          up        its guest agent answered after 12 s
        error: final delta of virtio0 failed: web1 (apple/565 -> banana/126)
          because: connection lost
        state: web1 is STOPPED on apple as web1--CLONING; no data is lost
        next:  run the same command again to resume at the final delta
    "#]].assert_eq(&paper.text());
}

#[test]
fn colours_where_they_help() {
    let (paper, clock) = (Paper::default(), clock());
    let lines = Lines::new(Box::new(paper.clone()), Colour::Ansi);
    for event in events().split_off(7) {
        lines.tell_at(&event, &clock.at(0));
    }
    let text = paper.text();
    for painted in [
        "\x1b[1;33mwarning:\x1b[0m net0",
        "\x1b[1;32mmoved\x1b[0m",
        "\x1b[1;31merror:\x1b[0m final",
    ] {
        assert!(text.contains(painted), "{text}");
    }
}

#[test]
fn every_event_in_json() {
    let (paper, clock) = (Paper::default(), clock());
    let json = Json::new(Box::new(paper.clone()));
    json.tell_at(&progress("virtio0", 1, 0, 1000), &clock.at(0));
    json.tell_at(&progress("virtio0", 1, 100, 1000), &clock.at(999));
    json.tell_at(&progress("scsi1", 1, 100, 1000), &clock.at(999));
    json.tell_at(&progress("virtio0", 1, 200, 1000), &clock.at(1000));
    for event in events() {
        json.tell_at(&event, &clock.at(2500));
    }
    let text = paper.text();
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect("each line is JSON");
        assert!(
            value["event"].is_string() && value["time"].is_string(),
            "{line}"
        );
    }
    expect![[r#"
        {"time":"2024-02-29T12:12:27.000Z","event":"progress","guest":"web1","drive":"virtio0","pass":"precopy","round":1,"scanned":0,"total":1000,"carried":0,"wire":0}
        {"time":"2024-02-29T12:12:27.999Z","event":"progress","guest":"web1","drive":"scsi1","pass":"precopy","round":1,"scanned":100,"total":1000,"carried":50,"wire":25}
        {"time":"2024-02-29T12:12:28.000Z","event":"progress","guest":"web1","drive":"virtio0","pass":"precopy","round":1,"scanned":200,"total":1000,"carried":100,"wire":50}
        {"time":"2024-02-29T12:12:29.500Z","event":"move-started","guest":"web1","source":"apple/565","target":"banana/126 on node2","rung":"untouched"}
        {"time":"2024-02-29T12:12:29.500Z","event":"move-started","guest":"web1","source":"apple/565","target":"banana/126 on node2","rung":"precopied"}
        {"time":"2024-02-29T12:12:29.500Z","event":"step-started","guest":"web1","step":"stop-source","text":"shutting down apple/565"}
        {"time":"2024-02-29T12:12:29.500Z","event":"pass-done","guest":"web1","drive":"virtio0","pass":"precopy","round":2,"carried":10737418240,"wire":4294967296,"seconds":243.0}
        {"time":"2024-02-29T12:12:29.500Z","event":"pass-done","guest":"web1","drive":"virtio0","pass":"final","round":1,"carried":0,"wire":312,"seconds":0.0}
        {"time":"2024-02-29T12:12:29.500Z","event":"notice","guest":null,"text":"clocks differ by 2 s"}
        {"time":"2024-02-29T12:12:29.500Z","event":"notice","guest":"web1","text":"the agent is not running"}
        {"time":"2024-02-29T12:12:29.500Z","event":"warning","guest":"web1","text":"net0 is down"}
        {"time":"2024-02-29T12:12:29.500Z","event":"move-done","guest":"web1","source":"apple/565","target":"banana/126 on node2","downtime_seconds":8.24,"seconds":724.0,"rounds":3,"carried":40480276480,"wire":21581791232,"final_carried":12582912,"verified":[["virtio0","9f86d081"],["scsi1","60303ae2"]],"up":"its guest agent answered after 12 s","left":["apple/565 is stopped as web1--MIGRATED"]}
        {"time":"2024-02-29T12:12:29.500Z","event":"move-done","guest":"web1","source":"apple/565","target":"banana/126 on node2","downtime_seconds":null,"seconds":724.0,"rounds":0,"carried":40480276480,"wire":21581791232,"final_carried":12582912,"verified":[],"up":"its guest agent answered after 12 s","left":[]}
        {"time":"2024-02-29T12:12:29.500Z","event":"move-failed","guest":"web1","error":["final delta of virtio0 failed: web1 (apple/565 -> banana/126)","connection lost"],"state":"web1 is STOPPED on apple as web1--CLONING; no data is lost","next":"run the same command again to resume at the final delta","exit_code":6}
    "#]].assert_eq(&text);
}

fn progress_lines(told: &[(u64, Event)], expect: Expect) {
    let (paper, clock) = (Paper::default(), clock());
    let lines = Lines::new(Box::new(paper.clone()), Colour::Never);
    for (milliseconds, event) in told {
        lines.tell_at(event, &clock.at(*milliseconds));
    }
    expect.assert_eq(&paper.text());
}

#[test]
fn plain_progress_is_told_now_and_then() {
    let gib = 1 << 30;
    // Ten percent a second, told four times a second: one line in ten seconds.
    let fast: Vec<_> = (0..=100)
        .map(|n| (n * 250, progress("virtio0", 1, n * gib, 40 * gib)))
        .collect();
    progress_lines(
        &fast[..42],
        expect![[r#"
            12:12:37 web1 virtio0: pre-copy 1: 100 % of 40.0 GiB read, 20.0 GiB carried, 4.0 GiB/s
        "#]],
    );
    // One percent in ten seconds: one line a minute.
    let slow: Vec<_> = (0..13)
        .map(|n| (n * 10_000, progress("virtio0", 1, n * gib, 100 * gib)))
        .collect();
    progress_lines(
        &slow,
        expect![[r#"
        12:13:27 web1 virtio0: pre-copy 1: 6 % of 100.0 GiB read, 3.0 GiB carried, 102.4 MiB/s, 15 min 40 s left
        12:14:27 web1 virtio0: pre-copy 1: 12 % of 100.0 GiB read, 6.0 GiB carried, 102.4 MiB/s, 14 min 40 s left
    "#]],
    );
    // A new round and another drive begin anew.
    let rounds = [
        (0, progress("virtio0", 1, 0, gib)),
        (0, progress("scsi1", 1, 0, gib)),
        (20_000, progress("virtio0", 2, 0, gib)),
        (20_000, progress("scsi1", 1, gib / 2, gib)),
        (30_000, progress("virtio0", 2, gib / 4, gib)),
    ];
    progress_lines(
        &rounds,
        expect![[r#"
        12:12:47 web1 scsi1: pre-copy 1: 50 % of 1.0 GiB read, 256.0 MiB carried, 25.6 MiB/s, 20 s left
        12:12:57 web1 virtio0: pre-copy 2: 25 % of 1.0 GiB read, 128.0 MiB carried, 25.6 MiB/s, 30 s left
    "#]],
    );
    // Nothing moves, or there is nothing to do.
    let stuck = [
        (0, progress("virtio0", 1, 0, gib)),
        (60_000, progress("virtio0", 1, 0, gib)),
        (120_000, progress("virtio0", 1, 0, 0)),
        (180_000, progress("virtio0", 1, u64::MAX, gib)),
    ];
    progress_lines(
        &stuck,
        expect![[r#"
            12:13:27 web1 virtio0: pre-copy 1: 0 % of 1.0 GiB read, 0 B carried, 0 B/s
            12:14:27 web1 virtio0: pre-copy 1: 100 % of 0 B read, 0 B carried, 0 B/s
            12:15:27 web1 virtio0: pre-copy 1: 100 % of 1.0 GiB read, 8192.0 PiB carried, 91.0 PiB/s
        "#]],
    );
}

fn terminal() -> (Paper, Terminal) {
    let paper = Paper::default();
    let target = paper.clone();
    // 255 Hz: the test tells faster than anybody looks, and wants to see each drawing.
    let draw =
        Box::new(move || ProgressDrawTarget::term_like_with_hz(Box::new(target.clone()), 255));
    (paper, Terminal::on(draw, Colour::Never))
}

/// Returns what was drawn since `from`, after enough time for a further drawing.
fn drawn(paper: &Paper, from: usize) -> String {
    std::thread::sleep(Duration::from_millis(20));
    paper.text()[from..].to_owned()
}

#[test]
fn a_terminal_shows_a_bar_for_each_drive_and_one_for_all() {
    let ((paper, terminal), clock) = (terminal(), clock());
    let gib = 1 << 30;
    terminal.tell_at(&started("untouched"), &clock.at(0));
    for scanned in [1, 2] {
        terminal.tell_at(
            &progress("virtio0", 2, scanned * gib, 4 * gib),
            &clock.at(0),
        );
        terminal.tell_at(&progress("scsi1", 1, scanned * gib, 16 * gib), &clock.at(0));
        std::thread::sleep(Duration::from_millis(20));
    }
    let text = drawn(&paper, 0);
    for part in [
        "12:12:27 web1: moving apple/565 => banana/126 on node2",
        "    web1 virtio0 pre-copy 2 [",
        "] 2.00 GiB/4.00 GiB ",
        "      web1 scsi1 pre-copy 1 [",
        "] 2.00 GiB/16.00 GiB ",
        "      all drives [",
        "] 15 % of 20.00 GiB, 2.0 GiB carried, 1.0 GiB on the wire",
    ] {
        assert!(text.contains(part), "'{part}' is not in\n{text}");
    }
    // A drive that is done has its line, and no bar any more; the last one takes the overall bar along.
    let from = paper.text().len();
    for drive in ["virtio0", "scsi1"] {
        let done = Event::PassDone {
            guest: "web1".to_owned(),
            drive: drive.to_owned(),
            pass: PassKind::Precopy,
            round: 2,
            carried: 1,
            wire: 1,
            seconds: 1.0,
        };
        terminal.tell_at(&done, &clock.at(1000));
    }
    let text = drawn(&paper, from);
    assert!(
        text.contains("12:12:28 web1 scsi1: pre-copy 2 done"),
        "{text}"
    );
    let from = paper.text().len();
    terminal.tell_at(&started("precopied"), &clock.at(2000));
    let text = drawn(&paper, from);
    assert!(text.contains("12:12:29 web1: continuing"), "{text}");
    assert!(
        !text.contains("all drives") && !text.contains("GiB"),
        "a bar is left over:\n{text}"
    );
}

#[test]
fn nothing_is_drawn_over_a_question() {
    let ((paper, terminal), clock) = (terminal(), clock());
    terminal.tell_at(&progress("virtio0", 1, 1, 4), &clock.at(0));
    terminal.pause();
    let from = paper.text().len();
    terminal.tell_at(&progress("virtio0", 1, 2, 4), &clock.at(0));
    terminal.tell_at(&started("untouched"), &clock.at(0));
    assert_eq!(drawn(&paper, from), "");
    terminal.resume();
    terminal.tell_at(&progress("virtio0", 1, 3, 4), &clock.at(0));
    let text = drawn(&paper, from);
    assert!(
        text.contains("web1: moving"),
        "what was told meanwhile is shown:\n{text}"
    );
    assert!(text.contains("75 % of 4 B"), "the bars are back:\n{text}");
}

fn answer(typed: &'static str, expect: Option<bool>) -> String {
    let paper = Paper::default();
    let person = Person::new(Box::new(typed.as_bytes()), Box::new(paper.clone()), None);
    assert_eq!(person.confirm("Shut down web1?"), expect, "{typed:?}");
    paper.text()
}

#[test]
fn only_a_yes_is_a_yes() {
    assert_eq!(answer("y\n", Some(true)), "Shut down web1? [y/N] ");
    answer(" YES \r\n", Some(true));
    answer("n\n", Some(false));
    answer("\n", Some(false));
    let again = answer("yep\ny\n", Some(true));
    assert_eq!(
        again,
        "Shut down web1? [y/N] Please answer y or n. Shut down web1? [y/N] "
    );
    answer("", None);
    answer("perhaps", None);
    assert_eq!(AlwaysYes.confirm("?"), Some(true));
    assert_eq!(Nobody.confirm("?"), None);
}

#[test]
fn a_question_stops_the_bars_and_lets_them_go_on() {
    let (paper, terminal) = terminal();
    let terminal = Arc::new(terminal);
    let person = Person::new(
        Box::new(&b"y\n"[..]),
        Box::new(paper.clone()),
        Some(Arc::clone(&terminal)),
    );
    terminal.tell_at(&progress("virtio0", 1, 1, 4), &clock().at(0));
    assert_eq!(person.confirm("Shut down web1?"), Some(true));
    let from = paper.text().len();
    terminal.tell_at(&progress("virtio0", 1, 2, 4), &clock().at(0));
    assert!(drawn(&paper, from).contains("50 % of 4 B"));
}

#[test]
fn a_reader_that_went_away_does_no_harm() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }
    let (lines, json) = (
        Lines::new(Box::new(Closed), Colour::Never),
        Json::new(Box::new(Closed)),
    );
    for event in events() {
        lines.tell(&event);
        json.tell(&event);
    }
    let person = Person::new(Box::new(&b"y\n"[..]), Box::new(Closed), None);
    assert_eq!(person.confirm("?"), None, "nobody saw the question");
}

#[test]
fn who_answers_depends_on_who_is_there() {
    let answer = |audience: Audience| choose(&audience).1.confirm("?");
    assert_eq!(answer(Audience::default()), None);
    assert_eq!(
        answer(Audience {
            stderr_is_terminal: true,
            ..Audience::default()
        }),
        None
    );
    assert_eq!(
        answer(Audience {
            stdin_is_terminal: true,
            ..Audience::default()
        }),
        None
    );
    assert_eq!(
        answer(Audience {
            yes: true,
            ..Audience::default()
        }),
        Some(true)
    );
}
