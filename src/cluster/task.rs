//! Tasks: what Proxmox VE does in the background, and waiting for its end.
//!
//! A task is named by its UPID and must be asked about on the node in it. Waiting is patient as long as there is progress
//! (new log lines, another status): nothing here hangs by a clock alone, and a node that cannot be asked for a while is
//! "unknown", never a failure. Never stops a task. Read next: `act.rs`.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::answer::is_proxy_status;
use super::http::{HttpApi, Tries, encoded};
use super::wire::{Entry, Odd, list};
use super::{ApiError, Tell};
use crate::pve::id::{InvalidId, NodeName};

/// How many of the last log lines are kept for the message about a failure.
const TAIL: usize = 20;

/// How many log lines are asked for at once. `limit=0` for "all" exists since 7.4 only.
const LOG_PAGE: &str = "500";

/// How often an exit status that only means "not written yet" is read again.
const REREADS: u32 = 4;

/// A task's id, `UPID:NODE:PID:PSTART:STARTTIME:TYPE:ID:USER:`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Upid {
    text: String,
    node: NodeName,
    started: u64,
    kind: String,
    guest: String,
    user: String,
}

impl Upid {
    /// Returns the node that runs the task.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// Returns when it started, in seconds since 1970.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// Returns what it does: `qmcreate`, `qmshutdown`, `hastart` ...
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Returns what it works on, mostly a VMID; may be empty.
    pub fn guest(&self) -> &str {
        &self.guest
    }

    /// Returns who started it.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Says whether this task only queues a request for the HA manager, which acts later in tasks of its own.
    pub fn only_queues(&self) -> bool {
        self.kind.starts_with("ha")
    }

    /// Says whether this task starts or stops a guest, or asks the HA manager to.
    pub fn changes_power(&self) -> bool {
        let of_guest = ["qm", "vz", "ha"].iter();
        let verb = of_guest
            .filter_map(|kind| self.kind.strip_prefix(kind))
            .next();
        matches!(verb, Some("start" | "stop" | "shutdown" | "reboot"))
    }

