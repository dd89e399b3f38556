//! The HA manager: what it knows of guests and nodes, its rules, and the round in which it decides.
//!
//! Only decides: what a node then does (start, stop, migrate) is in `../api/lrm.rs`. Commands are queued and looked at in
//! the next round, as on a real cluster. Read next: `ha/affinity.rs`, `../api/ha.rs`.

mod affinity;

use std::collections::{BTreeMap, BTreeSet};

use super::Cluster;
use super::scenario::HaSpec;

/// How many rounds a node may be gone before its guests are taken from it.
const FENCE: u32 = 6;

/// One guest of HA, as the manager sees it.
#[derive(Clone, Debug, Default)]
pub struct Service {
    /// `started`, `stopped`, `request_stop`, `migrate`, `relocate`, `fence`, `recovery`, `error`.
    pub state: String,
    /// Where it is.
    pub node: String,
    /// Where it goes.
    pub target: Option<String>,
    /// What was asked for and is not begun: `migrate` or `relocate`, and the node.
    pub command: Option<(String, String)>,
    /// The node it left for maintenance.
    pub maintenance_node: Option<String>,
    /// Whether its node has started it.
    pub running: bool,
    /// The task its node is at.
    pub work: Option<String>,
    /// How long it may take to stop; none for the usual.
    pub stop_timeout: Option<u64>,
    /// How often starting it failed since it last ran.
    pub failures: u32,
    /// Whether it failed just now, and nothing was decided yet.
    pub start_failed: bool,
}

/// A node, as the manager sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// `online`, `maintenance`, `unknown`, `fence`.
    pub state: String,
    /// For how many rounds it has been gone.
    pub gone: u32,
}

/// The manager's memory.
#[derive(Clone, Debug, Default)]
pub struct HaManager {
    /// The guests, by number.
    pub services: BTreeMap<u32, Service>,
    /// The nodes.
    pub nodes: BTreeMap<String, NodeView>,
    /// The nodes that maintenance was asked for.
    pub maintenance: BTreeSet<String>,
    /// The nodes that were told to go down, whose guests stay frozen until they are back.
    pub resting: BTreeSet<String>,
    /// Commands that wait for the next round.
    pub commands: Vec<String>,
    /// What it wrote into its log.
    pub log: Vec<String>,
}

impl HaManager {
    /// Returns one that has just begun.
    pub fn new(maintenance: &[String]) -> HaManager {
        HaManager {
            maintenance: maintenance.iter().cloned().collect(),
            ..HaManager::default()
        }
    }

    /// Returns a node's state.
    pub fn node_state(&self, node: &str) -> &str {
        self.nodes.get(node).map_or("unknown", |view| &view.state)
    }
}

impl Cluster {
    /// Returns `vm:100` or `ct:101`.
    pub fn sid(&self, vmid: u32) -> String {
        let container = self.guests.get(&vmid).is_some_and(|guest| guest.container);
        format!("{}:{vmid}", if container { "ct" } else { "vm" })
    }

    /// Returns the HA resource of a guest that HA acts on; one that is ignored is like any other guest.
    pub fn managed(&self, vmid: u32) -> Option<&HaSpec> {
        self.ha
            .iter()
            .find(|ha| ha.guest == vmid && ha.state != "ignored")
    }

    /// Takes the guests as they are at the start for what the manager has known for long.
    pub fn settle_ha(&mut self) {
        self.look_at_nodes();
        self.look_at_services();
        for service in self.manager.services.values_mut() {
            service.running = service.state == "started";
        }
    }

    /// One round of the manager. Without resources or without quorum nobody is one.
    pub fn manage(&mut self) {
        if self.ha.is_empty() || !self.is_quorate() {
            return;
        }
        self.look_at_nodes();
        self.look_at_services();
        self.obey_commands();
        let vmids: Vec<u32> = self.manager.services.keys().copied().collect();
        for vmid in vmids {
            self.decide(vmid);
        }
    }

