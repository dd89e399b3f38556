//! Migrating a guest within its cluster: ask, follow the task, and look where the guest is in the end.
//!
//! A guest of HA is only put on a list by its request; the HA manager acts later, in a task of its own, and may take no
//! notice at all. Never decides where to, and never undoes anything. Read next: `task.rs`.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::act::{KILL_TIME, maybe_done};
use super::http::{HttpApi, Repeat};
use super::observe::guest_path;
use super::task::{Upid, is_passing};
use super::wire::migration;
use super::{ApiError, Tell};
use crate::pve::guest::{GuestKind, GuestRef};
use crate::pve::ha::{HaResource, HaSid};
use crate::pve::id::NodeName;
use crate::pve::inventory::Release;
use crate::pve::migration::{MigratePreconditions, MigrateRequest, Migrated};

/// The first release that says anything about migrating a container beforehand.
const CONTAINER_PRECONDITIONS: Release = Release { major: 9, minor: 0 };

/// The first release that maps the storages of a container.
const CONTAINER_STORAGES: Release = Release { major: 7, minor: 2 };

/// How long a container may take to shut down when nothing else was said, as the server has it.
const CONTAINER_TIMEOUT: Duration = Duration::from_secs(180);

/// How many polls the HA manager may take to begin: it looks at its list every ten seconds, and so does the node.
const HA_NOTICE: u32 = 240;

impl HttpApi {
    pub(super) async fn read_preconditions(
        &self,
        place: &GuestRef,
        target: Option<&NodeName>,
    ) -> Result<Option<MigratePreconditions>, ApiError> {
        let containers = self.remembered_release().await? >= CONTAINER_PRECONDITIONS;
        if place.kind == GuestKind::Lxc && !containers {
            return Ok(None);
        }
        let path = format!("{}/migrate", guest_path(place));
        let parameters: Vec<_> = target
            .map(|node| ("target", node.as_str()))
            .into_iter()
            .collect();
        let found = self
            .fetch(&path, &parameters, migration::preconditions)
            .await;
        match found {
            // The first nodes of release 9 had nothing for containers.
            Err(ApiError::Refused { status: 501, .. }) if place.kind == GuestKind::Lxc => Ok(None),
            found => found.map(Some),
        }
    }

    /// Returns the task that is migrating a guest away from its node, whoever started it.
    pub(super) async fn find_migration(&self, place: &GuestRef) -> Result<Option<Upid>, ApiError> {
        self.active_task(place, Upid::migrates).await
    }

    pub(super) async fn migrate_guest(
        &self,
        place: &GuestRef,
        request: &MigrateRequest,
        tell: Tell<'_>,
    ) -> Result<Migrated, ApiError> {
        let path = format!("{}/migrate", guest_path(place));
        let mut parameters = vec![("target", request.target.as_str())];
        let storages = request.target_storage.written();
        let timeout = request
            .timeout
            .map(|timeout| timeout.as_secs().max(1).to_string());
        match place.kind {
            GuestKind::Qemu => {
                parameters.extend(request.online.then_some(("online", "1")));
                parameters.extend(
                    request
                        .with_local_disks
                        .then_some(("with-local-disks", "1")),
                );
                parameters.extend(storages.as_deref().map(|map| ("targetstorage", map)));
            }
            GuestKind::Lxc => {
                parameters.extend(request.restart.then_some(("restart", "1")));
                if request.restart {
                    parameters.extend(timeout.as_deref().map(|timeout| ("timeout", timeout)));
                }
                if storages.is_some() && self.remembered_release().await? < CONTAINER_STORAGES {
                    return Err(self.odd(
                        &format!("POST {path}"),
                        "this release cannot map the storages of a container",
                    ));
                }
                parameters.extend(storages.as_deref().map(|map| ("target-storage", map)));
            }
        }
        // The task is silent while a container shuts down.
        let silence = match (place.kind, request.restart) {
            (GuestKind::Lxc, true) => {
                let timeout = request.timeout.unwrap_or(CONTAINER_TIMEOUT);
                self.pace.patience.max(timeout + KILL_TIME)
            }
            _ => self.pace.patience,
        };
        let upid = match self.post(&path, &parameters, Repeat::Never).await {
            Ok(value) => self.upid(&format!("POST {path}"), &value)?,
            Err(error) if maybe_done(&error) => match self.find_started(place).await {
                Some(upid) => upid,
                None => return self.settle_migration(place, &request.target, error).await,
            },
            Err(error) => return Err(error),
        };
        let ended = self.wait_telling(&upid, silence, tell).await;
        match ended {
            Ok(_) if upid.only_queues() => {
                self.await_ha(place, &request.target, silence, &upid, tell)
                    .await
            }
            Ok(_) => Ok(Migrated::default()),
            // The server may stumble over the tidying, when the guest is on its target already.
            Err(error) => self.settle_migration(place, &request.target, error).await,
        }
    }

    /// Follows a migration that somebody else has started, to its end.
    pub(super) async fn follow_task(&self, upid: &Upid, tell: Tell<'_>) -> Result<(), ApiError> {
        self.wait_telling(upid, self.pace.patience, tell)
            .await
            .map(drop)
    }

