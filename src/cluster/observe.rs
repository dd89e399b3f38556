//! Observing a cluster: what the reading methods of the trait ask, and how answers are put together.
//!
//! Never changes anything. Everything that decides is read where it is immediate. Read next: `nodes.rs`, `act.rs`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::ApiError;
use super::answer::is_proxy_status;
use super::http::{HttpApi, Parameters, encoded};
use super::wire::{self, Odd, guest as guests, inventory};
use crate::pve::guest::{GuestDetail, GuestKind, GuestRef, GuestSummary};
use crate::pve::id::{NodeName, PoolId, StorageId, Vmid, Volid};
use crate::pve::inventory::{ConfigSchema, Node, Release, Storage, Volume};

/// Where every node serves its own schema, without login.
const SCHEMA_PATH: &str = "/pve-docs/api-viewer/apidoc.js";

/// The first release that takes a pool's id as a parameter, which nested pools need.
pub(super) const POOL_AS_PARAMETER: Release = Release { major: 8, minor: 1 };

/// Returns the path of a guest.
pub(super) fn guest_path(place: &GuestRef) -> String {
    format!("/nodes/{}/{}/{}", place.node, place.kind, place.vmid)
}

impl HttpApi {
    /// Reads a path and decodes its data.
    pub(super) async fn fetch<T>(
        &self,
        path: &str,
        parameters: Parameters<'_>,
        decode: impl FnOnce(&Value) -> Result<T, Odd>,
    ) -> Result<T, ApiError> {
        let value = self.get(path, parameters).await?;
        decode(&value).map_err(|odd| self.odd(&format!("GET {path}"), odd))
    }

    pub(super) async fn read_release(&self) -> Result<Release, ApiError> {
        let release = self.fetch("/version", &[], wire::release).await?;
        *self
            .known_release
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(release);
        Ok(release)
    }

    /// Returns the release that was seen last, asking only when none was.
    pub(super) async fn remembered_release(&self) -> Result<Release, ApiError> {
        let known = *self
            .known_release
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match known {
            Some(release) => Ok(release),
            None => self.read_release().await,
        }
    }

    pub(super) async fn read_nodes(&self) -> Result<Vec<Node>, ApiError> {
        let (status, listed, maintenance) = tokio::join!(
            self.fetch("/cluster/status", &[], inventory::cluster_status),
            self.fetch("/nodes", &[], inventory::nodes),
            self.read_maintenance(),
        );
        // /cluster/status needs Sys.Audit on /, /nodes needs nothing: without the right only the addresses are missing.
        let status = match status {
            Err(ApiError::Forbidden { reason, .. }) => {
                log::debug!("{}: no addresses of nodes: {reason}", self.config.alias);
                Vec::new()
            }
            status => status?,
        };
        let learned = self.places.learn(&status);
        if !learned.is_empty() {
            log::debug!(
                "{}: {} may be asked as well",
                self.config.alias,
                learned.join(", ")
            );
        }
        Ok(inventory::merge_nodes(status, listed?, &maintenance?))
    }

    /// Asks the HA manager who is in maintenance; nobody, where that is forbidden or unknown.
    pub(super) async fn read_maintenance(&self) -> Result<BTreeSet<NodeName>, ApiError> {
        let path = "/cluster/ha/status/manager_status";
        match self.fetch(path, &[], inventory::maintenance).await {
            Err(
                error @ (ApiError::Forbidden { .. }
                | ApiError::Refused { .. }
                | ApiError::Parameters { .. }
                | ApiError::Unexpected { .. }),
            ) => {
                log::debug!("{}: no maintenance known: {error}", self.config.alias);
                Ok(BTreeSet::new())
            }
            answer => answer,
        }
    }

    pub(super) async fn read_guests_on(
        &self,
        node: &NodeName,
    ) -> Result<Vec<GuestSummary>, ApiError> {
        let (vms, containers) = (format!("/nodes/{node}/qemu"), format!("/nodes/{node}/lxc"));
        let (vms, containers) = tokio::join!(
            self.fetch(&vms, &[], |value| {
                guests::guests_on(value, node, GuestKind::Qemu)
            }),
            self.fetch(&containers, &[], |value| {
                guests::guests_on(value, node, GuestKind::Lxc)
            }),
        );
        let mut all = vms?;
        all.extend(containers?);
        all.sort_by_key(|guest| guest.place.vmid);
        Ok(all)
    }

    pub(super) async fn read_status(&self, place: &GuestRef) -> Result<guests::Status, ApiError> {
        let path = format!("{}/status/current", guest_path(place));
        self.fetch(&path, &[], guests::status).await
    }