    fn look_at_nodes(&mut self) {
        for node in &self.nodes {
            let view = self
                .manager
                .nodes
                .entry(node.name.clone())
                .or_insert(NodeView {
                    state: if node.online { "online" } else { "unknown" }.to_owned(),
                    gone: 0,
                });
            let asked = self.manager.maintenance.contains(&node.name);
            if node.online {
                view.gone = 0;
                view.state = if asked { "maintenance" } else { "online" }.to_owned();
                continue;
            }
            if !self.manager.resting.contains(&node.name) {
                view.gone += 1;
            }
            // A node in maintenance may be down for as long as it likes.
            if view.state != "maintenance" {
                view.state = if view.gone > FENCE {
                    "fence"
                } else {
                    "unknown"
                }
                .to_owned();
            }
        }
    }

    fn look_at_services(&mut self) {
        let known: Vec<(u32, String)> = self
            .ha
            .iter()
            .filter(|ha| ha.state != "ignored")
            .filter_map(|ha| Some((ha.guest, self.guests.get(&ha.guest)?.node.clone())))
            .collect();
        self.manager
            .services
            .retain(|vmid, _| known.iter().any(|(other, _)| other == vmid));
        for (vmid, node) in known {
            let stopped = self.managed(vmid).is_some_and(|ha| ha.state != "started");
            self.manager.services.entry(vmid).or_insert(Service {
                state: if stopped { "stopped" } else { "started" }.to_owned(),
                node,
                ..Service::default()
            });
        }
    }

    fn obey_commands(&mut self) {
        for command in std::mem::take(&mut self.manager.commands) {
            let words: Vec<&str> = command.split_whitespace().collect();
            match words[..] {
                [task @ ("migrate" | "relocate"), sid, node] => {
                    self.queue_motion(&command, task, vmid_of(sid), node);
                }
                ["stop", sid, timeout] => {
                    let vmid = vmid_of(sid);
                    if let Some(service) = self.manager.services.get_mut(&vmid) {
                        service.stop_timeout = timeout.parse().ok();
                    }
                    for ha in self.ha.iter_mut().filter(|ha| ha.guest == vmid) {
                        ha.state = "stopped".to_owned();
                    }
                }
                ["enable-node-maintenance", node] => {
                    let state = self.manager.node_state(node).to_owned();
                    match state.as_str() {
                        "online" => {
                            self.manager.maintenance.insert(node.to_owned());
                        }
                        "maintenance" => self.note(format!(
                            "ignoring crm command - node {node} is already in maintenance state"
                        )),
                        _ => self.note(format!("crm command error - node not online: {command}")),
                    }
                }
                ["disable-node-maintenance", node] => {
                    self.manager.maintenance.remove(node);
                }
                _ => self.note(format!("unable to parse crm command: {command}")),
            }
        }
        // The nodes take notice of their new mode in the same round.
        self.look_at_nodes();
    }

    fn note(&mut self, text: String) {
        self.manager.log.push(text);
    }

    fn queue_motion(&mut self, command: &str, task: &str, vmid: u32, target: &str) {
        let Some(service) = self.manager.services.get(&vmid) else {
            return self.note(format!("crm command error - no such service: {command}"));
        };
        if self.manager.node_state(target) != "online" {
            return self.note(format!("crm command error - node not online: {command}"));
        }
        if service.node == target {
            return self.note(format!(
                "ignore crm command - service already on target node: {command}"
            ));
        }
        if !self.blocking(vmid, target).is_empty() {
            return self.note(format!(
                "crm command '{command}' error - service in negative affinity on target"
            ));
        }
        let mut moving = vec![vmid];
        moving.extend(self.dependent(vmid));
        for vmid in moving {
            if let Some(service) = self.manager.services.get_mut(&vmid)
                && service.node != target
            {
                service.command = Some((task.to_owned(), target.to_owned()));
            }
        }
    }

