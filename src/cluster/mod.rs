//! A Proxmox VE cluster: the trait [`Api`] in domain words, and its errors.
//!
//! Observes and acts; never decides. Every method says whether a repeat is harmless. State is read where it is
//! immediate (node lists, status/current, config), never from a listing that lags. Read next: `http.rs` (the only place
//! that knows reqwest), `answer.rs` (an answer to a value or an [`ApiError`]), `wire.rs` (the shapes on the wire),
//! `task.rs`, `observe.rs`, `act.rs`, `nodes.rs` and `migrate.rs` (what the methods of the trait do).

mod act;
pub mod answer;
mod api;
mod change;
mod ha;
pub mod http;
mod login;
mod migrate;
mod nodes;
mod observe;
mod places;
pub mod session;
pub mod task;
pub mod tls;
mod vitals;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;

use crate::pve::guest::{AgentPing, GuestConfig, GuestDetail, GuestRef, GuestSummary, Vitals};
use crate::pve::ha::{HaResource, HaRule, HaSettings, HaSid};
use crate::pve::id::{ClusterAlias, NodeName, PoolId, StorageId, Vmid, Volid};
use crate::pve::inventory::{
    ConfigSchema, Node, Permissions, Release, ReplicationJob, Storage, Volume,
};
use crate::pve::migration::{MigratePreconditions, MigrateRequest, Migrated};
use crate::pve::node::{NodeConfig, NodeResources, NodeStatus, StorageResources};
use task::Upid;

/// Hears each new line of a task's log while it is waited for.
pub type Tell<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// What went wrong between proxmove and a cluster. Display is a lowercase fragment without its source.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The API could not be reached, or the connection broke.
    #[error("cannot reach the API of {cluster} at {address}: {reason}")]
    Unreachable {
        /// The cluster.
        cluster: ClusterAlias,
        /// `host:port`.
        address: String,
        /// Why.
        reason: String,
        /// Whether the request may have been carried out all the same.
        maybe_done: bool,
    },
    /// The server's certificate is not trusted.
    #[error("certificate of {address} is not trusted: {reason}")]
    Certificate {
        /// `host:port`.
        address: String,
        /// Why, with the fingerprint that was seen.
        reason: String,
    },
    /// Login refused.
    #[error("{cluster} refused the login of {user}: {reason}")]
    Login {
        /// The cluster.
        cluster: ClusterAlias,
        /// User or token id, never the secret.
        user: String,
        /// The server's words.
        reason: String,
    },
    /// A right is missing.
    #[error("{cluster} refused '{request}': {reason}")]
    Forbidden {
        /// The cluster.
        cluster: ClusterAlias,
        /// Method and path.
        request: String,
        /// The server's words: privilege and path.
        reason: String,
    },
    /// Parameters were refused.
    #[error("{cluster} refused '{request}': {}", errors.iter().map(|(k, v)| format!("{k}: {v}")).collect::<Vec<_>>().join("; "))]
    Parameters {
        /// The cluster.
        cluster: ClusterAlias,
        /// Method and path.
        request: String,
        /// Parameter to the server's words.
        errors: BTreeMap<String, String>,
    },
    /// Any other refusal of the server.
    #[error("{cluster} answered '{request}' with {status}: {reason}")]
    Refused {
        /// The cluster.
        cluster: ClusterAlias,
        /// Method and path.
        request: String,
        /// HTTP status.
        status: u16,
        /// The server's words.
        reason: String,
    },
    /// The answer was not understood.
    #[error("{cluster} answered '{request}' with something unexpected: {reason}")]
    Unexpected {
        /// The cluster.
        cluster: ClusterAlias,
        /// Method and path.
        request: String,
        /// What was odd.
        reason: String,
    },
    /// A task ended badly.
    #[error("task {kind} of {guest} on {node} failed: {exit_status}")]
    Task {
        /// `qmcreate`, `qmshutdown` ...
        kind: String,
        /// VMID or empty.
        guest: String,
        /// The node it ran on.
        node: String,
        /// Its exit status.
        exit_status: String,
        /// The last lines of its log.
        log: Vec<String>,
    },
    /// A task gave no sign of progress for too long; it may still be running.
    #[error("task {upid} gave no sign of progress for {silence:?}")]
    Stalled {
        /// The task.
        upid: String,
        /// How long.
        silence: Duration,
    },
}

impl ApiError {
    /// Returns the server's own words, for matching known refusals.
    pub fn reason(&self) -> &str {
        match self {
            ApiError::Unreachable { reason, .. }
            | ApiError::Certificate { reason, .. }
            | ApiError::Login { reason, .. }
            | ApiError::Forbidden { reason, .. }
            | ApiError::Refused { reason, .. }
            | ApiError::Unexpected { reason, .. } => reason,
            ApiError::Parameters { errors, .. } => {
                errors.values().next().map_or("", String::as_str)
            }
            ApiError::Task { exit_status, .. } => exit_status,
            ApiError::Stalled { .. } => "",
        }
    }