    /// Says whether this task migrates a guest, or asks the HA manager to.
    pub fn migrates(&self) -> bool {
        matches!(self.kind.as_str(), "qmigrate" | "vzmigrate" | "hamigrate")
    }
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl FromStr for Upid {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Upid, InvalidId> {
        parse(text).ok_or_else(|| InvalidId {
            kind: "task id",
            text: text.to_owned(),
            hint: Some("UPID:NODE:PID:PSTART:STARTTIME:TYPE:ID:USER:"),
        })
    }
}

fn parse(text: &str) -> Option<Upid> {
    let parts: Vec<_> = text.split(':').collect();
    let ["UPID", node, pid, pstart, started, kind, guest, user, ""] = parts[..] else {
        return None;
    };
    let hex = |part: &str, length: std::ops::RangeInclusive<usize>| {
        length.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let plain = |part: &str| !part.contains(|c: char| c.is_whitespace() || c.is_control());
    let well_formed = hex(pid, 8..=8)
        && hex(pstart, 8..=9)
        && hex(started, 8..=8)
        && !kind.is_empty()
        && !kind.contains('/')
        && !user.is_empty()
        && [kind, guest, user].into_iter().all(plain);
    well_formed.then_some(())?;
    Some(Upid {
        text: text.to_owned(),
        node: node.parse().ok()?,
        started: u64::from_str_radix(started, 16).ok()?,
        kind: kind.to_owned(),
        guest: guest.to_owned(),
        user: user.to_owned(),
    })
}

/// What a task's status says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// It runs.
    Running,
    /// It ended with that exit status; `None` when the server does not know one.
    Stopped(Option<String>),
}

/// Decodes `GET /nodes/{node}/tasks/{upid}/status`.
pub fn state(value: &Value) -> Result<TaskState, Odd> {
    let entry = Entry::of(value)?;
    match entry.text("status").as_deref() {
        Some("running") => Ok(TaskState::Running),
        Some("stopped") => Ok(TaskState::Stopped(entry.text("exitstatus"))),
        _ => Err(Odd("no status in the task's status".to_owned())),
    }
}

/// Decodes `GET /nodes/{node}/tasks/{upid}/log`: the lines with their numbers, counted from 1.
pub fn log_lines(value: &Value) -> Result<Vec<(u64, String)>, Odd> {
    list(value, "log lines", |entry| {
        Some((entry.count("n")?, entry.text("t").unwrap_or_default()))
    })
}

/// Decodes `GET /nodes/{node}/tasks`: those that have not ended.
pub fn running(value: &Value) -> Result<Vec<Upid>, Odd> {
    let tasks = list(value, "tasks", |entry| {
        let upid: Upid = entry.id("upid")?;
        Some(entry.value("endtime").is_none().then_some(upid))
    })?;
    Ok(tasks.into_iter().flatten().collect())
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It succeeded, perhaps with warnings.
    Success,
    /// It failed with that exit status.
    Failure(String),
    /// The server does not know (yet).
    Unknown,
}

/// Judges an exit status and, where that says nothing, the last line of the log.
pub fn verdict(exit_status: Option<&str>, last_line: Option<&str>) -> Verdict {
    let says_nothing = exit_status.is_none_or(|status| {
        status == "unexpected status" || status.starts_with("unable to get last line")
    });
    match exit_status {
        Some("OK") => Verdict::Success,
        Some(status) if status.starts_with("WARNINGS:") => Verdict::Success,
        Some(status) if !says_nothing => Verdict::Failure(status.to_owned()),
        Some(_) | None => match last_line.unwrap_or_default() {
            "TASK OK" => Verdict::Success,
            line if line.starts_with("TASK WARNINGS:") => Verdict::Success,
            line => match line.strip_prefix("TASK ERROR: ") {
                Some(reason) => Verdict::Failure(reason.to_owned()),
                None => Verdict::Unknown,
            },
        },
    }
}

/// Says whether an error means that a node cannot be asked just now, not that it said no.
pub(super) fn is_passing(error: &ApiError) -> bool {
    match error {
        ApiError::Unreachable { .. } => true,
        ApiError::Refused { status, .. } => is_proxy_status(*status),
        ApiError::Certificate { .. }
        | ApiError::Login { .. }
        | ApiError::Forbidden { .. }
        | ApiError::Parameters { .. }
        | ApiError::Unexpected { .. }
        | ApiError::Task { .. }
        | ApiError::Stalled { .. } => false,
    }
}

/// The lines of a log that were seen so far; only the last ones are kept.
#[derive(Debug, Default)]
struct Log {
    seen: u64,
    tail: VecDeque<String>,
}

impl Log {
    /// Takes new lines in and tells them; says whether there were any.
    fn add(&mut self, lines: Vec<(u64, String)>, tell: Tell<'_>) -> bool {
        let before = self.seen;
        for (number, line) in lines {
            // "no content" is the line of an empty log; it is replaced by the first real one.
            if number <= self.seen || line == "no content" {
                continue;
            }
            self.seen = number;
            tell(&line);
            if self.tail.len() == TAIL {
                self.tail.pop_front();
            }
            self.tail.push_back(line);
        }
        self.seen > before
    }
}

impl HttpApi {
    /// Waits until a task has ended well and returns the last lines of its log.
    ///
    /// Gives up with [`ApiError::Stalled`] after `patience` without any sign of progress.
    pub(super) async fn wait(
        &self,
        upid: &Upid,
        patience: Duration,
    ) -> Result<Vec<String>, ApiError> {
        self.wait_telling(upid, patience, &|_| ()).await
    }

