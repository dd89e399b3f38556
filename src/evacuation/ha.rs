//! The HA manager's maintenance mode: switched over SSH, because the API has no way, and waited for.
//!
//! The command only queues a request; what counts is what the cluster says afterwards. Both directions may be repeated.
//! Read next: `run.rs`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{EvacuationError, Evacuator, shell_text};
use crate::config::SshAddress;
use crate::host::command::Command;
use crate::host::{Exit, Shell};
use crate::pve::ha::HaResource;
use crate::pve::id::{NodeName, Vmid};
use crate::pve::inventory::Node;

/// How long a host may keep silent over a command that only queues something.
const ANSWER: Duration = Duration::from_secs(60);

impl Evacuator {
    /// Switches maintenance on or off, and waits until the cluster says so.
    pub(super) async fn maintenance(
        &self,
        node: &NodeName,
        on: bool,
    ) -> Result<(), EvacuationError> {
        if self.is_maintained(node).await? == on {
            return Ok(());
        }
        let verb = if on { "enable" } else { "disable" };
        self.step(
            node.as_str(),
            "maintenance",
            format!("{verb} HA maintenance"),
        );
        let command = Command::new("ha-manager").args([
            "crm-command",
            "node-maintenance",
            verb,
            node.as_str(),
        ]);
        self.on_any_node(node, on, &command).await?;
        let what = format!("HA maintenance of {node} being {verb}d");
        let mut waiting = Waiting::new(self.pace.patience);
        loop {
            if self.is_maintained(node).await? == on {
                return Ok(());
            }
            self.pause(&mut waiting, &what, "").await?;
        }
    }

    /// Tries whether maintenance could be switched, before anything is changed.
    pub(super) async fn try_maintenance(&self, node: &NodeName) -> Result<(), EvacuationError> {
        if self.is_maintained(node).await? {
            return Ok(());
        }
        self.on_any_node(node, true, &Command::new("true")).await
    }

    async fn is_maintained(&self, node: &NodeName) -> Result<bool, EvacuationError> {
        let nodes = self
            .api
            .ha_maintenance()
            .await
            .map_err(EvacuationError::api("ask for HA maintenance"))?;
        Ok(nodes.contains(node))
    }

    /// Runs a command on the first node that can be reached; the node in question last, as it may be on its way down.
    async fn on_any_node(
        &self,
        node: &NodeName,
        on: bool,
        command: &Command,
    ) -> Result<(), EvacuationError> {
        let mut nodes = self
            .api
            .nodes()
            .await
            .map_err(EvacuationError::api("list the nodes"))?;
        nodes.retain(|member| member.online);
        nodes.sort_by_key(|member| (member.name == *node, member.name.clone()));
        let mut said = Vec::new();
        for member in nodes {
            match self.on_node(&member, command, ANSWER).await {
                Ok(()) => return Ok(()),
                Err(reason) => said.push(format!("{}: {reason}", member.name)),
            }
        }
        Err(EvacuationError::Maintenance {
            node: node.clone(),
            on,
            reason: said.join("; "),
        })
    }

    /// Runs a command on a node; it may be silent for `patience`.
    pub(super) async fn on_node(
        &self,
        node: &Node,
        command: &Command,
        patience: Duration,
    ) -> Result<(), String> {
        let address = match (self.addresses.get(&node.name), &node.address) {
            (Some(configured), _) => configured.clone(),
            (None, Some(known)) => SshAddress {
                user: Some("root".to_owned()),
                host: known.clone(),
                port: None,
            },
            (None, None) => return Err("its address is not known".to_owned()),
        };
        let shell = self
            .hosts
            .shell(&address)
            .map_err(|error| shell_text(&error))?;
        let output = shell
            .run(command, &[], patience)
            .await
            .map_err(|error| shell_text(&error))?;
        match output.exit {
            Exit::Code(0) => Ok(()),
            exit => Err(format!(
                "'{}' {exit}: {}",
                command.brief(),
                String::from_utf8_lossy(&output.stderr).trim()
            )),
        }
    }