    /// Says whether the guest that was asked about does not exist: there is no 404 for that, only this text.
    pub fn says_no_such_guest(&self) -> bool {
        matches!(self, ApiError::Refused { status: 500, .. })
            && self.reason().starts_with("Configuration file")
            && self.reason().ends_with("does not exist")
    }
}

/// Changes to a guest's configuration, made in one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigChange {
    /// Keys to set.
    pub set: BTreeMap<String, String>,
    /// Keys to remove.
    pub delete: Vec<String>,
    /// The digest the change is based on; the server refuses when the configuration changed since.
    pub digest: Option<String>,
}

/// A cluster's API in domain words.
#[async_trait]
pub trait Api: Send + Sync {
    /// Returns the alias.
    fn alias(&self) -> &ClusterAlias;

    /// Logs in if necessary and returns the answering node's release.
    async fn release(&self) -> Result<Release, ApiError>;

    /// Returns the server's clock minus this machine's, from the `Date` header of the newest answer.
    async fn clock_skew_seconds(&self) -> Result<i64, ApiError>;

    /// Lists the members. A stand-alone node is a cluster of one.
    async fn nodes(&self) -> Result<Vec<Node>, ApiError>;

    /// Lists all guests in one call. The list lags by up to ten seconds; offline nodes' guests are in it.
    async fn guests(&self) -> Result<Vec<GuestSummary>, ApiError>;

    /// Lists the guests of one online node in one call; immediate. Pools and HA states are not in it.
    async fn guests_on(&self, node: &NodeName) -> Result<Vec<GuestSummary>, ApiError>;

    /// Reads everything about one VM: configuration, pending changes, snapshots, status. Immediate.
    async fn guest(&self, place: &GuestRef) -> Result<GuestDetail, ApiError>;

    /// Reads a VM's configuration as one of its snapshots has it. Immediate.
    async fn snapshot(&self, place: &GuestRef, name: &str) -> Result<GuestConfig, ApiError>;

    /// Lists the storages of a node with their space and settings.
    async fn storages(&self, node: &NodeName) -> Result<Vec<Storage>, ApiError>;

    /// Describes one volume, with its path on the node.
    async fn volume(&self, node: &NodeName, volid: &Volid) -> Result<Volume, ApiError>;

    /// Lists the images on a storage, of one guest or of all.
    async fn volumes(
        &self,
        node: &NodeName,
        storage: &StorageId,
        owner: Option<Vmid>,
    ) -> Result<Vec<Volume>, ApiError>;

    /// Lists the bridges and virtual networks of a node that a guest may be connected to.
    async fn bridges(&self, node: &NodeName) -> Result<Vec<String>, ApiError>;

    /// Lists the machine types of a node's QEMU (`pc-i440fx-9.2+pve1`); empty where the release cannot say.
    async fn machines(&self, node: &NodeName) -> Result<Vec<String>, ApiError>;

    /// Returns the rights of the logged-in user or token.
    async fn permissions(&self) -> Result<Permissions, ApiError>;

    /// Returns the user or token the client is logged in as.
    async fn user(&self) -> Result<String, ApiError>;

    /// Lists the replication jobs of the cluster.
    async fn replication_jobs(&self) -> Result<Vec<ReplicationJob>, ApiError>;

    /// Lists those replication jobs of a guest that are copying just now, by their ids. Immediate.
    async fn replicating(&self, place: &GuestRef) -> Result<Vec<String>, ApiError>;

    /// Lists the pools the user may see.
    async fn pools(&self) -> Result<Vec<PoolId>, ApiError>;

    /// Returns the configuration keys the cluster knows for a VM, from its own published schema; `None` where it is
    /// not served.
    async fn config_schema(&self) -> Result<Option<ConfigSchema>, ApiError>;

    /// Returns a free VMID. Nothing is reserved: a create may still lose the race.
    async fn free_vmid(&self) -> Result<Vmid, ApiError>;

    /// Creates a VM and waits for the task. Not repeatable: a second call is refused by the server.
    async fn create(
        &self,
        place: &GuestRef,
        config: &BTreeMap<String, String>,
    ) -> Result<(), ApiError>;

    /// Changes a VM's configuration in one synchronous call. A repeat is harmless.
    async fn configure(&self, place: &GuestRef, change: &ConfigChange) -> Result<(), ApiError>;

    /// Starts a VM and waits until it runs; a running one is success.
    async fn start(&self, place: &GuestRef) -> Result<(), ApiError>;

    /// Shuts a VM down and waits until it is stopped, killing it after `patience`; a stopped one is success.
    async fn shutdown(&self, place: &GuestRef, patience: Duration) -> Result<(), ApiError>;

