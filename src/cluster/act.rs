//! Acting on a cluster: create, configure, start, shut down, delete, pools.
//!
//! Whatever may have been done without an answer (a broken connection, the proxy's 30 s) is settled by reading the
//! state, never by asking twice on good faith. Never deletes a volume that its guest does not name. Read next: `task.rs`,
//! `change.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::http::{HttpApi, Repeat, encoded};
use super::observe::{POOL_AS_PARAMETER, guest_path};
use super::task::{Upid, is_passing};
use super::wire::guest as guests;
use super::{ApiError, ConfigChange, change, task};
use crate::pve::guest::{GuestConfig, GuestRef, Power};
use crate::pve::id::{PoolId, Vmid};

/// How long a killed guest may take to be gone after its patience: SIGTERM, ten seconds, SIGKILL, and the tidying.
pub(super) const KILL_TIME: Duration = Duration::from_secs(120);

impl HttpApi {
    pub(super) async fn create_guest(
        &self,
        place: &GuestRef,
        config: &BTreeMap<String, String>,
    ) -> Result<(), ApiError> {
        let path = format!("/nodes/{}/{}", place.node, place.kind);
        let vmid = place.vmid.to_string();
        let mut parameters = vec![("vmid", vmid.as_str())];
        // The server takes an empty value for a missing one.
        let keys = config.iter().filter(|(_, value)| !value.is_empty());
        parameters.extend(keys.map(|(key, value)| (key.as_str(), value.as_str())));
        match self.post(&path, &parameters, Repeat::Never).await {
            Ok(value) => self.finish("POST", &path, &value).await,
            Err(error) if maybe_done(&error) => self.find_created(place, config, error).await,
            Err(error) => Err(error),
        }
    }

    /// Settles a create without an answer: ours is the guest that has our name and notes, once its lock is gone.
    async fn find_created(
        &self,
        place: &GuestRef,
        wanted: &BTreeMap<String, String>,
        error: ApiError,
    ) -> Result<(), ApiError> {
        let started = Instant::now();
        let mut seen: Option<GuestConfig> = None;
        let mut last_sign = started;
        loop {
            tokio::time::sleep(self.poll_pause(started.elapsed())).await;
            let found = match self.read_config(place).await {
                Ok(found) => Some(found),
                Err(refused) if refused.says_no_such_guest() || is_passing(&refused) => None,
                Err(refused) => return Err(refused),
            };
            if found != seen {
                last_sign = Instant::now();
            }
            match &found {
                // Right after the beginning there is nothing but the lock.
                Some(config) if config.value("lock") == Some("create") => {}
                Some(config) => {
                    let marks = ConfigChange {
                        set: wanted
                            .iter()
                            .filter(|(key, _)| matches!(key.as_str(), "name" | "description"))
                            .map(|(key, value)| (key.clone(), value.clone()))
                            .collect(),
                        ..ConfigChange::default()
                    };
                    let ours = !marks.set.is_empty() && change::shows(config, &marks);
                    return if ours { Ok(()) } else { Err(error) };
                }
                // It was there and is gone: the create failed and was undone.
                None if seen.is_some() => return Err(error),
                // A request on its way needs a moment to show.
                None if last_sign.elapsed() >= self.pace.poll * 20 => return Err(error),
                None => {}
            }
            if last_sign.elapsed() >= self.pace.patience {
                return Err(error);
            }
            seen = found;
        }
    }

    pub(super) async fn change_config(
        &self,
        place: &GuestRef,
        change: &ConfigChange,
    ) -> Result<(), ApiError> {
        let path = format!("{}/config", guest_path(place));
        let (set, empty): (Vec<_>, Vec<_>) =
            change.set.iter().partition(|(_, value)| !value.is_empty());
        // A key that is set must not be deleted in the same call: such a change stays pending. An empty value is how
        // one would write "no such key", but the server takes it for a parameter that was not sent.
        let delete: Vec<_> = change
            .delete
            .iter()
            .filter(|key| !change.set.contains_key(*key))
            .chain(empty.iter().map(|(key, _)| *key))
            .map(String::as_str)
            .collect();
        let delete = delete.join(",");
        let mut parameters: Vec<_> = set
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        if !delete.is_empty() {
            parameters.push(("delete", &delete));
        }
        if parameters.is_empty() {
            return Ok(());
        }
        if let Some(digest) = &change.digest {
            parameters.push(("digest", digest));
        }
        let started = Instant::now();
        loop {
            let error = match self.put(&path, &parameters).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let patient = started.elapsed() < self.pace.lock;
            if maybe_done(&error) {
                match self.settle_config(place, change).await? {
                    Settled::Done => return Ok(()),
                    Settled::NotDone if patient => {}
                    Settled::NotDone | Settled::Unclear => return Err(error),
                }
            } else if !(patient && is_passing_lock(&error)) {
                return Err(error);
            }
            log::debug!("{}: {error}; trying again", self.config.alias);
            tokio::time::sleep(self.poll_pause(started.elapsed())).await;
        }
    }

