//! The trait [`Api`] for [`HttpApi`]: one line per method, so that the list can be read at a glance.
//!
//! Holds no logic of its own. Read next: `observe.rs`, `act.rs`, `nodes.rs`, `migrate.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;

use super::http::HttpApi;
use super::observe::guest_path;
use super::task::Upid;
use super::wire::{self, guest as guests, inventory, node as nodes};
use super::{Api, ApiError, ConfigChange, Tell};
use crate::pve::guest::{AgentPing, GuestConfig, GuestDetail, GuestRef, GuestSummary, Vitals};
use crate::pve::ha::{HaResource, HaRule, HaSettings, HaSid};
use crate::pve::id::{ClusterAlias, NodeName, PoolId, StorageId, Vmid, Volid};
use crate::pve::inventory::{
    ConfigSchema, Node, Permissions, Release, ReplicationJob, Storage, Volume,
};
use crate::pve::migration::{MigratePreconditions, MigrateRequest, Migrated};
use crate::pve::node::{NodeConfig, NodeResources, NodeStatus, StorageResources};

#[async_trait]
impl Api for HttpApi {
    fn alias(&self) -> &ClusterAlias {
        &self.config.alias
    }

    async fn release(&self) -> Result<Release, ApiError> {
        self.read_release().await
    }

    async fn clock_skew_seconds(&self) -> Result<i64, ApiError> {
        if self.newest_skew().is_none() {
            self.read_release().await?;
        }
        self.newest_skew()
            .ok_or_else(|| self.odd("GET /version", "the answer has no date"))
    }

    async fn nodes(&self) -> Result<Vec<Node>, ApiError> {
        self.read_nodes().await
    }

    async fn guests(&self) -> Result<Vec<GuestSummary>, ApiError> {
        self.fetch("/cluster/resources", &[("type", "vm")], guests::resources)
            .await
    }

    async fn guests_on(&self, node: &NodeName) -> Result<Vec<GuestSummary>, ApiError> {
        self.read_guests_on(node).await
    }

    async fn guest(&self, place: &GuestRef) -> Result<GuestDetail, ApiError> {
        self.read_guest(place).await
    }

    async fn snapshot(&self, place: &GuestRef, name: &str) -> Result<GuestConfig, ApiError> {
        let path = format!("{}/config", guest_path(place));
        self.fetch(&path, &[("snapshot", name)], guests::config)
            .await
    }

    async fn storages(&self, node: &NodeName) -> Result<Vec<Storage>, ApiError> {
        self.read_storages(node).await
    }

    async fn volume(&self, node: &NodeName, volid: &Volid) -> Result<Volume, ApiError> {
        self.read_volume(node, volid).await
    }

    async fn volumes(
        &self,
        node: &NodeName,
        storage: &StorageId,
        owner: Option<Vmid>,
    ) -> Result<Vec<Volume>, ApiError> {
        self.read_volumes(node, storage, owner).await
    }

    async fn bridges(&self, node: &NodeName) -> Result<Vec<String>, ApiError> {
        // The server adds the virtual networks of that node to the bridges, as far as the user may use them.
        let path = format!("/nodes/{node}/network");
        self.fetch(&path, &[("type", "any_bridge")], inventory::bridges)
            .await
    }

    async fn machines(&self, node: &NodeName) -> Result<Vec<String>, ApiError> {
        self.read_machines(node).await
    }

    async fn permissions(&self) -> Result<Permissions, ApiError> {
        self.fetch("/access/permissions", &[], inventory::permissions)
            .await
    }

    async fn user(&self) -> Result<String, ApiError> {
        self.session_user().await
    }

    async fn replication_jobs(&self) -> Result<Vec<ReplicationJob>, ApiError> {
        self.fetch("/cluster/replication", &[], inventory::replication_jobs)
            .await
    }

    async fn replicating(&self, place: &GuestRef) -> Result<Vec<String>, ApiError> {
        let (path, vmid) = (
            format!("/nodes/{}/replication", place.node),
            place.vmid.to_string(),
        );
        self.fetch(&path, &[("guest", &vmid)], |value| {
            inventory::replicating(value, place.vmid)
        })
        .await
    }

    async fn pools(&self) -> Result<Vec<PoolId>, ApiError> {
        self.fetch("/pools", &[], inventory::pools).await
    }

    async fn config_schema(&self) -> Result<Option<ConfigSchema>, ApiError> {
        self.read_schema().await
    }

    async fn free_vmid(&self) -> Result<Vmid, ApiError> {
        self.fetch("/cluster/nextid", &[], wire::vmid).await
    }