    /// Deletes a VM that has no volumes of value, never unreferenced ones; a missing one is success.
    ///
    /// The caller has checked that the VM carries proxmove's mark.
    async fn delete(&self, place: &GuestRef) -> Result<(), ApiError>;

    /// Puts a VM into a pool; a member already is success.
    async fn join_pool(&self, pool: &PoolId, guest: Vmid) -> Result<(), ApiError>;

    /// Kills a guest and waits until it is stopped; a stopped one is success.
    async fn stop(&self, place: &GuestRef) -> Result<(), ApiError>;

    /// Reads how a guest is just now. Immediate.
    async fn vitals(&self, place: &GuestRef) -> Result<Vitals, ApiError>;

    /// Asks a guest's agent whether it is there; changes nothing in the guest.
    async fn ping_agent(&self, place: &GuestRef) -> Result<AgentPing, ApiError>;

    /// Lists the members with what they have and use, in one call. Up to ten seconds old.
    async fn node_resources(&self) -> Result<Vec<NodeResources>, ApiError>;

    /// Lists the storages of all nodes with their space, in one call. Up to ten seconds old.
    async fn cluster_storages(&self) -> Result<Vec<StorageResources>, ApiError>;

    /// Reads a node's state from the node itself. Immediate.
    async fn node_status(&self, node: &NodeName) -> Result<NodeStatus, ApiError>;

    /// Reads a node's notes.
    async fn node_config(&self, node: &NodeName) -> Result<NodeConfig, ApiError>;

    /// Writes a node's notes; the empty text removes them. A repeat is harmless.
    ///
    /// With a digest the server refuses when the settings changed since.
    async fn describe_node(
        &self,
        node: &NodeName,
        description: &str,
        digest: Option<&str>,
    ) -> Result<(), ApiError>;

    /// Returns what the cluster says about migrating a guest; `None` for containers before release 9.
    async fn migrate_preconditions(
        &self,
        place: &GuestRef,
        target: Option<&NodeName>,
    ) -> Result<Option<MigratePreconditions>, ApiError>;

    /// Migrates a guest to another node and waits until it is there, as long as there is progress.
    ///
    /// A guest of HA is waited for until the HA manager has moved it. Not repeatable while it is under way: look for a
    /// running one with [`Api::running_migration`] first. An error says nothing about where the guest is, but that it
    /// is not on the target, or that this could not be seen.
    async fn migrate(
        &self,
        place: &GuestRef,
        request: &MigrateRequest,
        tell: Tell<'_>,
    ) -> Result<Migrated, ApiError>;

    /// Returns the task that is migrating a guest just now, whoever started it. Immediate.
    ///
    /// One that HA has only put on its list is no task yet: its state in [`Api::ha_status`] tells.
    async fn running_migration(&self, place: &GuestRef) -> Result<Option<Upid>, ApiError>;

    /// Returns a task that is starting or stopping a guest just now, whoever began it; one of somebody else's needs
    /// `Sys.Audit` on the node to be seen. Immediate.
    async fn power_task(&self, place: &GuestRef) -> Result<Option<Upid>, ApiError>;

    /// Lists the tasks that run on any node, in one call; those of others need `Sys.Audit` on `/`.
    async fn running_tasks(&self) -> Result<Vec<Upid>, ApiError>;

    /// Waits for the end of a task that somebody else has started, as long as there is progress.
    async fn follow(&self, upid: &Upid, tell: Tell<'_>) -> Result<(), ApiError>;

    /// Lists the guests that HA knows, with what it is doing with them.
    async fn ha_status(&self) -> Result<Vec<HaResource>, ApiError>;

    /// Lists the rules about where guests of HA may be: rules from release 9 on, groups before.
    async fn ha_rules(&self) -> Result<Vec<HaRule>, ApiError>;

    /// Reads what HA is to do with a guest; `None` where HA does not know it. Immediate.
    async fn ha_resource(&self, sid: HaSid) -> Result<Option<HaSettings>, ApiError>;

    /// Says whether the HA manager acts on a guest; one that is to be ignored it forgets within seconds.
    async fn ha_acts_on(&self, sid: HaSid) -> Result<bool, ApiError>;

    /// Sets what HA is to do with a guest that it knows. A repeat is harmless.
    async fn set_ha_state(&self, sid: HaSid, state: &str) -> Result<(), ApiError>;

    /// Gives a guest to HA; one that it has already in that state is success.
    async fn create_ha(&self, sid: HaSid, settings: &HaSettings) -> Result<(), ApiError>;

    /// Takes a guest from HA, and on release 9 from its rules; one that HA does not know is success. The guest stays as it
    /// is.
    async fn remove_ha(&self, sid: HaSid) -> Result<(), ApiError>;

    /// Returns the nodes in maintenance, or for which it was asked; none where that is forbidden or unknown.
    async fn ha_maintenance(&self) -> Result<BTreeSet<NodeName>, ApiError>;
}