    /// Decides what is next for one guest.
    fn decide(&mut self, vmid: u32) {
        let (Some(guest), Some(resource)) = (self.guests.get(&vmid), self.managed(vmid)) else {
            return;
        };
        let (container, place) = (guest.container, guest.node.clone());
        let (wanted, running) = (resource.state.clone(), guest.run.is_some());
        let Some(mut service) = self.manager.services.get(&vmid).cloned() else {
            return;
        };
        let node_state = self.manager.node_state(&service.node).to_owned();
        match service.state.as_str() {
            // The node is at it; see `lrm.rs`. A node that dies meanwhile is fenced.
            "migrate" | "relocate" if node_state == "fence" => service.state = "fence".to_owned(),
            "fence" => {
                // The node is surely off by now, so the guest may be started elsewhere.
                service.work = None;
                service.state = "recovery".to_owned();
            }
            "recovery" => {
                if let Some(node) = self.choose_node(vmid, true) {
                    self.steal(vmid, &node);
                    service.node = node;
                    service.running = false;
                    service.target = None;
                    let state = if wanted == "started" {
                        "started"
                    } else {
                        "stopped"
                    };
                    service.state = state.to_owned();
                }
            }
            "stopped" => {
                service.node = place;
                match service.command.take() {
                    Some((task, target))
                        if self.manager.node_state(&target) == "online"
                            && service.node != target =>
                    {
                        service.state = task;
                        service.target = Some(target);
                    }
                    _ if node_state == "fence" && wanted != "disabled" => {
                        service.state = "fence".to_owned()
                    }
                    _ if wanted == "started" => {
                        service.state = "started".to_owned();
                        service.failures = 0;
                    }
                    _ => {}
                }
            }
            "request_stop" if !running && service.work.is_none() => {
                service.state = "stopped".to_owned();
                service.running = false;
                service.stop_timeout = None;
            }
            "started" => match node_state.as_str() {
                "fence" => service.state = "fence".to_owned(),
                "unknown" => {}
                _ => {
                    if node_state == "maintenance" {
                        service.maintenance_node = Some(service.node.clone());
                    }
                    self.manager.services.insert(vmid, service.clone());
                    self.decide_started(vmid, &mut service, &wanted, container);
                }
            },
            "error" if wanted == "disabled" => service.state = "stopped".to_owned(),
            _ => {}
        }
        self.manager.services.insert(vmid, service);
    }

    fn decide_started(&mut self, vmid: u32, service: &mut Service, wanted: &str, container: bool) {
        if wanted != "started" {
            service.state = "request_stop".to_owned();
            return;
        }
        if let Some((task, target)) = service.command.take() {
            if self.manager.node_state(&target) == "online" && service.node != target {
                // A container is always shut down for it.
                service.state = if container {
                    "relocate".to_owned()
                } else {
                    task
                };
                service.target = Some(target);
            }
            return;
        }
        // While its node is at something, nothing else is decided.
        if service.work.is_some() {
            return;
        }
        let failed = std::mem::take(&mut service.start_failed);
        // It may be relocated once, as `max_relocate` has it.
        if failed && service.failures > 1 {
            service.state = "error".to_owned();
            return;
        }
        let Some(node) = self.choose_node(vmid, failed) else {
            return;
        };
        if node == service.node {
            if service.maintenance_node.as_ref() == Some(&node) {
                service.maintenance_node = None;
            }
            return;
        }
        if service.maintenance_node.is_some()
            && service.maintenance_node.as_ref() != Some(&service.node)
        {
            service.maintenance_node = None;
        }
        let moves = if container { "relocate" } else { "migrate" };
        self.manager.log.push(format!(
            "{moves} service '{}' to node '{node}'",
            self.sid(vmid)
        ));
        service.state = moves.to_owned();
        service.target = Some(node);
    }

    /// Moves the configuration of a guest away from a node that is dead.
    fn steal(&mut self, vmid: u32, node: &str) {
        if let Some(guest) = self.guests.get_mut(&vmid) {
            guest.node = node.to_owned();
            guest.run = None;
            guest.migrating_to = None;
            guest.holder = None;
            guest.config.remove("lock");
        }
        self.remember(vmid);
    }
}

fn vmid_of(sid: &str) -> u32 {
    sid.rsplit(':')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}
