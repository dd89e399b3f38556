//! How proxmove ends: exit codes that say how the source was left, and the one place that walks a chain of errors.
//!
//! Pure: it renders, and `main` and `report` print. It never decides what happens next; whoever fails says so. Read
//! next: `main.rs`.

use std::error::Error;
use std::fmt::Write;
use std::io;

use crate::config::ConfigError;

/// What the exit code says. The order is from good to bad: a batch ends with its worst.
///
/// A guest that is down is worse than everything else, a bug included, because somebody has to act now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExitCode {
    /// 0: done.
    Done,
    /// 2: the command line was not understood; nothing was touched.
    Usage,
    /// 3: proxmoverc cannot be used; nothing was touched.
    Config,
    /// 4: refused before anything was changed.
    Refused,
    /// 5: failed; the source is as it was.
    Failed,
    /// 130: interrupted while the source was up.
    Interrupted,
    /// 1: a bug in proxmove.
    Bug,
    /// 6: failed, and the source is down.
    SourceDown,
}

impl ExitCode {
    /// Returns the number for the shell.
    pub const fn code(self) -> u8 {
        match self {
            ExitCode::Done => 0,
            ExitCode::Bug => 1,
            ExitCode::Usage => 2,
            ExitCode::Config => 3,
            ExitCode::Refused => 4,
            ExitCode::Failed => 5,
            ExitCode::SourceDown => 6,
            ExitCode::Interrupted => 130,
        }
    }

    /// Returns the worst of several; [`ExitCode::Done`] of none.
    pub fn worst(codes: impl IntoIterator<Item = ExitCode>) -> ExitCode {
        codes.into_iter().max().unwrap_or(ExitCode::Done)
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(exit: ExitCode) -> std::process::ExitCode {
        std::process::ExitCode::from(exit.code())
    }
}

/// Whether a rendering may use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Colour {
    /// Plain text.
    #[default]
    Never,
    /// ANSI colours.
    Ansi,
}

impl Colour {
    /// Returns colours for a terminal whose user did not set NO_COLOR (<https://no-color.org>).
    pub fn choose(terminal: bool, no_color: bool) -> Colour {
        if terminal && !no_color {
            Colour::Ansi
        } else {
            Colour::Never
        }
    }

    /// Returns the text in bold and the given ANSI foreground colour.
    pub(crate) fn paint(self, foreground: u8, text: &str) -> String {
        match self {
            Colour::Never => text.to_owned(),
            Colour::Ansi => format!("\x1b[1;{foreground}m{text}\x1b[0m"),
        }
    }
}

/// The ANSI colour of errors.
pub(crate) const RED: u8 = 31;
/// The ANSI colour of what is good.
pub(crate) const GREEN: u8 = 32;
/// The ANSI colour of warnings.
pub(crate) const YELLOW: u8 = 33;
/// The ANSI colour of places to look at.
pub(crate) const CYAN: u8 = 36;

/// A bad end, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the process exits with.
    pub exit: ExitCode,
    /// The headline, then the causes from the outermost to the innermost.
    pub error: Vec<String>,
    /// How things are now.
    pub state: Option<String>,
    /// What to type next.
    pub next: Option<String>,
}

impl Failure {
    /// Walks the chain of an error. A cause whose words stand in what was said before is skipped.
    pub fn new(exit: ExitCode, error: &(dyn Error + 'static)) -> Failure {
        let mut lines = vec![error.to_string()];
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !text.is_empty() && !lines.last().is_some_and(|parent| parent.contains(&text)) {
                lines.push(text);
            }
            cause = error.source();
        }
        Failure {
            exit,
            error: lines,
            state: None,
            next: None,
        }
    }

    /// Returns a failure that no error type stands behind.
    pub fn message(exit: ExitCode, text: impl Into<String>) -> Failure {
        Failure {
            exit,
            error: vec![text.into()],
            state: None,
            next: None,
        }
    }

    /// Returns the failure for a proxmoverc that cannot be used: each of its problems is a line.
    pub fn config(error: &ConfigError) -> Failure {
        let mut failure = Failure::new(ExitCode::Config, error);
        failure
            .error
            .extend(error.problems().iter().map(ToString::to_string));
        failure.state = Some("nothing was changed".to_owned());
        failure.next = Some(match error {
            ConfigError::Read { path, .. } => format!(
                "write {} (proxmoverc.sample has every key), or name another file with --config",
                path.display()
            ),
            ConfigError::Invalid { path, .. } => {
                format!("mend {} and run the same command again", path.display())
            }
        });
        failure
    }

    /// Returns what came of writing an answer to standard output; a reader that closed the pipe has seen enough.
    ///
    /// Fails when the answer is lost, as on a full disk: whoever reads the exit code must not take it for shown.
    pub fn unless_written(written: io::Result<()>) -> Result<(), Failure> {
        match written {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(
                ExitCode::Failed,
                &error,
            )
            .context("the answer could not be written to standard output")
            .next(
                "see that there is room where standard output goes, and run the same command again",
            )),
            _ => Ok(()),
        }
    }

    /// Puts what was being done in front, and makes the former headline the first cause.
    #[must_use]
    pub fn context(mut self, headline: impl Into<String>) -> Failure {
        self.error.insert(0, headline.into());
        self
    }

    /// Says how things are now.
    #[must_use]
    pub fn state(mut self, state: impl Into<String>) -> Failure {
        self.state = Some(state.into());
        self
    }

    /// Says what to type next.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Failure {
        self.next = Some(next.into());
        self
    }

    /// Returns the text for people, each line ended.
    pub fn render(&self, colour: Colour) -> String {
        render(
            &self.error,
            self.state.as_deref(),
            self.next.as_deref(),
            colour,
        )
    }
}

