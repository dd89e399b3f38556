//! Planning a guest anew that colleagues have changed since it was planned.
//!
//! The move stays where it is: the new plan goes on with the placeholder there is, as a later run would. Read next:
//! `meanwhile.rs`, which notices; `plan/source.rs`.

use super::batch::{Batch, Decided, End, refusal};
use super::failure::failure;
use super::{GuestMove, Stopped};
use crate::error::{ExitCode, Failure};
use crate::plan::MoveRequest;
use crate::plan::aftermath::describe;
use crate::report::Event;

impl Batch<'_> {
    /// Plans a guest again that is not any more what it was when it was planned, wherever its move is by now.
    pub(super) async fn plan_anew(
        &self,
        job: &GuestMove,
        stopped: &Stopped,
        request: &MoveRequest,
    ) -> Result<GuestMove, End> {
        let name = &job.plan.name;
        self.mover.reporter.tell(&Event::Warning {
            guest: Some(name.clone()),
            text: format!("{}; it is planned anew", stopped.error),
        });
        let only = MoveRequest {
            guests: vec![name.clone()],
            ..request.clone()
        };
        let here = describe(&stopped.rung, &job.plan, job.mark.running);
        let why = match self.decide(&only).await {
            // Without its first line, which says that nothing was changed.
            Ok(decided) if decided.decision.refused() => {
                refusal(&decided.decision).error.split_off(1)
            }
            Ok(decided) => {
                let Decided {
                    decision,
                    existing,
                    node_files,
                } = decided;
                let Some(plan) = decision.plans.into_iter().next() else {
                    let text = format!("there is no plan for {name} any more");
                    return Err(self.tell_failed(name, Failure::message(ExitCode::Bug, text)));
                };
                let login = node_files.get(&plan.target.node);
                let login = login.and_then(|login| login.as_ref().ok());
                let began = existing.get(name);
                return self.job(plan, began, login, &only).await;
            }
            Err(failure) => failure.error,
        };
        // The move stands where it stopped, so it is that which is told, and why it does not go on.
        let mut told = failure(stopped, &job.plan, job.mark.running);
        told.error.extend(why);
        let next = format!("mend that, then {}", here.next);
        Err(self.tell_failed(name, told.next(next)))
    }
}
