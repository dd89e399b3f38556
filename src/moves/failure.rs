//! What the operator reads when a move stopped: why, how things are, and what to type next.
//!
//! Says only what was seen. Read next: `plan/aftermath.rs`, the words for each rung.

use super::{MoveError, Stopped};
use crate::error::{ExitCode, Failure};
use crate::plan::GuestPlan;
use crate::plan::aftermath::{SourceLeft, describe, source_left};
use crate::plan::mark::{CREATING, MIGRATED};
use crate::plan::state::Rung;

/// Turns a move that stopped into what the operator reads.
pub(super) fn failure(stopped: &Stopped, plan: &GuestPlan, was_running: bool) -> Failure {
    let exit = match source_left(&stopped.rung, was_running) {
        // Somebody else's move is theirs, also when the guest is down for it.
        _ if matches!(stopped.error, MoveError::Held { .. }) => ExitCode::Refused,
        // It runs, and is of no use: somebody has to get up.
        _ if matches!(stopped.error, MoveError::NotUp { .. }) => ExitCode::SourceDown,
        SourceLeft::Down | SourceLeft::Unclear => ExitCode::SourceDown,
        SourceLeft::AsItWas | SourceLeft::TakenOver => match stopped.error {
            MoveError::Interrupted { .. } | MoveError::Declined { .. } => ExitCode::Interrupted,
            _ => ExitCode::Failed,
        },
    };
    let aftermath = describe(&stopped.rung, plan, was_running);
    let mut failure = Failure::new(exit, &stopped.error);
    failure.error[0] = format!(
        "{}: {} ({}/{} -> {}/{})",
        failure.error[0],
        plan.name,
        plan.source_cluster,
        plan.source.vmid,
        plan.target_cluster,
        plan.target.vmid
    );
    let (name, source, target) = (&plan.name, &plan.source_cluster, &plan.target_cluster);
    let next = match &stopped.error {
        MoveError::Held { .. } => format!(
            "wait for it (proxmove status {target} shows its signs), or run the same command with --take-over if nobody works \
             on it any more"
        ),
        MoveError::TakenOver { .. } if stopped.rung == Rung::Done => {
            "nothing: whoever took it over has finished it".to_owned()
        }
        MoveError::TakenOver { .. } if stopped.rung == Rung::Untouched => {
            "ask whoever has given it up, or run the same command again to start over".to_owned()
        }
        MoveError::TakenOver { .. } => {
            format!("leave it to them; proxmove status {target} shows how far it is")
        }
        MoveError::NoWayBack { remedy, .. } => remedy.clone(),
        // Nothing of a former self is ever removed, so there is nothing to give up either.
        MoveError::Returned { .. } if plan.back.is_some() => format!(
            "find out why, correct {name} or {name}{CREATING} ({}), and run `proxmove back {source} {name}` again, which carries \
             only what differs; until then {name}{CREATING} stays with its volumes",
            plan.target.vmid
        ),
        MoveError::Returned { .. } => format!(
            "find out why, correct {name} or {name}{CREATING} ({}), and run the same command again, which carries only what \
             differs; or `proxmove abort {source} {target} {name}` to remove what was copied",
            plan.target.vmid
        ),
        _ if stopped.returning => format!(
            "run the same command again, or `proxmove abort {source} {target} {name}`: either goes on with the return"
        ),
        MoveError::NotUp { .. } => format!(
            "look at {name} on {target} ({} on {}); then `proxmove resume {source} {target} {name}` watches it again \
             (with --boot-check 0s it finishes the move as it is), or `proxmove abort --discard-target {source} {target} \
             {name}` goes back to the source and gives up what was written on {target}",
            plan.target.vmid, plan.target.node
        ),
        MoveError::NoSpace { .. } => format!("make room there, then {}", aftermath.next),
        _ => aftermath.next,
    };
    let state = match (&stopped.error, &stopped.rung) {
        (MoveError::NotUp { .. }, Rung::Started) => format!(
            "{name} runs on {target} and has not come up; the source is retired as {name}{MIGRATED}, and the move is not \
             finished"
        ),
        _ if stopped.returning => format!("{}; it is being returned to {source}", aftermath.state),
        _ => aftermath.state,
    };
    failure.state(state).next(next)
}
