//! Going through the nodes of a cluster one by one: evacuate, maintain, wait for health, restore, next.
//!
//! Each part is what the single commands do. It stops at the first node that is not as it must be, and says which are
//! left. Read next: `run.rs`, `restore.rs`.

use std::time::Duration;

use super::{EvacuationError, Evacuator};
use crate::host::command::Command;
use crate::pve::id::NodeName;

impl Evacuator {
    /// Runs a maintenance command on a node, through its shell. A connection that breaks is what a reboot looks like.
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
        let command = Command::new("sh").args(["-c", line]);
        match self.on_node(&member, &command, patience).await {
            Ok(()) => Ok(()),
            Err(reason) if reason.contains("lost while running") => {
                self.notice(Some(node.as_str()), "the connection ended, as by a reboot");
                Ok(())
            }
            Err(reason) => Err(failed(reason)),
        }
    }
}