    /// Waits as [`HttpApi::wait`] does, telling each new line of the log.
    pub(super) async fn wait_telling(
        &self,
        upid: &Upid,
        patience: Duration,
        tell: Tell<'_>,
    ) -> Result<Vec<String>, ApiError> {
        let base = format!("/nodes/{}/tasks/{}", upid.node, encoded(&upid.text));
        let mut log = Log::default();
        let (mut last_sign, started) = (Instant::now(), Instant::now());
        let mut reachable = true;
        let mut rereads = 0;
        loop {
            tokio::time::sleep(self.poll_pause(started.elapsed())).await;
            let path = format!("{base}/status");
            match self.read(&path, &[], Tries::One).await {
                Ok(value) => {
                    // A node that is back after silence is progress as well.
                    if !reachable {
                        last_sign = Instant::now();
                    }
                    reachable = true;
                    let state = state(&value).map_err(|odd| self.odd(&path, odd))?;
                    if self.more_log(&base, &mut log, tell).await {
                        last_sign = Instant::now();
                    }
                    if let TaskState::Stopped(exit_status) = state {
                        let last = log.tail.back().map(String::as_str);
                        match verdict(exit_status.as_deref(), last) {
                            Verdict::Success => return Ok(log.tail.into()),
                            Verdict::Failure(reason) => return Err(failed(upid, reason, log)),
                            Verdict::Unknown if rereads < REREADS => rereads += 1,
                            Verdict::Unknown => {
                                let reason = exit_status.unwrap_or_else(|| "no exit status".into());
                                return Err(failed(upid, reason, log));
                            }
                        }
                    }
                }
                Err(error) if is_passing(&error) => {
                    reachable = false;
                    let alias = &self.config.alias;
                    log::debug!("{alias}: task {upid} is unknown for now: {error}");
                }
                Err(error) => return Err(error),
            }
            if last_sign.elapsed() >= patience {
                return Err(ApiError::Stalled {
                    upid: upid.text.clone(),
                    silence: last_sign.elapsed(),
                });
            }
        }
    }

    /// Reads what is new in a task's log; says whether there was anything. A log that cannot be read is no failure.
    async fn more_log(&self, base: &str, log: &mut Log, tell: Tell<'_>) -> bool {
        let mut news = false;
        loop {
            let start = log.seen.to_string();
            let parameters = [("start", start.as_str()), ("limit", LOG_PAGE)];
            let lines = match self
                .read(&format!("{base}/log"), &parameters, Tries::One)
                .await
            {
                Ok(value) => log_lines(&value).unwrap_or_default(),
                Err(error) => {
                    log::debug!("{}: {error}", self.config.alias);
                    return news;
                }
            };
            if !log.add(lines, tell) {
                return news;
            }
            news = true;
        }
    }

    /// Returns the pause before the next look: short at first, then up to twenty times that.
    ///
    /// What is waited for is often a guest that is down meanwhile, so its end is noticed at most 2 % late.
    pub(super) fn poll_pause(&self, elapsed: Duration) -> Duration {
        (elapsed / 50).clamp(self.pace.poll / 2, self.pace.poll * 10)
    }

