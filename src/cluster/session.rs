//! Sessions: how the client is logged in, and when that must be renewed.
//!
//! A ticket lives for two hours and is renewed at half of that, with the old ticket as the password; an API token is
//! good as it is. No secret is ever in a message or in `Debug`. Read next: `login.rs`.

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::time::Instant;

use super::wire::{Entry, Odd};
use crate::config::Secret;

/// When a ticket is renewed: half of its two hours, so that one failed renewal does no harm.
const RENEW_AFTER: Duration = Duration::from_secs(60 * 60);

/// When a ticket is no longer worth trying as a password: its two hours, less some minutes for clocks that differ.
const EXPIRES_AFTER: Duration = Duration::from_secs(110 * 60);

/// How the client is logged in.
#[derive(Debug)]
pub(super) struct Session {
    /// Counts the logins, so that of several calls that got 401 only one logs in again.
    pub(super) generation: u64,
    /// The user or token id, as the cluster calls it.
    pub(super) user: String,
    /// What goes into the requests.
    pub(super) proof: Proof,
}

/// What a request carries to show who asks.
#[derive(Debug)]
pub(super) enum Proof {
    /// `Authorization: PVEAPIToken=...`.
    Token(Secret),
    /// The cookie `PVEAuthCookie`, and a header on everything that is no GET.
    Ticket {
        /// The ticket.
        ticket: Secret,
        /// The token against forged requests.
        csrf: Secret,
        /// When it was issued.
        issued: Issued,
    },
}

/// A moment on both clocks: the monotonic one may stand still while the machine sleeps, the other may be set back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Issued {
    monotonic: Instant,
    wall: SystemTime,
}

impl Issued {
    /// Returns the present moment.
    pub(super) fn now() -> Issued {
        Issued {
            monotonic: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// Returns the time that has passed, by the clock that saw more of it.
    fn age(self) -> Duration {
        let wall = self.wall.elapsed().unwrap_or_default();
        self.monotonic.elapsed().max(wall)
    }

    /// Moves the moment into the past, for tests of the renewal.
    #[cfg(test)]
    pub(super) fn aged(self, by: Duration) -> Issued {
        Issued {
            wall: self.wall - by,
            ..self
        }
    }
}

impl Session {
    /// Says whether the ticket should be renewed before the next request.
    pub(super) fn is_old(&self) -> bool {
        match &self.proof {
            Proof::Token(_) => false,
            Proof::Ticket { issued, .. } => issued.age() >= RENEW_AFTER,
        }
    }

    /// Returns the ticket while it is good enough to get a new one.
    pub(super) fn renewable(&self) -> Option<&Secret> {
        match &self.proof {
            Proof::Token(_) => None,
            Proof::Ticket { ticket, issued, .. } => {
                (issued.age() < EXPIRES_AFTER).then_some(ticket)
            }
        }
    }
}

/// What `POST /access/ticket` gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Ticket {
    /// A login.
    Full {
        /// The user, as the cluster calls it.
        user: Option<String>,
        /// The ticket.
        ticket: Secret,
        /// The token against forged requests.
        csrf: Secret,
    },
    /// The user has a second factor: the ticket is good for nothing but to answer it.
    NeedsSecondFactor,
}

/// Decodes the answer of `POST /access/ticket`. Its errors never show the value.
pub fn ticket(value: &Value) -> Result<Ticket, Odd> {
    let entry = Entry::of(value).map_err(|_| Odd("the login gave no ticket".to_owned()))?;
    if entry.flag("NeedTFA") == Some(true) {
        return Ok(Ticket::NeedsSecondFactor);
    }
    let secret = |key: &str| {
        let text = entry.text(key);
        text.map(Secret::new)
            .ok_or_else(|| Odd(format!("the login gave no {key}")))
    };
    Ok(Ticket::Full {
        user: entry.text("username"),
        ticket: secret("ticket")?,
        csrf: secret("CSRFPreventionToken")?,
    })
}

/// Runs a `password_command` with `sh -c` and returns the first line of its output.
///
/// The terminal stays its own, because password stores ask questions. The error never shows any output.
pub(super) async fn password_from(command: &str) -> Result<Secret, String> {
    let output = tokio::process::Command::new("sh")
        .arg("-c")
        .arg(command)
        .stdin(Stdio::inherit())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("password_command could not be run: {error}"))?;
    if !output.status.success() {
        return Err(format!("password_command failed: {}", output.status));
    }
    let text = String::from_utf8(output.stdout)
        .map_err(|_| "password_command gave something that is not text".to_owned())?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err("password_command gave no password on its first line".to_owned());
    }
    Ok(Secret::new(line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_second_factor_is_seen_before_the_useless_ticket() {
        let value = json!({"NeedTFA": 1, "ticket": "PVE:!tfa!...", "CSRFPreventionToken": "x"});
        assert_eq!(ticket(&value), Ok(Ticket::NeedsSecondFactor));
    }

    #[test]
    fn no_secret_is_shown() {
        let value =
            json!({"username": "a@pve", "ticket": "hush", "CSRFPreventionToken": "hushtoo"});
        let decoded = ticket(&value).expect("a ticket");
        assert!(!format!("{decoded:?}").contains("hush"));
        let error = ticket(&json!({"ticket": "hush"})).expect_err("no csrf");
        assert!(!format!("{error:?}").contains("hush"));
    }

    #[tokio::test]
    async fn a_password_command_gives_its_first_line() {
        let password = password_from("printf 'one two\\nthree\\n'").await;
        assert_eq!(password, Ok(Secret::new("one two")));
        let error = password_from("echo hush; exit 3")
            .await
            .expect_err("exit 3");
        assert!(error.contains('3') && !error.contains("hush"), "{error}");
        password_from("true").await.expect_err("no output");
    }

    #[test]
    fn a_ticket_ages_by_either_clock() {
        let session = |age: u64| Session {
            generation: 1,
            user: String::new(),
            proof: Proof::Ticket {
                ticket: Secret::new("t"),
                csrf: Secret::new("c"),
                issued: Issued::now().aged(Duration::from_secs(age * 60)),
            },
        };
        assert!(!session(59).is_old());
        assert!(session(61).is_old() && session(61).renewable().is_some());
        assert!(session(111).is_old() && session(111).renewable().is_none());
    }
}