/// Returns headline, causes, state and next step as proxmove shows every error.
pub(crate) fn render(
    error: &[String],
    state: Option<&str>,
    next: Option<&str>,
    colour: Colour,
) -> String {
    let mut out = String::new();
    let mut line = |label: String, pad: &str, text: &str| {
        // Further lines of a text are indented, so that they are not taken for the next part.
        let _ = writeln!(
            out,
            "{label}{pad}{}",
            text.trim_end().replace('\n', "\n           ")
        );
    };
    for (place, text) in error.iter().enumerate() {
        if place == 0 {
            line(colour.paint(RED, "error:"), " ", text);
        } else {
            line("  because:".to_owned(), " ", text);
        }
    }
    if let Some(text) = state.filter(|text| !text.is_empty()) {
        line(colour.paint(YELLOW, "state:"), " ", text);
    }
    if let Some(text) = next.filter(|text| !text.is_empty()) {
        line(colour.paint(CYAN, "next:"), "  ", text);
    }
    out
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        source: Option<Box<Link>>,
    }

    fn chain(texts: &[&'static str]) -> Link {
        let (text, rest) = texts.split_first().expect("at least one");
        Link {
            text,
            source: (!rest.is_empty()).then(|| Box::new(chain(rest))),
        }
    }

    #[test]
    fn a_failure_is_shown_with_its_causes_state_and_next_step() {
        let failure = Failure::new(
            ExitCode::SourceDown,
            &chain(&[
                "zfs receive on node2.banana exited with 1",
                "cannot receive incremental stream: most recent snapshot of tank/a does not match",
            ]),
        )
        .context("final delta of virtio0 failed: web1 (apple/565 -> banana/126)")
        .state("web1 is STOPPED on apple as web1--CLONING; no data is lost")
        .next("run the same command again to resume at the final delta");
        expect![[r#"
            error: final delta of virtio0 failed: web1 (apple/565 -> banana/126)
              because: zfs receive on node2.banana exited with 1
              because: cannot receive incremental stream: most recent snapshot of tank/a does not match
            state: web1 is STOPPED on apple as web1--CLONING; no data is lost
            next:  run the same command again to resume at the final delta
        "#]]
        .assert_eq(&failure.render(Colour::Never));
    }

    #[test]
    fn only_a_terminal_gets_colours() {
        let failure = Failure::message(ExitCode::Refused, "no")
            .state("as it was")
            .next("try");
        assert_eq!(
            failure.render(Colour::choose(true, true)),
            "error: no\nstate: as it was\nnext:  try\n"
        );
        assert_eq!(
            failure.render(Colour::choose(false, false)),
            "error: no\nstate: as it was\nnext:  try\n"
        );
        assert_eq!(
            failure.render(Colour::choose(true, false)),
            "\x1b[1;31merror:\x1b[0m no\n\x1b[1;33mstate:\x1b[0m as it was\n\x1b[1;36mnext:\x1b[0m  try\n"
        );
    }

    #[test]
    fn a_cause_that_was_said_before_is_skipped() {
        let lines = |texts: &[&'static str]| Failure::new(ExitCode::Failed, &chain(texts)).error;
        assert_eq!(lines(&["a", "b", "c"]), ["a", "b", "c"]);
        assert_eq!(
            lines(&["cannot connect: refused", "refused", "os error 111"]),
            ["cannot connect: refused", "os error 111"]
        );
        assert_eq!(lines(&["a", ""]), ["a"]);
    }

    #[test]
    fn further_lines_of_a_cause_are_indented() {
        let failure =
            Failure::message(ExitCode::Failed, "task failed").context("x failed: one\ntwo\n");
        assert_eq!(
            failure.render(Colour::Never),
            "error: x failed: one\n           two\n  because: task failed\n"
        );
    }

    #[test]
    fn every_problem_of_the_configuration_is_shown() {
        let problems = crate::config::parse("[pve:apple]\napi=http://x\nca=x\n", "rc")
            .expect_err("two problems");
        let error = ConfigError::Invalid {
            path: "/home/me/rc".into(),
            problems,
        };
        expect![[r#"
            error: /home/me/rc has 2 problems
              because: [pve:apple] api: must begin with https:// (hint: api=https://user@realm:PASSWORD@host:8006)
              because: [pve:apple] ca: is not an absolute path (hint: the absolute path of a PEM file)
            state: nothing was changed
            next:  mend /home/me/rc and run the same command again
        "#]]
        .assert_eq(&Failure::config(&error).render(Colour::Never));
    }

    #[test]
    fn a_batch_ends_with_its_worst() {
        use ExitCode::{Bug, Config, Done, Failed, Interrupted, Refused, SourceDown, Usage};
        assert_eq!(ExitCode::worst([]), Done);
        assert_eq!(ExitCode::worst([Done, Refused, Done]), Refused);
        assert_eq!(ExitCode::worst([Failed, Refused]), Failed);
        assert_eq!(ExitCode::worst([Interrupted, SourceDown, Bug]), SourceDown);
        assert_eq!(ExitCode::worst([Interrupted, Failed]), Interrupted);
        let codes: Vec<u8> = [
            Done,
            Bug,
            Usage,
            Config,
            Refused,
            Failed,
            SourceDown,
            Interrupted,
        ]
        .map(ExitCode::code)
        .into();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 130]);
    }
}
