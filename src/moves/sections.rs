//! The guest's own snapshots: entering them on the target.
//!
//! Their data travels with the volumes; here it is about their sections in the configuration. Read next:
//! `plan/snapshots.rs`, `host/node_file.rs`.

use std::time::Duration;

use super::{GuestMove, MoveError, Mover};
use crate::plan::step::Step;
use crate::report::Event;

/// How often the target is asked until it shows what was entered, a second apart: the answering node may be another one.
const LOOKS: u32 = 15;

impl Mover {
    /// Enters the travelling snapshots into the target's configuration, should they not be there.
    pub(super) async fn enter_snapshots(&self, job: &GuestMove) -> Result<(), MoveError> {
        let (plan, guest) = (&job.plan, || job.plan.name.clone());
        let look = || async {
            let target = self.target.guest(&plan.target).await;
            target.map_err(job.api("observing the target"))
        };
        let target = look().await?;
        let Some(file) = job.file.as_ref() else {
            return Ok(());
        };
        if plan.snapshots.recorded(&target) {
            return Ok(());
        }
        self.same_source(job).await?;
        let sections = plan.snapshots.sections(&target.config);
        let parent = plan.snapshots.parent.as_deref();
        let entered = file.enter(&sections, parent).await;
        entered.map_err(|source| MoveError::NodeFile {
            guest: guest(),
            source,
        })?;
        for _ in 0..LOOKS {
            if plan.snapshots.recorded(&look().await?) {
                return self.compare(job).await;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Err(MoveError::NotShown { guest: guest() })
    }

    /// Tells what Proxmox VE left out of the sections: it reads over what it does not understand.
    async fn compare(&self, job: &GuestMove) -> Result<(), MoveError> {
        let plan = &job.plan;
        for snapshot in &plan.snapshots.travelling {
            let shown = self.target.snapshot(&plan.target, &snapshot.name).await;
            let shown = shown.map_err(job.api(Step::Attach))?;
            let lost = snapshot.keys.iter().filter(|(key, value)| {
                // The API tells no passwords.
                key.as_str() != "cipassword" && shown.value(key) != Some(value.as_str())
            });
            let lost: Vec<&str> = lost.map(|(key, _)| key.as_str()).collect();
            if !lost.is_empty() {
                self.reporter.tell(&Event::Warning {
                    guest: Some(plan.name.clone()),
                    text: format!(
                        "the target shows the snapshot {} with other values for {}",
                        snapshot.name,
                        lost.join(", ")
                    ),
                });
            }
        }
        Ok(())
    }
}