    /// Waits until the HA manager has moved these guests off a node, or does no more. Returns those that are still there.
    pub(super) async fn await_departure(
        &self,
        node: &NodeName,
        guests: &BTreeSet<Vmid>,
    ) -> Result<BTreeSet<Vmid>, EvacuationError> {
        let mut waiting = Waiting::new(self.pace.patience);
        loop {
            let left: BTreeSet<Vmid> = self
                .guests_at(node)
                .await?
                .intersection(guests)
                .copied()
                .collect();
            let services = self.services().await?;
            let settled = services
                .iter()
                .filter(|service| left.contains(&service.sid.vmid))
                .all(|service| {
                    matches!(
                        service.state.as_str(),
                        "stopped" | "disabled" | "ignored" | "error"
                    )
                });
            if left.is_empty() || (settled && !services.is_empty()) {
                return Ok(left);
            }
            let sign = signs(&services, guests, left.len());
            if let Err(error) = self
                .pause(&mut waiting, "the departure of HA guests", &sign)
                .await
            {
                return match error {
                    EvacuationError::Waited { .. } => Ok(left),
                    error => Err(error),
                };
            }
        }
    }

    /// Waits until the HA manager moves none of these guests any more, and has had the time to begin.
    pub(super) async fn await_return(
        &self,
        node: &NodeName,
        guests: &BTreeSet<Vmid>,
    ) -> Result<(), EvacuationError> {
        let mut waiting = Waiting::new(self.pace.patience.min(self.pace.look * 24));
        loop {
            let services = self.services().await?;
            let there = self.guests_at(node).await?;
            // One that is there may be about to leave, when an evacuation ended early.
            let moving = services.iter().any(|service| {
                guests.contains(&service.sid.vmid)
                    && matches!(service.state.as_str(), "migrate" | "relocate")
            });
            if guests.is_subset(&there) && !moving {
                return Ok(());
            }
            let sign = signs(&services, guests, there.intersection(guests).count());
            // What does not come by itself is brought.
            match self
                .pause(&mut waiting, "the return of HA guests", &sign)
                .await
            {
                Ok(()) => {}
                Err(EvacuationError::Waited { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    async fn services(&self) -> Result<Vec<HaResource>, EvacuationError> {
        self.api
            .ha_status()
            .await
            .map_err(EvacuationError::api("ask for the state of HA"))
    }

    /// Lists what is on a node, as the place of the configuration files says.
    pub(super) async fn guests_at(
        &self,
        node: &NodeName,
    ) -> Result<BTreeSet<Vmid>, EvacuationError> {
        let guests = self
            .api
            .guests()
            .await
            .map_err(EvacuationError::api("list the guests"))?;
        Ok(guests
            .into_iter()
            .filter(|guest| guest.place.node == *node)
            .map(|guest| guest.place.vmid)
            .collect())
    }

    /// Waits for the next look; fails when nothing has changed for too long, or when the operator wants to stop.
    pub(super) async fn pause(
        &self,
        waiting: &mut Waiting,
        what: &str,
        sign: &str,
    ) -> Result<(), EvacuationError> {
        waiting.saw(sign);
        if waiting.since.elapsed() >= waiting.patience {
            return Err(EvacuationError::Waited {
                what: what.to_owned(),
                silence: waiting.since.elapsed(),
            });
        }
        tokio::select! {
            () = tokio::time::sleep(self.pace.look) => Ok(()),
            () = self.interrupt.asked() => Err(EvacuationError::Interrupted),
        }
    }
}

/// Knows since when nothing has changed.
pub(super) struct Waiting {
    patience: Duration,
    since: Instant,
    sign: String,
}

impl Waiting {
    pub(super) fn new(patience: Duration) -> Waiting {
        Waiting {
            patience,
            since: Instant::now(),
            sign: String::new(),
        }
    }

    fn saw(&mut self, sign: &str) {
        if self.sign != sign {
            sign.clone_into(&mut self.sign);
            self.since = Instant::now();
        }
    }
}

/// Returns what the HA manager does with these guests, as a text that changes when that does.
fn signs(services: &[HaResource], guests: &BTreeSet<Vmid>, there: usize) -> String {
    let mut words: Vec<String> = services
        .iter()
        .filter(|service| guests.contains(&service.sid.vmid))
        .map(|service| {
            let node = service.node.as_ref().map_or("-", NodeName::as_str);
            format!("{} {} {node}", service.sid, service.state)
        })
        .collect();
    words.sort();
    format!("{there}; {}", words.join(", "))
}