    /// Looks for a migration whose request got no answer, giving it some time to show.
    async fn find_started(&self, place: &GuestRef) -> Option<Upid> {
        for _ in 0..3 {
            tokio::time::sleep(self.pace.poll).await;
            match self.find_migration(place).await {
                Ok(Some(upid)) => return Some(upid),
                Ok(None) => {}
                Err(error) => log::debug!("{}: {error}", self.config.alias),
            }
        }
        None
    }

    /// Judges a migration by where the guest is now.
    async fn settle_migration(
        &self,
        place: &GuestRef,
        target: &NodeName,
        error: ApiError,
    ) -> Result<Migrated, ApiError> {
        match self.is_at(place, target).await {
            Ok(true) => Ok(Migrated {
                problem: Some(error.to_string()),
            }),
            Ok(false) | Err(_) => Err(error),
        }
    }

    /// Says whether a guest's configuration is on a node. Immediate: the file is on exactly one.
    async fn is_at(&self, place: &GuestRef, node: &NodeName) -> Result<bool, ApiError> {
        let there = GuestRef {
            node: node.clone(),
            ..place.clone()
        };
        match self.read_config(&there).await {
            Ok(_) => Ok(true),
            Err(error) if error.says_no_such_guest() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits until the HA manager has moved a guest, as it was asked to by `queued`.
    async fn await_ha(
        &self,
        place: &GuestRef,
        target: &NodeName,
        silence: Duration,
        queued: &Upid,
        tell: Tell<'_>,
    ) -> Result<Migrated, ApiError> {
        let sid = HaSid::of(place);
        let notice = (self.pace.poll * HA_NOTICE).min(silence);
        let (started, mut last_sign) = (Instant::now(), Instant::now());
        let mut seen: Option<HaResource> = None;
        let mut began = false;
        loop {
            // A migration that is under way is followed by its own task, which has more to tell.
            match self.find_migration(place).await {
                Ok(Some(upid)) if !upid.only_queues() => {
                    began = true;
                    if let Err(error) = self.wait_telling(&upid, silence, tell).await {
                        return self.settle_migration(place, target, error).await;
                    }
                    last_sign = Instant::now();
                }
                Ok(_) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
            let there = match self.is_at(place, target).await {
                Ok(there) => there,
                Err(error) if is_passing(&error) => false,
                Err(error) => return Err(error),
            };
            let service = match self.read_ha_status().await {
                Ok(services) => services.into_iter().find(|service| service.sid == sid),
                Err(error) if is_passing(&error) => seen.clone(),
                // Who may migrate need not see the status of HA.
                Err(ApiError::Forbidden { .. }) => None,
                Err(error) => return Err(error),
            };
            let moving = service.as_ref().is_some_and(is_moving);
            if there && !moving {
                let state = service.as_ref().map(|service| service.state.as_str());
                return Ok(Migrated {
                    problem: (state == Some("error"))
                        .then(|| format!("HA could not start it on {target}")),
                });
            }
            if service != seen {
                last_sign = Instant::now();
            }
            // It has begun and is over, and the guest is where it was: HA leaves it there and says why in the task only.
            if began && !moving && service.is_some() && service == seen {
                return Err(self.ha_failure(place, target, queued));
            }
            began |= moving;
            seen = service;
            let patience = if began { silence } else { notice };
            if last_sign.elapsed() >= patience {
                return Err(match began {
                    true => ApiError::Stalled {
                        upid: queued.to_string(),
                        silence: last_sign.elapsed(),
                    },
                    false => self.ha_failure(place, target, queued),
                });
            }
            tokio::time::sleep(self.poll_pause(started.elapsed())).await;
        }
    }

    fn ha_failure(&self, place: &GuestRef, target: &NodeName, queued: &Upid) -> ApiError {
        ApiError::Task {
            kind: queued.kind().to_owned(),
            guest: place.vmid.to_string(),
            node: place.node.to_string(),
            exit_status: format!(
                "the HA manager did not move it to {target}; a rule may forbid that node"
            ),
            log: Vec::new(),
        }
    }

    pub(super) async fn stop_guest(&self, place: &GuestRef) -> Result<(), ApiError> {
        let status = self.read_status(place).await?;
        if status.power == crate::pve::guest::Power::Stopped {
            return Ok(());
        }
        let path = format!("{}/status/stop", guest_path(place));
        // Without it a stop waits for a shutdown that is under way. HA has its own way of stopping.
        let overrules = !status.ha_managed && self.remembered_release().await? >= OVERRULES;
        let parameters: &[_] = if overrules {
            &[("overrule-shutdown", "1")]
        } else {
            &[]
        };
        let posted: Result<Value, ApiError> = self.post(&path, parameters, Repeat::Harmless).await;
        let stopped = crate::pve::guest::Power::Stopped;
        self.reach(place, stopped, &path, posted, self.pace.patience)
            .await
    }
}

/// The first release in which a stop can end a shutdown that is under way.
const OVERRULES: Release = Release { major: 8, minor: 2 };

/// Says whether HA is moving a guest just now; one that was shut down for it is not done before it runs again.
fn is_moving(service: &HaResource) -> bool {
    matches!(
        service.state.as_str(),
        "migrate" | "relocate" | "starting" | "request_start" | "request_start_balance"
    )
}