    pub(super) async fn read_guest(&self, place: &GuestRef) -> Result<GuestDetail, ApiError> {
        let base = guest_path(place);
        let (config, pending, snapshot) = (
            format!("{base}/config"),
            format!("{base}/pending"),
            format!("{base}/snapshot"),
        );
        let (config, pending, snapshots, status) = tokio::join!(
            self.fetch(&config, &[], guests::config),
            self.fetch(&pending, &[], guests::pending),
            self.fetch(&snapshot, &[], guests::snapshots),
            self.read_status(place),
        );
        let (config, status) = (config?, status?);
        Ok(GuestDetail {
            place: place.clone(),
            lock: status
                .lock
                .or_else(|| config.value("lock").map(str::to_owned)),
            config,
            pending: pending?,
            snapshots: snapshots?,
            power: status.power,
            qmp_status: status.qmp_status,
            ha_managed: status.ha_managed,
            running_machine: status.running_machine,
        })
    }

    pub(super) async fn read_storages(&self, node: &NodeName) -> Result<Vec<Storage>, ApiError> {
        let path = format!("/nodes/{node}/storage");
        let (listed, settings) = tokio::join!(
            self.fetch(&path, &[], inventory::storages),
            self.fetch("/storage", &[], inventory::storage_settings),
        );
        let mut settings = settings?;
        let mut storages = match listed {
            // One dead NFS server delays the list beyond the proxy's 30 s, so the storages are asked one by one.
            Err(ApiError::Refused { status, .. }) if is_proxy_status(status) && status != 595 => {
                self.storages_one_by_one(&path, &settings).await?
            }
            listed => listed?,
        };
        for storage in &mut storages {
            storage.settings = settings.remove(&storage.id).unwrap_or_default();
        }
        storages.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(storages)
    }

    async fn storages_one_by_one(
        &self,
        path: &str,
        settings: &BTreeMap<StorageId, BTreeMap<String, String>>,
    ) -> Result<Vec<Storage>, ApiError> {
        let mut storages = Vec::new();
        for (id, keys) in settings {
            let parameters = [("storage", id.as_str())];
            match self.fetch(path, &parameters, inventory::storages).await {
                Ok(found) => storages.extend(found),
                Err(ApiError::Refused { status, .. }) if is_proxy_status(status) => {
                    log::debug!("{}: storage {id} does not answer", self.config.alias);
                    storages.push(silent_storage(id, keys));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(storages)
    }

    pub(super) async fn read_volume(
        &self,
        node: &NodeName,
        volid: &Volid,
    ) -> Result<Volume, ApiError> {
        let path = format!(
            "/nodes/{node}/storage/{}/content/{}",
            volid.storage,
            encoded(&volid.to_string())
        );
        self.fetch(&path, &[], |value| inventory::volume(value, volid))
            .await
    }

    pub(super) async fn read_volumes(
        &self,
        node: &NodeName,
        storage: &StorageId,
        owner: Option<Vmid>,
    ) -> Result<Vec<Volume>, ApiError> {
        let path = format!("/nodes/{node}/storage/{storage}/content");
        let owner = owner.map(|owner| owner.to_string());
        let mut parameters = vec![("content", "images")];
        if let Some(owner) = &owner {
            parameters.push(("vmid", owner));
        }
        self.fetch(&path, &parameters, inventory::volumes).await
    }

    pub(super) async fn read_machines(&self, node: &NodeName) -> Result<Vec<String>, ApiError> {
        let path = format!("/nodes/{node}/capabilities/qemu/machines");
        match self.fetch(&path, &[], inventory::machines).await {
            Err(ApiError::Refused { status: 501, .. }) => Ok(Vec::new()),
            machines => machines,
        }
    }

    /// Returns the members of a pool, or the server's refusal when there is no such pool.
    pub(super) async fn pool_members(&self, pool: &PoolId) -> Result<BTreeSet<Vmid>, ApiError> {
        if self.remembered_release().await? >= POOL_AS_PARAMETER {
            let parameters = [("poolid", pool.as_str())];
            let members = self.fetch("/pools", &parameters, inventory::pool_members);
            return members.await;
        }
        let path = format!("/pools/{}", encoded(pool.as_str()));
        self.fetch(&path, &[], inventory::pool_members).await
    }

    pub(super) async fn read_schema(&self) -> Result<Option<ConfigSchema>, ApiError> {
        let Some(text) = self.public_file(SCHEMA_PATH).await? else {
            return Ok(None);
        };
        let schema = wire::schema::config_schema(&text);
        if schema.is_none() {
            let alias = &self.config.alias;
            log::debug!("{alias}: {SCHEMA_PATH} is not the schema it should be");
        }
        Ok(schema)
    }
}

/// Describes a storage that does not answer from its settings alone: known, but not active.
fn silent_storage(id: &StorageId, settings: &BTreeMap<String, String>) -> Storage {
    let setting = |key: &str| settings.get(key).map(String::as_str).unwrap_or_default();
    Storage {
        id: id.clone(),
        kind: setting("type").to_owned(),
        content: setting("content").split(',').map(str::to_owned).collect(),
        enabled: setting("disable") != "1",
        active: false,
        shared: setting("shared") == "1",
        available: crate::units::Bytes::ZERO,
        total: crate::units::Bytes::ZERO,
        settings: BTreeMap::new(),
    }
}
