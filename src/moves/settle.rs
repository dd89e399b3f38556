//! Waiting for tasks that are starting or stopping one of the two guests: they outlive whoever began them.
//!
//! Never stops a task, and decides nothing: how it ended is seen by looking again. Read next: `plan/state.rs`.

use super::{GuestMove, MoveError, Mover};
use crate::cluster::ApiError;

impl Mover {
    /// Waits until no task is starting or stopping the source or the target, as long as there is progress.
    pub(super) async fn await_tasks(
        &self,
        job: &GuestMove,
        step: impl ToString,
    ) -> Result<(), MoveError> {
        let (plan, step) = (&job.plan, step.to_string());
        for (api, place) in [(&self.source, &plan.source), (&self.target, &plan.target)] {
            while let Some(upid) = api.power_task(place).await.map_err(job.api(&step))? {
                let ended = tokio::select! {
                    ended = api.follow(&upid, &|_| {}) => ended,
                    () = self.interrupt.asked() => {
                        return Err(job.interrupted(step));
                    }
                };
                match ended {
                    // One that failed is over as well.
                    Ok(()) | Err(ApiError::Task { .. }) => {}
                    Err(error) => return Err(job.api(&step)(error)),
                }
            }
        }
        Ok(())
    }
}