    /// Settles a change without an answer. It may still be waiting for the guest's lock, so it gets the server's ten
    /// seconds for that and some more to show.
    async fn settle_config(
        &self,
        place: &GuestRef,
        change: &ConfigChange,
    ) -> Result<Settled, ApiError> {
        let started = Instant::now();
        loop {
            tokio::time::sleep(self.poll_pause(started.elapsed())).await;
            match self.read_config(place).await {
                Ok(config) if change::shows(&config, change) => return Ok(Settled::Done),
                Ok(config) if started.elapsed() >= self.pace.poll * 30 => {
                    // With a digest a late first change makes the repeat fail instead of being done twice.
                    let moved = change.digest.is_some()
                        && change.digest.as_deref() != config.value("digest");
                    return Ok(if moved {
                        Settled::Unclear
                    } else {
                        Settled::NotDone
                    });
                }
                Ok(_) => {}
                Err(error) if is_passing(&error) && started.elapsed() < self.pace.lock => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) async fn start_guest(&self, place: &GuestRef) -> Result<(), ApiError> {
        if self.read_status(place).await?.power == Power::Running {
            return Ok(());
        }
        let path = format!("{}/status/start", guest_path(place));
        let posted = self.post(&path, &[], Repeat::Harmless).await;
        self.reach(place, Power::Running, &path, posted, self.pace.patience)
            .await
    }

    pub(super) async fn shut_down_guest(
        &self,
        place: &GuestRef,
        patience: Duration,
    ) -> Result<(), ApiError> {
        if self.read_status(place).await?.power == Power::Stopped {
            return Ok(());
        }
        let path = format!("{}/status/shutdown", guest_path(place));
        let timeout = patience.as_secs().max(1).to_string();
        let parameters = [("timeout", timeout.as_str()), ("forceStop", "1")];
        let posted = self.post(&path, &parameters, Repeat::Harmless).await;
        // The task is silent while the guest shuts down, so its silence is worth nothing before the patience is over.
        let silence = self.pace.patience.max(patience + KILL_TIME);
        self.reach(place, Power::Stopped, &path, posted, silence)
            .await
    }

    /// Waits for the task that was posted, and then until the guest's own status says what was wanted.
    pub(super) async fn reach(
        &self,
        place: &GuestRef,
        wanted: Power,
        path: &str,
        posted: Result<Value, ApiError>,
        silence: Duration,
    ) -> Result<(), ApiError> {
        let request = format!("POST {path}");
        let started = match posted {
            Ok(value) => Ok(self.upid(&request, &value)?),
            // Without an answer the task itself is looked for.
            Err(error) if maybe_done(&error) => self.running_task(place).await.ok_or(error),
            Err(error) => Err(error),
        };
        let (upid, ended) = match started {
            Ok(upid) => {
                let ended = self.wait(&upid, silence).await.map(drop);
                (Some(upid), ended)
            }
            Err(error) => (None, Err(error)),
        };
        let queued = upid.as_ref().is_some_and(Upid::only_queues);
        let wait_for = match &ended {
            // The HA manager acts when it comes to it.
            Ok(()) if queued => silence,
            // Nor does a lost request show at once.
            Ok(()) => self.pace.poll * 20,
            Err(error) if maybe_done(error) => self.pace.poll * 20,
            // A failed task may have found the guest where it should be ("already running").
            Err(_) => Duration::ZERO,
        };
        let mut seen = None;
        let (started, mut last_sign) = (Instant::now(), Instant::now());
        loop {
            match self.read_status(place).await {
                Ok(status) if status.power == wanted => return Ok(()),
                Ok(status) => {
                    if seen.as_ref() != Some(&status) {
                        last_sign = Instant::now();
                    }
                    seen = Some(status);
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(ended.err().unwrap_or(error)),
            }
            if last_sign.elapsed() >= wait_for {
                break;
            }
            tokio::time::sleep(self.poll_pause(started.elapsed())).await;
        }
        ended?;
        Err(match upid {
            Some(upid) => ApiError::Stalled {
                upid: upid.to_string(),
                silence: last_sign.elapsed(),
            },
            None => self.odd(&request, "no task and no change of the guest's status"),
        })
    }

    /// Returns a task of that kind that is working on a guest just now.
    pub(super) async fn active_task(
        &self,
        place: &GuestRef,
        kind: impl Fn(&Upid) -> bool,
    ) -> Result<Option<Upid>, ApiError> {
        let path = format!("/nodes/{}/tasks", place.node);
        let vmid = place.vmid.to_string();
        let parameters = [("source", "active"), ("vmid", vmid.as_str())];
        let upids = self.fetch(&path, &parameters, task::running).await?;
        let mut upids = upids.into_iter();
        Ok(upids.find(|upid| upid.guest() == vmid && kind(upid)))
    }

    /// Returns the task that is working on a guest just now, giving one on its way some time to show.
    async fn running_task(&self, place: &GuestRef) -> Option<Upid> {
        for _ in 0..3 {
            tokio::time::sleep(self.pace.poll).await;
            match self.active_task(place, |_| true).await {
                Ok(None) => {}
                Ok(found) => return found,
                Err(error) => log::debug!("{}: {error}", self.config.alias),
            }
        }
        None
    }

    pub(super) async fn delete_guest(&self, place: &GuestRef) -> Result<(), ApiError> {
        let path = guest_path(place);
        // Up to 6.4 the default destroys every volume that has this VMID in its name, also those of other clusters.
        let parameters = [("destroy-unreferenced-disks", "0")];
        let error = match self.delete_path(&path, &parameters).await {
            Ok(value) => match self.finish("DELETE", &path, &value).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            },
            Err(error) => error,
        };
        let settle = maybe_done(&error) || matches!(error, ApiError::Task { .. });
        let gone = error.says_no_such_guest() || (settle && self.is_gone(place).await);
        if gone { Ok(()) } else { Err(error) }
    }

    /// Says whether a guest does not exist any more, giving a delete without an answer some time to happen.
    async fn is_gone(&self, place: &GuestRef) -> bool {
        let started = Instant::now();
        loop {
            match self.read_config(place).await {
                Err(error) if error.says_no_such_guest() => return true,
                Err(error) if !is_passing(&error) => return false,
                Ok(_) | Err(_) if started.elapsed() >= self.pace.poll * 20 => return false,
                Ok(_) | Err(_) => tokio::time::sleep(self.poll_pause(started.elapsed())).await,
            }
        }
    }

    pub(super) async fn add_to_pool(&self, pool: &PoolId, guest: Vmid) -> Result<(), ApiError> {
        let vmid = guest.to_string();
        let error = if self.remembered_release().await? >= POOL_AS_PARAMETER {
            let parameters = [("poolid", pool.as_str()), ("vms", vmid.as_str())];
            self.put("/pools", &parameters).await.err()
        } else {
            let path = format!("/pools/{}", encoded(pool.as_str()));
            self.put(&path, &[("vms", &vmid)]).await.err()
        };
        match error {
            None => Ok(()),
            // "is already a pool member": whether of this pool or of another one differs by release, so it is read.
            Some(error)
                if maybe_done(&error)
                    || (error.reason().contains("already") && is_server_error(&error)) =>
            {
                match self.pool_members(pool).await {
                    Ok(members) if members.contains(&guest) => Ok(()),
                    Ok(_) | Err(_) => Err(error),
                }
            }
            Some(error) => Err(error),
        }
    }

    pub(super) async fn read_config(&self, place: &GuestRef) -> Result<GuestConfig, ApiError> {
        let path = format!("{}/config", guest_path(place));
        self.fetch(&path, &[], guests::config).await
    }

    /// Waits for the task that a request has started.
    async fn finish(&self, verb: &str, path: &str, value: &Value) -> Result<(), ApiError> {
        let upid = self.upid(&format!("{verb} {path}"), value)?;
        self.wait(&upid, self.pace.patience).await.map(drop)
    }
}

/// What reading the state says about a change of unknown fate.
enum Settled {
    Done,
    NotDone,
    Unclear,
}

pub(super) fn maybe_done(error: &ApiError) -> bool {
    matches!(
        error,
        ApiError::Unreachable {
            maybe_done: true,
            ..
        }
    )
}

fn is_server_error(error: &ApiError) -> bool {
    matches!(error, ApiError::Refused { status: 500, .. })
}

/// Says whether the guest is locked by something that ends by itself: a file lock, or a create that is being finished.
fn is_passing_lock(error: &ApiError) -> bool {
    let reason = error.reason();
    is_server_error(error)
        && ((reason.contains("can't lock file") && reason.contains("got timeout"))
            || reason.contains("VM is locked (create)")
            || reason.contains("CT is locked (create)"))
}
