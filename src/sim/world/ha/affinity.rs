//! Where guests of HA may be and should be: rules, groups, and the node that is chosen.
//!
//! Only looks. Read next: `../ha.rs` (the round in which it counts).

use std::collections::{BTreeMap, BTreeSet};

use super::Service;
use crate::sim::world::Cluster;

/// Reads `node1:2,node2`.
fn parse_nodes(text: &str) -> BTreeMap<String, i64> {
    let words = text.split([',', ';', ' ']).filter(|word| !word.is_empty());
    words
        .map(|word| match word.split_once(':') {
            Some((name, priority)) => (name.to_owned(), priority.parse().unwrap_or(0)),
            None => (word.to_owned(), 0),
        })
        .collect()
}

impl Cluster {
    /// Returns the guests that a rule keeps together with this one, and that HA acts on.
    pub fn dependent(&self, vmid: u32) -> Vec<u32> {
        self.in_affinity(vmid, "positive")
    }

    /// Returns the guests on a node that a rule keeps apart from this one.
    pub fn blocking(&self, vmid: u32, node: &str) -> Vec<u32> {
        let mut apart = self.in_affinity(vmid, "negative");
        apart.retain(|other| {
            let service = self.manager.services.get(other);
            service.is_some_and(|service| {
                service.node == node
                    && service
                        .target
                        .as_deref()
                        .is_none_or(|target| target == node)
            })
        });
        apart
    }

    fn in_affinity(&self, vmid: u32, affinity: &str) -> Vec<u32> {
        let rules = self.ha_rules.iter().filter(|rule| {
            !rule.disabled && rule.affinity == affinity && rule.guests.contains(&vmid)
        });
        let others: BTreeSet<u32> = rules
            .flat_map(|rule| rule.guests.iter().copied())
            .filter(|other| *other != vmid && self.manager.services.contains_key(other))
            .collect();
        others.into_iter().collect()
    }

    /// Returns the nodes a guest may be on, and among them those it should be on.
    fn node_affinity(&self, vmid: u32) -> (BTreeSet<String>, BTreeSet<String>) {
        let online: BTreeSet<String> = self
            .manager
            .nodes
            .iter()
            .filter(|(_, view)| view.state == "online")
            .map(|(name, _)| name.clone())
            .collect();
        let rule = self
            .ha_rules
            .iter()
            .find(|rule| !rule.disabled && rule.affinity.is_empty() && rule.guests.contains(&vmid));
        let group = self.managed(vmid).and_then(|ha| {
            let name = ha.group.as_ref()?;
            self.ha_groups.iter().find(|group| group.name == *name)
        });
        let (mut priorities, strict) = match (rule, group) {
            (Some(rule), _) => (parse_nodes(&rule.nodes), rule.strict),
            (None, Some(group)) => (parse_nodes(&group.nodes), group.restricted),
            (None, None) => return (online.clone(), online),
        };
        if !strict {
            for node in &self.nodes {
                priorities.entry(node.name.clone()).or_insert(-1);
            }
        }
        priorities.retain(|node, _| online.contains(node));
        let highest = priorities.values().max().copied();
        let preferred = priorities
            .iter()
            .filter(|(_, priority)| Some(**priority) == highest)
            .map(|(node, _)| node.clone())
            .collect();
        (priorities.into_keys().collect(), preferred)
    }

    /// Chooses the node a guest should be on; none where rules and nodes leave nothing.
    pub fn choose_node(&self, vmid: u32, elsewhere: bool) -> Option<String> {
        let service = self.manager.services.get(&vmid)?;
        let (allowed, mut preferred) = self.node_affinity(vmid);
        let group = self.managed(vmid).and_then(|ha| ha.group.as_ref());
        let stays = self.managed(vmid).is_some_and(|ha| ha.no_failback)
            || self
                .ha_groups
                .iter()
                .any(|known| Some(&known.name) == group && known.no_failback);
        let together: Vec<&Service> = self
            .dependent(vmid)
            .iter()
            .filter_map(|other| self.manager.services.get(other))
            .collect();
        let lonely = together.is_empty() || together.iter().any(|other| other.node == service.node);
        if !elsewhere
            && stays
            && allowed.contains(&service.node)
            && lonely
            && self.blocking(vmid, &service.node).is_empty()
        {
            return Some(service.node.clone());
        }
        if elsewhere {
            preferred.remove(&service.node);
        }
        preferred.retain(|node| self.blocking(vmid, node).is_empty());
        let shared: BTreeSet<&str> = together
            .iter()
            .map(|other| other.target.as_deref().unwrap_or(&other.node))
            .collect();
        if shared.iter().any(|node| preferred.contains(*node)) {
            preferred.retain(|node| shared.contains(node.as_str()));
        }
        if let Some(node) = &service.maintenance_node
            && preferred.contains(node)
        {
            return Some(node.clone());
        }
        if !elsewhere && preferred.contains(&service.node) {
            return Some(service.node.clone());
        }
        let load = |node: &String| {
            let services = self.manager.services.values();
            services
                .filter(|other| other.target.as_ref().unwrap_or(&other.node) == node)
                .count()
        };
        preferred
            .iter()
            .min_by_key(|node| (load(node), (*node).clone()))
            .cloned()
    }
}
