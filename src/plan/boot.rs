//! Whether a guest has come up: what its cluster shows of it after the start, look by look.
//!
//! ```text
//! seen                                    judged
//! --------------------------------------  --------------------------------------------------------------
//! it does not run any more                not up
//! QEMU has stopped it (io-error, panic)   not up
//! the guest agent answers                 up
//! without an agent: running, its uptime   up, when it has done so for a moment ([`STEADY`])
//!   growing
//! anything else                           looked at again until the time is over, then not up
//! ```
//! Pure. A guest without an agent can be up and of no use, so the words always say what was looked at. Read next:
//! `moves/boot.rs`, which looks.

use std::time::Duration;

use crate::pve::guest::{AgentPing, Power, Vitals};

/// How long a guest without an agent must have kept running. One that cannot find its disk is in its boot menu then, which
/// nobody outside can tell; one that QEMU cannot run is gone within seconds.
pub const STEADY: Duration = Duration::from_secs(10);

/// What one look has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It is up: by what.
    Up(String),
    /// It has not come up: why not.
    NotUp(String),
    /// It is looked at again.
    Unclear,
}

/// What is known of a guest's start so far.
#[derive(Clone, Debug)]
pub struct Watch {
    agent: bool,
    limit: Duration,
    /// Since when it runs without interruption, and its uptime then.
    steady: Option<(Duration, u64)>,
    uptime: u64,
    restarts: u32,
}

impl Watch {
    /// Begins to watch a guest; `agent` says whether its configuration has the guest agent switched on.
    pub fn new(agent: bool, limit: Duration) -> Watch {
        Watch {
            agent,
            limit,
            steady: None,
            uptime: 0,
            restarts: 0,
        }
    }

    /// Returns what is looked at, for people.
    pub fn what(&self) -> &'static str {
        match self.agent {
            true => "its guest agent answers",
            false => "it has kept running for a moment (it has no guest agent that could be asked)",
        }
    }

    /// Says whether the agent is worth asking.
    pub fn asks_agent(&self) -> bool {
        self.agent
    }

    /// Judges one look, `at` after the first.
    pub fn look(&mut self, at: Duration, vitals: &Vitals, ping: Option<&AgentPing>) -> Judged {
        match vitals.power {
            Power::Stopped => return Judged::NotUp("it does not run any more".to_owned()),
            Power::Unknown => return self.later(at, "its node does not say whether it runs"),
            Power::Running => {}
        }
        let status = vitals.qmp_status.as_str();
        if matches!(
            status,
            "io-error" | "internal-error" | "guest-panicked" | "watchdog"
        ) {
            return Judged::NotUp(format!("QEMU has stopped it: {status}"));
        }
        if !matches!(status, "running" | "") {
            self.steady = None;
            return self.later(at, &format!("QEMU says that it is {status}"));
        }
        let uptime = vitals.uptime.unwrap_or(0);
        if uptime < self.uptime {
            self.restarts += 1;
            self.steady = None;
        }
        self.uptime = uptime;
        let (since, first) = *self.steady.get_or_insert((at, uptime));
        match ping {
            Some(AgentPing::Answers) => {
                let seconds = at.as_secs();
                return Judged::Up(format!("its guest agent answered after {seconds} s"));
            }
            // The target's own word counts.
            Some(AgentPing::NotConfigured) => self.agent = false,
            Some(AgentPing::NotRunning) | None => {}
        }
        if self.agent {
            return self.later(at, "its guest agent does not answer");
        }
        let steady = STEADY.min(self.limit);
        if at.saturating_sub(since) >= steady && uptime > first {
            return Judged::Up(format!(
                "it has kept running for {} s; it has no guest agent that could be asked",
                at.saturating_sub(since).as_secs()
            ));
        }
        self.later(at, "it does not keep running")
    }

    fn later(&self, at: Duration, reason: &str) -> Judged {
        if at < self.limit {
            return Judged::Unclear;
        }
        let restarts = match self.restarts {
            0 => String::new(),
            1 => ", and it was restarted once".to_owned(),
            some => format!(", and it was restarted {some} times"),
        };
        Judged::NotUp(format!(
            "{reason} after {}{restarts}",
            humantime::format_duration(self.limit)
        ))
    }
}

