//! Status: every move that is not finished, as both clusters show it without the storage hosts being asked.
//!
//! Pure. What only the hosts know, whether data are equal, is not claimed: such a rung is the highest it can be, and
//! says so. Read next: `moves/status.rs`, which asks the clusters.

use serde::Serialize;

use super::abort::{Back, Before, Placeholder, back};
use super::aftermath::{SourceLeft, source_left};
use super::state::{Data, Facts, Rung, derive};

/// One volume of a move on the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VolumeStatus {
    /// The drive.
    pub drive: String,
    /// The volume on the target.
    pub volume: String,
    /// Whether it is there; `None` when its storage did not say.
    pub there: Option<bool>,
    /// Bytes that its storage has allocated for it.
    pub allocated: Option<u64>,
    /// Bytes of the whole volume.
    pub size: Option<u64>,
}

/// Who works on a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeldBy {
    /// Who, since when, and when the last sign was, in words.
    pub text: String,
    /// Whether there was a sign lately.
    pub alive: bool,
}

/// One move that is not finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MoveStatus {
    /// The guest.
    pub guest: String,
    /// The source cluster by the alias here, if it has one.
    pub source_cluster: Option<String>,
    /// The source cluster as whoever began called it.
    pub source_called: String,
    /// The source guest's number.
    pub source_vmid: u32,
    /// The name the source has now.
    pub source_name: Option<String>,
    /// The target cluster by the alias here.
    pub target_cluster: String,
    /// The target guest's number and node.
    pub target_vmid: u32,
    /// Its node.
    pub target_node: String,
    /// The name the target has now.
    pub target_name: String,
    /// The rung of the ladder; `unknown` when the source cluster cannot be asked.
    pub rung: String,
    /// Whether the rung is certain; otherwise it is the highest that the clusters alone allow.
    pub certain: bool,
    /// How the source was left: `as-it-was`, `down`, `taken-over`, `unclear`.
    pub left: String,
    /// The same in words.
    pub state: String,
    /// The volumes.
    pub volumes: Vec<VolumeStatus>,
    /// Who began.
    pub by: String,
    /// When.
    pub since: String,
    /// Who works on it now.
    pub held: Option<HeldBy>,
    /// The command that goes on; none when there is nothing to go on with.
    pub resume: Option<String>,
    /// The command that goes back; none when there is no way back by it.
    pub abort: Option<String>,
}

/// All that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The moves.
    pub moves: Vec<MoveStatus>,
    /// Guests that look like part of a move, but whose notes do not say which.
    pub odd: Vec<String>,
    /// What could not be asked, and why.
    pub unanswered: Vec<String>,
}

/// Returns the rung that the clusters alone allow, and whether it is certain.
pub fn rung(facts: &Facts) -> (Rung, bool) {
    // Volumes that are not there are missing for certain.
    if facts.data.contains(&Data::Missing) {
        return (derive(facts), true);
    }
    if facts.data.is_empty() {
        return (derive(facts), true);
    }
    let most = derive(&facts.at_most());
    let least = derive(&Facts {
        data: vec![Data::Partial],
        ..facts.clone()
    });
    let certain = most == least;
    (most, certain)
}

/// Says how a guest was left, and in words.
pub fn left(
    rung: &Rung,
    name: &str,
    running: bool,
    source: &str,
    target: &str,
) -> (&'static str, String) {
    match source_left(rung, running) {
        SourceLeft::AsItWas => (
            "as-it-was",
            format!(
                "{name} is {} on {source} as before the move",
                if running { "RUNNING" } else { "stopped" }
            ),
        ),
        SourceLeft::Down => (
            "down",
            format!("{name} is DOWN: it runs neither on {source} nor on {target}"),
        ),
        SourceLeft::TakenOver => (
            "taken-over",
            format!("{name} has moved to {target}; notes and temporary files of the move are left"),
        ),
        SourceLeft::Unclear => match rung {
            Rung::Contradiction(seen) | Rung::Unsettled(seen) => {
                ("unclear", format!("unclear: {seen}"))
            }
            _ => ("unclear", "unclear".to_owned()),
        },
    }
}

