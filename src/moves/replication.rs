//! Replication of the source: a run that is under way is waited for before anything that would come in its way.
//!
//! A run freezes the guest, takes its own snapshot and sends it; a stop or a snapshot of ours in between would make it fail,
//! and its other node would have no copy until the next one. The jobs themselves stay as they are. Read next: `precopy.rs`.

use std::time::{Duration, Instant};

use super::{GuestMove, MoveError, Mover};
use crate::report::Event;

/// How long a run is waited for while the source is up: the first one of a large guest takes long.
const PATIENCE: Duration = Duration::from_secs(60 * 60);
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);

impl Mover {
    /// Waits until no replication of the source is copying; returns how long that took. The guest runs meanwhile.
    pub(super) async fn await_replication(&self, job: &GuestMove) -> Result<Duration, MoveError> {
        let plan = &job.plan;
        if plan.replication.is_empty() {
            return Ok(Duration::ZERO);
        }
        const STEP: &str = "waiting for replication";
        let began = Instant::now();
        let mut told = false;
        loop {
            let running = self.source.replicating(&plan.source).await;
            let running = running.map_err(job.api(STEP))?;
            if running.is_empty() {
                return Ok(began.elapsed());
            }
            let jobs = running.join(", ");
            if began.elapsed() >= PATIENCE {
                let guest = plan.name.clone();
                return Err(MoveError::Replicating { guest, jobs });
            }
            if !std::mem::replace(&mut told, true) {
                self.reporter.tell(&Event::Notice {
                    guest: Some(plan.name.clone()),
                    text: format!("waiting until its replication {jobs} has ended"),
                });
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = self.interrupt.asked() => return Err(job.interrupted(STEP)),
                error = job.lost() => return Err(error),
            }
        }
    }
}
