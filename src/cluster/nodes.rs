//! Nodes and high availability: what the methods of the trait about them ask.
//!
//! Reads, but for the notes of a node. Never switches maintenance on or off, for which the API has no way. Read next:
//! `migrate.rs`.

use serde_json::Value;

use super::ApiError;
use super::http::HttpApi;
use super::task::{self, Upid};
use super::wire::{ha, node as nodes};
use crate::pve::ha::{HaResource, HaRule};
use crate::pve::id::NodeName;
use crate::pve::inventory::Release;
use crate::pve::node::NodeConfig;

/// The first release with rules; groups came before.
const RULES: Release = Release { major: 9, minor: 0 };

impl HttpApi {
    pub(super) async fn read_node_config(&self, node: &NodeName) -> Result<NodeConfig, ApiError> {
        let path = format!("/nodes/{node}/config");
        self.fetch(&path, &[], nodes::config).await
    }

    pub(super) async fn write_node_notes(
        &self,
        node: &NodeName,
        description: &str,
        digest: Option<&str>,
    ) -> Result<(), ApiError> {
        let path = format!("/nodes/{node}/config");
        // An empty value is taken for one that was not sent.
        let mut parameters = match description.is_empty() {
            true => vec![("delete", "description")],
            false => vec![("description", description)],
        };
        // A node without settings has no digest, and one that was sent would be compared with nothing.
        if let Some(digest) = digest {
            parameters.push(("digest", digest));
        }
        match self.put(&path, &parameters).await {
            Ok(_) => Ok(()),
            // Whether it was done shows in the notes; a late first request makes the digest of a repeat wrong.
            Err(
                error @ ApiError::Unreachable {
                    maybe_done: true, ..
                },
            ) => {
                tokio::time::sleep(self.pace.poll).await;
                match self.read_node_config(node).await {
                    Ok(config) if config.description.trim_end() == description.trim_end() => Ok(()),
                    Ok(_) | Err(_) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn read_ha_status(&self) -> Result<Vec<HaResource>, ApiError> {
        self.fetch("/cluster/ha/status/current", &[], ha::services)
            .await
    }

    pub(super) async fn read_ha_rules(&self) -> Result<Vec<HaRule>, ApiError> {
        let mut rules = match self.remembered_release().await? >= RULES {
            true => self.fetch("/cluster/ha/rules", &[], ha::rules).await?,
            false => Vec::new(),
        };
        // A cluster of nodes of both releases still has groups; once all are upgraded, asking for them is an error.
        let groups = match self.get("/cluster/ha/groups", &[]).await {
            Ok(groups) => groups,
            Err(ApiError::Refused {
                status: 500,
                reason,
                ..
            }) if reason.contains("migrated to rules") => Value::Null,
            Err(error) => return Err(error),
        };
        if groups.as_array().is_some_and(|groups| !groups.is_empty()) {
            let resources = self.read_ha_status().await?;
            let groups = ha::groups(&groups, &resources)
                .map_err(|odd| self.odd("GET /cluster/ha/groups", odd))?;
            rules.extend(groups);
        }
        Ok(rules)
    }

    pub(super) async fn read_running_tasks(&self) -> Result<Vec<Upid>, ApiError> {
        self.fetch("/cluster/tasks", &[], task::running).await
    }
}
