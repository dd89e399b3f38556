//! Closing and opening a node: its notes, where colleagues and every proxmove see them.
//!
//! Only our own lines are touched, and a change that somebody else made meanwhile is never overwritten. Every method may
//! be repeated. Read next: `plan/evacuate/note.rs`.

use super::{EvacuationError, Evacuator, now};
use crate::cluster::ApiError;
use crate::plan::evacuate::decide::is_managed;
use crate::plan::evacuate::facts::{GuestFacts, Inventory};
use crate::plan::evacuate::note::{Closed, Stage};
use crate::pve::id::NodeName;
use crate::units::Bytes;

/// How often a change is tried again when somebody else was faster.
const TRIES: usize = 5;

impl Evacuator {
    /// Reads the note of a node.
    pub async fn closed(&self, node: &NodeName) -> Result<Option<Closed>, EvacuationError> {
        let config = self
            .api
            .node_config(node)
            .await
            .map_err(EvacuationError::api(&format!("read the notes of {node}")))?;
        Ok(Closed::parse(&config.description))
    }

    /// Closes a node by itself; with `ha` its guests of HA are moved away by maintenance mode.
    pub async fn cordon(
        &self,
        node: &NodeName,
        inventory: &Inventory,
        ha: bool,
    ) -> Result<(), EvacuationError> {
        let here = || {
            inventory
                .guests
                .iter()
                .filter(|guest| guest.place.node == *node)
        };
        let facts = inventory.nodes.get(node);
        let on_already = facts.is_some_and(|facts| facts.maintenance);
        let maintenance = ha && here().any(is_managed) && !on_already;
        let memory = facts.map_or(Bytes::ZERO, |facts| facts.memory);
        let assigned = here().map(GuestFacts::memory_now).sum();
        self.close(node, Stage::Cordoned, maintenance, memory, assigned)
            .await?;
        if maintenance {
            self.maintenance(node, true).await?;
        }
        Ok(())
    }

    /// Opens a node by itself; with `ha` it ends the maintenance that proxmove began.
    pub async fn uncordon(&self, node: &NodeName, ha: bool) -> Result<(), EvacuationError> {
        let ours = self
            .closed(node)
            .await?
            .is_some_and(|closed| closed.maintenance);
        if ours && ha {
            self.maintenance(node, false).await?;
        }
        self.open(node).await
    }

    /// Marks a node as closed. What an earlier note remembers of it stays; only the stage rises or falls.
    pub async fn close(
        &self,
        node: &NodeName,
        stage: Stage,
        maintenance: bool,
        memory: Bytes,
        assigned: Bytes,
    ) -> Result<(), EvacuationError> {
        let fresh = Closed {
            stage,
            maintenance,
            memory,
            assigned,
            by: self.identity.clone(),
            since: now(),
        };
        self.edit_note(node, |description| {
            let closed = match Closed::parse(description) {
                // How full it was is true only of the time before the first guest left.
                Some(known) if known.stage != Stage::Cordoned => Closed {
                    stage,
                    maintenance: known.maintenance || maintenance,
                    ..known
                },
                Some(known) => Closed {
                    maintenance: known.maintenance || maintenance,
                    by: known.by,
                    since: known.since,
                    ..fresh.clone()
                },
                None => fresh.clone(),
            };
            closed
                .put(description)
                .ok_or_else(|| "they are too long to hold another one".to_owned())
        })
        .await
    }

    /// Changes the stage of a closed node; one that is not closed stays so.
    pub async fn set_stage(&self, node: &NodeName, stage: Stage) -> Result<(), EvacuationError> {
        self.edit_note(node, |description| match Closed::parse(description) {
            Some(known) => Closed { stage, ..known }
                .put(description)
                .ok_or_else(|| "they are too long".to_owned()),
            None => Ok(description.to_owned()),
        })
        .await
    }

    /// Removes the note, so that the node takes guests again.
    pub async fn open(&self, node: &NodeName) -> Result<(), EvacuationError> {
        self.edit_note(node, |description| Ok(Closed::remove(description)))
            .await
    }

    async fn edit_note(
        &self,
        node: &NodeName,
        edit: impl Fn(&str) -> Result<String, String>,
    ) -> Result<(), EvacuationError> {
        let what = format!("change the notes of {node}");
        for _ in 0..TRIES {
            let config = self
                .api
                .node_config(node)
                .await
                .map_err(EvacuationError::api(&what))?;
            let text = edit(&config.description).map_err(|reason| EvacuationError::Notes {
                node: node.clone(),
                reason,
            })?;
            if text.trim_end() == config.description.trim_end() {
                return Ok(());
            }
            match self
                .api
                .describe_node(node, &text, config.digest.as_deref())
                .await
            {
                Ok(()) => return Ok(()),
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(EvacuationError::api(&what)(error)),
            }
        }
        Err(EvacuationError::Notes {
            node: node.clone(),
            reason: "somebody else changes them all the time".to_owned(),
        })
    }
}

/// Says whether a change was refused because of another one.
pub(super) fn is_conflict(error: &ApiError) -> bool {
    let reason = error.reason();
    reason.contains("modified configuration") || reason.contains("checksum mis")
}
