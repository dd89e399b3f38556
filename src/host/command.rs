//! Commands: typed argument lists, and the only place where anything is quoted for a shell.
//!
//! Pure. Read next: `ssh.rs`.

use std::fmt;

/// A command line for a POSIX shell, built from arguments that are quoted once, here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    line: String,
}

impl Command {
    /// Starts a command with its program.
    pub fn new(program: impl AsRef<str>) -> Command {
        Command {
            line: quote(program.as_ref()),
        }
    }

    /// Appends one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<str>) -> Command {
        self.line.push(' ');
        self.line.push_str(&quote(argument.as_ref()));
        self
    }

    /// Appends several arguments.
    #[must_use]
    pub fn args<T: AsRef<str>>(self, arguments: impl IntoIterator<Item = T>) -> Command {
        arguments.into_iter().fold(self, Command::arg)
    }

    /// Returns `self && next`: the second runs only after the first succeeded.
    #[must_use]
    pub fn and(mut self, next: &Command) -> Command {
        self.line.push_str(" && ");
        self.line.push_str(&next.line);
        self
    }

    /// Returns `self | next`.
    #[must_use]
    pub fn pipe(mut self, next: &Command) -> Command {
        self.line.push_str(" | ");
        self.line.push_str(&next.line);
        self
    }

    /// Returns `self > path`: standard output goes into a file.
    #[must_use]
    pub fn into_file(mut self, path: impl AsRef<str>) -> Command {
        self.line.push_str(" > ");
        self.line.push_str(&quote(path.as_ref()));
        self
    }

    /// Returns the line as the remote shell reads it.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Returns the first words, for messages; without the environment they are run in.
    pub fn brief(&self) -> String {
        const WIDTH: usize = 60;
        let mut line = self.line.as_str();
        if let Some(mut rest) = line.strip_prefix("env ") {
            while let Some((setting, behind)) = rest.split_once(' ')
                && setting.contains('=')
            {
                rest = behind;
            }
            line = rest;
        }
        match line.char_indices().nth(WIDTH) {
            Some((end, _)) => format!("{}...", &line[..end]),
            None => line.to_owned(),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

/// Quotes one word for a POSIX shell; plain words stay as they are.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_once() {
        let line = Command::new("printf")
            .arg("%s")
            .arg("it's")
            .arg("")
            .arg("a b;rm -rf $x")
            .line()
            .to_owned();
        let zfs = Command::new("env").args(["LC_ALL=C", "PATH=/sbin", "zfs", "list"]);
        assert_eq!(zfs.brief(), "zfs list");
        assert_eq!(line, r"printf %s 'it'\''s' '' 'a b;rm -rf $x'");
    }
}
