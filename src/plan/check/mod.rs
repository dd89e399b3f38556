//! Judging: small pure functions from facts to verdicts.
//!
//! Pure. Every function judges one thing and answers with a [`Verdict`]: a stable code, what was found, and the command
//! or flag that would turn it. All verdicts are kept; none hides another. It never translates (`translate` does) and
//! never chooses (`decide` does). Read next: `request.rs`, `state.rs`, `devices.rs`, `volumes.rs`, `hosts.rs`.

pub mod devices;
pub mod former;
pub mod hosts;
pub mod network;
pub mod request;
pub mod rights;
pub mod space;
pub mod state;
pub mod volumes;
pub mod zfs;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::plan::{Severity, Verdict};

impl Verdict {
    /// Returns a refusal for one guest.
    pub fn refuse(
        guest: &str,
        code: &'static str,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Verdict {
        Verdict {
            guest: Some(guest.to_owned()),
            severity: Severity::Refuse,
            code,
            reason: reason.into(),
            remedy: remedy.into(),
        }
    }

    /// Returns a warning for one guest.
    pub fn warn(
        guest: &str,
        code: &'static str,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Verdict {
        Verdict {
            severity: Severity::Warn,
            ..Verdict::refuse(guest, code, reason, remedy)
        }
    }

    /// Returns the same verdict about the whole request.
    #[must_use]
    pub fn of_request(mut self) -> Verdict {
        self.guest = None;
        self
    }
}

/// One reason with everybody it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group<'a> {
    /// How bad it is.
    pub severity: Severity,
    /// Its code.
    pub code: &'static str,
    /// What was found.
    pub reason: &'a str,
    /// What would turn it.
    pub remedy: &'a str,
    /// The guests; empty when it is about the whole request.
    pub guests: Vec<&'a str>,
}

/// Groups verdicts by what they say: refusals first, then in the order they were given.
pub fn grouped<'a>(verdicts: impl IntoIterator<Item = &'a Verdict>) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut places: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    for verdict in verdicts {
        let key = (
            verdict.code,
            verdict.reason.as_str(),
            verdict.remedy.as_str(),
        );
        let place = *places.entry(key).or_insert_with(|| {
            groups.push(Group {
                severity: verdict.severity,
                code: verdict.code,
                reason: &verdict.reason,
                remedy: &verdict.remedy,
                guests: Vec::new(),
            });
            groups.len() - 1
        });
        if let (Some(group), Some(guest)) = (groups.get_mut(place), verdict.guest.as_deref())
            && !group.guests.contains(&guest)
        {
            group.guests.push(guest);
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.severity));
    groups
}

/// Returns ` (did you mean 'x'?)` for the most similar candidate, or nothing.
pub(crate) fn did_you_mean<'a>(
    text: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> String {
    // Below this similarity a suggestion is more often confusing than helpful.
    const SIMILAR: f64 = 0.8;
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(text, candidate), candidate))
        .filter(|(score, _)| *score >= SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(_, candidate)| {
            format!(" (did you mean '{candidate}'?)")
        })
}