/// Says whether `proxmove abort` would do anything, as far as the clusters alone show it.
pub fn can_abort(facts: &Facts) -> bool {
    let before = Before {
        start: true,
        discarded: false,
        placeholder: Placeholder::Removed,
    };
    matches!(back(&facts.at_most(), before), Back::Step(_))
}

/// Returns the status for people.
pub fn text(status: &Status) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    for found in &status.moves {
        let source = found
            .source_cluster
            .as_deref()
            .unwrap_or(&found.source_called);
        line(format!(
            "{}: {source}/{} -> {}/{} on {}",
            found.guest,
            found.source_vmid,
            found.target_cluster,
            found.target_vmid,
            found.target_node
        ));
        if found.source_cluster.is_none() {
            line(format!(
                "  source    the cluster that {} called {} is not known here, or its guest was not found",
                found.by, found.source_called
            ));
        }
        let bound = if found.certain {
            ""
        } else {
            " at most (resume looks at the data)"
        };
        line(format!("  rung      {}{bound}", found.rung));
        line(format!("  state     {}", found.state));
        for volume in &found.volumes {
            let bytes = |bytes: u64| crate::units::Bytes(bytes).to_string();
            line(format!(
                "  volume    {} {} {}",
                volume.drive,
                volume.volume,
                match (volume.there, volume.allocated, volume.size) {
                    (Some(true), Some(allocated), Some(size)) =>
                        format!("{} of {} in place", bytes(allocated), bytes(size)),
                    (Some(true), _, _) => "there, its storage does not tell how much".to_owned(),
                    (Some(false), _, _) => "not there yet".to_owned(),
                    (None, _, _) => "its storage did not answer".to_owned(),
                }
            ));
        }
        line(format!("  begun     by {} on {}", found.by, found.since));
        if let Some(held) = &found.held {
            let word = if held.alive { "held" } else { "was held" };
            line(format!("  {word:<9} by {}", held.text));
        }
        if let Some(resume) = &found.resume {
            line(format!("  next      {resume}"));
        }
        if let Some(abort) = &found.abort {
            line(format!("  or back   {abort}"));
        }
    }
    for odd in &status.odd {
        line(format!("odd: {odd}"));
    }
    for unanswered in &status.unanswered {
        line(format!("not asked: {unanswered}"));
    }
    if status.moves.is_empty() && status.odd.is_empty() {
        line(if status.unanswered.is_empty() {
            "no move is in progress".to_owned()
        } else {
            "no move was found".to_owned()
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::mark::NameMark;
    use crate::plan::state::Seen;
    use crate::pve::guest::Power;

    fn check(source: NameMark, target: NameMark, data: Data, attached: bool) -> (String, bool) {
        let seen = |name| Seen {
            name,
            power: Power::Stopped,
            changing: false,
        };
        let (rung, certain) = rung(&Facts {
            source: Some(seen(source)),
            target: Some(seen(target)),
            data: vec![data],
            attached,
            finishing: false,
        });
        (rung.to_string(), certain)
    }

    #[test]
    fn equal_data_are_never_claimed() {
        use NameMark::{Cloning, Creating, Migrated, Plain};
        let expect = |rung: &str, certain| (rung.to_owned(), certain);
        assert_eq!(
            check(Plain, Creating, Data::Partial, false),
            expect("stopped", true)
        );
        assert_eq!(
            check(Cloning, Creating, Data::Missing, false),
            expect("marked", true)
        );
        assert_eq!(
            check(Cloning, Creating, Data::Partial, false),
            expect("synced", false)
        );
        assert_eq!(
            check(Cloning, Plain, Data::Partial, true),
            expect("target-named", false)
        );
        assert_eq!(
            check(Migrated, Plain, Data::Partial, true),
            expect("switched-over", false)
        );
    }
}