    async fn create(
        &self,
        place: &GuestRef,
        config: &BTreeMap<String, String>,
    ) -> Result<(), ApiError> {
        self.create_guest(place, config).await
    }

    async fn configure(&self, place: &GuestRef, change: &ConfigChange) -> Result<(), ApiError> {
        self.change_config(place, change).await
    }

    async fn start(&self, place: &GuestRef) -> Result<(), ApiError> {
        self.start_guest(place).await
    }

    async fn shutdown(&self, place: &GuestRef, patience: Duration) -> Result<(), ApiError> {
        self.shut_down_guest(place, patience).await
    }

    async fn delete(&self, place: &GuestRef) -> Result<(), ApiError> {
        self.delete_guest(place).await
    }

    async fn join_pool(&self, pool: &PoolId, guest: Vmid) -> Result<(), ApiError> {
        self.add_to_pool(pool, guest).await
    }

    async fn stop(&self, place: &GuestRef) -> Result<(), ApiError> {
        self.stop_guest(place).await
    }

    async fn vitals(&self, place: &GuestRef) -> Result<Vitals, ApiError> {
        self.read_vitals(place).await
    }

    async fn ping_agent(&self, place: &GuestRef) -> Result<AgentPing, ApiError> {
        self.ask_agent(place).await
    }

    async fn node_resources(&self) -> Result<Vec<NodeResources>, ApiError> {
        let parameters = [("type", "node")];
        self.fetch("/cluster/resources", &parameters, nodes::resources)
            .await
    }

    async fn cluster_storages(&self) -> Result<Vec<StorageResources>, ApiError> {
        let parameters = [("type", "storage")];
        self.fetch("/cluster/resources", &parameters, nodes::storages)
            .await
    }

    async fn node_status(&self, node: &NodeName) -> Result<NodeStatus, ApiError> {
        let path = format!("/nodes/{node}/status");
        self.fetch(&path, &[], nodes::status).await
    }

    async fn node_config(&self, node: &NodeName) -> Result<NodeConfig, ApiError> {
        self.read_node_config(node).await
    }

    async fn describe_node(
        &self,
        node: &NodeName,
        description: &str,
        digest: Option<&str>,
    ) -> Result<(), ApiError> {
        self.write_node_notes(node, description, digest).await
    }

    async fn migrate_preconditions(
        &self,
        place: &GuestRef,
        target: Option<&NodeName>,
    ) -> Result<Option<MigratePreconditions>, ApiError> {
        self.read_preconditions(place, target).await
    }

    async fn migrate(
        &self,
        place: &GuestRef,
        request: &MigrateRequest,
        tell: Tell<'_>,
    ) -> Result<Migrated, ApiError> {
        self.migrate_guest(place, request, tell).await
    }

    async fn running_migration(&self, place: &GuestRef) -> Result<Option<Upid>, ApiError> {
        self.find_migration(place).await
    }

    async fn power_task(&self, place: &GuestRef) -> Result<Option<Upid>, ApiError> {
        self.active_task(place, Upid::changes_power).await
    }

    async fn running_tasks(&self) -> Result<Vec<Upid>, ApiError> {
        self.read_running_tasks().await
    }

    async fn follow(&self, upid: &Upid, tell: Tell<'_>) -> Result<(), ApiError> {
        self.follow_task(upid, tell).await
    }

    async fn ha_status(&self) -> Result<Vec<HaResource>, ApiError> {
        self.read_ha_status().await
    }

    async fn ha_rules(&self) -> Result<Vec<HaRule>, ApiError> {
        self.read_ha_rules().await
    }

    async fn ha_resource(&self, sid: HaSid) -> Result<Option<HaSettings>, ApiError> {
        self.read_ha_resource(sid).await
    }

    async fn ha_acts_on(&self, sid: HaSid) -> Result<bool, ApiError> {
        self.read_ha_acts_on(sid).await
    }

    async fn set_ha_state(&self, sid: HaSid, state: &str) -> Result<(), ApiError> {
        self.write_ha_state(sid, state).await
    }

    async fn create_ha(&self, sid: HaSid, settings: &HaSettings) -> Result<(), ApiError> {
        self.create_ha_resource(sid, settings).await
    }

    async fn remove_ha(&self, sid: HaSid) -> Result<(), ApiError> {
        self.delete_ha_resource(sid).await
    }

    async fn ha_maintenance(&self) -> Result<BTreeSet<NodeName>, ApiError> {
        self.read_maintenance().await
    }
}