/// Says whether a guest's configuration has the guest agent switched on: `1`, or `enabled=1` among its options.
pub fn has_agent(value: Option<&str>) -> bool {
    value.is_some_and(|value| {
        let mut parts = value.split(',');
        parts.any(|part| matches!(part, "1" | "enabled=1"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn running(uptime: u64) -> Vitals {
        Vitals {
            power: Power::Running,
            qmp_status: "running".to_owned(),
            uptime: Some(uptime),
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_agent_that_answers_is_enough() {
        let mut watch = Watch::new(true, LIMIT);
        let mute = Some(&AgentPing::NotRunning);
        assert_eq!(watch.look(at(0), &running(0), mute), Judged::Unclear);
        assert_eq!(watch.look(at(30), &running(30), mute), Judged::Unclear);
        let up = watch.look(at(31), &running(31), Some(&AgentPing::Answers));
        assert_eq!(
            up,
            Judged::Up("its guest agent answered after 31 s".to_owned())
        );
    }

    #[test]
    fn an_agent_that_never_answers_is_not_up_however_long_it_runs() {
        let mut watch = Watch::new(true, LIMIT);
        let mute = Some(&AgentPing::NotRunning);
        for second in 0..60 {
            assert_eq!(
                watch.look(at(second), &running(second), mute),
                Judged::Unclear
            );
        }
        let reason = "its guest agent does not answer after 1m".to_owned();
        assert_eq!(
            watch.look(at(60), &running(60), mute),
            Judged::NotUp(reason)
        );
    }

    #[test]
    fn without_an_agent_it_must_keep_running() {
        let mut watch = Watch::new(false, LIMIT);
        assert_eq!(watch.look(at(0), &running(0), None), Judged::Unclear);
        assert_eq!(watch.look(at(9), &running(9), None), Judged::Unclear);
        assert!(matches!(
            watch.look(at(10), &running(10), None),
            Judged::Up(_)
        ));
        // A clock that stands still is no sign of life.
        let mut watch = Watch::new(false, LIMIT);
        watch.look(at(0), &running(3), None);
        assert_eq!(watch.look(at(20), &running(3), None), Judged::Unclear);
    }

    #[test]
    fn a_guest_that_is_restarted_again_and_again_is_not_up() {
        let mut watch = Watch::new(false, LIMIT);
        for second in 0..60 {
            let look = watch.look(at(second), &running(second % 8), None);
            assert_eq!(look, Judged::Unclear, "{second}");
        }
        let Judged::NotUp(reason) = watch.look(at(60), &running(4), None) else {
            panic!("it restarts");
        };
        assert!(reason.ends_with("it was restarted 7 times"), "{reason}");
    }

    #[test]
    fn what_qemu_has_stopped_is_not_up_at_once() {
        for (power, status) in [
            (Power::Stopped, ""),
            (Power::Running, "io-error"),
            (Power::Running, "internal-error"),
            (Power::Running, "guest-panicked"),
        ] {
            let vitals = Vitals {
                power,
                qmp_status: status.to_owned(),
                uptime: Some(1),
            };
            let look = Watch::new(true, LIMIT).look(at(1), &vitals, Some(&AgentPing::Answers));
            assert!(matches!(look, Judged::NotUp(_)), "{power:?} {status}");
        }
        let paused = Vitals {
            qmp_status: "paused".to_owned(),
            ..running(1)
        };
        let mut watch = Watch::new(false, LIMIT);
        assert_eq!(watch.look(at(1), &paused, None), Judged::Unclear);
        assert!(matches!(
            watch.look(at(60), &paused, None),
            Judged::NotUp(_)
        ));
    }

    #[test]
    fn the_target_may_know_of_no_agent() {
        let mut watch = Watch::new(true, LIMIT);
        let none = Some(&AgentPing::NotConfigured);
        watch.look(at(0), &running(0), none);
        assert!(matches!(
            watch.look(at(10), &running(10), none),
            Judged::Up(_)
        ));
    }

    #[test]
    fn the_switch_of_the_agent_is_read() {
        let check = |value: Option<&str>, expect| assert_eq!(has_agent(value), expect, "{value:?}");
        check(Some("1"), true);
        check(Some("enabled=1,fstrim_cloned_disks=1"), true);
        check(Some("1,type=virtio"), true);
        check(Some("0"), false);
        check(Some("enabled=0,fstrim_cloned_disks=1"), false);
        check(None, false);
    }
}
