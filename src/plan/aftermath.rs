//! How a guest was left when a move stops: a pure function of the rung, in words for the operator.
//!
//! Read next: `moves/mod.rs`, which asks it after every failure.

use super::GuestPlan;
use super::mark::{CLONING, CREATING, MIGRATED};
use super::state::Rung;

/// How a guest was left, as far as its users are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceLeft {
    /// The source is as it was before the move.
    AsItWas,
    /// The source is stopped and the target does not run.
    Down,
    /// The target has taken over; at most tidying is left.
    TakenOver,
    /// Nobody can say without looking.
    Unclear,
}

impl SourceLeft {
    /// Says whether the guest may be down: what nobody can tell counts as that.
    pub fn may_be_down(self) -> bool {
        matches!(self, SourceLeft::Down | SourceLeft::Unclear)
    }
}

/// Says how the guest is left when nothing more happens on this rung. `was_running` is its state before the move.
pub fn source_left(rung: &Rung, was_running: bool) -> SourceLeft {
    match rung {
        Rung::Untouched | Rung::Placed | Rung::Precopied => SourceLeft::AsItWas,
        Rung::Stopped if !was_running => SourceLeft::AsItWas,
        Rung::Stopped
        | Rung::Marked
        | Rung::Synced
        | Rung::Attached
        | Rung::TargetNamed
        | Rung::SwitchedOver => SourceLeft::Down,
        Rung::Started | Rung::Done => SourceLeft::TakenOver,
        Rung::Unsettled(_) | Rung::Contradiction(_) => SourceLeft::Unclear,
    }
}

/// What to tell the operator when a move stopped on a rung.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aftermath {
    /// How things are.
    pub state: String,
    /// What to type next.
    pub next: String,
}

/// Describes where a move stopped and how to go on.
pub fn describe(rung: &Rung, plan: &GuestPlan, was_running: bool) -> Aftermath {
    let (name, source, target) = (&plan.name, &plan.source_cluster, &plan.target_cluster);
    let up = if was_running { "RUNNING" } else { "stopped" };
    let again = |what: &str| format!("run the same command again to {what}");
    let or_back = |next: String| {
        format!("{next}, or `proxmove abort {source} {target} {name}` to give the move up")
    };
    let (state, next) = match rung {
        Rung::Untouched => (
            format!("{name} is {up} on {source} as before; nothing was changed"),
            again("start over"),
        ),
        Rung::Placed => (
            format!(
                "{name} is {up} on {source} as before; {name}{CREATING} on {target} holds what was copied"
            ),
            or_back(again("continue copying")),
        ),
        Rung::Precopied => (
            format!(
                "{name} is {up} on {source} as before; {name}{CREATING} on {target} holds a pre-copy"
            ),
            or_back(again("continue with what changed since")),
        ),
        Rung::Stopped => (
            format!("{name} is STOPPED on {source} under its own name; no data is lost"),
            or_back(again("resume at the final delta")),
        ),
        Rung::Marked => (
            format!("{name} is STOPPED on {source} as {name}{CLONING}; no data is lost"),
            or_back(again("resume at the final delta")),
        ),
        Rung::Synced | Rung::Attached | Rung::TargetNamed => (
            format!(
                "{name} is STOPPED on {source} as {name}{CLONING}; its data is complete and verified on {target}"
            ),
            or_back(again("finish the switch-over")),
        ),
        Rung::SwitchedOver => (
            format!(
                "{name} is complete but STOPPED on {target}; the source is retired as {name}{MIGRATED}"
            ),
            format!(
                "{}, start {name} on {target} by hand, or go back: `proxmove abort {source} {target} {name}`",
                again("start it there")
            ),
        ),
        Rung::Started => (
            format!(
                "{name} has moved to {target}; only notes and temporary files of the move are left"
            ),
            again("tidy up"),
        ),
        Rung::Done => (
            format!("{name} has moved to {target}"),
            "nothing".to_owned(),
        ),
        Rung::Unsettled(facts) => (
            format!("{name} is about to change: {facts}; no data is lost"),
            or_back(again("wait for that and go on")),
        ),
        Rung::Contradiction(facts) => (
            format!("unclear, nothing was touched: {facts}"),
            format!(
                "look at {name} on {source} ({}) and {target} ({}), stop the one that is not wanted, and run the same command again",
                plan.source.vmid, plan.target.vmid
            ),
        ),
    };
    Aftermath { state, next }
}
