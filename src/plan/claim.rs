//! Claims: who works on a move just now, as the mark says it, and whether a second operator may.
//!
//! Pure. A claim is a line of the mark: who, which process on which machine, since when, and when it gave its last sign.
//! Times are those of the target cluster's clock, so that two operators' clocks need not agree. Whether a process lives is
//! asked by whoever judges (`moves/claim.rs`). Read next: `mark.rs`.

use std::time::Duration;

use jiff::Timestamp;

/// How often whoever holds a claim gives a sign.
pub const SIGN: Duration = Duration::from_secs(60);

/// Without a sign for so long a claim is stale: several signs were missed, not one.
pub const STALE: Duration = Duration::from_secs(300);

/// Who claims: one run of proxmove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// `user@machine`.
    pub by: String,
    /// The process, by number and time of start, so that a number given anew is another process.
    pub process: String,
    /// The machine since its last boot, as far as process numbers mean the same on it.
    pub machine: String,
}

/// A claim, as it stands in a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who.
    pub claimant: Claimant,
    /// Since when.
    pub since: Timestamp,
    /// The newest sign.
    pub seen: Timestamp,
}

/// What a claim means for a claimant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody works on it.
    Free,
    /// We do.
    Ours,
    /// Somebody did, and that process has ended without saying so.
    Ended(Claim),
    /// Somebody did, and gave no sign for so long.
    Stale(Claim, Duration),
    /// Somebody does; the newest sign is so old.
    Held(Claim, Duration),
}

impl Claim {
    /// Returns a claim that begins now.
    pub fn new(claimant: &Claimant, now: Timestamp) -> Claim {
        Claim {
            claimant: claimant.clone(),
            since: now,
            seen: now,
        }
    }

    /// Returns the line: `ann@laptop 4242.88123 1f2e3d4c 2026-01-02T03:04:05Z 2026-01-02T03:05:05Z`.
    pub fn render(&self) -> String {
        let word = |text: &str| {
            let text: String = text
                .chars()
                .map(|c| {
                    if c.is_whitespace() || c.is_control() {
                        '-'
                    } else {
                        c
                    }
                })
                .collect();
            if text.is_empty() {
                "-".to_owned()
            } else {
                text
            }
        };
        let time = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let Claimant {
            by,
            process,
            machine,
        } = &self.claimant;
        let (since, seen) = (time(self.since), time(self.seen));
        format!(
            "{} {} {} {since} {seen}",
            word(by),
            word(process),
            word(machine)
        )
    }

    /// Reads the line.
    pub fn parse(line: &str) -> Option<Claim> {
        let words: Vec<&str> = line.split(' ').collect();
        let [by, process, machine, since, seen] = words.as_slice() else {
            return None;
        };
        if [by, process, machine].iter().any(|word| word.is_empty()) {
            return None;
        }
        Some(Claim {
            claimant: Claimant {
                by: (*by).to_owned(),
                process: (*process).to_owned(),
                machine: (*machine).to_owned(),
            },
            since: since.parse().ok()?,
            seen: seen.parse().ok()?,
        })
    }

    /// Returns how old the newest sign is; one from the future (clocks are set back) is as new as can be.
    pub fn age(&self, now: Timestamp) -> Duration {
        let seconds = now.as_second().saturating_sub(self.seen.as_second());
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// Says who holds it, for a person.
    pub fn describe(&self, now: Timestamp) -> String {
        let number = self.claimant.process.split('.').next().unwrap_or_default();
        let age = humantime::format_duration(self.age(now));
        format!(
            "{} (process {number}) since {}, last sign {age} ago",
            self.claimant.by,
            self.since.strftime("%Y-%m-%d %H:%M:%S UTC"),
        )
    }
}

/// Judges a claim; `lives` says whether a process of this machine lives.
pub fn judge(
    claim: Option<&Claim>,
    me: &Claimant,
    now: Timestamp,
    lives: impl Fn(&str) -> bool,
) -> Standing {
    let Some(claim) = claim else {
        return Standing::Free;
    };
    let same_machine = claim.claimant.machine == me.machine;
    if same_machine && claim.claimant.process == me.process {
        return Standing::Ours;
    }
    // On the same machine one knows, and need not wait.
    if same_machine && !lives(&claim.claimant.process) {
        return Standing::Ended(claim.clone());
    }
    let age = claim.age(now);
    if age >= STALE {
        Standing::Stale(claim.clone(), age)
    } else {
        Standing::Held(claim.clone(), age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claimant(by: &str, process: &str, machine: &str) -> Claimant {
        Claimant {
            by: by.to_owned(),
            process: process.to_owned(),
            machine: machine.to_owned(),
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).expect("a time")
    }

    fn check(claim: Option<&Claim>, now: i64, lives: bool) -> Standing {
        judge(claim, &claimant("ann@laptop", "7.1", "aa"), at(now), |_| {
            lives
        })
    }

    #[test]
    fn a_claim_is_judged_by_its_process_or_its_newest_sign() {
        let here = Claim::new(&claimant("ann@laptop", "9.1", "aa"), at(0));
        let away = Claim::new(&claimant("bob@desk", "9.1", "bb"), at(0));
        assert_eq!(check(None, 0, false), Standing::Free);
        assert_eq!(check(Some(&here), 1, false), Standing::Ended(here.clone()));
        assert_eq!(
            check(Some(&here), 1, true),
            Standing::Held(here.clone(), Duration::from_secs(1))
        );
        let long = Duration::from_secs(299);
        assert_eq!(
            check(Some(&away), 299, false),
            Standing::Held(away.clone(), long)
        );
        assert_eq!(
            check(Some(&away), 300, false),
            Standing::Stale(away.clone(), STALE)
        );
        assert_eq!(
            check(Some(&away), -50, false),
            Standing::Held(away.clone(), Duration::ZERO)
        );
        let ours = Claim::new(&claimant("ann@laptop", "7.1", "aa"), at(0));
        assert_eq!(check(Some(&ours), 9_999, false), Standing::Ours);
        // A process that hangs is not alive just because its number is: its signs are missing.
        assert_eq!(
            check(Some(&here), 300, true),
            Standing::Stale(here.clone(), STALE)
        );
    }

    #[test]
    fn a_claim_is_a_line() {
        let claim = Claim::new(&claimant("ann and\nbob@laptop", "9.1", ""), at(0));
        let line = claim.render();
        assert_eq!(
            line,
            "ann-and-bob@laptop 9.1 - 2027-01-15T08:00:00Z 2027-01-15T08:00:00Z"
        );
        let parsed = Claim::parse(&line).expect("a claim");
        assert_eq!(parsed.render(), line);
        assert_eq!(
            parsed.describe(at(75)),
            "ann-and-bob@laptop (process 9) since 2027-01-15 08:00:00 UTC, last sign 1m 15s ago"
        );
        assert_eq!(Claim::parse("ann 9 x yesterday today"), None);
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in ".{0,200}") {
            let _ = Claim::parse(&line);
        }
    }
}
