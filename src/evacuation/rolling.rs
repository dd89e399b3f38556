//! Going through the nodes of a cluster one by one: evacuate, maintain, wait for health, restore, next.
//!
//! Each part is what the single commands do. It stops at the first node that is not as it must be, and says which are
//! left. Read next: `run.rs`, `restore.rs`.

use std::time::{Duration, Instant};

use super::ha::Waiting;
use super::{EvacuationError, Evacuator};
use crate::host::command::Command;
use crate::pve::id::NodeName;

/// How much later than it is a node may say it booted.
const TOLERANCE: Duration = Duration::from_secs(2);

impl Evacuator {
    /// Runs a maintenance command on a node. One that reboots it is waited for until the node has really booted: for a
    /// while after the command a node that is going to reboot looks as healthy as ever.
    pub async fn maintain(
        &self,
        node: &NodeName,
        line: &str,
        patience: Duration,
    ) -> Result<(), EvacuationError> {
        let failed = |reason: String| EvacuationError::Command {
            node: node.clone(),
            reason,
        };
        let nodes = self
            .api
            .nodes()
            .await
            .map_err(EvacuationError::api("list the nodes"))?;
        let member = nodes
            .into_iter()
            .find(|member| member.name == *node)
            .ok_or_else(|| failed("it is not a member of the cluster any more".to_owned()))?;
        self.step(node.as_str(), "maintain", format!("running '{line}'"));
        let began = Instant::now();
        let command = Command::new("sh").args(["-c", line]);
        let reboots = match self.on_node(&member, &command, patience).await {
            Ok(()) => line.contains("reboot") || line.contains("shutdown"),
            Err(reason) if reason.contains("lost while running") => true,
            Err(reason) => return Err(failed(reason)),
        };
        if reboots {
            self.await_boot(node, began).await?;
        }
        Ok(())
    }

    /// Waits until a node has booted since a moment.
    async fn await_boot(&self, node: &NodeName, since: Instant) -> Result<(), EvacuationError> {
        self.notice(Some(node.as_str()), "waiting until it has booted");
        let mut waiting = Waiting::new(self.pace.patience);
        loop {
            let sign = match self.api.node_status(node).await {
                Ok(status) if status.uptime <= since.elapsed() + TOLERANCE => return Ok(()),
                Ok(_) => "up",
                Err(_) => "down",
            };
            self.pause(&mut waiting, &format!("the boot of {node}"), sign)
                .await?;
        }
    }
}
