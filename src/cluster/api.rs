//! The trait [`Api`] for [`HttpApi`]: one line per method, so that the list can be read at a glance.
//!
//! Holds no logic of its own. Read next: `observe.rs`, `act.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

use super::http::HttpApi;
use super::observe::guest_path;
use super::wire::{self, guest as guests, inventory};
use super::{Api, ApiError, ConfigChange};
use crate::pve::guest::{GuestConfig, GuestDetail, GuestRef, GuestSummary};
use crate::pve::id::{ClusterAlias, NodeName, PoolId, StorageId, Vmid, Volid};
use crate::pve::inventory::{
    ConfigSchema, Node, Permissions, Release, ReplicationJob, Storage, Volume,
};

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
}