    /// Reads a UPID out of the answer of a request that starts a task.
    pub(super) fn upid(&self, request: &str, value: &Value) -> Result<Upid, ApiError> {
        let text = value.as_str().unwrap_or_default();
        text.parse().map_err(|error| self.odd(request, error))
    }
}

fn failed(upid: &Upid, exit_status: String, log: Log) -> ApiError {
    ApiError::Task {
        kind: upid.kind.clone(),
        guest: upid.guest.clone(),
        node: upid.node.to_string(),
        exit_status,
        log: log.tail.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check_upid(text: &str, expect: Option<(&str, &str, &str, &str)>) {
        let parsed = text.parse::<Upid>().ok();
        let shown = parsed
            .as_ref()
            .map(|upid| (upid.node.as_str(), upid.kind(), upid.guest(), upid.user()));
        assert_eq!(shown, expect, "{text}");
    }

    #[test]
    fn upids() {
        check_upid(
            "UPID:nodea1:00000156:0005FD9D:6B010177:qmdestroy:100:root@pam:",
            Some(("nodea1", "qmdestroy", "100", "root@pam")),
        );
        check_upid(
            "UPID:n1:00000156:10005FD9D:6B010177:imgdel:100@local-lvm:a@pve!tok:",
            Some(("n1", "imgdel", "100@local-lvm", "a@pve!tok")),
        );
        check_upid(
            "UPID:n1:00000156:0005FD9D:6B010177:startall::root@pam:",
            Some(("n1", "startall", "", "root@pam")),
        );
        let good = "UPID:n1:00000156:0005FD9D:6B010177:qmstart:100:root@pam:";
        for wrong in [
            "",
            "UPID",
            "UPID:::::::::",
            &good[..good.len() - 1],
            &format!("{good}x"),
            &good.replace("n1", "n/1"),
            &good.replace("n1", ".."),
            &good.replace("00000156", "0000156"),
            &good.replace("6B010177", "6B01017G"),
            &good.replace("qmstart", "qm start"),
            &good.replace("qmstart", ""),
            &good.replace("root@pam", ""),
            &good.replace("100", "1\n0"),
        ] {
            check_upid(wrong, None);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_parses_is_kept(text in "(UPID:)?[a-z0-9:A-F@!.-]{0,60}:?") {
            if let Ok(upid) = text.parse::<Upid>() {
                prop_assert_eq!(upid.to_string(), text);
            }
        }

        #[test]
        fn a_written_upid_is_read_back(
            node in "[a-z][a-z0-9-]{0,8}", pid: u32, pstart: u32, started: u32,
            kind in "[a-z]{1,8}", guest in "[a-z0-9@-]{0,8}", user in "[a-z]{1,5}@[a-z]{1,5}(![a-z]{1,4})?",
        ) {
            let text = format!("UPID:{node}:{pid:08X}:{pstart:08X}:{started:08X}:{kind}:{guest}:{user}:");
            let upid: Upid = text.parse().expect("well-formed");
            prop_assert_eq!(upid.started(), u64::from(started));
            prop_assert_eq!((upid.kind(), upid.guest(), upid.user()), (&*kind, &*guest, &*user));
        }
    }

    #[test]
    fn verdicts() {
        let fail = |text: &str| Verdict::Failure(text.to_owned());
        for (status, last, expect) in [
            (Some("OK"), None, Verdict::Success),
            (Some("WARNINGS: 2"), None, Verdict::Success),
            (Some("VM is locked"), Some("TASK OK"), fail("VM is locked")),
            (Some("unexpected status"), None, Verdict::Unknown),
            (Some("unexpected status"), Some("TASK OK"), Verdict::Success),
            (None, Some("TASK ERROR: no"), fail("no")),
            (None, Some("TASK WARNINGS: 1"), Verdict::Success),
            (
                Some("unable to get last line from task log - x"),
                Some("hm"),
                Verdict::Unknown,
            ),
        ] {
            assert_eq!(verdict(status, last), expect, "{status:?} {last:?}");
        }
    }

    #[test]
    fn a_log_keeps_its_tail_and_counts_no_line_twice() {
        let mut log = Log::default();
        let told = std::sync::atomic::AtomicU32::new(0);
        let tell: Tell<'_> = &|_| {
            told.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        };
        assert!(!log.add(vec![(1, "no content".into())], tell));
        assert!(log.add((1..=30).map(|n| (n, format!("line {n}"))).collect(), tell));
        assert!(!log.add(vec![(30, "line 30".into())], tell));
        assert_eq!(told.into_inner(), 30);
        assert_eq!(log.tail.len(), TAIL);
        assert_eq!(log.tail.back().map(String::as_str), Some("line 30"));
        assert_eq!(log.tail.front().map(String::as_str), Some("line 11"));
    }
}
