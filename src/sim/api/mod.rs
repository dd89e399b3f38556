//! The simulated API: answers requests as Proxmox VE answers them, out of the world.
//!
//! A request passes the same gates as on a real node, in the same order: login, path, privilege, node, parameters, and
//! then one small function per endpoint. Nothing here may be kinder than the real thing. Read next: `server.rs` (HTTP),
//! `gate.rs` (the gates), `schema.rs` (the table), then any endpoint.

mod access;
mod agent;
mod apidoc;
pub mod check;
mod cluster;
pub mod config_keys;
mod configure;
pub mod container_keys;
mod containers;
mod create;
mod destroy;
mod drives;
mod gate;
mod guests;
mod ha;
pub(crate) mod lrm;
pub(crate) mod migrate;
mod nodes;
mod pools;
pub(crate) mod power;
mod preconditions;
mod rights;
mod routes;
pub mod schema;
pub(crate) mod server;
mod snapshots;
mod storage;
mod tasks;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::world::Cluster;
use super::world::guest::Guest;
use super::world::rights::Identity;
use super::world::task::Work;
use check::Errors;

/// Why a request was not carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The HTTP status.
    status: u16,
    /// The reason, which is the first line of what Proxmox VE says.
    reason: String,
    /// Complaints by parameter.
    errors: Errors,
    /// A body instead of JSON: empty, or the reason as text.
    body: Option<String>,
    /// Whether to ask again, because a task holds the guest.
    busy: bool,
    /// Whether the answer comes late, as for everything about logins.
    slow: bool,
}

impl Refusal {
    /// Returns what a handler dies with: status 500.
    fn died(reason: impl Into<String>) -> Refusal {
        Refusal {
            status: 500,
            reason: reason.into(),
            ..Refusal::default()
        }
    }

    /// Returns complaints about parameters: status 400.
    fn params(errors: Errors) -> Refusal {
        Refusal {
            status: 400,
            reason: "Parameter verification failed.".to_owned(),
            errors,
            ..Refusal::default()
        }
    }

    /// Returns a complaint about one parameter.
    fn param(name: &str, text: impl Into<String>) -> Refusal {
        Refusal::params(Errors::from([(name.to_owned(), text.into())]))
    }

    /// Returns a missing right: status 403.
    fn forbidden(path: &str, privileges: &[&str]) -> Refusal {
        Refusal {
            status: 403,
            reason: format!("Permission check failed ({path}, {})", privileges.join("|")),
            ..Refusal::default()
        }
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Refusal {
        Refusal::died(reason)
    }
}

type Reply = Result<Value, Refusal>;

/// One request inside its endpoint.
pub(crate) struct Call<'a> {
    cluster: &'a mut Cluster,
    who: Identity,
    node: String,
    params: BTreeMap<String, String>,
    /// Work of new tasks, by UPID.
    jobs: Vec<(String, Work)>,
    /// The `total` beside `data`.
    total: Option<usize>,
}

impl Call<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.params.get(name).map(String::as_str)
    }

    fn flag(&self, name: &str) -> bool {
        self.text(name) == Some("1")
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name).and_then(|text| text.parse().ok())
    }

    fn vmid(&self) -> u32 {
        self.text("vmid").and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    fn release(&self) -> (u32, u32) {
        self.cluster.release()
    }

    /// Returns the container of the request on its node.
    fn container(&self) -> Result<&Guest, Refusal> {
        guest_on(self.cluster, &self.node, self.vmid(), true).map_err(Refusal::died)
    }

    /// Returns the VM of the request on its node.
    fn guest(&self) -> Result<&Guest, Refusal> {
        vm_on(self.cluster, &self.node, self.vmid()).map_err(Refusal::died)
    }

    fn guest_mut(&mut self) -> Result<&mut Guest, Refusal> {
        let vmid = self.vmid();
        self.guest()?;
        self.cluster
            .guests
            .get_mut(&vmid)
            .ok_or_else(|| Refusal::died("no such VM"))
    }

    /// Waits for a task that holds the guest's configuration file.
    fn wait_for_lock(&self) -> Result<(), Refusal> {
        let vmid = self.vmid();
        match self.cluster.guests.get(&vmid) {
            Some(guest) if guest.holder.is_some() => Err(Refusal {
                busy: true,
                ..Refusal::died(lock_timeout(guest))
            }),
            _ => Ok(()),
        }
    }

    /// Requires one of the privileges on a path.
    fn require(&self, path: &str, any: &[&str]) -> Result<(), Refusal> {
        match self.cluster.may(&self.who, path, any) {
            true => Ok(()),
            false => Err(Refusal::forbidden(path, any)),
        }
    }

    /// Refuses an option that only root itself may use.
    fn only_root(&self, names: &[&str]) -> Result<(), Refusal> {
        match names.iter().find(|name| self.params.contains_key(**name)) {
            Some(name) if !self.who.is_root() => {
                Err(Refusal::param(name, "Only root may use this option."))
            }
            _ => Ok(()),
        }
    }

    /// Starts a task and answers with its UPID.
    fn start_task(&mut self, kind: &str, id: &str, work: Work) -> Value {
        let upid = self.cluster.add_task(&self.node, kind, id, &self.who);
        self.jobs.push((upid.clone(), work));
        json!(upid)
    }
}

/// Returns a VM on a node, or what Proxmox VE says when it is not there.
fn vm_on<'a>(cluster: &'a Cluster, node: &str, vmid: u32) -> Result<&'a Guest, String> {
    guest_on(cluster, node, vmid, false)
}

/// Returns a guest of a kind on a node, or what Proxmox VE says when it is not there.
fn guest_on<'a>(
    cluster: &'a Cluster,
    node: &str,
    vmid: u32,
    container: bool,
) -> Result<&'a Guest, String> {
    cluster
        .guests
        .get(&vmid)
        .filter(|guest| guest.node == node && guest.container == container)
        .ok_or_else(|| missing(node, vmid, container))
}

fn missing(node: &str, vmid: u32, container: bool) -> String {
    let directory = if container { "lxc" } else { "qemu-server" };
    format!("Configuration file 'nodes/{node}/{directory}/{vmid}.conf' does not exist")
}

fn lock_timeout(guest: &Guest) -> String {
    let vmid = guest.vmid;
    match guest.container {
        true => format!("can't lock file '/run/lock/lxc/pve-config-{vmid}.lock' - got timeout"),
        false => format!("can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout"),
    }
}

/// What cannot be done without most nodes of the cluster.
fn check_quorum(cluster: &Cluster) -> Result<(), Refusal> {
    match cluster.is_quorate() {
        true => Ok(()),
        false => Err(Refusal::died("cluster not ready - no quorum?")),
    }
}

/// The HA manager and its nodes act as root.
fn root() -> Identity {
    Identity {
        user: "root@pam".to_owned(),
        token: None,
    }
}
